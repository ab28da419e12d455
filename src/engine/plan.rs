//! Steps on machines as a graph of tasks. Pure.
//!
//! A step waits for the *gate* of a step that it needs; if that step has no gate, it waits for the
//! step on the same machine (or everywhere, if it does not run on that machine). The tasks that may
//! run at the same time follow from this alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::etcd::quorum_guard::{Service, Standing};
use crate::playbook::context::TemplateContext;
use crate::playbook::format::Step;
use crate::playbook::load::Playbooks;
use crate::support::event::{TaskId, TaskInfo, TaskKind};
use crate::support::failure::{Failure, Result};
use crate::topology::Group;

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
pub struct ClusterState {
    /// How a cluster stands that was complete once: its `rolling` steps change one machine at a
    /// time. What never served has nobody to spare.
    pub standing: Option<Standing>,
    /// Machines that are added to it.
    pub added: BTreeSet<String>,
}

impl ClusterState {
    /// Machines that may change at the same time, turn after turn. What is down or new comes
    /// first, and together: it has nothing to lose, no proof is to be had before it is repaired, and etcd
    /// members that are all down wait for each other.
    fn turns(&self, step: &Step, machines: Vec<String>) -> Vec<Vec<String>> {
        let standing = self.standing.as_ref().filter(|_| step.rolling);
        let Some(standing) = standing else { return vec![machines] };
        let service = step.units.iter().find_map(|unit| Service::of_unit(&unit.name));
        let is_down = |machine: &String| match service {
            Some(service) => !standing.members(service).counts_on(machine),
            // What works with the api of its machine does nothing without it.
            None => {
                let api = &standing.api_servers;
                self.added.contains(machine) || api.lists(machine) && !api.counts_on(machine)
            }
        };
        let (down, up): (Vec<String>, Vec<String>) = machines.into_iter().partition(is_down);
        let turns = [down].into_iter().chain(up.into_iter().map(|machine| vec![machine]));
        turns.filter(|turn| !turn.is_empty()).collect()
    }
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
pub fn build(
    playbooks: &Playbooks,
    template_context: &TemplateContext,
    circumstances: &ClusterState,
) -> Result<Plan> {
    let steps: Vec<&Step> = playbooks
        .steps()
        .map(|(_, step)| step)
        .filter(|step| template_context.all_hold(&step.when))
        .collect();
    let mut builder =
        Builder { playbooks, template_context, tasks: Vec::new(), fetches: BTreeSet::new() };
    builder.machines();
    builder.fetches(&steps);
    for step in &steps {
        builder.step(step, circumstances);
    }
    sorted(builder.tasks).map(|tasks| Plan { tasks })
}

struct Builder<'a> {
    playbooks: &'a Playbooks,
    template_context: &'a TemplateContext,
    tasks: Vec<Task>,
    fetches: BTreeSet<TaskId>,
}

