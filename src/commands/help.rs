//! `kdiy completions` and `kdiy man`: the command line, for shells and for `man`.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::generate;

use crate::cli::{Cli, Shell};
use crate::support::failure::{Failure, Result};
use crate::ui::Ui;

pub fn completions(shell: Shell, ui: Ui) -> Result<u8> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "kdiy", &mut script);
    let script = String::from_utf8_lossy(&script);
    ui.result(&script, &serde_json::json!({"script": script}));
    Ok(0)
}

pub fn man(directory: &Path, ui: Ui) -> Result<u8> {
    let failed = |error: std::io::Error| {
        Failure::host(format!("cannot write into {}", directory.display())).because(error)
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), directory).map_err(failed)?;
    ui.result(
        &format!("wrote the man pages; to read one: man {}/kdiy.1", directory.display()),
        &serde_json::json!({"directory": directory}),
    );
    Ok(0)
}
