//! Services beyond the plain one, and network policies.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::FutureExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use serde_json::json;

use crate::operations::verify::sandbox::{PORT, Sandbox, get};
use crate::operations::verify::smoke::deployment_of;
use crate::operations::verify::{Check, CheckError, CheckResult};

pub const CHECKS: &[Check] = &[
    Check {
        name: "services",
        title: "a headless Service resolves to every pod; session affinity keeps a client on one \
            pod",
        run: |bench| services(bench).boxed(),
    },
    Check {
        name: "network-policy",
        title: "a NetworkPolicy that denies everything is enforced",
        run: |bench| network_policy(bench).boxed(),
    },
];

async fn services(bench: Arc<Sandbox>) -> CheckResult {
    bench.create::<Deployment>(deployment_of("web", 2, bench.server_spec())).await?;
    let service = |name: &str, more: serde_json::Value| {
        let mut spec = json!({"selector": {"app": "web"}, "ports": [{"port": PORT}]});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        json!({"metadata": {"name": name}, "spec": spec})
    };
    bench.create::<Service>(service("headless", json!({"clusterIP": "None"}))).await?;
    bench.create::<Service>(service("sticky", json!({"sessionAffinity": "ClientIP"}))).await?;
    bench.create::<Pod>(bench.pod("client", "sleep 3600")).await?;
    let pods = bench.until_pods("web", 2).await?;
    bench.until_ready("client").await?;

    let addresses: BTreeSet<String> =
        pods.iter().filter_map(|pod| pod.status.as_ref()?.pod_ip.clone()).collect();
    let domain = &bench.context.config.network.dns_domain;
    let lookup = format!("nslookup headless.{}.svc.{domain} | tail -n +3", bench.namespace);
    let found = bench
        .until("the headless Service to resolve to both pods", || async {
            let text = bench.exec("client", &lookup).await.map_err(|it| it.to_string())?;
            let words: BTreeSet<&str> = text.split_whitespace().collect();
            let found = addresses.iter().filter(|it| words.contains(it.as_str())).count();
            if found == addresses.len() { Ok(found) } else { Err(text) }
        })
        .await?;
    bench.prove_same("pods that the headless Service resolves to", addresses.len(), found);

    let ask = format!("{}; for i in $(seq 10); do get sticky; done", get());
    let names: BTreeSet<String> = pods.iter().map(kube::ResourceExt::name_any).collect();
    let answers = bench
        .until("the sticky Service to answer ten times", || async {
            let text = bench.exec("client", &ask).await.map_err(|it| it.to_string())?;
            let answers: Vec<String> = text.lines().map(str::to_owned).collect();
            if answers.len() == 10 && answers.iter().all(|answer| names.contains(answer)) {
                Ok(answers)
            } else {
                Err(format!("{} answers", answers.len()))
            }
        })
        .await?;
    let different: BTreeSet<&String> = answers.iter().collect();
    bench.prove_same("pods that answered one client ten times", 1, different.len());
    Ok(())
}

/// kdiy's own CNIs enforce no policies, which whoever relies on them must be told.
async fn network_policy(bench: Arc<Sandbox>) -> CheckResult {
    let mut server = bench.pod("server", "");
    server["spec"] = bench.server_spec();
    bench.create::<Pod>(server).await?;
    bench.create::<Pod>(bench.pod("client", "sleep 3600")).await?;
    let server = bench.until_ready("server").await?;
    bench.until_ready("client").await?;
    let address = server.status.as_ref().and_then(|status| status.pod_ip.clone());
    let ask = format!("{}; get {}", get(), address.unwrap_or_default());
    bench
        .until("the pod to answer without a policy", || async {
            let text = bench.exec("client", &ask).await.map_err(|it| it.to_string())?;
            if text.trim() == server.name_any() { Ok(()) } else { Err(text) }
        })
        .await?;
    let policy = json!({"metadata": {"name": "nobody"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}});
    bench.create::<NetworkPolicy>(policy).await?;
    // What enforces policies needs a moment to hear of one.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let answer = bench.exec("client", &ask).await?;
    if answer.trim() == server.name_any() {
        return Err(CheckError::Skipped(
            "the policy is stored, but this cluster's network does not enforce it: every pod \
             reaches every other. Use a CNI that does, with network.cni: none and addons:"
                .into(),
        ));
    }
    bench.prove_same("the answer to a request that the policy denies", "", answer.trim());
    Ok(())
}
