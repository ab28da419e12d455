//! Runs each kind of task: the one place where plan, bundles, transport, artifacts, API and gates
//! meet.

mod data_loss;
mod etcd_members;
mod machine_step;
mod no_space;
mod restart_guard;
mod unreachable;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::artifacts::{Installable, Store};
use crate::engine::failpoint::{self, Failpoint};
use crate::engine::plan::{self, Task};
use crate::engine::priority_semaphore::PrioritySemaphore;
use crate::engine::{Executor, TaskError, TaskReport};
use crate::gates;
use crate::kubernetes::apply::{self, Applier, Conflicts};
use crate::kubernetes::{csr, nodes, retry};
use crate::operations::inspect::{self, InspectError};
use crate::playbook::format::{Action, Step, Unit};
use crate::playbook::load::Book;
use crate::session::ClusterHandle;
use crate::state::ledger::Ledger;
use crate::support::event::{Events, TaskId, TaskKind};
use crate::support::failure::{Failure, Result};
use crate::support::time_scale::Unscaled;
use crate::topology::{Group, Machine};
use crate::transport::TransportError;
use crate::transport::pool::transport_failure;
use waits::Waits;

/// Everything a run works with.
pub struct Runner {
    pub session: ClusterHandle,
    pub store: Store,
    pub events: Events,
    pub stop: CancellationToken,
    pub fetched: Fetched,
    /// Files of early steps first: with more on their way than the cores can encrypt, or in the
    /// order in which machines turn up, what etcd and the api wait for would arrive with the last.
    pub sending: PrioritySemaphore,
    /// Machines that this run makes or starts.
    pub wanted: BTreeSet<String>,
    /// Every gate was green at the end of an earlier run.
    pub proven_before: bool,
    /// The cluster was complete once, so etcd must have data.
    pub had_data: bool,
    /// The cluster may have served somebody, so that restarts mind what it counts on.
    pub has_served: bool,
    /// Machines that this run could not reach.
    pub unreached: Mutex<BTreeSet<String>>,
    /// What keeps a gate from being passed is repaired where it can be.
    pub repairs: bool,
    /// Restarts go on where the cluster cannot spare what they stop.
    pub beyond_quorum: bool,
    /// Machines whose etcd member had no vote when the run began.
    pub learners: BTreeSet<String>,
    /// Held while something is stopped that the cluster counts on, and while a member joins.
    pub turn: Mutex<()>,
    /// Tasks of this run that changed something.
    pub changed: Mutex<BTreeSet<TaskId>>,
    /// Tasks of this run that are done.
    pub done: Mutex<BTreeSet<TaskId>>,
    pub waits: Waits,
}

/// Files that are ready to be installed, by artifact or image name.
#[derive(Default)]
pub struct Fetched {
    by_name: Mutex<BTreeMap<String, Vec<Installable>>>,
}

impl Fetched {
    fn key(name: &str, arch: &str) -> String {
        format!("{name} {arch}")
    }
}

#[async_trait]
impl Executor for Runner {
    async fn perform(&self, task: &Task) -> Result<TaskReport, TaskError> {
        let redactor = &self.session.redactor;
        self.carry_out(task).await.map_err(|failed| failed.map(|failure| redactor.failure(failure)))
    }

    fn give_up(&self) {
        self.waits.give_up();
    }

    /// A machine that may never come is not waited for when nothing would be done with it, and a
    /// gate that nothing follows proves nothing. Certificates are approved for kubelets that come.
    fn can_be_left(&self, task: &Task) -> bool {
        match task.kind {
            TaskKind::Machine => task.id != plan::MAKE,
            TaskKind::Gate => true,
            TaskKind::Cluster => self
                .book_and_step(task)
                .is_ok_and(|(_, step)| step.action == Some(Action::ApproveNodeCertificates)),
            TaskKind::Fetch | TaskKind::Apply => false,
        }
    }
}

impl Runner {
    async fn carry_out(&self, task: &Task) -> Result<TaskReport, TaskError> {
        failpoint::stop_at(&task.id, Failpoint::Before);
        let done = match task.kind {
            TaskKind::Machine if task.id == plan::MAKE => self.make(task).await?,
            TaskKind::Machine => self.reach(task).await?,
            TaskKind::Fetch => self.fetch(task).await?,
            TaskKind::Apply => self.apply(task).await?,
            TaskKind::Cluster => self.change_cluster(task).await?,
            TaskKind::Gate => self.prove(task).await?,
        };
        if !done.changes.is_empty() {
            self.changed.lock().await.insert(task.id.clone());
        }
        self.done.lock().await.insert(task.id.clone());
        failpoint::stop_at(&task.id, Failpoint::After);
        Ok(done)
    }

