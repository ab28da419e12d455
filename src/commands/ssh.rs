//! `kdiy ssh MACHINE [-- COMMAND]`.

use crate::cli::Ssh;
use crate::failure::{Failure, Result};
use crate::machines;
use crate::session::known;
use crate::topology::Topology;
use crate::transport::ssh;

pub async fn run(arguments: Ssh) -> Result<u8> {
    let (state, record) = known(&arguments.which.name)?;
    let topology = Topology::build(&record.config, record.machine_network)?;
    let full = format!("{}-{}", topology.cluster, arguments.machine);
    let machine = topology
        .machine(&arguments.machine)
        .or_else(|| topology.machine(&full))
        .ok_or_else(|| {
            let names: Vec<&str> = topology.machines.iter().map(|m| m.name.as_str()).collect();
            Failure::input(format!("there is no machine {}", arguments.machine))
                .hint(format!("there are {}", names.join(", ")))
        })?;
    let provider = machines::provider(&record.config, &state).await?;
    let target = provider.ssh_target(&topology, &machine.name)?;
    let status = ssh::interactive(&target, &arguments.command)
        .await
        .map_err(|error| Failure::host("cannot run ssh").because(error))?;
    Ok(u8::try_from(status).unwrap_or(255))
}
