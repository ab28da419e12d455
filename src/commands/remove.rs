//! `kdiy remove`: drains a worker, removes it from the cluster, and deletes its machine.

use std::path::Path;

use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::cli::{Remove, Up};
use crate::commands::run_context::RunContext;
use crate::commands::up;
use crate::kubernetes::drain;
use crate::kubernetes::retry::PATIENCE;
use crate::operations::request::ClusterRequest;
use crate::pki::{Pki, keys};
use crate::providers::Resource;
use crate::session::{ClusterHandle, ResolvedCluster, known};
use crate::state::ledger::{Ledger, ResourceKind};
use crate::state::lock::Lock;
use crate::support::event::Events;
use crate::support::failure::{Failure, Kind, Result};
use crate::support::printable::counted;
use crate::support::time_scale::Unscaled;
use crate::topology::Machine;
use crate::ui::Ui;

/// Multiplied by `slowMachines`, as the other is.
const CONNECTED_WITHIN: Unscaled = Unscaled::from_secs(5);
/// A pod has 30 s to end (`terminationGracePeriodSeconds`), and its successor must be ready before
/// a disruption budget lets the next one go.
const DRAINED_WITHIN: Unscaled = Unscaled::from_secs(300);

const TASK: &str = "remove";

pub async fn run(arguments: Remove, overlay: Option<&Path>, ui: Ui) -> Result<u8> {
    let name = &arguments.which.name;
    let (state, record) = known(name)?;
    let machine = record.topology()?.named(&arguments.machine)?.clone();
    let smaller = record.without(&machine)?;
    // What follows it needs them; nothing is taken away before.
    keys::check(&state.pki(), &record.keys)?;

    let session = ClusterHandle::open(name, overlay).await?;
    let lock = Lock::take(&state.lock_file(), TASK)?;
    let answers = !session.connect(CONNECTED_WITHIN).await.contains_key(&machine.name);
    if answers {
        session.provider.check_ours(session.topology(), &machine).await?;
    }
    let client = session.api.any().await?;
    let lost = drain::losses(&client, &machine.name).await?;
    if !arguments.force {
        refuse_losses(&machine, &lost)?;
    }
    let question = format!("remove {} from {name} and delete the machine?", machine.name);
    if !lost.is_empty() {
        ui.note(&format!("this deletes:\n  {}", lost.join("\n  ")));
    }
    ui.confirm(&question, arguments.yes)?;

    let recording = RunContext::begin(&session, TASK, ui, |_| {})?;
    let work = Removal {
        client,
        machine: &machine,
        answers,
        force: arguments.force,
        events: recording.events.clone(),
        stop: recording.stop.clone(),
        session,
    };
    let removed = work.carry_out().await;
    work.session.close().await;
    drop(work);
    recording.end().await;
    removed?;
    state.write_record(&smaller)?;
    Pki::forget(&state.pki(), &machine.name)?;
    drop(lock);
    let name = &machine.name;
    ui.note(&match smaller.config.hosts.is_empty() {
        true => format!(
            "removed {name}; the cluster has {} now. If your cluster file says more, `kdiy up` \
            adds another",
            counted(smaller.config.workers, "worker")
        ),
        false => format!("removed {name}; now remove it from hosts: in the cluster file"),
    });
    // The others still have ways to it.
    let design = ResolvedCluster::of(smaller.config, overlay)?;
    up::bring(ClusterRequest::of(design).await?, &Up::again(), ui).await
}

fn refuse_losses(machine: &Machine, lost: &[String]) -> Result<()> {
    if lost.is_empty() {
        return Ok(());
    }
    let things = counted(lost.len(), "thing");
    Err(Failure::input(format!("removing {} would delete {things}", machine.name))
        .tail(lost.to_vec())
        .hint("move what you need, or delete it with --force"))
}

struct Removal<'a> {
    session: ClusterHandle,
    client: Client,
    machine: &'a Machine,
    answers: bool,
    force: bool,
    events: Events,
    /// Cancelled by the first Ctrl-C.
    stop: CancellationToken,
}

impl Removal<'_> {
    /// Each part may be done again.
    async fn carry_out(&self) -> Result<()> {
        let name = &self.machine.name;
        if self.answers {
            let moved = tokio::select! {
                moved = self.drain() => moved?,
                () = self.stop.cancelled() => return Err(interrupted(name)),
            };
            self.events.note(format!("drained {name}: {} evicted", counted(moved, "pod")));
        } else {
            self.events.warn(format!("{name} does not answer; its pods start on other nodes"));
        }
        self.take_away().await?;
        let patience = PATIENCE * self.session.rendered.template_context.config.slow_machines;
        drain::forget(&self.client, name, patience).await
    }

    async fn drain(&self) -> Result<usize> {
        let deadline = DRAINED_WITHIN * self.session.rendered.template_context.config.slow_machines;
        drain::drain(&self.client, &self.machine.name, deadline, &self.events, TASK).await
    }

    async fn take_away(&self) -> Result<()> {
        let Self { session, machine, .. } = self;
        let is_given_up = self.force && !self.answers && !session.provider.makes_machines();
        if is_given_up {
            self.events.warn(format!(
                "kdiy leaves {} as it is, with everything that it installed there",
                machine.name
            ));
        } else {
            let removed =
                session.provider.remove(session.topology(), machine, &self.events, TASK).await;
            removed.map_err(|failure| {
                if self.answers {
                    failure
                } else {
                    failure.hint("or leave the machine as it is: --force")
                }
            })?;
        }
        let mut ledger = Ledger::open(session.state.root())?;
        let is_left =
            |owned: &Resource| owned.what == ResourceKind::Machine && owned.id == machine.name;
        if session.provider.leftovers(&ledger).await?.iter().any(is_left) {
            return Err(Failure::new(Kind::Step, "the machine still exists")
                .on(&machine.name)
                .hint("run the same command again"));
        }
        for what in [ResourceKind::Machine, ResourceKind::Host] {
            ledger.remove(what, &machine.name)?;
        }
        Ok(())
    }
}

fn interrupted(node: &str) -> Failure {
    Failure::new(Kind::Interrupted, "interrupted; run the same command again to resume")
        .hint(format!("or let the node accept pods again: kdiy kubectl -- uncordon {node}"))
}
