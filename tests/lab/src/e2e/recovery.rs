//! `kdiy up` under fire: killed at every boundary between steps and at any moment within them,
//! with connections, machines and disks that fail, and still the same cluster in the end.
//!
//! One cluster is built by as many runs as there are boundaries, each killed at the next one; so
//! every boundary is met at little more than the price of one build.

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::cluster::{Cluster, Run};
use crate::chance::Chance;
use crate::stage::{Check, Stage};
use crate::{Ready, host};

const NAME: &str = "lab-recovery";
const MASTERS: usize = 1;
const WORKERS: usize = 1;

/// What ends a process that aborts (signal(7)).
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;

/// The first thing that Vagrant says; it makes the first machine within 3 s after that.
const IN_VAGRANT: &str = "Bringing machine";
/// The sign that a run has begun to look at machines.
const WORKING: &str = "\"event\":\"task-started\"";
/// A run says either within this, on two busy cores.
const SAYS_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// All runs that are killed at a boundary, together, on two busy cores.
const BOUNDARIES_WITHIN: Duration = Duration::from_secs(20 * 60);
/// Runs that are killed at a moment that chance decides, and how late that may be: a repair of
/// everything in [`DRIFTS`] takes about as long.
const RANDOM_KILLS: usize = 8;
const KILLED_WITHIN: u64 = 12_000;

/// Ways in which a machine comes to differ from what is wanted, and where.
const DRIFTS: [(&str, &str); 6] = [
    ("master-1", "echo '# edited' >>/etc/systemd/system/kube-scheduler.service"),
    ("master-1", "rm -f /etc/kubernetes/pki/apiserver.crt"),
    ("master-1", "systemctl stop kube-controller-manager"),
    ("master-1", "echo '# edited' >>/etc/etcd/pki/ca.crt"),
    ("worker-1", "systemctl stop kubelet; rm -f /etc/kubernetes/kubelet.yaml"),
    ("worker-1", "chmod 0644 /etc/kubernetes/kube-proxy.kubeconfig"),
];

/// Twice, a scheduler that starts ends at once; and it is not running.
const GIVES_UP: &str = r#"
cat >/run/lab-gives-up <<'END'
echo >>/run/lab-starts
test "$(wc -l </run/lab-starts)" -gt 2
END
mkdir -p /run/systemd/system/kube-scheduler.service.d
echo '[Service]
ExecStartPre=+/bin/sh /run/lab-gives-up' >/run/systemd/system/kube-scheduler.service.d/lab.conf
systemctl daemon-reload
systemctl stop kube-scheduler"#;

pub fn stage<'a>(lab: &'a Ready, cache: &Path, seed: u64) -> Result<Stage<'a>> {
    let cluster = Cluster::new(lab, cache, NAME)?;
    println!("     what is left to chance is decided by --seed {seed}");
    let chance = Rc::new(RefCell::new(Chance::new(seed)));
    let with = |check: fn(&Cluster) -> Result<String>| {
        let cluster = cluster.clone();
        move || check(&cluster)
    };
    let by_chance = |check: fn(&Cluster, &mut Chance) -> Result<String>| {
        let (cluster, chance) = (cluster.clone(), chance.clone());
        move || check(&cluster, &mut chance.borrow_mut())
    };
    Ok(Stage {
        setup: vec![
            Check::new("nothing is left of an earlier run", with(|cluster| cluster.destroy())),
            Check::new(
                "killed at every step boundary, up goes on",
                by_chance(killed_at_boundaries),
            ),
            Check::new("what came of it is what was wanted", with(is_as_wanted)),
        ],
        checks: vec![
            Check::new("killed at any moment of a repair, up goes on", by_chance(killed_at_random)),
            Check::new("connections that break within a step", with(connections_break)),
            Check::new("a machine that restarts within a step", with(a_machine_restarts)),
            Check::new("a program that gives up at first", with(a_program_gives_up)),
            Check::new("a machine that is silent is named", with(a_machine_is_silent)),
            Check::new("a disk that is full", with(a_disk_is_full)),
            Check::new("Ctrl-C twice", with(interrupted_twice)),
        ],
        teardown: vec![Check::new(
            "destroy leaves nothing behind",
            with(|cluster| cluster.destroy()),
        )],
        keep: Some(Box::new(move |check| cluster.keep_what_was_said(check))),
    })
}

fn killed_at_boundaries(cluster: &Cluster, chance: &mut Chance) -> Result<String> {
    let began = Instant::now();
    let mut making = Running::start(cluster)?;
    making.says(IN_VAGRANT)?;
    making.child.kill()?;
    making.ended()?;
    let first = killed_at(cluster, "make:after")?;
    let boundaries = boundaries(&first, chance)?;
    for boundary in &boundaries {
        if began.elapsed() > BOUNDARIES_WITHIN {
            bail!("out of time before {boundary}");
        }
        killed_at(cluster, boundary)?;
    }
    let last = cluster.up(MASTERS, WORKERS)?;
    Ok(format!(
        "{} boundaries, the last run changed {}",
        boundaries.len() + 1,
        last.last()?["changed"]
    ))
}

