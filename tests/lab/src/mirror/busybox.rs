//! Debian's statically linked busybox: the image to test pods with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::host::run;

/// Puts `busybox` into a directory. The package is unpacked, not installed: installing it would
/// take the place of this computer's own busybox.
pub fn fetch(output: &Path) -> Result<()> {
    let download =
        || run(Command::new("apt-get").current_dir(output).args(["download", "busybox-static"]));
    if download().is_err() {
        // A computer that never asked for the lists of packages.
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        download()?;
    }
    let package = find_package(output)?;
    let unpacked = output.join("unpacked");
    run(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&unpacked))?;
    let binary = ["bin/busybox", "usr/bin/busybox"]
        .iter()
        .map(|path| unpacked.join(path))
        .find(|path| path.is_file())
        .with_context(|| format!("{} holds no busybox", package.display()))?;
    fs::rename(binary, output.join("busybox"))?;
    Ok(())
}

fn find_package(directory: &Path) -> Result<PathBuf> {
    fs::read_dir(directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")
}
