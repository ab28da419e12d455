//! Observes a cluster without quorum: no linearizable reads, no writes, and pods that keep running.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;

use crate::cluster_context::ClusterContext;
use crate::etcd::etcdctl::{CURL, ETCDCTL};
use crate::gates::Verdict;
use crate::kubernetes::client::ApiPath;
use crate::kubernetes::request::raw;
use crate::operations::drill::workload::{NAMESPACE, patience};
use crate::support::event::Evidence;
use crate::support::failure::chain;
use crate::topology::Group;

/// Containers that run, by machine.
pub type Containers = BTreeMap<String, BTreeSet<String>>;

/// On all nodes but these.
pub async fn containers(context: &ClusterContext, without: &[String]) -> Containers {
    let script = "/usr/local/bin/crictl ps --quiet --state Running";
    let answers = context.ask(Group::Nodes, |_| script.to_owned()).await;
    answers
        .into_iter()
        .filter(|(machine, _)| !without.contains(&machine.name))
        .filter_map(|(machine, answer)| Some((machine.name.clone(), answer.ok()?)))
        .map(|(name, text)| (name, text.split_whitespace().map(str::to_owned).collect()))
        .collect()
}

/// Asks everybody who is left. Evidence is as it should be when it shows the loss.
pub async fn look(context: &ClusterContext, lost: &[String], before: &Containers) -> Vec<Evidence> {
    let mut verdict = Verdict::default();
    members(context, lost, &mut verdict).await;
    for master in context.topology.group(Group::Masters) {
        if !lost.contains(&master.name) {
            api_server(context, &master.name, &mut verdict).await;
        }
    }
    let now = containers(context, lost).await;
    for (machine, containers) in before {
        let left = now.get(machine).map_or(0, |now| containers.intersection(now).count());
        verdict.record(
            Some(machine),
            "containers that ran before",
            format!("{} run on", containers.len()),
            format!("{left} run on"),
            left == containers.len(),
        );
    }
    verdict.evidence
}

async fn members(context: &ClusterContext, lost: &[String], verdict: &mut Verdict) {
    let script = format!(
        "echo \"$({CURL}/health)\"\n{ETCDCTL} get kdiy-drill 2>&1 | tail -n 1 | grep -o '\"error\":.*\\|Error.*\\|etcdserver.*'"
    );
    let answers = context.ask(Group::Etcd, |_| script.clone()).await;
    for (machine, answer) in answers.into_iter().filter(|(it, _)| !lost.contains(&it.name)) {
        let text = answer.unwrap_or_else(|error| error);
        let mut lines = text.lines();
        let health = lines.next().unwrap_or_default();
        verdict.record(
            Some(&machine.name),
            "etcd's own health",
            "unhealthy, without a leader",
            health,
            health.contains("\"health\":\"false\""),
        );
        let read = lines.next().unwrap_or_default();
        verdict.record(
            Some(&machine.name),
            "a linearizable read by etcdctl",
            "refused",
            read,
            !read.is_empty(),
        );
    }
}

async fn api_server(context: &ClusterContext, master: &str, verdict: &mut Verdict) {
    let path = ApiPath::Master(master.to_owned());
    let client = match context.api.client(&path).await {
        Ok(client) => client,
        Err(failure) => {
            verdict.record(Some(master), "a connection to it", "one", failure.to_string(), false);
            return;
        }
    };
    let (saw, ok) = match raw(&client, "/readyz?verbose").await {
        Ok((status, body)) => {
            let etcd = body.lines().find(|line| line.starts_with("[-]etcd")).unwrap_or_default();
            (format!("{status} {etcd}"), status != 200)
        }
        Err(error) => (error, true),
    };
    verdict.record(Some(master), "/readyz", "not ready, because of etcd", saw, ok);
    let api: Api<Namespace> = Api::all(client);
    let read =
        tokio::time::timeout(patience(context.config.slow_machines).answer, api.get(NAMESPACE));
    let (saw, ok) = match read.await {
        Ok(Ok(_)) => ("answered".to_owned(), false),
        Ok(Err(error)) => (chain(&error), true),
        Err(_) => ("no answer in time".to_owned(), true),
    };
    verdict.record(Some(master), "a linearizable read through the API", "refused", saw, ok);
}
