//! Loads playbooks: the embedded ones, overridden by those in a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use include_dir::{Dir, include_dir};

use crate::playbook::format::{Command, File, Playbook, Step, Unit};
use crate::support::failure::{Failure, Result};
use crate::topology::architecture::Architectures;
use crate::topology::{Group, Topology};

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/playbooks");

/// All playbooks in order of their directory names, with the text of every file beside them.
#[derive(Debug, Clone)]
pub struct Playbooks {
    pub books: Vec<Book>,
    /// By path below the playbook directory, such as `20-etcd/etcd.env.hbs`.
    files: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
pub struct Book {
    /// `20-etcd`.
    pub directory: String,
    pub playbook: Playbook,
}

impl Playbooks {
    /// The playbooks in the binary; files in `overlay` replace or add to them.
    pub fn load(overlay: Option<&Path>) -> Result<Self> {
        let mut files = BTreeMap::new();
        embedded_files(&EMBEDDED, &mut files);
        if let Some(directory) = overlay {
            overlay_files(directory, directory, &mut files)?;
        }
        Self::from_files(files)
    }

    /// Of texts by path below the playbook directory.
    pub fn from_files(files: BTreeMap<String, String>) -> Result<Self> {
        let mut books = Vec::new();
        for (path, text) in &files {
            if let Some(directory) = path.strip_suffix("/playbook.yaml") {
                let playbook = serde_saphyr::from_str(text)
                    .map_err(|error| Failure::input(format!("playbooks/{path}")).because(error))?;
                books.push(Book { directory: directory.to_owned(), playbook });
            }
        }
        let playbooks = Self { books, files };
        playbooks.check()?;
        Ok(playbooks)
    }

    /// Every step with the book it is in, in order.
    pub fn steps(&self) -> impl Iterator<Item = (&Book, &Step)> {
        self.books.iter().flat_map(|book| book.playbook.steps.iter().map(move |step| (book, step)))
    }

    pub fn step(&self, name: &str) -> Option<(&Book, &Step)> {
        self.steps().find(|(_, step)| step.name == name)
    }

    /// An error that lists the steps there are when there is none of this name.
    pub fn known_step(&self, name: &str) -> Result<(&Book, &Step)> {
        self.step(name).ok_or_else(|| {
            let names: Vec<&str> = self.steps().map(|(_, step)| step.name.as_str()).collect();
            Failure::unknown("step", name, &names)
        })
    }

    /// The architectures of the machines on which a step installs this artifact or image.
    pub fn architectures_taking<'a>(
        &self,
        name: &str,
        architectures: &'a Architectures,
        topology: &Topology,
    ) -> BTreeSet<&'a str> {
        let takes = |list: &[String]| list.iter().any(|other| other == name);
        self.steps()
            .filter(|(_, step)| takes(&step.artifacts) || takes(&step.images))
            .flat_map(|(_, step)| topology.machines.iter().map(move |machine| (step.on, machine)))
            .filter(|(group, machine)| topology.is_in(machine, *group))
            .map(|(_, machine)| architectures.of(&machine.name))
            .collect()
    }

    /// A step and every step that it needs, at first or second hand.
    pub fn up_to(&self, step: &Step) -> BTreeSet<String> {
        let mut found = BTreeSet::from([step.name.clone()]);
        let mut waiting = vec![step];
        while let Some(next) = waiting.pop() {
            let needed = next.needs.iter().filter(|name| found.insert((*name).clone()));
            waiting.extend(needed.filter_map(|name| Some(self.step(name)?.1)));
        }
        found
    }

    /// Text of a file, by path below the playbook directory.
    pub fn file(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// Every file with its text, in order of their paths below the playbook directory.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Text of a template that a step of `book` names.
    pub fn template(&self, book: &Book, name: &str) -> Result<&str> {
        self.file(&format!("{}/{name}", book.directory)).ok_or_else(|| {
            Failure::input(format!("playbooks/{}: the file {name} does not exist", book.directory))
        })
    }

    fn check(&self) -> Result<()> {
        let mut problems = Vec::new();
        let names: BTreeSet<&str> = self.steps().map(|(_, step)| step.name.as_str()).collect();
        let mut seen = BTreeSet::new();
        for (book, step) in self.steps() {
            let mut report = |problem: String| {
                problems.push(format!("{}/{}: {problem}", book.directory, step.name))
            };
            if !seen.insert(step.name.as_str()) {
                report("another step has this name".into());
            }
            for need in step.needs.iter().filter(|need| !names.contains(need.as_str())) {
                report(format!("needs `{need}`, which is not a step"));
            }
            let with = step.ready.iter().filter_map(|ready| ready.with.as_ref());
            for with in with.filter(|with| !names.contains(with.as_str())) {
                report(format!("is ready with `{with}`, which is not a step"));
            }
            check_step(step, &mut report);
            for template in templates_of(step) {
                if self.file(&format!("{}/{template}", book.directory)).is_none() {
                    report(format!("the file {template} does not exist"));
                }
            }
        }
        match problems.split_first() {
            None => Ok(()),
            Some((first, rest)) => {
                Err(Failure::input(format!("playbooks/{first}")).tail(rest.to_vec()))
            }
        }
    }
}

