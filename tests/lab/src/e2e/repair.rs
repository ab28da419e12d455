//! What `kdiy up` does to a cluster that runs: it mends exactly what differs, rolls a change
//! through one machine at a time, and gives a machine that was replaced its place again.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cluster::{Cluster, Run};
use super::watched::{ANSWERED_WITHIN, Watched, in_time};
use super::{MASTERS, WORKERS};
use crate::host;

/// Where, what happens there, and the tasks that mend it.
const DRIFTS: [(&str, &str, &[&str]); 4] = [
    (
        "master-1",
        "rm /etc/kubernetes/pki/apiserver.crt",
        &["control-plane-files", "kube-apiserver"],
    ),
    (
        "master-2",
        "echo '# edited' >>/etc/systemd/system/kube-scheduler.service",
        &["kube-scheduler"],
    ),
    ("worker-1", "systemctl stop kube-proxy", &["kube-proxy"]),
    ("worker-1", "chmod 0644 /etc/kubernetes/kubelet.kubeconfig", &["kubelet"]),
];

/// Every unit of ours, with the moment at which it started last.
pub const STARTED: &str = "systemctl show --property Id,ActiveEnterTimestampMonotonic etcd \
    kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy containerd";

/// The api may be out of reach for this long while one master after the other restarts: a request
/// or two to the one that stops, before the balancer has noticed.
const LONGEST_GAP: Duration = Duration::from_secs(3);

pub fn of_exactly_what_differs(cluster: &Cluster) -> Result<String> {
    for (machine, drift, _) in DRIFTS {
        cluster.on(&cluster.machine(machine), drift)?;
    }
    let before = cluster.on(&cluster.machine("master-3"), STARTED)?;
    let run = cluster.up(MASTERS, WORKERS)?;
    let expected: BTreeSet<String> = DRIFTS
        .iter()
        .flat_map(|(machine, _, steps)| {
            steps.iter().map(move |step| format!("{step}@{}", cluster.machine(machine)))
        })
        .collect();
    let changed: BTreeSet<String> = run.changed().into_iter().map(str::to_owned).collect();
    ensure!(changed == expected, "changed {changed:?} instead of {expected:?}");
    ensure!(
        cluster.on(&cluster.machine("master-3"), STARTED)? == before,
        "units of master-3 have restarted"
    );
    Ok(format!("{} tasks changed something", changed.len()))
}

/// There and back, because whoever comes next expects the cluster as it was.
pub fn by_rolling_a_change(cluster: &Cluster) -> Result<String> {
    let file = cluster.directory().join("heartbeat.yaml");
    let with = |settings: &str| {
        fs::write(&file, format!("etcd: {{{settings}}}\n"))?;
        let mut up = cluster.up_command(MASTERS, WORKERS);
        one_at_a_time(&cluster.run(up.arg("--config").arg(&file))?)
    };
    let there_and_back = || {
        Watched::while_running(cluster, ANSWERED_WITHIN, || {
            with("heartbeatInterval: 120ms, electionTimeout: 1200ms")?;
            with("")
        })
    };
    let ((), asked) = in_time(there_and_back, |asked| asked.longest_gap <= LONGEST_GAP)?;
    Ok(asked.to_string())
}

