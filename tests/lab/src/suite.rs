//! `cargo lab test`: everything that has to hold before a change is taken.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::stage::{Check, Stage, Tally};
use crate::{Ready, e2e, host, repository};

/// Ends with a line `N passed, N failed`; an error unless everything passed.
pub fn run(cache: &Path) -> Result<()> {
    let mut tally = Tally::default();
    tally.run(Stage {
        checks: vec![
            Check::new("formatting", || cargo(&["fmt", "--all", "--check"])),
            Check::new("lints", || {
                let targets = ["clippy", "--workspace", "--all-targets", "--quiet"];
                cargo(&[&targets[..], &["--", "-D", "warnings"]].concat())
            }),
            Check::new("unit and command tests", || cargo(&["test", "--workspace", "--quiet"])),
        ],
        ..Stage::default()
    });
    let mut ready = None;
    tally.run(Stage {
        setup: vec![Check::new("the lab is ready", || {
            let lab = ready.insert(Ready::make(cache)?);
            Ok(format!("machines {}, mirror {}", lab.image, lab.mirror.root.display()))
        })],
        ..Stage::default()
    });
    if let Some(lab) = &ready {
        tally.run(e2e::stage(lab, cache)?);
    }
    println!("{tally}");
    if !tally.is_green() {
        bail!("not everything passed");
    }
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<String> {
    host::show(Command::new(env!("CARGO")).current_dir(repository()).args(arguments))?;
    Ok(String::new())
}
