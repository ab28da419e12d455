//! `kdiy stop`: shuts down machines, in an order that loses no data.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use crate::cli::Stop;
use crate::commands::chosen;
use crate::commands::run_context::RunContext;
use crate::engine::plan::{Plan, Task};
use crate::engine::{self, Executor, TaskError, TaskReport};
use crate::etcd::quorum_guard::Standing;
use crate::session::ClusterHandle;
use crate::state::lock::Lock;
use crate::support::event::{Events, Outcome, TaskId, TaskKind};
use crate::support::failure::{Failure, Kind, Result};
use crate::support::printable::counted;
use crate::support::time_scale::Unscaled;
use crate::topology::{Group, Machine, Role, Topology};
use crate::transport::Script;
use crate::transport::pool::transport_failure;
use crate::ui::Ui;

/// Machines that are on answer sooner; those that are off cost this long; multiplied by
/// `slowMachines`.
const CONNECTED_WITHIN: Unscaled = Unscaled::from_secs(3);
/// systemd kills a unit that does not stop after 90 s (DefaultTimeoutStopSec).
const QUIET_WITHIN: Unscaled = Unscaled::from_secs(100);

/// All that writes to etcd, so that it ends while etcd can still take what is under way.
const QUIETEN: &str =
    "systemctl stop kube-scheduler.service kube-controller-manager.service kube-apiserver.service";

const QUIET: &str = "quiet";
const OFF: &str = "off";

pub async fn run(arguments: Stop, overlay: Option<&Path>, ui: Ui) -> Result<u8> {
    let session = ClusterHandle::open(&arguments.which.name, overlay).await?;
    if let Some(why) = session.provider.no_switch() {
        return Err(Failure::input(why)
            .hint("power them off yourself, workers first: kdiy ssh MACHINE -- sudo poweroff")
            .hint("when all of them run again, check the cluster: kdiy start"));
    }
    let _lock = Lock::take(&session.state.lock_file(), "stop")?;
    let topology = session.topology().clone();
    let wanted = chosen(&topology, &arguments.machines)?;
    let unreachable = session.connect(CONNECTED_WITHIN).await;
    let names: Vec<&str> = wanted.iter().map(|machine| machine.name.as_str()).collect();
    let whole = names.len() == topology.machines.len();
    if !whole && !arguments.beyond_quorum {
        Standing::of(&session.cluster_context()).await.allows_loss_of(&names)?;
    }
    let question = if whole {
        format!("shut down {}, all of {}?", counted(names.len(), "machine"), topology.cluster)
    } else {
        format!("shut down {}?", names.join(", "))
    };
    ui.confirm(&question, arguments.yes)?;

    let plan = plan(&topology, &wanted);
    let recording = RunContext::begin(&session, "stop", ui, |_| {})?;
    let work = Arc::new(Stopping { session, unreachable, events: recording.events.clone() });
    let parallel = names.len();
    let report =
        engine::run(&plan, work.clone(), parallel, &recording.events, &recording.stop).await;
    work.session.close().await;
    drop(work);
    recording.end().await;
    if let Some(failure) = report.failure {
        return Err(failure);
    }
    let stopped: Vec<&str> = plan
        .tasks
        .iter()
        .filter(|task| task.step == OFF)
        .filter(|task| report.outcomes.get(&task.id) == Some(&Outcome::Changed))
        .filter_map(|task| task.machine.as_deref())
        .collect();
    let text = match stopped.as_slice() {
        [] => "the machines are already off".to_owned(),
        stopped => format!("shut down {}; `kdiy start` powers them on again", stopped.join(", ")),
    };
    ui.result(
        &text,
        &serde_json::json!({"cluster": topology.cluster, "machines": names, "stopped": stopped}),
    );
    Ok(0)
}

