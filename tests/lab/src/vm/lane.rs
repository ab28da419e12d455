//! What only real kernels can show, checked from outside.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::{Vms, slowness};
use crate::docker::Engine;
use crate::e2e::cluster::Cluster;
use crate::e2e::watched::{ANSWERED_WITHIN, Watched};
use crate::stage::{Check, Stage, Tally};
use crate::suite::Lane;
use crate::{host, repository};

/// What kdiy sets on a machine, one fact a line, as [`EXPECTED`] wants it.
const FACTS: &str = "stat -fc %T /sys/fs/cgroup; cd /proc/sys/net; cat ipv4/ip_forward \
    bridge/bridge-nf-call-iptables bridge/bridge-nf-call-ip6tables; \
    grep -cwE '^(overlay|br_netfilter)' /proc/modules; wc -l </proc/swaps";
const EXPECTED: [&str; 6] = ["cgroup2fs", "1", "1", "1", "2", "1"];

type Virtual<'a> = Cluster<'a, Vms>;

pub fn run(cache: &Path, lanes: &[Lane], tally: &mut Tally) -> Result<()> {
    let mut ready = None;
    tally.run(Stage {
        setup: vec![Check::new("the lab is ready for virtual machines", || {
            let lab = ready.insert(Vms::make(cache)?);
            Ok(format!("box {}, mirror {}", lab.vagrant_box, lab.mirror.root.display()))
        })],
        checks: vec![Check::new("Vagrant takes every Vagrantfile", || {
            vagrantfiles_are_valid(cache)
        })],
        ..Stage::default()
    });
    let Some(lab) = &ready else { return Ok(()) };
    for made in lanes.iter().copied().filter_map(made) {
        tally.run(made.stage(lab, cache)?);
    }
    Ok(())
}

/// What a lane makes of virtual machines, if it does.
pub const fn made(lane: Lane) -> Option<&'static Made> {
    match lane {
        Lane::Vm => Some(&SMALL),
        Lane::VmMasters => Some(&MASTERS),
        Lane::VmFull => Some(&FULL),
        Lane::Code
        | Lane::Cluster
        | Lane::Repair
        | Lane::Drills
        | Lane::Runbook
        | Lane::Existing
        | Lane::Recovery
        | Lane::Hostile
        | Lane::Upgrade => None,
    }
}

type Look = fn(&Virtual) -> Result<String>;

/// A cluster that a lane makes, and what is looked at then.
pub struct Made {
    name: &'static str,
    masters: usize,
    workers: usize,
    /// What is checked when it is made.
    check: &'static str,
    looks: &'static [(&'static str, Look)],
}

/// The smallest cluster that has two machines: emulated, each keeps a core of the host busy.
const SMALL: Made = Made {
    name: "lab-vm",
    masters: 1,
    workers: 1,
    check: "a master and a worker come up on real kernels",
    looks: &[DIFFER, STAY],
};

/// The least that shows that masters do without one of them, and find each other when all were off.
const MASTERS: Made = Made {
    name: "lab-masters",
    masters: 3,
    workers: 0,
    check: "3 masters come up on real kernels",
    looks: &[DIFFER, STAY, CUT, RELOADS],
};

/// The whole of what the docs promise of virtual machines; hours, where they are emulated.
const FULL: Made = Made {
    name: "lab-vms",
    workers: 2,
    check: "3 masters and 2 workers come up on real kernels",
    ..MASTERS
};

const DIFFER: (&str, Look) = ("machines are themselves", machines_differ);
const STAY: (&str, Look) = ("what was set is set again after all were off", settings_stay);
const CUT: (&str, Look) = ("all come back from a power cut", all_come_back_from_a_power_cut);
const RELOADS: (&str, Look) = ("the api stays up while Vagrant reloads each master", reloads);

impl Made {
    fn stage<'a>(&'static self, lab: &'a Vms, cache: &Path) -> Result<Stage<'a>> {
        let cluster = Cluster::new(lab, cache, self.name)?;
        let with = |name, look: Look| {
            let cluster = cluster.clone();
            Check::new(name, move || look(&cluster))
        };
        let made = cluster.clone();
        Ok(Stage {
            setup: vec![
                with("nothing is left of earlier virtual machines", destroy),
                Check::new(self.check, move || up(&made, self.masters, self.workers)),
            ],
            checks: self.looks.iter().map(|&(name, look)| with(name, look)).collect(),
            teardown: vec![with("destroy leaves no virtual machine behind", destroy)],
            ..Stage::default()
        })
    }
}

/// The providers that are not here are read as far as Vagrant goes without their plugins.
fn vagrantfiles_are_valid(cache: &Path) -> Result<String> {
    let test = ["test", "--quiet", "--package", "kdiy", "--lib", "--", "--ignored", "--exact"];
    let name = "providers::vagrant::tests::vagrant_accepts_every_vagrantfile";
    let mut cargo = crate::cargo();
    // Docker's provider asks for its engine before it says anything.
    Engine::ensure(cache)?.set(&mut cargo);
    let said = host::ask(cargo.current_dir(repository()).args(test).arg(name))?;
    ensure!(said.contains("1 passed"), "the test did not run: {said}");
    Ok(String::new())
}

