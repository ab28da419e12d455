//! `kdiy cis` on a cluster as it was made, and on one that somebody made worse.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::cluster::Cluster;

/// A file and its mode, and the number of the benchmark that speaks of it.
const KEY: &str = "/etc/kubernetes/pki/apiserver.key";
const OF_KEYS: &str = "1.1.21";

pub fn nothing_fails(cluster: &Cluster) -> Result<String> {
    let findings = findings(cluster, 0)?;
    let count = |status: &str| findings.iter().filter(|it| it["status"] == status).count();
    ensure!(count("pass") > 0, "nothing passes: {findings:?}");
    Ok(format!(
        "{} pass, {} waived, {} to judge by hand",
        count("pass"),
        count("waived"),
        count("manual")
    ))
}

pub fn what_got_worse_is_found(cluster: &Cluster) -> Result<String> {
    let master = cluster.machine("master-2");
    cluster.on(&master, &format!("chmod 0644 {KEY}"))?;
    let found = findings(cluster, 1);
    cluster.on(&master, &format!("chmod 0600 {KEY}"))?;
    let failed: Vec<Value> = found?.into_iter().filter(|it| it["status"] == "fail").collect();
    let [only] = failed.as_slice() else { anyhow::bail!("these fail: {failed:?}") };
    let problem = only["problems"][0].as_str().unwrap_or_default();
    ensure!(only["id"] == OF_KEYS, "{} fails", only["id"]);
    ensure!(problem.contains(&master) && problem.contains(KEY), "it says {problem}");
    Ok(problem.to_owned())
}

fn findings(cluster: &Cluster, code: i32) -> Result<Vec<Value>> {
    let output = cluster.kdiy("cis").args(["--output", "json"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(code), "ended with {}: {text}", output.status);
    let report: Value = serde_json::from_str(&text).context("no report")?;
    report["findings"].as_array().cloned().context("no findings")
}
