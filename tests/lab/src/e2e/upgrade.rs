//! Changes that go through a whole cluster, cut off at every boundary: an upgrade of Kubernetes and
//! a renewal of every certificate. Whatever a run was killed before, the next one goes on from
//! there, and in the end every process runs what is on its machine.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::cluster::{Cluster, Run};
use crate::stage::{Check, Stage};
use crate::{Ready, host};

const NAME: &str = "lab-upgrade";
const MASTERS: usize = 3;
const WORKERS: usize = 1;
const OLDER: &str = "1.36.3";
const NEWER: &str = "1.36.4";

/// What ends a process that aborts (signal(7)).
const SIGABRT: i32 = 6;

/// Units whose program is Kubernetes' own, on masters and on every machine.
const OF_MASTERS: [&str; 3] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];
const OF_NODES: [&str; 2] = ["kubelet", "kube-proxy"];

/// Certificates as they are served, by port.
const SERVED: [(&str, &str); 4] = [
    ("2379", "/etc/etcd/pki/server.crt"),
    ("6443", "/etc/kubernetes/pki/apiserver.crt"),
    ("10257", "/etc/kubernetes/pki/controller-manager.crt"),
    ("10259", "/etc/kubernetes/pki/scheduler.crt"),
];

/// `lab` has the older version in its mirror as well.
pub fn stage<'a>(lab: &'a Ready, cache: &Path) -> Result<Stage<'a>> {
    let cluster = Cluster::new(lab, cache, NAME)?;
    let with = |check: fn(&Cluster) -> Result<String>| {
        let cluster = cluster.clone();
        move || check(&cluster)
    };
    Ok(Stage {
        setup: vec![
            Check::new("nothing is left of an earlier run", with(|cluster| cluster.destroy())),
            Check::new("3 masters and a worker come up with the older version", with(older)),
        ],
        checks: vec![
            Check::new("killed at every boundary of an upgrade, up goes on", with(upgraded)),
            Check::new("killed at every boundary of a renewal, up goes on", with(renewed)),
            Check::new("the way back is refused with the rule", with(never_down)),
        ],
        teardown: vec![Check::new(
            "destroy leaves nothing behind",
            with(|cluster| cluster.destroy()),
        )],
        keep: Some(Box::new(move |check| cluster.keep_what_was_said(check))),
    })
}

fn up(cluster: &Cluster, version: &str) -> Command {
    let mut up = cluster.up_command(MASTERS, WORKERS);
    up.args(["--kubernetes", version]);
    up
}

fn older(cluster: &Cluster) -> Result<String> {
    let run = cluster.run(&mut up(cluster, OLDER))?;
    runs(cluster, OLDER)?;
    Ok(format!("{OLDER} in {} s", run.elapsed_seconds()?))
}

fn upgraded(cluster: &Cluster) -> Result<String> {
    let killed = killed_at_every_boundary(cluster, NEWER)?;
    runs(cluster, NEWER)?;
    nothing_is_left_to_do(cluster)?;
    Ok(format!("{killed} boundaries; every process runs {NEWER}"))
}

/// Certificates are made old where kdiy keeps them, by their own authority and with all that they
/// say, so that all of them are due.
fn renewed(cluster: &Cluster) -> Result<String> {
    let pki = cluster.home().join("pki");
    let mut aged = 0;
    for entry in fs::read_dir(&pki)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "crt") {
            aged += usize::from(age(&pki, &path)?);
        }
    }
    // Of masters alone there are more.
    ensure!(aged > 10 * MASTERS, "only {aged} certificates are due");
    let killed = killed_at_every_boundary(cluster, NEWER)?;
    for number in 1..=MASTERS {
        let master = cluster.machine(&format!("master-{number}"));
        for (port, file) in SERVED {
            serves(cluster, &master, port, file)?;
        }
    }
    nothing_is_left_to_do(cluster)?;
    Ok(format!("{aged} certificates, {killed} boundaries; every process serves the new one"))
}

