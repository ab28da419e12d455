//! Pods that tolerate the loss of their node only briefly, to measure how long it takes until they
//! run on another node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::cluster_context::ClusterContext;
use crate::operations::drill::measure::{Measure, Observation};
use crate::operations::drill::workload::{Log, NAMESPACE};
use crate::support::failure::{Failure, Result, chain};
use crate::support::time_scale::Unscaled;

const NAME: &str = "kdiy-drill";
const REPLICAS: usize = 2;
/// How long these pods tolerate that their node does not answer; the default is 300 s.
const TOLERATED: Duration = Duration::from_secs(5);
const STARTED_WITHIN: Unscaled = Unscaled::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// Starts them on the machine that is going to be lost, and waits until they run.
pub async fn start(client: &Client, context: &ClusterContext, node: &str) -> Result<()> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let tolerations: Vec<_> = ["not-ready", "unreachable"]
        .map(|taint| {
            json!({"key": format!("node.kubernetes.io/{taint}"), "operator": "Exists",
                   "effect": "NoExecute", "tolerationSeconds": TOLERATED.as_secs()})
        })
        .into_iter()
        // Where there is one worker only, masters have to take them in.
        .chain([json!({"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"})])
        .collect();
    let labels = json!({"app.kubernetes.io/name": NAME});
    let preference = json!([{"weight": 100, "preference": {"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    ]}}]);
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "affinity": {"nodeAffinity":
                        {"preferredDuringSchedulingIgnoredDuringExecution": preference}},
                    "tolerations": tolerations,
                    "automountServiceAccountToken": false,
                    "containers": [{"name": "pause", "image": context.images.get("pause")}],
                },
            },
        },
    });
    let params = PatchParams::apply(NAME).force();
    api.patch(NAME, &params, &Patch::Apply(&deployment)).await.map_err(|error| {
        Failure::cluster("cannot start the pods that the drill reschedules").because(error)
    })?;
    let began = Instant::now();
    let patience = STARTED_WITHIN * context.config.slow_machines;
    let mut saw = String::new();
    while began.elapsed() < patience {
        match ready(client, |at| at == node).await {
            Ok(REPLICAS) => return Ok(()),
            Ok(count) => saw = format!("{count} of {REPLICAS} were ready"),
            Err(error) => saw = chain(&error),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(Failure::cluster(format!("the pods that the drill reschedules did not start on {node}"))
        .cause(saw)
        .hint(format!("kdiy kubectl -- describe pods -n {NAMESPACE}")))
}

/// A watcher that ends when this is dropped.
pub struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Notes how many pods are ready elsewhere than on the lost machine.
pub fn watch(context: Arc<ClusterContext>, lost: String, log: Log) -> Watch {
    Watch(tokio::spawn(async move {
        loop {
            if let Ok(client) = context.api.any().await
                && let Ok(count) = ready(&client, |at| at != lost).await
            {
                let holder = if count >= REPLICAS { "elsewhere" } else { "" };
                let (of, at) = (Measure::Pods, log.now());
                log.sighting(Observation { of, at, holder: holder.into() });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }))
}

async fn ready(client: &Client, on: impl Fn(&str) -> bool) -> Result<usize, kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let mine = ListParams::default().labels(&format!("app.kubernetes.io/name={NAME}"));
    let pods = api.list(&mine).await?.items;
    Ok(pods.iter().filter(|pod| is_ready(pod) && node(pod).is_some_and(&on)).count())
}

fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready =
        conditions.into_iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watch_ends_with_the_drill() {
        let (held, gone) = tokio::sync::oneshot::channel::<()>();
        let watch = Watch(tokio::spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        }));
        drop(watch);
        assert!(gone.await.is_err(), "the task still runs");
    }
}
