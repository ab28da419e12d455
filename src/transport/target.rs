//! Where and how to reach a machine over SSH.

use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshTarget {
    pub machine: String,
    pub host: String,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub keys: Vec<PathBuf>,
    pub known_hosts: PathBuf,
    pub accept_new_host_key: bool,
    pub config_file: Option<PathBuf>,
    pub jump: Option<String>,
}