    fn book_and_step(&self, task: &Task) -> Result<(&Book, &Step)> {
        self.session
            .rendered
            .playbooks
            .step(&task.step)
            .ok_or_else(|| Failure::bug(format!("the step {} does not exist", task.step)))
    }

    fn machine(&self, task: &Task) -> Result<&Machine> {
        task.machine
            .as_deref()
            .and_then(|name| self.session.rendered.template_context.topology.machine(name))
            .ok_or_else(|| Failure::bug(format!("{} has no machine", task.id)))
    }

    fn slowly(&self, ordinary: Unscaled) -> Duration {
        ordinary * self.session.rendered.template_context.config.slow_machines
    }

    async fn make(&self, task: &Task) -> Result<TaskReport> {
        let topology = &self.session.rendered.template_context.topology;
        let mut ledger = Ledger::open(self.session.state.root())?;
        for owned in self.session.provider.makes(topology) {
            ledger.add(self.session.provider.name(), owned.what, &[owned.id])?;
        }
        let wanted: Vec<&Machine> = topology
            .machines
            .iter()
            .filter(|machine| self.wanted.contains(&machine.name))
            .collect();
        self.waits.making();
        let made = self.session.provider.up(topology, &wanted, &self.events, &task.id).await;
        self.waits.made();
        Ok(TaskReport { changes: made? })
    }

    async fn reach(&self, task: &Task) -> Result<TaskReport, TaskError> {
        let machine = self.machine(task)?;
        if let Err(failed) = self.look_at(task, machine).await {
            self.unreached.lock().await.insert(machine.name.clone());
            return Err(failed);
        }
        self.data_verdict().await?;
        Ok(TaskReport::default())
    }

    /// Connects, reads what the machine is, and compares it with what every step wants of it.
    async fn look_at(&self, task: &Task, machine: &Machine) -> Result<(), TaskError> {
        let session = &self.session;
        let target = session.provider.ssh_target(session.topology(), &machine.name)?;
        self.events.progress(&task.id, "waiting for SSH");
        let transport = self.connect(&target).await?;
        self.events.progress(&task.id, "reading the state of the machine");
        let looked = inspect::survey(session, machine, &*transport, &self.stop).await;
        let reached = looked.map_err(|error| match error {
            InspectError::Transport(error) => lost("reach", &error),
            InspectError::Failure(failure) => TaskError::Final(failure),
        })?;
        inspect::check_keys(&machine.name, &reached)?;
        let expected = session.rendered.architectures.of(&machine.name);
        if expected != reached.facts.arch {
            return Err(Failure::machine(format!(
                "the machine is {}, but the cluster was created for {expected}",
                reached.facts.arch
            ))
            .on(&machine.name)
            .hint("to change the architecture, destroy this cluster first")
            .into());
        }
        session.record(&machine.name, reached).await;
        self.unreached.lock().await.remove(&machine.name);
        Ok(())
    }

    async fn fetch(&self, task: &Task) -> Result<TaskReport> {
        let name = task.id.trim_start_matches("fetch:");
        let mirrored = |image: &String| image == name;
        let rendered = &self.session.rendered;
        for arch in rendered.architectures_taking(name) {
            let files = match rendered.catalogue.image_file(name, arch) {
                Some(file) if rendered.template_context.mirrored_images.iter().any(mirrored) => {
                    vec![self.store.ensure_image(name, &file, &self.events, &task.id).await?]
                }
                _ => {
                    let item = rendered.catalogue.item(name, &rendered.versions, arch)?;
                    self.store.ensure(&item, &self.events, &task.id).await?
                }
            };
            self.fetched.by_name.lock().await.insert(Fetched::key(name, arch), files);
        }
        Ok(TaskReport::default())
    }

