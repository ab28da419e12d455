//! Machines that exist already and are only reached.

use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{Finding, Owned, Provider};
use crate::config::{ClusterConfig, HostSsh};
use crate::event::Events;
use crate::failure::{Failure, Result};
use crate::state::StateDir;
use crate::state::ledger::Ledger;
use crate::topology::{Machine, Topology};
use crate::transport::target::SshTarget;

const NO_SWITCH: &str =
    "kdiy has no switch for machines that exist already: it could not turn one on again";

pub struct Existing {
    config: ClusterConfig,
    home: Option<PathBuf>,
}

impl Existing {
    pub fn new(config: &ClusterConfig, _: &StateDir) -> Self {
        Self { config: config.clone(), home: etcetera::home_dir().ok() }
    }
}

impl Existing {
    /// `~/` is the shell's to expand, and no shell reads the cluster file.
    fn expanded(&self, path: &Path) -> PathBuf {
        match (path.strip_prefix("~"), &self.home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => path.to_owned(),
        }
    }
}

#[async_trait]
impl Provider for Existing {
    fn name(&self) -> &'static str {
        "existing"
    }

    async fn check_host(&self, _: &Topology) -> Vec<Finding> {
        Vec::new()
    }

    fn makes(&self, _: &Topology) -> Vec<Owned> {
        Vec::new()
    }

    async fn up(&self, _: &Topology, _: &[&Machine], _: &Events, _: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn no_switch(&self) -> Option<&'static str> {
        Some(NO_SWITCH)
    }

    async fn stop(&self, machine: &Machine, _: &Events, _: &str) -> Result<Vec<String>> {
        Err(no_switch(&machine.name))
    }

    /// The user's own ssh settings and known hosts are what counts.
    fn ssh_target(&self, topology: &Topology, machine: &str) -> Result<SshTarget> {
        let position = topology.machines.iter().position(|other| other.name == machine);
        let entry = position
            .and_then(|position| self.config.hosts.get(position))
            .ok_or_else(|| Failure::input(format!("there is no machine {machine}")))?;
        let HostSsh { host, user, port, key, jump } = entry.ssh.clone();
        let ssh = self.home.clone().unwrap_or_default().join(".ssh");
        Ok(SshTarget {
            machine: machine.to_owned(),
            host: host.unwrap_or_else(|| entry.address.to_string()),
            port,
            user,
            keys: key.iter().map(|path| self.expanded(path)).collect(),
            known_hosts: ssh.join("known_hosts"),
            accept_new_host_key: false,
            // With a file named, ssh would leave out the system's own.
            config_file: None,
            jump,
        })
    }

    async fn power_off(&self, machine: &str, _: &Events) -> Result<()> {
        Err(no_switch(machine))
    }

    async fn power_on(&self, machine: &str, _: &Events) -> Result<()> {
        Err(no_switch(machine))
    }

    async fn destroy(&self, _: &Topology, _: &Ledger, _: &Events) -> Result<()> {
        Err(Failure::input("destroy: machines that exist already are not kdiy's to remove")
            .hint("reset them by hand: stop the units that `kdiy plan` lists, or reinstall"))
    }

    async fn leftovers(&self, _: &Ledger) -> Result<Vec<Owned>> {
        Ok(Vec::new())
    }
}

fn no_switch(machine: &str) -> Failure {
    Failure::input(NO_SWITCH).on(machine)
}
