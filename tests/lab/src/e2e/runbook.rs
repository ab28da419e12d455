//! The guide, carried out by somebody who has no kdiy: its blocks, in order, by plain ssh on bare
//! machines. kdiy makes the machines, and afterwards judges what has become of them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::cluster::Cluster;
use crate::Ready;
use crate::host;
use crate::stage::{Check, Stage};

const NAME: &str = "lab-hand";
const MASTERS: usize = 1;
const WORKERS: usize = 1;
/// What is still running then waits for something that will not come, in seconds.
const BLOCK_ENDS_WITHIN: &str = "300";
/// Lines of a failed block's output that are shown.
const TAIL: usize = 15;

pub fn stage<'a>(lab: &'a Ready, cache: &Path) -> Result<Stage<'a>> {
    let cluster = Cluster::new(lab, cache, NAME)?;
    let with = |check: fn(&Reader<'a>) -> Result<String>| {
        let reader = Reader::of(&cluster);
        move || check(&reader)
    };
    Ok(Stage {
        setup: vec![
            Check::new("nothing is left of an earlier reader", with(Reader::clean)),
            Check::new("bare machines are made", with(Reader::bare_machines)),
            Check::new("the guide is written for them", with(Reader::obtain)),
            Check::new("every block of the guide does what it says", with(Reader::carry_out)),
        ],
        checks: vec![
            Check::new("its files are those that kdiy would write", with(Reader::has_kdiys_files)),
            Check::new("kdiy's own gates pass on it", with(Reader::passes_the_gates)),
        ],
        teardown: vec![Check::new("nothing is left of the reader", with(Reader::clean))],
        ..Stage::default()
    })
}

/// Somebody with the guide, a computer and no kdiy.
struct Reader<'a> {
    cluster: Cluster<'a>,
    home: PathBuf,
}

impl<'a> Reader<'a> {
    fn of(cluster: &Cluster<'a>) -> Self {
        Self { cluster: cluster.clone(), home: cluster.state().join("../reader") }
    }

    fn guide(&self) -> PathBuf {
        self.home.join("guide.md")
    }

    fn clean(&self) -> Result<String> {
        if self.home.exists() {
            fs::remove_dir_all(&self.home)?;
        }
        self.cluster.destroy()
    }

    fn bare_machines(&self) -> Result<String> {
        host::ask(
            self.cluster.wanted("up", MASTERS, WORKERS).args(["--yes", "--only", "machines"]),
        )?;
        let containers = self.cluster.containers()?.len();
        ensure!(containers == MASTERS + WORKERS, "{containers} machines");
        Ok(format!("{containers} machines"))
    }

    fn obtain(&self) -> Result<String> {
        fs::create_dir_all(&self.home)?;
        let mut guide = self.cluster.wanted("guide", MASTERS, WORKERS);
        host::ask(guide.arg("--out").arg(self.guide()))?;
        let text = fs::read_to_string(self.guide())?;
        Ok(format!("{} lines, {} blocks", text.lines().count(), blocks(&text).len()))
    }

    fn carry_out(&self) -> Result<String> {
        let text = fs::read_to_string(self.guide())?;
        let blocks = blocks(&text);
        ensure!(!blocks.is_empty(), "the guide has no blocks");
        let mut typed = 0;
        for block in &blocks {
            for place in block.places.split(',') {
                self.type_in(place, block)?;
                typed += 1;
            }
        }
        Ok(format!("{} blocks, typed {typed} times", blocks.len()))
    }

