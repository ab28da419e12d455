//! Decides about the certificates that kubelets request.
//!
//! kdiy approves a first client certificate for the machine that the request names, which the
//! machine's own token proves. It approves a serving certificate for an existing node, for its own
//! name and address. It approves nothing else, and compares each issued certificate with the
//! approved request.

mod der;
#[cfg(test)]
mod forgeries;
mod issued;
pub mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use self::issued::Issued;
use self::request::Request;
use crate::kubernetes::retry::{CONFLICT, NOT_FOUND, gone, is_transient, refused};
use crate::kubernetes::tokens;
use crate::support::event::Events;
use crate::support::failure::{Failure, Kind, Result};
use crate::support::time_scale::Unscaled;
use crate::topology::{Group, Machine, Topology};

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
const BOOTSTRAP_USER: &str = "system:bootstrap:";
const NODE_USER: &str = "system:node:";
const NODE_GROUP: &str = "system:nodes";

const CLIENT_USAGE: &str = "client auth";
const SERVING_USAGE: &str = "server auth";
const SIGNING: &str = "digital signature";
/// Only keys for RSA are good for that (`pkg/apis/certificates/helpers.go` of Kubernetes).
const ENCIPHERING: &str = "key encipherment";
/// As long as the controller-manager lets a certificate hold (`--cluster-signing-duration`).
const LONGEST_SECONDS: i32 = 365 * 24 * 3600;

/// What kdiy writes into a request that it approves, and knows it by afterwards.
const REASON: &str = "KdiyTopology";

/// An older kdiy let machines that join list all requests by this. What a binding grants cannot be
/// changed, so there is another now.
const OUTDATED_BINDING: &str = "kdiy:node-bootstrap";

/// Between two looks; multiplied by `slowMachines`: to be asked is work, too.
const PAUSE: Unscaled = Unscaled::from_millis(400);
/// Kubelets ask for their certificates within this, on machines that are slow today as well; where
/// one does not start, its own step says so and ends the run. Multiplied by `slowMachines`.
const JOINED_WITHIN: Unscaled = Unscaled::from_secs(360);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// For this machine.
    Approve { machine: String, serving: bool },
    /// A kubelet's kind of request that does not match the topology.
    Refuse(String),
    /// Somebody else's business.
    NotOurs,
}

/// What is to become of a request that nobody has decided about. `owners` are the machines that
/// tokens were made for, by the tokens' ids.
pub fn decide(
    csr: &CertificateSigningRequest,
    topology: &Topology,
    owners: &BTreeMap<String, String>,
) -> Decision {
    if ![CLIENT_SIGNER, SERVING_SIGNER].contains(&csr.spec.signer_name.as_str()) {
        return Decision::NotOurs;
    }
    match Request::read(csr) {
        Ok(request) => judge(&request, topology, owners),
        Err(error) => Decision::Refuse(error.to_string()),
    }
}

fn judge(request: &Request, topology: &Topology, owners: &BTreeMap<String, String>) -> Decision {
    let serving = request.signer == SERVING_SIGNER;
    let common_name = &request.asked.common_name;
    let of_node = request.groups.iter().any(|group| group == NODE_GROUP);
    if !serving && of_node && request.user == *common_name {
        // A renewal: the controller-manager approves it, because the kubelet shows the certificate
        // that it has.
        return Decision::NotOurs;
    }
    let nodes = topology.group(Group::Nodes);
    let named = common_name.strip_prefix(NODE_USER);
    let Some(machine) =
        named.and_then(|name| nodes.into_iter().find(|machine| machine.name == name))
    else {
        return Decision::Refuse(format!("`{common_name}` is not a node of this cluster"));
    };
    let sender = if serving {
        serving_problem(request, machine)
    } else {
        client_problem(request, machine, owners)
    };
    match sender.or_else(|| common_problem(request, serving)) {
        Some(problem) => Decision::Refuse(problem),
        None => Decision::Approve { machine: machine.name.clone(), serving },
    }
}

