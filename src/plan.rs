//! Steps on machines as a graph of tasks. Pure.
//!
//! A step waits for the *proof* of what it needs: for the needed step's gate where it has one,
//! otherwise for the needed step on the same machine (or everywhere, when it does not run on
//! that machine). What may run at the same time follows from that alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{TaskId, TaskInfo, TaskKind};
use crate::failure::{Failure, Result};
use crate::playbook::Step;
use crate::playbook::load::Playbooks;
use crate::topology::Group;
use crate::world::World;

/// The task that makes machines, all at once.
pub const MAKE: &str = "make";

#[derive(Debug, Clone)]
pub struct Task {
    pub id: TaskId,
    pub kind: TaskKind,
    pub title: String,
    /// Name of the playbook step; for other kinds what the task is about.
    pub step: String,
    pub machine: Option<String>,
    pub needs: BTreeSet<TaskId>,
}

#[derive(Debug, Clone)]
pub struct Plan {
    /// In an order in which every task comes after what it needs.
    pub tasks: Vec<Task>,
}

/// What the planner has to know besides playbooks and world.
#[derive(Debug, Clone, Default)]
pub struct Circumstances {
    /// The cluster ran before: `rolling` steps change one machine at a time.
    pub live: bool,
}

pub fn reach(machine: &str) -> TaskId {
    format!("reach@{machine}")
}

pub fn fetch(artifact: &str) -> TaskId {
    format!("fetch:{artifact}")
}

pub fn apply(step: &str, machine: &str) -> TaskId {
    format!("{step}@{machine}")
}

pub fn gate(step: &str) -> TaskId {
    format!("gate:{step}")
}

/// The whole way from nothing to a cluster.
pub fn build(playbooks: &Playbooks, world: &World, circumstances: &Circumstances) -> Result<Plan> {
    let steps: Vec<&Step> =
        playbooks.steps().map(|(_, step)| step).filter(|step| world.all_hold(&step.when)).collect();
    let mut builder = Builder { playbooks, world, tasks: Vec::new(), fetches: BTreeSet::new() };
    builder.machines();
    builder.fetches(&steps);
    for step in &steps {
        builder.step(step, circumstances.live);
    }
    sorted(builder.tasks).map(|tasks| Plan { tasks })
}

struct Builder<'a> {
    playbooks: &'a Playbooks,
    world: &'a World,
    tasks: Vec<Task>,
    fetches: BTreeSet<TaskId>,
}

