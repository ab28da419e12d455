//! Providers of machines: Vagrant with one of its providers, Docker, or existing machines.

pub mod docker;
pub mod existing;
pub mod host;
pub mod ssh_keys;
pub mod sudo;
pub mod vagrant;

use async_trait::async_trait;
use clap::ValueEnum;

use crate::config::{ClusterConfig, ProviderChoice};
use crate::state::StateDir;
use crate::state::ledger::{Ledger, ResourceKind};
use crate::support::event::Events;
use crate::support::failure::{Failure, Result};
use crate::topology::{Machine, Topology};
use crate::transport::target::SshTarget;

/// Something about this computer that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub what: String,
    /// The command or action that mends it.
    pub mend: String,
}

/// A thing that kdiy made, as `destroy` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub what: ResourceKind,
    pub id: String,
}

#[async_trait]
pub trait Provider: Send + Sync {
    /// As Vagrant spells it; `existing` for machines that are there already.
    fn name(&self) -> &'static str;

    /// What on this computer is missing for this topology. Changes nothing.
    async fn check_host(&self, topology: &Topology) -> Vec<Finding>;

    /// Everything [`Provider::up`] is going to make, for the ledger.
    fn makes(&self, topology: &Topology) -> Vec<Resource>;

    /// Makes those of `wanted` that are missing and starts those that are off, all at the same
    /// time. Returns one line for each that it touched.
    async fn up(
        &self,
        topology: &Topology,
        wanted: &[&Machine],
        events: &Events,
        task: &str,
    ) -> Result<Vec<String>>;

    /// Whether it makes machines, and can make one anew. Those that are there already belong to
    /// somebody else.
    fn makes_machines(&self) -> bool {
        true
    }

    /// Why machines cannot be switched off and on, where they cannot.
    fn no_switch(&self) -> Option<&'static str> {
        None
    }

    /// Shuts a machine down as its power button would, and waits until it is off. Returns one
    /// line, or none when it was off already.
    async fn stop(&self, machine: &Machine, events: &Events, task: &str) -> Result<Vec<String>>;

    /// How to reach a machine. May be called before the machine is there.
    fn ssh_target(&self, topology: &Topology, machine: &str) -> Result<SshTarget>;

    /// Cuts a machine's power: nothing on it can prepare for that.
    async fn power_off(&self, machine: &str, events: &Events) -> Result<()>;

    /// Gives the power back, and returns before the machine has booted. No error where it is on.
    async fn power_on(&self, machine: &str, events: &Events) -> Result<()>;

    /// An error where the machine says that it is another cluster's. What kdiy makes says nothing.
    async fn check_ours(&self, _: &Topology, _: &Machine) -> Result<()> {
        Ok(())
    }

    /// Takes one machine away for good, and what kdiy put on one that stays; what is gone already
    /// is no error.
    async fn remove(
        &self,
        topology: &Topology,
        machine: &Machine,
        events: &Events,
        task: &str,
    ) -> Result<()>;

    /// Removes what is in the ledger; what is gone already is no error.
    async fn destroy(&self, topology: &Topology, ledger: &Ledger, events: &Events) -> Result<()>;

    /// What of the ledger is still there. Empty is the proof of a destroy.
    async fn leftovers(&self, ledger: &Ledger) -> Result<Vec<Resource>>;
}

/// About what the machines take of this computer's memory, in MiB, when this provider makes them.
pub fn memory(provider: Option<ProviderChoice>, topology: &Topology) -> u64 {
    let takes = |machine: &Machine| match provider {
        Some(ProviderChoice::Docker) => docker::memory(machine.role),
        _ => u64::from(machine.memory_mebibytes),
    };
    topology.machines.iter().map(takes).sum()
}

/// What makes, or made, the machines of this cluster.
pub async fn provider(config: &ClusterConfig, state: &StateDir) -> Result<Box<dyn Provider>> {
    Ok(match chosen(config, state).await? {
        ProviderChoice::Existing => Box::new(existing::Existing::new(config, state)),
        ProviderChoice::Docker => Box::new(docker::Docker::new(config, state)),
        choice => Box::new(vagrant::Virtual::new(choice, config, state)),
    })
}

/// The choice of the cluster file, or the first provider that can be used.
pub async fn chosen(config: &ClusterConfig, state: &StateDir) -> Result<ProviderChoice> {
    if config.provider != ProviderChoice::Auto {
        return Ok(config.provider);
    }
    // What made the machines must also be what removes them, whatever is installed by then.
    if let Some(entry) =
        Ledger::open(state.root())?.entries().iter().find(|it| !it.provider.is_empty())
    {
        return ProviderChoice::from_str(&entry.provider, false).map_err(|_| {
            Failure::bug(format!("the ledger names the provider {}", entry.provider))
        });
    }
    let mut reasons = Vec::new();
    for choice in host::PROVIDERS {
        match host::usable(choice).await {
            Ok(()) if host::emulated(choice) => {
                reasons.push(
                    "libvirt could only emulate machines; set it explicitly if you want that"
                        .into(),
                );
            }
            Ok(()) => return Ok(choice),
            Err(finding) => reasons.push(format!("{}; {}", finding.what, finding.mend)),
        }
    }
    Err(Failure::host("this computer cannot create machines")
        .tail(reasons)
        .hint("install one of these, or list existing machines: provider: existing, hosts: …"))
}
