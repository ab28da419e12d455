//! `cargo lab bench`: how long a 3+2 cluster takes from machines that answer to all gates green,
//! and the chain of tasks that decides it. Times are of this computer, at this moment; compare
//! only what was measured in one run.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::Ready;
use crate::e2e::cluster::{Cluster, Run};

const NAME: &str = "lab-bench";
const MASTERS: usize = 3;
const WORKERS: usize = 2;

pub fn run(cache: &Path) -> Result<()> {
    let lab = Ready::make(cache)?;
    let cluster = Cluster::new(&lab, cache, NAME)?;
    cluster.destroy()?;
    // Fills kdiy's own cache, so that digests and extraction are not part of what is measured.
    cluster.up(MASTERS, WORKERS)?;
    cluster.destroy()?;
    let first = cluster.up(MASTERS, WORKERS);
    let second = cluster.up(MASTERS, WORKERS);
    cluster.destroy()?;
    println!("{}", Measured::of(&first?)?.report());
    let unchanged = second?.last()?["elapsedMs"].as_f64().context("no duration")? / 1000.0;
    println!("a second up: {unchanged:.1} s");
    Ok(())
}

/// Seconds since the run's first event.
#[derive(Debug, Clone, PartialEq)]
struct Task {
    started: f64,
    finished: f64,
    needs: Vec<String>,
}

struct Measured {
    tasks: BTreeMap<String, Task>,
    reachable: f64,
    green: f64,
}

impl Measured {
    fn of(run: &Run) -> Result<Self> {
        let events = run.events();
        let origin = seconds(events.first().context("no events")?)?;
        let mut tasks = BTreeMap::new();
        for event in events {
            let at = seconds(event)? - origin;
            let id = event["task"].as_str().unwrap_or_default().to_owned();
            match event["event"].as_str() {
                Some("planned") => {
                    for task in event["tasks"].as_array().into_iter().flatten() {
                        let needs = task["needs"].as_array().into_iter().flatten();
                        let needs = needs.filter_map(Value::as_str).map(str::to_owned).collect();
                        let id = task["id"].as_str().unwrap_or_default().to_owned();
                        tasks.insert(id, Task { started: at, finished: at, needs });
                    }
                }
                Some("task-started") => {
                    if let Some(task) = tasks.get_mut(&id) {
                        task.started = at;
                    }
                }
                Some("task-finished") => {
                    if let Some(task) = tasks.get_mut(&id) {
                        task.finished = at;
                    }
                }
                _ => {}
            }
        }
        let last = |prefix: &str| {
            let ends = tasks.iter().filter(|(id, _)| id.starts_with(prefix));
            ends.map(|(_, task)| task.finished).fold(0.0, f64::max)
        };
        let (reachable, green) = (last("reach@"), last(""));
        Ok(Self { tasks, reachable, green })
    }

    /// From the last task back, always to the need that came last; first to last.
    fn critical_path(&self) -> Vec<(&str, &Task)> {
        let later = |a: &(&str, &Task), b: &(&str, &Task)| a.1.finished.total_cmp(&b.1.finished);
        let all = self.tasks.iter().map(|(id, task)| (id.as_str(), task));
        let mut path = Vec::new();
        let mut next = all.max_by(later);
        while let Some((id, task)) = next {
            path.push((id, task));
            next = task
                .needs
                .iter()
                .filter_map(|need| self.tasks.get_key_value(need))
                .map(|(id, task)| (id.as_str(), task))
                .max_by(later);
        }
        path.reverse();
        path
    }

    fn report(&self) -> String {
        let mut lines = vec![format!(
            "3+2, artifacts cached: machines reachable at {:.1} s, all gates green {:.1} s later",
            self.reachable,
            self.green - self.reachable
        )];
        lines.push("critical path (start, duration, wait before it, task):".into());
        let path = self.critical_path();
        let mut waited = 0.0;
        let mut before = 0.0;
        for (id, task) in &path {
            let wait = (task.started - before).max(0.0);
            waited += wait;
            lines.push(format!(
                "{:7.1} {:7.1} {wait:6.1}  {id}",
                task.started,
                task.finished - task.started
            ));
            before = task.finished;
        }
        lines.push(format!(
            "kdiy's own scheduling: {waited:.1} s of {:.1} s ({:.0} %)",
            self.green,
            100.0 * waited / self.green.max(0.001)
        ));
        lines.join("\n")
    }
}

/// Seconds since the epoch, from `at` of an event (RFC 3339, UTC).
fn seconds(event: &Value) -> Result<f64> {
    let text = event["at"].as_str().context("an event without a time")?;
    let (_, time) = text.trim_end_matches('Z').split_once('T').context("an odd time")?;
    let mut parts = time.split(':').map(str::parse::<f64>);
    let mut next = || parts.next().context("an odd time")?.context("an odd time");
    Ok(next()? * 3600.0 + next()? * 60.0 + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_critical_path_follows_what_came_last() {
        let task = |started, finished, needs: &[&str]| Task {
            started,
            finished,
            needs: needs.iter().map(|need| (*need).to_owned()).collect(),
        };
        let measured = Measured {
            tasks: BTreeMap::from([
                ("reach@a".to_owned(), task(0.0, 1.0, &[])),
                ("fast".to_owned(), task(1.0, 2.0, &["reach@a"])),
                ("slow".to_owned(), task(1.0, 5.0, &["reach@a"])),
                ("last".to_owned(), task(5.5, 6.0, &["fast", "slow"])),
            ]),
            reachable: 1.0,
            green: 6.0,
        };
        let ids: Vec<&str> = measured.critical_path().into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, ["reach@a", "slow", "last"]);
        assert!(measured.report().contains("all gates green 5.0 s later"));
        assert!(measured.report().contains("0.5 s of 6.0 s"));
    }

    #[test]
    fn times_are_read() {
        let event = serde_json::json!({"at": "2026-11-23T01:02:03.5Z"});
        assert_eq!(seconds(&event).unwrap(), 3723.5);
    }
}
