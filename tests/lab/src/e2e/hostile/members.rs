//! etcd members that lose their disk, and an etcd that is out of space.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::e2e::cluster::Cluster;
use crate::e2e::{MASTERS, WORKERS};
use crate::stage::Check;
use crate::{Ready, host};

const NAME: &str = "lab-lost";
const ETCDCTL: &str = "etcdctl --cacert /etc/etcd/pki/ca.crt --cert /etc/etcd/pki/client.crt \
    --key /etc/etcd/pki/client.key --dial-timeout 1s --command-timeout 2s";
/// Writes through the member of its own machine for as long as it may, and notes each write that was
/// acknowledged. It reads a key that is always there as well, and notes where it was missing: that is
/// an empty keyspace.
const CLIENT: &str = r#"
rm -f /run/lab-acked /run/lab-empty /run/lab-stop; n=0
while [ ! -e /run/lab-stop ]; do
  n=$((n + 1)) key=/lab/members/$(uname -n)/$n
  $ETCDCTL put "$key" "$n" >/dev/null 2>&1 && echo "$key" >>/run/lab-acked
  seen=$($ETCDCTL get /lab/seed --consistency=s --print-value-only 2>/dev/null) &&
    [ -z "$seen" ] && echo "$key" >>/run/lab-empty
  sleep 0.2
done
touch /run/lab-stopped"#;
const WIPE: &str = "find /var/lib/etcd/data -mindepth 1 -delete";
/// Ends with success where etcd has refused to start.
const REFUSES: &str = "sleep 3; ! systemctl is-active --quiet etcd && \
    journalctl --unit etcd --lines 20 --output cat | grep -q 'This member has lost its data'";
const RAISE_ALARM: &str = r#"
id=$($ETCDCTL member list -w json | sed 's/.*"member_id":\([0-9]*\).*/\1/')
curl -s --cacert /etc/etcd/pki/ca.crt --cert /etc/etcd/pki/client.crt --key /etc/etcd/pki/client.key \
  https://127.0.0.1:2379/v3/maintenance/alarm \
  -d "{\"action\":\"ACTIVATE\",\"memberID\":\"$id\",\"alarm\":\"NOSPACE\"}""#;

pub(super) fn checks<'a>(cluster: &Cluster<'a>) -> Vec<Check<'a>> {
    let with = |check: fn(&Cluster) -> Result<String>| {
        let cluster = cluster.clone();
        move || check(&cluster)
    };
    vec![
        Check::new("etcd members that lose their data forget no write", with(wiped_in_turn)),
        Check::new("etcd's alarm NOSPACE is named, and taken back", with(out_of_space)),
    ]
}

/// A cluster of its own: the only one that has the data loses it.
pub(super) fn lost_for_good<'a>(lab: &'a Ready, cache: &'a Path) -> Check<'a> {
    Check::new("a cluster that lost its data is not begun anew", move || all_is_lost(lab, cache))
}

fn etcdctl(script: &str) -> String {
    script.replace("$ETCDCTL", ETCDCTL)
}

fn wiped_in_turn(cluster: &Cluster) -> Result<String> {
    let masters: Vec<String> =
        (1..=MASTERS).map(|number| cluster.machine(&format!("master-{number}"))).collect();
    let first = &masters[0];
    cluster.on(first, &format!("{ETCDCTL} put /lab/seed sown"))?;
    for master in &masters {
        let client = etcdctl(CLIENT);
        host::run(cluster.docker().args(["exec", "--detach", master, "/bin/sh", "-c", &client]))?;
    }
    let mut came_back = 0;
    // Each in turn, stopped first; then one under which the files are deleted while it runs.
    let running = format!("{WIPE}; systemctl kill --signal=KILL etcd; {REFUSES}");
    let stopped = format!("systemctl stop etcd; {WIPE}; systemctl start etcd; {REFUSES}");
    let wipes = masters.iter().map(|master| (master, &stopped)).chain([(first, &running)]);
    for (master, wipe) in wipes {
        comes_back(cluster, master, || cluster.on(master, wipe).map(drop))?;
        came_back += 1;
    }
    // Two are off, and the one without data is started first: alone, and by systemd.
    comes_back(cluster, first, || {
        for other in &masters[1..] {
            cluster.on(other, "systemctl stop etcd")?;
        }
        cluster.on(first, &stopped)?;
        for other in &masters[1..] {
            cluster.on(other, "systemctl start --no-block etcd")?;
        }
        Ok(())
    })?;
    came_back += 1;

    let mut acknowledged = BTreeSet::new();
    for master in &masters {
        cluster.on(
            master,
            "touch /run/lab-stop; until [ -e /run/lab-stopped ]; do sleep 0.1; done; rm /run/lab-stopped",
        )?;
        let empty = cluster.on(master, "cat /run/lab-empty 2>/dev/null || true")?;
        ensure!(empty.is_empty(), "{master} served an empty keyspace: {empty}");
        let noted = cluster.on(master, "cat /run/lab-acked")?;
        acknowledged.extend(noted.lines().map(str::to_owned));
        cluster.on(master, "rm -f /run/lab-acked /run/lab-empty /run/lab-stop")?;
    }
    let kept = cluster.on(first, &format!("{ETCDCTL} get --prefix /lab/members/ --keys-only"))?;
    let kept: BTreeSet<&str> = kept.lines().collect();
    let lost: Vec<&String> =
        acknowledged.iter().filter(|key| !kept.contains(key.as_str())).collect();
    cluster.on(first, &format!("{ETCDCTL} del --prefix /lab/"))?;
    ensure!(lost.is_empty(), "{} of {} writes are lost: {lost:?}", lost.len(), acknowledged.len());
    ensure!(acknowledged.len() > 100, "only {} writes were acknowledged", acknowledged.len());
    Ok(format!(
        "{came_back} members came back without their data; 0 of {} acknowledged writes lost, no empty \
         keyspace served",
        acknowledged.len()
    ))
}

