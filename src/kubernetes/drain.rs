//! Drains a node before its machine is removed, as `kubectl drain` does.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use kube::api::{Api, DeleteParams, EvictParams, ListParams};
use kube::{Client, ResourceExt};

use crate::kubernetes::retry::{NOT_FOUND, gone, is_transient, persist, refused};
use crate::kubernetes::tokens;
use crate::support::event::Events;
use crate::support::failure::{Failure, Kind, Result};

/// A static pod as the api shows it (Kubernetes docs, "Static Pods"); it goes with its kubelet.
const MIRROR: &str = "kubernetes.io/config.mirror";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// What the api answers while a PodDisruptionBudget can spare no pod ("API-initiated Eviction").
const TOO_MANY_REQUESTS: u16 = 429;
const PAUSE: Duration = Duration::from_millis(500);

/// What would be gone with a node for good, one line a thing: pods that nobody starts anew
/// elsewhere, and volumes that are on its disk.
pub async fn losses(client: &Client, node: &str) -> Result<Vec<String>> {
    let pods = pods_on(client, node).await.map_err(|error| unlisted(node, &error))?;
    let alone = pods.iter().filter(|pod| pod.owner_references().is_empty());
    let mut lost: Vec<String> = alone.map(|pod| format!("pod {}", full_name(pod))).collect();
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let volumes = volumes
        .list(&ListParams::default())
        .await
        .map_err(|error| refused("cannot list volumes", &error))?;
    for volume in volumes.items.iter().filter(|volume| is_only_on(volume, node)) {
        let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let part = |part: Option<&String>| part.cloned().unwrap_or_default();
        lost.push(match claim {
            Some(claim) => format!(
                "volume {}, of the claim {}/{}",
                volume.name_any(),
                part(claim.namespace.as_ref()),
                part(claim.name.as_ref())
            ),
            None => format!("volume {}", volume.name_any()),
        });
    }
    Ok(lost)
}

fn is_only_on(volume: &PersistentVolume, node: &str) -> bool {
    let required = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.node_affinity.as_ref())
        .and_then(|affinity| affinity.required.as_ref());
    required.is_some_and(|required| {
        required
            .node_selector_terms
            .iter()
            .flat_map(|term| term.match_expressions.iter().flatten())
            .any(|wants| {
                wants.key == HOSTNAME
                    && wants.operator == "In"
                    && wants.values.as_deref() == Some(&[node.to_owned()])
            })
    })
}

/// Lets no new pod onto a node, and has those that are there start elsewhere, as fast as their
/// disruption budgets allow. Returns how many there were; a node that is gone has none.
pub async fn drain(
    client: &Client,
    node: &str,
    deadline: Duration,
    events: &Events,
    task: &str,
) -> Result<usize> {
    let began = Instant::now();
    let nodes: Api<Node> = Api::all(client.clone());
    match persist(deadline, is_transient, || nodes.cordon(node)).await {
        Err(kube::Error::Api(status)) if status.code == NOT_FOUND => return Ok(0),
        Err(error) => return Err(refused("cannot cordon the node", &error).on(node)),
        Ok(_) => {}
    }
    let mut first = None;
    loop {
        let time_left = deadline.saturating_sub(began.elapsed());
        let left = persist(time_left, is_transient, || pods_on(client, node)).await;
        let left = left.map_err(|error| unlisted(node, &error))?;
        let count = *first.get_or_insert(left.len());
        if left.is_empty() {
            return Ok(count);
        }
        let mut denied = Vec::new();
        for pod in left.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            denied.extend(evict(client, pod).await?);
        }
        if began.elapsed() > deadline {
            let names = left.iter().map(full_name);
            return Err(Failure::new(Kind::Step, format!("pods are still on {node}"))
                .tail(names.chain(denied).collect())
                .hint("perhaps no other node can run them: kdiy kubectl -- get pods -A -o wide")
                .hint(format!(
                    "to let the node accept pods again: kdiy kubectl -- uncordon {node}"
                )));
        }
        events.progress(task, format!("{} of {count} pods are still on {node}", left.len()));
        tokio::time::sleep(PAUSE).await;
    }
}

