//! `cargo lab test`: everything that has to hold before a change is taken.

use std::path::Path;

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
    /// What `up` mends and rolls on such a cluster; only when it is named
    Repair,
    /// Everything that can be broken on such a cluster, broken on purpose; only when it is named
    Drills,
    /// A cluster by hand: the guide's blocks, carried out without kdiy
    Runbook,
    /// Machines that exist without kdiy, there and back
    Existing,
    /// A 1+1 cluster under whose every run something breaks; only when it is named
    Recovery,
    /// A master and a worker as virtual machines; only when it is named
    Vm,
    /// 3 masters and 2 workers as virtual machines; only when it is named
    VmFull,
}

impl Lane {
    /// Whether a run that names no lane has it. Drills and what interrupts runs hold kdiy to bounds
    /// of time, which other work on this computer breaks as well; emulated machines take longer
    /// than a usual run may.
    const fn is_usual(self) -> bool {
        !matches!(self, Self::Repair | Self::Drills | Self::Recovery | Self::Vm | Self::VmFull)
    }

    /// What of it is done on the cluster that lanes share.
    fn part(self) -> Option<Part> {
        match self {
            // These have clusters of their own.
            Self::Code
            | Self::Runbook
            | Self::Existing
            | Self::Recovery
            | Self::Vm
            | Self::VmFull => None,
            Self::Cluster => Some(Part::Cluster),
            Self::Repair => Some(Part::Repair),
            Self::Drills => Some(Part::Drills),
        }
    }
}

/// Runs these lanes, or all usual ones. `seed` decides what is left to chance. Ends with a line
/// `N passed, N failed`; an error unless everything passed.
pub fn run(cache: &Path, only: &[Lane], seed: u64) -> Result<()> {
    let wanted = |lane: &Lane| (only.is_empty() && lane.is_usual()) || only.contains(lane);
    let lanes: Vec<Lane> = Lane::value_variants().iter().copied().filter(wanted).collect();
    let mut tally = Tally::default();
    if lanes.contains(&Lane::Code) {
        tally.run(code(cache));
    }
    let (virtual_machines, lanes): (Vec<Lane>, Vec<Lane>) =
        lanes.into_iter().partition(|lane| matches!(lane, Lane::Vm | Lane::VmFull));
    if lanes.iter().any(|lane| *lane != Lane::Code) {
        let mut ready = None;
        tally.run(Stage {
            setup: vec![Check::new("the lab is ready", || {
                let lab = ready.insert(Ready::make(cache)?);
                Ok(format!("machines {}, mirror {}", lab.image, lab.mirror.root.display()))
            })],
            ..Stage::default()
        });
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
            if lanes.contains(&Lane::Recovery) {
                tally.run(e2e::recovery::stage(lab, cache, seed)?);
            }
        }
    }
    if !virtual_machines.is_empty() {
        vm::lane::run(cache, &virtual_machines, &mut tally)?;
    }
    println!("{tally}");
    if !tally.is_green() {
        bail!("not everything passed");
    }
    Ok(())
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
