//! Where and how to reach a machine over SSH.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshTarget {
    pub machine: String,
    pub host: String,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub keys: Vec<PathBuf>,
    /// Instead of those of the ssh configuration.
    pub known_hosts: Option<PathBuf>,
    pub accept_new_host_key: bool,
    pub config_file: Option<PathBuf>,
    pub jump: Option<String>,
    /// Where the machine listens, when nothing is between it and this computer.
    pub knock_at: Option<SocketAddr>,
    /// Multiplies how long ssh waits for anything; `slowMachines` of the cluster file.
    pub slow_machines: u32,
    pub root: Root,
}

/// How to become root on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// By a sudo that asks for nothing, as on machines that kdiy makes.
    Sudo,
    /// Found out there: who logs in is root already, or sudo lets them, for this password where
    /// it wants one.
    FindOut { password: Option<Password> },
}

/// Never shown, not even by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}
