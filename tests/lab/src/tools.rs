//! Programs for checks that cargo does not bring along.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::host;

/// A subcommand of cargo, with the version that the checks were written for.
pub struct Tool {
    pub name: &'static str,
    pub version: &'static str,
}

pub const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };
pub const FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.2" };

impl Tool {
    /// Where it is: on the search path, or in the lab's cache, where it is put when it is missing.
    /// Python's packages have it ready-made (built by the makers of uv, from the tagged source);
    /// without pip it is compiled, which takes minutes.
    pub fn ensure(&self, cache: &Path) -> Result<PathBuf> {
        if host::present(self.name) {
            return Ok(self.name.into());
        }
        let directory = cache.join("tools").join(format!("{}-{}", self.name, self.version));
        let program = directory.join("bin").join(self.name);
        let _lock = host::lock(cache, "tools")?;
        if program.is_file() {
            return Ok(program);
        }
        eprintln!("lab: installing {} {}", self.name, self.version);
        let package = format!("astral-dev-toolchain-{}=={}", self.name, self.version);
        let ready_made = host::run(
            Command::new("python3")
                .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
                .arg(&directory)
                .arg(&package),
        );
        if ready_made.is_err() || !program.is_file() {
            let install = ["install", "--quiet", "--locked", self.name, "--version", self.version];
            host::show(crate::cargo().args(install).arg("--root").arg(&directory))?;
        }
        if !program.is_file() {
            bail!("{} was installed, and is not there", program.display());
        }
        Ok(program)
    }
}
