//! From a pod on every node: every other pod, a Service, the API and DNS names; from every machine
//! a NodePort; and for every node logs and exec.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, Service};
use kube::api::{Api, AttachParams, DeleteParams, ListParams, LogParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use crate::cluster_context::ClusterContext;
use crate::gates::{Gate, Verdict};
use crate::kubernetes::apply::{Applier, Conflicts};
use crate::kubernetes::retry;
use crate::playbook::format::GateName;
use crate::support::failure::chain;
use crate::support::time_scale::Unscaled;
use crate::topology::Group;

pub struct Network;

const NAMESPACE: &str = "kdiy-probe";
/// On every namespace that is there to try the cluster out, by which what is left of one is found.
pub const TRIAL: &str = "kdiy.dev/trial";
const PORT: u16 = 8080;
const EXEC_WITHIN: Unscaled = Unscaled::from_secs(20);

#[async_trait]
impl Gate for Network {
    fn name(&self) -> GateName {
        GateName::Network
    }

    fn watches(&self) -> (Group, &'static [&'static str]) {
        (Group::Nodes, &[])
    }

    fn port(&self) -> Option<u16> {
        Some(10250)
    }

    async fn probe(&self, context: &ClusterContext) -> Verdict {
        let mut verdict = Verdict::default();
        let Some(client) = context.client(&mut verdict).await else { return verdict };
        let pods = match started(&client, context, &mut verdict).await {
            Some(pods) => pods,
            None => return verdict,
        };
        let port = look(&client, context, &pods, &mut verdict).await;
        if let Some(port) = port {
            node_port(context, port, &mut verdict).await;
        }
        if verdict.passed() {
            // A namespace that stays behind is adopted by the next look.
            let api: Api<Namespace> = Api::all(client);
            let _ = api.delete(NAMESPACE, &DeleteParams::background()).await;
        }
        verdict
    }
}

/// Pod name and address by node, once every node runs one.
type Pods = BTreeMap<String, (String, String)>;

async fn started(client: &Client, context: &ClusterContext, verdict: &mut Verdict) -> Option<Pods> {
    let text: Vec<String> = objects(context).iter().map(Value::to_string).collect();
    let text = text.join("\n---\n");
    let applier = Applier {
        client,
        conflicts: Conflicts::Override,
        patience: retry::PATIENCE * context.config.slow_machines,
        // Whoever asks for a look ends it.
        stop: CancellationToken::new(),
        events: None,
    };
    if let Err(failure) = applier.apply("the probe", &text).await {
        verdict.record(None, "the probe's pods", "created", failure.to_string(), false);
        return None;
    }
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let listed = api.list(&ListParams::default().labels("app=probe")).await;
    let mut pods = Pods::new();
    let mut waiting = Pods::new();
    for pod in listed.map(|list| list.items).unwrap_or_default() {
        let name = pod.name_any();
        if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
            waiting.insert(node, (name.clone(), reason(&pod)));
        }
        let gone = pod.metadata.deletion_timestamp.is_some();
        let (Some(spec), Some(status)) = (pod.spec, pod.status) else { continue };
        let ready = status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        if let (Some(node), Some(ip), true, false) = (spec.node_name, status.pod_ip, ready, gone) {
            pods.insert(node, (name, ip));
        }
    }
    let nodes = context.topology.group(Group::Nodes);
    for node in &nodes {
        let runs = pods.contains_key(&node.name);
        let saw = match waiting.get(&node.name) {
            _ if runs => "runs".to_owned(),
            None => "not yet: the node has no probe pod".to_owned(),
            Some((pod, reason)) => match warning(client, pod).await {
                Some(warning) => format!("not yet: {warning}"),
                None if reason.is_empty() => "not yet".to_owned(),
                None => format!("not yet: {reason}"),
            },
        };
        verdict.record(Some(&node.name), "a pod on the node", "runs", saw, runs);
    }
    (pods.len() == nodes.len()).then_some(pods)
}

