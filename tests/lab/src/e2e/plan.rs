//! What `kdiy plan` says of a cluster that is as it should be, and of one that is not.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::cluster::Cluster;
use super::{MASTERS, WORKERS};
use crate::host;

const EDITED: &str = "/etc/crictl.yaml";

pub fn finds_nothing_to_do(cluster: &Cluster) -> Result<String> {
    let (code, plan) = plan(cluster)?;
    ensure!(code == 0, "it ended with {code}: {}", plan["parts"]);
    Ok("0".into())
}

/// No unit restarts with this file, so the cluster is not disturbed.
pub fn finds_what_was_edited_by_hand(cluster: &Cluster) -> Result<String> {
    let machine = format!("{}-worker-1", cluster.name());
    let on = |command: &str| {
        host::ask(cluster.kdiy("ssh").args([&machine, "--", "sudo", "sh", "-c", command]))
    };
    on(&format!("'echo \"# by hand\" >>{EDITED}'"))?;
    let found = plan(cluster);
    on(&format!("'sed -i \"/by hand/d\" {EDITED}'"))?;
    let (code, plan) = found?;
    ensure!(code == 2, "it ended with {code}");
    let parts = plan["parts"].as_array().context("no parts")?;
    ensure!(parts.len() == 1 && parts[0]["machine"] == *machine, "{}", plan["parts"]);
    let changed = parts[0]["actions"].as_array().context("no actions")?;
    let changed = changed.iter().find(|it| it["what"] == EDITED).context("not the file")?;
    let diff = changed["diff"].as_str().unwrap_or_default();
    ensure!(diff.contains("\n-# by hand"), "no such line in {diff}");
    Ok(format!("{} on {machine}", changed["what"]))
}

fn plan(cluster: &Cluster) -> Result<(i32, Value)> {
    let output = cluster.wanted("plan", MASTERS, WORKERS).args(["--output", "json"]).output()?;
    let code = output.status.code().context("it was killed")?;
    let plan = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((code, plan))
}
