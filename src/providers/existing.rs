//! Existing machines: kdiy only connects to them, and leaves them as it found them.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use async_trait::async_trait;

use crate::bundle::script::{Line, REMOVE, quote};
use crate::config::{ClusterConfig, HostSsh};
use crate::providers::{Finding, Provider, Resource, sudo};
use crate::state::StateDir;
use crate::state::ledger::{Ledger, ResourceKind};
use crate::support::event::{Event, Events};
use crate::support::failure::{Failure, Kind, Result};
use crate::support::time_scale::Unscaled;
use crate::topology::ownership::{FILE, Ownership};
use crate::topology::{Machine, Topology};
use crate::transport::pool::{ConnectionPool, transport_failure};
use crate::transport::target::{Root, SshTarget};
use crate::transport::{Script, Transport, control_sockets};

/// A machine that is up answers at once; nobody waits for one that is not. Multiplied by
/// `slowMachines`.
const REACHED_WITHIN: Unscaled = Unscaled::from_secs(10);
/// Stopping every unit, with room for pods that do not want to end and for packages.
const CLEANED_WITHIN: Unscaled = Unscaled::from_secs(600);
const NO_SWITCH: &str = "kdiy cannot power existing machines on or off";

pub struct Existing {
    config: ClusterConfig,
    state: StateDir,
    home: Option<PathBuf>,
}

impl Existing {
    pub fn new(config: &ClusterConfig, state: &StateDir) -> Self {
        Self { config: config.clone(), state: state.clone(), home: etcetera::home_dir().ok() }
    }

    /// Runs the machine's own ledger backwards.
    async fn clean(
        &self,
        topology: &Topology,
        connections: &ConnectionPool,
        machine: &str,
        events: &Events,
    ) -> Result<()> {
        let target = self.ssh_target(topology, machine)?;
        events.progress("destroy", format!("connecting to {machine}"));
        let deadline = REACHED_WITHIN * self.config.slow_machines;
        let transport = connections.connect(&target, deadline).await?;
        let ports = topology.ports(topology.named(machine)?);
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        self.owner_check(topology, &*transport, machine).await?;
        let script = Script::new(format!("ports={}\n{REMOVE}", quote(&ports.join(" "))));
        let troubles = Mutex::new(Vec::new());
        let listen = |line: &str| match Line::parse(line) {
            Line::Did(what) if what.starts_with("left ") => {
                events.note(format!("{machine}: {what}"));
            }
            Line::Did(what) | Line::Doing(what) => {
                events.progress("destroy", format!("{machine}: {what}"));
            }
            Line::Saw(what) => events.note(format!("{machine}: checked again: {what}")),
            Line::Fail(what) => {
                if let Ok(mut troubles) = troubles.lock() {
                    troubles.push(what.to_owned());
                }
            }
            Line::Other(text) => events.send(Event::Output {
                machine: machine.to_owned(),
                task: "destroy".into(),
                line: text.to_owned(),
            }),
        };
        let slow = self.config.slow_machines;
        let output = transport.run_with(script.timeout(CLEANED_WITHIN * slow), &listen).await;
        let output = output.map_err(|error| transport_failure("destroy", &error))?;
        if output.success() {
            return Ok(());
        }
        let troubles = troubles.into_inner().unwrap_or_default();
        Err(Failure::new(Kind::Step, "not everything could be removed")
            .on(machine)
            .tail(if troubles.is_empty() { output.tail(10) } else { troubles }))
    }

    /// Another cluster's machine is not ours to clean.
    async fn owner_check(
        &self,
        topology: &Topology,
        transport: &dyn Transport,
        machine: &str,
    ) -> Result<()> {
        let id = self.state.record()?.map(|record| record.id).unwrap_or_default();
        let said = transport.run(Script::new(format!("cat {FILE} 2>/dev/null"))).await;
        let said = said.map_err(|error| transport_failure("destroy", &error))?.stdout;
        let owner = Ownership::judge(&topology.cluster, &id, &said);
        owner.map_or(Ok(()), |owner| owner.check(&topology.cluster, machine))
    }

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

    fn makes_machines(&self) -> bool {
        false
    }