/// Workers first, which need the others; etcd last, which the others write to. When all of etcd
/// goes, what writes to it is ended on every master before any of them is switched off.
fn plan(topology: &Topology, wanted: &[&Machine]) -> Plan {
    let everything_of_etcd = topology.group(Group::Etcd).iter().all(|it| wanted.contains(it));
    let waves: [(&str, &[Role]); 4] = [
        (OFF, &[Role::Worker]),
        (QUIET, if everything_of_etcd { &[Role::Master] } else { &[] }),
        (OFF, &[Role::Master, Role::LoadBalancer]),
        (OFF, &[Role::Etcd]),
    ];
    let mut tasks = Vec::new();
    let mut before: BTreeSet<TaskId> = BTreeSet::new();
    for (step, roles) in waves {
        let wave: Vec<Task> = wanted
            .iter()
            .filter(|machine| roles.contains(&machine.role))
            .map(|machine| Task {
                id: format!("{step}@{}", machine.name),
                kind: TaskKind::Machine,
                title: title(step).into(),
                step: step.into(),
                machine: Some(machine.name.clone()),
                needs: before.clone(),
            })
            .collect();
        if !wave.is_empty() {
            before = wave.iter().map(|task| task.id.clone()).collect();
        }
        tasks.extend(wave);
    }
    Plan { tasks }
}

fn title(step: &str) -> &'static str {
    if step == QUIET { "stop the control plane" } else { "shut down" }
}

struct Stopping {
    session: ClusterHandle,
    /// Machines that did not answer, with the reason.
    unreachable: BTreeMap<String, Failure>,
    events: Events,
}

#[async_trait]
impl Executor for Stopping {
    async fn perform(&self, task: &Task) -> Result<TaskReport, TaskError> {
        let name = task.machine.as_deref().unwrap_or_default();
        let machine = self.session.topology().named(name)?;
        if task.step == OFF {
            let changes = self.session.provider.stop(machine, &self.events, &task.id).await?;
            return Ok(TaskReport { changes });
        }
        // A machine that is off writes nothing.
        if self.unreachable.contains_key(name) {
            return Ok(TaskReport::default());
        }
        let patience = QUIET_WITHIN * self.session.rendered.template_context.config.slow_machines;
        let transport = self.session.connections.transport(name).await?;
        let output = transport
            .run(Script::new(QUIETEN).timeout(patience))
            .await
            .map_err(|error| transport_failure(&task.step, &error))?;
        if !output.success() {
            return Err(Failure::new(Kind::Step, "the control plane did not stop")
                .on(name)
                .tail(output.tail(10))
                .hint(format!("log in to find out why: kdiy ssh {name}"))
                .into());
        }
        Ok(TaskReport { changes: vec![format!("stopped the control plane on {name}")] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ClusterConfig, EtcdTopology};

    fn order(config: &ClusterConfig, machines: &[&str]) -> Vec<(String, usize)> {
        let topology = Topology::build(config, "192.168.56.0/24".parse().unwrap()).unwrap();
        let machines: Vec<String> = machines.iter().map(|name| (*name).to_owned()).collect();
        let plan = plan(&topology, &chosen(&topology, &machines).unwrap());
        plan.tasks.into_iter().map(|task| (task.id, task.needs.len())).collect()
    }

    fn seen(order: &[(String, usize)]) -> Vec<(&str, usize)> {
        order.iter().map(|(id, needs)| (id.as_str(), *needs)).collect()
    }

    #[test]
    fn a_cluster_shuts_down_from_workers_to_etcd() {
        let mut config = ClusterConfig { masters: 1, workers: 1, ..ClusterConfig::default() };
        assert_eq!(
            seen(&order(&config, &[])),
            [("off@kdiy-worker-1", 0), ("quiet@kdiy-master-1", 1), ("off@kdiy-master-1", 1)]
        );
        config.etcd.topology = EtcdTopology::External;
        let external = order(&config, &[]);
        assert_eq!(external[2], ("off@kdiy-master-1".into(), 1));
        assert_eq!(external[3], ("off@kdiy-etcd-1".into(), 1));
    }

    #[test]
    fn a_single_master_is_just_switched_off() {
        let order = order(&ClusterConfig::default(), &["master-2"]);
        assert_eq!(seen(&order), [("off@kdiy-master-2", 0)]);
    }

    #[test]
    fn masters_of_a_whole_cluster_shut_down_together() {
        let order = order(&ClusterConfig::default(), &[]);
        let masters: Vec<_> = order.iter().filter(|it| it.0.starts_with("off@kdiy-m")).collect();
        assert_eq!(masters.len(), 3);
        assert!(masters.iter().all(|(_, needs)| *needs == 3), "{masters:?}");
    }
}
