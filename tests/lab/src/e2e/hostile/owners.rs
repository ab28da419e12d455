//! Machines whose owners have things of their own on them, which must stay as they are.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::super::homelab::{Homelab, Machine, differences};
use crate::Ready;
use crate::docker::Debian;
use crate::stage::Check;

const NAME: &str = "lab-owners";
const OWNER: &str = include_str!("owner.sh");
const OAK: Machine = Machine::new("oak", "172.30.59.11", Debian::Bookworm);
const ASH: Machine = Machine::new("ash", "172.30.59.12", Debian::Trixie);
const ELM: Machine = Machine::new("elm", "172.30.59.13", Debian::Bullseye);
const ALL: [Machine; 3] = [OAK, ELM, ASH];

/// What an owner does while there is a cluster: a namespace, and a package.
const MEANWHILE: &str = "set -e
    ip netns add later
    mkdir -p /tmp/owner-tool/DEBIAN
    printf 'Package: owner-tool\\nVersion: 1\\nArchitecture: all\\nMaintainer: x\\nDescription: x\\n' \
      >/tmp/owner-tool/DEBIAN/control
    dpkg-deb --build /tmp/owner-tool /tmp/owner-tool.deb >/dev/null
    dpkg --install /tmp/owner-tool.deb >/dev/null";
/// Fails unless both are there still, and takes them away again.
const LATER: &str = "set -e
    dpkg-query -W owner-tool >/dev/null
    ip netns delete later
    dpkg --purge owner-tool >/dev/null
    rm -r /tmp/owner-tool /tmp/owner-tool.deb";

pub(super) fn checks<'a>(lab: &'a Ready, cache: &'a Path) -> Result<Vec<Check<'a>>> {
    let homelab = Homelab {
        lab,
        cache: cache.to_owned(),
        directory: cache.join("owners"),
        name: NAME,
        subnet: "172.30.59.0/24",
    };
    let kept = move || {
        let result = owners_things(&homelab);
        // What a failed check leaves is for who looks into it; the next run begins anew.
        if result.is_ok() {
            homelab.remove()?;
        }
        result
    };
    Ok(vec![Check::new("an owner's things survive up, remove and destroy", kept)])
}

fn owners_things(homelab: &Homelab) -> Result<String> {
    make(homelab)?;
    let before = homelab.inventories_of(&ALL)?;
    let began = Instant::now();
    homelab.kdiy(&["up", "--yes", "--only", "machine"])?;
    for machine in &ALL {
        homelab.inside(machine, MEANWHILE)?;
    }
    homelab.kdiy(&["up", "--yes"])?;
    let up = began.elapsed().as_secs();
    another_of_the_same_name(homelab)?;
    removal(homelab)?;
    let began = Instant::now();
    let said = homelab.kdiy(&["destroy", "--yes", "--name", NAME])?;
    ensure!(said.contains("oak was looked at"), "it was not looked at:\n{said}");
    let destroy = began.elapsed().as_secs();
    for machine in &[OAK, ELM] {
        homelab.inside(machine, LATER)?;
    }
    let left = homelab.inside(&OAK, "ls -A /var/lib/etcd")?;
    ensure!(left == "lost+found\n", "in the owner's mount there is {left}");
    let after = homelab.inventories_of(&ALL)?;
    let changed = differences(&before, &after);
    ensure!(changed.is_empty(), "not as before:\n{}", changed.join("\n"));
    // The mount and its lost+found are no Kubernetes.
    homelab.kdiy(&["preflight"])?;
    let things: usize = before.values().map(std::collections::BTreeSet::len).sum();
    Ok(format!("{things} things as before; up in {up} s, destroy in {destroy} s"))
}

fn make(homelab: &Homelab) -> Result<()> {
    homelab.make(&ALL)?;
    for machine in &ALL {
        // At first sight sudo makes notes of its own about a user.
        homelab.inside(machine, "su keeper -c 'sudo true'")?;
        homelab.inside(machine, OWNER)?;
        // The package manager keeps the list of before its last change.
        homelab.inside(machine, MEANWHILE)?;
        homelab.inside(machine, LATER)?;
    }
    fs::write(homelab.directory.join("ssh_config"), homelab.ssh_settings())?;
    let mut text = format!("name: {NAME}\nprovider: existing\naddons: []\nhosts:\n");
    for (role, Machine { name, address, user, .. }) in
        ["master", "worker", "worker"].iter().zip(&ALL)
    {
        text.push_str(&format!(
            "- {{role: {role}, name: {name}, address: {address}, ssh: {{user: {user}, config: ssh_config}}}}\n"
        ));
    }
    let path = homelab.directory.join("cluster.yaml");
    fs::write(&path, &text)?;
    // Debian 11's nft is too old for kube-proxy.
    homelab.fails(&["preflight"], &["elm", "0.9.8", "network.kubeProxy:"])?;
    text.push_str("network: {kubeProxy: iptables}\n");
    fs::write(&path, text)?;
    Ok(())
}

/// Who has another cluster of this name, or an old copy of this one's state, changes nothing.
fn another_of_the_same_name(homelab: &Homelab) -> Result<()> {
    let path = homelab.state().join("cluster.json");
    let right = fs::read_to_string(&path)?;
    let id = homelab.inside(&ASH, "sed -n 2p /var/lib/kdiy/cluster")?;
    let id = id.trim();
    ensure!(id.len() == 32 && right.contains(id), "the id on the machine is {id:?}");
    fs::write(&path, right.replace(id, &"0".repeat(32)))?;
    for arguments in [
        &["up", "--yes"][..],
        &["destroy", "--yes", "--name", NAME],
        &["remove", ASH.name, "--yes", "--name", NAME],
    ] {
        homelab.fails(arguments, &["belongs", id])?;
    }
    fs::write(&path, right)?;
    // Who lost the state altogether is told as well.
    let aside = homelab.directory.join("aside");
    fs::rename(homelab.state(), &aside)?;
    homelab.fails(&["up", "--yes"], &["belongs", "\"id\":"])?;
    ensure!(!homelab.state().exists(), "{} was made", homelab.state().display());
    fs::rename(&aside, homelab.state())?;
    Ok(())
}

/// Without its ledger a machine is not said to be clean, and nothing is forgotten.
fn removal(homelab: &Homelab) -> Result<()> {
    let remove = ["remove", ASH.name, "--yes", "--name", NAME];
    homelab.inside(&ASH, "mv /var/lib/kdiy/ledger /root/ledger")?;
    homelab.fails(&remove, &["/var/lib/kdiy/ledger is gone", "kubelet.service"])?;
    homelab.inside(&ASH, "mv /root/ledger /var/lib/kdiy/ledger")?;
    homelab.kdiy(&remove)?;
    // What its owner has is looked at with the others', when those are cleaned as well.
    homelab.inside(&ASH, LATER)?;
    Ok(())
}
