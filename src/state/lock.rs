//! One kdiy at a time on one cluster, and one process at a time on one file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::failure::{Failure, Result};

/// How often a lock is opened anew because its file was removed while it was being taken.
const REOPENED: usize = 5;
/// How often [`wait_for`] looks.
const POLL: Duration = Duration::from_millis(20);

/// Held until dropped. The kernel lets go of it when the process ends in whatever way, so a
/// lock whose owner is dead is no lock.
#[derive(Debug)]
pub struct Lock {
    file: File,
    /// What the file said of an owner that ended without letting go.
    pub left_by: Option<String>,
}

impl Lock {
    pub fn take(path: &Path, command: &str) -> Result<Self> {
        let failed = |error: io::Error| {
            Failure::host(format!("cannot use the lock {}", path.display())).because(error)
        };
        for _ in 0..REOPENED {
            let mut file = open(path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(taken(&mut file)),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // `destroy` removes the file while it holds it; a lock on what was removed keeps
            // nobody out.
            if !is_at(&file, path) {
                continue;
            }
            let left_by = note(&mut file);
            let now = jiff::Timestamp::now();
            file.set_len(0).map_err(failed)?;
            file.seek(SeekFrom::Start(0)).map_err(failed)?;
            write!(file, "`kdiy {command}`, process {}, since {now:.0}", std::process::id())
                .map_err(failed)?;
            return Ok(Self { file, left_by });
        }
        Err(Failure::host(format!("the lock {} keeps disappearing", path.display()))
            .hint("if a `kdiy destroy` is running, wait until it is done"))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // An empty file says that its last owner let go; failing to say so costs a warning.
        let _ = self.file.set_len(0);
    }
}

/// Opens a file to lock it, for the owner only; makes it where it does not exist.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Blocks until nobody else holds the file, `limit` at the longest. For locks that are held
/// for the time of a small write.
pub fn wait_for(file: &File, limit: Duration) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if begun.elapsed() >= limit => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("another process has held it for {}s", limit.as_secs()),
                ));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(POLL),
        }
    }
}

fn taken(file: &mut File) -> Failure {
    let owner = note(file).unwrap_or_else(|| "another kdiy".into());
    Failure::host("another kdiy is already working on this cluster")
        .cause(owner)
        .hint("wait until it is done, or stop it with Ctrl-C where it runs")
}

/// What the owner wrote of itself. An unreadable note only makes a message poorer.
fn note(file: &mut File) -> Option<String> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => ours.ino() == there.ino() && ours.dev() == there.dev(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_told_about_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = Lock::take(&path, "up").unwrap();
        assert_eq!(first.left_by, None);
        let refused = Lock::take(&path, "destroy").unwrap_err().to_string();
        let process = format!("process {}", std::process::id());
        assert!(refused.contains("`kdiy up`") && refused.contains(&process), "{refused}");
        drop(first);
        assert_eq!(Lock::take(&path, "destroy").unwrap().left_by, None);
    }

    #[test]
    fn the_lock_of_a_dead_owner_is_taken_over_and_its_owner_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        fs::write(&path, "`kdiy up`, process 1, since then").unwrap();
        let lock = Lock::take(&path, "up").unwrap();
        assert!(lock.left_by.as_deref().unwrap().contains("kdiy up"));
    }

    #[test]
    fn a_lock_on_a_removed_file_locks_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let before = open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!is_at(&before, &path));
        assert!(is_at(&open(&path).unwrap(), &path));
    }

    #[test]
    fn waiting_ends_at_its_limit_and_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let holder = open(&path).unwrap();
        wait_for(&holder, Duration::ZERO).unwrap();
        let late = wait_for(&open(&path).unwrap(), Duration::from_millis(30)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        drop(holder);
        wait_for(&open(&path).unwrap(), Duration::ZERO).unwrap();
    }
}
