//! `kdiy timings`: shows how long the steps of a run took.

use std::path::{Path, PathBuf};

use crate::cli;
use crate::reports::timings::{Timings, waterfall};
use crate::session::known;
use crate::state::{atomic, journal};
use crate::support::failure::{Failure, Result};
use crate::ui::{self, Ui};

pub fn run(arguments: cli::Timings, ui: Ui) -> Result<u8> {
    let (state, _) = known(&arguments.which.name)?;
    let journals = journal::files(&state.runs());
    let timings =
        match &arguments.run {
            Some(beginning) => named(&journals, beginning)?,
            None => journals.iter().rev().find_map(|path| of(path)).ok_or_else(|| {
                Failure::input("no run of this cluster has changed a machine yet")
            })?,
        };
    if let Some(path) = &arguments.html {
        draw(&timings, path)?;
    }
    ui.result(&ui::timings::render(&timings), &timings);
    Ok(0)
}

/// Writes the waterfall.
pub fn draw(timings: &Timings, path: &Path) -> Result<()> {
    atomic::write(path, waterfall::html(timings).as_bytes(), 0o644)
}

/// Of a journal; `None` where it cannot be read or records no tasks.
pub fn of(journal: &Path) -> Option<Timings> {
    Timings::of(&journal::read(journal).ok()?)
}

fn named(journals: &[PathBuf], beginning: &str) -> Result<Timings> {
    let name = |path: &PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let matching: Vec<&PathBuf> =
        journals.iter().filter(|path| name(path).starts_with(beginning)).collect();
    match matching.as_slice() {
        [one] => of(one)
            .ok_or_else(|| Failure::input(format!("the run {} changed no machine", name(one)))),
        [] => Err(Failure::input(format!("no run begins with {beginning}"))
            .tail(journals.iter().map(name).collect())
            .hint("name one of the runs above by the beginning of its name")),
        several => Err(Failure::input(format!("several runs begin with {beginning}"))
            .tail(several.iter().map(|path| name(path)).collect())
            .hint("write more of the name")),
    }
}
