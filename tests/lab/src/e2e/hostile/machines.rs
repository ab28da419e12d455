//! Machines as people have them: noisy shells, hardened servers, proxies, missing controllers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::docker::Debian;
use crate::e2e::homelab::AS_A_MACHINE;
use crate::stage::Check;
use crate::{Ground as _, Ready, host};

const NAME: &str = "lab-odd";
const SUBNET: &str = "172.30.60.0/24";
const ADDRESS: &str = "172.30.60.11";
/// The machine's name in the cluster file; its host name is another.
const MACHINE: &str = "willow";
const HOST_NAME: &str = "pve-7";
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// Accounts that let nobody work, how each is made, and what kdiy has to say of it.
const ACCOUNTS: [(&str, &str, &str); 5] = [
    (
        "forced",
        "sed -i '1s/^/command=\"echo Please login as the user keeper; exit 142\" /' ~forced/.ssh/authorized_keys",
        "Please login as the user keeper",
    ),
    (
        "nobodyin",
        "usermod --shell /usr/sbin/nologin nobodyin",
        "This account is currently not available",
    ),
    ("expired", "echo expired:x | chpasswd; chage --lastday 0 expired", "password has expired"),
    (
        "notty",
        "echo 'Defaults:notty requiretty' >>/etc/sudoers.d/notty",
        "Defaults:notty !requiretty",
    ),
    ("takenover", "sed -i '1i exec sh' ~takenover/.bashrc", "if a start-up file of the login"),
];

pub(super) fn checks<'a>(lab: &'a Ready, cache: &'a Path) -> Result<Vec<Check<'a>>> {
    let odd = Rc::new(Odd { lab, cache, directory: cache.join("odd") });
    let with = |check: fn(&Odd) -> Result<String>| {
        let odd = odd.clone();
        move || {
            odd.make()?;
            let seen = check(&odd)?;
            odd.remove()?;
            Ok(seen)
        }
    };
    Ok(vec![
        Check::new("accounts that cannot work are told apart", with(accounts)),
        Check::new("a kernel without what kubelets need is named", with(kernel)),
        Check::new("a noisy, hardened machine behind a proxy becomes a cluster", with(becomes)),
    ])
}

/// Also: nothing was changed on the machine for any of them.
fn accounts(odd: &Odd) -> Result<String> {
    for (user, make, said) in ACCOUNTS {
        odd.account(user)?;
        odd.inside(make)?;
        odd.cluster_file(user)?;
        odd.fails(&["preflight", "--output", "json"], &[said])
            .with_context(|| format!("as {user}"))?;
    }
    Ok(format!("{} of {0} named", ACCOUNTS.len()))
}

/// The lab's computer has the older cgroups, where a controller that is missing is a hierarchy
/// that is not mounted.
fn kernel(odd: &Odd) -> Result<String> {
    odd.inside(
        "mkdir -p /run/systemd/system/zramswap.service.d; umount /sys/fs/cgroup/memory; \
         printf '[Service]\nExecStart=/bin/true\nRemainAfterExit=yes\nType=oneshot\n' \
         >/etc/systemd/system/zramswap.service; systemctl daemon-reload; systemctl start zramswap",
    )?;
    let failed = odd.fails(
        &["preflight", "--output", "json"],
        &["no cgroup controller memory", "cgroup_enable=memory", "zramswap turns swap on"],
    );
    odd.inside(
        "mount -t cgroup -o memory memory /sys/fs/cgroup/memory; systemctl stop zramswap; \
         rm /etc/systemd/system/zramswap.service; systemctl daemon-reload",
    )?;
    failed.map(|()| String::new())
}

fn becomes(odd: &Odd) -> Result<String> {
    odd.inside(
        "set -e
        echo 'Defaults secure_path=\"/sbin:/bin:/usr/sbin:/usr/bin\"' >/etc/sudoers.d/00-path
        sed -i '1i echo \"welcome to $(uname -n)\"; echo noise >&2' ~keeper/.bashrc
        printf 'http_proxy=http://10.99.0.1:3128\nhttps_proxy=http://10.99.0.1:3128\n' >>/etc/environment
        echo 'MaxSessions 2' >/etc/ssh/sshd_config.d/hard.conf
        systemctl restart ssh",
    )?;
    let warned = odd.kdiy(&["preflight", "--output", "json"])?;
    ensure!(
        warned.contains("2 sessions for each connection"),
        "MaxSessions is not named:\n{warned}"
    );
    let began = Instant::now();
    odd.kdiy(&["up", "--yes"])?;
    let up = began.elapsed().as_secs();
    let status = odd.kdiy(&["status", "--name", NAME, "--output", "json"])?;
    ensure!(
        status.contains(&format!("\"holder\":\"{MACHINE}\""))
            || status.contains(&format!("\"holder\": \"{MACHINE}\"")),
        "the holder of a lease is not known by the machine's name:\n{status}"
    );
    let again = odd.kdiy(&["plan", "--name", NAME])?;
    ensure!(again.contains("as it should be"), "something is still to be done:\n{again}");
    odd.kdiy(&["destroy", "--yes", "--name", NAME])?;
    Ok(format!("up in {up} s"))
}

