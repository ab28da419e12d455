//! Probes that prove the health of the cluster. A probe changes nothing that lasts; it reports the
//! check, the expected and the observed result.

mod api;
pub mod controllers;
mod diagnosis;
mod etcd;
pub mod load_balancer;
mod machines;
pub mod network;
mod nodes;
mod running;
pub mod wait;

use async_trait::async_trait;
use kube::Client;

use crate::cluster_context::ClusterContext;
use crate::playbook::format::GateName;
use crate::support::event::Evidence;
use crate::topology::Group;

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
            saw.push_str(", but other fields of the answer contradict this");
        }
        let machine = machine.map(str::to_owned);
        self.evidence.push(Evidence { machine, asked: asked.into(), expected, saw, ok });
    }
}

#[async_trait]
pub trait Gate: Send + Sync {
    fn name(&self) -> GateName;

    /// Units whose restarts would belie a green verdict, and the machines that run them.
    fn watches(&self) -> (Group, &'static [&'static str]);

    /// The port that the watched machines serve each other on, for finding the culprit.
    fn port(&self) -> Option<u16>;

    /// What to do about a verdict that is red, where the gate knows.
    fn fixes(&self, _: &Verdict) -> Vec<String> {
        Vec::new()
    }

    /// Looks once. Errors of reaching things are evidence, not errors.
    async fn probe(&self, context: &ClusterContext) -> Verdict;
}

pub fn gate(name: GateName) -> Box<dyn Gate> {
    match name {
        GateName::Machines => Box::new(machines::Machines),
        GateName::Etcd => Box::new(etcd::Etcd::default()),
        GateName::ApiServers => Box::new(api::ApiServers),
        GateName::LoadBalancer => Box::new(load_balancer::LoadBalancer),
        GateName::Controllers => Box::new(controllers::Controllers),
        GateName::Nodes => Box::new(nodes::Nodes),
        GateName::Network => Box::new(network::Network),
    }
}

/// The same gate between two turns of a rolling change.
pub fn between_turns(name: GateName) -> Box<dyn Gate> {
    match name {
        GateName::Etcd => Box::new(etcd::Etcd { tolerates_no_space: true }),
        _ => gate(name),
    }
}

impl ClusterContext {
    /// A client of an API server that is ready; that there is none is evidence.
    async fn client(&self, verdict: &mut Verdict) -> Option<Client> {
        match self.api.any().await {
            Ok(client) => Some(client),
            Err(failure) => {
                verdict.record(None, "an API server", "ready", failure.to_string(), false);
                None
            }
        }
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
        let later = self.is_to_come(machine);
        let ok = saw.as_ref().is_ok_and(|version| later || *version == wanted);
        let wanted = if later { "any: it is not upgraded yet".to_owned() } else { wanted };
        verdict.record(Some(machine), what, wanted, saw.unwrap_or_else(|error| error), ok);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn red_evidence_never_reads_as_if_all_were_well() {
        let mut verdict = Verdict::default();
        verdict.record(None, "exec", "works", "works", false);
        verdict.record(None, "exec", "works", "works", true);
        assert_ne!(verdict.evidence[0].saw, verdict.evidence[0].expected);
        assert_eq!(verdict.evidence[1].saw, verdict.evidence[1].expected);
        assert!(!verdict.passed());
        assert!(!Verdict::default().passed(), "nothing was looked at");
    }
}