/// What is asked for apart from names.
fn common_problem(request: &Request, serving: bool) -> Option<String> {
    let organization = &request.asked.organization;
    if organization != NODE_GROUP {
        return Some(format!("it asks for the group `{organization}`, not {NODE_GROUP}"));
    }
    let own = if serving { SERVING_USAGE } else { CLIENT_USAGE };
    let mut usages: Vec<&str> = request.usages.iter().map(String::as_str).collect();
    usages.sort_unstable();
    let mut with_rsa = [own, SIGNING, ENCIPHERING];
    with_rsa.sort_unstable();
    let mut wanted = [own, SIGNING];
    wanted.sort_unstable();
    if usages != wanted && usages != with_rsa {
        return Some(format!("it asks for the usages {}", usages.join(", ")));
    }
    let too_long = request.seconds.filter(|seconds| *seconds > LONGEST_SECONDS);
    too_long.map(|seconds| format!("it asks for {seconds} seconds, more than a year"))
}

fn client_problem(
    request: &Request,
    machine: &Machine,
    owners: &BTreeMap<String, String>,
) -> Option<String> {
    if !request.asked.dns.is_empty() || !request.asked.addresses.is_empty() {
        return Some("it asks for names, which a client has none of".into());
    }
    let token = request.user.strip_prefix(BOOTSTRAP_USER);
    let owner = token.and_then(|id| owners.get(id));
    match owner {
        Some(_) if !request.groups.iter().any(|group| group == tokens::GROUP) => {
            Some(format!("{} is not in the group {}", request.user, tokens::GROUP))
        }
        Some(owner) if *owner == machine.name => None,
        Some(owner) => Some(format!("the token of {owner} asks for {}", machine.name)),
        None => Some(format!("{} asks for {}", request.user, machine.name)),
    }
}

fn serving_problem(request: &Request, machine: &Machine) -> Option<String> {
    if request.user != request.asked.common_name {
        return Some(format!("{} asks for {}", request.user, machine.name));
    }
    if !request.groups.iter().any(|group| group == NODE_GROUP) {
        return Some(format!("{} is not in the group {NODE_GROUP}", request.user));
    }
    let (dns, addresses) = (&request.asked.dns, &request.asked.addresses);
    if *dns == [machine.name.clone()] && *addresses == [machine.address] {
        return None;
    }
    let asked = dns.iter().cloned().chain(addresses.iter().map(ToString::to_string));
    let asked = asked.collect::<Vec<_>>().join(", ");
    let asked = if asked.is_empty() { "no name" } else { &asked };
    Some(format!(
        "it asks for {asked}; {} is {} at {} and nothing else",
        machine.name, machine.name, machine.address
    ))
}

/// Approves what is to be approved until every node has both of its certificates. Returns a line
/// for each approval; a node that never asks is the failure.
pub async fn approve(
    client: &Client,
    topology: &Topology,
    events: &Events,
    slow_machines: u32,
) -> Result<Vec<String>> {
    let deadline = JOINED_WITHIN * slow_machines;
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let nodes: Vec<&Machine> = topology.group(Group::Nodes);
    let began = Instant::now();
    let mut changes = Vec::new();
    let mut warned = BTreeSet::new();
    let may_pass = |error: &kube::Error| is_transient(error) && began.elapsed() < deadline;
    loop {
        let (listed, owners) = match look(client).await {
            Ok(found) => found,
            Err(error) if may_pass(&error) => Default::default(),
            Err(error) => return Err(refused("cannot list certificate requests", &error)),
        };
        for csr in listed.iter().filter(|csr| is_open(csr)) {
            match decide(csr, topology, &owners) {
                Decision::Approve { machine, serving } => match approve_one(&api, csr).await {
                    Ok(()) => changes
                        .push(format!("approved the {} certificate of {machine}", kind(serving))),
                    // It is still open at the next look, or another one by then.
                    Err(error) if may_pass(&error) || is_another(&error) => {}
                    Err(error) => {
                        return Err(refused(format!("cannot approve {}", csr.name_any()), &error));
                    }
                },
                Decision::Refuse(reason) if warned.insert(csr.name_any()) => {
                    events.warn(format!(
                        "the certificate request {} was not approved: {reason}",
                        csr.name_any()
                    ));
                }
                Decision::Refuse(_) | Decision::NotOurs => {}
            }
        }
        let mut missing = unserved(client, &nodes).await;
        for csr in listed.iter().filter(|csr| was_approved_here(csr)) {
            match Issued::of(csr) {
                Issued::AsApproved => {}
                Issued::NotYet => missing.push(csr.name_any()),
                Issued::Otherwise(difference) => return Err(misissued(csr, &difference)),
            }
        }
        if missing.is_empty() {
            match tidy(client).await {
                Ok(taken) => changes.extend(taken),
                Err(error) if may_pass(&error) => continue,
                Err(error) => return Err(refused("cannot revoke tokens", &error)),
            }
            return Ok(changes);
        }
        if began.elapsed() > deadline {
            return Err(Failure::new(Kind::Step, "nodes have no serving certificate")
                .on(missing[0].clone())
                .cause(format!("missing: {}", missing.join(", ")))
                .hint(format!("on {}: journalctl -u kubelet -n 50", missing[0])));
        }
        tokio::time::sleep(PAUSE * slow_machines).await;
    }
}

