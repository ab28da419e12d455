//! `kdiy status` and `kdiy verify`, on a cluster that is well and on one that lacks a machine.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::cluster::Cluster;
use super::{MASTERS, WORKERS};
use crate::host;

/// A machine that was off is back, its pods and its node with it, within this.
const RECOVERS_WITHIN: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_secs(2);

pub fn is_healthy(cluster: &Cluster) -> Result<String> {
    let (code, status) = status(cluster)?;
    ensure!(code == 0 && status["health"] == "healthy", "exit {code}: {}", status["problems"]);
    let etcd = &status["etcd"];
    ensure!(etcd["members"] == MASTERS && etcd["mayLoseNow"] == 1, "etcd: {etcd}");
    ensure!(status["virtualAddress"]["holders"].as_array().is_some_and(|it| it.len() == 1));
    let machines = status["machines"].as_array().context("no machines")?;
    ensure!(machines.len() == MASTERS + WORKERS, "{} machines", machines.len());
    for machine in machines {
        ensure!(machine["node"]["ready"] == true, "{}: {}", machine["name"], machine["node"]);
        ensure!(machine["drift"] == serde_json::json!([]), "{}", machine["drift"]);
        let certificates = machine["certificates"].as_array().map_or(0, Vec::len);
        ensure!(certificates > 0, "{} has no certificates", machine["name"]);
    }
    Ok(format!("looked for {} ms", status["elapsedMs"]))
}

pub fn verifies(cluster: &Cluster) -> Result<String> {
    let directory = cluster.state().join("../verify-report");
    let output = cluster
        .kdiy("verify")
        .args(["--deep", "--output", "json", "--report"])
        .arg(&directory)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().context("verify said nothing")?;
    let report: Value = serde_json::from_str(last).with_context(|| format!("no JSON: {last}"))?;
    let entries = report["entries"].as_array().with_context(|| format!("no report: {last}"))?;
    let failed: Vec<String> = entries
        .iter()
        .filter(|entry| entry["verdict"]["verdict"] == "failed")
        .map(|entry| format!("{}: {}", entry["name"], entry["verdict"]["why"]))
        .collect();
    ensure!(failed.is_empty() && output.status.success(), "{}", failed.join("; "));
    for part in ["gates", "smoke", "deep"] {
        let passed =
            |entry: &&Value| entry["part"] == part && entry["verdict"]["verdict"] == "passed";
        ensure!(entries.iter().filter(passed).count() > 2, "hardly anything of {part} was tried");
    }
    for file in ["report.md", "report.json", "junit.xml"] {
        ensure!(directory.join(file).is_file(), "{file} was not written");
    }
    let left = cluster.get(&["namespaces", "-l", "kdiy.dev/trial"])?;
    ensure!(left["items"] == serde_json::json!([]), "namespaces are left: {}", left["items"]);
    Ok(format!(
        "{} passed, {} skipped in {} ms",
        report["passed"], report["skipped"], report["elapsedMs"]
    ))
}

/// Takes a worker away and brings it back.
pub fn notices_a_machine_that_is_off(cluster: &Cluster) -> Result<String> {
    let worker = format!("{}-worker-{WORKERS}", super::NAME);
    host::run(cluster.docker().args(["stop", "--time", "1", &worker]))?;
    let looked = status(cluster);
    // Whatever was seen, the checks that follow want the machine back.
    host::run(cluster.docker().args(["start", &worker]))?;
    let (code, status_then) = looked?;
    ensure!(code == 3 && status_then["health"] == "degraded", "exit {code} with a machine off");
    let gone: Vec<&Value> = status_then["machines"]
        .as_array()
        .context("no machines")?
        .iter()
        .filter(|machine| !machine["unreachable"].is_null())
        .map(|machine| &machine["name"])
        .collect();
    ensure!(gone == [&Value::from(worker)], "out of reach: {gone:?}");
    ensure!(status_then["etcd"]["mayLoseNow"] == 1, "a worker is no member of etcd");
    let began = Instant::now();
    loop {
        let (code, status) = status(cluster)?;
        if code == 0 {
            break;
        }
        if began.elapsed() > RECOVERS_WITHIN {
            bail!("still not healthy: {}", status["problems"]);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(format!(
        "seen in {} ms, healthy {} s after it was switched on",
        status_then["elapsedMs"],
        began.elapsed().as_secs()
    ))
}

/// The exit code and what was seen.
fn status(cluster: &Cluster) -> Result<(i32, Value)> {
    let output = cluster.kdiy("status").args(["--output", "json"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let status = serde_json::from_str(text.trim())
        .with_context(|| format!("no JSON: {text} {}", host::tail(&output.stderr, 5)))?;
    Ok((output.status.code().context("status was killed")?, status))
}
