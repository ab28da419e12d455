//! The undo scripts of a drill, kept on this computer until they have run: kdiy writes `drill.json`
//! before it breaks anything, so that the repair is known even if kdiy is killed.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::session::ClusterHandle;
use crate::state::atomic;
use crate::support::event::Events;
use crate::support::failure::{Failure, Kind, Result};
use crate::support::time_scale::Unscaled;
use crate::transport::Script;
use crate::transport::pool::transport_failure;

/// A machine that was switched on answers within this; multiplied by `slowMachines`.
const BOOTS_WITHIN: Unscaled = Unscaled::from_secs(120);

/// What is broken at the moment, or was when kdiy ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    pub drill: String,
    pub began: Timestamp,
    pub remedies: Vec<Remedy>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    pub machine: String,
    pub how: How,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    PowerOn,
    /// Run as root on the machine. May be run again.
    Script(String),
}

fn file(root: &Path) -> PathBuf {
    root.join("drill.json")
}

/// The drill that was not undone, if there is one. `root` is the cluster's state directory.
pub fn pending(root: &Path) -> Result<Option<Pending>> {
    atomic::read_json(&file(root))
}

pub fn remember(root: &Path, pending: &Pending) -> Result<()> {
    atomic::write_json(&file(root), pending)
}

fn forget(root: &Path) -> Result<()> {
    let path = file(root);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::host(format!("cannot remove {}", path.display())).because(error))
        }
        _ => Ok(()),
    }
}

/// Mends all machines at the same time: etcd members that lost their quorum need each other to
/// start. What could not be mended stays in the file.
pub async fn undo(session: &ClusterHandle, pending: &Pending, events: &Events) -> Result<()> {
    let mended = pending.remedies.iter().map(|remedy| mend(session, remedy, events));
    let results = futures::future::join_all(mended).await;
    let mut failures = results.into_iter().filter_map(Result::err);
    let Some(first) = failures.next() else { return forget(session.state.root()) };
    let rest = failures.map(|failure| failure.to_string()).collect();
    Err(Failure::new(Kind::Step, format!("the drill {} has not been undone", pending.drill))
        .cause(first.to_string())
        .tail(rest)
        .hint(format!("try again: kdiy drill --undo --name {}", session.topology().cluster)))
}

async fn mend(session: &ClusterHandle, remedy: &Remedy, events: &Events) -> Result<()> {
    let Remedy { machine, how } = remedy;
    match how {
        How::PowerOn => {
            session.provider.power_on(machine, events).await?;
            connect(session, machine).await
        }
        How::Script(text) => {
            let transport = match session.connections.transport(machine).await {
                Ok(transport) if transport.is_alive().await => transport,
                _ => {
                    connect(session, machine).await?;
                    session.connections.transport(machine).await?
                }
            };
            let failed = |error| transport_failure("undo", &error);
            let output = transport.run(Script::new(text)).await.map_err(failed)?;
            if output.success() {
                return Ok(());
            }
            Err(Failure::new(Kind::Step, "kdiy could not undo the fault")
                .on(machine)
                .tail(output.tail(10)))
        }
    }
}

async fn connect(session: &ClusterHandle, machine: &str) -> Result<()> {
    let target = session.provider.ssh_target(session.topology(), machine)?;
    session.connections.connect(&target, BOOTS_WITHIN * target.slow_machines).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn undo_scripts_are_kept_until_they_have_run() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        assert_eq!(pending(root).unwrap(), None);
        let broken = Pending {
            drill: "master".into(),
            began: "2026-11-25T12:00:00Z".parse().unwrap(),
            remedies: vec![
                Remedy { machine: "a".into(), how: How::PowerOn },
                Remedy { machine: "b".into(), how: How::Script("nft delete table x".into()) },
            ],
        };
        remember(root, &broken).unwrap();
        assert_eq!(pending(root).unwrap(), Some(broken));
        let mode = std::fs::metadata(file(root)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for _ in 0..2 {
            forget(root).unwrap();
            assert_eq!(pending(root).unwrap(), None);
        }
    }

    #[test]
    fn a_file_that_is_not_ours_is_no_reason_to_forget_a_fault() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(file(directory.path()), "{").unwrap();
        let refused = pending(directory.path()).unwrap_err().to_string();
        assert!(refused.contains("drill.json is damaged: kdiy cannot parse it"), "{refused}");
    }
}
