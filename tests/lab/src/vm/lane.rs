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
    for lane in lanes {
        tally.run(if *lane == Lane::VmFull { full(lab, cache)? } else { small(lab, cache)? });
    }
    Ok(())
}

/// The smallest cluster that has two machines: emulated, each keeps a core of the host busy.
fn small<'a>(lab: &'a Vms, cache: &Path) -> Result<Stage<'a>> {
    let cluster = Cluster::new(lab, cache, "lab-vm")?;
    let with = |check: fn(&Virtual) -> Result<String>| {
        let cluster = cluster.clone();
        move || check(&cluster)
    };
    Ok(Stage {
        setup: vec![
            Check::new("nothing is left of earlier virtual machines", with(destroy)),
            Check::new("a master and a worker come up on real kernels", with(|it| up(it, 1, 1))),
        ],
        checks: vec![
            Check::new("machines are themselves", with(machines_differ)),
            Check::new("what was set is set again after all were off", with(settings_stay)),
        ],
        teardown: vec![Check::new("destroy leaves no virtual machine behind", with(destroy))],
    })
}

/// The whole of what issue and docs promise of virtual machines; hours, where they are emulated.
fn full<'a>(lab: &'a Vms, cache: &Path) -> Result<Stage<'a>> {
    let cluster = Cluster::new(lab, cache, "lab-vms")?;
    let with = |check: fn(&Virtual) -> Result<String>| {
        let cluster = cluster.clone();
        move || check(&cluster)
    };
    Ok(Stage {
        setup: vec![
            Check::new("nothing is left of earlier virtual machines", with(destroy)),
            Check::new("3 masters and 2 workers come up on real kernels", with(|it| up(it, 3, 2))),
        ],
        checks: vec![
            Check::new("machines are themselves", with(machines_differ)),
            Check::new("what was set is set again after all were off", with(settings_stay)),
            Check::new("the api stays up while Vagrant reloads each master", with(reloads)),
        ],
        teardown: vec![Check::new("destroy leaves no virtual machine behind", with(destroy))],
    })
}

/// The providers that are not here are read as far as Vagrant goes without their plugins.
fn vagrantfiles_are_valid(cache: &Path) -> Result<String> {
    let test = ["test", "--quiet", "--package", "kdiy", "--lib", "--", "--ignored", "--exact"];
    let name = "machines::vagrant::tests::vagrant_takes_every_vagrantfile";
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

/// `start` changes nothing on the machines, so what is there then came back by itself.
fn settings_stay(cluster: &Virtual) -> Result<String> {
    let names = names(cluster)?;
    host::run(cluster.kdiy("stop").arg("--yes"))?;
    let began = Instant::now();
    host::run(&mut cluster.kdiy("start"))?;
    let elapsed = began.elapsed().as_secs();
    for name in &names {
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
        let asked = Watched::while_running(cluster, patience, || {
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
    let ask = |arguments: &[&str]| {
        host::ask(Command::new("virsh").args(["-q", "-c", "qemu:///system"]).args(arguments))
    };
    let mut text = ask(&["list", "--all", "--name"])? + &ask(&["net-list", "--all", "--name"])?;
    // There is a pool once there was a machine.
    text += &ask(&["vol-list", "default"]).unwrap_or_default();
    let (machine, network) = (format!("{}-", cluster.name()), format!("kdiy-{}", cluster.name()));
    Ok(text
        .split_whitespace()
        .filter(|word| word.starts_with(&machine) || *word == network)
        .map(str::to_owned)
        .collect())
}
