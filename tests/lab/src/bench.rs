//! `cargo lab bench`: how long a 3+2 cluster takes from machines that answer to all gates green,
//! the chain of tasks that decides it, a second `up`, `status`, and the memory that kdiy needs.
//! Times are of this computer, at this moment; compare only what was measured in one run.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::e2e::cluster::{Cluster, Run};
use crate::{Build, Ready, build_kdiy, host};

const NAME: &str = "lab-bench";
const MASTERS: usize = 3;
const WORKERS: usize = 2;
/// Of what takes seconds; odd, so that one of them is the median.
const REPEATS: usize = 7;
/// How often a process is asked for its peak; what came after the last time is missed.
const LOOK: Duration = Duration::from_millis(20);

pub fn run(cache: &Path) -> Result<()> {
    // As users have it: its own work counts in what takes few seconds.
    let lab = Ready { kdiy: build_kdiy(Build::Release)?, ..Ready::make(cache)? };
    let cluster = Cluster::new(&lab, cache, NAME)?;
    cluster.destroy()?;
    // Fills kdiy's own cache, so that digests and extraction are not part of what is measured.
    cluster.up(MASTERS, WORKERS)?;
    cluster.destroy()?;
    let measured = measure(&cluster);
    cluster.destroy()?;
    println!("{}", measured?);
    Ok(())
}

fn measure(cluster: &Cluster) -> Result<String> {
    let first = Measured::of(&mut cluster.up_command(MASTERS, WORKERS), cluster.directory())?;
    let timings = host::ask(&mut cluster.kdiy("timings"))?;
    let again = repeat(|| {
        let up = Measured::of(&mut cluster.up_command(MASTERS, WORKERS), cluster.directory())?;
        let changed = Run::parse(&up.said)?.changed().join(", ");
        ensure!(changed.is_empty(), "a second up changed {changed}");
        Ok(up)
    })?;
    let status = repeat(|| Measured::of(&mut cluster.kdiy("status"), cluster.directory()))?;
    let peak = again.iter().chain(&status).map(|run| run.peak_kib).fold(first.peak_kib, u64::max);
    Ok(format!(
        "{MASTERS}+{WORKERS}, artifacts cached: {timings}\n\
         a second up: {}\nstatus: {}\nkdiy's peak of resident memory: {} MiB",
        spread(&again),
        spread(&status),
        peak / 1024
    ))
}

fn repeat(run: impl FnMut() -> Result<Measured>) -> Result<Vec<Measured>> {
    std::iter::repeat_with(run).take(REPEATS).collect()
}

fn spread(runs: &[Measured]) -> String {
    let mut seconds: Vec<f64> = runs.iter().map(|run| run.elapsed.as_secs_f64()).collect();
    seconds.sort_by(f64::total_cmp);
    let [least, median, most] = [0, seconds.len() / 2, seconds.len() - 1].map(|at| seconds[at]);
    format!("{median:.2} s ({least:.2} to {most:.2} s, {} runs)", seconds.len())
}

/// A process from its start to its end.
struct Measured {
    said: String,
    elapsed: Duration,
    /// Of the process alone, without those that it started.
    peak_kib: u64,
}

impl Measured {
    fn of(command: &mut Command, directory: &Path) -> Result<Self> {
        let path = directory.join("measured");
        let began = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(fs::File::create(&path)?)
            .stderr(Stdio::inherit())
            .spawn()?;
        let status = format!("/proc/{}/status", child.id());
        let mut peak_kib = 0;
        let ended = loop {
            peak_kib = peak_kib.max(peak(&status).unwrap_or_default());
            if let Some(ended) = child.try_wait()? {
                break ended;
            }
            std::thread::sleep(LOOK);
        };
        let elapsed = began.elapsed();
        let said = fs::read_to_string(&path).context("what was measured said nothing")?;
        if !ended.success() {
            bail!("{command:?} ended with {ended}:\n{}", host::tail(said.as_bytes(), 30));
        }
        Ok(Self { said, elapsed, peak_kib })
    }
}

/// `VmHWM` of a process, in KiB (proc_pid_status(5)).
fn peak(status: &str) -> Option<u64> {
    let status = fs::read_to_string(status).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
