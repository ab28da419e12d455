//! ConfigMaps, Secrets and the downward API.

use std::sync::Arc;

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::operations::verify::sandbox::Sandbox;
use crate::operations::verify::{Check, CheckResult};

pub const CHECKS: &[Check] = &[
    Check {
        name: "config",
        title: "pods see ConfigMaps and Secrets, and volumes follow changes",
        run: |bench| config(bench).boxed(),
    },
    Check {
        name: "downward-api",
        title: "a pod sees its own name, address and node",
        run: |bench| downward_api(bench).boxed(),
    },
];

async fn config(bench: Arc<Sandbox>) -> CheckResult {
    let settings = |value: &str| json!({"metadata": {"name": "settings"}, "data": {"key": value}});
    bench.create::<ConfigMap>(settings("old")).await?;
    let secret = json!({"metadata": {"name": "secret"}, "stringData": {"token": "hidden"}});
    bench.create::<Secret>(secret).await?;
    let mut pod = bench.pod("reader", "sleep 3600");
    pod["spec"]["volumes"] = json!([
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "secret", "secret": {"secretName": "secret", "defaultMode": 0o440}},
    ]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([
        {"name": "settings", "mountPath": "/settings"},
        {"name": "secret", "mountPath": "/secret", "readOnly": true},
    ]);
    pod["spec"]["containers"][0]["env"] = json!([
        {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "key"}}},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "token"}}},
    ]);
    bench.create::<Pod>(pod).await?;
    bench.until_ready("reader").await?;
    let read = "echo $KEY $TOKEN $(cat /settings/key) $(cat /secret/token)";
    let seen = bench.exec("reader", read).await?;
    bench.prove_same("environment and files", "old hidden old hidden", seen.trim());

    let new = Patch::Merge(settings("new"));
    bench.patch::<ConfigMap>("settings", &PatchParams::default(), &new).await?;
    // The kubelet looks at volumes once a minute, its sync period, or up to half as much later.
    let seen = bench
        .until("the volume to show the change", || async {
            let text = bench.exec("reader", "echo $KEY $(cat /settings/key)").await;
            let text = text.map_err(|failure| failure.to_string())?;
            if text.contains("new") { Ok(text) } else { Err(text) }
        })
        .await?;
    bench.prove_same("after a change: environment (unchanged) and file", "old new", seen.trim());
    Ok(())
}

async fn downward_api(bench: Arc<Sandbox>) -> CheckResult {
    let mut pod = bench.pod("self", "sleep 3600");
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    pod["spec"]["containers"][0]["env"] = json!([
        field("NAME", "metadata.name"),
        field("NAMESPACE", "metadata.namespace"),
        field("ADDRESS", "status.podIP"),
        field("NODE", "spec.nodeName"),
    ]);
    pod["spec"]["volumes"] = json!([{"name": "about", "downwardAPI": {
        "items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}],
    }}]);
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "about", "mountPath": "/about"}]);
    bench.create::<Pod>(pod).await?;
    let pod = bench.until_ready("self").await?;
    let address = pod.status.and_then(|status| status.pod_ip).unwrap_or_default();
    let node = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
    let script = "echo $NAME $NAMESPACE $ADDRESS $NODE $(cat /about/labels)";
    let seen = bench.exec("self", script).await?;
    let expected = format!("self {} {address} {node} app=\"self\"", bench.namespace);
    bench.prove_same("values that the pod sees", expected.as_str(), seen.trim());
    Ok(())
}
