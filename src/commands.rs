//! One file a verb.

pub mod config;
pub mod destroy;
pub mod kubeconfig;
pub mod kubectl;
pub mod plan;
mod recording;
pub mod ssh;
pub mod timings;
pub mod up;

use crate::cli::{Cli, Command};
use crate::failure::Result;
use crate::ui::Ui;

/// The exit code.
pub async fn run(cli: Cli, ui: Ui) -> Result<u8> {
    match cli.command {
        Command::Up(arguments) => up::run(*arguments, cli.playbooks.as_deref(), ui).await,
        Command::Plan(arguments) => plan::run(*arguments, cli.playbooks.as_deref(), ui).await,
        Command::Destroy(arguments) => destroy::run(arguments, ui).await,
        Command::Config(command) => config::run(command, ui),
        Command::Kubeconfig(arguments) => kubeconfig::run(arguments, ui),
        Command::Kubectl(arguments) => kubectl::run(arguments, cli.playbooks.as_deref(), ui).await,
        Command::Ssh(arguments) => ssh::run(arguments).await,
        Command::Timings(arguments) => timings::run(arguments, ui),
    }
}
