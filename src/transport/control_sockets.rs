//! The directory of ssh's control sockets, which exists as long as the process.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::support::failure::{Failure, Result};

/// Not the state directory, whose path may be too long for a socket.
const PARENT: &str = "/tmp";
const PREFIX: &str = "kdiy-ssh-";

/// A directory that goes with its owner. Those of processes that were killed are removed first.
pub fn directory() -> Result<TempDir> {
    sweep(Path::new(PARENT), Path::new("/proc"));
    tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{}-", std::process::id()))
        .tempdir_in(PARENT)
        .map_err(|error| {
            Failure::host(format!("cannot create a directory in {PARENT}")).because(error)
        })
}

/// Where there is no list of processes nothing is removed, and neither is what is somebody else's.
fn sweep(parent: &Path, processes: &Path) {
    if !processes.join("self").exists() {
        return;
    }
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
        if owner.is_some_and(|(process, _)| !processes.join(process).exists()) {
            // What stays is in nobody's way.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_dead_processes_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let processes = tempfile::tempdir().unwrap();
        for name in ["self", "7"] {
            fs::create_dir(processes.path().join(name)).unwrap();
        }
        for name in ["kdiy-ssh-7-a", "kdiy-ssh-8-a", "kdiy-ssh-8", "other-8-a"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        sweep(parent.path(), processes.path());
        let mut left: Vec<_> = fs::read_dir(parent.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["kdiy-ssh-7-a", "kdiy-ssh-8", "other-8-a"]);
    }
}