fn up(cluster: &Virtual, masters: usize, workers: usize) -> Result<String> {
    let run = cluster.up(masters, workers)?;
    let gates = run.of_kind("gate-evidence").filter(|event| event["passed"] == true).count();
    ensure!(gates > 0, "no gate said that it passed");
    Ok(format!("{gates} gates passed in {} s", run.elapsed_seconds()?))
}

fn names(cluster: &Virtual) -> Result<Vec<String>> {
    let nodes = cluster.get(&["nodes"])?;
    let nodes = nodes["items"].as_array().context("no list of nodes")?;
    let name = |node: &serde_json::Value| node["metadata"]["name"].as_str().map(str::to_owned);
    nodes.iter().map(name).collect::<Option<_>>().context("a node without a name")
}

fn on(cluster: &Virtual, machine: &str, command: &str) -> Result<String> {
    host::ask(cluster.kdiy("ssh").args([machine, "--", command]))
}

fn machines_differ(cluster: &Virtual) -> Result<String> {
    let names = names(cluster)?;
    for what in ["cat /etc/machine-id", "sudo cat /sys/class/dmi/id/product_uuid", "hostname"] {
        let said: BTreeSet<String> =
            names.iter().map(|name| on(cluster, name, what)).collect::<Result<_>>()?;
        ensure!(said.len() == names.len(), "`{what}` says the same on two machines: {said:?}");
    }
    Ok(format!("{} machines", names.len()))
}

fn settings_stay(cluster: &Virtual) -> Result<String> {
    let names = names(cluster)?;
    host::run(cluster.kdiy("stop").arg("--yes"))?;
    comes_back(cluster, &names)
}

/// Without a word to any of them first.
fn all_come_back_from_a_power_cut(cluster: &Virtual) -> Result<String> {
    let names = names(cluster)?;
    for name in &names {
        virsh(&["destroy", name])?;
    }
    comes_back(cluster, &names)
}

/// `start` changes nothing on the machines, so what is there then came back by itself.
fn comes_back(cluster: &Virtual, names: &[String]) -> Result<String> {
    let on_yet = virsh(&["list", "--name"])?;
    ensure!(!names.iter().any(|name| on_yet.contains(name)), "still on: {on_yet}");
    let began = Instant::now();
    host::run(&mut cluster.kdiy("start"))?;
    let elapsed = began.elapsed().as_secs();
    for name in names {
        let facts = on(cluster, name, FACTS)?;
        ensure!(facts.lines().map(str::trim).eq(EXPECTED), "{name} says:\n{facts}");
    }
    Ok(format!("{} machines, all gates green after {elapsed} s", names.len()))
}

/// Asks the api through its one address all the time while masters go down and come back.
fn reloads(cluster: &Virtual) -> Result<String> {
    let mut told = Vec::new();
    let names = names(cluster)?;
    let patience = ANSWERED_WITHIN * slowness(names.len());
    for name in names.iter().filter(|name| name.contains("-master-")) {
        let ((), asked) = Watched::while_running(cluster, patience, || {
            host::run(cluster.lab().vagrant(&cluster.home()).args(["reload", name]))
        })?;
        ensure!(asked.requests > 1, "the api was not asked while {name} was away");
        ensure!(asked.failed <= 1, "while {name} was away, {asked}");
        host::run(&mut cluster.kdiy("start"))?;
        told.push(format!("{name}: {asked}"));
    }
    ensure!(told.len() == 3, "there are {} masters", told.len());
    Ok(told.join(", "))
}

fn destroy(cluster: &Virtual) -> Result<String> {
    let before = belongings(cluster)?;
    host::run(cluster.kdiy("destroy").arg("--yes"))?;
    let left = belongings(cluster)?;
    ensure!(left.is_empty(), "left: {}", left.join(", "));
    cluster.state_is_gone()?;
    Ok(format!("{} things are gone", before.len()))
}

/// Domains, volumes and networks that bear the cluster's name.
fn belongings(cluster: &Virtual) -> Result<Vec<String>> {
    let mut text = virsh(&["list", "--all", "--name"])? + &virsh(&["net-list", "--all", "--name"])?;
    // There is a pool once there was a machine.
    text += &virsh(&["vol-list", "default"]).unwrap_or_default();
    let (machine, network) = (format!("{}-", cluster.name()), format!("kdiy-{}", cluster.name()));
    Ok(text
        .split_whitespace()
        .filter(|word| word.starts_with(&machine) || *word == network)
        .map(str::to_owned)
        .collect())
}

fn virsh(arguments: &[&str]) -> Result<String> {
    host::ask(Command::new("virsh").args(["-q", "-c", "qemu:///system"]).args(arguments))
}
