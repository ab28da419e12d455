//! `cargo lab test`: everything that has to hold before a change is taken.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::e2e::Part;
use crate::stage::{Check, Stage, Tally};
use crate::{Ready, audit, e2e, host, repository, vm};

/// A part of the suite that can be run alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Lane {
    /// Formatting, lints, unit and command tests
    Code,
    /// A 3+2 cluster from nothing to nothing
    Cluster,
    /// What `up` mends and rolls on such a cluster; when it is named or there is time
    Repair,
    /// Everything that can be broken on such a cluster, broken on purpose; when it is named or there is time
    Drills,
    /// Attackers, owners and machines as they are found; only when it is named: it takes 20 minutes
    Hostile,
    /// A cluster by hand: the guide's blocks, carried out without kdiy
    Runbook,
    /// Machines that exist without kdiy, there and back
    Existing,
    /// A 1+1 cluster under whose every run something breaks
    Recovery,
    /// An upgrade and a renewal on 3 masters and a worker, killed at every boundary; only when it is named
    Upgrade,
    /// A master and a worker as virtual machines; when it is named or there is time
    Vm,
    /// 3 masters as virtual machines, off and on again; only when it is named
    VmMasters,
    /// 3 masters and 2 workers as virtual machines; only when it is named
    VmFull,
}

impl Lane {
    /// How long it takes on two cores, once everything is built that can be kept; `None` for a lane
    /// that runs only when it is named.
    const fn takes(self) -> Option<Duration> {
        let minutes = match self {
            Self::Code => 4,
            Self::Cluster => 7,
            Self::Runbook => 2,
            Self::Existing => 6,
            Self::Recovery => 8,
            Self::Drills => 9,
            Self::Repair => 11,
            // 13 to 40: what is emulated is slowed down most by what else runs on the same hardware.
            Self::Vm => 40,
            Self::Hostile | Self::Upgrade | Self::VmMasters | Self::VmFull => return None,
        };
        Some(Duration::from_secs(60 * minutes))
    }

    /// Whether a run that names no lane has it. The others take long, or hold kdiy to bounds of time,
    /// which other work on this computer breaks as well.
    const fn is_usual(self) -> bool {
        matches!(self, Self::Code | Self::Cluster | Self::Runbook | Self::Existing | Self::Recovery)
    }

    const fn has_virtual_machines(self) -> bool {
        vm::lane::made(self).is_some()
    }

    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What of it is done on the cluster that lanes share.
    fn part(self) -> Option<Part> {
        match self {
            // These have clusters of their own.
            Self::Code
            | Self::Runbook
            | Self::Existing
            | Self::Recovery
            | Self::Upgrade
            | Self::Vm
            | Self::VmMasters
            | Self::VmFull => None,
            Self::Cluster => Some(Part::Cluster),
            Self::Repair => Some(Part::Repair),
            Self::Drills => Some(Part::Drills),
            Self::Hostile => Some(Part::Hostile),
        }
    }
}