/// One machine, and what this computer needs to reach it.
struct Odd<'a> {
    lab: &'a Ready,
    cache: &'a Path,
    directory: PathBuf,
}

impl Odd<'_> {
    /// As if nobody had been at it yet.
    fn make(&self) -> Result<()> {
        self.remove()?;
        fs::create_dir_all(&self.directory)?;
        let key = self.directory.join("key");
        host::run(
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key),
        )?;
        host::run(self.docker().args(["network", "create", "--subnet", SUBNET, NAME]))?;
        let image = self.lab.engine.image(self.cache, Debian::Bookworm)?;
        let mut run = self.docker();
        run.args(["run", "--detach", "--name", NAME, "--hostname", HOST_NAME])
            .args(["--network", NAME, "--ip", ADDRESS])
            .args(AS_A_MACHINE)
            .arg(image);
        host::run(&mut run)?;
        let began = Instant::now();
        while self.inside("systemctl is-active --quiet ssh.service").is_err() {
            ensure!(began.elapsed() < STARTS_WITHIN, "the machine does not start");
            std::thread::sleep(Duration::from_millis(200));
        }
        self.account("keeper")?;
        let host_key = self.inside("cat /etc/ssh/ssh_host_ed25519_key.pub")?;
        let at = |name: &str| self.directory.join(name);
        fs::write(at("known_hosts"), format!("{ADDRESS} {host_key}"))?;
        fs::write(
            at("ssh_config"),
            format!(
                "Host *\n  IdentityFile {}\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n",
                key.display(),
                at("known_hosts").display()
            ),
        )?;
        self.cluster_file("keeper")
    }

    /// A user who logs in by the key and may use sudo.
    fn account(&self, user: &str) -> Result<()> {
        let public = fs::read_to_string(self.directory.join("key.pub"))?;
        self.inside(&format!(
            "set -e
            useradd --create-home --shell /bin/bash {user}
            echo '{user} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{user}
            install -d -m 0700 -o {user} -g {user} ~{user}/.ssh
            echo '{public}' >~{user}/.ssh/authorized_keys
            chown {user}:{user} ~{user}/.ssh/authorized_keys"
        ))?;
        Ok(())
    }

    fn cluster_file(&self, user: &str) -> Result<()> {
        let text = format!(
            "name: {NAME}\nprovider: existing\naddons: []\nhosts:\n\
             - {{role: master, name: {MACHINE}, address: {ADDRESS}, ssh: {{user: {user}, config: ssh_config}}}}\n"
        );
        Ok(fs::write(self.directory.join("cluster.yaml"), text)?)
    }

    fn kdiy(&self, arguments: &[&str]) -> Result<String> {
        let (success, said) = self.try_kdiy(arguments)?;
        ensure!(success, "kdiy {}:\n{said}", arguments[0]);
        Ok(said)
    }

    fn fails(&self, arguments: &[&str], expected: &[&str]) -> Result<()> {
        let (success, said) = self.try_kdiy(arguments)?;
        ensure!(!success, "kdiy went on:\n{said}");
        let said_whole = said.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in expected {
            ensure!(said_whole.contains(part), "kdiy did not say `{part}`:\n{said}");
        }
        Ok(())
    }

    /// What it says on both streams.
    fn try_kdiy(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let mut kdiy = self.lab.kdiy();
        kdiy.current_dir(&self.directory)
            .args(arguments)
            .env("KDIY_STATE", self.directory.join("state"))
            .env("KDIY_CACHE", self.directory.join("cache"));
        if ["up", "plan"].contains(&arguments[0]) {
            self.lab.mirror.set(&mut kdiy);
        }
        let output = kdiy.stdin(Stdio::null()).output().context("cannot start kdiy")?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }

    fn inside(&self, script: &str) -> Result<String> {
        host::ask(self.docker().args(["exec", NAME, "sh", "-c", script]))
    }

    fn remove(&self) -> Result<()> {
        let there =
            host::ask(self.docker().args(["ps", "-aq", "--filter", &format!("name=^/?{NAME}$")]))?;
        if !there.trim().is_empty() {
            host::run(self.docker().args(["rm", "--force", "--volumes", NAME]))?;
        }
        let networks = host::ask(self.docker().args(["network", "ls", "--format", "{{.Name}}"]))?;
        if networks.lines().any(|name| name == NAME) {
            host::run(self.docker().args(["network", "rm", NAME]))?;
        }
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)?;
        }
        Ok(())
    }

    fn docker(&self) -> Command {
        self.lab.engine.command()
    }
}
