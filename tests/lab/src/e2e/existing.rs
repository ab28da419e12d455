//! Machines that kdiy did not make: it is given SSH to them, through a bastion, and nothing else.
//! It must leave them as it found them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::iter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::docker::Debian;
use crate::stage::{Check, Stage};
use crate::{Ground as _, Ready, host};

const NAME: &str = "lab-existing";
const SUBNET: &str = "172.30.57.0/24";
const GATEWAY: &str = "172.30.57.1";
const STARTS_WITHIN: Duration = Duration::from_secs(30);
const INVENTORY: &str = include_str!("existing/inventory.sh");
const BLINK: &str = include_str!("existing/blink.sh");
/// keepalived's masters miss three adverts of a second each, then one of them takes over.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

const PASSWORD: &str = "correct horse battery";

struct Machine {
    name: &'static str,
    address: &'static str,
    /// Who logs in; on the first `sudo` wants a password, on the others it does not, on the bastion
    /// nobody is root.
    user: &'static str,
    sudo: &'static str,
    debian: Debian,
}

impl Machine {
    const fn new(name: &'static str, address: &'static str, debian: Debian) -> Self {
        let (user, sudo) = ("keeper", "keeper ALL=(ALL) NOPASSWD: ALL");
        Self { name, address, user, sudo, debian }
    }
}

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

/// What a machine may have after `destroy` that it did not have before, and why.
const LEFT: [(&str, &str); 5] = [
    ("network-online.target", "units that wait for the network have systemd say that it is there"),
    ("/etc/passwd-", "useradd and userdel keep the file as it was before them"),
    ("/etc/group-", "likewise"),
    ("/etc/shadow-", "likewise"),
    ("/etc/gshadow-", "likewise"),
];

