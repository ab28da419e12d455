//! One line for each thing that happened, for logs and pipes.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::{Renderer, duration, err};
use crate::event::{Event, Evidence, Outcome, Stamped, TaskId, TaskInfo, TaskKind};

pub struct Plain {
    verbose: bool,
    began: Option<Timestamp>,
    tasks: BTreeMap<TaskId, TaskInfo>,
    proofs: BTreeMap<TaskId, Vec<Evidence>>,
}

impl Plain {
    pub fn new(verbose: bool) -> Self {
        Self { verbose, began: None, tasks: BTreeMap::new(), proofs: BTreeMap::new() }
    }

    fn line(&mut self, stamped: &Stamped) -> Option<String> {
        match &stamped.event {
            Event::Planned { tasks } => {
                self.tasks = tasks.iter().map(|task| (task.id.clone(), task.clone())).collect();
                None
            }
            Event::TaskFinished { task, outcome, changes, elapsed_ms, .. } => {
                let proof = self.proofs.remove(task);
                finished(self.tasks.get(task)?, *outcome, changes, proof.as_deref(), *elapsed_ms)
            }
            Event::GateEvidence { task, passed: true, evidence } => {
                self.proofs.insert(task.clone(), evidence.clone());
                None
            }
            Event::Output { machine, line, .. } if self.verbose => {
                Some(format!("{machine} | {line}"))
            }
            Event::Warning { message } => Some(format!("warning: {message}")),
            Event::Note { message } => Some(message.clone()),
            _ => None,
        }
    }
}

/// What a finished task says; nothing when it had nothing to do, and for a gate nothing without a
/// proof.
fn finished(
    task: &TaskInfo,
    outcome: Outcome,
    changes: &[String],
    evidence: Option<&[Evidence]>,
    elapsed_ms: u64,
) -> Option<String> {
    let took = duration(Duration::from_millis(elapsed_ms));
    let place = task.machine.as_deref().unwrap_or("cluster");
    match (task.kind, outcome) {
        (_, Outcome::Failed) => Some(format!("✘ {place}: {} failed after {took}", task.title)),
        (TaskKind::Gate, _) => {
            evidence.map(|evidence| format!("✔ {}: {} ({took})", task.step, proof(evidence)))
        }
        (_, Outcome::Changed) => {
            let count = changes.len();
            let what = if count == 1 { changes[0].clone() } else { format!("{count} changes") };
            Some(format!("• {place}: {} ({what}, {took})", task.title))
        }
        _ => None,
    }
}

/// What a green gate found worth saying.
pub fn proof(evidence: &[Evidence]) -> String {
    let leader = evidence.iter().find(|line| line.asked == "leader");
    let count = format!("{} things proven", evidence.len());
    match leader {
        Some(leader) => format!("leader {}, {count}", leader.saw),
        None => count,
    }
}

impl Renderer for Plain {
    fn show(&mut self, stamped: &Stamped) {
        let began = *self.began.get_or_insert(stamped.at);
        let since = stamped.at.duration_since(began).as_secs_f64();
        if let Some(line) = self.line(stamped) {
            err(&format!("{since:7.1}s {line}"));
        }
    }

    fn finish(&mut self) {}
}
