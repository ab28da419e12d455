//! The events of every run, one JSON document a line, one file a run.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::support::event::{Event, Outcome, Stamped};
use crate::support::failure::{Failure, Result};

/// Runs that are kept; older ones are removed when a new one begins.
const KEPT_RUNS: usize = 50;

pub struct Journal {
    file: File,
    pub path: PathBuf,
}

impl Journal {
    pub fn begin(runs: &Path, command: &str) -> Result<Self> {
        forget_old(runs);
        let now = Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ");
        let path = runs.join(format!("{now}-{command}.jsonl"));
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(
            |error| Failure::host(format!("cannot write {}", path.display())).because(error),
        )?;
        Ok(Self { file, path })
    }

    /// Progress ticks and machines' output are for the eyes and the logs, not for the record.
    pub fn append(&mut self, stamped: &Stamped) -> std::io::Result<()> {
        if matches!(stamped.event, Event::TaskProgress { .. } | Event::Output { .. }) {
            return Ok(());
        }
        let mut line = serde_json::to_vec(stamped)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

/// The events of a run. A last line that was cut off, be it within a character, and events that
/// this version does not know are passed over.
pub fn read(path: &Path) -> std::io::Result<Vec<Stamped>> {
    let bytes = fs::read(path)?;
    let lines = bytes.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// What an earlier run left.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub path: PathBuf,
    pub events: Vec<Stamped>,
}

impl Run {
    /// How it ended; `None` when it was killed before it could say so, or still goes on.
    pub fn outcome(&self) -> Option<Outcome> {
        self.events.iter().rev().find_map(|stamped| match stamped.event {
            Event::RunFinished { outcome, .. } => Some(outcome),
            _ => None,
        })
    }
}

/// The newest run; the current one once its journal has begun.
pub fn last_run(runs: &Path) -> std::io::Result<Option<Run>> {
    let Some(path) = files(runs).pop() else { return Ok(None) };
    let events = read(&path)?;
    Ok(Some(Run { path, events }))
}

fn forget_old(runs: &Path) {
    let files = files(runs);
    for path in files.iter().take(files.len().saturating_sub(KEPT_RUNS - 1)) {
        // What cannot be removed is one file too many, no more.
        let _ = fs::remove_file(path);
    }
}

/// The journals, oldest first.
pub fn files(runs: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(runs) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(elapsed_ms: u64) -> Stamped {
        Stamped {
            at: Timestamp::now(),
            event: Event::TaskFinished {
                task: "etcd@m".into(),
                attempt: 1,
                outcome: Outcome::Changed,
                changes: vec!["x".into()],
                elapsed_ms,
            },
        }
    }

    #[test]
    fn a_torn_last_line_loses_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(directory.path(), "up").unwrap();
        journal.append(&finished(1200)).unwrap();
        journal.file.write_all(b"{\"at\":\"20").unwrap();
        assert_eq!(read(&journal.path).unwrap().len(), 1);
    }

    #[test]
    fn a_line_torn_within_a_character_loses_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(directory.path(), "up").unwrap();
        journal.append(&finished(1200)).unwrap();
        journal.file.write_all(b"{\"message\":\"\xe2\x80").unwrap();
        assert_eq!(read(&journal.path).unwrap().len(), 1);
    }

    #[test]
    fn the_last_run_tells_how_it_ended() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(last_run(directory.path()).unwrap(), None);
        fs::write(directory.path().join("20260101T000000.000Z-up.jsonl"), "").unwrap();
        let mut journal = Journal::begin(directory.path(), "up").unwrap();
        journal.append(&finished(5)).unwrap();
        let cut = last_run(directory.path()).unwrap().unwrap();
        assert_eq!((cut.path.clone(), cut.outcome()), (journal.path.clone(), None));
        let event = Event::RunFinished { outcome: Outcome::Failed, changed: 1, elapsed_ms: 9 };
        journal.append(&Stamped { at: Timestamp::now(), event }).unwrap();
        let ended = last_run(directory.path()).unwrap().unwrap();
        assert_eq!((ended.events.len(), ended.outcome()), (2, Some(Outcome::Failed)));
    }
}