/// Does this to a machine's member, then `kdiy up`: a new one is in its place.
fn comes_back(cluster: &Cluster, master: &str, lose: impl Fn() -> Result<()>) -> Result<()> {
    let before = member(cluster, master)?;
    lose().with_context(|| format!("{master} without its data"))?;
    let run = cluster.up(MASTERS, WORKERS)?;
    let changed = run.changed();
    ensure!(changed.contains(&&*format!("etcd@{master}")), "changed {changed:?}");
    let after = member(cluster, master)?;
    ensure!(after != before, "{master} came back as the member that has lost its data");
    Ok(())
}

/// The id of the machine's member, which votes.
fn member(cluster: &Cluster, machine: &str) -> Result<String> {
    let list = cluster.on(machine, &format!("{ETCDCTL} member list"))?;
    let voters = list
        .lines()
        .filter(|line| line.contains(", started, ") && line.ends_with("false"))
        .collect::<Vec<_>>();
    ensure!(voters.len() == MASTERS, "the members are\n{list}");
    let own = voters.iter().find(|line| line.contains(&format!(", {machine}, ")));
    let id = own.and_then(|line| line.split(',').next());
    Ok(id.with_context(|| format!("{machine} is none of\n{list}"))?.to_owned())
}

fn out_of_space(cluster: &Cluster) -> Result<String> {
    cluster.on(&cluster.machine("master-1"), &etcdctl(RAISE_ALARM))?;
    let status = cluster.kdiy("status").stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    ensure!(text.contains("NOSPACE") && text.contains("etcd.quotaMebibytes"), "{text}");
    ensure!(status.status.code() == Some(4), "status ended with {}", status.status);
    cluster.up(MASTERS, WORKERS)?;
    let alarms = cluster.on(&cluster.machine("master-2"), &format!("{ETCDCTL} alarm list"))?;
    ensure!(alarms.trim().is_empty(), "there are still {alarms}");
    Ok("status names it and the fix; up takes it back".into())
}

fn all_is_lost(lab: &Ready, cache: &Path) -> Result<String> {
    let cluster = Cluster::new(lab, cache, NAME)?;
    cluster.destroy()?;
    let refused = is_refused(&cluster);
    let gone = cluster.destroy();
    let said = refused?;
    gone?;
    Ok(said)
}

fn is_refused(cluster: &Cluster) -> Result<String> {
    cluster.up(1, 0)?;
    let master = cluster.machine("master-1");
    cluster.on(&master, &format!("systemctl stop etcd; {WIPE}"))?;
    refused(cluster, "start")?;
    refused(cluster, "up")?;
    let status = cluster.kdiy("status").stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&status.stdout);
    ensure!(status.status.code() == Some(4), "status ended with {}", status.status);
    ensure!(text.contains("etcd has no data on any machine"), "{text}");
    host::run(cluster.docker().args(["rm", "--force", "--volumes", &master]))?;
    refused(cluster, "up")?;
    cluster.on(&master, "[ ! -e /etc/systemd/system/etcd.service ]")?;
    Ok("start and up refuse: wiped, and with the machine made anew".into())
}

fn refused(cluster: &Cluster, verb: &str) -> Result<()> {
    let mut kdiy = match verb {
        "up" => cluster.up_command(1, 0),
        other => cluster.kdiy(other),
    };
    let output = kdiy.stdin(Stdio::null()).output()?;
    let said = host::tail(&[&output.stdout[..], &output.stderr].concat(), 20);
    ensure!(output.status.code() == Some(1), "{verb} ended with {}:\n{said}", output.status);
    ensure!(said.contains("etcd has no data on any machine"), "{verb} said:\n{said}");
    Ok(())
}