    async fn check_host(&self, _: &Topology) -> Vec<Finding> {
        Vec::new()
    }

    /// Nothing: but what is put on these machines has to be taken away from them.
    fn makes(&self, topology: &Topology) -> Vec<Resource> {
        let owned = |name: &String| Resource { what: ResourceKind::Host, id: name.clone() };
        topology.machines.iter().map(|machine| owned(&machine.name)).collect()
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
        let HostSsh { host, user, port, key, jump, config, accept_new_host_key, .. } =
            entry.ssh.clone();
        Ok(SshTarget {
            machine: machine.to_owned(),
            host: host.unwrap_or_else(|| entry.address.to_string()),
            port,
            user,
            keys: key.iter().map(|path| self.expanded(path)).collect(),
            known_hosts: None,
            accept_new_host_key,
            config_file: config.map(|path| self.expanded(&path)),
            jump,
            // Settings of the user's may lead by another way.
            knock_at: None,
            slow_machines: self.config.slow_machines,
            root: Root::FindOut { password: sudo::password() },
        })
    }

    async fn check_ours(&self, topology: &Topology, machine: &Machine) -> Result<()> {
        let sockets = control_sockets::directory()?;
        let connections = ConnectionPool::new(sockets.path().to_owned());
        let target = self.ssh_target(topology, &machine.name)?;
        let transport = connections.connect(&target, REACHED_WITHIN * target.slow_machines).await?;
        let checked = self.owner_check(topology, &*transport, &machine.name).await;
        connections.close().await;
        checked
    }

    async fn power_off(&self, machine: &str, _: &Events) -> Result<()> {
        Err(no_switch(machine))
    }

    async fn power_on(&self, machine: &str, _: &Events) -> Result<()> {
        Err(no_switch(machine))
    }

    async fn remove(
        &self,
        topology: &Topology,
        machine: &Machine,
        events: &Events,
        _: &str,
    ) -> Result<()> {
        let sockets = control_sockets::directory()?;
        let connections = ConnectionPool::new(sockets.path().to_owned());
        let cleaned = self.clean(topology, &connections, &machine.name, events).await;
        connections.close().await;
        cleaned
    }

    /// All at the same time. What is done is forgotten; a machine that could not be cleaned stays
    /// in the ledger, and is an error.
    async fn destroy(&self, topology: &Topology, ledger: &Ledger, events: &Events) -> Result<()> {
        sudo::obtain(&self.config)?;
        let sockets = control_sockets::directory()?;
        let connections = ConnectionPool::new(sockets.path().to_owned());
        let cleaned = futures::future::join_all(hosts(ledger).map(|name| {
            let connections = &connections;
            async move { (name, self.clean(topology, connections, name, events).await) }
        }))
        .await;
        connections.close().await;
        let mut failures = Vec::new();
        let mut ledger = Ledger::open(self.state.root())?;
        for (name, result) in cleaned {
            match result {
                Ok(()) => ledger.remove(ResourceKind::Host, name)?,
                Err(failure) => failures.push((name, failure)),
            }
        }
        let Some((name, first)) = failures.first().cloned() else { return Ok(()) };
        let cluster = &topology.cluster;
        let mut failure = first.hint("fix this and run the same command again").hint(format!(
            "or leave the machine as it is: kdiy destroy --name {cluster} --forget {name}"
        ));
        failure.tail.extend(failures[1..].iter().map(|(_, other)| other.to_string()));
        Err(failure)
    }

    /// What [`Existing::destroy`] could not clean: each machine proves on itself that nothing is
    /// left, or stays in the ledger.
    async fn leftovers(&self, _: &Ledger) -> Result<Vec<Resource>> {
        let ledger = Ledger::open(self.state.root())?;
        Ok(hosts(&ledger)
            .map(|id| Resource { what: ResourceKind::Host, id: id.to_owned() })
            .collect())
    }
}

fn no_switch(machine: &str) -> Failure {
    Failure::input(NO_SWITCH).on(machine)
}

fn hosts(ledger: &Ledger) -> impl Iterator<Item = &str> {
    let hosts = ledger.entries().iter().filter(|entry| entry.what == ResourceKind::Host);
    hosts.map(|entry| entry.id.as_str())
}
