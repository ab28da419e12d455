//! How long a run took: the tasks, its critical path, and kdiy's own share of it. Pure; read from
//! the events of a journal.

pub mod waterfall;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::support::event::{Event, Outcome, Stamped, TaskId, TaskInfo};

/// All times are milliseconds since the run's first event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    pub command: String,
    pub cluster: String,
    pub began: Timestamp,
    pub elapsed_ms: u64,
    /// When the last machine answered; absent where none was waited for.
    pub reachable_ms: Option<u64>,
    /// Tasks that were begun, by their begin.
    pub tasks: Vec<Timed>,
    /// First to last: each the need of the next that was met last.
    pub critical_path: Vec<CriticalPathTask>,
    /// Of the critical path, what no task did: kdiy's preparation and scheduling.
    pub own_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timed {
    pub task: TaskInfo,
    pub started_ms: u64,
    /// The run's end for a task that was cut off.
    pub finished_ms: u64,
    /// Absent for a task that was cut off.
    pub outcome: Option<Outcome>,
}

impl Timed {
    pub fn took_ms(&self) -> u64 {
        self.finished_ms.saturating_sub(self.started_ms)
    }
}

/// A task of the critical path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CriticalPathTask {
    pub task: TaskId,
    /// Between the end of the one before and its begin.
    pub waited_ms: u64,
    pub started_ms: u64,
    pub took_ms: u64,
}

impl Timings {
    /// `None` for a run without a plan, or of which nothing was begun.
    pub fn of(events: &[Stamped]) -> Option<Self> {
        let began = events.first()?.at;
        let since =
            |at: Timestamp| u64::try_from(at.duration_since(began).as_millis()).unwrap_or_default();
        let elapsed_ms = since(events.last()?.at);
        let (mut command, mut cluster) = (String::new(), String::new());
        let mut planned: BTreeMap<&str, &TaskInfo> = BTreeMap::new();
        let mut begun: BTreeMap<&str, Timed> = BTreeMap::new();
        for Stamped { at, event } in events {
            match event {
                Event::RunStarted { command: name, cluster: of, .. } => {
                    command.clone_from(name);
                    cluster.clone_from(of);
                }
                Event::Planned { tasks } => {
                    planned.extend(tasks.iter().map(|task| (task.id.as_str(), task)));
                }
                // A later attempt is part of the same span.
                Event::TaskStarted { task, .. } => {
                    let Some(info) = planned.get(task.as_str()) else { continue };
                    begun.entry(task).or_insert_with(|| Timed {
                        task: (*info).clone(),
                        started_ms: since(*at),
                        finished_ms: elapsed_ms,
                        outcome: None,
                    });
                }
                Event::TaskFinished { task, outcome, .. } => {
                    if let Some(timed) = begun.get_mut(task.as_str()) {
                        timed.finished_ms = since(*at);
                        timed.outcome = Some(*outcome);
                    }
                }
                _ => {}
            }
        }
        let reached = begun.values().filter(|timed| timed.task.step == "reach");
        let reachable_ms = reached.map(|timed| timed.finished_ms).max();
        let critical_path = critical_path(&begun);
        let own_ms = critical_path.iter().map(|hop| hop.waited_ms).sum();
        let mut tasks: Vec<Timed> = begun.into_values().collect();
        tasks.sort_by_key(|timed| (timed.started_ms, timed.finished_ms));
        (!tasks.is_empty()).then_some(Self {
            command,
            cluster,
            began,
            elapsed_ms,
            reachable_ms,
            tasks,
            critical_path,
            own_ms,
        })
    }

    /// When the last task was done.
    pub fn done_ms(&self) -> u64 {
        self.tasks.iter().map(|timed| timed.finished_ms).max().unwrap_or_default()
    }

    /// Each step with its longest task, longest first.
    pub fn slowest(&self, count: usize) -> Vec<(String, u64)> {
        let mut longest: BTreeMap<&str, u64> = BTreeMap::new();
        for timed in &self.tasks {
            // A fetch is called by what it fetches; of a step its machines take the same part.
            let name = timed.task.id.split('@').next().unwrap_or_default();
            let entry = longest.entry(name).or_default();
            *entry = (*entry).max(timed.took_ms());
        }
        let mut steps: Vec<(String, u64)> =
            longest.into_iter().map(|(name, ms)| (name.to_owned(), ms)).collect();
        steps.sort_by_key(|(_, ms)| std::cmp::Reverse(*ms));
        steps.truncate(count);
        steps
    }
}