/// Whether it was one that is renewed: authorities are not.
fn age(pki: &Path, certificate: &Path) -> Result<bool> {
    let mut issuer = Command::new("openssl");
    issuer.args(["x509", "-noout", "-issuer", "-subject", "-nameopt", "RFC2253", "-in"]);
    let said = host::ask(issuer.arg(certificate))?;
    let names: Vec<&str> =
        said.lines().filter_map(|line| line.split_once("=")).map(|it| it.1).collect();
    if names.first() == names.last() {
        return Ok(false);
    }
    for authority in ["kubernetes", "etcd", "front-proxy"] {
        let of = |extension: &str| pki.join(format!("{authority}-ca.{extension}"));
        let mut verify = Command::new("openssl");
        verify.args(["verify", "-CAfile"]).arg(of("crt")).arg(certificate);
        if host::run(&mut verify).is_err() {
            continue;
        }
        sign_with_days_left(certificate, &of("crt"), &of("key"))?;
        return Ok(true);
    }
    Ok(false)
}

/// Signs it anew, by a request: what is no authority's own cannot be signed as it is.
fn sign_with_days_left(certificate: &Path, authority: &Path, key: &Path) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name);
    fs::write(at("index.txt"), "")?;
    let home = directory.path().display();
    fs::write(
        at("ca.cnf"),
        format!(
            "[ca]\ndefault_ca=it\n[it]\ndatabase={home}/index.txt\nnew_certs_dir={home}\n\
             rand_serial=yes\ndefault_md=sha256\npolicy=names\ncopy_extensions=copyall\n\
             preserve=yes\nemail_in_dn=no\n[names]\norganizationName=optional\n\
             commonName=supplied\n"
        ),
    )?;
    let mut ask = Command::new("openssl");
    ask.args(["x509", "-x509toreq", "-copy_extensions", "copyall", "-in"]).arg(certificate);
    ask.arg("-signkey").arg(certificate.with_extension("key")).arg("-out").arg(at("csr"));
    host::run(&mut ask)?;
    let day = |from_now: &str| {
        host::ask(Command::new("date").args(["-u", "+%Y%m%d%H%M%SZ", "-d", from_now]))
    };
    let (began, ends) = (day("-362 days")?, day("+3 days")?);
    let mut sign = Command::new("openssl");
    sign.args(["ca", "-batch", "-notext", "-config"]).arg(at("ca.cnf"));
    sign.arg("-cert").arg(authority).arg("-keyfile").arg(key);
    sign.args(["-startdate", began.trim(), "-enddate", ends.trim()]);
    host::run(sign.arg("-in").arg(at("csr")).arg("-out").arg(at("crt")))?;
    fs::write(certificate, fs::read(at("crt"))?)?;
    Ok(())
}

/// How many boundaries there were: the end of each of [`CHANGING`] on each machine, in the order of
/// the plan. Where one ends, the next begins.
fn killed_at_every_boundary(cluster: &Cluster, version: &str) -> Result<usize> {
    let planned = applied(&killed_at(cluster, version, "make:after")?)?;
    let mut killed = 1;
    for task in planned {
        killed_at(cluster, version, &format!("{task}:after"))?;
        killed += 1;
    }
    cluster.run(&mut up(cluster, version))?;
    Ok(killed)
}

/// Steps whose units or files an upgrade or a renewal changes: all that install a program, run a
/// unit, or write a certificate.
const CHANGING: [&str; 11] = [
    "control-plane-binaries",
    "node-binaries",
    "etcd",
    "haproxy",
    "control-plane-files",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "container-runtime",
    "kubelet",
    "kube-proxy",
];