impl Builder<'_> {
    fn machines(&mut self) {
        self.tasks.push(Task {
            id: MAKE.into(),
            kind: TaskKind::Machine,
            title: "create the machines".into(),
            step: MAKE.into(),
            machine: None,
            needs: BTreeSet::new(),
        });
        // A machine is not made to wait for its siblings: it is used as soon as it answers.
        for machine in &self.template_context.topology.machines {
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
            .filter(|step| !self.template_context.topology.group(step.on).is_empty())
            .flat_map(|step| step.artifacts.iter().chain(self.carried_images(step)))
            .collect();
        for name in names {
            self.fetches.insert(fetch(name));
            self.tasks.push(Task {
                id: fetch(name),
                kind: TaskKind::Fetch,
                title: format!("download {name}"),
                step: "fetch".into(),
                machine: None,
                needs: BTreeSet::new(),
            });
        }
    }

    fn carried_images<'s>(&self, step: &'s Step) -> impl Iterator<Item = &'s String> {
        let carried = self.template_context.mirrored_images.clone();
        step.images.iter().filter(move |name| carried.contains(name))
    }

    fn step(&mut self, step: &Step, circumstances: &ClusterState) {
        if step.on == Group::Cluster {
            let needs = self.needs(step, None);
            self.push(step, TaskKind::Cluster, step.name.clone(), None, needs);
        }
        let machines: Vec<String> =
            self.template_context.topology.group(step.on).iter().map(|m| m.name.clone()).collect();
        let turns = circumstances.turns(step, machines);
        let mut before = BTreeSet::new();
        for (number, turn) in turns.iter().enumerate() {
            let applied: BTreeSet<TaskId> =
                turn.iter().map(|machine| self.apply(step, machine, &before)).collect();
            before = match step.between() {
                Some(_) if number + 1 < turns.len() => [self.between(step, turn, applied)].into(),
                _ => applied,
            };
        }
        let applied = self.done(step);
        if step.gate.is_some() && !applied.is_empty() {
            self.push(step, TaskKind::Gate, gate(&step.name), None, applied);
        }
    }

    fn apply(&mut self, step: &Step, machine: &str, before: &BTreeSet<TaskId>) -> TaskId {
        let mut needs = self.needs(step, Some(machine));
        needs.insert(reach(machine));
        needs.extend(before.iter().cloned());
        // A file that is not what was released stops everything before anything is
        // installed, so nothing is sent before all are checked.
        if !step.artifacts.is_empty() || self.carried_images(step).next().is_some() {
            needs.extend(self.fetches.iter().cloned());
        }
        let id = apply(&step.name, machine);
        self.push(step, TaskKind::Apply, id.clone(), Some(machine.to_owned()), needs);
        id
    }

    /// The proof that what changed last is well, before the next may change.
    fn between(&mut self, step: &Step, turn: &[String], applied: BTreeSet<TaskId>) -> TaskId {
        let id = format!("{}+{}", gate(&step.name), turn.join("+"));
        self.push(step, TaskKind::Gate, id.clone(), turn.first().cloned(), applied);
        id
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
        let machines = self.template_context.topology.group(step.on);
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
        if !self.template_context.all_hold(&needed.when) || done.is_empty() {
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
            return Err(Failure::input("playbooks: these steps depend on each other in a circle")
                .cause(names.join(", "))
                .hint("check their `needs:`"));
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

    /// Steps in an order in which each comes after all that it needs; among those that could
    /// come next, the order of the playbooks is kept.
    pub fn steps(&self, playbooks: &Playbooks) -> Vec<String> {
        let of_task: BTreeMap<&str, &str> = self
            .tasks
            .iter()
            .filter(|task| !matches!(task.kind, TaskKind::Machine | TaskKind::Fetch))
            .map(|task| (task.id.as_str(), task.step.as_str()))
            .collect();
        let mut needs: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for task in &self.tasks {
            if let Some(step) = of_task.get(task.id.as_str()) {
                let needed = task.needs.iter().filter_map(|need| of_task.get(need.as_str()));
                let others = needed.filter(|needed| *needed != step);
                needs.entry(step).or_default().extend(others);
            }
        }
        let mut waiting: Vec<&str> = playbooks
            .steps()
            .map(|(_, step)| step.name.as_str())
            .filter(|step| needs.contains_key(step))
            .collect();
        let mut order: Vec<String> = Vec::new();
        // Ends because tasks wait for each other in no circle, and so neither do steps.
        while let Some(next) = waiting
            .iter()
            .position(|step| needs[step].iter().all(|need| order.iter().any(|it| it == need)))
        {
            order.push(waiting.remove(next).to_owned());
        }
        order
    }

    /// Machines and proofs only, in the same order: what there is to do when nothing is to change.
    pub fn proofs(self) -> Self {
        self.keeping(|task| matches!(task.kind, TaskKind::Machine | TaskKind::Gate))
    }

    /// Machines, and these steps with the files that they take. What else they need is taken to
    /// be done.
    pub fn only(self, steps: &[String]) -> Self {
        let is_wanted = |task: &Task| steps.contains(&task.step);
        let wanted = self.tasks.iter().filter(|task| is_wanted(task));
        let needed: BTreeSet<TaskId> = wanted.flat_map(|task| &task.needs).cloned().collect();
        self.keeping(|task| match task.kind {
            TaskKind::Machine => true,
            TaskKind::Fetch => needed.contains(&task.id),
            _ => is_wanted(task),
        })
    }

    fn keeping(self, keeps: impl Fn(&Task) -> bool) -> Self {
        let mut before: BTreeMap<TaskId, BTreeSet<TaskId>> = BTreeMap::new();
        let mut kept = Vec::new();
        for mut task in self.tasks {
            // What is left out hands on what it needed itself.
            let needs: BTreeSet<TaskId> =
                task.needs.iter().filter_map(|need| before.get(need)).flatten().cloned().collect();
            if keeps(&task) {
                before.insert(task.id.clone(), [task.id.clone()].into());
                task.needs = needs;
                kept.push(task);
            } else {
                before.insert(task.id, needs);
            }
        }
        Self { tasks: kept }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ClusterConfig, Cni};
    use crate::etcd::quorum_guard::Members;
    use crate::playbook::load::Playbooks;

    fn step(name: &str) -> Step {
        Playbooks::load(None).unwrap().step(name).unwrap().1.clone()
    }

    #[test]
    fn a_single_step_keeps_its_files_and_machines_and_skips_the_rest() {
        let task = |id: &str, kind, step: &str, needs: &[&str]| Task {
            id: id.into(),
            kind,
            title: step.into(),
            step: step.into(),
            machine: None,
            needs: needs.iter().map(|need| (*need).to_owned()).collect(),
        };
        let plan = Plan {
            tasks: vec![
                task("reach@m", TaskKind::Machine, "reach", &[]),
                task("fetch:a", TaskKind::Fetch, "fetch", &[]),
                task("fetch:b", TaskKind::Fetch, "fetch", &[]),
                task("a@m", TaskKind::Apply, "a", &["reach@m", "fetch:a"]),
                task("gate:a", TaskKind::Gate, "a", &["a@m"]),
                task("b@m", TaskKind::Apply, "b", &["gate:a", "fetch:b"]),
            ],
        };
        let ids = |plan: Plan| -> Vec<TaskId> { plan.tasks.into_iter().map(|it| it.id).collect() };
        assert_eq!(ids(plan.clone().only(&[])), ["reach@m"]);
        assert_eq!(ids(plan.clone().only(&["b".into()])), ["reach@m", "fetch:b", "b@m"]);
        let b = plan.only(&["b".into()]).tasks.pop().unwrap();
        assert!(b.needs.contains("reach@m"), "{:?}", b.needs);
    }

    /// Of a cluster of which nothing is there yet.
    fn planned(config: ClusterConfig) -> (Playbooks, Plan) {
        let playbooks = Playbooks::load(None).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let rendered = crate::session::ResolvedCluster::of(config, None)
            .unwrap()
            .draw(
                &directory.path().join("pki"),
                &"192.168.56.0/24".parse::<ipnet::Ipv4Net>().unwrap().into(),
                crate::pki::Keeping::Existing,
            )
            .unwrap();
        let plan = build(&playbooks, &rendered.template_context, &ClusterState::default()).unwrap();
        (playbooks, plan)
    }

    #[test]
    fn add_ons_with_the_pod_network_are_applied_before_tasks_that_need_it() {
        let mut config = ClusterConfig { addons: vec!["cni.yaml".into()], ..Default::default() };
        let after = |config: &ClusterConfig, step: &str, needed: &str| {
            let (playbooks, plan) = planned(config.clone());
            let steps = plan.steps(&playbooks);
            let place = |name: &str| steps.iter().position(|step| step == name);
            Some(place(step)? > place(needed)?)
        };
        assert_eq!(after(&config, "addons", "nodes-ready"), Some(true));
        assert_eq!(after(&config, "own-pod-network", "nodes"), None);
        config.network.cni = Cni::None;
        assert_eq!(after(&config, "nodes-ready", "own-pod-network"), Some(true));
        assert_eq!(after(&config, "own-pod-network", "nodes"), Some(true));
        assert_eq!(after(&config, "addons", "nodes"), None, "they are applied once");
        assert_eq!(after(&config, "coredns", "node-rights"), Some(true));
    }

    #[test]
    fn steps_come_after_what_they_need_and_otherwise_as_the_playbooks_have_them() {
        let (playbooks, plan) = planned(ClusterConfig::default());
        let steps = plan.steps(&playbooks);
        let place = |name: &str| steps.iter().position(|step| step == name).unwrap();
        assert_eq!(place("machine"), 0);
        assert!(place("kube-apiserver") < place("load-balancer"), "{steps:?}");
        assert!(place("kubelet") < place("node-certificates"), "{steps:?}");
        assert_eq!(steps.len(), steps.iter().collect::<BTreeSet<_>>().len());
    }

    fn turns(step: &Step, down: &[&str]) -> Vec<Vec<String>> {
        let members = |service| {
            let health = |machine: &&str| {
                if down.contains(machine) { Err("down".into()) } else { Ok(()) }
            };
            Members::new(service, ["a", "b", "c"].map(|it| (it.to_owned(), health(&it))))
        };
        let standing =
            Standing { etcd: members(Service::Etcd), api_servers: members(Service::ApiServer) };
        let machines = ["a", "b", "c"].map(str::to_owned).to_vec();
        let added = BTreeSet::from(["c".to_owned()]);
        ClusterState { standing: Some(standing), added }.turns(step, machines)
    }

    #[test]
    fn a_cluster_that_serves_changes_one_machine_at_a_time() {
        assert_eq!(turns(&step("etcd"), &[]), [["a"], ["b"], ["c"]]);
        assert_eq!(turns(&step("kube-apiserver"), &[]), [["a"], ["b"], ["c"]]);
        let of_no_service = step("kubelet");
        assert_eq!(turns(&of_no_service, &[]), [["c"], ["a"], ["b"]], "what is new comes first");
        assert_eq!(turns(&step("machine"), &[]), [["a", "b", "c"]]);
    }

    #[test]
    fn machines_that_are_down_come_first() {
        assert_eq!(turns(&step("kube-apiserver"), &["c"]), [["c"], ["a"], ["b"]]);
    }

    #[test]
    fn machines_that_are_down_start_together_and_others_one_by_one() {
        assert_eq!(turns(&step("etcd"), &["a", "b", "c"]), [["a", "b", "c"]]);
        assert_eq!(turns(&step("kube-scheduler"), &["a", "b", "c"]), [["a", "b", "c"]]);
        // Two that a slow SSH makes look down: the third is not restarted with them.
        let split = vec![vec!["b".to_owned(), "c".to_owned()], vec!["a".to_owned()]];
        assert_eq!(turns(&step("etcd"), &["b", "c"]), split);
    }

    #[test]
    fn machines_of_a_new_cluster_start_together() {
        let machines = vec!["a".to_owned(), "b".to_owned()];
        let new = ClusterState::default().turns(&step("etcd"), machines.clone());
        assert_eq!(new, [machines]);
    }

    #[test]
    fn proofs_keep_their_order_without_the_changes_between_them() {
        let task = |id: &str, kind, needs: &[&str]| Task {
            id: id.into(),
            kind,
            title: String::new(),
            step: String::new(),
            machine: None,
            needs: needs.iter().map(|need| (*need).to_owned()).collect(),
        };
        let plan = Plan {
            tasks: vec![
                task("reach", TaskKind::Machine, &[]),
                task("fetch", TaskKind::Fetch, &[]),
                task("etcd", TaskKind::Apply, &["reach", "fetch"]),
                task("gate:etcd", TaskKind::Gate, &["etcd"]),
                task("api", TaskKind::Apply, &["gate:etcd"]),
                task("rights", TaskKind::Cluster, &["api"]),
                task("gate:api", TaskKind::Gate, &["rights"]),
            ],
        };
        let proofs: Vec<(String, Vec<String>)> = plan
            .proofs()
            .tasks
            .into_iter()
            .map(|task| (task.id, task.needs.into_iter().collect()))
            .collect();
        let needs = |need: &str| vec![need.to_owned()];
        assert_eq!(
            proofs,
            [
                ("reach".to_owned(), vec![]),
                ("gate:etcd".to_owned(), needs("reach")),
                ("gate:api".to_owned(), needs("gate:etcd")),
            ]
        );
    }
}