/// The end of every step, on one of its machines; and of one fetch, for all are alike. Looks and
/// gates change nothing: where one ends is no other state than where the step before it ended.
fn boundaries(run: &Run, chance: &mut Chance) -> Result<Vec<String>> {
    let planned = run.of_kind("planned").next().context("the run said no plan")?;
    let tasks = planned["tasks"].as_array().context("no tasks")?;
    let mut steps: Vec<(&str, Vec<&str>)> = Vec::new();
    for task in tasks {
        let step = match task["kind"].as_str() {
            Some("fetch") => "fetch",
            Some("apply" | "cluster") => task["step"].as_str().context("a task without a step")?,
            _ => continue,
        };
        let id = task["id"].as_str().context("a task without a name")?;
        match steps.iter_mut().find(|(known, _)| *known == step) {
            Some((_, ids)) => ids.push(id),
            None => steps.push((step, vec![id])),
        }
    }
    Ok(steps.iter().map(|(_, ids)| format!("{}:after", chance.one_of(ids))).collect())
}

fn killed_at(cluster: &Cluster, boundary: &str) -> Result<Run> {
    let output = cluster
        .up_command(MASTERS, WORKERS)
        .env("KDIY_STOP_AT", boundary)
        .stdin(Stdio::null())
        .output()?;
    ensure!(
        output.status.signal() == Some(SIGABRT),
        "the run that was to end at {boundary} ended with {}:\n{}",
        output.status,
        said(&output)
    );
    Run::parse_whole_lines(&String::from_utf8_lossy(&output.stdout))
}

/// A run that finds nothing to do has compared every file's digest, mode and owner, every unit's
/// state and every step's stamp with what is wanted, and has proven every gate.
fn is_as_wanted(cluster: &Cluster) -> Result<String> {
    let run = cluster.up(MASTERS, WORKERS)?;
    let changed = run.changed();
    ensure!(changed.is_empty(), "changed {}", changed.join(", "));
    let gates = run.of_kind("gate-evidence").filter(|event| event["passed"] == true).count();
    ensure!(gates > 0, "no gate said that it passed");
    for machine in ["master-1", "worker-1"] {
        let left = cluster.on(
            &cluster.machine(machine),
            "find /run -maxdepth 1 -name 'kdiy.*'; find /etc /usr/local -name '*.kdiy-new' -o -name '*.kdiy-staged'; \
             cd /var/lib/kdiy && find pending restarting staged -type f; systemctl list-units --failed --plain --no-legend",
        )?;
        ensure!(left.trim().is_empty(), "{machine} has been left with {left}");
    }
    Ok(format!("{gates} gates passed, nothing to change, nothing left over"))
}

fn killed_at_random(cluster: &Cluster, chance: &mut Chance) -> Result<String> {
    let mut cut = 0;
    for _ in 0..RANDOM_KILLS {
        let (machine, drift) = chance.one_of(&DRIFTS);
        cluster.on(&cluster.machine(machine), drift)?;
        let mut run = Running::start(cluster)?;
        std::thread::sleep(Duration::from_millis(chance.below(KILLED_WITHIN)));
        run.child.kill()?;
        let (status, said) = run.ended()?;
        let is_cut = status.signal() == Some(SIGKILL);
        ensure!(is_cut || status.success(), "{drift} on {machine}, then up: {status}\n{said}");
        cut += usize::from(is_cut);
    }
    ensure!(cut > 0, "every run was done before it could be killed");
    cluster.up(MASTERS, WORKERS)?;
    is_as_wanted(cluster)?;
    Ok(format!("{cut} of {RANDOM_KILLS} runs were cut off"))
}

/// Every server process of SSH on both machines is killed, again and again while a run repairs.
fn connections_break(cluster: &Cluster) -> Result<String> {
    let broken = while_repairing(cluster, 3, |cluster| {
        for machine in ["master-1", "worker-1"] {
            // The listener, which must stay, calls itself `sshd: /usr/sbin/sshd -D [listener]`.
            cluster
                .on(&cluster.machine(machine), "pkill -KILL -f '^sshd: [a-z]+( |@|$)' || true")?;
        }
        Ok(())
    })?;
    Ok(format!("broken {broken} times"))
}

fn a_machine_restarts(cluster: &Cluster) -> Result<String> {
    while_repairing(cluster, 1, |cluster| {
        let name = cluster.machine("worker-1");
        host::run(cluster.docker().args(["restart", "--time", "5", &name]))
    })?;
    Ok("worker-1 restarted under the run".into())
}

