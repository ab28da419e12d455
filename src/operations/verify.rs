//! Checks a running cluster: its gates again, and tests of what users do with a cluster.
//!
//! Every check has its own namespace with a label, by which a later run finds and removes
//! leftovers. A failing check does not stop the others.

pub mod deep;
pub mod report;
pub mod sandbox;
pub mod smoke;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::cluster_context::ClusterContext;
use crate::gates;
use crate::playbook::context::TemplateContext;
use crate::playbook::format::GateName;
use crate::playbook::load::Playbooks;
use crate::support::event::{Event, Events, Evidence, Outcome, TaskInfo, TaskKind};
use crate::support::failure::{Failure, Kind, Result};
use report::{Entry, Part, Verdict};
use sandbox::{Namespaces, Sandbox};

/// Checks at the same time. Their pods share the cluster with its owner's.
const PARALLEL: usize = 4;

/// The last entry of every verification.
const CLEAN_UP: &str = "clean-up";
const NOTHING_IS_LEFT: &str = "nothing is left behind";

/// Something that is tried out on the cluster.
#[derive(Clone, Copy)]
pub struct Check {
    /// Lower case and hyphens; part of its namespace's name.
    pub name: &'static str,
    pub title: &'static str,
    pub run: fn(Arc<Sandbox>) -> BoxFuture<'static, CheckResult>,
}

/// How a check ended. What it looked at is in its [`Sandbox`].
pub type CheckResult = Result<(), CheckError>;

/// Why something is not proven.
#[derive(Debug)]
pub enum CheckError {
    /// It does not apply to this cluster.
    Skipped(String),
    Failed(Failure),
}

impl From<Failure> for CheckError {
    fn from(failure: Failure) -> Self {
        match failure.kind {
            Kind::Interrupted => Self::Skipped(failure.what),
            _ => Self::Failed(failure),
        }
    }
}

/// A gate of the playbooks.
pub struct Proof {
    pub name: GateName,
    pub title: String,
    pub within: Duration,
}

/// The gates of the playbooks, in their order.
pub fn proofs(playbooks: &Playbooks, template_context: &TemplateContext) -> Vec<Proof> {
    let steps = playbooks
        .steps()
        .map(|(_, step)| step)
        .filter(|step| template_context.all_hold(&step.when));
    let gates = steps.filter_map(|step| {
        let gate = step.gate.as_ref()?;
        let exists = step.on == crate::topology::Group::Cluster
            || !template_context.topology.group(step.on).is_empty();
        exists.then(|| Proof {
            name: gate.name,
            title: step.title.clone(),
            within: Duration::from_secs(gate.seconds.into())
                * template_context.config.slow_machines,
        })
    });
    gates.collect()
}

/// What a run works with.
pub struct Verification {
    pub context: Arc<ClusterContext>,
    pub events: Events,
    /// Cancelled by the user; what was made is removed all the same.
    pub stop: CancellationToken,
}

/// Everything that is tried out, `deep` or not.
pub fn checks(deep: bool) -> Vec<(Part, Check)> {
    let smoke = smoke::CHECKS.iter().map(|check| (Part::Smoke, *check));
    let behaviour = if deep { deep::checks() } else { Vec::new() };
    smoke.chain(behaviour.into_iter().map(|check| (Part::Deep, check))).collect()
}

impl Verification {
    pub async fn run(&self, proofs: &[Proof], checks: &[(Part, Check)]) -> Vec<Entry> {
        let tasks = proofs
            .iter()
            .map(|proof| info(proof.name.as_str(), &proof.title))
            .chain(checks.iter().map(|(_, check)| info(check.name, check.title)))
            .chain([info(CLEAN_UP, NOTHING_IS_LEFT)]);
        self.events.send(Event::Planned { tasks: tasks.collect() });
        let mut entries = Vec::new();
        for proof in proofs {
            entries.push(self.prove(proof).await);
        }
        entries.extend(self.try_out(checks).await);
        entries
    }

    async fn prove(&self, proof: &Proof) -> Entry {
        let hold = async {
            if self.stop.is_cancelled() {
                return Err(interrupted());
            }
            let gate = gates::gate(proof.name);
            let (within, task) = (proof.within, proof.name.as_str());
            gates::wait::hold(&*gate, &self.context, within, &self.events, task, &self.stop).await
        };
        self.entry(Part::Gates, proof.name.as_str(), &proof.title, async {
            match hold.await {
                Ok(verdict) => (Ok(()), verdict.evidence),
                Err(failure) => (Err(failure.into()), Vec::new()),
            }
        })
        .await
    }