/// A policy that another step writes, in a run that is told to do that step alone; and back again,
/// with a run that does everything.
pub fn by_restarting_for_what_an_earlier_run_changed(cluster: &Cluster) -> Result<String> {
    let overlay = cluster.directory().join("overlay");
    let file = "40-control-plane/audit-policy.yaml.hbs";
    let policy = fs::read_to_string(crate::repository().join("playbooks").join(file))?;
    fs::create_dir_all(overlay.join("40-control-plane"))?;
    fs::write(overlay.join(file), format!("{policy}# as of another day\n"))?;
    let with = |verb: &str| {
        let mut kdiy = cluster.wanted(verb, MASTERS, WORKERS);
        kdiy.arg("--playbooks").arg(&overlay);
        kdiy
    };
    let master = cluster.machine("master-2");
    let started = || cluster.on(&master, "systemctl show --property InvocationID kube-apiserver");
    let before = started()?;
    let mut only = with("up");
    cluster.run(only.args(["--yes", "--output", "json", "--only", "control-plane-files"]))?;
    ensure!(started()? == before, "the step alone restarted the api-server");
    let plan = with("plan").output()?;
    let said = String::from_utf8_lossy(&plan.stdout);
    ensure!(plan.status.code() == Some(2), "plan says that it is as it should be:\n{said}");
    ensure!(said.contains("kube-apiserver.service"), "plan does not name the unit:\n{said}");
    let run = cluster.run(with("up").args(["--yes", "--output", "json"]))?;
    let expected: BTreeSet<String> = (1..=MASTERS)
        .map(|number| format!("kube-apiserver@{}", cluster.machine(&format!("master-{number}"))))
        .collect();
    let changed: BTreeSet<String> = run.changed().into_iter().map(str::to_owned).collect();
    ensure!(changed == expected, "changed {changed:?} instead of {expected:?}");
    ensure!(started()? != before, "the api-server has not restarted");
    let mut back = cluster.up_command(MASTERS, WORKERS);
    cluster.run(back.args(["--playbooks", "none"]))?;
    Ok(format!("{} api-servers restarted, one run later", changed.len()))
}

fn one_at_a_time(run: &Run) -> Result<()> {
    let changed: BTreeSet<&str> = run.changed().into_iter().collect();
    let all = changed.iter().all(|task| task.starts_with("etcd@"));
    ensure!(all && changed.len() == MASTERS, "changed {changed:?}");
    let mut under_way: Option<&str> = None;
    for event in run.events() {
        let task = event["task"].as_str().filter(|task| changed.contains(task));
        match (event["event"].as_str(), task) {
            (Some("task-started"), Some(task)) => {
                ensure!(under_way.is_none(), "{task} began during {under_way:?}");
                under_way = Some(task);
            }
            (Some("task-finished"), Some(_)) => under_way = None,
            _ => {}
        }
    }
    Ok(())
}

pub fn of_a_master_that_was_replaced(cluster: &Cluster) -> Result<String> {
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=by=the-others"])?;
    let lost = cluster.machine("master-2");
    let before = member(cluster, &lost)?;
    host::run(cluster.docker().args(["rm", "--force", "--volumes", &lost]))?;
    let run = cluster.up(MASTERS, WORKERS)?;
    let elsewhere: Vec<&str> = run
        .changed()
        .into_iter()
        .filter(|task| task.contains('@') && !task.ends_with(&format!("@{lost}")))
        .collect();
    ensure!(elsewhere.is_empty(), "changed {}", elsewhere.join(", "));
    let after = member(cluster, &lost)?;
    ensure!(after != before, "{lost} came back as the member that has lost its data");
    let kept = cluster.get(&["configmap", "kept"])?;
    ensure!(kept["data"]["by"] == "the-others", "what was written before is gone");
    cluster.kubectl(&["delete", "configmap", "kept"])?;
    ensure!(cluster.up(MASTERS, WORKERS)?.changed().is_empty(), "the next up changed something");
    Ok(format!("member {before} made way for {after}, in {} s", run.elapsed_seconds()?))
}

/// The id of the machine's etcd member, which must be one of as many voters as there are masters.
fn member(cluster: &Cluster, machine: &str) -> Result<String> {
    let list = cluster.on(
        &cluster.machine("master-1"),
        "etcdctl --cacert /etc/etcd/pki/ca.crt --cert /etc/etcd/pki/client.crt \
         --key /etc/etcd/pki/client.key member list",
    )?;
    let voters: Vec<&str> = list
        .lines()
        .filter(|line| line.contains(", started, ") && line.ends_with("false"))
        .collect();
    ensure!(voters.len() == MASTERS, "the members are\n{list}");
    let own = voters.iter().find(|line| line.contains(&format!(", {machine}, ")));
    let id = own.and_then(|line| line.split(',').next());
    Ok(id.with_context(|| format!("{machine} is none of\n{list}"))?.to_owned())
}
