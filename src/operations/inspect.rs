//! Reads one machine: its facts, and its differences from the bundles of every step.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::bundle::observe;
use crate::bundle::reached::ObservedMachine;
use crate::playbook::context::TemplateContext;
use crate::session::ClusterHandle;
use crate::support::failure::{Failure, Result};
use crate::support::time_scale::Unscaled;
use crate::topology::ownership::Ownership;
use crate::topology::{Machine, facts};
use crate::transport::{Script, Transport, TransportError};

/// SSH may answer before the machine has its address on the cluster's network.
const PAUSE: Duration = Duration::from_millis(250);
/// How long it may take to get it; multiplied by `slowMachines`.
const ADDRESS_WITHIN: Unscaled = Unscaled::from_secs(60);

/// Why a machine could not be looked at.
#[derive(Debug)]
pub enum InspectError {
    Transport(TransportError),
    Failure(Failure),
}

impl From<Failure> for InspectError {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<TransportError> for InspectError {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

/// An error for a machine that has keys of another cluster than this computer: those here were
/// lost, or that machine is part of something else.
pub fn check_keys(machine: &str, reached: &ObservedMachine) -> Result<()> {
    let bundles = reached.bundles.values();
    let foreign: BTreeSet<&str> =
        bundles.flat_map(|bundle| bundle.foreign_keys(&reached.observed)).collect();
    if foreign.is_empty() {
        return Ok(());
    }
    Err(Failure::host("the machine has the keys of another cluster than this computer")
        .on(machine)
        .tail(foreign.into_iter().map(str::to_owned).collect())
        .hint(
            "nothing was changed there: with other keys the cluster would lose this node or \
            every Secret",
        )
        .hint("restore the cluster's directory from your copy of it: pki and cluster.json")
        .hint("or, if the machine is for a new cluster, first remove the old cluster from it"))
}

/// Two round trips. Waits for the machine to get its cluster address, unless `stop` is cancelled.
pub async fn survey(
    session: &ClusterHandle,
    machine: &Machine,
    transport: &dyn Transport,
    stop: &CancellationToken,
) -> Result<ObservedMachine, InspectError> {
    let script = facts::script(machine.address);
    let deadline = ADDRESS_WITHIN * session.rendered.template_context.config.slow_machines;
    let began = Instant::now();
    let text = loop {
        let output = transport.run(Script::new(script.clone())).await?;
        let has_address = !output.stdout.contains("interface=\n");
        if has_address || stop.is_cancelled() || began.elapsed() >= deadline {
            break output.stdout;
        }
        tokio::time::sleep(PAUSE).await;
    };
    // Machines that kdiy makes are its own by the provider's word.
    if !session.provider.makes_machines()
        && let TemplateContext { id, topology, .. } = &session.rendered.template_context
        && let Some(owner) = Ownership::judge(&topology.cluster, id, facts::owner(&text))
    {
        owner.check(&topology.cluster, &machine.name)?;
    }
    let facts = facts::parse(&machine.name, machine.address, &text)?;
    let bundles = session.rendered.renderer().bundles(machine, &facts)?;
    let output = transport.run(Script::new(observe::script(bundles.values()))).await?;
    let observed = observe::parse(&output.stdout);
    Ok(ObservedMachine::new(facts, bundles, observed))
}
