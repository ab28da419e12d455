//! Deciding about the certificates that kubelets ask for.
//!
//! A client certificate is given to the machine that it names: its token, which no other machine
//! has, tells. A serving certificate is given to a node that is known already, for its own name
//! and address. Nothing else is approved here.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::{is_transient, refused};
use crate::event::Events;
use crate::failure::{Failure, Kind, Result};
use crate::topology::{Group, Machine, Topology};
use crate::world::BootstrapToken;

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
const BOOTSTRAP_USER: &str = "system:bootstrap:";
const NODE_USER: &str = "system:node:";
const NODE_GROUP: &str = "system:nodes";

/// Between two looks; multiplied by `slowMachines`: to be asked is work, too.
const PAUSE: Duration = Duration::from_millis(400);
/// Kubelets ask for their certificates within this, on machines that are slow today as well; where
/// one does not start, its own step says so and ends the run. Multiplied by `slowMachines`.
const JOINED_WITHIN: Duration = Duration::from_secs(360);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// For this machine.
    Approve { machine: String, serving: bool },
    /// A kubelet's kind of request that does not match the topology.
    Refuse(String),
    /// Somebody else's business.
    NotOurs,
}

/// What a request says, apart from how it travels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    pub signer: String,
    pub user: String,
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Names of a kind that no kubelet asks for.
    pub other_names: bool,
}

pub fn judge(request: &Request, topology: &Topology, tokens: &[BootstrapToken]) -> Decision {
    let serving = match request.signer.as_str() {
        CLIENT_SIGNER => false,
        SERVING_SIGNER => true,
        _ => return Decision::NotOurs,
    };
    let nodes = topology.group(Group::Nodes);
    let named = request.common_name.strip_prefix(NODE_USER);
    let Some(machine) =
        named.and_then(|name| nodes.into_iter().find(|machine| machine.name == name))
    else {
        return Decision::Refuse(format!("`{}` is no node of this cluster", request.common_name));
    };
    if request.organizations != [NODE_GROUP] {
        return Decision::Refuse(format!(
            "it asks for the groups {:?}, not {NODE_GROUP}",
            request.organizations
        ));
    }
    let problem = if serving {
        serving_problem(request, machine)
    } else {
        client_problem(request, machine, tokens)
    };
    match problem {
        Some(problem) => Decision::Refuse(problem),
        None => Decision::Approve { machine: machine.name.clone(), serving },
    }
}

fn client_problem(
    request: &Request,
    machine: &Machine,
    tokens: &[BootstrapToken],
) -> Option<String> {
    if request.user == request.common_name {
        // A renewal, which the controller-manager approves; doing it here as well is no harm.
        return None;
    }
    let token = request.user.strip_prefix(BOOTSTRAP_USER);
    let owner = token.and_then(|id| tokens.iter().find(|token| token.id == id));
    match owner {
        Some(owner) if owner.machine == machine.name => None,
        Some(owner) => Some(format!("the token of {} asks for {}", owner.machine, machine.name)),
        None => Some(format!("{} asks for {}", request.user, machine.name)),
    }
}

fn serving_problem(request: &Request, machine: &Machine) -> Option<String> {
    if request.user != request.common_name {
        return Some(format!("{} asks for {}", request.user, machine.name));
    }
    if request.other_names {
        return Some("it asks for names that are neither host names nor addresses".into());
    }
    let foreign_name = request.dns.iter().find(|name| **name != machine.name);
    if let Some(name) = foreign_name {
        return Some(format!("{} asks for the name {name}", machine.name));
    }
    let own = IpAddr::from(machine.address);
    let foreign_address = request.addresses.iter().find(|address| **address != own);
    foreign_address.map(|address| format!("{} asks for the address {address}", machine.name))
}

