//! Pods on every machine, and whether they reach each other.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::cluster::Cluster;
use super::{MASTERS, WORKERS};
use crate::host;

const NAMESPACE: &str = "lab-e2e";
const MANIFEST: &str = "e2e/hello.yaml";

struct Pod {
    name: String,
    address: String,
    node_address: String,
}

pub fn start(cluster: &Cluster) -> Result<String> {
    let manifest = crate::package().join(MANIFEST);
    cluster.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
    let wait = ["rollout", "status", "daemonset/hello", "-n", NAMESPACE, "--timeout=120s"];
    cluster.kubectl(&wait)?;
    Ok(format!("{} pods", pods(cluster)?.len()))
}

pub fn reach_each_other(cluster: &Cluster) -> Result<String> {
    let pods = pods(cluster)?;
    for from in &pods {
        for to in &pods {
            let answer = fetch(cluster, from, &format!("{}:8080", to.address))?;
            if answer.trim() != to.name {
                bail!("{} asked {} and heard {answer:?}", from.name, to.name);
            }
        }
    }
    Ok(format!("{} pairs", pods.len() * pods.len()))
}

pub fn find_a_service(cluster: &Cluster) -> Result<String> {
    let pods = pods(cluster)?;
    for pod in &pods {
        let answer = fetch(cluster, pod, &format!("hello.{NAMESPACE}"))?;
        ensure!(is_one_of(&pods, &answer), "{} heard {answer:?}", pod.name);
    }
    Ok(format!("from {} pods", pods.len()))
}

pub fn answer_on_a_node_port(cluster: &Cluster) -> Result<String> {
    let service = cluster.get(&["service", "hello", "-n", NAMESPACE])?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().context("there is no NodePort")?;
    let pods = pods(cluster)?;
    for pod in &pods {
        let url = format!("http://{}:{port}/", pod.node_address);
        let curl = ["-fsS", "--max-time", "10", "--noproxy", "*", &url];
        let answer = host::ask(Command::new("curl").args(curl))?;
        ensure!(is_one_of(&pods, &answer), "{url} answered {answer:?}");
    }
    Ok(format!("port {port} of {} machines", pods.len()))
}

fn is_one_of(pods: &[Pod], answer: &str) -> bool {
    pods.iter().any(|pod| pod.name == answer.trim())
}

fn fetch(cluster: &Cluster, from: &Pod, at: &str) -> Result<String> {
    let url = format!("http://{at}/");
    // `timeout` rather than `wget -T`, which Debian's busybox crashes on.
    let wget = ["timeout", "10", "wget", "-q", "-O-", &url];
    let exec = ["exec", "-n", NAMESPACE, &from.name, "--"];
    cluster
        .kubectl(&[&exec[..], &wget].concat())
        .with_context(|| format!("{} does not reach {url}", from.name))
}

/// One on every machine; fewer are an error, so that no check passes for want of pods.
fn pods(cluster: &Cluster) -> Result<Vec<Pod>> {
    let list = cluster.get(&["pods", "-n", NAMESPACE, "-l", "app=hello"])?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let pods: Vec<Pod> = list["items"]
        .as_array()
        .context("no list of pods")?
        .iter()
        .map(|pod| {
            Some(Pod {
                name: text(&pod["metadata"]["name"])?,
                address: text(&pod["status"]["podIP"])?,
                node_address: text(&pod["status"]["hostIP"])?,
            })
        })
        .collect::<Option<_>>()
        .context("a pod has no address")?;
    ensure!(pods.len() == MASTERS + WORKERS, "there are {} pods", pods.len());
    Ok(pods)
}
