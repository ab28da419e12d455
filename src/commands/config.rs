//! `kdiy config`: the cluster file.

use std::path::Path;

use crate::cli::Config;
use crate::config::sample;
use crate::playbook::format::Playbook;
use crate::state::atomic;
use crate::support::failure::{Failure, Result};
use crate::ui::Ui;

pub fn run(command: Config, ui: Ui) -> Result<u8> {
    match command {
        Config::Init { path, force } => {
            check_absent(&path, force)?;
            atomic::write(&path, sample::commented().as_bytes(), 0o644)?;
            ui.result(
                &format!("wrote {}; `kdiy up` reads it", path.display()),
                &serde_json::json!({"wrote": path}),
            );
        }
        Config::Schema { playbook } => {
            let schema = if playbook { Playbook::schema() } else { sample::schema() };
            let text = serde_json::to_string_pretty(&schema)
                .map_err(|error| Failure::bug("the schema").because(error))?;
            ui.result(&text, &schema);
        }
        Config::Show(flags) => {
            let config = crate::operations::request::effective(&flags)?;
            let text = serde_saphyr::to_string(&config)
                .map_err(|error| Failure::bug("the cluster file").because(error))?;
            ui.result(&text, &config);
        }
    }
    Ok(0)
}

/// A file that somebody wrote is only replaced when that is asked for.
pub fn check_absent(path: &Path, force: bool) -> Result<()> {
    if path.exists() && !force {
        return Err(Failure::input(format!("{} already exists", path.display()))
            .hint("--force overwrites it"));
    }
    Ok(())
}
