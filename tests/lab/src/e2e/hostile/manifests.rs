//! Manifests, read and applied as kubectl does, on a cluster whose pod network is one of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::e2e::cluster::{Cluster, Run};
use crate::stage::Check;

const NAME: &str = "lab-own-network";
/// Of `tests/manifests`: what kubectl reads.
const READ: &str = "kubectl.json";
/// Those that need what comes before them.
const FIRST: [&str; 2] = ["namespace.yaml", "cert-manager-shaped.yaml"];
/// From the beginning of `up` until the webhook's pod is there, on a busy computer.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// Within this a call to the api gave up before: the webhook's pod takes longer to be ready.
const STARTING_AT_LEAST: f64 = 22.0;

pub(super) fn checks<'a>(cluster: &Cluster<'a>) -> Vec<Check<'a>> {
    let cluster = cluster.clone();
    vec![Check::new("add-ons that bring the network are applied as kubectl does", move || {
        let cache = cluster.directory().parent().context("no cache")?;
        let own = Cluster::new(cluster.lab(), cache, NAME)?;
        let seen = tried(&own);
        own.destroy()?;
        seen
    })]
}

fn tried(cluster: &Cluster) -> Result<String> {
    let directory = cluster.directory().join(NAME);
    fs::create_dir_all(&directory)?;
    let own = crate::package().join("e2e/own-network");
    let corpus = corpus()?;
    let objects: usize = corpus.values().map(Vec::len).sum();
    let mut files: Vec<PathBuf> = vec![own.join("cni.yaml")];
    files.extend(ordered(&corpus).map(|name| manifests().join(name)));
    let with_addons = |files: &[PathBuf]| {
        let addons: String = files.iter().map(|file| format!("- {}\n", file.display())).collect();
        format!("network: {{cni: none}}\naddons:\n{addons}")
    };
    let without_operator = with_addons(&files);
    files.push(own.join("operator.yaml"));
    let file = directory.join("cluster.yaml");
    fs::write(&file, with_addons(&files))?;

    let run = thread::scope(|scope| {
        let run = scope.spawn(|| cluster.run(&mut up(cluster, &file)));
        // Nobody answers for the webhook: once its pod is ready, it goes.
        let waited = hook_goes(cluster);
        let run = run.join().map_err(|_| anyhow::anyhow!("the run broke off"))??;
        waited.map(|()| run)
    })?;
    let waited = webhook_was_waited_for(&run)?;
    let warned = run.of_kind("warning").filter(|it| said(it).contains("PodSecurity")).count();
    ensure!(warned > 0, "nobody was told what the api warns of");
    cluster.kubectl(&[
        "--namespace=kube-system",
        "rollout",
        "status",
        "deployment/coredns",
        "--timeout=60s",
    ])?;
    read_alike(cluster, &corpus)?;
    for name in corpus.keys() {
        let path = manifests().join(name).display().to_string();
        let diff = ["diff", "--server-side", "--field-manager=kdiy", "-f", &path];
        // Ends with 1 where there is a difference, and says which.
        let output =
            cluster.kdiy("kubectl").arg("--").args(diff).output().context("cannot start kdiy")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success() || is_order_alone(&said),
            "kubectl would change what is in {name}:\n{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    // It would bring its webhook back, which nobody answers for.
    fs::write(&file, without_operator)?;
    let again = cluster.run(&mut up(cluster, &file))?;
    ensure!(again.changed().is_empty(), "the next up changed {:?}", again.changed());
    conflict_is_refused(cluster, &file)?;
    Ok(format!(
        "{objects} objects are as kubectl would have them; waited {waited:.0} s for a webhook; {} \
         in all",
        run.elapsed_seconds()?
    ))
}

fn up(cluster: &Cluster, file: &Path) -> Command {
    let mut up = cluster.up_command(1, 1);
    up.arg("--config").arg(file);
    up
}

fn manifests() -> PathBuf {
    crate::package().join("../manifests")
}

/// By file.
fn corpus() -> Result<BTreeMap<String, Vec<Value>>> {
    let text = fs::read_to_string(manifests().join(READ))?;
    serde_json::from_str(&text).context(READ)
}

fn ordered(corpus: &BTreeMap<String, Vec<Value>>) -> impl Iterator<Item = &str> {
    let rest = corpus.keys().map(String::as_str).filter(|name| !FIRST.contains(name));
    FIRST.into_iter().chain(rest)
}

/// That kdiy reads what [`READ`] says is a test of its own; here kubectl does. `--local` asks no
/// cluster.
fn read_alike(cluster: &Cluster, corpus: &BTreeMap<String, Vec<Value>>) -> Result<()> {
    for (name, expected) in corpus {
        let path = manifests().join(name).display().to_string();
        let read = ["annotate", "--local", "--output=json", "--filename", &path, "kdiy-"];
        let text = cluster.kubectl(&read)?;
        let objects = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        let mut objects: Vec<Value> = objects.collect::<Result<_, _>>()?;
        for object in &mut objects {
            // It makes an empty map of what it takes out.
            if let Some(metadata) = object["metadata"].as_object_mut()
                && metadata.get("annotations").is_some_and(|it| *it == serde_json::json!({}))
            {
                metadata.remove("annotations");
            }
        }
        ensure!(objects == *expected, "kubectl reads {name} in another way than {READ} says");
    }
    Ok(())
}

/// kubectl sorts keys by an order in which some numbers come before, after or beside each other, so
/// that the same map may be printed in two ways.
fn is_order_alone(diff: &str) -> bool {
    let changed = |mark: char, header: &str| {
        let lines = diff.lines().filter(|line| line.starts_with(mark) && !line.starts_with(header));
        let mut lines: Vec<&str> = lines.map(|line| &line[1..]).collect();
        lines.sort_unstable();
        lines
    };
    let (gone, new) = (changed('-', "--- "), changed('+', "+++ "));
    !gone.is_empty() && gone == new
}

fn hook_goes(cluster: &Cluster) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < READY_WITHIN {
        let ready = ["get", "deployment", "hook", "-o", "jsonpath={.status.readyReplicas}"];
        if cluster.kubectl(&ready).is_ok_and(|count| count == "1") {
            cluster.kubectl(&["delete", "validatingwebhookconfigurations", "hook"])?;
            return Ok(());
        }
        thread::sleep(Duration::from_secs(1));
    }
    bail!("the webhook's pod was not ready within {} s", READY_WITHIN.as_secs())
}