fn applied(run: &Run) -> Result<Vec<String>> {
    let planned = run.of_kind("planned").next().context("the run said no plan")?;
    let tasks = planned["tasks"].as_array().context("no tasks")?;
    let changes = |task: &&Value| {
        task["kind"] == "apply" && CHANGING.iter().any(|step| task["step"] == *step)
    };
    let tasks = tasks.iter().filter(changes).filter_map(|task| task["id"].as_str());
    Ok(tasks.map(str::to_owned).collect())
}

fn killed_at(cluster: &Cluster, version: &str, boundary: &str) -> Result<Run> {
    let output =
        up(cluster, version).env("KDIY_STOP_AT", boundary).stdin(Stdio::null()).output()?;
    ensure!(
        output.status.signal() == Some(SIGABRT),
        "the run that was to end at {boundary} ended with {}:\n{}",
        output.status,
        host::tail(&[&output.stdout[..], &output.stderr].concat(), 10)
    );
    Run::parse_whole_lines(&String::from_utf8_lossy(&output.stdout))
}

/// Whether every process of Kubernetes runs this version, by the word of the program that was
/// started, and that program is the one on the disk.
fn runs(cluster: &Cluster, version: &str) -> Result<()> {
    for machine in cluster.machines()? {
        let units = if machine.contains("-master-") { &OF_MASTERS[..] } else { &[] };
        for unit in units.iter().chain(&OF_NODES) {
            let script = format!(
                "pid=$(systemctl show --property MainPID --value {unit}); \
                 /proc/$pid/exe --version; readlink /proc/$pid/exe"
            );
            let said = cluster.on(&machine, &script)?;
            ensure!(
                said == format!("Kubernetes v{version}\n/usr/local/bin/{unit}\n"),
                "{unit} on {machine} runs {said}"
            );
        }
    }
    Ok(())
}

fn serves(cluster: &Cluster, machine: &str, port: &str, file: &str) -> Result<()> {
    let fingerprint = "openssl x509 -noout -fingerprint -sha256";
    let script = format!(
        "openssl s_client -connect 127.0.0.1:{port} -CAfile /etc/kubernetes/pki/ca.crt </dev/null 2>/dev/null \
         | {fingerprint}; {fingerprint} -in {file}; openssl x509 -noout -checkend 2592000 -in {file} >&2"
    );
    let said = cluster.on(machine, &script)?;
    let seen: BTreeSet<&str> = said.lines().collect();
    ensure!(seen.len() == 1, "port {port} of {machine} serves another certificate than {file}");
    Ok(())
}

fn nothing_is_left_to_do(cluster: &Cluster) -> Result<()> {
    let mut plan = cluster.wanted("plan", MASTERS, WORKERS);
    host::ask(plan.args(["--kubernetes", NEWER])).context("plan finds something to do")?;
    let left = cluster.machines()?;
    for machine in left {
        let script = "ls /var/lib/kdiy/pending /var/lib/kdiy/restarting /var/lib/kdiy/staged | \
                      grep -v ':$' | grep . || true; find /usr/local/bin -name '*.kdiy-*'";
        let left = cluster.on(&machine, script)?;
        ensure!(left.trim().is_empty(), "{machine} has been left with {left}");
    }
    Ok(())
}

fn never_down(cluster: &Cluster) -> Result<String> {
    for (version, rule) in [
        ("1.35.4", "no downgrade of minor versions"),
        ("1.34.11", "no downgrade of minor versions"),
    ] {
        let output = up(cluster, version).stdin(Stdio::null()).output()?;
        let said = [&output.stdout[..], &output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        ensure!(!output.status.success(), "{version} was taken");
        ensure!(said.contains(rule), "{version} is refused without the rule:\n{said}");
    }
    nothing_is_left_to_do(cluster)?;
    // Without a word about the version, the one of the cluster stays.
    let run = cluster.up(MASTERS, WORKERS)?;
    ensure!(run.changed().is_empty(), "changed {:?}", run.changed());
    runs(cluster, NEWER)?;
    Ok("1.35.4 and 1.34.11 are refused, and nothing was changed".into())
}