/// From the last task back, always to the need that was met last.
fn critical_path(tasks: &BTreeMap<&str, Timed>) -> Vec<CriticalPathTask> {
    let mut path = Vec::new();
    let mut next = tasks.values().max_by_key(|timed| timed.finished_ms);
    while let Some(timed) = next {
        path.push(timed);
        let needs = timed.task.needs.iter().filter_map(|need| tasks.get(need.as_str()));
        next = needs.max_by_key(|timed| timed.finished_ms);
    }
    let mut before = 0;
    path.into_iter()
        .rev()
        .map(|timed| {
            let waited_ms = timed.started_ms.saturating_sub(before);
            before = timed.finished_ms;
            CriticalPathTask {
                task: timed.task.id.clone(),
                waited_ms,
                started_ms: timed.started_ms,
                took_ms: timed.took_ms(),
            }
        })
        .collect()
}

#[cfg(test)]
pub mod tests {
    use jiff::ToSpan;

    use super::*;
    use crate::support::event::TaskKind;

    fn at(ms: i64, event: Event) -> Stamped {
        Stamped { at: Timestamp::UNIX_EPOCH + ms.milliseconds(), event }
    }

    /// A run of tasks, each with its begin, its end where it has one, and its needs.
    pub fn run(tasks: &[(&str, i64, Option<i64>, &[&str])]) -> Vec<Stamped> {
        let info = |id: &str, needs: &[&str]| TaskInfo {
            id: id.into(),
            title: format!("title of <{id}>"),
            step: id.split('@').next().unwrap().into(),
            machine: id.split('@').nth(1).map(str::to_owned),
            kind: if id.starts_with("gate") { TaskKind::Gate } else { TaskKind::Apply },
            needs: needs.iter().map(|need| (*need).to_owned()).collect(),
        };
        let infos = tasks.iter().map(|(id, _, _, needs)| info(id, needs)).collect();
        let mut events = vec![
            at(
                0,
                Event::RunStarted {
                    command: "up".into(),
                    cluster: "kdiy".into(),
                    version: "1".into(),
                },
            ),
            at(0, Event::Planned { tasks: infos }),
        ];
        for (id, started, finished, _) in tasks {
            events.push(at(*started, Event::TaskStarted { task: (*id).into(), attempt: 1 }));
            if let Some(finished) = finished {
                let finished_event = Event::TaskFinished {
                    task: (*id).into(),
                    attempt: 1,
                    outcome: Outcome::Changed,
                    changes: Vec::new(),
                    elapsed_ms: u64::try_from(finished - started).unwrap(),
                };
                events.push(at(*finished, finished_event));
            }
        }
        events.sort_by_key(|stamped| stamped.at);
        events
    }

    fn example() -> Timings {
        Timings::of(&run(&[
            ("reach@a", 100, Some(1000), &[]),
            ("fast@a", 1000, Some(2000), &["reach@a"]),
            ("slow@a", 1000, Some(5000), &["reach@a"]),
            ("gate:last", 5500, Some(6000), &["fast@a", "slow@a"]),
        ]))
        .unwrap()
    }

    #[test]
    fn the_critical_path_follows_the_last_dependency() {
        let timings = example();
        let path: Vec<(&str, u64)> =
            timings.critical_path.iter().map(|hop| (hop.task.as_str(), hop.waited_ms)).collect();
        assert_eq!(path, [("reach@a", 100), ("slow@a", 0), ("gate:last", 500)]);
        assert_eq!((timings.own_ms, timings.done_ms()), (600, 6000));
        assert_eq!(timings.reachable_ms, Some(1000));
    }

    #[test]
    fn the_slowest_steps_come_first() {
        let slowest = example().slowest(2);
        assert_eq!(slowest, [("slow".to_owned(), 4000), ("fast".to_owned(), 1000)]);
    }

    #[test]
    fn a_task_that_was_cut_off_lasts_until_the_end() {
        let events = run(&[("a@m", 0, Some(900), &[]), ("b@m", 100, None, &[])]);
        let timings = Timings::of(&events).unwrap();
        let cut = timings.tasks.iter().find(|timed| timed.task.id == "b@m").unwrap();
        assert_eq!((cut.finished_ms, cut.outcome), (900, None));
        assert_eq!(Timings::of(&events[..2]), None, "no task was started");
        assert_eq!(Timings::of(&[]), None);
    }
}
