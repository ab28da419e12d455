//! This computer: what has to be installed, and running commands.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::progress::slow;

/// Debian packages by the program or file that shows that they are there.
/// On a line of 50 Mbit/s.
const PACKAGES: Duration = Duration::from_secs(60);
const NEEDED: &[(&str, &str)] = &[
    ("docker", "docker.io"),
    ("dockerd", "docker.io"),
    ("vagrant", "vagrant"),
    ("mmdebstrap", "mmdebstrap"),
    ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("ssh", "openssh-client"),
    ("openssl", "openssl"),
    ("curl", "curl"),
    ("gcc", "gcc"),
    ("/usr/include/stdio.h", "libc6-dev"),
    ("/usr/include/seccomp.h", "libseccomp-dev"),
    ("pkg-config", "pkg-config"),
];

/// Where Debian keeps what only root is expected to run; a user's search path may lack them.
const SYSTEM_PROGRAMS: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// From this one on, Go fetches by itself the newer toolchain that a module asks for.
const OLDEST_GO: (u32, u32) = (1, 21);

/// Where everything is kept that takes long to make: `$KDIY_LAB_CACHE`, or `kdiy-lab` in the
/// user's cache directory.
pub fn cache() -> Result<PathBuf> {
    let path = match std::env::var_os("KDIY_LAB_CACHE").filter(|path| !path.is_empty()) {
        Some(path) => std::path::absolute(path)?,
        None => {
            let home = std::env::var_os("HOME").context("HOME is not set")?;
            PathBuf::from(home).join(".cache/kdiy-lab")
        }
    };
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

/// Held until dropped, so that two labs do not make the same thing at the same time.
pub fn lock(cache: &Path, what: &str) -> Result<File> {
    let path = cache.join(format!("{what}.lock"));
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("lab: another one is at work on the {what}; waiting");
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    Ok(file)
}

/// Installs what is missing, with apt.
pub fn prepare() -> Result<()> {
    // An engine that answers, wherever it runs, needs no other one beside it.
    let engine = run(Command::new("docker").arg("info")).is_ok();
    let needed: Vec<_> =
        NEEDED.iter().copied().filter(|(program, _)| *program != "dockerd" || !engine).collect();
    need(&needed)?;
    check_go()
}

/// Installs those Debian packages whose program or file is not there.
pub fn need(needed: &[(&'static str, &'static str)]) -> Result<()> {
    let missing = || needed.iter().copied().filter(|(program, _)| !present(program));
    let mut packages: Vec<&str> = missing().map(|(_, package)| package).collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !present("apt-get") {
        bail!("the lab needs what Debian calls {list}; install that first");
    }
    if !is_root() {
        bail!("the lab needs more than is here; run: sudo apt-get install {list}");
    }
    eprintln!("lab: installing {list}");
    slow("installing packages", PACKAGES, || {
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        run(Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(&packages))
    })?;
    // Some releases split a package: what was asked for may have come without the program.
    let still: Vec<&str> = missing().map(|(program, _)| program).collect();
    if !still.is_empty() {
        bail!("after installing {list} there is still no {}", still.join(", "));
    }
    Ok(())
}

fn check_go() -> Result<()> {
    let advice = "install Go 1.26 from go.dev/dl (or any from 1.21, which fetches the newer one)";
    if !present("go") {
        bail!("the mirror is built with Go, which is not here; {advice}");
    }
    let version = ask(Command::new("go").args(["env", "GOVERSION"]))?;
    match go_version(&version) {
        Some(found) if found < OLDEST_GO => {
            bail!("the mirror cannot be built with {}; {advice}", version.trim())
        }
        // A development version has no number; it is taken at its word.
        _ => Ok(()),
    }
}

/// `(1, 26)` of `go1.26.8`.
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().strip_prefix("go")?.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

pub fn present(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_PROGRAMS.iter().map(PathBuf::from))
        .any(|directory| directory.join(program).is_file())
}

/// Runs a command that is to succeed; its output is shown only when it does not.
pub fn run(command: &mut Command) -> Result<()> {
    ask(command).map(drop)
}

/// Runs a command that is to succeed, and gives what it wrote to standard output.
pub fn ask(command: &mut Command) -> Result<String> {
    let name = name(command);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        bail!("{name} ended with {}:\n{}", output.status, tail(&text, 30));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command on this terminal.
pub fn show(command: &mut Command) -> Result<()> {
    let name = name(command);
    let status = command.status().with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        bail!("{name} ended with {status}");
    }
    Ok(())
}

/// Ends the daemon whose process is named in a file, and waits until it is gone. Says whether
/// there was one.
pub fn stop(pid_file: &Path, daemon: &str, patience: Duration) -> Result<bool> {
    let Ok(pid) = fs::read_to_string(pid_file) else { return Ok(false) };
    let pid = pid.trim();
    let process = Path::new("/proc").join(pid);
    // The number may have gone to another process since.
    if fs::read_to_string(process.join("comm")).unwrap_or_default().trim() != daemon {
        return Ok(false);
    }
    run(Command::new("kill").arg(pid))?;
    let began = Instant::now();
    while process.exists() {
        if began.elapsed() > patience {
            bail!("{daemon}, process {pid}, does not stop");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(true)
}

/// The last lines of what a program wrote.
pub fn tail(text: &[u8], count: usize) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let verb = command.get_args().next().map(OsStr::to_string_lossy).unwrap_or_default();
    let program = program.file_name().unwrap_or(command.get_program()).to_string_lossy();
    format!("{program} {verb}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go_compare_as_numbers() {
        assert_eq!(go_version("go1.26.8\n"), Some((1, 26)));
        assert!(go_version("go1.9").unwrap() < OLDEST_GO);
        assert!(go_version("go1.21rc2").unwrap() >= OLDEST_GO);
        assert_eq!(go_version("devel +abc"), None);
    }

    #[test]
    fn a_failure_says_which_command_and_what_it_wrote() {
        let error = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        for part in ["sh -c", "3", "out", "err"] {
            assert!(error.contains(part), "no {part} in: {error}");
        }
        let error = run(&mut Command::new("/no/such/program")).unwrap_err().to_string();
        assert!(error.contains("cannot start program"), "{error}");
    }

    #[test]
    fn a_lock_is_held_until_it_is_dropped() {
        let cache = tempfile::tempdir().unwrap();
        let held = lock(cache.path(), "mirror").unwrap();
        let other = File::open(cache.path().join("mirror.lock")).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        other.try_lock().unwrap();
    }
}
