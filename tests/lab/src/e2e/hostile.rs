//! Attackers, owners and machines as they are found: what must hold although somebody or something
//! works against it. Checks on the shared cluster come from [`checks`]; machines that existed
//! before, with histories of their own, are in [`stage`].

mod approval;
mod hardening;
mod kernel;
mod keys;
mod machines;
mod manifests;
mod members;
mod owners;

use std::path::Path;

use anyhow::Result;

use super::cluster::Cluster;
use crate::Ready;
use crate::stage::{Check, Stage};

/// On the 3+2 cluster that lanes share. Each leaves it as it was.
pub fn checks<'a>(cluster: &Cluster<'a>) -> Vec<Check<'a>> {
    [
        approval::checks(cluster),
        manifests::checks(cluster),
        kernel::checks(cluster),
        members::checks(cluster),
        hardening::checks(cluster),
        keys::checks(cluster),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// On machines that existed before kdiy, and on a cluster that is lost.
pub fn stage<'a>(lab: &'a Ready, cache: &'a Path) -> Result<Stage<'a>> {
    let checks = owners::checks(lab, cache)?.into_iter().chain(machines::checks(lab, cache)?);
    let checks = checks.chain([members::lost_for_good(lab, cache)]);
    Ok(Stage { checks: checks.collect(), ..Stage::default() })
}
