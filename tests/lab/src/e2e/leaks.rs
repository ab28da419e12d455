//! Where the cluster's secrets are not: in logs, records, output, arguments of processes, and
//! files on machines that others than their owner can read.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::cluster::Cluster;

/// Processes that only ask something live about this long.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A line of a key; shorter ones are its ends, which say little.
const SHORTEST_LINE: usize = 32;

/// Watches what every process of this computer is called with, containers' processes among them.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<Vec<u8>>>,
}

impl Watch {
    pub fn begin() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut seen = BTreeSet::new();
                while !stop.load(Ordering::Relaxed) {
                    seen.extend(command_lines());
                    std::thread::sleep(LOOK_EVERY);
                }
                seen
            }
        });
        Self { stop, thread }
    }

    /// Keeps what was seen, for [`not_in_arguments`].
    pub fn end(self, cluster: &Cluster) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().ok().context("the watch broke off")?;
        let lines: Vec<u8> =
            seen.into_iter().flat_map(|line| [line, vec![b'\n']].concat()).collect();
        fs::write(arguments_of(cluster), lines)?;
        Ok(())
    }
}

fn command_lines() -> Vec<Vec<u8>> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter(|entry| {
            entry.file_name().to_string_lossy().starts_with(|c: char| c.is_ascii_digit())
        })
        // A process may be gone by now.
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| !line.is_empty())
        .collect()
}

fn arguments_of(cluster: &Cluster) -> PathBuf {
    cluster.said().with_extension("arguments")
}

/// Nobody else gets into the cluster's directory, and what is in it that matters would be private
/// outside of it as well. (What Vagrant and ssh write besides is as they write it.)
pub fn state_is_private(cluster: &Cluster) -> Result<String> {
    let home = cluster.home();
    let mut files = 0;
    let mut see = |path: &Path| {
        let metadata = fs::symlink_metadata(path)?;
        let mode = metadata.permissions().mode() & 0o777;
        let public = path.extension().is_some_and(|ending| ending == "pub")
            || path.file_name().is_some_and(|name| name == "known_hosts" || name == "vagrant.log");
        ensure!(public || mode & 0o077 == 0, "{} has mode {mode:04o}", path.display());
        files += 1;
        Ok(())
    };
    see(&home)?;
    for part in ["pki", "ssh", "logs", "runs", "kubeconfig", "ledger.json", "cluster.json"] {
        visit(&home.join(part), &mut see)?;
    }
    Ok(format!("{files} files and directories"))
}

/// What kdiy wrote while it made the cluster: records, logs, and what it said.
pub fn not_in_records(cluster: &Cluster) -> Result<String> {
    let needles = Needles::of(cluster)?;
    let mut bytes = 0;
    let mut search = |path: &Path| {
        let text = fs::read(path).with_context(|| path.display().to_string())?;
        bytes += text.len();
        needles.not_in(&text, &path.display().to_string())
    };
    search(&cluster.said())?;
    for directory in ["runs", "logs"] {
        let at = cluster.home().join(directory);
        let mut found = 0;
        visit(&at, &mut |path| {
            if path.is_file() {
                found += 1;
                search(path)?;
            }
            Ok(())
        })?;
        ensure!(found > 0, "there is nothing in {}", at.display());
    }
    Ok(format!("{} secrets in {} KiB", needles.count(), bytes / 1024))
}

pub fn not_in_arguments(cluster: &Cluster) -> Result<String> {
    let needles = Needles::of(cluster)?;
    let text = fs::read(arguments_of(cluster))?;
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    // Without the machines' own processes nothing was watched.
    let machines = text.windows(b"--encryption-provider-config".len());
    ensure!(
        machines.into_iter().any(|it| it == b"--encryption-provider-config"),
        "no api-server seen"
    );
    needles.not_in(&text, "the arguments of a process")?;
    Ok(format!("{} secrets in {lines} command lines", needles.count()))
}

/// The secrets travel on standard input and lie in memory only, for root only.
pub fn not_in_readable_files(cluster: &Cluster) -> Result<String> {
    let needles = Needles::of(cluster)?;
    let mut seen = 0;
    for machine in cluster.machines()? {
        let answer = ask_with_input(cluster, &machine, SEARCH, needles.text().as_bytes())?;
        let mut lines = answer.lines();
        let private: usize = lines.next().unwrap_or_default().parse().context("no count")?;
        ensure!(private > 0, "{machine}: the search does not find even what is there");
        let files: usize = lines.next().unwrap_or_default().parse().context("no count")?;
        seen += files;
        if let Some(leak) = lines.next() {
            bail!("{machine}: {leak}");
        }
    }
    Ok(format!("{} secrets in {seen} files", needles.count()))
}

