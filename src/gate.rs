//! Probes that prove the cluster got healthier. A probe changes nothing that lasts and answers
//! with what it asked and what it saw.

mod api;
mod blame;
pub mod controllers;
mod etcd;
pub mod hold;
pub mod load_balancer;
mod machines;
pub mod network;
mod nodes;
mod running;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::config::ClusterConfig;
use crate::event::Evidence;
use crate::failure::chain;
use crate::fleet::Fleet;
use crate::kube_api::ApiAccess;
use crate::topology::{Group, Machine, Topology};
use crate::transport::Script;

/// Everything a probe may look at.
pub struct GateContext {
    pub config: ClusterConfig,
    pub topology: Topology,
    pub fleet: Arc<Fleet>,
    pub api: Arc<ApiAccess>,
    /// Full references, by image name.
    pub images: BTreeMap<String, String>,
    /// Versions that are to run, by component.
    pub versions: BTreeMap<String, String>,
    /// Between two turns of a rolling step: its machines whose turn is to come, which may run the
    /// version that they had. `None` where the whole is to be proven.
    pub turn_to_come: Option<BTreeSet<String>>,
    /// Within a run: the steps whose work must show by now. Later ones may have been begun by a run
    /// that was interrupted. `None` where every step must show.
    pub steps: Option<BTreeSet<String>>,
}

/// One look at the cluster.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    pub evidence: Vec<Evidence>,
}

impl Verdict {
    /// Green only when something was looked at and all of it was as expected.
    pub fn passed(&self) -> bool {
        !self.evidence.is_empty() && self.evidence.iter().all(|evidence| evidence.ok)
    }

    pub fn record(
        &mut self,
        machine: Option<&str>,
        asked: impl Into<String>,
        expected: impl Into<String>,
        saw: impl Into<String>,
        ok: bool,
    ) {
        let (expected, mut saw) = (expected.into(), saw.into());
        // Words and colour must not disagree: "expected X, saw X" would explain nothing.
        if !ok && saw == expected {
            saw.push_str(", but the rest of the answer contradicts that");
        }
        let machine = machine.map(str::to_owned);
        self.evidence.push(Evidence { machine, asked: asked.into(), expected, saw, ok });
    }
}

#[async_trait]
pub trait Gate: Send + Sync {
    /// As playbooks name it in `gate:`.
    fn name(&self) -> &'static str;

    /// Units whose restarts would belie a green verdict, and the machines that run them.
    fn watches(&self) -> (Group, &'static [&'static str]);

    /// The port that the watched machines serve each other on, for finding the culprit.
    fn port(&self) -> Option<u16>;

    /// What to do about a verdict that is red, where the gate knows.
    fn fixes(&self, _: &Verdict) -> Vec<String> {
        Vec::new()
    }

    /// Looks once. Errors of reaching things are evidence, not errors.
    async fn probe(&self, context: &GateContext) -> Verdict;
}

/// Every gate that playbooks may name.
pub fn all() -> Vec<Box<dyn Gate>> {
    vec![
        Box::new(machines::Machines),
        Box::new(etcd::Etcd::default()),
        Box::new(api::ApiServers),
        Box::new(load_balancer::LoadBalancer),
        Box::new(controllers::Controllers),
        Box::new(nodes::Nodes),
        Box::new(network::Network),
    ]
}

pub fn by_name(name: &str) -> Option<Box<dyn Gate>> {
    all().into_iter().find(|gate| gate.name() == name)
}

/// The same gate between two turns of a rolling change.
pub fn between_turns(name: &str) -> Option<Box<dyn Gate>> {
    match name {
        "etcd" => Some(Box::new(etcd::Etcd { tolerates_no_space: true })),
        _ => by_name(name),
    }
}

impl GateContext {
    /// Whether the machine is one whose turn in a rolling step is to come. It may wait for that very
    /// step to be mended, so it is not held against those that were changed.
    pub fn is_to_come(&self, machine: &Machine) -> bool {
        self.turn_to_come.as_ref().is_some_and(|machines| machines.contains(&machine.name))
    }

    /// Notes whether a component runs the wanted version on a machine.
    fn record_version(
        &self,
        verdict: &mut Verdict,
        machine: &str,
        what: &str,
        component: &str,
        saw: Result<String, String>,
    ) {
        let wanted = self.versions.get(component).map(|version| format!("v{version}"));
        let wanted = wanted.unwrap_or_default();
        let later = self.turn_to_come.as_ref().is_some_and(|machines| machines.contains(machine));
        let ok = saw.as_ref().is_ok_and(|version| later || *version == wanted);
        let wanted = if later { "any, its turn is to come".to_owned() } else { wanted };
        verdict.record(Some(machine), what, wanted, saw.unwrap_or_else(|error| error), ok);
    }

    /// Runs a script on each machine of a group at the same time. A machine that does not answer
    /// has an `Err` with the reason.
    pub async fn ask(
        &self,
        group: Group,
        script: impl Fn(&Machine) -> String,
    ) -> Vec<(&Machine, Result<String, String>)> {
        self.hear(group, script, |_, _| {}).await
    }

    /// The same, with every line as it arrives.
    async fn hear(
        &self,
        group: Group,
        script: impl Fn(&Machine) -> String,
        listen: impl Fn(&Machine, &str) + Sync,
    ) -> Vec<(&Machine, Result<String, String>)> {
        let listen = &listen;
        let asked = self.topology.group(group).into_iter().map(|machine| {
            let script = Script::new(script(machine)).timeout(self.patience());
            async move {
                let answer = match self.fleet.transport(&machine.name).await {
                    Ok(transport) => {
                        let listen = |line: &str| listen(machine, line);
                        transport.run_with(script, &listen).await.map_err(|error| chain(&error))
                    }
                    Err(failure) => Err(failure.to_string()),
                };
                (machine, answer.map(|output| output.stdout))
            }
        });
        futures::future::join_all(asked).await
    }

    /// Seconds that one request of such a script may take, as curl and nc are told: those of
    /// ordinary hardware, multiplied by `slowMachines`.
    pub fn seconds(&self, ordinary: u32) -> u32 {
        ordinary.saturating_mul(self.config.slow_machines)
    }

    /// How long one script of a probe may take.
    fn patience(&self) -> Duration {
        Duration::from_secs(15) * self.config.slow_machines
    }
}
