//! Machines that kdiy did not make: it is given SSH to them, through a bastion, and nothing else.
//! It must leave them as it found them.

use std::collections::BTreeSet;
use std::fs;
use std::iter;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::homelab::{Homelab, Inventories, Machine, PASSWORD, differences};
use crate::docker::Debian;
use crate::stage::{Check, Stage};
use crate::{Ready, host};

const NAME: &str = "lab-existing";
const SUBNET: &str = "172.30.57.0/24";
const GATEWAY: &str = "172.30.57.1";
const BLINK: &str = include_str!("existing/blink.sh");
/// keepalived's masters miss three adverts of a second each, then one of them takes over.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// On this one `sudo` wants a password, on the others it does not; on the bastion nobody is root.
const ALDER: Machine = Machine {
    user: "ops",
    sudo: "ops ALL=(ALL) ALL",
    ..Machine::new("alder", "172.30.57.11", Debian::Bookworm)
};
const BIRCH: Machine = Machine::new("birch", "172.30.57.12", Debian::Bookworm);
const CEDAR: Machine = Machine::new("cedar", "172.30.57.13", Debian::Trixie);
const ELDER: Machine = Machine::new("elder", "172.30.57.14", Debian::Trixie);
const BASTION: Machine =
    Machine { user: "jump", sudo: "", ..Machine::new("bastion", "172.30.57.2", Debian::Bookworm) };
/// Three masters and a worker.
const CLUSTER: [Machine; 4] = [ALDER, BIRCH, CEDAR, ELDER];
const VIRTUAL_ADDRESS: &str = "172.30.57.10";

pub fn stage<'a>(lab: &'a Ready, cache: &Path) -> Result<Stage<'a>> {
    let homelab = Homelab {
        lab,
        cache: cache.to_owned(),
        directory: cache.join("existing"),
        name: NAME,
        subnet: SUBNET,
    };
    let with = |check: fn(&Homelab) -> Result<String>| {
        let homelab = homelab.clone();
        move || check(&homelab)
    };
    Ok(Stage {
        setup: vec![Check::new("machines that exist already, behind a bastion", with(make))],
        checks: vec![
            Check::new("a host key that changed stops everything", with(wrong_host_key)),
            Check::new("all that is in the way is said at once", with(preflight)),
            Check::new("they become a cluster, and are left as they were", with(there_and_back)),
            Check::new("a machine that does not answer is given up", with(given_up)),
        ],
        teardown: vec![Check::new("the machines are gone", with(|homelab| homelab.remove()))],
        ..Stage::default()
    })
}

fn wrong_host_key(homelab: &Homelab) -> Result<String> {
    let known_hosts = homelab.directory.join("known_hosts");
    let right = fs::read_to_string(&known_hosts)?;
    let other = |machine: &Machine| {
        right.lines().find(|line| line.starts_with(machine.address)).unwrap_or_default().to_owned()
    };
    let wrong = other(&BASTION).replace(BASTION.address, BIRCH.address);
    fs::write(&known_hosts, right.replace(&other(&BIRCH), &wrong))?;
    let refused = refused(homelab, &["up", "--yes"], &["birch", "host key", "ssh-keygen -R"]);
    fs::write(&known_hosts, right)?;
    refused
}

fn preflight(homelab: &Homelab) -> Result<String> {
    let break_it = "mkdir -p /etc/rancher && touch /etc/rancher/k3s && hostname alder";
    homelab.inside(&BIRCH, break_it)?;
    let listener =
        ["exec", "--detach", &homelab.container(&ALDER), "socat", "TCP-LISTEN:2379", "/dev/null"];
    host::run(homelab.docker().args(listener))?;
    let said = refused(
        homelab,
        &["up", "--yes"],
        &["ports are in use: 2379", "another Kubernetes", "host name alder", "nothing was changed"],
    );
    homelab.inside(&BIRCH, "rm -r /etc/rancher && hostname birch")?;
    homelab.inside(&ALDER, "pkill socat")?;
    said
}