    async fn change_cluster(&self, task: &Task) -> Result<TaskReport, TaskError> {
        let (book, step) = self.book_and_step(task)?;
        if step.manifests.is_empty() && step.action.is_none() {
            return Ok(TaskReport::default());
        }
        self.data_is_there().await?;
        let client = self.session.api.any().await.map_err(TaskError::Transient)?;
        let applier = |conflicts: Conflicts| Applier {
            client: &client,
            conflicts,
            patience: self.slowly(retry::PATIENCE),
            stop: self.stop.clone(),
            events: Some((&self.events, &task.id)),
        };
        let mut changes = Vec::new();
        for (place, text) in self.session.rendered.renderer().manifests(book, step)? {
            changes.extend(applier(Conflicts::Override).apply(&place, &text).await?);
        }
        let topology = &self.session.rendered.template_context.topology;
        let slow = self.session.rendered.template_context.config.slow_machines;
        match step.action {
            None => {}
            Some(Action::ApproveNodeCertificates) => {
                let approved = csr::approve(&client, topology, &self.events, slow);
                changes.extend(approved.await?);
            }
            Some(Action::MarkNodes) => {
                let schedulable = self.session.rendered.template_context.config.masters_take_pods();
                changes.extend(nodes::mark(&client, topology, schedulable, slow).await?);
            }
            Some(Action::ApplyAddons) => {
                for addon in self.session.rendered.template_context.config.own_addons() {
                    let text = apply::decode(addon, &self.store.read_manifest(addon).await?)?;
                    changes.extend(applier(Conflicts::Refuse).apply(addon, &text).await?);
                }
            }
        }
        Ok(TaskReport { changes })
    }

    async fn prove(&self, task: &Task) -> Result<TaskReport> {
        let (_, step) = self.book_and_step(task)?;
        let between = task.machine.is_some();
        let reference = if between { step.between() } else { step.gate.as_ref() };
        let Some(reference) = reference else { return Ok(TaskReport::default()) };
        let is_needless = if between {
            !self.disturbed(task, step).await
        } else {
            reference.costly && self.proven_before && self.changed.lock().await.is_empty()
        };
        if is_needless {
            self.events.progress(&task.id, "nothing that it depends on was changed");
            return Ok(TaskReport::default());
        }
        let gate = match &task.machine {
            Some(_) => gates::between_turns(reference.name),
            None => gates::gate(reference.name),
        };
        if task.machine.is_none() && gate.watches().0 == Group::Etcd && self.repairs {
            self.take_back_no_space().await;
        }
        let mut context = self.session.cluster_context();
        if between {
            context.turn_to_come = Some(self.turn_to_come(step).await);
        }
        context.steps = Some(self.session.rendered.playbooks.up_to(step));
        let deadline = self.slowly(Unscaled::from_secs(reference.seconds.into()));
        gates::wait::hold(&*gate, &context, deadline, &self.events, &task.id, &self.stop).await?;
        Ok(TaskReport::default())
    }
}

impl Runner {
    /// Whether the turn that a proof follows has changed something that the cluster counts on.
    /// Machines that were left alone need no proof before the next may change.
    async fn disturbed(&self, task: &Task, step: &Step) -> bool {
        let changed = self.changed.lock().await.clone();
        for done in task.needs.intersection(&changed) {
            // Where a step ends in no proof of its own, a machine on which its units did not run
            // is not whole before later steps have done their work, and had nothing to lose.
            let machine = done.split_once('@').map_or("", |(_, machine)| machine);
            let Ok(reached) = self.session.reached(machine).await else { return true };
            let ran = |unit: &Unit| {
                reached.observed.units.get(&unit.name).is_some_and(|state| state.active)
            };
            if step.gate.is_some() || step.units.iter().any(ran) {
                return true;
            }
        }
        false
    }

    /// Machines of a rolling step that it has not been applied to in this run.
    async fn turn_to_come(&self, step: &Step) -> BTreeSet<String> {
        let done = self.done.lock().await;
        let machines = self.session.topology().group(step.on).into_iter();
        let later = |machine: &&Machine| !done.contains(&plan::apply(&step.name, &machine.name));
        machines.filter(later).map(|machine| machine.name.clone()).collect()
    }
}

/// A connection that broke is worth another attempt on a new one.
fn lost(step: &str, error: &TransportError) -> TaskError {
    let failure = transport_failure(step, error);
    if error.is_transient() { TaskError::Transient(failure) } else { TaskError::Final(failure) }
}
