//! How long each step takes on this computer, for the estimate of what is left. Of all clusters
//! together: the first `up` of a new one is when an estimate is wanted most.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::state::atomic;
use crate::support::event::{Event, Outcome, Stamped};
use crate::support::failure::Result;

/// By the name of a task without its machine.
pub type Learned = BTreeMap<String, Duration>;

const FILE: &str = "learned.json";

/// `etcd` of `etcd@kdiy-master-1`.
pub fn name(task: &str) -> &str {
    task.split('@').next().unwrap_or(task)
}

/// What earlier runs left. Without them, or with a file that is no such thing, nothing is known.
pub fn read(cache: &Path) -> Learned {
    let known: BTreeMap<String, u64> = atomic::read_json(&cache.join(FILE)).unwrap_or_default();
    known.into_iter().map(|(name, ms)| (name, Duration::from_millis(ms))).collect()
}

/// Adds a run. Only what changed something tells how long that takes; of several machines the
/// slowest counts.
pub fn note(cache: &Path, events: &[Stamped]) -> Result<()> {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for stamped in events {
        if let Event::TaskFinished { task, outcome, elapsed_ms, .. } = &stamped.event
            && (*outcome == Outcome::Changed || task.starts_with("gate:"))
        {
            let longest = seen.entry(name(task).to_owned()).or_default();
            *longest = (*longest).max(*elapsed_ms);
        }
    }
    if seen.is_empty() {
        return Ok(());
    }
    atomic::private_directory(cache)?;
    let mut known: BTreeMap<String, u64> = atomic::read_json(&cache.join(FILE)).unwrap_or_default();
    known.extend(seen);
    atomic::write_json(&cache.join(FILE), &known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::timings::tests::run;

    #[test]
    fn the_newest_run_counts_and_of_its_machines_the_slowest() {
        let cache = tempfile::tempdir().unwrap();
        assert!(read(cache.path()).is_empty());
        note(cache.path(), &run(&[("etcd@a", 0, Some(9000), &[]), ("api@a", 0, Some(1000), &[])]))
            .unwrap();
        note(cache.path(), &run(&[("etcd@a", 0, Some(2000), &[]), ("etcd@b", 0, Some(3000), &[])]))
            .unwrap();
        let known = read(cache.path());
        assert_eq!(known["etcd"], Duration::from_millis(3000));
        assert_eq!(known["api"], Duration::from_millis(1000));
    }
}
