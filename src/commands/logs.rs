//! `kdiy logs [MACHINE]`: shows a machine's log.

use std::fs;
use std::path::PathBuf;

use crate::cli::Logs;
use crate::session::known;
use crate::support::failure::{Failure, Result};
use crate::ui::Ui;

pub fn run(arguments: Logs, ui: Ui) -> Result<u8> {
    let (state, record) = known(&arguments.which.name)?;
    let Some(name) = &arguments.machine else {
        let files = files(&state.logs());
        let list: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
        ui.result(&list.join("\n"), &files);
        return Ok(0);
    };
    let topology = record.topology()?;
    // Vagrant speaks of all machines at once, and has a log of its own.
    let machine = match name.as_str() {
        "vagrant" => "vagrant",
        name => &topology.named(name)?.name,
    };
    let path = state.machine_log(machine);
    let text = fs::read_to_string(&path).map_err(|error| {
        Failure::input(format!("{machine} has no log yet"))
            .because(error)
            .log(path.clone())
            .hint("`kdiy logs` lists the logs")
    })?;
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(arguments.lines)..];
    ui.result(&last.join("\n"), &serde_json::json!({"log": path, "lines": last}));
    Ok(0)
}

fn files(directory: &std::path::Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files
}
