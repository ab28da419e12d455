//! A pod's life: init containers, probes, and where it may run.

use std::sync::Arc;

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use serde_json::json;

use crate::operations::verify::sandbox::{PORT, Sandbox, is_ready};
use crate::operations::verify::{Check, CheckError, CheckResult};
use crate::support::failure::chain;
use crate::topology::Group;

pub const CHECKS: &[Check] = &[
    Check {
        name: "probes",
        title: "a failing liveness probe restarts a container; a failing readiness probe removes a \
            pod from its Service",
        run: |bench| probes(bench).boxed(),
    },
    Check {
        name: "init-containers",
        title: "init containers run first, in order; a sidecar keeps running",
        run: |bench| init_containers(bench).boxed(),
    },
    Check {
        name: "taints",
        title: "only pods that tolerate the taint run on a master",
        run: |bench| taints(bench).boxed(),
    },
];

async fn probes(bench: Arc<Sandbox>) -> CheckResult {
    let probe = |command: &str| json!({"exec": {"command": ["sh", "-c", command]}, "periodSeconds": 1, "failureThreshold": 1});
    let mut sick = bench.pod("sick", "sleep 3600");
    sick["spec"]["containers"][0]["livenessProbe"] = probe("false");
    bench.create::<Pod>(sick).await?;
    let mut moody = bench.pod("moody", "touch /tmp/well; sleep 3600");
    moody["spec"]["containers"][0]["readinessProbe"] = probe("test -e /tmp/well");
    bench.create::<Pod>(moody).await?;
    let service = json!({
        "metadata": {"name": "moody"},
        "spec": {"selector": {"app": "moody"}, "ports": [{"port": PORT}]},
    });
    bench.create::<Service>(service).await?;
    bench.until_ready("moody").await?;
    until_in_service(&bench, true).await?;
    bench.exec("moody", "rm /tmp/well").await?;
    until_in_service(&bench, false).await?;
    bench.prove("a pod that is not ready", "out of its Service", "out of its Service", true);
    let pods = bench.api::<Pod>();
    let moody = bench.ask("read the pod", || pods.get("moody")).await?;
    let ready = if is_ready(&moody) { "ready" } else { "not ready" };
    bench.prove_same("its Ready condition", "not ready", ready);
    let restarts = bench
        .until_object("sick", "the failing container to restart", |pod: &Pod| {
            let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
            statuses.first().map(|status| status.restart_count).filter(|count| *count > 0)
        })
        .await?;
    bench.prove(
        "restarts of a container that fails its liveness probe",
        "1 or more",
        restarts,
        restarts > 0,
    );
    Ok(())
}

/// Waits until the pod is, or is not, an endpoint that gets traffic.
async fn until_in_service(bench: &Sandbox, wanted: bool) -> CheckResult {
    let api = bench.api::<EndpointSlice>();
    let params = ListParams::default().labels("kubernetes.io/service-name=moody");
    bench
        .until("the Service to follow the readiness of the pod", || async {
            let slices = api.list(&params).await.map_err(|error| chain(&error))?;
            let mut endpoints =
                slices.items.into_iter().filter_map(|slice| slice.endpoints).flatten();
            let ready = endpoints.any(|endpoint| {
                endpoint.conditions.and_then(|conditions| conditions.ready).unwrap_or_default()
            });
            if ready == wanted {
                Ok(())
            } else {
                Err(format!("the pod is a ready endpoint: {ready}"))
            }
        })
        .await?;
    Ok(())
}

async fn init_containers(bench: Arc<Sandbox>) -> CheckResult {
    let mut pod =
        bench.pod("ordered", "echo main >>/shared/order; cat /shared/order /shared/beside");
    pod["spec"]["restartPolicy"] = json!("Never");
    let mut sidecar = bench
        .container("beside", "echo beside >/shared/beside; trap 'exit 0' TERM; sleep 3600 & wait");
    sidecar["restartPolicy"] = json!("Always");
    // It counts as started before the next container begins.
    sidecar["startupProbe"] =
        json!({"exec": {"command": ["test", "-e", "/shared/beside"]}, "periodSeconds": 1});
    let mut containers = vec![
        bench.container("first", "sleep 1; echo first >>/shared/order"),
        bench.container("second", "echo second >>/shared/order"),
        sidecar,
    ];
    let mounts = json!([{"name": "shared", "mountPath": "/shared"}]);
    for container in &mut containers {
        container["volumeMounts"] = mounts.clone();
    }
    pod["spec"]["initContainers"] = json!(containers);
    pod["spec"]["containers"][0]["volumeMounts"] = mounts;
    pod["spec"]["volumes"] = json!([{"name": "shared", "emptyDir": {}}]);
    bench.create::<Pod>(pod).await?;
    bench.prove_same(
        "the pod to run next to its sidecar",
        "Succeeded".to_owned(),
        bench.until_ended("ordered").await?,
    );
    let params = kube::api::LogParams { container: Some("main".into()), ..Default::default() };
    let log =
        bench.api::<Pod>().logs("ordered", &params).await.unwrap_or_else(|error| chain(&error));
    let order = log.split_whitespace().collect::<Vec<_>>().join(" ");
    bench.prove_same(
        "order in which the containers ran",
        "first second main beside",
        order.as_str(),
    );
    Ok(())
}

async fn taints(bench: Arc<Sandbox>) -> CheckResult {
    if bench.context.config.masters_take_pods() {
        return Err(CheckError::Skipped("masters accept ordinary pods in this cluster".into()));
    }
    let masters = bench.context.topology.group(Group::Masters);
    let Some(master) = masters.first() else {
        return Err(CheckError::Skipped("the cluster has no master".into()));
    };
    let bound = |name: &str| {
        let mut pod = bench.pod(name, "sleep 3600");
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": master.name});
        pod
    };
    bench.create::<Pod>(bound("intolerant")).await?;
    let mut tolerant = bound("tolerant");
    tolerant["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    bench.create::<Pod>(tolerant).await?;
    let pod = bench.until_ready("tolerant").await?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    bench.prove_same("node of the pod that tolerates the taint", &master.name, &node);
    let why = bench
        .until_object(
            "intolerant",
            "the scheduler to reject the pod without the toleration",
            |pod: &Pod| {
                let conditions = pod.status.as_ref()?.conditions.as_ref()?;
                let scheduled = conditions.iter().find(|it| it.type_ == "PodScheduled")?;
                (scheduled.status == "False").then(|| scheduled.message.clone().unwrap_or_default())
            },
        )
        .await?;
    bench.prove("reason why the other pod stays pending", "the taint", &why, why.contains("taint"));
    Ok(())
}
