//! Smoke test: what users do with a cluster on their first day.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::FutureExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::operations::verify::sandbox::{PORT, Sandbox, get, serve};
use crate::operations::verify::{Check, CheckError, CheckResult};
use crate::support::failure::{Failure, Kind, Result};
use crate::support::time_scale::Unscaled;
use crate::topology::{Group, Machine};

pub const CHECKS: &[Check] = &[
    Check {
        name: "deployment",
        title: "a Deployment spreads over machines and answers through its Service, its DNS name \
            and its NodePort",
        run: |bench| deployment(bench).boxed(),
    },
    Check {
        name: "rolling-update",
        title: "a rolling update loses no request",
        run: |bench| rolling_update(bench).boxed(),
    },
    Check {
        name: "volume",
        title: "a volume keeps its data when its pod restarts",
        run: |bench| volume(bench).boxed(),
    },
    Check {
        name: "pod-access",
        title: "logs, exec and port-forward work",
        run: |bench| pod_access(bench).boxed(),
    },
];

/// Requests to a Service with two backends, of which each is chosen at random: that one of them
/// never gets any has a chance of less than one in 100,000.
const REQUESTS: u32 = 20;

async fn deployment(bench: Arc<Sandbox>) -> CheckResult {
    const REPLICAS: usize = 2;
    let mut pod = bench.server_spec();
    pod["topologySpreadConstraints"] = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "nodeTaintsPolicy": "Honor",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }]);
    bench.create::<Deployment>(deployment_of("web", REPLICAS, pod)).await?;
    let service = json!({
        "metadata": {"name": "web"},
        "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": PORT}]},
    });
    let service: Service = bench.create(service).await?;
    bench.create::<Pod>(bench.pod("client", "sleep 3600")).await?;
    let pods = bench.until_pods("web", REPLICAS).await?;
    bench.until_ready("client").await?;

    let machines: BTreeSet<_> =
        pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    let schedulable = match bench.context.config.masters_take_pods() {
        true => Group::Nodes,
        false => Group::Workers,
    };
    let expected = bench.context.topology.group(schedulable).len().min(REPLICAS);
    bench.prove_same("machines that run one of its pods", expected, machines.len());

    let name = format!("web.{}.svc.{}", bench.namespace, bench.context.config.network.dns_domain);
    let script = format!("{}; for i in $(seq {REQUESTS}); do get {name}; done", get());
    let names: BTreeSet<String> = pods.iter().map(kube::ResourceExt::name_any).collect();
    let answers = bench
        .until("every pod to answer through the Service", || async {
            let text =
                bench.exec("client", &script).await.map_err(|failure| failure.to_string())?;
            let seen: BTreeSet<String> = text.lines().map(str::to_owned).collect();
            if seen == names { Ok(seen) } else { Err(format!("{seen:?} answered")) }
        })
        .await?;
    bench.prove_same("pods that answer through the Service's name", names.len(), answers.len());

    let port = service.spec.and_then(|spec| spec.ports?.first()?.node_port).unwrap_or_default();
    node_ports(&bench, port).await
}

/// From every machine to its own NodePort, once its kube-proxy has heard of it.
async fn node_ports(bench: &Sandbox, port: i32) -> CheckResult {
    let script = |address| {
        format!(
            "curl --noproxy '*' -s -f -o /dev/null --max-time $((3 * ${{KDIY_SLOW:-1}})) http://{address}:{port}/ && echo answered"
        )
    };
    let answered = bench
        .until("every machine to answer on its NodePort", || async {
            let answers = bench.context.ask(Group::Nodes, |machine| script(machine.address)).await;
            let (good, bad): (Vec<_>, Vec<_>) = answers
                .into_iter()
                .partition(|(_, answer)| matches!(answer, Ok(text) if text.trim() == "answered"));
            let names = |machines: Vec<(&Machine, _)>| {
                let names: Vec<&str> = machines.iter().map(|(it, _)| it.name.as_str()).collect();
                names.join(", ")
            };
            if bad.is_empty() { Ok(names(good)) } else { Err(format!("not {}", names(bad))) }
        })
        .await?;
    bench.prove("machines that answer on their NodePort", "all", answered, true);
    Ok(())
}

async fn rolling_update(bench: Arc<Sandbox>) -> CheckResult {
    const REPLICAS: usize = 2;
    bench.create::<Deployment>(updatable(&bench, "one", REPLICAS)).await?;
    let service = json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": PORT}]},
    });
    bench.create::<Service>(service).await?;
    bench.until_pods("web", REPLICAS).await?;
    let script = format!(
        "{}; while :; do answer=$(get web); echo \"${{answer:-failed}}\"; sleep 0.1; done",
        get()
    );
    bench.create::<Pod>(bench.pod("client", &script)).await?;
    bench.until_ready("client").await?;
    seen(&bench, "one").await?;

    let patch = Patch::Merge(updatable(&bench, "two", REPLICAS));
    bench.patch::<Deployment>("web", &PatchParams::default(), &patch).await?;
    bench
        .until_object("web", "the update to be rolled out", |web: &Deployment| {
            let status = web.status.as_ref()?;
            let all = i32::try_from(REPLICAS).ok();
            let done = status.updated_replicas == all
                && status.replicas == all
                && status.available_replicas == all
                && status.observed_generation == web.metadata.generation;
            done.then_some(())
        })
        .await?;
    seen(&bench, "two").await?;
    let log = bench.logs("client").await?;
    // Before the first answer the Service may not be known everywhere yet.
    let served: Vec<&str> = log.lines().skip_while(|line| *line != "one").collect();
    let count = |word: &str| served.iter().filter(|line| **line == word).count();
    let (before, after) = (count("one"), count("two"));
    bench.prove(
        "answers during the update",
        "first from the old version, then from the new one",
        format!("{before} from the old version, {after} from the new one"),
        before > 0 && after > 0,
    );
    // Whatever is neither, an answer that was cut short as well.
    bench.prove_same("requests that failed", 0, served.len() - before - after);
    Ok(())
}

