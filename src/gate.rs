//! Probes that prove the cluster got healthier. A probe changes nothing that lasts and answers
//! with what it asked and what it saw.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::config::ClusterConfig;
use crate::event::Evidence;
use crate::kube_api::ApiAccess;
use crate::topology::Topology;
use crate::transport::Transport;

/// Everything a probe may look at.
pub struct GateContext {
    pub config: ClusterConfig,
    pub topology: Topology,
    pub transports: BTreeMap<String, Arc<dyn Transport>>,
    pub api: ApiAccess,
}

/// One look at the cluster.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    pub evidence: Vec<Evidence>,
    /// The machine that is really at fault, where the evidence allows to say so.
    pub culprit: Option<String>,
    /// What to try; each a sentence or a command.
    pub advice: Vec<String>,
    /// The culprit's last journal lines or similar.
    pub tail: Vec<String>,
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
        self.evidence.push(Evidence {
            machine: machine.map(str::to_owned),
            asked: asked.into(),
            expected: expected.into(),
            saw: saw.into(),
            ok,
        });
    }
}

#[async_trait]
pub trait Gate: Send + Sync {
    /// As playbooks name it in `gate:`.
    fn name(&self) -> &'static str;

    /// Units (systemd) whose restarts would belie a green verdict, by machine group.
    fn watches(&self) -> &'static [&'static str];

    /// Looks once. Errors of reaching things are evidence, not errors.
    async fn probe(&self, context: &GateContext) -> Verdict;

    /// Called once, after the deadline: probes all pairs, reads journals, and names the culprit
    /// and the advice in a copy of the last verdict.
    async fn diagnose(&self, context: &GateContext, last: Verdict) -> Verdict;
}

/// Every gate that playbooks may name.
pub fn all() -> Vec<Box<dyn Gate>> {
    Vec::new()
}

pub fn by_name(name: &str) -> Option<Box<dyn Gate>> {
    all().into_iter().find(|gate| gate.name() == name)
}