/// Says why, where its disruption budget does not allow it yet.
async fn evict(client: &Client, pod: &Pod) -> Result<Option<String>> {
    let namespace = pod.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    match gone(pods.evict(&pod.name_any(), &EvictParams::default()).await) {
        Ok(()) => Ok(None),
        Err(kube::Error::Api(status)) if status.code == TOO_MANY_REQUESTS => {
            Ok(Some(format!("{}: {}", full_name(pod), status.message)))
        }
        Err(error) if is_transient(&error) => Ok(None),
        Err(error) => Err(refused(format!("cannot evict {}", full_name(pod)), &error)),
    }
}

/// Takes the Node out of the api, and a token that it may have to join with; its machine must be gone, or
/// the kubelet brings it back. What may pass is tried again for `patience`.
pub async fn forget(client: &Client, node: &str, patience: Duration) -> Result<()> {
    let parameters = DeleteParams::default();
    let kept = |error| refused("cannot delete the Node from the API", &error).on(node);
    persist(patience, is_transient, || tokens::retire(client, Some(node))).await.map_err(kept)?;
    let nodes: Api<Node> = Api::all(client.clone());
    let deleted = persist(patience, is_transient, || nodes.delete(node, &parameters));
    gone(deleted.await).map_err(kept)
}

/// Pods that are to run elsewhere: no static ones, none that a DaemonSet puts on every node, and
/// none that are done.
async fn pods_on(client: &Client, node: &str) -> kube::Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::all(client.clone());
    let selected = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let list = pods.list(&selected).await?;
    Ok(list.items.into_iter().filter(moves).collect())
}

fn unlisted(node: &str, error: &kube::Error) -> Failure {
    refused("cannot list pods", error).on(node)
}

fn moves(pod: &Pod) -> bool {
    let of_daemon_set = pod.owner_references().iter().any(|owner| owner.kind == "DaemonSet");
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    // One that ends because it was evicted is done before its kubelet takes it out of the api.
    let is_going = pod.metadata.deletion_timestamp.is_some();
    let is_done = matches!(phase, Some("Succeeded" | "Failed")) && !is_going;
    !of_daemon_set && !is_done && !pod.annotations().contains_key(MIRROR)
}

fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(metadata: Value, phase: &str) -> Pod {
        serde_json::from_value(json!({"metadata": metadata, "status": {"phase": phase}})).unwrap()
    }

    fn owned_by(kind: &str) -> Value {
        json!({"ownerReferences": [{"apiVersion": "v1", "kind": kind, "name": "x", "uid": "y"}]})
    }

    #[test]
    fn pods_that_belong_to_the_node_or_are_done_stay() {
        assert!(moves(&pod(json!({}), "Running")));
        assert!(moves(&pod(owned_by("ReplicaSet"), "Pending")));
        assert!(!moves(&pod(owned_by("DaemonSet"), "Running")));
        assert!(!moves(&pod(owned_by("Job"), "Succeeded")));
        assert!(!moves(&pod(json!({"annotations": {MIRROR: "x"}}), "Running")));
    }

    #[test]
    fn an_evicted_pod_counts_until_the_api_deletes_it() {
        let ending = pod(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), "Failed");
        assert!(moves(&ending));
    }

    #[test]
    fn a_volume_is_lost_with_the_only_node_that_has_it() {
        let on = |values: &[&str]| -> PersistentVolume {
            let expressions = json!([{"key": HOSTNAME, "operator": "In", "values": values}]);
            serde_json::from_value(json!({"spec": {"nodeAffinity": {"required": {
                "nodeSelectorTerms": [{"matchExpressions": expressions}]}}}}))
            .unwrap()
        };
        assert!(is_only_on(&on(&["w1"]), "w1"));
        assert!(!is_only_on(&on(&["w2"]), "w1"));
        assert!(!is_only_on(&on(&["w1", "w2"]), "w1"));
        assert!(!is_only_on(&PersistentVolume::default(), "w1"));
    }
}
