//! Machines that go off, in an orderly way and in any other.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::cluster::Cluster;
use crate::host;

pub fn quorum_is_not_given_away(cluster: &Cluster) -> Result<String> {
    let output = cluster.kdiy("stop").args(["master-1", "master-2", "--yes"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "two of three masters were stopped");
    ensure!(said.contains("has no quorum"), "kdiy said: {said}");
    ensure!(running(cluster)? == cluster.containers()?.len(), "a machine is off");
    Ok(String::new())
}

/// `start` changes nothing on the machines, so what is green then came back by itself.
pub fn all_come_back_from_a_stop(cluster: &Cluster) -> Result<String> {
    host::run(cluster.kdiy("stop").arg("--yes"))?;
    ensure!(running(cluster)? == 0, "a machine is still on");
    start(cluster)
}

pub fn all_come_back_from_a_power_cut(cluster: &Cluster) -> Result<String> {
    let containers = cluster.containers()?;
    host::run(cluster.docker().arg("kill").args(&containers))?;
    ensure!(running(cluster)? == 0, "a machine is still on");
    start(cluster)
}

fn start(cluster: &Cluster) -> Result<String> {
    let began = Instant::now();
    let said = host::ask(cluster.kdiy("start").args(["--output", "json"]))?;
    let last: serde_json::Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
    ensure!(last["started"] == true && last["gates"].as_u64() > Some(0), "kdiy said: {last}");
    Ok(format!("{} gates green after {:.0} s", last["gates"], began.elapsed().as_secs_f64()))
}

fn running(cluster: &Cluster) -> Result<usize> {
    let mut count = 0;
    for container in cluster.containers()? {
        let state = ["inspect", "--format", "{{.State.Running}}", &container];
        count += usize::from(host::ask(cluster.docker().args(state))?.trim() == "true");
    }
    Ok(count)
}