/// Runs these lanes, or all usual ones and as many more as are expected to end in time. `seed`
/// decides what is left to chance; with `keep`, what a failed lane made is left; `matching` chooses
/// checks by a part of their name. Ends with a line
/// `N passed, N failed`; an error unless everything passed.
pub fn run(
    cache: &Path,
    only: &[Lane],
    within: Option<Duration>,
    seed: u64,
    keep: bool,
    matching: Option<String>,
) -> Result<()> {
    let began = Instant::now();
    let wanted = |lane: &Lane| (only.is_empty() && lane.is_usual()) || only.contains(lane);
    let mut lanes: Vec<Lane> = Lane::value_variants().iter().copied().filter(wanted).collect();
    let mut tally = Tally::keeping_what_failed(keep).matching(matching);
    e2e::cluster::forget_what_was_said(cache)?;
    if lanes.contains(&Lane::Code) {
        tally.run(code(cache));
        lanes.retain(|lane| *lane != Lane::Code);
    }
    let mut ready = None;
    if lanes.iter().any(|lane| !lane.has_virtual_machines()) {
        tally.run(Stage {
            setup: vec![Check::new("the lab is ready", || {
                let lab = ready.insert(Ready::make(cache)?);
                Ok(format!("machines {}, mirror {}", lab.image, lab.mirror.root.display()))
            })],
            ..Stage::default()
        });
    }
    let left = || within.filter(|_| only.is_empty()).map(|it| it.saturating_sub(began.elapsed()));
    // Only now is it known what had to be built first.
    if let Some(left) = left() {
        lanes.extend(more(&[Lane::Drills, Lane::Repair], left.saturating_sub(expected(&lanes))));
    }
    let containers = Instant::now();
    let expected = expected(&lanes);
    if let Some(lab) = &ready {
        let shared: Vec<Part> = lanes.iter().filter_map(|lane| lane.part()).collect();
        if !shared.is_empty() {
            tally.run(e2e::stage(lab, cache, &shared)?);
        }
        if lanes.contains(&Lane::Runbook) {
            tally.run(e2e::runbook::stage(lab, cache)?);
        }
        if lanes.contains(&Lane::Existing) {
            tally.run(e2e::existing::stage(lab, cache)?);
        }
        if lanes.contains(&Lane::Hostile) {
            tally.run(e2e::hostile::stage(lab, cache)?);
        }
        if lanes.contains(&Lane::Recovery) {
            tally.run(e2e::recovery::stage(lab, cache, seed)?);
        }
        if lanes.contains(&Lane::Upgrade) {
            let lab = lab.with_older(cache)?;
            tally.run(e2e::upgrade::stage(&lab, cache)?);
        }
    }
    // And only now, how fast this computer is today.
    if let Some(left) = left() {
        let slower = containers.elapsed().div_duration_f64(expected).max(1.0);
        lanes.extend(more(&[Lane::Vm], left.div_f64(slower)));
    }
    lanes.retain(|lane| lane.has_virtual_machines());
    if !lanes.is_empty() {
        vm::lane::run(cache, &lanes, &mut tally)?;
    }
    println!("{tally}");
    if !tally.is_green() {
        bail!("not everything passed");
    }
    Ok(())
}

fn expected(lanes: &[Lane]) -> Duration {
    lanes.iter().filter_map(|lane| lane.takes()).sum()
}

/// Those that this much time is left for, the first ones before the others.
fn more(lanes: &[Lane], mut left: Duration) -> Vec<Lane> {
    let mut more = Vec::new();
    for &lane in lanes {
        let Some(takes) = lane.takes() else { continue };
        if takes <= left {
            left -= takes;
            more.push(lane);
        } else {
            let (name, minutes) = (lane.name(), takes.as_secs() / 60);
            println!("left out for lack of time: {name}, which takes {minutes} min");
        }
    }
    more
}

fn code(cache: &Path) -> Stage<'_> {
    let mut checks = vec![
        Check::new("formatting", || cargo(&["fmt", "--all", "--check"])),
        Check::new("lints", || {
            let targets = ["clippy", "--workspace", "--all-targets", "--quiet"];
            cargo(&[&targets[..], &["--", "-D", "warnings"]].concat())
        }),
        Check::new("unit and command tests", || cargo(&["test", "--workspace", "--quiet"])),
    ];
    checks.extend(audit::checks(cache));
    Stage { checks, ..Stage::default() }
}

fn cargo(arguments: &[&str]) -> Result<String> {
    host::show(crate::cargo().current_dir(repository()).args(arguments))?;
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_most_comes_first_and_only_what_fits() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let lanes = [Lane::Drills, Lane::Repair];
        assert_eq!(more(&lanes, minutes(4)), []);
        assert_eq!(more(&lanes, minutes(19)), [Lane::Drills]);
        assert_eq!(more(&lanes, minutes(20)), lanes);
        assert_eq!(more(&[Lane::VmFull], minutes(600)), []);
    }
}
