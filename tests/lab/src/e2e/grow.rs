//! A control plane becomes highly available while it serves.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::cluster::Cluster;
use super::watched::{ANSWERED_WITHIN, Watched, in_time};
use crate::{Ready, host};

const NAME: &str = "lab-grow";
/// One as keepalived, which had nobody to talk to, gets peers: it takes its address anew then, in
/// less than two seconds. One as the api-server restarts, which learns of the new members.
const FAILED_AT_MOST: u32 = 2;
/// A request that hangs as long as it may, and one that is answered as late as it may.
const LONGEST_GAP: Duration = Duration::from_secs(5);
const ETCD_STARTED: &str = "systemctl show --property ActiveEnterTimestampMonotonic etcd";
const PODS_NETWORK: &str = "cat /etc/cni/net.d/*";

/// From a master that is alone to three, of which any may fail, the first one as well.
pub fn from_one_master_to_three(lab: &Ready, cache: &Path) -> Result<String> {
    let cluster = Cluster::new(lab, cache, NAME)?;
    let (seconds, asked) = in_time(
        || made_and_grown(&cluster),
        |asked| asked.failed <= FAILED_AT_MOST && asked.longest_gap <= LONGEST_GAP,
    )?;
    Ok(format!("grown in {seconds} s; {asked}"))
}

fn made_and_grown(cluster: &Cluster) -> Result<(u64, Watched)> {
    cluster.destroy()?;
    let grown = grown(cluster);
    let gone = cluster.destroy();
    let grown = grown?;
    gone?;
    Ok(grown)
}

/// Within how many seconds, and what the api's clients noticed of it.
fn grown(cluster: &Cluster) -> Result<(u64, Watched)> {
    cluster.run(cluster.up_command(1, 1).args(["--lb", "stacked"]))?;
    let (first, worker) = (cluster.machine("master-1"), cluster.machine("worker-1"));
    let before = (cluster.on(&first, ETCD_STARTED)?, cluster.on(&worker, PODS_NETWORK)?);
    let seen = Watched::while_running(cluster, ANSWERED_WITHIN, || {
        let mut more = cluster.kdiy("up");
        cluster.run(more.args(["--masters", "3", "--yes", "--output", "json"]))?.elapsed_seconds()
    })?;
    let after = (cluster.on(&first, ETCD_STARTED)?, cluster.on(&worker, PODS_NETWORK)?);
    ensure!(after == before, "what was there has changed: {before:?} to {after:?}");

    host::run(cluster.kdiy("stop").args([&first, "--yes"]))?;
    cluster.kubectl(&["create", "configmap", "written", "--from-literal=without=the-first"])?;
    host::run(&mut cluster.kdiy("start"))?;
    let changed = cluster.up_again()?;
    ensure!(changed.changed().is_empty(), "the next up changed {:?}", changed.changed());
    Ok(seen)
}
