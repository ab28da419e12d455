//! Runs a plan: as many tasks at the same time as the graph and the limits allow, and no new ones
//! after a failure or an interrupt. Does not know what a task means.

pub(crate) mod failpoint;
pub mod plan;
pub mod priority_semaphore;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::engine::plan::{Plan, Task};
use crate::engine::priority_semaphore::PrioritySemaphore;
use crate::support::event::{Event, Events, Outcome, TaskId, TaskKind};
use crate::support::failure::{Failure, Kind, Result};

/// Attempts at a task whose failures are transient.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// What a task did. No changes means that everything was as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskReport {
    pub changes: Vec<String>,
}

/// How a task failed.
#[derive(Debug)]
pub enum TaskError {
    /// The same task may go through when it is tried again.
    Transient(Failure),
    Final(Failure),
}

impl TaskError {
    pub fn map(self, change: impl FnOnce(Failure) -> Failure) -> Self {
        match self {
            Self::Transient(failure) => Self::Transient(change(failure)),
            Self::Final(failure) => Self::Final(change(failure)),
        }
    }
}

impl From<Failure> for TaskError {
    fn from(failure: Failure) -> Self {
        Self::Final(failure)
    }
}

/// Carries out one task.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    async fn perform(&self, task: &Task) -> Result<TaskReport, TaskError>;

    /// A task has failed: what waits for something that only later tasks need may stop.
    fn give_up(&self) {}

    /// Whether this task only waits and looks, so that it can be left where it is once nothing is
    /// going to follow.
    fn can_be_left(&self, _: &Task) -> bool {
        false
    }
}

/// How a run went.
#[derive(Debug, Default)]
pub struct Report {
    pub changed: u32,
    pub outcomes: BTreeMap<TaskId, Outcome>,
    /// The first failure, which is what the user is told.
    pub failure: Option<Failure>,
    pub elapsed: Duration,
}

/// Runs the plan to its end, or until a task fails. Tasks that are under way when another fails,
/// or when `stop` is cancelled, are finished unless they can be left; no new ones are started.
pub async fn run(
    plan: &Plan,
    work: Arc<dyn Executor>,
    parallel: usize,
    events: &Events,
    stop: &CancellationToken,
) -> Report {
    let began = Instant::now();
    events.send(Event::Planned { tasks: plan.infos() });
    let limit = PrioritySemaphore::at_once(parallel.max(1));
    let mut report = Report::default();
    let mut waiting: Vec<(usize, &Task)> = plan.tasks.iter().enumerate().collect();
    let mut done = BTreeSet::new();
    let mut running = JoinSet::new();
    let over = stop.child_token();
    loop {
        if report.failure.is_none() && !stop.is_cancelled() {
            let ready = |(_, task): &(usize, &Task)| task.needs.is_subset(&done);
            let (ready, blocked): (Vec<_>, Vec<_>) = waiting.into_iter().partition(ready);
            waiting = blocked;
            for (place, task) in ready {
                let (task, work, limit) = (task.clone(), work.clone(), limit.clone());
                let (events, over) = (events.clone(), over.clone());
                running.spawn(async move {
                    // Gates and waits for machines mostly sleep; they would only hold up what works.
                    let _turn = match task.kind {
                        TaskKind::Apply => Some(limit.turn(place).await),
                        _ => None,
                    };
                    attempt(task, work, events, over).await
                });
            }
        }
        let Some(finished) = running.join_next().await else { break };
        match finished {
            Ok((id, Some(Ok(finished)))) => {
                let outcome =
                    if finished.changes.is_empty() { Outcome::Unchanged } else { Outcome::Changed };
                report.changed += u32::from(outcome == Outcome::Changed);
                report.outcomes.insert(id.clone(), outcome);
                done.insert(id);
            }
            Ok((id, Some(Err(failure)))) => {
                report.outcomes.insert(id, Outcome::Failed);
                report.failure.get_or_insert(failure);
            }
            Ok((id, None)) => {
                report.outcomes.insert(id, Outcome::Skipped);
            }
            Err(panic) => {
                report
                    .failure
                    .get_or_insert(Failure::bug("a task ended unexpectedly").because(panic));
            }
        }
        if report.failure.is_some() {
            work.give_up();
            over.cancel();
        }
    }
    for (_, task) in &waiting {
        report.outcomes.insert(task.id.clone(), Outcome::Skipped);
    }
    let whole = !report.outcomes.values().any(|outcome| *outcome == Outcome::Skipped);
    if stop.is_cancelled() && report.failure.is_none() && !whole {
        report.failure = Some(interrupted());
    }
    report.elapsed = began.elapsed();
    events.send(Event::RunFinished {
        outcome: match (&report.failure, report.changed) {
            (Some(_), _) => Outcome::Failed,
            (None, 0) => Outcome::Unchanged,
            (None, _) => Outcome::Changed,
        },
        changed: report.changed,
        elapsed_ms: milliseconds(report.elapsed),
    });
    report
}