/// One run of the whole: what is looked at is what a destroy leaves of an up.
fn there_and_back(homelab: &Homelab) -> Result<String> {
    let before = inventories(homelab)?;
    let began = Instant::now();
    homelab.kdiy(&["up", "--yes"])?;
    let up = began.elapsed().as_secs();
    let joined = a_worker_joins(homelab)?;
    let blink = addresses_blink(homelab)?;
    homelab.kdiy(&["remove", ELDER.name, "--yes", "--name", NAME])?;
    let left = differences(&before, &homelab.inventories_of(&[ELDER])?);
    ensure!(left.is_empty(), "kdiy left on a worker that it removed:\n{}", left.join("\n"));
    let began = Instant::now();
    homelab.kdiy(&["destroy", "--yes", "--name", NAME])?;
    let destroy = began.elapsed().as_secs();
    let after = inventories(homelab)?;
    let left = differences(&before, &after);
    ensure!(left.is_empty(), "kdiy left:\n{}", left.join("\n"));
    let things: usize = before.values().map(BTreeSet::len).sum();
    Ok(format!(
        "up in {up} s, a worker more in {joined} s, away in {destroy} s, {things} things as before; \
         {blink}"
    ))
}

/// With something of its own in the way first, which is all that is said of it and the others.
fn a_worker_joins(homelab: &Homelab) -> Result<u64> {
    fs::write(homelab.directory.join("cluster.yaml"), cluster_file(&CLUSTER))?;
    homelab.inside(&ELDER, "hostname cedar")?;
    let (success, said) = homelab.try_kdiy(&["up", "--yes"])?;
    ensure!(!success && said.contains("host name cedar"), "kdiy went on:\n{said}");
    ensure!(!said.contains("ports are in use"), "machines of the cluster are in the way:\n{said}");
    homelab.inside(&ELDER, "hostname elder")?;
    let began = Instant::now();
    homelab.kdiy(&["up", "--yes"])?;
    has_nodes(homelab, CLUSTER.len())?;
    Ok(began.elapsed().as_secs())
}

fn has_nodes(homelab: &Homelab, expected: usize) -> Result<()> {
    let nodes = homelab.kdiy(&["kubectl", "--name", NAME, "--", "get", "nodes", "-o", "name"])?;
    ensure!(nodes.lines().count() == expected, "the nodes are {nodes:?}");
    Ok(())
}

/// Once out of a cluster that goes on and takes it in again when it is back, once with the cluster.
fn given_up(homelab: &Homelab) -> Result<String> {
    let remove = ["remove", ELDER.name, "--yes", "--name", NAME];
    let destroy = ["destroy", "--yes", "--name", NAME];
    let before = inventories(homelab)?;
    homelab.kdiy(&["up", "--yes"])?;
    homelab.switch(&ELDER, "kill")?;
    homelab.fails(&remove, &[ELDER.name, "leave the machine as it is: --force"])?;
    homelab.kdiy(&[&remove[..], &["--force"]].concat())?;
    has_nodes(homelab, CLUSTER.len() - 1)?;
    homelab.switch(&ELDER, "start")?;
    homelab.is_up(&ELDER)?;
    homelab.kdiy(&["up", "--yes"])?;
    has_nodes(homelab, CLUSTER.len())?;
    homelab.switch(&ELDER, "kill")?;
    homelab.fails(&destroy, &["or leave the machine as it is", "--forget elder"])?;
    homelab.kdiy(&[&destroy[..], &["--forget", ELDER.name]].concat())?;
    ensure!(!homelab.state().exists(), "{} is still there", homelab.state().display());
    let left = differences(&before, &homelab.inventories_of(&CLUSTER[..3])?);
    ensure!(left.is_empty(), "kdiy left on the others:\n{}", left.join("\n"));
    Ok(String::new())
}