    /// A namespace that cannot be removed is a failure of its own, before and after.
    async fn try_out(&self, checks: &[(Part, Check)]) -> Vec<Entry> {
        let namespaces = match self.prepared().await {
            Ok(namespaces) => namespaces,
            Err(failure) => {
                let mut entries: Vec<Entry> =
                    checks.iter().map(|(part, check)| self.untried(*part, check)).collect();
                let failed = async { (Err(failure.into()), Vec::new()) };
                entries.push(self.entry(Part::Smoke, CLEAN_UP, NOTHING_IS_LEFT, failed).await);
                return entries;
            }
        };
        let mut entries = self.check_all(checks, &namespaces).await;
        let removed = async {
            match namespaces.remove_all().await {
                Ok(saw) => (Ok(()), vec![saw]),
                Err(failure) => (Err(failure.into()), Vec::new()),
            }
        };
        entries.push(self.entry(Part::Smoke, CLEAN_UP, NOTHING_IS_LEFT, removed).await);
        entries
    }

    /// In the order of `checks`, however they end: in a stream that keeps order, a check that is
    /// done would hold its place until those before it are.
    async fn check_all(&self, checks: &[(Part, Check)], namespaces: &Namespaces) -> Vec<Entry> {
        let running = checks.iter().enumerate().map(|(at, (part, check))| async move {
            (at, self.check(*part, *check, namespaces).await)
        });
        let mut entries: Vec<(usize, Entry)> =
            futures::stream::iter(running).buffer_unordered(PARALLEL).collect().await;
        entries.sort_by_key(|(at, _)| *at);
        entries.into_iter().map(|(_, entry)| entry).collect()
    }

    fn untried(&self, part: Part, check: &Check) -> Entry {
        let verdict = Verdict::Skipped("cannot create a clean namespace for this check".into());
        self.finished(part, check.name, check.title, Instant::now(), verdict, Vec::new())
    }

    /// Without what an earlier run may have left.
    async fn prepared(&self) -> Result<Namespaces> {
        let client = self.context.api.any().await?;
        let namespaces = Namespaces::new(client, self.context.clone());
        namespaces.remove_all().await?;
        Ok(namespaces)
    }

    async fn check(&self, part: Part, check: Check, namespaces: &Namespaces) -> Entry {
        self.entry(part, check.name, check.title, async {
            if self.stop.is_cancelled() {
                return (Err(interrupted().into()), Vec::new());
            }
            let bench = match namespaces.bench(check.name, &self.stop).await {
                Ok(bench) => Arc::new(bench),
                Err(failure) => return (Err(failure.into()), Vec::new()),
            };
            let result = tokio::select! {
                result = (check.run)(bench.clone()) => result,
                () = self.stop.cancelled() => Err(interrupted().into()),
            };
            namespaces.begin_removing(check.name).await;
            let evidence = bench.evidence();
            self.events.send(Event::GateEvidence {
                task: check.name.into(),
                passed: result.is_ok() && evidence.iter().all(|it| it.ok),
                evidence: evidence.clone(),
            });
            (result, evidence)
        })
        .await
    }

    async fn entry(
        &self,
        part: Part,
        name: &str,
        title: &str,
        work: impl Future<Output = (CheckResult, Vec<Evidence>)>,
    ) -> Entry {
        let began = Instant::now();
        self.events.send(Event::TaskStarted { task: name.into(), attempt: 1 });
        let (result, evidence) = work.await;
        let verdict = Verdict::of(result, &evidence);
        self.finished(part, name, title, began, verdict, evidence)
    }

    fn finished(
        &self,
        part: Part,
        name: &str,
        title: &str,
        began: Instant,
        verdict: Verdict,
        evidence: Vec<Evidence>,
    ) -> Entry {
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.events.send(Event::TaskFinished {
            task: name.into(),
            attempt: 1,
            outcome: match verdict {
                Verdict::Passed => Outcome::Unchanged,
                Verdict::Skipped(_) => Outcome::Skipped,
                Verdict::Failed(_) => Outcome::Failed,
            },
            changes: Vec::new(),
            elapsed_ms,
        });
        let (name, title) = (name.to_owned(), title.to_owned());
        Entry { part, name, title, verdict, elapsed_ms, evidence }
    }
}

fn info(name: &str, title: &str) -> TaskInfo {
    TaskInfo {
        id: name.into(),
        title: title.into(),
        step: name.into(),
        machine: None,
        kind: TaskKind::Gate,
        needs: Vec::new(),
    }
}

fn interrupted() -> Failure {
    Failure::new(Kind::Interrupted, "interrupted by the user")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_make_namespaces() {
        let checks: Vec<Check> = checks(true).into_iter().map(|(_, check)| check).collect();
        let gates = GateName::ALL;
        let own = checks.iter().map(|check| check.name).chain([CLEAN_UP]);
        let names: BTreeSet<&str> = own.chain(gates.iter().map(|gate| gate.as_str())).collect();
        assert_eq!(names.len(), checks.len() + 1 + gates.len());
        // A namespace's name is a DNS label (RFC 1123).
        for name in checks.iter().map(|check| check.name) {
            let fits = name.chars().all(|it| it.is_ascii_lowercase() || it == '-');
            assert!(fits && name.len() < 40, "{name}");
        }
    }
}