fn a_program_gives_up(cluster: &Cluster) -> Result<String> {
    let master = cluster.machine("master-1");
    cluster.on(&master, GIVES_UP)?;
    cluster.up(MASTERS, WORKERS)?;
    let starts = cluster.on(&master, "wc -l </run/lab-starts")?;
    ensure!(starts.trim() == "3", "it was started {} times", starts.trim());
    cluster.on(
        &master,
        "rm -r /run/systemd/system/kube-scheduler.service.d /run/lab-*; systemctl daemon-reload",
    )?;
    is_as_wanted(cluster)?;
    Ok("started three times by the same run".into())
}

/// Frozen, it takes connections and says nothing.
fn a_machine_is_silent(cluster: &Cluster) -> Result<String> {
    let name = cluster.machine("worker-1");
    host::run(cluster.docker().args(["pause", &name]))?;
    let began = Instant::now();
    let mut run = Running::start(cluster)?;
    let named = run.says("has not answered for 15 s; the cluster works without it");
    let after = began.elapsed();
    host::run(cluster.docker().args(["unpause", &name]))?;
    let (status, said) = run.ended()?;
    named?;
    ensure!(status.success(), "the run did not go on when it was back: {status}\n{said}");
    is_as_wanted(cluster)?;
    Ok(format!("named after {:.0} s, and the same run goes on", after.as_secs_f64()))
}

/// Repairs drift while `disturb` is called up to `times`, a second apart. The run may fail, with
/// an error of its own; the next one must not.
fn while_repairing(
    cluster: &Cluster,
    times: usize,
    disturb: impl Fn(&Cluster) -> Result<()>,
) -> Result<usize> {
    for (machine, drift) in DRIFTS {
        cluster.on(&cluster.machine(machine), drift)?;
    }
    let mut run = Running::start(cluster)?;
    run.says(WORKING)?;
    let mut done = 0;
    while done < times && run.child.try_wait()?.is_none() {
        std::thread::sleep(Duration::from_millis(1500));
        disturb(cluster)?;
        done += 1;
    }
    let (status, said) = run.ended()?;
    ensure!(status.code().is_some(), "the run crashed:\n{said}");
    ensure!(done > 0, "the run was done before it could be disturbed");
    cluster.up(MASTERS, WORKERS)?;
    is_as_wanted(cluster)?;
    Ok(done)
}

fn a_disk_is_full(cluster: &Cluster) -> Result<String> {
    cluster.on(
        &cluster.machine("worker-1"),
        "mount -t tmpfs -o size=4k tmpfs /etc/containerd; echo full >/etc/containerd/filler",
    )?;
    let output = cluster.up_command(MASTERS, WORKERS).stdin(Stdio::null()).output()?;
    cluster.on(&cluster.machine("worker-1"), "umount /etc/containerd")?;
    let text = said(&output);
    ensure!(output.status.code() == Some(1), "the run ended with {}", output.status);
    ensure!(text.contains("/etc/containerd/config.toml"), "the file is not named:\n{text}");
    ensure!(text.contains("No space left on device"), "the reason is not given:\n{text}");
    cluster.up(MASTERS, WORKERS)?;
    is_as_wanted(cluster)?;
    Ok("the error names file and reason, and the next run mends".into())
}

fn interrupted_twice(cluster: &Cluster) -> Result<String> {
    cluster.on(
        &cluster.machine("master-1"),
        "systemctl stop kube-scheduler; rm /etc/kubernetes/scheduler.kubeconfig",
    )?;
    let mut run = Running::start(cluster)?;
    run.says(WORKING)?;
    for _ in 0..2 {
        host::run(Command::new("kill").args(["-INT", &run.child.id().to_string()]))?;
        std::thread::sleep(Duration::from_millis(500));
    }
    let (status, said) = run.ended()?;
    ensure!(status.code() == Some(130), "ended with {status}:\n{said}");
    cluster.up(MASTERS, WORKERS)?;
    is_as_wanted(cluster)?;
    Ok("130, and the next run goes on".into())
}

/// A run that goes on while something is done to it. What it says goes to a file: a pipe that
/// nobody reads would stop it.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(cluster: &Cluster) -> Result<Self> {
        let log = cluster.directory().join("run.log");
        let file = File::create(&log)?;
        let mut up = cluster.up_command(MASTERS, WORKERS);
        up.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Self { child: up.spawn().context("cannot start kdiy")?, log })
    }

    /// Waits until it has said this.
    fn says(&mut self, text: &str) -> Result<()> {
        let began = Instant::now();
        while !fs::read_to_string(&self.log)?.contains(text) {
            let over = self.child.try_wait()?.is_some() || began.elapsed() > SAYS_WITHIN;
            ensure!(!over, "it never said {text}:\n{}", self.said()?);
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Waits for its end; returns how it ended, and its last words.
    fn ended(mut self) -> Result<(ExitStatus, String)> {
        let status = self.child.wait()?;
        let said = self.said()?;
        Ok((status, said))
    }

    fn said(&self) -> Result<String> {
        Ok(host::tail(&fs::read(&self.log)?, 10))
    }
}

fn said(output: &Output) -> String {
    host::tail(&[&output.stdout[..], &output.stderr].concat(), 10)
}
