//! What compilers do not look at: shell scripts, and what kdiy depends on.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::stage::Check;
use crate::tools::DENY;
use crate::{host, repository};

/// Scripts that run on machines or on this computer, below the repository.
const SCRIPTS: &[&str] = &["src/bundle", "vagrant/docker", ".ci"];

pub fn checks(cache: &Path) -> Vec<Check<'_>> {
    vec![
        Check::new("shell scripts", shell_scripts),
        Check::new("licenses and sources of dependencies", || {
            deny(cache, &["check", "licenses", "bans", "sources"])
        }),
        Check::new("known holes in dependencies", || advisories(cache)),
    ]
}

/// Everything that shellcheck calls a warning or worse; its `info` is about taste.
fn shell_scripts() -> Result<String> {
    host::need(&[("shellcheck", "shellcheck")])?;
    let mut count = 0;
    for directory in SCRIPTS {
        for entry in fs::read_dir(repository().join(directory))? {
            let path = entry?.path();
            if !path.is_file() {
                continue;
            }
            let text = fs::read(&path)?;
            let named = path.extension().is_some_and(|ending| ending == "sh");
            if !named && !text.starts_with(b"#!") {
                continue;
            }
            let mut shellcheck = Command::new("shellcheck");
            shellcheck.args(["--severity", "warning"]);
            if !text.starts_with(b"#!") {
                // Parts of the script of a step, which machines' /bin/sh runs.
                shellcheck.args(["--shell", "sh"]);
            }
            host::run(shellcheck.arg(&path))?;
            count += 1;
        }
    }
    Ok(format!("{count} scripts"))
}

/// The list of known holes is fetched anew; where it cannot be, that is said, because a check that
/// did not happen must not look like one that passed.
fn advisories(cache: &Path) -> Result<String> {
    let reached = host::run(Command::new("git").args([
        "ls-remote",
        "--quiet",
        "--exit-code",
        "https://github.com/RustSec/advisory-db",
        "HEAD",
    ]));
    if reached.is_err() {
        return Ok("NOT CHECKED: the list of known holes is out of reach".into());
    }
    deny(cache, &["check", "advisories"])
}

fn deny(cache: &Path, arguments: &[&str]) -> Result<String> {
    let deny = DENY.ensure(cache)?;
    host::run(
        Command::new(deny).current_dir(repository()).args(["--log-level", "error"]).args(arguments),
    )?;
    Ok(String::new())
}