    /// Runs a block where it says, by sh alone.
    fn type_in(&self, place: &str, block: &Block) -> Result<()> {
        let script = self.home.join("block");
        fs::write(&script, &block.commands)?;
        let directory = self.home.join(format!("{NAME}-by-hand"));
        let mut shell = Command::new("timeout");
        shell.arg(BLOCK_ENDS_WITHIN);
        match place {
            "here" => shell.args(["sh", "-eu"]).arg(&script).stdin(Stdio::null()),
            machine => {
                shell.args(["ssh", "-F"]).arg(directory.join("ssh_config")).arg(machine);
                // Read whole before it runs: no command in it may swallow the rest.
                shell.arg("sudo -n sh -euc \"$(cat)\" </dev/null").stdin(File::open(&script)?)
            }
        };
        if directory.exists() {
            shell.current_dir(&directory);
        }
        let output = shell.env("HOME", &self.home).env_remove("KUBECONFIG").output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let lines: Vec<&str> = said.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL)..];
        bail!(
            "line {} of {}, on {place}: {}\n{}",
            block.line,
            self.guide().display(),
            output.status,
            tail.join("\n")
        )
    }

    /// The reader's keys become the cluster's, so that kdiy sees it with the reader's eyes.
    fn hand_over(&self) -> Result<()> {
        let mine = self.home.join(format!("{NAME}-by-hand/pki"));
        let kdiys = self.cluster.state().join(NAME).join("pki");
        for entry in fs::read_dir(&mine)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.ends_with(".crt") || name.ends_with(".key") {
                fs::copy(&path, kdiys.join(&name))?;
            }
        }
        // The record is true to the keys that kdiy would have made.
        let record = self.cluster.state().join(NAME).join("cluster.json");
        let mut document: Value = serde_json::from_str(&fs::read_to_string(&record)?)?;
        document.as_object_mut().context("no record")?.remove("keys");
        fs::write(&record, document.to_string())?;
        let key = fs::read_to_string(mine.join("encryption-key"))?;
        let secrets = json!({ "encryptionKey": key.trim() });
        Ok(fs::write(kdiys.join("secrets.json"), secrets.to_string())?)
    }

    /// What differs is only what kdiy notes on machines for itself.
    fn has_kdiys_files(&self) -> Result<String> {
        self.hand_over()?;
        let mut plan = self.cluster.wanted("plan", MASTERS, WORKERS);
        let output = plan.args(["--output", "json"]).output()?;
        let plan: Value = serde_json::from_slice(&output.stdout).context("no plan")?;
        let silent = plan["machines"].as_array().context("no machines")?.iter();
        ensure!(silent.clone().all(|it| it["is"]["state"] == "answers"), "{}", plan["machines"]);
        let parts = plan["parts"].as_array().context("no parts")?;
        let mut foreign = Vec::new();
        for part in parts {
            for action in part["actions"].as_array().into_iter().flatten() {
                let verb = action["verb"].as_str().unwrap_or_default();
                if ["create", "change", "settle", "enable", "start"].contains(&verb) {
                    foreign.push(format!(
                        "{}: {verb} {}\n{}",
                        part["machine"],
                        action["what"],
                        action["diff"].as_str().unwrap_or_default()
                    ));
                }
            }
        }
        ensure!(foreign.is_empty(), "kdiy would {}", foreign.join("\n"));
        Ok("no file, unit or object differs".into())
    }

    fn passes_the_gates(&self) -> Result<String> {
        // As `up` notes it at its end: there is a cluster to prove.
        let record = self.cluster.state().join(NAME).join("cluster.json");
        let mut document: Value = serde_json::from_str(&fs::read_to_string(&record)?)?;
        document["complete"] = true.into();
        fs::write(&record, document.to_string())?;
        let said = host::ask(self.cluster.kdiy("start").args(["--output", "json"]))?;
        let last: Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
        let gates = last["gates"].as_u64().context("no gates")?;
        ensure!(gates > 0, "there was nothing to prove");
        Ok(format!("{gates} gates"))
    }
}

struct Block<'a> {
    /// `here`, or machines, separated by commas.
    places: &'a str,
    commands: String,
    /// Of the document.
    line: usize,
}

fn blocks(markdown: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut inside = false;
    for (number, line) in markdown.lines().enumerate() {
        if let Some(places) = line.strip_prefix("```sh on=") {
            inside = true;
            blocks.push(Block { places, commands: String::new(), line: number + 1 });
        } else if line == "```" {
            inside = false;
        } else if let Some(block) = blocks.last_mut().filter(|_| inside) {
            block.commands.push_str(line);
            block.commands.push('\n');
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_with_their_places_and_other_code_is_not() {
        let text = "# x\n```sh on=a,b\none\n\ntwo\n```\n```\nno\n```\n```sh on=here\nthree\n```\n";
        let read: Vec<_> =
            blocks(text).into_iter().map(|it| (it.places, it.commands, it.line)).collect();
        assert_eq!(read, [("a,b", "one\n\ntwo\n".into(), 2), ("here", "three\n".to_owned(), 10)]);
    }
}
