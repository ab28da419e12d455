//! Each API server is ready, has the right version, has a valid certificate for every name, and
//! reads what was written through the others.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::bundle::script::quote;
use crate::cluster_context::ClusterContext;
use crate::gates::{Gate, Verdict};
use crate::kubernetes::client::ApiPath;
use crate::kubernetes::request::raw;
use crate::playbook::format::GateName;
use crate::support::failure::chain;
use crate::topology::{API_PORT, Group, Machine};

pub struct ApiServers;

const NAMESPACE: &str = "kube-system";

#[async_trait]
impl Gate for ApiServers {
    fn name(&self) -> GateName {
        GateName::ApiServers
    }

    fn watches(&self) -> (Group, &'static [&'static str]) {
        (Group::Masters, &["kube-apiserver.service"])
    }

    fn port(&self) -> Option<u16> {
        Some(API_PORT)
    }

    async fn probe(&self, context: &ClusterContext) -> Verdict {
        let mut verdict = Verdict::default();
        let masters = context.topology.group(Group::Masters);
        let mut clients = BTreeMap::new();
        for master in &masters {
            match context.api.client(&ApiPath::Master(master.name.clone())).await {
                Ok(client) => {
                    clients.insert(master.name.as_str(), client);
                }
                Err(failure) => verdict.record(
                    Some(&master.name),
                    "a connection to the API server",
                    "one",
                    failure.to_string(),
                    false,
                ),
            }
        }
        let looked = clients.iter().map(|(name, client)| health(name, client));
        for (name, lines, version) in futures::future::join_all(looked).await {
            for (asked, expected, saw, ok) in lines {
                verdict.record(Some(name), asked, expected, saw, ok);
            }
            context.record_version(&mut verdict, name, "version", "kubernetes", version);
        }
        if verdict.passed() && clients.len() == masters.len() {
            matrix(&mut verdict, &clients).await;
            names(&mut verdict, context).await;
        }
        verdict
    }
}

type Line = (String, String, String, bool);

/// How it is, and the version that it says it has.
async fn health<'a>(
    name: &'a str,
    client: &Client,
) -> (&'a str, Vec<Line>, Result<String, String>) {
    let mut lines = Vec::new();
    for path in ["/livez", "/readyz?verbose"] {
        let (saw, ok) = match raw(client, path).await {
            Ok((200, _)) => ("200".to_owned(), true),
            Ok((status, body)) => (format!("{status} {}", failing_parts(&body)), false),
            Err(error) => (error, false),
        };
        lines.push((path.to_owned(), "200".to_owned(), saw, ok));
    }
    let version = client.apiserver_version().await.map(|info| info.git_version);
    (name, lines, version.map_err(|error| chain(&error)))
}

/// The lines of `/readyz?verbose` that say what is not ready.
fn failing_parts(body: &str) -> String {
    let failing: Vec<&str> = body.lines().filter(|line| line.starts_with("[-]")).collect();
    failing.join("; ")
}

/// An object is written through each api-server and read through every other.
async fn matrix(verdict: &mut Verdict, clients: &BTreeMap<&str, Client>) {
    let nonce = format!("{:016x}", rand::random::<u64>());
    for (name, client) in clients {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        let object = format!("kdiy-gate-{name}");
        let body = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": object}, "data": {"nonce": nonce},
        });
        let params = PatchParams::apply("kdiy-gate").force();
        let (saw, ok) = match api.patch(&object, &params, &Patch::Apply(&body)).await {
            Ok(_) => ("done".to_owned(), true),
            Err(error) => (chain(&error), false),
        };
        verdict.record(Some(name), "a write through this API server", "done", saw, ok);
    }
    for (name, client) in clients {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        let mut seen = 0;
        for writer in clients.keys() {
            let read = api.get_opt(&format!("kdiy-gate-{writer}")).await;
            let data = read.ok().flatten().and_then(|object| object.data).unwrap_or_default();
            seen += usize::from(data.get("nonce") == Some(&nonce));
        }
        verdict.record(
            Some(name),
            "reads what was written through each API server",
            format!("{0} of {0}", clients.len()),
            format!("{seen} of {}", clients.len()),
            seen == clients.len(),
        );
    }
    if let Some(client) = clients.values().next() {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        for writer in clients.keys() {
            // What stays behind is overwritten by the next look.
            let _ = api.delete(&format!("kdiy-gate-{writer}"), &DeleteParams::default()).await;
        }
    }
}

/// TLS, verified against the cluster's authority, under every name that clients use.
async fn names(verdict: &mut Verdict, context: &ClusterContext) {
    let topology = &context.topology;
    let service = format!("kubernetes.default.svc.{}", context.config.network.dns_domain);
    let names = |machine: &Machine| {
        let mut names = vec![
            "localhost".to_owned(),
            "kubernetes".to_owned(),
            service.clone(),
            machine.name.clone(),
            machine.address.to_string(),
            topology.api_service.to_string(),
            topology.endpoint.host.clone(),
        ];
        names.dedup();
        names
    };
    let seconds = context.seconds(3);
    let answers = context
        .ask(Group::Masters, |machine| {
            let checks: Vec<String> = names(machine)
                .iter()
                .map(|name| {
                    format!(
                        "curl --noproxy '*' -s -o /dev/null --max-time {seconds} --cacert /etc/kubernetes/pki/ca.crt \
                         --connect-to ::127.0.0.1:{API_PORT} {} || echo {}",
                        quote(&format!("https://{name}:{API_PORT}/livez")),
                        quote(name),
                    )
                })
                .collect();
            format!("{}\necho done", checks.join("\n"))
        })
        .await;
    for (machine, answer) in answers {
        let text = answer.unwrap_or_else(|error| error);
        let refused: Vec<&str> = text.lines().filter(|line| *line != "done").collect();
        let ok = refused.is_empty() && text.contains("done");
        verdict.record(
            Some(&machine.name),
            "verified TLS under every name that clients use",
            "all of them",
            if ok { "all of them".to_owned() } else { format!("not {}", refused.join(", ")) },
            ok,
        );
    }
}
