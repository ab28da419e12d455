//! A mirror in which one file was changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::cluster::Cluster;
use crate::{Ready, host};

const NAME: &str = "lab-tampered";
/// Goes onto every machine, early.
const FILE: &str = "crictl-";

/// kdiy must stop, say which file it is, and have installed nothing of it.
pub fn a_changed_file_stops_everything(lab: &Ready, cache: &Path) -> Result<String> {
    let cluster = Cluster::new(lab, cache, NAME)?;
    cluster.destroy()?;
    let directory = tempfile::tempdir()?;
    let mirror = directory.path().join("mirror");
    host::run(Command::new("cp").arg("-rs").arg(fs::canonicalize(&lab.mirror.root)?).arg(&mirror))?;
    let victim = find(&mirror, FILE)?.context("the mirror has no such file")?;
    let mut bytes = fs::read(&victim)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // The link, not what it points to.
    fs::remove_file(&victim)?;
    fs::write(&victim, &bytes)?;

    let output = cluster
        .kdiy("up")
        .args(["--provider", "docker", "--masters", "1", "--workers", "0", "--yes"])
        .args(["--image", &lab.image, "--mirror"])
        .arg(&mirror)
        .arg("--digests")
        .arg(lab.mirror.digests())
        .output()?;
    let said = host::tail(&[output.stdout, output.stderr].concat(), 30);
    let mut installed = Vec::new();
    for machine in cluster.machines()? {
        let probe = "test ! -e /usr/local/bin/crictl || echo installed";
        installed.push(cluster.on(&machine, probe)?);
    }
    cluster.destroy()?;
    ensure!(output.status.code() == Some(1), "it ended with {}: {said}", output.status);
    let name = victim.file_name().unwrap_or_default().to_string_lossy().into_owned();
    ensure!(said.contains("is not what was released") && said.contains(&name), "it said {said}");
    ensure!(installed.concat().is_empty(), "it is on a machine");
    Ok(format!("one bit of {name}"))
}

fn find(at: &Path, prefix: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(at)? {
        let path = entry?.path();
        let fits = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
        if path.is_dir() {
            if let Some(found) = find(&path, prefix)? {
                return Ok(Some(found));
            }
        } else if fits {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