fn interrupted() -> Failure {
    Failure::new(Kind::Interrupted, "interrupted; running steps were allowed to finish")
        .hint("run the same command again to resume; `kdiy destroy` removes everything")
}

/// `None` for a task that was left, or would have to be tried again when the run is over already.
async fn attempt(
    task: Task,
    work: Arc<dyn Executor>,
    events: Events,
    over: CancellationToken,
) -> (TaskId, Option<Result<TaskReport>>) {
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    for number in 1.. {
        events.send(Event::TaskStarted { task: task.id.clone(), attempt: number });
        let finished = |outcome, changes: &[String]| {
            events.send(Event::TaskFinished {
                task: task.id.clone(),
                attempt: number,
                outcome,
                changes: changes.to_vec(),
                elapsed_ms: milliseconds(began.elapsed()),
            });
        };
        let performed = tokio::select! {
            biased;
            performed = work.perform(&task) => performed,
            () = over.cancelled(), if work.can_be_left(&task) => {
                finished(Outcome::Skipped, &[]);
                return (task.id, None);
            }
        };
        match performed {
            Ok(done) => {
                let unchanged = done.changes.is_empty();
                finished(
                    if unchanged { Outcome::Unchanged } else { Outcome::Changed },
                    &done.changes,
                );
                return (task.id, Some(Ok(done)));
            }
            Err(TaskError::Transient(failure)) if number < ATTEMPTS => {
                let again = match over.is_cancelled() {
                    true => "not retried, because the run is over".to_owned(),
                    false => format!("retrying ({} of {ATTEMPTS})", number + 1),
                };
                events.warn(format!("{failure}; {again}"));
                // Nothing is begun once the run is over, not even another attempt.
                if over.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    finished(Outcome::Skipped, &[]);
                    return (task.id, None);
                }
                pause *= 2;
            }
            Err(TaskError::Transient(failure) | TaskError::Final(failure)) => {
                finished(Outcome::Failed, &[]);
                return (task.id, Some(Err(failure)));
            }
        }
    }
    unreachable!("the loop above ends by returning")
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Notes the order of tasks; fails those whose id begins with `bad`, for good or `flaky`
    /// ones the first time.
    #[derive(Default)]
    struct Notes {
        order: Mutex<Vec<String>>,
    }

    #[async_trait]
    impl Executor for Notes {
        async fn perform(&self, task: &Task) -> Result<TaskReport, TaskError> {
            let seen = {
                let mut order = self.order.lock().unwrap();
                order.push(task.id.clone());
                order.iter().filter(|id| **id == task.id).count() > 1
            };
            match task.id.split(' ').next() {
                Some("wait") => std::future::pending().await,
                Some("slow") => tokio::time::sleep(Duration::from_secs(1)).await,
                _ => {}
            }
            if task.id.ends_with("bad") {
                return Err(Failure::input("bad").into());
            }
            if task.id == "hopeless" || task.id.starts_with("flaky") && !seen {
                return Err(TaskError::Transient(Failure::host("flaky")));
            }
            Ok(TaskReport { changes: vec!["x".into()] })
        }

        fn can_be_left(&self, task: &Task) -> bool {
            task.id == "wait"
        }
    }

    fn plan(tasks: &[(&str, &[&str])]) -> Plan {
        let task = |(id, needs): &(&str, &[&str])| Task {
            id: (*id).into(),
            kind: TaskKind::Apply,
            title: String::new(),
            step: (*id).into(),
            machine: None,
            needs: needs.iter().map(|need| (*need).to_owned()).collect(),
        };
        Plan { tasks: tasks.iter().map(task).collect() }
    }

    async fn outcome(plan: &Plan, stop: &CancellationToken) -> (Report, Vec<String>) {
        let notes = Arc::new(Notes::default());
        let (events, _reader) = Events::channel();
        let report = run(plan, notes.clone(), 2, &events, stop).await;
        let order = notes.order.lock().unwrap().clone();
        (report, order)
    }

    #[tokio::test]
    async fn a_task_runs_after_what_it_needs() {
        let (report, order) =
            outcome(&plan(&[("c", &["a", "b"]), ("a", &[]), ("b", &["a"])]), &Default::default())
                .await;
        assert_eq!(order, ["a", "b", "c"]);
        assert_eq!(report.changed, 3);
        assert!(report.failure.is_none());
    }

    #[tokio::test]
    async fn dependents_of_a_failed_task_do_not_start() {
        let (report, order) =
            outcome(&plan(&[("bad", &[]), ("next", &["bad"])]), &Default::default()).await;
        assert_eq!(order, ["bad"]);
        assert_eq!(report.outcomes["next"], Outcome::Skipped);
        assert!(report.failure.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_tasks_are_cancelled_after_a_failure() {
        let plan = plan(&[("wait", &[]), ("slow bad", &[]), ("next", &["wait"])]);
        let (report, order) = outcome(&plan, &Default::default()).await;
        assert_eq!(order, ["wait", "slow bad"]);
        assert_eq!(report.outcomes["wait"], Outcome::Skipped);
        assert_eq!(report.failure.unwrap().what, "bad");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_tasks_are_cancelled_when_the_user_interrupts() {
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stopping.cancel();
        });
        let (report, _) = outcome(&plan(&[("wait", &[])]), &stop).await;
        assert_eq!(report.failure.unwrap().exit_code(), 130);
    }

    #[tokio::test(start_paused = true)]
    async fn a_transient_failure_is_tried_again() {
        let (report, order) =
            outcome(&plan(&[("flaky", &[]), ("next", &["flaky"])]), &Default::default()).await;
        assert_eq!(order, ["flaky", "flaky", "next"]);
        assert!(report.failure.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_tried_again_after_a_stop_or_a_failure() {
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(FIRST_PAUSE / 2).await;
            stopping.cancel();
        });
        let (report, order) = outcome(&plan(&[("hopeless", &[])]), &stop).await;
        assert_eq!(order, ["hopeless"]);
        assert_eq!(report.failure.unwrap().exit_code(), 130);
        let plan = plan(&[("hopeless", &[]), ("slow bad", &[])]);
        let (report, order) = outcome(&plan, &Default::default()).await;
        // The second attempt begins after half a second, the third would after one and a half.
        assert_eq!(order, ["hopeless", "slow bad", "hopeless"]);
        assert_eq!(report.failure.unwrap().what, "bad");
    }

    #[tokio::test]
    async fn nothing_starts_after_a_stop() {
        let stop = CancellationToken::new();
        stop.cancel();
        let (report, order) = outcome(&plan(&[("a", &[])]), &stop).await;
        assert!(order.is_empty());
        assert_eq!(report.failure.unwrap().exit_code(), 130);
    }
}
