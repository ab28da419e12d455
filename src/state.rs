//! A cluster's directory on this computer. It holds everything that kdiy records, and other users
//! cannot read it.

pub mod atomic;
pub mod durations;
pub mod journal;
pub mod ledger;
pub mod lock;
pub mod record;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use etcetera::{BaseStrategy, choose_base_strategy};
use serde::Deserialize;

pub use self::record::Record;
use crate::config::ClusterConfig;
use crate::support::failure::{Failure, Result};

/// The directory of one cluster.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

/// The part of `cluster.json` that is written beside the [`Record`] and only compared.
#[derive(Default, Deserialize)]
struct Layout {
    #[serde(default)]
    topology: Option<String>,
}

/// `$KDIY_STATE`, or `kdiy` in the user's state directory.
pub fn home() -> Result<PathBuf> {
    from_environment("KDIY_STATE", |base| base.state_dir().unwrap_or_else(|| base.data_dir()))
}

/// `$KDIY_CACHE`, or `kdiy` in the user's cache directory.
pub fn cache() -> Result<PathBuf> {
    from_environment("KDIY_CACHE", |base| base.cache_dir())
}

fn from_environment(
    variable: &str,
    default: impl Fn(&dyn BaseStrategyDirs) -> PathBuf,
) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        return std::path::absolute(&path)
            .map_err(|error| Failure::host(format!("${variable} is unusable")).because(error));
    }
    let base = choose_base_strategy().map_err(|error| {
        Failure::host("this user has no home directory")
            .because(error)
            .hint(format!("set {variable} to a directory"))
    })?;
    Ok(default(&base).join("kdiy"))
}

/// The two directories of [`BaseStrategy`] that are used here, object-safe.
trait BaseStrategyDirs {
    fn state_dir(&self) -> Option<PathBuf>;
    fn data_dir(&self) -> PathBuf;
    fn cache_dir(&self) -> PathBuf;
}

impl<T: BaseStrategy> BaseStrategyDirs for T {
    fn state_dir(&self) -> Option<PathBuf> {
        BaseStrategy::state_dir(self)
    }

    fn data_dir(&self) -> PathBuf {
        BaseStrategy::data_dir(self)
    }

    fn cache_dir(&self) -> PathBuf {
        BaseStrategy::cache_dir(self)
    }
}

impl StateDir {
    /// The directory of a cluster, whether it exists or not.
    pub fn of(name: &str) -> Result<Self> {
        Ok(Self { root: home()?.join(name) })
    }