/// What [`approve`] would approve of the requests that there are now.
pub async fn foresee(client: &Client, topology: &Topology) -> Result<Vec<String>> {
    let found = look(client).await;
    let (listed, owners) =
        found.map_err(|error| refused("cannot list certificate requests", &error))?;
    let open = listed.iter().filter(|csr| is_open(csr));
    let approvals = open.filter_map(|csr| match decide(csr, topology, &owners) {
        Decision::Approve { machine, serving } => {
            Some(format!("approve the {} certificate of {machine}", kind(serving)))
        }
        Decision::Refuse(_) | Decision::NotOurs => None,
    });
    Ok(approvals.collect())
}

/// Every request, and the machines that tokens were made for.
async fn look(
    client: &Client,
) -> kube::Result<(Vec<CertificateSigningRequest>, BTreeMap<String, String>)> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let listed = api.list(&ListParams::default()).await?.items;
    let asks =
        |csr: &CertificateSigningRequest| csr.spec.signer_name == CLIENT_SIGNER && is_open(csr);
    let owners =
        if listed.iter().any(asks) { tokens::owners(client).await? } else { BTreeMap::new() };
    Ok((listed, owners))
}

/// Takes back what nobody needs once every node has joined.
async fn tidy(client: &Client) -> kube::Result<Vec<String>> {
    let taken = tokens::retire(client, None).await?;
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    gone(bindings.delete(OUTDATED_BINDING, &DeleteParams::default()).await)?;
    Ok(taken)
}

const fn kind(serving: bool) -> &'static str {
    if serving { "serving" } else { "client" }
}

fn is_open(csr: &CertificateSigningRequest) -> bool {
    csr.status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .is_none_or(|conditions| conditions.is_empty())
}

fn was_approved_here(csr: &CertificateSigningRequest) -> bool {
    let conditions = csr.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| {
        condition.type_ == "Approved" && condition.reason.as_deref() == Some(REASON)
    })
}

/// The request is gone, or another one has its name.
fn is_another(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if [NOT_FOUND, CONFLICT].contains(&status.code))
}

/// The signer saw something else than kdiy did: an attack, or a fault in one of them.
fn misissued(csr: &CertificateSigningRequest, difference: &str) -> Failure {
    let name = csr.name_any();
    let user = csr.spec.username.as_deref().unwrap_or("somebody");
    Failure::new(Kind::Step, format!("{name} was issued another certificate than was approved"))
        .cause(format!("{user} asked for it; {difference}"))
        .hint(
            "take the machine that asked off the network: it may use the certificate until it \
            ends, and Kubernetes cannot revoke one",
        )
        .hint(
            "find out who else may have it; if you cannot, create the cluster again, with new \
            CAs: kdiy destroy, kdiy up",
        )
        .hint(format!("then delete the request: kdiy kubectl -- delete csr {name}"))
}

async fn approve_one(
    api: &Api<CertificateSigningRequest>,
    csr: &CertificateSigningRequest,
) -> kube::Result<()> {
    // The one that was read, and not another that has its name by now.
    let approval = json!({
        "metadata": {"uid": csr.metadata.uid},
        "status": {"conditions": [{
            "type": "Approved",
            "status": "True",
            "reason": REASON,
            "message": "the machine that asks is the machine that it names",
        }]},
    });
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(&approval));
    api.patch_approval(&csr.name_any(), &parameters, &patch).await.map(|_| ())
}

/// Nodes whose kubelet does not yet answer the api with a certificate of the cluster.
async fn unserved(client: &Client, nodes: &[&Machine]) -> Vec<String> {
    let asked = nodes.iter().map(|node| async move {
        let path = format!("/api/v1/nodes/{}/proxy/healthz", node.name);
        match crate::kubernetes::request::raw(client, &path).await {
            Ok((200, _)) => None,
            _ => Some(node.name.clone()),
        }
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}
