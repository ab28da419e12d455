//! `kdiy start`: powers on machines and checks the cluster again, without changing it.

use std::path::Path;
use std::sync::Arc;

use crate::artifacts::Store;
use crate::cli::Start;
use crate::commands::chosen;
use crate::commands::run_context::RunContext;
use crate::engine;
use crate::engine::plan::{self, ClusterState, Plan};
use crate::engine::priority_semaphore::PrioritySemaphore;
use crate::operations::apply::{Fetched, Runner};
use crate::session::{ClusterHandle, known};
use crate::state::ledger::{Ledger, ResourceKind};
use crate::state::lock::Lock;
use crate::support::event::{Outcome, TaskKind};
use crate::support::failure::{Failure, Result};
use crate::support::time_scale::Unscaled;
use crate::topology::{Machine, Topology};
use crate::ui::Ui;
use crate::{state, support};

/// A machine that is on answers within this; multiplied by `slowMachines`.
const ANSWERS_WITHIN: Unscaled = Unscaled::from_secs(5);

pub async fn run(arguments: Start, overlay: Option<&Path>, ui: Ui) -> Result<u8> {
    let (state, record) = known(&arguments.which.name)?;
    if !record.complete {
        return Err(Failure::input(format!("{} is not complete", record.config.name))
            .hint("run `kdiy up`: it completes the cluster and powers on what is off"));
    }
    let session = ClusterHandle::open(&arguments.which.name, overlay).await?;
    let _lock = Lock::take(&state.lock_file(), "start")?;
    let topology = session.topology().clone();
    let wanted = chosen(&topology, &arguments.machines)?;
    all_are_there(&session, &wanted).await?;
    let off = others_that_are_off(&session, &wanted).await;
    let plan = plan::build(
        &session.rendered.playbooks,
        &session.rendered.template_context,
        &ClusterState::default(),
    )?
    .proofs();
    let plan = if off.is_empty() { plan } else { machines_of(plan, &wanted) };
    let store = Store::open(&state::cache()?, state.root(), session.rendered.source.clone())?;

    let recording = RunContext::begin(&session, "start", ui, |_| {})?;
    let runner = Arc::new(Runner {
        session,
        store,
        events: recording.events.clone(),
        stop: recording.stop.clone(),
        fetched: Fetched::default(),
        sending: PrioritySemaphore::at_once(2 * support::cores()),
        wanted: wanted.iter().map(|machine| machine.name.clone()).collect(),
        // However it was before, it has been off.
        proven_before: false,
        had_data: record.had_data(),
        has_served: true,
        unreached: Default::default(),
        repairs: false,
        beyond_quorum: false,
        learners: Default::default(),
        turn: Default::default(),
        changed: Default::default(),
        waits: Default::default(),
        done: Default::default(),
    });
    let parallel = plan.tasks.len();
    let report =
        engine::run(&plan, runner.clone(), parallel, &recording.events, &recording.stop).await;
    runner.session.close().await;
    drop(runner);
    recording.end().await;
    if let Some(failure) = report.failure {
        return Err(failure);
    }
    let started = report.outcomes.get(plan::MAKE) == Some(&Outcome::Changed);
    let gates = plan.tasks.iter().filter(|task| task.kind == TaskKind::Gate).count();
    ui.result(
        &text(&topology, started, gates, &off),
        &serde_json::json!({
            "cluster": topology.cluster,
            "started": started,
            "gates": gates,
            "off": off,
        }),
    );
    Ok(0)
}

fn text(topology: &Topology, started: bool, gates: usize, off: &[String]) -> String {
    let verb = if started { "is running again" } else { "was already running" };
    if off.is_empty() {
        return format!("{} {verb}, and all {gates} gates passed", topology.cluster);
    }
    format!(
        "the machines that you named: {verb}; kdiy cannot check the cluster while these are off: {}",
        off.join(", ")
    )
}

/// A machine that is gone would be made anew, and empty; that is for `up` to decide.
async fn all_are_there(session: &ClusterHandle, wanted: &[&Machine]) -> Result<()> {
    let ledger = Ledger::open(session.state.root())?;
    let entered = |machine: &Machine| {
        let mut entries = ledger.entries().iter();
        entries.any(|entry| entry.what == ResourceKind::Machine && entry.id == machine.name)
    };
    let there = session.provider.leftovers(&ledger).await?;
    let gone: Vec<&str> = wanted
        .iter()
        .filter(|machine| entered(machine))
        .filter(|machine| {
            !there
                .iter()
                .any(|owned| owned.what == ResourceKind::Machine && owned.id == machine.name)
        })
        .map(|machine| machine.name.as_str())
        .collect();
    if gone.is_empty() {
        return Ok(());
    }
    Err(Failure::machine(format!("these machines no longer exist: {}", gone.join(", ")))
        .hint("run `kdiy up`: it creates them again and adds them to the cluster"))
}

/// They are asked the way that kdiy always takes to them, which may lead through a bastion or to
/// another port.
async fn others_that_are_off(session: &ClusterHandle, wanted: &[&Machine]) -> Vec<String> {
    let others = session.topology().machines.iter().filter(|machine| !wanted.contains(machine));
    let names: Vec<String> = others.map(|machine| machine.name.clone()).collect();
    session.connect_to(&names, ANSWERS_WITHIN).await.into_keys().collect()
}

/// The part of a plan that makes these machines answer.
fn machines_of(plan: Plan, wanted: &[&Machine]) -> Plan {
    let is_wanted = |name: &String| wanted.iter().any(|machine| machine.name == *name);
    let mut tasks = plan.tasks;
    tasks.retain(|task| {
        task.kind == TaskKind::Machine && task.machine.as_ref().is_none_or(is_wanted)
    });
    Plan { tasks }
}
