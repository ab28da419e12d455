//! Workers come and go while the cluster serves.

use anyhow::{Context, Result, ensure};

use super::cluster::Cluster;
use super::repair::STARTED;
use super::watched::{ANSWERED_WITHIN, Watched, in_time};
use super::{MASTERS, WORKERS};
use crate::host;

const MANIFEST: &str = "e2e/moving.yaml";
/// A request may meet the moment in which a client's own connection ends.
const FAILED_AT_MOST: u32 = 1;

/// One more, pods on it, and away again, and one that came before it: nothing that runs elsewhere
/// restarts, no pod is lost unasked, and the rest is as it was.
pub fn come_and_go(cluster: &Cluster) -> Result<String> {
    let (added_in, asked) =
        in_time(|| came_and_went(cluster), |asked| asked.failed <= FAILED_AT_MOST)?;
    Ok(format!("added in {added_in} s; {asked}"))
}

/// Within how many seconds the one more was there, and what the api's clients noticed of it all.
fn came_and_went(cluster: &Cluster) -> Result<(u64, Watched)> {
    let master = cluster.machine("master-3");
    let new = cluster.machine("worker-3");
    let earlier = cluster.machine("worker-2");
    let before = cluster.on(&master, STARTED)?;
    let seen = Watched::while_running(cluster, ANSWERED_WITHIN, || {
        let run = cluster.up(MASTERS, WORKERS + 1)?;
        pods_move_in(cluster, &new)?;
        host::run(cluster.kdiy("remove").args([&earlier, "--yes"]))?;
        is_gone(cluster, &earlier)?;
        refused_while_a_pod_would_be_lost(cluster, &new)?;
        host::run(cluster.kdiy("remove").args([&new, "--yes"]))?;
        is_gone(cluster, &new)?;
        run.elapsed_seconds()
    })?;
    ensure!(cluster.on(&master, STARTED)? == before, "units of {master} have restarted");
    cluster.kubectl(&["delete", "--wait", "-f", &manifest(), "--ignore-not-found"])?;
    let changed = cluster.up(MASTERS, WORKERS - 1)?;
    ensure!(changed.changed().is_empty(), "the next up changed {:?}", changed.changed());
    // Its place is at the end again.
    cluster.up(MASTERS, WORKERS)?;
    ensure!(cluster.machines()?.contains(&earlier), "{earlier} was not made anew");
    Ok(seen)
}

fn is_gone(cluster: &Cluster, worker: &str) -> Result<()> {
    ensure!(nodes_of_pods(cluster)?.iter().all(|node| node != worker), "a pod is on {worker}");
    let node = format!("node/{worker}");
    let nodes = cluster.kubectl(&["get", "nodes", "-o", "name"])?;
    ensure!(nodes.lines().all(|line| line != node), "it is still a node:\n{nodes}");
    ensure!(!cluster.machines()?.contains(&worker.to_owned()), "the machine is still there");
    let tokens = [
        "get",
        "secrets",
        "--namespace",
        "kube-system",
        "-o",
        "jsonpath={.items[*].metadata.name}",
    ];
    let tokens = cluster.kubectl(&tokens)?.matches("bootstrap-token-").count();
    ensure!(tokens == 0, "{tokens} bootstrap tokens are left, and every machine has joined");
    Ok(())
}

fn manifest() -> String {
    crate::package().join(MANIFEST).display().to_string()
}

fn pods_move_in(cluster: &Cluster, new: &str) -> Result<()> {
    cluster.kubectl(&["apply", "-f", &manifest()])?;
    cluster.kubectl(&["rollout", "status", "deployment/moving", "--timeout=60s"])?;
    cluster.kubectl(&["wait", "pod/alone", "--for=condition=Ready", "--timeout=60s"])?;
    let nodes = nodes_of_pods(cluster)?;
    ensure!(nodes.len() == 2 && nodes.iter().all(|node| node == new), "the pods are on {nodes:?}");
    Ok(())
}

fn nodes_of_pods(cluster: &Cluster) -> Result<Vec<String>> {
    let pods = cluster.get(&["pods", "-l", "app=moving"])?;
    let pods = pods["items"].as_array().context("no list of pods")?;
    let node = |pod: &serde_json::Value| pod["spec"]["nodeName"].as_str().map(str::to_owned);
    Ok(pods.iter().filter_map(node).collect())
}

fn refused_while_a_pod_would_be_lost(cluster: &Cluster, new: &str) -> Result<()> {
    let output = cluster.kdiy("remove").args([new, "--yes"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "a pod that nobody starts anew was given up");
    ensure!(said.contains("default/alone"), "it did not say which pod would be lost:\n{said}");
    ensure!(nodes_of_pods(cluster)?.iter().all(|node| node == new), "pods have moved already");
    cluster.kubectl(&["delete", "pod", "alone", "--wait"])?;
    Ok(())
}
