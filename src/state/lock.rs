//! One kdiy at a time on one cluster.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::failure::{Failure, Result};

/// Held until dropped. The kernel lets go of it when the process ends in whatever way, so a
/// lock whose owner is dead is no lock.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    /// What the file said of an owner that ended without letting go.
    pub left_by: Option<String>,
}

impl Lock {
    pub fn take(path: &Path, command: &str) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Failure::host(format!("cannot use the lock {}", path.display())).because(error)
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let mut owner = String::new();
        // An unreadable note only makes the message poorer.
        let _ = file.read_to_string(&mut owner);
        let owner = owner.trim();
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let who = if owner.is_empty() { "another kdiy" } else { owner };
                return Err(Failure::host("this cluster is being worked on already")
                    .cause(who.to_owned())
                    .hint("wait until it is done, or stop it with Ctrl-C where it runs"));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let left_by = (!owner.is_empty()).then(|| owner.to_owned());
        let now = jiff::Timestamp::now();
        file.set_len(0).map_err(failed)?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        write!(file, "`kdiy {command}`, process {}, since {now:.0}", std::process::id())
            .map_err(failed)?;
        Ok(Self { _file: file, left_by })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // An empty file says that its last owner let go; failing to say so costs a warning.
        let _ = self._file.set_len(0);
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
        assert!(refused.contains("`kdiy up`"), "{refused}");
        drop(first);
        assert_eq!(Lock::take(&path, "destroy").unwrap().left_by, None);
    }

    #[test]
    fn a_lock_whose_owner_died_is_taken_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        std::fs::write(&path, "`kdiy up`, process 1, since then").unwrap();
        let lock = Lock::take(&path, "up").unwrap();
        assert!(lock.left_by.as_deref().unwrap().contains("kdiy up"));
    }
}
