//! Digests of large files, remembered as long as the file is untouched.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::state::atomic;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// Size, modification time in nanoseconds, inode and device: a file that differs in none of
    /// these is the file that was hashed.
    identity: (u64, i64, u64, u64),
    sha256: String,
}

/// Digests by path, kept in one file of the cache.
pub struct Digests {
    file: PathBuf,
    known: Mutex<BTreeMap<PathBuf, Known>>,
}

impl Digests {
    /// A file that cannot be read or understood is as good as none: everything is hashed again.
    pub fn open(file: PathBuf) -> Self {
        let known = fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self { file, known: Mutex::new(known) }
    }

    /// SHA-256 in hex. Blocks while a file that is not known is read.
    pub fn of(&self, path: &Path) -> std::io::Result<String> {
        let identity = identity(path)?;
        if let Ok(known) = self.known.lock()
            && let Some(entry) = known.get(path)
            && entry.identity == identity
        {
            return Ok(entry.sha256.clone());
        }
        let sha256 = hash(path)?;
        self.remember(path, Known { identity, sha256: sha256.clone() });
        Ok(sha256)
    }

    fn remember(&self, path: &Path, entry: Known) {
        if let Ok(mut known) = self.known.lock() {
            known.insert(path.to_owned(), entry);
            // What could not be noted is hashed again next time.
            let _ = atomic::write_json(&self.file, &*known);
        }
    }
}

fn identity(path: &Path) -> std::io::Result<(u64, i64, u64, u64)> {
    let metadata = fs::metadata(path)?;
    let modified = metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec());
    Ok((metadata.size(), modified, metadata.ino(), metadata.dev()))
}

/// SHA-256 in hex, of what the file holds now.
pub(super) fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_is_hashed_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let digests = Digests::open(directory.path().join("digests.json"));
        fs::write(&path, "one").unwrap();
        let one = digests.of(&path).unwrap();
        fs::write(&path, "three").unwrap();
        assert_ne!(digests.of(&path).unwrap(), one);
        let again = Digests::open(directory.path().join("digests.json"));
        assert_eq!(again.of(&path).unwrap(), digests.of(&path).unwrap());
    }
}