/// On a worker, and on the master that holds the virtual address, which goes as well.
fn addresses_blink(homelab: &Homelab) -> Result<String> {
    homelab.inside(&ELDER, BLINK).context("on a worker")?;
    let holds = format!("ip address show to {VIRTUAL_ADDRESS} | grep -q inet");
    let mut masters = CLUSTER.iter().take(3);
    let holder = masters.find(|master| homelab.inside(master, &holds).is_ok());
    let holder = holder.context("no master holds the virtual address")?;
    homelab.inside(holder, BLINK).with_context(|| format!("on {}", holder.name))?;
    let began = Instant::now();
    let ask = ["kubectl", "--name", NAME, "--", "get", "--raw", "/readyz"];
    while let Err(failure) = homelab.kdiy(&ask) {
        ensure!(
            began.elapsed() < ANSWERS_WITHIN,
            "the api is gone with {}'s address: {failure}",
            holder.name
        );
    }
    Ok(format!("routes came back, the api after {} ms", began.elapsed().as_millis()))
}

fn make(homelab: &Homelab) -> Result<String> {
    let machines = || iter::once(BASTION).chain(CLUSTER);
    homelab.make(&machines().collect::<Vec<_>>())?;
    for machine in &CLUSTER {
        // At first sight sudo makes notes of its own about a user.
        let user = machine.user;
        homelab.inside(machine, &format!("su {user} -c 'echo {PASSWORD} | sudo -S true'"))?;
        // Only the bastion gets in, by a rule that is the owner's and must survive.
        let rules = format!(
            "add table inet owner; add chain inet owner input {{ type filter hook input priority 0; }}; \
             add rule inet owner input ip saddr {GATEWAY} tcp dport 22 drop"
        );
        homelab.inside(machine, &format!("nft '{rules}'"))?;
    }
    fs::write(homelab.directory.join("ssh_config"), ssh_config(homelab))?;
    fs::write(homelab.directory.join("cluster.yaml"), cluster_file(&CLUSTER[..3]))?;
    let names = CLUSTER.map(|machine| format!("{} ({})", machine.name, machine.debian));
    Ok(names.join(", "))
}

fn ssh_config(homelab: &Homelab) -> String {
    let mut text = homelab.ssh_settings();
    for machine in iter::once(BASTION).chain(CLUSTER) {
        text.push_str(&format!(
            "Host {}\n  HostName {}\n  User {}\n",
            machine.name, machine.address, machine.user
        ));
    }
    // One through the configuration, the others through the cluster file.
    text.push_str(&format!("Host {}\n  ProxyJump {}\n", ALDER.name, BASTION.name));
    text
}

/// Runs what must fail: all of `expected` is said, and the machines stay as they are.
fn refused(homelab: &Homelab, arguments: &[&str], expected: &[&str]) -> Result<String> {
    let before = inventories(homelab)?;
    homelab.fails(arguments, expected)?;
    let changed = differences(&before, &inventories(homelab)?);
    ensure!(changed.is_empty(), "the machines changed:\n{}", changed.join("\n"));
    ensure!(!homelab.state().exists(), "{} was made", homelab.state().display());
    Ok(String::new())
}

fn inventories(homelab: &Homelab) -> Result<Inventories> {
    homelab.inventories_of(&CLUSTER)
}

fn cluster_file(machines: &[Machine]) -> String {
    let mut text = format!(
        "name: {NAME}
provider: existing
loadBalancer: {{vip: {VIRTUAL_ADDRESS}}}
hosts:
- role: master
  address: {}
  ssh: {{host: {}, config: ssh_config, sudoPassword: true}}
",
        ALDER.address, ALDER.name
    );
    for Machine { name, address, .. } in &machines[1..] {
        let role = if *name == ELDER.name { "worker" } else { "master" };
        text.push_str(&format!(
            "- role: {role}
  name: {name}
  address: {address}
  ssh: {{host: {name}, config: ssh_config, jump: {}}}
",
            BASTION.name
        ));
    }
    text
}