/// Why its container does not run, by the kubelet's word; empty when that says nothing.
fn reason(pod: &Pod) -> String {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let waiting = statuses.filter_map(|status| status.state.as_ref()?.waiting.as_ref());
    let texts = waiting.map(|waiting| {
        let (reason, message) = (waiting.reason.as_deref(), waiting.message.as_deref());
        [reason, message].into_iter().flatten().collect::<Vec<_>>().join(": ")
    });
    texts.collect::<Vec<_>>().join("; ")
}

/// The last thing that went wrong with a pod, as its Events tell.
async fn warning(client: &Client, pod: &str) -> Option<String> {
    let api: Api<Event> = Api::namespaced(client.clone(), NAMESPACE);
    let about = ListParams::default().fields(&format!("type=Warning,involvedObject.name={pod}"));
    let events = api.list(&about).await.ok()?.items;
    let last = events.into_iter().max_by(|one, other| when(one).cmp(&when(other)))?;
    Some(format!("{}: {}", last.reason.unwrap_or_default(), last.message.unwrap_or_default()))
}

fn when(event: &Event) -> Option<k8s_openapi::jiff::Timestamp> {
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    last.or_else(|| event.event_time.as_ref().map(|time| time.0))
}

/// Runs one script in each pod. Returns the NodePort.
async fn look(
    client: &Client,
    context: &ClusterContext,
    pods: &Pods,
    verdict: &mut Verdict,
) -> Option<i32> {
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let service = services.get("probe").await.ok().and_then(|service| service.spec)?;
    let service_ip = service.cluster_ip.unwrap_or_default();
    let addresses: Vec<&str> = pods.values().map(|(_, ip)| ip.as_str()).collect();
    let script = script(&addresses, &service_ip, context);
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let asked = pods.iter().map(|(node, (pod, _))| {
        let (api, script, slow) = (&api, &script, context.config.slow_machines);
        async move {
            (node, exec(api, pod, script, slow).await, api.logs(pod, &LogParams::default()).await)
        }
    });
    for (node, answer, logs) in futures::future::join_all(asked).await {
        let machine = Some(node.as_str());
        match answer {
            Ok(text) => {
                for what in ["pods", "service", "api", "names"] {
                    let missing: Vec<&str> = text
                        .lines()
                        .filter_map(|line| line.strip_prefix(&format!("{what}: ")))
                        .collect();
                    verdict.record(
                        machine,
                        asked_of(what),
                        "all answer",
                        if missing.is_empty() {
                            "all answer".to_owned()
                        } else {
                            missing.join(", ")
                        },
                        missing.is_empty(),
                    );
                }
                let whole = text.lines().any(|line| line == "done");
                let saw = if whole { "works".to_owned() } else { broken_off(&text) };
                verdict.record(machine, "exec", "works", saw, whole);
            }
            Err(error) => verdict.record(machine, "exec", "works", error, false),
        }
        let (saw, ok) = match logs {
            Ok(text) if text.contains("serving") => ("works".to_owned(), true),
            Ok(text) => (format!("an unexpected answer: {}", last_line(&text)), false),
            Err(error) => (chain(&error), false),
        };
        verdict.record(machine, "logs", "works", saw, ok);
    }
    service.ports?.first()?.node_port
}

/// What is said of a script of which the end did not arrive.
fn broken_off(text: &str) -> String {
    format!("the answer was cut off after: {}", last_line(text))
}

fn last_line(text: &str) -> &str {
    text.lines().next_back().unwrap_or("nothing")
}

fn asked_of(what: &str) -> &'static str {
    match what {
        "pods" => "from its pod: every pod on every node",
        "service" => "from its pod: a Service",
        "api" => "from its pod: the Service of the API",
        _ => "from its pod: DNS names of the cluster",
    }
}

