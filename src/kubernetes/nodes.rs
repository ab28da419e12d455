//! Properties that a kubelet may not set itself: its role and its pod network.

use std::time::Instant;

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::kubernetes::retry::{is_transient, refused};
use crate::support::failure::{Failure, Kind, Result};
use crate::support::time_scale::Unscaled;
use crate::topology::{Group, Machine, Role, Topology};

const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
const WORKER: &str = "node-role.kubernetes.io/worker";
/// Between two looks; multiplied by `slowMachines`: to be asked is work, too.
const PAUSE: Unscaled = Unscaled::from_millis(300);
/// Kubelets register within this, all of them; multiplied by `slowMachines`.
const REGISTERED_WITHIN: Unscaled = Unscaled::from_secs(120);

/// Waits for every Node to register and gives it its role, taint and pod network.
pub async fn mark(
    client: &Client,
    topology: &Topology,
    schedulable_masters: bool,
    slow_machines: u32,
) -> Result<Vec<String>> {
    let api: Api<Node> = Api::all(client.clone());
    let mut changes = Vec::new();
    let began = Instant::now();
    let may_pass = |error: &kube::Error| {
        is_transient(error) && began.elapsed() <= REGISTERED_WITHIN * slow_machines
    };
    for machine in topology.group(Group::Nodes) {
        changes.extend(loop {
            let node = registered(&api, machine, began, slow_machines).await?;
            match mark_one(&api, machine, marking(machine, &node, schedulable_masters)?).await {
                Ok(changes) => break changes,
                Err(error) if may_pass(&error) => {}
                Err(error) => {
                    return Err(
                        refused("cannot set the role of the node", &error).on(&machine.name)
                    );
                }
            }
            tokio::time::sleep(PAUSE * slow_machines).await;
        });
    }
    Ok(changes)
}

async fn registered(
    api: &Api<Node>,
    machine: &Machine,
    began: Instant,
    slow_machines: u32,
) -> Result<Node> {
    loop {
        match api.get_opt(&machine.name).await {
            Ok(Some(node)) => return Ok(node),
            Ok(None) => {}
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(refused("cannot read nodes", &error).on(&machine.name)),
        }
        if began.elapsed() > REGISTERED_WITHIN * slow_machines {
            return Err(Failure::new(Kind::Step, "the node did not register")
                .on(&machine.name)
                .hint(format!("on {}: journalctl -u kubelet -n 50", machine.name)));
        }
        tokio::time::sleep(PAUSE * slow_machines).await;
    }
}

/// What [`mark`] would change, of nodes that have registered and of those that have not.
pub async fn foresee(
    client: &Client,
    topology: &Topology,
    schedulable_masters: bool,
) -> Result<Vec<String>> {
    let api: Api<Node> = Api::all(client.clone());
    let mut changes = Vec::new();
    for machine in topology.group(Group::Nodes) {
        let found = api.get_opt(&machine.name).await;
        match found.map_err(|error| refused("cannot read nodes", &error).on(&machine.name))? {
            Some(node) => changes.extend(marking(machine, &node, schedulable_masters)?.changes),
            None => {
                changes.push(format!("wait for {} to register, and set its role", machine.name))
            }
        }
    }
    Ok(changes)
}

/// What one node lacks.
struct Marking {
    /// One line a thing.
    changes: Vec<String>,
    patch: serde_json::Value,
}

async fn mark_one(
    api: &Api<Node>,
    machine: &Machine,
    Marking { changes, patch }: Marking,
) -> kube::Result<Vec<String>> {
    if !changes.is_empty() {
        api.patch(&machine.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    }
    Ok(changes)
}

fn marking(machine: &Machine, node: &Node, schedulable_masters: bool) -> Result<Marking> {
    let mut changes = Vec::new();
    let mut patch = json!({"metadata": {"labels": {}}, "spec": {}});
    let label = if machine.role == Role::Master { CONTROL_PLANE } else { WORKER };
    if !node.labels().contains_key(label) {
        patch["metadata"]["labels"][label] = "".into();
        changes.push(format!("labelled {} {label}", machine.name));
    }
    let spec = node.spec.clone().unwrap_or_default();
    if let Some(wanted) = machine.pod_cidr {
        match spec.pod_cidr.as_deref() {
            None => {
                patch["spec"]["podCIDR"] = wanted.to_string().into();
                patch["spec"]["podCIDRs"] = json!([wanted.to_string()]);
                changes.push(format!("gave {} the pod network {wanted}", machine.name));
            }
            Some(has) if has == wanted.to_string() => {}
            Some(has) => {
                return Err(Failure::new(
                    Kind::Step,
                    format!("the node has the pod network {has}, not {wanted}"),
                )
                .on(&machine.name)
                .hint(
                    "the pod network of a Node cannot be changed: kubectl delete node, then kdiy up",
                ));
            }
        }
    }
    let taints = spec.taints.unwrap_or_default();
    if let Some(wanted) = wanted_taints(machine, &taints, schedulable_masters) {
        patch["spec"]["taints"] = json!(wanted);
        changes.push(format!("set the taint of {}", machine.name));
    }
    Ok(Marking { changes, patch })
}

/// The whole list of taints where it has to change; others' taints stay.
fn wanted_taints(machine: &Machine, has: &[Taint], schedulable: bool) -> Option<Vec<Taint>> {
    let ours = |taint: &Taint| taint.key == CONTROL_PLANE;
    let wanted = machine.role == Role::Master && !schedulable;
    if has.iter().any(ours) == wanted {
        return None;
    }
    let mut taints: Vec<Taint> = has.iter().filter(|taint| !ours(taint)).cloned().collect();
    if wanted {
        taints.push(Taint {
            key: CONTROL_PLANE.into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        });
    }
    Some(taints)
}
