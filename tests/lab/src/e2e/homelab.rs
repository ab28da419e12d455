//! Machines that kdiy did not make: plain systems that are reached by SSH, of which everything is
//! listed before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::docker::Debian;
use crate::{Ground as _, Ready, host};

const STARTS_WITHIN: Duration = Duration::from_secs(30);
const INVENTORY: &str = include_str!("existing/inventory.sh");
pub(super) const PASSWORD: &str = "correct horse battery";

/// What `docker run` takes for a container in which systemd runs, and containerd under it.
pub(super) const AS_A_MACHINE: [&str; 24] = [
    "--cap-add",
    "ALL",
    "--cap-drop",
    "SYS_RESOURCE",
    "--cgroupns",
    "private",
    "--security-opt",
    "seccomp=unconfined",
    "--security-opt",
    "apparmor=unconfined",
    "--security-opt",
    "systempaths=unconfined",
    "--device-cgroup-rule",
    "a *:* rwm",
    "--device",
    "/dev/fuse",
    "--tmpfs",
    "/run",
    "--tmpfs",
    "/run/lock",
    "--tmpfs",
    "/tmp",
    // containerd cannot stack its layers on the container's own.
    "--volume",
    "/var/lib",
];

pub(super) struct Machine {
    pub name: &'static str,
    pub address: &'static str,
    /// Who logs in.
    pub user: &'static str,
    /// The line of /etc/sudoers.d.
    pub sudo: &'static str,
    pub debian: Debian,
}

impl Machine {
    pub const fn new(name: &'static str, address: &'static str, debian: Debian) -> Self {
        let (user, sudo) = ("keeper", "keeper ALL=(ALL) NOPASSWD: ALL");
        Self { name, address, user, sudo, debian }
    }
}

/// What a machine may have after `destroy` that it did not have before, and why.
const LEFT: [(&str, &str); 5] = [
    ("network-online.target", "units that wait for the network have systemd say that it is there"),
    ("/etc/passwd-", "useradd and userdel keep the file as it was before them"),
    ("/etc/group-", "likewise"),
    ("/etc/shadow-", "likewise"),
    ("/etc/gshadow-", "likewise"),
];

/// By machine.
pub(super) type Inventories = BTreeMap<&'static str, BTreeSet<String>>;

/// Lines that one inventory has and the other has not, marked like a diff.
pub(super) fn differences(before: &Inventories, after: &Inventories) -> Vec<String> {
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

/// Machines on one network, and a directory with what is needed to reach them.
#[derive(Clone)]
pub(super) struct Homelab<'a> {
    pub lab: &'a Ready,
    pub cache: PathBuf,
    pub directory: PathBuf,
    /// Of the cluster, the network, and the containers' first part.
    pub name: &'static str,
    pub subnet: &'static str,
}

impl Homelab<'_> {
    /// Machines that answer to one key, and the keys that they are known by.
    pub fn make(&self, machines: &[Machine]) -> Result<()> {
        self.remove()?;
        fs::create_dir_all(&self.directory)?;
        let password = self.directory.join("password");
        fs::write(&password, PASSWORD)?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
        let key = self.directory.join("key");
        host::run(
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key),
        )?;
        host::run(self.docker().args(["network", "create", "--subnet", self.subnet, self.name]))?;
        let mut known_hosts = String::new();
        for machine in machines {
            self.start(machine)?;
            let key = self.inside(machine, "cat /etc/ssh/ssh_host_ed25519_key.pub")?;
            known_hosts.push_str(&format!("{} {key}", machine.address));
        }
        fs::write(self.directory.join("known_hosts"), known_hosts)?;
        Ok(())
    }

    /// The first lines of an ssh_config(5).
    pub fn ssh_settings(&self) -> String {
        let at = |name: &str| self.directory.join(name).display().to_string();
        format!(
            "Host *\n  IdentityFile {}\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n",
            at("key"),
            at("known_hosts")
        )
    }

    fn start(&self, machine: &Machine) -> Result<()> {
        let Machine { name, address, user, sudo, debian } = machine;
        let image = self.lab.engine.image(&self.cache, *debian)?;
        let mut run = self.docker();
        run.args(["run", "--detach", "--name", &self.container(machine), "--hostname", name])
            .args(["--network", self.name, "--ip", address])
            .args(AS_A_MACHINE)
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
        Ok(())
    }

    pub fn is_up(&self, machine: &Machine) -> Result<()> {
        let began = Instant::now();
        while self.inside(machine, "systemctl is-active --quiet ssh.service").is_err() {
            ensure!(began.elapsed() < STARTS_WITHIN, "{} does not start", machine.name);
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// What kdiy says on both streams; an error when it fails.
    pub fn kdiy(&self, arguments: &[&str]) -> Result<String> {
        let (success, said) = self.try_kdiy(arguments)?;
        if success { Ok(said) } else { bail!("kdiy {}:\n{said}", arguments[0]) }
    }

    pub fn try_kdiy(&self, arguments: &[&str]) -> Result<(bool, String)> {
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

    pub fn fails(&self, arguments: &[&str], expected: &[&str]) -> Result<()> {
        let (success, said) = self.try_kdiy(arguments)?;
        ensure!(!success, "kdiy went on:\n{said}");
        for part in expected {
            ensure!(said.contains(part), "kdiy did not say `{part}`:\n{said}");
        }
        Ok(())
    }

    pub fn state(&self) -> PathBuf {
        self.directory.join("state").join(self.name)
    }

    /// `kill` and `start` are what a power cut is.
    pub fn switch(&self, machine: &Machine, how: &str) -> Result<()> {
        host::run(self.docker().args([how, &self.container(machine)]))
    }

    pub fn inventories_of(&self, machines: &[Machine]) -> Result<Inventories> {
        machines
            .iter()
            .map(|machine| {
                let lines = self.inside(machine, INVENTORY)?;
                Ok((machine.name, lines.lines().map(str::to_owned).collect()))
            })
            .collect()
    }

    pub fn inside(&self, machine: &Machine, script: &str) -> Result<String> {
        host::ask(self.docker().args(["exec", &self.container(machine), "sh", "-c", script]))
    }

    pub fn remove(&self) -> Result<String> {
        let filter = format!("name=^/?{}-", self.name);
        let there = host::ask(self.docker().args(["ps", "-aq", "--filter", &filter]))?;
        if !there.trim().is_empty() {
            host::run(
                self.docker().args(["rm", "--force", "--volumes"]).args(there.split_whitespace()),
            )?;
        }
        let networks = host::ask(self.docker().args(["network", "ls", "--format", "{{.Name}}"]))?;
        if networks.lines().any(|name| name == self.name) {
            host::run(self.docker().args(["network", "rm", self.name]))?;
        }
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)?;
        }
        Ok(String::new())
    }

    pub fn docker(&self) -> Command {
        self.lab.engine.command()
    }

    pub fn container(&self, machine: &Machine) -> String {
        format!("{}-{}", self.name, machine.name)
    }
}
