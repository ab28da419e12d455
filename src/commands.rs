//! One file a verb.

pub mod config;
pub mod destroy;
pub mod kubeconfig;
pub mod kubectl;
pub mod ssh;
pub mod up;

use crate::cli::{Cli, Command};
use crate::failure::{Failure, Result};
use crate::state::{Record, StateDir};
use crate::topology::Topology;
use crate::ui::Ui;

/// The exit code.
pub async fn run(cli: Cli, ui: Ui) -> Result<u8> {
    match cli.command {
        Command::Up(arguments) => up::run(arguments, cli.playbooks.as_deref(), ui).await,
        Command::Destroy(arguments) => destroy::run(arguments, ui).await,
        Command::Config(command) => config::run(command, ui),
        Command::Kubeconfig(arguments) => kubeconfig::run(arguments, ui),
        Command::Kubectl(arguments) => kubectl::run(arguments, cli.playbooks.as_deref(), ui).await,
        Command::Ssh(arguments) => ssh::run(arguments).await,
    }
}

/// A cluster that was begun on this computer.
pub fn known(name: &str) -> Result<(StateDir, Record, Topology)> {
    let state = StateDir::of(name)?;
    let Some(record) = state.record()? else {
        let clusters = StateDir::clusters()?;
        let failure = Failure::input(format!("there is no cluster {name} on this computer"));
        return Err(match clusters.as_slice() {
            [] => failure.hint("`kdiy up` makes one"),
            others => failure.hint(format!("there are {}; say --name", others.join(", "))),
        });
    };
    let topology = Topology::build(&record.config, record.machine_network)?;
    Ok((state, record, topology))
}