impl Builder<'_> {
    fn machines(&mut self) {
        self.tasks.push(Task {
            id: MAKE.into(),
            kind: TaskKind::Machine,
            title: "make the machines".into(),
            step: MAKE.into(),
            machine: None,
            needs: BTreeSet::new(),
        });
        // A machine is not made to wait for its siblings: it is used as soon as it answers.
        for machine in &self.world.topology.machines {
            self.tasks.push(Task {
                id: reach(&machine.name),
                kind: TaskKind::Machine,
                title: "answer over SSH".into(),
                step: "reach".into(),
                machine: Some(machine.name.clone()),
                needs: BTreeSet::new(),
            });
        }
    }

    fn fetches(&mut self, steps: &[&Step]) {
        let names: BTreeSet<&String> = steps
            .iter()
            .filter(|step| !self.world.topology.group(step.on).is_empty())
            .flat_map(|step| step.artifacts.iter().chain(self.carried_images(step)))
            .collect();
        for name in names {
            self.fetches.insert(fetch(name));
            self.tasks.push(Task {
                id: fetch(name),
                kind: TaskKind::Fetch,
                title: format!("fetch {name}"),
                step: "fetch".into(),
                machine: None,
                needs: BTreeSet::new(),
            });
        }
    }

    fn carried_images<'s>(&self, step: &'s Step) -> impl Iterator<Item = &'s String> {
        let carried = self.world.mirrored_images.clone();
        step.images.iter().filter(move |name| carried.contains(name))
    }

    fn step(&mut self, step: &Step, live: bool) {
        if step.on == Group::Cluster {
            let needs = self.needs(step, None);
            self.push(step, TaskKind::Cluster, step.name.clone(), None, needs);
        }
        let machines: Vec<String> =
            self.world.topology.group(step.on).iter().map(|m| m.name.clone()).collect();
        let mut before: Option<TaskId> = None;
        for machine in &machines {
            let mut needs = self.needs(step, Some(machine));
            needs.insert(reach(machine));
            // A file that is not what was released stops everything before anything is
            // installed, so nothing is sent before all are checked.
            if !step.artifacts.is_empty() || self.carried_images(step).next().is_some() {
                needs.extend(self.fetches.iter().cloned());
            }
            if step.rolling && live {
                needs.extend(before.take());
            }
            let id = apply(&step.name, machine);
            self.push(step, TaskKind::Apply, id.clone(), Some(machine.clone()), needs);
            if step.rolling && live {
                before = Some(match &step.gate {
                    Some(_) if machines.last() != Some(machine) => {
                        let between = format!("{}+{machine}", gate(&step.name));
                        let needs = [id].into();
                        let machine = Some(machine.clone());
                        self.push(step, TaskKind::Gate, between.clone(), machine, needs);
                        between
                    }
                    _ => id,
                });
            }
        }
        let applied = self.done(step);
        if step.gate.is_some() && !applied.is_empty() {
            self.push(step, TaskKind::Gate, gate(&step.name), None, applied);
        }
    }

    fn push(
        &mut self,
        step: &Step,
        kind: TaskKind,
        id: TaskId,
        machine: Option<String>,
        needs: BTreeSet<TaskId>,
    ) {
        self.tasks.push(Task {
            id,
            kind,
            title: step.title.clone(),
            step: step.name.clone(),
            machine,
            needs,
        });
    }

    /// Every task that changes something for this step.
    fn done(&self, step: &Step) -> BTreeSet<TaskId> {
        if step.on == Group::Cluster {
            return [step.name.clone()].into();
        }
        let machines = self.world.topology.group(step.on);
        machines.iter().map(|machine| apply(&step.name, &machine.name)).collect()
    }

    fn needs(&self, step: &Step, machine: Option<&str>) -> BTreeSet<TaskId> {
        let mut needs = BTreeSet::new();
        let mut visited = BTreeSet::new();
        for need in &step.needs {
            self.add_need(need, machine, &mut needs, &mut visited);
        }
        needs
    }

    fn add_need<'s>(
        &'s self,
        name: &'s str,
        machine: Option<&str>,
        needs: &mut BTreeSet<TaskId>,
        visited: &mut BTreeSet<&'s str>,
    ) {
        let Some((_, needed)) = self.playbooks.step(name) else { return };
        if !visited.insert(name) {
            return;
        }
        let done = self.done(needed);
        // A step that this cluster does not have hands on what it needs itself.
        if !self.world.all_hold(&needed.when) || done.is_empty() {
            for need in &needed.needs {
                self.add_need(need, machine, needs, visited);
            }
            return;
        }
        if needed.gate.is_some() {
            needs.insert(gate(name));
            return;
        }
        match machine.map(|machine| apply(name, machine)).filter(|id| done.contains(id)) {
            Some(here) => {
                needs.insert(here);
            }
            None => needs.extend(done),
        }
    }
}

/// Kahn's algorithm; among tasks that could come next, the order of the playbooks is kept.
fn sorted(tasks: Vec<Task>) -> Result<Vec<Task>> {
    let mut done: BTreeSet<TaskId> = BTreeSet::new();
    let mut waiting = tasks;
    let mut order = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let (ready, blocked): (Vec<Task>, Vec<Task>) =
            waiting.into_iter().partition(|task| task.needs.is_subset(&done));
        if ready.is_empty() {
            let names: Vec<String> = blocked.iter().map(|task| task.id.clone()).collect();
            return Err(Failure::input("playbooks: these steps wait for each other in a circle")
                .cause(names.join(", "))
                .hint("look at their `needs:`"));
        }
        done.extend(ready.iter().map(|task| task.id.clone()));
        order.extend(ready);
        waiting = blocked;
    }
    Ok(order)
}

impl Plan {
    pub fn infos(&self) -> Vec<TaskInfo> {
        self.tasks
            .iter()
            .map(|task| TaskInfo {
                id: task.id.clone(),
                title: task.title.clone(),
                step: task.step.clone(),
                machine: task.machine.clone(),
                kind: task.kind,
                needs: task.needs.iter().cloned().collect(),
            })
            .collect()
    }

    /// For each task the tasks that wait for it.
    pub fn dependents(&self) -> BTreeMap<TaskId, Vec<TaskId>> {
        let mut dependents: BTreeMap<TaskId, Vec<TaskId>> = BTreeMap::new();
        for task in &self.tasks {
            for need in &task.needs {
                dependents.entry(need.clone()).or_default().push(task.id.clone());
            }
        }
        dependents
    }
}
