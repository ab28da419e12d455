//! A cluster's directory on this computer. Everything kdiy remembers is in here, and nothing of
//! it is readable by others.

pub mod atomic;
pub mod journal;
pub mod ledger;
pub mod lock;

use std::fs;
use std::path::{Path, PathBuf};

use etcetera::{BaseStrategy, choose_base_strategy};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::config::ClusterConfig;
use crate::failure::{Failure, Result};

/// The directory of one cluster.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

/// What a cluster was made with: `cluster.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The kdiy that wrote this.
    pub kdiy: String,
    pub machine_network: Ipv4Net,
    /// The effective cluster file.
    pub config: ClusterConfig,
    /// Every gate has been green at least once.
    #[serde(default)]
    pub complete: bool,
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

    /// Makes the directory where it does not exist.
    pub fn create(&self) -> Result<()> {
        for path in [self.root.clone(), self.ssh(), self.vagrant(), self.logs(), self.runs()] {
            atomic::private_directory(&path)?;
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
            Failure::host(format!("{} is not what kdiy wrote there", path.display()))
                .because(error)
                .hint("`kdiy destroy` takes the machines away without it")
        })
    }

    pub fn write_record(&self, record: &Record) -> Result<()> {
        atomic::write_json(&self.record_file(), record)
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
