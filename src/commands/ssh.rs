//! `kdiy ssh MACHINE [-- COMMAND]`.

use crate::cli::Ssh;
use crate::providers;
use crate::session::known;
use crate::support::failure::{Failure, Result};
use crate::transport::ssh;

pub async fn run(arguments: Ssh) -> Result<u8> {
    let (state, record) = known(&arguments.which.name)?;
    let topology = record.topology()?;
    let machine = topology.named(&arguments.machine)?;
    let provider = providers::provider(&record.config, &state).await?;
    let target = provider.ssh_target(&topology, &machine.name)?;
    let status = ssh::interactive(&target, &arguments.command)
        .await
        .map_err(|error| Failure::host("cannot run ssh").because(error))?;
    Ok(u8::try_from(status).unwrap_or(255))
}