/// Prints how many of the private files hold a secret (which shows that the search works), how
/// many files everybody may read, and which of those, or of the journal's lines, hold one.
const SEARCH: &str = r#"set -eu
umask 077
needles=/run/kdiy-needles
trap 'rm -f "$needles" "$needles.files" "$needles.bait"' EXIT
cat >"$needles"
# A worker that has joined keeps no secret of kdiy's, and the search must find something there as well.
head -n 1 "$needles" >"$needles.bait"
grep -rlaFf "$needles" /etc/kubernetes /etc/etcd "$needles.bait" 2>/dev/null | wc -l
find / /run /tmp /dev/shm /var/lib/containerd -xdev -type f -perm -004 -size -4096k \
  ! -path '/proc/*' ! -path '/sys/*' -print0 >"$needles.files"
tr -cd '\0' <"$needles.files" | wc -c
xargs -0 grep -laFf "$needles" <"$needles.files" 2>/dev/null || :
if journalctl --no-pager --quiet | grep -qaFf "$needles"; then echo 'the journal'; fi
"#;

fn ask_with_input(cluster: &Cluster, machine: &str, script: &str, input: &[u8]) -> Result<String> {
    let mut exec = cluster
        .docker()
        .args(["exec", "-i", machine, "/bin/sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    exec.stdin.take().context("no stdin")?.write_all(input)?;
    let output = exec.wait_with_output()?;
    ensure!(output.status.success(), "{machine}: the search ended with {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What must not be found.
struct Needles(BTreeSet<String>);

impl Needles {
    fn of(cluster: &Cluster) -> Result<Self> {
        let mut needles = BTreeSet::new();
        let pki = cluster.home().join("pki");
        visit(&pki, &mut |path| {
            if path.extension().is_some_and(|ending| ending == "key") {
                add_lines(&fs::read_to_string(path)?, &mut needles);
            }
            Ok(())
        })?;
        let ssh = cluster.home().join("ssh");
        visit(&ssh, &mut |path| {
            let text = fs::read(path).unwrap_or_default();
            if text.starts_with(b"-----BEGIN OPENSSH PRIVATE KEY") {
                add_lines(&String::from_utf8(text)?, &mut needles);
            }
            Ok(())
        })?;
        let secrets: Value = serde_json::from_str(&fs::read_to_string(pki.join("secrets.json"))?)?;
        needles.insert(secrets["encryptionKey"].as_str().context("no key")?.to_owned());
        Ok(Self(needles))
    }

    fn count(&self) -> usize {
        self.0.len()
    }

    fn text(&self) -> String {
        self.0.iter().fold(String::new(), |text, needle| text + needle + "\n")
    }

    /// The error does not quote the secret.
    fn not_in(&self, text: &[u8], place: &str) -> Result<()> {
        let text = String::from_utf8_lossy(text);
        match self.0.iter().find(|needle| text.contains(needle.as_str())) {
            Some(needle) => bail!("{place} holds a secret that begins {:.4}", needle),
            None => Ok(()),
        }
    }
}

fn add_lines(pem: &str, needles: &mut BTreeSet<String>) {
    let lines: Vec<&str> = pem
        .lines()
        .filter(|line| !line.starts_with("-----") && line.len() >= SHORTEST_LINE)
        .collect();
    // The first line names the kind of key and is the same in all of an OpenSSH kind; the last one
    // of an elliptic curve's key is of its public half, which certificates hold as well.
    if let [_, between @ .., _] = lines.as_slice() {
        needles.extend(between.iter().map(|line| (*line).to_owned()));
    }
}

fn visit(at: &Path, see: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    see(at)?;
    if at.is_dir() && !at.is_symlink() {
        for entry in fs::read_dir(at).with_context(|| at.display().to_string())? {
            visit(&entry?.path(), see)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_is_found_and_not_repeated() {
        let needles = Needles(BTreeSet::from(["hunter22hunter22".to_owned()]));
        assert!(needles.not_in(b"nothing here", "x").is_ok());
        let error = needles.not_in(b"it is hunter22hunter22!", "a log").unwrap_err().to_string();
        assert!(error.contains("a log") && !error.contains("hunter22"), "{error}");
    }

    #[test]
    fn this_process_is_seen() {
        let own = fs::read("/proc/self/cmdline").unwrap();
        assert!(command_lines().contains(&own));
    }
}