fn check_step(step: &Step, report: &mut impl FnMut(String)) {
    let on_machines = !step.packages.is_empty()
        || !step.users.is_empty()
        || !step.directories.is_empty()
        || !step.artifacts.is_empty()
        || !step.images.is_empty()
        || !step.files.is_empty()
        || !step.commands.is_empty()
        || !step.undo.is_empty()
        || !step.leaves.is_empty()
        || !step.shares.is_empty()
        || !step.units.is_empty()
        || step.ready.is_some();
    let in_cluster = !step.manifests.is_empty() || step.action.is_some();
    if step.on == Group::Cluster && on_machines {
        report("`on: cluster` takes manifests, an action and a gate; nothing on a machine".into());
    }
    if step.on != Group::Cluster && in_cluster {
        report("manifests and actions need `on: cluster`".into());
    }
    if step.why.trim().is_empty() {
        report("`why` is empty".into());
    }
    if step.gate_between.is_some() && !step.rolling {
        report("`gateBetween` is for steps with `rolling: true`".into());
    }
    for file in &step.files {
        if sources(file) != 1 {
            report(format!(
                "{}: give exactly one of template, content, certificate, key, kubeconfig, authority",
                file.path
            ));
        }
        check_mode(&file.path, &file.mode, report);
    }
    let blind = |command: &&Command| command.reconcile && command.unless.is_none();
    for command in step.commands.iter().filter(blind) {
        report(format!("`reconcile` needs `unless`: {}", command.why.trim()));
    }
    for directory in &step.directories {
        check_mode(&directory.path, &directory.mode, report);
    }
    for unit in &step.units {
        if shapes(unit) != 1 {
            report(format!("{}: give exactly one of exec, template, packaged", unit.name));
        }
        for flag in unit.flags.iter().filter(|flag| flag.why.trim().is_empty()) {
            report(format!("{}: {} has no reason", unit.name, flag.flag));
        }
    }
}

fn check_mode(path: &str, mode: &str, report: &mut impl FnMut(String)) {
    let valid = mode.len() == 4 && mode.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    if !valid {
        report(format!("{path}: mode `{mode}` is not four octal digits, such as \"0644\""));
    }
}

fn sources(file: &File) -> usize {
    [
        file.template.is_some(),
        file.content.is_some(),
        file.certificate.is_some(),
        file.key.is_some(),
        file.kubeconfig.is_some(),
        file.authority.is_some(),
    ]
    .into_iter()
    .filter(|given| *given)
    .count()
}

fn shapes(unit: &Unit) -> usize {
    [unit.exec.is_some(), unit.template.is_some(), unit.packaged]
        .into_iter()
        .filter(|given| *given)
        .count()
}

fn templates_of(step: &Step) -> impl Iterator<Item = &String> {
    let of_files = step.files.iter().filter_map(|file| file.template.as_ref());
    let of_units = step.units.iter().filter_map(|unit| unit.template.as_ref());
    of_files.chain(of_units).chain(&step.manifests)
}

fn embedded_files(directory: &Dir<'_>, files: &mut BTreeMap<String, String>) {
    for file in directory.files() {
        if let Some(text) = file.contents_utf8() {
            files.insert(file.path().to_string_lossy().replace('\\', "/"), text.to_owned());
        }
    }
    for inner in directory.dirs() {
        embedded_files(inner, files);
    }
}

fn overlay_files(root: &Path, at: &Path, files: &mut BTreeMap<String, String>) -> Result<()> {
    let unreadable =
        |error| Failure::input(format!("--playbooks: cannot read {}", at.display())).because(error);
    for entry in std::fs::read_dir(at).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_dir() {
            overlay_files(root, &path, files)?;
        } else {
            let text = std::fs::read_to_string(&path).map_err(|error| {
                Failure::input(format!("--playbooks: cannot read {}", path.display()))
                    .because(error)
            })?;
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            files.insert(name, text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterConfig;

    #[test]
    fn a_machine_is_sent_only_what_it_installs() {
        let config = ClusterConfig::default();
        let topology = Topology::build(&config, "192.168.56.0/24".parse().unwrap()).unwrap();
        let playbooks = Playbooks::load(None).unwrap();
        let mixed: Architectures = topology
            .machines
            .iter()
            .map(|machine| {
                let arch = if machine.name.contains("worker") { "arm64" } else { "amd64" };
                (machine.name.clone(), arch.to_owned())
            })
            .collect();
        let taking = |name| Vec::from_iter(playbooks.architectures_taking(name, &mixed, &topology));
        assert_eq!(taking("kube-apiserver"), ["amd64"]);
        assert_eq!(taking("kubelet"), ["amd64", "arm64"]);
        assert_eq!(taking("pause"), ["amd64", "arm64"]);
        assert!(taking("no-such-thing").is_empty());
    }

    fn load(yaml: &str) -> Result<Playbooks> {
        Playbooks::from_files(BTreeMap::from([("10-x/playbook.yaml".into(), yaml.into())]))
    }

    #[test]
    fn the_embedded_playbooks_are_sound() {
        let playbooks = Playbooks::load(None).unwrap();
        assert!(playbooks.steps().count() > 10);
    }

    #[test]
    fn every_problem_is_reported_with_its_step() {
        let failure = load(
            "title: x
why: x
steps:
  - {name: a, title: a, why: a, on: all, needs: [b], files: [{path: /x, content: a, key: b}]}
  - {name: a, title: a, why: a, on: cluster, commands: [{run: x, why: x, reconcile: true}]}
",
        )
        .unwrap_err();
        let text = failure.to_string();
        for part in [
            "needs `b`",
            "exactly one of template",
            "another step",
            "nothing on a machine",
            "needs `unless`",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }

    #[test]
    fn an_unknown_key_names_the_file_and_the_key() {
        let failure = load("title: x\nwhy: x\nstepz: []\n").unwrap_err().to_string();
        assert!(failure.contains("10-x/playbook.yaml") && failure.contains("stepz"), "{failure}");
    }
}
