//! Everything that kdiy created outside its own directory, so that `destroy` can remove it and
//! check that it is gone.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::state::atomic;
use crate::support::failure::Result;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResourceKind {
    Machine,
    /// A machine that exists without kdiy, and has its own ledger of what was put on it.
    Host,
    Network,
    Image,
    /// A context that was merged into the user's kubeconfig.
    Kubeconfig,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub what: ResourceKind,
    /// As the provider knows it.
    pub id: String,
    pub provider: String,
    pub since: Timestamp,
}

/// An entry is written before the thing is made, and removed once the thing is proven gone.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    entries: Vec<Entry>,
}

impl Ledger {
    pub fn open(directory: &Path) -> Result<Self> {
        let path = directory.join("ledger.json");
        let entries = atomic::read_json(&path)?;
        Ok(Self { path, entries })
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Enters things about to be made; those that are entered already stay as they are. What
    /// another process entered since is kept.
    pub fn add(&mut self, provider: &str, what: ResourceKind, ids: &[String]) -> Result<()> {
        self.entries = atomic::update_json(&self.path, |entries: &mut Vec<Entry>| {
            for id in ids {
                if !entries.iter().any(|entry| entry.what == what && entry.id == *id) {
                    entries.push(Entry {
                        what,
                        id: id.clone(),
                        provider: provider.to_owned(),
                        since: Timestamp::now(),
                    });
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    pub fn remove(&mut self, what: ResourceKind, id: &str) -> Result<()> {
        self.entries = atomic::update_json(&self.path, |entries: &mut Vec<Entry>| {
            entries.retain(|entry| !(entry.what == what && entry.id == id));
            Ok(())
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_and_are_not_doubled() {
        let directory = tempfile::tempdir().unwrap();
        let ids = ["a".to_owned(), "b".to_owned()];
        Ledger::open(directory.path()).unwrap().add("docker", ResourceKind::Machine, &ids).unwrap();
        let mut ledger = Ledger::open(directory.path()).unwrap();
        ledger.add("docker", ResourceKind::Machine, &ids).unwrap();
        assert_eq!(ledger.entries().len(), 2);
        ledger.remove(ResourceKind::Machine, "a").unwrap();
        assert_eq!(Ledger::open(directory.path()).unwrap().entries()[0].id, "b");
    }

    #[test]
    fn entries_of_another_process_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut up = Ledger::open(directory.path()).unwrap();
        let mut merge = Ledger::open(directory.path()).unwrap();
        merge.add("kubeconfig", ResourceKind::Kubeconfig, &["config:admin@kdiy".into()]).unwrap();
        up.add("docker", ResourceKind::Machine, &["a".into()]).unwrap();
        assert_eq!(Ledger::open(directory.path()).unwrap().entries().len(), 2);
        assert_eq!(up.entries().len(), 2);
    }
}