    /// Makes the directory where it does not exist, and closes it to others where it does.
    pub fn create(&self) -> Result<()> {
        for path in [self.root.clone(), self.ssh(), self.vagrant(), self.logs(), self.runs()] {
            atomic::private_directory(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(|error| {
                Failure::host(format!(
                    "cannot remove the access of other users to {}",
                    path.display()
                ))
                .because(error)
            })?;
        }
        Ok(())
    }

    /// All clusters of this computer, by name.
    pub fn clusters() -> Result<Vec<String>> {
        let Ok(entries) = fs::read_dir(home()?) else { return Ok(Vec::new()) };
        let mut names: Vec<String> = entries
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn exists(&self) -> bool {
        self.root.exists()
    }

    pub fn ssh(&self) -> PathBuf {
        self.root.join("ssh")
    }

    pub fn vagrant(&self) -> PathBuf {
        self.root.join("vagrant")
    }

    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    pub fn machine_log(&self, machine: &str) -> PathBuf {
        self.logs().join(format!("{machine}.log"))
    }

    pub fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    fn record_file(&self) -> PathBuf {
        self.root.join("cluster.json")
    }

    /// `None` for a cluster that was never begun.
    pub fn record(&self) -> Result<Option<Record>> {
        let path = self.record_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Failure::host(format!("cannot read {}", path.display())).because(error));
            }
        };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Failure::host(format!("{} is damaged: kdiy cannot parse it", path.display()))
                .because(error)
                .hint("restore it from a backup")
                .hint(format!(
                    "or remove the cluster: `kdiy destroy --name {}` finds the machines that kdiy \
                    created without this file",
                    self.root.file_name().unwrap_or_default().display()
                ))
        })
    }

    pub fn write_record(&self, record: &Record) -> Result<()> {
        let mut document = serde_json::to_value(record)
            .map_err(|error| Failure::bug("cluster.json").because(error))?;
        let topology = record.topology()?;
        document["topology"] = record::fingerprint(&topology).into();
        atomic::write_json(&self.record_file(), &document)
    }

    /// The record of this cluster, if it was begun; an error that says what differs when
    /// `wanted` describes another one.
    pub fn same_cluster(&self, wanted: &ClusterConfig) -> Result<Option<Record>> {
        let Some(record) = self.record()? else { return Ok(None) };
        record.check_same(wanted)?;
        let topology = record.topology()?;
        let Layout { topology: laid_out } = atomic::read_json(&self.record_file())?;
        if laid_out.is_some_and(|laid_out| laid_out != record::fingerprint(&topology)) {
            return Err(Failure::input(format!(
                "kdiy {} assigned names and addresses of {} differently than this version does",
                record.kdiy, wanted.name
            ))
            .hint(format!("continue with kdiy {}", record.kdiy))
            .hint(format!("or create the cluster again: kdiy destroy --name {}", wanted.name)));
        }
        Ok(Some(record))
    }

    /// Removes everything. The lock file goes with it, which is why its holder comes along.
    pub fn remove(&self, lock: lock::Lock) -> Result<()> {
        fs::remove_dir_all(&self.root).map_err(|error| {
            Failure::host(format!("cannot remove {}", self.root.display())).because(error)
        })?;
        drop(lock);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv4Net;

    use super::*;

    fn begun() -> (tempfile::TempDir, StateDir, Record) {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir { root: parent.path().join("kdiy") };
        state.create().unwrap();
        let record = Record {
            kdiy: "0.1.0".into(),
            id: "0".repeat(32),
            site: "192.168.56.0/24".parse::<Ipv4Net>().unwrap().into(),
            config: ClusterConfig::default(),
            complete: false,
            had_data: false,
            machine_architectures: Default::default(),
            playbooks: None,
            keys: Default::default(),
            proven_kubernetes: None,
        };
        state.write_record(&record).unwrap();
        (parent, state, record)
    }

    #[test]
    fn the_record_reads_back_as_it_was_written() {
        let (_parent, state, record) = begun();
        assert_eq!(state.record().unwrap(), Some(record.clone()));
        assert_eq!(state.same_cluster(&record.config).unwrap(), Some(record));
    }

    #[test]
    fn another_layout_of_the_same_file_is_another_cluster() {
        let (_parent, state, record) = begun();
        let mut document: serde_json::Value =
            serde_json::from_slice(&fs::read(state.record_file()).unwrap()).unwrap();
        document["topology"] = "0".repeat(64).into();
        atomic::write_json(&state.record_file(), &document).unwrap();
        let refused = state.same_cluster(&record.config).unwrap_err().to_string();
        assert!(refused.contains("kdiy 0.1.0 assigned"), "{refused}");
    }

    #[test]
    fn a_directory_that_others_could_read_is_closed() {
        let (_parent, state, _) = begun();
        fs::set_permissions(state.root(), fs::Permissions::from_mode(0o755)).unwrap();
        state.create().unwrap();
        for path in [state.root().to_owned(), state.ssh(), state.logs(), state.runs()] {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn removing_leaves_nothing_and_a_cluster_never_begun_has_no_record() {
        let (parent, state, _) = begun();
        let lock = lock::Lock::take(&state.lock_file(), "destroy").unwrap();
        state.remove(lock).unwrap();
        assert!(!state.exists());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        assert_eq!(state.record().unwrap(), None);
    }
}
