//! `kdiy guide`: the runbook of a cluster, for a person with a keyboard.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::cli::Guide as Arguments;
use crate::engine::plan::{self, ClusterState};
use crate::operations::inspect;
use crate::operations::request::ClusterRequest;
use crate::pki::Keeping;
use crate::reports::guide::{Guide, Sources, html};
use crate::session::ClusterHandle;
use crate::support::failure::{Failure, Result};
use crate::support::time_scale::Unscaled;
use crate::topology::architecture;
use crate::topology::facts::Facts;
use crate::transport::target::SshTarget;
use crate::ui::Ui;

/// A machine that runs answers within this; multiplied by `slowMachines`.
const ANSWERS_WITHIN: Unscaled = Unscaled::from_secs(5);

pub async fn run(arguments: Arguments, overlay: Option<&Path>, ui: Ui) -> Result<u8> {
    let ClusterRequest { design, state, before, site, .. } =
        ClusterRequest::by(&arguments.flags, overlay).await?;
    let markdown = if before.is_some() {
        let session = ClusterHandle::new(design, state, &site, Keeping::Existing).await?;
        let facts = facts(&session).await;
        session.close().await;
        let topology = session.topology();
        let target =
            |name: &String| Some((name.clone(), session.provider.ssh_target(topology, name).ok()?));
        let names = topology.machines.iter().map(|machine| &machine.name);
        let targets: BTreeMap<String, SshTarget> = names.filter_map(target).collect();
        write(&Sources::of(&session.rendered, architecture::HERE), &facts, &targets)?
    } else {
        let rendered = design.draw(&state.pki(), &site, Keeping::Existing)?;
        write(&Sources::of(&rendered, architecture::HERE), &BTreeMap::new(), &BTreeMap::new())?
    };
    let text = match arguments.html {
        true => html::page("A cluster by hand", &markdown),
        false => markdown,
    };
    let Some(path) = &arguments.out else {
        ui.result(&text, &json!({ "guide": text }));
        return Ok(0);
    };
    std::fs::write(path, &text).map_err(|error| {
        Failure::input(format!("--out: cannot write {}", path.display())).because(error)
    })?;
    ui.result(&format!("wrote the guide to {}", path.display()), &json!({ "path": path }));
    Ok(0)
}

fn write(
    sources: &Sources<'_>,
    facts: &BTreeMap<String, Facts>,
    targets: &BTreeMap<String, SshTarget>,
) -> Result<String> {
    let plan = plan::build(sources.playbooks, sources.template_context, &ClusterState::default())?;
    let assumed = facts.len() < sources.template_context.topology.machines.len();
    Guide::new(sources, facts)?.markdown(&plan.steps(sources.playbooks), targets, assumed)
}

/// Of the machines that answer.
async fn facts(session: &ClusterHandle) -> BTreeMap<String, Facts> {
    let silent = session.connect(ANSWERS_WITHIN).await;
    // What is not there now is not waited for.
    let stop = CancellationToken::new();
    stop.cancel();
    let machines = session.topology().machines.iter();
    let asked = machines.filter(|machine| !silent.contains_key(&machine.name)).map(|machine| {
        let stop = stop.clone();
        async move {
            let transport = session.connections.transport(&machine.name).await.ok()?;
            let reached = inspect::survey(session, machine, &*transport, &stop).await.ok()?;
            Some((machine.name.clone(), reached.facts))
        }
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}
