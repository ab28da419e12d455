//! The cluster that is tried, driven through the `kdiy` program alone.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{Ground, Ready, host};

/// A cluster of its own, beside the one that the user may have. Its state is kept apart from the
/// user's; kdiy's cache of release files is shared by all clusters of the lab. It stands on system
/// containers, unless another ground is named.
pub struct Cluster<'a, G = Ready> {
    lab: &'a G,
    name: &'static str,
    directory: PathBuf,
}

/// What was kept of checks that failed, in the directory of all clusters.
const FAILED: &str = "failed";
const LAST_JOURNAL: &str = "journalctl --quiet --no-pager --output short-precise --since -15min";

impl<G> Clone for Cluster<'_, G> {
    fn clone(&self) -> Self {
        Self { lab: self.lab, name: self.name, directory: self.directory.clone() }
    }
}

/// Of checks that failed in earlier runs.
pub fn forget_what_was_said(cache: &Path) -> Result<()> {
    let kept = directory(cache).join(FAILED);
    if kept.exists() {
        fs::remove_dir_all(kept)?;
    }
    Ok(())
}

fn directory(cache: &Path) -> PathBuf {
    cache.join("e2e")
}

impl<'a, G: Ground> Cluster<'a, G> {
    pub fn new(lab: &'a G, cache: &Path, name: &'static str) -> Result<Self> {
        let directory = directory(cache);
        fs::create_dir_all(&directory)?;
        Ok(Self { lab, name, directory })
    }

    pub fn up(&self, masters: usize, workers: usize) -> Result<Run> {
        self.run(&mut self.up_command(masters, workers))
    }

    /// As whoever has no cluster file and says nothing of what the cluster was made with.
    pub fn up_again(&self) -> Result<Run> {
        self.run(self.kdiy("up").args(["--yes", "--output", "json"]))
    }

    /// An `up` that says what it does as JSON.
    pub fn run(&self, up: &mut Command) -> Result<Run> {
        let said = host::ask(up)?;
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.said())?;
        file.write_all(said.as_bytes())?;
        Run::parse(&said)
    }

    pub fn up_command(&self, masters: usize, workers: usize) -> Command {
        let mut up = self.wanted("up", masters, workers);
        up.args(["--yes", "--output", "json"]);
        up
    }

    /// A verb that takes the flags of `up`.
    pub fn wanted(&self, verb: &str, masters: usize, workers: usize) -> Command {
        let mut kdiy = self.lab.wanted(verb, masters + workers);
        self.set(&mut kdiy);
        let (masters, workers) = (masters.to_string(), workers.to_string());
        kdiy.args(["--name", self.name, "--masters", &masters, "--workers", &workers]);
        kdiy
    }

    /// Where all that `up` said is kept until the cluster is destroyed.
    pub fn said(&self) -> PathBuf {
        self.directory.join(format!("{}.jsonl", self.name))
    }

    /// Where clients find the api.
    pub fn endpoint(&self) -> Result<String> {
        let kubeconfig = host::ask(&mut self.kdiy("kubeconfig"))?;
        let server = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("server: "));
        Ok(server.context("a kubeconfig without a server")?.to_owned())
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        host::ask(self.kdiy("kubectl").arg("--").args(arguments))
    }

    /// `kubectl get … -o json`.
    pub fn get(&self, what: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], what].concat())?;
        serde_json::from_str(&text).context("kubectl gave no JSON")
    }

    pub fn kdiy(&self, verb: &str) -> Command {
        let mut kdiy = self.lab.kdiy();
        self.set(&mut kdiy);
        kdiy.args([verb, "--name", self.name]);
        kdiy
    }

    pub fn lab(&self) -> &'a G {
        self.lab
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// For files that a check needs.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// The cluster's own directory in there.
    pub fn home(&self) -> PathBuf {
        self.state().join(self.name)
    }

    pub fn state_is_gone(&self) -> Result<()> {
        let state = self.home();
        ensure!(!state.exists(), "{} is left", state.display());
        Ok(())
    }

    fn set(&self, command: &mut Command) {
        command
            // Where no cluster file of the user's lies.
            .current_dir(&self.directory)
            .env("KDIY_STATE", self.state())
            .env("KDIY_CACHE", self.directory.join("cache"));
    }
}

