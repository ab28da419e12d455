//! Every Node is Ready, under its own address, with the right version, and its kubelet answers the
//! API.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;

use crate::cluster_context::ClusterContext;
use crate::config::{ClusterConfig, Cni};
use crate::gates::running::{self, Program};
use crate::gates::{Gate, Verdict};
use crate::kubernetes::request::raw;
use crate::playbook::format::GateName;
use crate::support::failure::chain;
use crate::topology::{Group, Machine};

pub struct Nodes;

/// The kubelet says its version in its Node.
const PROGRAMS: [Program; 2] =
    [("kube-proxy.service", "kubernetes"), ("containerd.service", "containerd")];

#[async_trait]
impl Gate for Nodes {
    fn name(&self) -> GateName {
        GateName::Nodes
    }

    fn watches(&self) -> (Group, &'static [&'static str]) {
        (Group::Nodes, &["kubelet.service", "kube-proxy.service", "containerd.service"])
    }

    fn port(&self) -> Option<u16> {
        Some(10250)
    }

    async fn probe(&self, context: &ClusterContext) -> Verdict {
        let mut verdict = Verdict::default();
        let Some(client) = context.client(&mut verdict).await else { return verdict };
        let api: Api<Node> = Api::all(client.clone());
        let nodes = context.topology.group(Group::Nodes).into_iter();
        let looked = nodes.filter(|machine| !context.is_to_come(&machine.name)).map(|machine| {
            let (api, client) = (&api, &client);
            async move {
                let path = format!("/api/v1/nodes/{}/proxy/healthz", machine.name);
                (machine, api.get_opt(&machine.name).await, raw(client, &path).await)
            }
        });
        for (machine, node, kubelet) in futures::future::join_all(looked).await {
            match node {
                Ok(Some(node)) => record(&mut verdict, context, machine, &node),
                Ok(None) => {
                    verdict.record(Some(&machine.name), "the Node", "registered", "missing", false);
                }
                Err(error) => {
                    verdict.record(
                        Some(&machine.name),
                        "the Node",
                        "registered",
                        chain(&error),
                        false,
                    );
                }
            }
            let (saw, ok) = match kubelet {
                Ok((status, _)) => (status.to_string(), status == 200),
                Err(error) => (error, false),
            };
            verdict.record(
                Some(&machine.name),
                "the kubelet, through the API, with its own certificate",
                "200",
                saw,
                ok,
            );
        }
        if verdict.passed() {
            running::record(&mut verdict, context, Group::Nodes, &PROGRAMS).await;
        }
        verdict
    }
}

/// What a kubelet says while no CNI configuration is on its machine.
const NO_NETWORK: &str = "cni plugin not initialized";

/// Whether nothing that kdiy knows of brings a pod network: it is installed by other means once
/// the api is there.
fn waits_for_network(config: &ClusterConfig) -> bool {
    config.network.cni == Cni::None && config.own_addons().next().is_none()
}

fn record(verdict: &mut Verdict, context: &ClusterContext, machine: &Machine, node: &Node) {
    let name = Some(machine.name.as_str());
    let status = node.status.clone().unwrap_or_default();
    let ready = status.conditions.unwrap_or_default();
    let ready = ready.iter().find(|condition| condition.type_ == "Ready");
    let saw = ready.map_or("nothing yet".to_owned(), |condition| match condition.status.as_str() {
        "True" => "Ready".to_owned(),
        _ => condition.message.clone().unwrap_or_else(|| "not Ready".into()),
    });
    let (expected, ok) = if waits_for_network(&context.config) && saw.contains(NO_NETWORK) {
        ("Ready, or waiting for the pod network that you install", true)
    } else {
        ("Ready", saw == "Ready")
    };
    verdict.record(name, "condition", expected, saw, ok);

    let addresses = status.addresses.unwrap_or_default();
    let internal: Vec<&str> = addresses
        .iter()
        .filter(|address| address.type_ == "InternalIP")
        .map(|address| address.address.as_str())
        .collect();
    let wanted = machine.address.to_string();
    verdict.record(name, "InternalIP", &wanted, internal.join(", "), internal == [wanted.as_str()]);

    let version = status.node_info.map(|info| info.kubelet_version).unwrap_or_default();
    let what = "kubelet version";
    context.record_version(verdict, &machine.name, what, "kubernetes", Ok(version));

    let has = node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone()).unwrap_or_default();
    let wanted = machine.pod_cidr.map(|cidr| cidr.to_string()).unwrap_or_default();
    verdict.record(name, "pod network", &wanted, &has, has == wanted);
}