pub fn stage<'a>(lab: &'a Ready, cache: &Path) -> Result<Stage<'a>> {
    let homelab = Homelab { lab, cache: cache.to_owned(), directory: cache.join("existing") };
    let with = |check: fn(&Homelab) -> Result<String>| {
        let homelab = homelab.clone();
        move || check(&homelab)
    };
    Ok(Stage {
        setup: vec![Check::new(
            "machines that exist already, behind a bastion",
            with(|homelab| homelab.make()),
        )],
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
    let refused = homelab.refused(&["up", "--yes"], &["birch", "host key", "ssh-keygen -R"]);
    fs::write(&known_hosts, right)?;
    refused
}

fn preflight(homelab: &Homelab) -> Result<String> {
    let break_it = "mkdir -p /etc/rancher && touch /etc/rancher/k3s && hostname alder";
    homelab.inside(&BIRCH, break_it)?;
    let listener =
        ["exec", "--detach", &container(&ALDER), "socat", "TCP-LISTEN:2379", "/dev/null"];
    host::run(homelab.docker().args(listener))?;
    let said = homelab.refused(
        &["up", "--yes"],
        &["ports are taken: 2379", "another Kubernetes", "host name alder", "nothing was changed"],
    );
    homelab.inside(&BIRCH, "rm -r /etc/rancher && hostname birch")?;
    homelab.inside(&ALDER, "pkill socat")?;
    said
}

/// One run of the whole: what is looked at is what a destroy leaves of an up.
fn there_and_back(homelab: &Homelab) -> Result<String> {
    let before = homelab.inventories()?;
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
    let after = homelab.inventories()?;
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
    ensure!(!said.contains("ports are taken"), "machines of the cluster are in the way:\n{said}");
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
    let before = homelab.inventories()?;
    homelab.kdiy(&["up", "--yes"])?;
    homelab.switch(&ELDER, "kill")?;
    homelab.fails(&remove, &[ELDER.name, "give the machine up: --force"])?;
    homelab.kdiy(&[&remove[..], &["--force"]].concat())?;
    has_nodes(homelab, CLUSTER.len() - 1)?;
    homelab.switch(&ELDER, "start")?;
    homelab.is_up(&ELDER)?;
    homelab.kdiy(&["up", "--yes"])?;
    has_nodes(homelab, CLUSTER.len())?;
    homelab.switch(&ELDER, "kill")?;
    homelab.fails(&destroy, &["or give the machine up", "--forget elder"])?;
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

/// By machine.
type Inventories = BTreeMap<&'static str, BTreeSet<String>>;

/// Lines that one inventory has and the other has not, marked like a diff.
fn differences(before: &Inventories, after: &Inventories) -> Vec<String> {
    let may_stay =
        |line: &&String| LEFT.iter().any(|(name, _)| line.split(' ').any(|word| word == *name));
    let mut found = Vec::new();
    for (machine, is) in after {
        let was = &before[machine];
        for (mark, lines) in [("-", was.difference(is)), ("+", is.difference(was))] {
            let lines = lines.filter(|line| !may_stay(line));
            found.extend(lines.map(|line| format!("{machine}: {mark} {line}")));
        }
    }
    found
}

#[derive(Clone)]
struct Homelab<'a> {
    lab: &'a Ready,
    cache: PathBuf,
    directory: PathBuf,
}

impl Homelab<'_> {
    fn make(&self) -> Result<String> {
        self.remove()?;
        fs::create_dir_all(&self.directory)?;
        let key = self.directory.join("key");
        host::run(
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key),
        )?;
        host::run(self.docker().args(["network", "create", "--subnet", SUBNET, NAME]))?;
        let mut known_hosts = String::new();
        for machine in iter::once(BASTION).chain(CLUSTER) {
            self.start(&machine)?;
            let key = self.inside(&machine, "cat /etc/ssh/ssh_host_ed25519_key.pub")?;
            known_hosts.push_str(&format!("{} {key}", machine.address));
        }
        fs::write(self.directory.join("known_hosts"), known_hosts)?;
        fs::write(self.directory.join("ssh_config"), self.ssh_config())?;
        fs::write(self.directory.join("cluster.yaml"), cluster_file(&CLUSTER[..3]))?;
        let password = self.directory.join("password");
        fs::write(&password, PASSWORD)?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
        let names = CLUSTER.map(|machine| format!("{} ({})", machine.name, machine.debian));
        Ok(names.join(", "))
    }

    fn start(&self, machine: &Machine) -> Result<()> {
        let Machine { name, address, user, sudo, debian } = machine;
        let image = self.lab.engine.image(&self.cache, *debian)?;
        let mut run = self.docker();
        run.args(["run", "--detach", "--name", &container(machine), "--hostname", name])
            .args(["--network", NAME, "--ip", address, "--cap-add", "ALL"])
            .args(["--cap-drop", "SYS_RESOURCE", "--cgroupns", "private"])
            .args(["--security-opt", "seccomp=unconfined"])
            .args(["--security-opt", "apparmor=unconfined"])
            .args(["--security-opt", "systempaths=unconfined"])
            .args(["--device-cgroup-rule", "a *:* rwm", "--device", "/dev/fuse"])
            .args(["--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp"])
            // containerd cannot stack its layers on the container's own.
            .args(["--volume", "/var/lib"])
            .arg(image);
        host::run(&mut run)?;
        let public = fs::read_to_string(self.directory.join("key.pub"))?;
        self.is_up(machine)?;
        self.inside(
            machine,
            &format!(
                "set -e
                userdel --remove vagrant 2>/dev/null; rm /etc/sudoers.d/vagrant
                useradd --create-home --shell /bin/bash {user}
                echo '{user}:{PASSWORD}' | chpasswd
                echo '{sudo}' >/etc/sudoers.d/{user}
                install -d -m 0700 -o {user} -g {user} ~{user}/.ssh
                echo '{public}' >~{user}/.ssh/authorized_keys
                chown {user}:{user} ~{user}/.ssh/authorized_keys"
            ),
        )?;
        if machine.name != BASTION.name {
            // At first sight sudo makes notes of its own about a user.
            self.inside(machine, &format!("su {user} -c 'echo {PASSWORD} | sudo -S true'"))?;
            // Only the bastion gets in, by a rule that is the owner's and must survive.
            let rules = format!(
                "add table inet owner; add chain inet owner input {{ type filter hook input priority 0; }}; \
                 add rule inet owner input ip saddr {GATEWAY} tcp dport 22 drop"
            );
            self.inside(machine, &format!("nft '{rules}'"))?;
        }
        Ok(())
    }

    fn is_up(&self, machine: &Machine) -> Result<()> {
        let began = Instant::now();
        while self.inside(machine, "systemctl is-active --quiet ssh.service").is_err() {
            ensure!(began.elapsed() < STARTS_WITHIN, "{} does not start", machine.name);
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn ssh_config(&self) -> String {
        let at = |name: &str| self.directory.join(name).display().to_string();
        let mut text = format!(
            "Host *\n  IdentityFile {}\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n",
            at("key"),
            at("known_hosts")
        );
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

    /// What kdiy says on both streams; an error when it fails.
    fn kdiy(&self, arguments: &[&str]) -> Result<String> {
        let (success, said) = self.try_kdiy(arguments)?;
        if success { Ok(said) } else { bail!("kdiy {}:\n{said}", arguments[0]) }
    }

    fn try_kdiy(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let mut kdiy = self.lab.kdiy();
        kdiy.current_dir(&self.directory)
            .args(arguments)
            .env("KDIY_STATE", self.directory.join("state"))
            .env("KDIY_CACHE", self.directory.join("cache"))
            .env("KDIY_SUDO_PASSWORD_FILE", self.directory.join("password"));
        if arguments[0] == "up" {
            self.lab.mirror.set(&mut kdiy);
        }
        let output = kdiy.stdin(Stdio::null()).output().context("cannot start kdiy")?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), host::tail(&said, 60)))
    }

    /// Runs what must fail: all of `expected` is said, and the machines stay as they are.
    fn refused(&self, arguments: &[&str], expected: &[&str]) -> Result<String> {
        let before = self.inventories()?;
        self.fails(arguments, expected)?;
        let changed = differences(&before, &self.inventories()?);
        ensure!(changed.is_empty(), "the machines changed:\n{}", changed.join("\n"));
        ensure!(!self.state().exists(), "{} was made", self.state().display());
        Ok(String::new())
    }

    fn fails(&self, arguments: &[&str], expected: &[&str]) -> Result<()> {
        let (success, said) = self.try_kdiy(arguments)?;
        ensure!(!success, "kdiy went on:\n{said}");
        for part in expected {
            ensure!(said.contains(part), "kdiy did not say `{part}`:\n{said}");
        }
        Ok(())
    }

    fn state(&self) -> PathBuf {
        self.directory.join("state").join(NAME)
    }

    /// `kill` and `start` are what a power cut is.
    fn switch(&self, machine: &Machine, how: &str) -> Result<()> {
        host::run(self.docker().args([how, &container(machine)]))
    }

    fn inventories(&self) -> Result<Inventories> {
        self.inventories_of(&CLUSTER)
    }

    fn inventories_of(&self, machines: &[Machine]) -> Result<Inventories> {
        machines
            .iter()
            .map(|machine| {
                let lines = self.inside(machine, INVENTORY)?;
                Ok((machine.name, lines.lines().map(str::to_owned).collect()))
            })
            .collect()
    }

    fn inside(&self, machine: &Machine, script: &str) -> Result<String> {
        host::ask(self.docker().args(["exec", &container(machine), "sh", "-c", script]))
    }

    fn remove(&self) -> Result<String> {
        let filter = format!("name=^/?{NAME}-");
        let there = host::ask(self.docker().args(["ps", "-aq", "--filter", &filter]))?;
        if !there.trim().is_empty() {
            host::run(
                self.docker().args(["rm", "--force", "--volumes"]).args(there.split_whitespace()),
            )?;
        }
        let networks = host::ask(self.docker().args(["network", "ls", "--format", "{{.Name}}"]))?;
        if networks.lines().any(|name| name == NAME) {
            host::run(self.docker().args(["network", "rm", NAME]))?;
        }
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)?;
        }
        Ok(String::new())
    }

    fn docker(&self) -> Command {
        self.lab.engine.command()
    }
}

fn container(machine: &Machine) -> String {
    format!("{NAME}-{}", machine.name)
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
