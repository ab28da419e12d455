//! One line for each thing that happened, for logs and pipes.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::support::event::{Event, Evidence, Outcome, Stamped, TaskId, TaskInfo, TaskKind};
use crate::ui::{Renderer, duration, err};

/// With nothing to say for this long a log says what is waited for.
const SILENCE: Duration = Duration::from_secs(15);
/// Tasks that such a line names.
const NAMED: usize = 3;

pub struct Plain {
    verbose: bool,
    began: Option<Timestamp>,
    /// When the last line was written.
    spoke: Option<Timestamp>,
    tasks: BTreeMap<TaskId, TaskInfo>,
    running: BTreeMap<TaskId, Timestamp>,
    proofs: BTreeMap<TaskId, Vec<Evidence>>,
}

impl Plain {
    pub fn new(verbose: bool) -> Self {
        Self {
            verbose,
            began: None,
            spoke: None,
            tasks: BTreeMap::new(),
            running: BTreeMap::new(),
            proofs: BTreeMap::new(),
        }
    }

    fn line(&mut self, stamped: &Stamped) -> Option<String> {
        match &stamped.event {
            Event::Planned { tasks } => {
                self.tasks = tasks.iter().map(|task| (task.id.clone(), task.clone())).collect();
                None
            }
            Event::TaskStarted { task, .. } => {
                self.running.entry(task.clone()).or_insert(stamped.at);
                None
            }
            Event::TaskFinished { task, outcome, changes, elapsed_ms, .. } => {
                self.running.remove(task);
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
    let place = task.place();
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
    let count = match evidence.len() {
        1 => "1 check passed".to_owned(),
        count => format!("{count} checks passed"),
    };
    match leader {
        Some(leader) => format!("leader {}, {count}", leader.saw),
        None => count,
    }
}

impl Plain {
    /// What is waited for, when nothing was said for a while: longest first.
    fn waiting(&self, now: Timestamp) -> Option<String> {
        if since(self.spoke?, now) < SILENCE {
            return None;
        }
        let mut running: Vec<(&TaskId, Duration)> =
            self.running.iter().map(|(task, began)| (task, since(*began, now))).collect();
        running.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        let named: Vec<String> = running
            .iter()
            .take(NAMED)
            .filter_map(|(task, time)| {
                let info = self.tasks.get(*task)?;
                Some(format!("{}: {} ({})", info.place(), info.title, duration(*time)))
            })
            .collect();
        let more = running.len().saturating_sub(NAMED);
        let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
        (!named.is_empty()).then(|| format!("… {}{rest}", named.join(", ")))
    }

    fn write(&mut self, line: &str, at: Timestamp) {
        let began = *self.began.get_or_insert(at);
        self.spoke = Some(at);
        err(&format!("{:7.1}s {line}", since(began, at).as_secs_f64()));
    }
}

fn since(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

impl Renderer for Plain {
    fn show(&mut self, stamped: &Stamped) {
        self.began.get_or_insert(stamped.at);
        self.spoke.get_or_insert(stamped.at);
        if let Some(line) = self.line(stamped) {
            self.write(&line, stamped.at);
        }
    }

    fn tick(&mut self, now: Timestamp) {
        if let Some(line) = self.waiting(now) {
            self.write(&line, now);
        }
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;
    use crate::reports::timings::tests::run;

    /// The lines of a run, without their times.
    fn lines(events: &[Stamped]) -> Vec<String> {
        let mut plain = Plain::new(false);
        events.iter().filter_map(|stamped| plain.line(stamped)).collect()
    }

    #[test]
    fn a_change_is_printed_with_its_machine() {
        let mut events = run(&[("etcd@a", 0, Some(1500), &[])]);
        if let Some(Event::TaskFinished { changes, .. }) =
            events.last_mut().map(|stamped| &mut stamped.event)
        {
            *changes = vec!["wrote /etc/etcd.env".into(), "restarted etcd".into()];
        }
        assert_eq!(lines(&events), ["• a: title of <etcd@a> (2 changes, 1.5 s)"]);
    }

    #[test]
    fn after_a_pause_the_running_tasks_are_printed() {
        let mut plain = Plain::new(false);
        for stamped in run(&[
            ("a@m", 0, None, &[]),
            ("b@m", 1000, None, &[]),
            ("c@m", 2000, None, &[]),
            ("d@m", 3000, None, &[]),
        ]) {
            plain.show(&stamped);
        }
        let start = Timestamp::UNIX_EPOCH;
        assert_eq!(plain.waiting(start + 14.seconds()), None);
        assert_eq!(
            plain.waiting(start + 20.seconds()).unwrap(),
            "… m: title of <a@m> (20.0 s), m: title of <b@m> (19.0 s), \
             m: title of <c@m> (18.0 s) and 1 more"
        );
        plain.tick(start + 20.seconds());
        assert_eq!(plain.waiting(start + 21.seconds()), None, "it was said just now");
    }
}