impl Cluster<'_> {
    /// Removes the cluster and looks whether anything of it is left. With no cluster there is
    /// nothing to do, which is no error.
    pub fn destroy(&self) -> Result<String> {
        let containers = self.containers()?;
        let volumes = "{{range .Mounts}}{{if eq .Type \"volume\"}}{{.Name}} {{end}}{{end}}";
        let volumes = self.inspect(&containers, volumes)?;
        let networks = "{{range $name, $it := .NetworkSettings.Networks}}{{$name}} {{end}}";
        let mut networks = self.inspect(&containers, networks)?;
        networks.remove("bridge");
        host::run(self.kdiy("destroy").arg("--yes"))?;

        let left = self.containers()?;
        ensure!(left.is_empty(), "containers are left: {}", left.join(" "));
        for (kind, before) in [("volume", &volumes), ("network", &networks)] {
            let now = host::ask(self.docker().args([kind, "ls", "--format", "{{.Name}}"]))?;
            if let Some(left) = now.lines().find(|name| before.contains(*name)) {
                bail!("the {kind} {left} is left");
            }
        }
        self.state_is_gone()?;
        if self.said().exists() {
            fs::remove_file(self.said())?;
        }
        Ok(format!(
            "{} containers, {} volumes and {} networks are gone",
            containers.len(),
            volumes.len(),
            networks.len()
        ))
    }

    /// The machines' whole names.
    pub fn machines(&self) -> Result<Vec<String>> {
        let filter = format!("name=^/?{}-", self.name);
        let list = ["ps", "--filter", &filter, "--format", "{{.Names}}"];
        Ok(host::ask(self.docker().args(list))?.lines().map(str::to_owned).collect())
    }

    /// Its whole name, of `master-1`.
    pub fn machine(&self, which: &str) -> String {
        format!("{}-{which}", self.name)
    }

    /// What its machines' journals and its runs have said until now, for whoever reads that a check
    /// has failed when they are gone; the directory where that is.
    pub fn keep_what_was_said(&self, check: &str) -> Result<PathBuf> {
        let directory = self.directory.join(FAILED).join(check.replace(' ', "-"));
        fs::create_dir_all(&directory)?;
        for machine in self.machines()? {
            // Of a machine that says nothing any more this is what there is to know.
            let journal = self.on(&machine, LAST_JOURNAL).unwrap_or_else(|why| format!("{why:#}"));
            fs::write(directory.join(format!("{machine}.log")), journal)?;
        }
        // Before the first of them there is no such directory.
        for run in fs::read_dir(self.home().join("runs")).into_iter().flatten() {
            let run = run?;
            fs::copy(run.path(), directory.join(run.file_name()))?;
        }
        Ok(directory)
    }

    /// What a script, run as root on a machine, says; it must succeed.
    pub fn on(&self, machine: &str, script: &str) -> Result<String> {
        host::ask(self.docker().args(["exec", machine, "/bin/sh", "-c", script]))
    }

    pub fn docker(&self) -> Command {
        self.lab.engine.command()
    }

    pub fn containers(&self) -> Result<Vec<String>> {
        // By name, not by the label that kdiy itself goes by: what lost its label counts as well.
        let filter = format!("name=^/?{}-", self.name);
        let list = host::ask(self.docker().args(["ps", "-aq", "--filter", &filter]))?;
        Ok(list.lines().map(str::to_owned).collect())
    }

    fn inspect(&self, containers: &[String], format: &str) -> Result<BTreeSet<String>> {
        if containers.is_empty() {
            return Ok(BTreeSet::new());
        }
        let mut inspect = self.docker();
        inspect.args(["inspect", "--format", format]).args(containers);
        Ok(host::ask(&mut inspect)?.split_whitespace().map(str::to_owned).collect())
    }
}

/// What `--output json` said: one event a line.
pub struct Run {
    events: Vec<Value>,
}

impl Run {
    /// Of a run that was killed: its last line may be half a line.
    pub fn parse_whole_lines(text: &str) -> Result<Self> {
        Self::parse(text.rsplit_once('\n').map_or("", |(whole, _)| whole))
    }

    /// Tasks that changed something.
    pub fn changed(&self) -> Vec<&str> {
        self.of_kind("task-finished")
            .filter(|event| event["outcome"] == "changed")
            .filter_map(|event| event["task"].as_str())
            .collect()
    }

    pub fn parse(text: &str) -> Result<Self> {
        let events = text
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
            .collect::<Result<_>>()?;
        Ok(Self { events })
    }

    /// In the order in which they happened.
    pub fn events(&self) -> &[Value] {
        &self.events
    }

    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |event| event["event"] == kind)
    }

    /// The event that ends a run.
    pub fn last(&self) -> Result<&Value> {
        self.of_kind("run-finished").last().context("the run did not say that it finished")
    }

    pub fn elapsed_seconds(&self) -> Result<u64> {
        Ok(self.last()?["elapsedMs"].as_u64().context("the run has no duration")? / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_read_line_by_line() {
        let run = Run::parse(
            "{\"event\":\"note\",\"message\":\"m\"}\n\
             {\"event\":\"run-finished\",\"outcome\":\"unchanged\",\"changed\":0,\"elapsedMs\":2900}\n",
        )
        .unwrap();
        assert_eq!(run.of_kind("note").count(), 1);
        assert_eq!(run.elapsed_seconds().unwrap(), 2);
        assert_eq!(run.last().unwrap()["changed"], 0);
    }

    #[test]
    fn a_run_that_broke_off_is_no_run() {
        assert!(Run::parse("kdiy: something\n").is_err());
        let cut = "{\"event\":\"note\"}\n{\"eve";
        assert!(Run::parse(cut).is_err());
        assert!(Run::parse_whole_lines(cut).unwrap().last().is_err());
    }
}