/// Pods that go on for as long as it takes every node to hear that they are going: what a Service
/// still sends to a pod after its end is the classic lost request.
fn updatable(bench: &Sandbox, version: &str, replicas: usize) -> serde_json::Value {
    let mut pod = bench.pod_spec(&serve(&format!("echo {version}")));
    // The first process of a container does not hear SIGTERM unless it asks to: all that is longer
    // is waited for at the end, when nothing of the check may be left.
    pod["terminationGracePeriodSeconds"] = json!(8);
    pod["containers"][0]["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 5}}});
    pod["containers"][0]["readinessProbe"] =
        json!({"tcpSocket": {"port": PORT}, "periodSeconds": 1});
    let mut deployment = deployment_of("web", replicas, pod);
    deployment["spec"]["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    deployment
}

/// Waits until the client has heard this answer.
async fn seen(bench: &Sandbox, answer: &str) -> Result<()> {
    bench
        .until(&format!("the client to receive `{answer}`"), || async {
            let log = bench.logs("client").await.map_err(|failure| failure.to_string())?;
            let heard = log.lines().any(|line| line == answer);
            heard.then_some(()).ok_or_else(|| format!("last: {:?}", log.lines().last()))
        })
        .await
}

async fn volume(bench: Arc<Sandbox>) -> CheckResult {
    let classes: Api<StorageClass> = Api::all(bench.client.clone());
    let parameters = ListParams::default();
    let classes = bench.ask("list the storage classes", || classes.list(&parameters)).await?;
    let is_default = |class: &&StorageClass| {
        let name = "storageclass.kubernetes.io/is-default-class";
        class.annotations().get(name).is_some_and(|value| value == "true")
    };
    let Some(class) = classes.iter().find(is_default) else {
        return Err(CheckError::Skipped("the cluster has no default StorageClass".into()));
    };
    let claim = json!({
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Mi"}}},
    });
    bench.create::<PersistentVolumeClaim>(claim).await?;
    let user = |name: &str, script: &str| {
        let mut pod = bench.pod(name, script);
        pod["spec"]["restartPolicy"] = json!("Never");
        pod["spec"]["volumes"] =
            json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
        pod["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "data", "mountPath": "/data"}]);
        pod
    };
    let written = bench.namespace.clone();
    bench.create::<Pod>(user("writer", &format!("echo {written} >/data/file && sync"))).await?;
    bench.prove_same(
        "the pod that writes",
        "Succeeded".to_owned(),
        bench.until_ended("writer").await?,
    );
    bench.delete::<Pod>("writer").await?;
    bench.create::<Pod>(user("reader", "cat /data/file")).await?;
    bench.prove_same(
        "the pod that reads",
        "Succeeded".to_owned(),
        bench.until_ended("reader").await?,
    );
    let read = bench.logs("reader").await?;
    bench.prove_same("content that another pod reads from the file", written.as_str(), read.trim());
    bench.prove("StorageClass of the claim", "the default", class.name_any(), true);
    Ok(())
}

async fn pod_access(bench: Arc<Sandbox>) -> CheckResult {
    let mut pod = bench.pod("server", &format!("echo begun; {}", serve("hostname")));
    pod["spec"]["containers"][0]["readinessProbe"] =
        json!({"tcpSocket": {"port": PORT}, "periodSeconds": 1});
    bench.create::<Pod>(pod).await?;
    bench.until_ready("server").await?;
    bench.prove_same("log of the pod", "begun", bench.logs("server").await?.trim());
    let user = bench.exec("server", "id -u").await?;
    bench.prove_same("`id -u` with exec", "65534", user.trim());
    bench.prove_same("answer through port-forward", "server", forwarded(&bench).await?.trim());
    Ok(())
}

/// Multiplied by `slowMachines`.
const FORWARDED_WITHIN: Unscaled = Unscaled::from_secs(20);

/// The body that the pod answers with, through a forwarded port.
async fn forwarded(bench: &Sandbox) -> Result<String> {
    let failed =
        |cause: String| Failure::new(Kind::Gate, "port-forward does not work").cause(cause);
    let exchange = async {
        let api: Api<Pod> = bench.api();
        let mut ports = api.portforward("server", &[PORT]).await.map_err(|e| e.to_string())?;
        let mut stream = ports.take_stream(PORT).ok_or("the API server opened no stream")?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.map_err(|e| e.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(|e| e.to_string())?;
        Ok::<_, String>(answer)
    };
    let within = FORWARDED_WITHIN * bench.context.config.slow_machines;
    let answer = tokio::time::timeout(within, exchange)
        .await
        .map_err(|_| failed(format!("no answer within {} s", within.as_secs())))?
        .map_err(failed)?;
    Ok(answer.split_once("\r\n\r\n").map_or(answer.clone(), |(_, body)| body.to_owned()))
}

/// With the name as its pods' `app` label.
pub fn deployment_of(name: &str, replicas: usize, pod: serde_json::Value) -> serde_json::Value {
    let labels = json!({"app": name});
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    })
}
