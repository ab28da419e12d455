//! This computer: what has to be installed, and running commands.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Debian packages by the program or file that shows that they are there.
const NEEDED: &[(&str, &str)] = &[
    ("/usr/sbin/dockerd", "docker.io"),
    ("vagrant", "vagrant"),
    ("mmdebstrap", "mmdebstrap"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("ssh", "openssh-client"),
    ("openssl", "openssl"),
    ("curl", "curl"),
    ("gcc", "gcc"),
    ("/usr/include/seccomp.h", "libseccomp-dev"),
    ("pkg-config", "pkg-config"),
    ("/usr/share/doc/busybox-static", "busybox-static"),
];

/// Where everything is kept that takes long to make: `$KDIY_LAB_CACHE`, or `kdiy-lab` in the
/// user's cache directory.
pub fn cache() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KDIY_LAB_CACHE") {
        return Ok(PathBuf::from(path));
    }
    let home = std::env::var_os("HOME").context("HOME is not set")?;
    Ok(PathBuf::from(home).join(".cache/kdiy-lab"))
}

/// Installs what is missing, with apt.
pub fn prepare() -> Result<()> {
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(program, _)| !present(program))
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        println!("lab: installing {}", missing.join(" "));
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        run(Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(&missing))
        .context("the lab prepares Debian-like machines, as root")?;
    }
    if !present("go") {
        bail!("the mirror is built with Go 1.26 or newer, which is not here; install it first");
    }
    Ok(())
}

fn present(program: &str) -> bool {
    if program.starts_with('/') {
        return PathBuf::from(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// Runs a command that is to succeed; its output is shown only when it does not.
pub fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(30)..].join("\n");
        bail!("{name} ended with {}:\n{tail}", output.status);
    }
    Ok(())
}

/// Runs a command on this terminal.
pub fn show(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        bail!("{name} ended with {status}");
    }
    Ok(())
}
