//! `cargo lab bench`: how long a 3+2 cluster takes from machines that answer to all gates green,
//! and the chain of tasks that decides it. Times are of this computer, at this moment; compare
//! only what was measured in one run.

use std::path::Path;

use anyhow::{Context, Result};

use crate::e2e::cluster::Cluster;
use crate::{Ready, host};

const NAME: &str = "lab-bench";
const MASTERS: usize = 3;
const WORKERS: usize = 2;

pub fn run(cache: &Path) -> Result<()> {
    let lab = Ready::make(cache)?;
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
    cluster.up(MASTERS, WORKERS)?;
    let timings = host::ask(&mut cluster.kdiy("timings"))?;
    let again = cluster.up(MASTERS, WORKERS)?;
    let again = again.last()?["elapsedMs"].as_f64().context("no duration")? / 1000.0;
    Ok(format!("{MASTERS}+{WORKERS}, artifacts cached: {timings}\na second up: {again:.1} s"))
}
