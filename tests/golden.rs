//! Everything that kdiy puts on machines, as text: a change of a playbook shows in review as the change
//! of a unit, a flag or a script on a machine. `KDIY_BLESS=1 cargo test --test golden` writes the files.

#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use kdiy::bundle::{Bundle, BundleFile, Renderer, Secrets};
use kdiy::config::ClusterConfig;
use kdiy::playbook::load::Playbooks;
use kdiy::playbook::template::Templates;
use kdiy::support::failure::Result;
use kdiy::topology::Machine;
use kdiy::topology::facts::Facts;

/// Names instead of certificates and keys, which are others each time.
struct Placeholders;

impl Secrets for Placeholders {
    fn certificate(&self, identity: &str, machine: &Machine) -> Result<String> {
        Ok(format!("(certificate {identity} of {})\n", machine.name))
    }

    fn key(&self, identity: &str, machine: &Machine) -> Result<String> {
        Ok(format!("(key {identity} of {})\n", machine.name))
    }

    fn kubeconfig(&self, identity: &str, machine: &Machine, server: &str) -> Result<String> {
        Ok(format!("(kubeconfig {identity} of {} at {server})\n", machine.name))
    }

    fn authority(&self, name: &str) -> Result<String> {
        Ok(format!("(certificate of the authority {name})\n"))
    }
}

fn indented(text: &str) -> String {
    text.lines().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "{}", format!("    {line}").trim_end());
        all
    })
}

fn file(out: &mut String, file: &BundleFile) {
    let _ = write!(out, "file {} {} {}", file.path, file.mode, file.owner);
    if !file.restarts.is_empty() {
        let _ = write!(out, " restarts {}", file.restarts.join(" "));
    }
    let text = String::from_utf8_lossy(&file.bytes);
    let _ = write!(out, "\n{}", indented(&text));
}

fn text(bundle: &Bundle) -> String {
    let mut out = format!("## {}\n", bundle.step);
    for package in &bundle.packages {
        let _ = writeln!(out, "package {}", serde_json::to_string(package).unwrap());
    }
    for user in &bundle.users {
        let _ = writeln!(out, "user {}", serde_json::to_string(user).unwrap());
    }
    for directory in &bundle.directories {
        let _ = writeln!(out, "directory {}", serde_json::to_string(directory).unwrap());
    }
    for name in bundle.artifacts.iter().chain(&bundle.images) {
        let _ = writeln!(out, "installs {name}");
    }
    for it in &bundle.files {
        file(&mut out, it);
    }
    for command in &bundle.commands {
        let kept = if command.reconcile { ", and keeps it so" } else { "" };
        let _ = write!(out, "runs{kept}\n{}", indented(&command.run));
        if let Some(unless) = &command.unless {
            let _ = write!(out, "  unless\n{}", indented(unless));
        }
    }
    for unit in &bundle.units {
        let _ = writeln!(
            out,
            "unit {} {:?} uses {}",
            unit.name,
            unit.on_change,
            unit.depends_on.join(" ")
        );
    }
    if let Some(ready) = &bundle.ready {
        let _ = write!(out, "ready within {} s\n{}", ready.seconds, indented(&ready.run));
    }
    for undo in &bundle.undo {
        let _ = write!(out, "undo\n{}", indented(&undo.run));
    }
    for path in bundle.leaves.iter().chain(&bundle.shares) {
        let _ = writeln!(out, "removes {path}");
    }
    out
}

/// By machine.
fn rendered(config: ClusterConfig) -> Vec<(String, String)> {
    let playbooks = Playbooks::load(None).unwrap();
    let template_context = common::on_paper(&playbooks, config);
    let renderer = Renderer {
        playbooks: &playbooks,
        templates: &Templates::new(),
        template_context: &template_context,
        secrets: &Placeholders,
    };
    let facts = Facts::assumed("amd64");
    let machines = template_context.topology.machines.iter();
    machines
        .map(|machine| {
            let bundles = renderer.bundles(machine, &facts).unwrap();
            let steps = playbooks.steps().filter_map(|(_, step)| bundles.get(&step.name));
            let texts: Vec<String> = steps.map(text).collect();
            (machine.name.clone(), texts.join("\n"))
        })
        .collect()
}

fn check(directory: &str, machine: &str, text: &str) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(directory);
    let path = root.join(format!("{machine}.txt"));
    if std::env::var_os("KDIY_BLESS").is_some() {
        fs::create_dir_all(&root).unwrap();
        fs::write(&path, text).unwrap();
        return None;
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let first = kept.lines().zip(text.lines()).position(|(a, b)| a != b);
    let differs = kept != text;
    differs.then(|| {
        let line = first.unwrap_or_else(|| kept.lines().count().min(text.lines().count()));
        format!(
            "tests/golden/{directory}/{machine}.txt, line {}:\n  kept: {}\n  now:  {}",
            line + 1,
            kept.lines().nth(line).unwrap_or_default(),
            text.lines().nth(line).unwrap_or_default()
        )
    })
}

#[test]
fn machines_are_given_what_was_reviewed() {
    let three = ClusterConfig { masters: 3, workers: 2, ..ClusterConfig::default() }.settled();
    let single = ClusterConfig { masters: 1, workers: 0, ..ClusterConfig::default() }.settled();
    let mut changed = Vec::new();
    for (directory, config, shown) in [
        ("three-masters-two-workers", three, &["kdiy-master-1", "kdiy-worker-1"][..]),
        ("single", single, &["kdiy-master-1"]),
    ] {
        let machines = rendered(config);
        for name in shown {
            let (machine, text) = machines.iter().find(|(machine, _)| machine == name).unwrap();
            changed.extend(check(directory, machine, text));
        }
    }
    assert!(
        changed.is_empty(),
        "{}\nif that is what you want: KDIY_BLESS=1 cargo test --test golden",
        changed.join("\n")
    );
}
