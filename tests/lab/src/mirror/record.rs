//! What was built, from what, so that it is not built again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;

use super::pack::Shelf;

/// What one upstream put into the mirror. On disk: the key, then lines as `sha256sum` writes them.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// Digest of everything that decides what comes out.
    pub key: String,
    /// Digest by path below the mirror's root.
    pub files: BTreeMap<String, String>,
}

impl Record {
    /// `None` where there is none that can be read: then it is built again.
    pub fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let (key, rest) = text.split_once('\n')?;
        let files = rest
            .lines()
            .map(|line| line.split_once("  ").map(|(digest, name)| (name.into(), digest.into())))
            .collect::<Option<_>>()?;
        Some(Self { key: key.to_owned(), files })
    }

    pub fn write(&self, path: &Path, shelf: &Shelf) -> Result<()> {
        shelf.write(path, format!("{}\n{}", self.key, lines(&self.files)).as_bytes())
    }

    pub fn complete(&self, root: &Path) -> bool {
        !self.files.is_empty() && self.files.keys().all(|name| root.join(name).is_file())
    }

    /// Takes the files of an older version out of the mirror.
    pub fn remove_what_is_not_in(&self, newer: &Self, root: &Path) -> Result<()> {
        for name in self.files.keys().filter(|name| !newer.files.contains_key(*name)) {
            match fs::remove_file(root.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// As `sha256sum` writes them.
pub fn lines(files: &BTreeMap<String, String>) -> String {
    files.iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, names: &[&str]) -> Record {
        let files = names.iter().map(|name| ((*name).to_owned(), "0".repeat(64))).collect();
        Record { key: key.to_owned(), files }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let shelf =
            Shelf::open(&directory.path().join("root"), &directory.path().join("partial")).unwrap();
        let path = directory.path().join("record");
        let written = record("k", &["a/b", "c"]);
        written.write(&path, &shelf).unwrap();
        assert_eq!(Record::read(&path), Some(written));
    }

    #[test]
    fn a_record_of_another_form_counts_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record");
        fs::write(&path, "only a key").unwrap();
        assert_eq!(Record::read(&path), None);
        fs::write(&path, "key\nno digest here\n").unwrap();
        assert_eq!(Record::read(&path), None);
    }

    #[test]
    fn a_missing_file_makes_it_incomplete_and_old_files_go() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("old"), "").unwrap();
        fs::write(root.path().join("kept"), "").unwrap();
        let before = record("1", &["old", "kept"]);
        let after = record("2", &["kept"]);
        assert!(before.complete(root.path()));
        before.remove_what_is_not_in(&after, root.path()).unwrap();
        assert!(!before.complete(root.path()));
        assert!(after.complete(root.path()));
        before.remove_what_is_not_in(&after, root.path()).unwrap();
        assert!(!record("3", &[]).complete(root.path()), "nothing built is nothing complete");
    }
}