fn read(csr: &CertificateSigningRequest) -> Option<Request> {
    let parsed_pem = pem::parse(&csr.spec.request.0).ok()?;
    let (_, parsed) = X509CertificationRequest::from_der(parsed_pem.contents()).ok()?;
    parsed.verify_signature().ok()?;
    let subject = &parsed.certification_request_info.subject;
    let mut request = Request {
        signer: csr.spec.signer_name.clone(),
        user: csr.spec.username.clone().unwrap_or_default(),
        common_name: subject.iter_common_name().next()?.as_str().ok()?.to_owned(),
        organizations: subject
            .iter_organization()
            .filter_map(|value| value.as_str().ok())
            .map(str::to_owned)
            .collect(),
        ..Request::default()
    };
    for extension in parsed.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => request.dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
                    Ok(address) => request.addresses.push(IpAddr::from(address)),
                    Err(_) => request.other_names = true,
                },
                _ => request.other_names = true,
            }
        }
    }
    Some(request)
}

/// Approves what is to be approved until every node has both of its certificates. Returns a line
/// for each approval; a node that never asks is the failure.
pub async fn approve(
    client: &Client,
    topology: &Topology,
    tokens: &[BootstrapToken],
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
        let listed = match api.list(&ListParams::default()).await {
            Ok(listed) => listed.items,
            Err(error) if may_pass(&error) => Vec::new(),
            Err(error) => return Err(refused("cannot list certificate requests", &error)),
        };
        for csr in listed.iter().filter(|csr| is_open(csr)) {
            let Some(request) = read(csr) else { continue };
            match judge(&request, topology, tokens) {
                Decision::Approve { machine, serving } => match approve_one(&api, csr).await {
                    Ok(()) => changes
                        .push(format!("approved the {} certificate of {machine}", kind(serving))),
                    // It is still open at the next look.
                    Err(error) if may_pass(&error) => {}
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
        let missing = unserved(client, &nodes).await;
        if missing.is_empty() {
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
pub async fn foresee(
    client: &Client,
    topology: &Topology,
    tokens: &[BootstrapToken],
) -> Result<Vec<String>> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let listed = api
        .list(&ListParams::default())
        .await
        .map_err(|error| refused("cannot list certificate requests", &error))?;
    let requests = listed.items.iter().filter(|csr| is_open(csr)).filter_map(read);
    let approvals = requests.filter_map(|request| match judge(&request, topology, tokens) {
        Decision::Approve { machine, serving } => {
            Some(format!("approve the {} certificate of {machine}", kind(serving)))
        }
        Decision::Refuse(_) | Decision::NotOurs => None,
    });
    Ok(approvals.collect())
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

async fn approve_one(
    api: &Api<CertificateSigningRequest>,
    csr: &CertificateSigningRequest,
) -> kube::Result<()> {
    let approval = json!({"status": {"conditions": [{
        "type": "Approved",
        "status": "True",
        "reason": "KdiyTopology",
        "message": "the machine that asks is the machine that it names",
    }]}});
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(&approval));
    api.patch_approval(&csr.name_any(), &parameters, &patch).await.map(|_| ())
}

/// Nodes whose kubelet does not yet answer the api with a certificate of the cluster.
async fn unserved(client: &Client, nodes: &[&Machine]) -> Vec<String> {
    let asked = nodes.iter().map(|node| async move {
        let path = format!("/api/v1/nodes/{}/proxy/healthz", node.name);
        match crate::kube_api::raw(client, &path).await {
            Ok((200, _)) => None,
            _ => Some(node.name.clone()),
        }
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD as BASE64;
    use http::Method;
    use kube::client::Body;

    use super::*;
    use crate::config::ClusterConfig;

    fn decide(change: impl Fn(&mut Request)) -> Decision {
        let topology =
            Topology::build(&ClusterConfig::default(), "192.168.56.0/24".parse().unwrap()).unwrap();
        let token = |machine: &str, id: &str| BootstrapToken {
            machine: machine.into(),
            id: id.into(),
            secret: "s".into(),
        };
        let tokens = [token("kdiy-worker-1", "aaaaaa"), token("kdiy-worker-2", "bbbbbb")];
        let mut request = Request {
            signer: SERVING_SIGNER.into(),
            user: "system:node:kdiy-worker-1".into(),
            common_name: "system:node:kdiy-worker-1".into(),
            organizations: vec![NODE_GROUP.into()],
            dns: vec!["kdiy-worker-1".into()],
            addresses: vec!["192.168.56.51".parse().unwrap()],
            other_names: false,
        };
        change(&mut request);
        judge(&request, &topology, &tokens)
    }

    fn approved(serving: bool) -> Decision {
        Decision::Approve { machine: "kdiy-worker-1".into(), serving }
    }

    #[test]
    fn a_node_gets_its_own_certificates() {
        assert_eq!(decide(|_| {}), approved(true));
        let first = |request: &mut Request| {
            request.signer = CLIENT_SIGNER.into();
            request.user = "system:bootstrap:aaaaaa".into();
        };
        assert_eq!(decide(first), approved(false));
    }

    #[test]
    fn forgeries_are_refused() {
        let forgeries: [fn(&mut Request); 8] = [
            |r| r.addresses.push("192.168.56.11".parse().unwrap()),
            |r| r.dns.push("kubernetes".into()),
            |r| r.other_names = true,
            |r| r.user = "system:node:kdiy-worker-2".into(),
            |r| r.organizations = vec!["system:masters".into()],
            |r| r.common_name = "system:node:stranger".into(),
            |r| {
                r.signer = CLIENT_SIGNER.into();
                r.user = "system:bootstrap:bbbbbb".into();
            },
            |r| {
                r.signer = CLIENT_SIGNER.into();
                r.user = "kdiy-admin".into();
            },
        ];
        for (number, forgery) in forgeries.into_iter().enumerate() {
            assert!(matches!(decide(forgery), Decision::Refuse(_)), "forgery {number} passed");
        }
    }

    #[test]
    fn other_signers_are_left_alone() {
        let other = |r: &mut Request| r.signer = "example.com/own".into();
        assert_eq!(decide(other), Decision::NotOurs);
    }

    #[tokio::test(start_paused = true)]
    async fn an_approval_that_does_not_get_through_is_tried_again() {
        let config = ClusterConfig { masters: 1, workers: 0, ..Default::default() };
        let topology = Topology::build(&config, "192.168.56.0/24".parse().unwrap()).unwrap();
        let user = format!("{NODE_USER}{}", topology.machines[0].name);
        let mut asked = rcgen::CertificateParams::default();
        asked.distinguished_name.push(rcgen::DnType::CommonName, &user);
        asked.distinguished_name.push(rcgen::DnType::OrganizationName, NODE_GROUP);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = asked.serialize_request(&key).unwrap().pem().unwrap();
        let csr = json!({"metadata": {"name": "csr-1"}, "spec": {
            "request": BASE64.encode(pem), "signerName": CLIENT_SIGNER, "username": user,
        }});
        let approvals = Arc::new(AtomicU32::new(0));
        let count = approvals.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (status, answer) = match *request.method() {
                Method::PATCH if count.fetch_add(1, Ordering::Relaxed) == 0 => {
                    (504, json!({"code": 504}))
                }
                Method::PATCH => (200, csr.clone()),
                _ if request.uri().path().ends_with("/healthz") => {
                    // The kubelet has to wait for its certificate.
                    (if count.load(Ordering::Relaxed) > 1 { 200 } else { 503 }, json!({}))
                }
                _ => (200, json!({"metadata": {}, "items": [csr.clone()]})),
            };
            let answer = http::Response::builder()
                .status(status)
                .body(Body::from(answer.to_string().into_bytes()));
            async move { answer }
        });
        let (events, _reader) = Events::channel();
        let client = Client::new(service, "default");
        let changes = approve(&client, &topology, &[], &events, 1).await.unwrap();
        assert_eq!(approvals.load(Ordering::Relaxed), 2);
        assert_eq!(changes, ["approved the client certificate of kdiy-master-1"]);
    }
}