/// Prints a line for each thing that did not answer. All at once: what does not answer takes as long
/// as it may, and may be everything.
fn script(addresses: &[&str], service_ip: &str, context: &ClusterContext) -> String {
    let domain = &context.config.network.dns_domain;
    format!(
        "get() {{ printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w {seconds} \"$1\" {PORT} | grep -q probe; }}\n\
         for a in {pods}; do {{ get $a || echo \"pods: no $a\"; }} & done\n\
         {{ get {service_ip} || echo 'service: no {service_ip}'; }} &\n\
         {{ nc -w {seconds} {api} 443 </dev/null || echo 'api: no {api}'; }} &\n\
         for n in kubernetes.default probe.{NAMESPACE}; do \
         {{ nslookup $n.svc.{domain} >/dev/null 2>&1 || echo \"names: no $n\"; }} & done\n\
         wait\n\
         echo done",
        pods = addresses.join(" "),
        api = context.topology.api_service,
        seconds = context.seconds(3),
    )
}

/// What a script in a pod printed.
pub async fn exec(
    api: &Api<Pod>,
    pod: &str,
    script: &str,
    slow_machines: u32,
) -> Result<String, String> {
    let params = AttachParams::default().stdout(true).stderr(false);
    let run = async {
        let mut process =
            api.exec(pod, ["sh", "-c", script], &params).await.map_err(|error| chain(&error))?;
        let mut text = String::new();
        if let Some(mut stdout) = process.stdout() {
            stdout.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
        }
        Ok(text)
    };
    let within = EXEC_WITHIN * slow_machines;
    tokio::time::timeout(within, run)
        .await
        .map_err(|_| format!("not finished within {} s", within.as_secs()))?
}

async fn node_port(context: &ClusterContext, port: i32, verdict: &mut Verdict) {
    let addresses: Vec<String> =
        context.topology.group(Group::Nodes).iter().map(|node| node.address.to_string()).collect();
    let script = format!(
        "for a in {}; do {{ curl --noproxy '*' -s -o /dev/null --max-time {} http://$a:{port}/ || echo \"$a\"; }} & done; \
         wait; echo done",
        addresses.join(" "),
        context.seconds(3)
    );
    for (machine, answer) in context.ask(Group::Nodes, |_| script.clone()).await {
        let text = answer.unwrap_or_else(|error| error);
        let whole = text.lines().any(|line| line == "done");
        let missing: Vec<&str> = text.lines().filter(|line| *line != "done").collect();
        verdict.record(
            Some(&machine.name),
            "from the machine: a NodePort on every node",
            "all answer",
            match (missing.as_slice(), whole) {
                ([], true) => "all answer".to_owned(),
                ([], false) => broken_off(&text),
                _ => format!("not {}", missing.join(", ")),
            },
            missing.is_empty() && whole,
        );
    }
}

fn objects(context: &ClusterContext) -> [Value; 3] {
    let serve = format!(
        "mkdir -p /tmp/www && hostname >/tmp/www/index.html && echo serving && exec httpd -f -p {PORT} -h /tmp/www"
    );
    [
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {TRIAL: "true"}},
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": "probe", "namespace": NAMESPACE},
            "spec": {
                "selector": {"matchLabels": {"app": "probe"}},
                "template": {
                    "metadata": {"labels": {"app": "probe"}},
                    "spec": {
                        "tolerations": [{"operator": "Exists"}],
                        "terminationGracePeriodSeconds": 0,
                        "automountServiceAccountToken": false,
                        "containers": [{
                            "name": "probe",
                            "image": context.images.get("busybox"),
                            "imagePullPolicy": "IfNotPresent",
                            "command": ["sh", "-c", serve],
                            "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                        }],
                    },
                },
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "probe", "namespace": NAMESPACE},
            "spec": {
                "type": "NodePort",
                "selector": {"app": "probe"},
                "ports": [{"port": PORT, "targetPort": PORT}],
            },
        }),
    ]
}
