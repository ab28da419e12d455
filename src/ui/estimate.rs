//! Estimates how long a run still takes: the longest remaining chain of tasks, by how long each
//! step took before. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::state::durations::{Learned, name};
use crate::support::event::{TaskId, TaskInfo};

#[derive(Debug, Default)]
pub struct Estimate {
    learned: Learned,
    tasks: Vec<Task>,
    by_id: BTreeMap<TaskId, usize>,
    pub finished: usize,
}

#[derive(Debug)]
struct Task {
    usual: Duration,
    needs: Vec<usize>,
    started: Option<Timestamp>,
    finished: bool,
}

impl Estimate {
    pub fn new(learned: Learned) -> Self {
        Self { learned, ..Self::default() }
    }

    /// `tasks` come after what they need.
    pub fn planned(&mut self, tasks: &[TaskInfo]) {
        for task in tasks {
            let needs = task.needs.iter().filter_map(|need| self.by_id.get(need)).copied();
            let usual = self.learned.get(name(&task.id)).copied().unwrap_or_default();
            let needs = needs.collect();
            self.by_id.insert(task.id.clone(), self.tasks.len());
            self.tasks.push(Task { usual, needs, started: None, finished: false });
        }
    }

    pub fn started(&mut self, task: &str, at: Timestamp) {
        if let Some(task) = self.by_id.get(task).and_then(|index| self.tasks.get_mut(*index)) {
            task.started.get_or_insert(at);
        }
    }

    pub fn finished(&mut self, task: &str) {
        if let Some(task) = self.by_id.get(task).and_then(|index| self.tasks.get_mut(*index))
            && !task.finished
        {
            task.finished = true;
            self.finished += 1;
        }
    }

    pub fn total(&self) -> usize {
        self.tasks.len()
    }

    /// `None` where nothing is known of what is left.
    pub fn left(&self, now: Timestamp) -> Option<Duration> {
        let mut chains: Vec<Duration> = Vec::with_capacity(self.tasks.len());
        for task in &self.tasks {
            if task.finished {
                chains.push(Duration::ZERO);
                continue;
            }
            let before = task.needs.iter().map(|need| chains[*need]).max().unwrap_or_default();
            let spent = task.started.map(|started| now.duration_since(started));
            let spent = spent.and_then(|spent| Duration::try_from(spent).ok()).unwrap_or_default();
            chains.push(before + task.usual.saturating_sub(spent));
        }
        chains.into_iter().max().filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;
    use crate::support::event::TaskKind;

    #[test]
    fn the_longest_remaining_chain_counts() {
        let task = |id: &str, needs: &[&str]| TaskInfo {
            id: id.into(),
            title: String::new(),
            step: String::new(),
            machine: None,
            kind: TaskKind::Apply,
            needs: needs.iter().map(|need| (*need).to_owned()).collect(),
        };
        let seconds = Duration::from_secs;
        let learned = [("etcd", 10), ("api", 5), ("files", 12)];
        let mut estimate = Estimate::new(
            learned.into_iter().map(|(name, time)| (name.to_owned(), seconds(time))).collect(),
        );
        estimate.planned(&[
            task("etcd@a", &[]),
            task("files@a", &[]),
            task("api@a", &["etcd@a"]),
            task("new@a", &["api@a"]),
        ]);
        let start = Timestamp::UNIX_EPOCH;
        assert_eq!(estimate.left(start), Some(seconds(15)));
        estimate.started("etcd@a", start);
        assert_eq!(estimate.left(start + 4.seconds()), Some(seconds(12)), "the files now");
        assert_eq!(estimate.left(start + 60.seconds()), Some(seconds(12)), "etcd takes long");
        for id in ["etcd@a", "files@a", "api@a"] {
            estimate.finished(id);
            estimate.finished(id);
        }
        assert_eq!((estimate.left(start), estimate.finished), (None, 3));
    }
}