fn said(event: &Value) -> &str {
    event["message"].as_str().unwrap_or_default()
}

/// For how many seconds.
fn webhook_was_waited_for(run: &Run) -> Result<f64> {
    let waited = "waiting for the webhook hook.example.org: 0 of 1 pods ready";
    let at = |event: &Value| -> Option<f64> {
        let time = event["at"].as_str()?;
        let (_, time) = time.split_once('T')?;
        let mut seconds = 0.0;
        for part in time.trim_end_matches('Z').split(':') {
            seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
        }
        Some(seconds)
    };
    let told = run.of_kind("task-progress").filter(|event| said(event) == waited);
    let times: Vec<f64> = told.filter_map(at).collect();
    let (first, last) = (times.first().context("no wait was told")?, times.last().context("")?);
    // Over midnight it is less than nothing.
    let waited = (last - first).rem_euclid(24.0 * 3600.0);
    ensure!(waited >= STARTING_AT_LEAST, "waited for {waited} s only");
    Ok(waited)
}

/// What somebody else has set is theirs, as it is for kubectl.
fn conflict_is_refused(cluster: &Cluster, file: &Path) -> Result<()> {
    let patch = r#"{"data":{"k":"theirs"}}"#;
    let theirs = ["--namespace=manifests", "patch", "configmap", "list-a", "--type=merge"];
    cluster.kubectl(&[&theirs[..], &["--patch", patch]].concat())?;
    let refused = cluster.run(up(cluster, file).args(["--only", "own-pod-network"]));
    let Err(refused) = refused else { bail!("what somebody else has set was overwritten") };
    let refused = format!("{refused:#}");
    ensure!(refused.contains("conflict with") && refused.contains("list-a"), "{refused}");
    ensure!(!refused.contains("Status {"), "an error for programmers: {refused}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_no_difference_but_a_value_is() {
        let diff = "--- a\n+++ b\n-  \"1\": 2\n   \"2\": 3\n+  \"1\": 2\n";
        assert!(is_order_alone(diff));
        assert!(!is_order_alone(&diff.replacen("\"1\": 2", "\"1\": 4", 1)));
        assert!(!is_order_alone("kubectl: no such file"));
    }
}
