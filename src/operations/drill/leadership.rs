//! The holders of etcd's leadership, the virtual address and the leases: observed once to choose
//! the target, and repeatedly during the drill.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::Api;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::cluster_context::ClusterContext;
use crate::etcd::etcdctl::CURL;
use crate::gates::controllers::HostNames;
use crate::kubernetes::client::ApiPath;
use crate::operations::drill::measure::{Measure, Observation};
use crate::operations::drill::workload::{Log, patience};
use crate::support::failure::Result;
use crate::topology::{Group, Machine, Topology};
use crate::transport::Script;

/// Between two looks; what is measured is as exact as this and no better.
const PAUSE: Duration = Duration::from_millis(100);
/// Looks that a machine takes at most, so that none goes on when nobody listens any more.
const LOOKS: u32 = 6000;
const LEASES: [(Measure, &str); 2] = [
    (Measure::ControllerManager, "kube-controller-manager"),
    (Measure::Scheduler, "kube-scheduler"),
];

/// Machines, by what they hold. What nobody holds is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    by_measure: BTreeMap<Measure, String>,
    /// Machines by the ids of their etcd members.
    members: BTreeMap<u64, String>,
    host_names: HostNames,
}

impl Holders {
    pub async fn of(context: &ClusterContext) -> Self {
        let topology = &context.topology;
        let looked = context.ask(Group::All, |machine| glance(topology, machine));
        let (looked, host_names) = tokio::join!(looked, HostNames::ask(context));
        let mut holders = Self { host_names, ..Self::default() };
        let mut leader = None;
        for (machine, answer) in looked {
            let Some(glance) = answer.ok().and_then(|text| LeaderSample::parse(text.trim())) else {
                continue;
            };
            holders.members.extend(glance.member.map(|id| (id, machine.name.clone())));
            leader = leader.or(glance.leader);
            if glance.has_address {
                holders.by_measure.insert(Measure::VirtualAddress, machine.name.clone());
            }
        }
        if let Some(name) = leader.and_then(|id| holders.members.get(&id)) {
            holders.by_measure.insert(Measure::EtcdLeader, name.clone());
        }
        if let Ok(client) = context.api.any().await {
            for (measure, lease) in LEASES {
                let identity = lease_holder(&client, lease).await.unwrap_or_default();
                if let Some(machine) = holders.host_names.holder(&identity) {
                    holders.by_measure.insert(measure, machine.to_owned());
                }
            }
        }
        holders
    }

    pub fn get(&self, measure: Measure) -> Option<&str> {
        self.by_measure.get(&measure).map(String::as_str)
    }
}

impl FromIterator<(Measure, String)> for Holders {
    fn from_iter<I: IntoIterator<Item = (Measure, String)>>(held: I) -> Self {
        Self { by_measure: held.into_iter().collect(), ..Self::default() }
    }
}

/// Watches until it is dropped.
pub struct Watch {
    running: Vec<JoinHandle<()>>,
}

impl Watch {
    pub fn start(context: &Arc<ClusterContext>, holders: &Holders, log: &Log) -> Self {
        let mut running = Vec::new();
        for machine in &context.topology.machines {
            let looks = glance(&context.topology, machine);
            if !looks.is_empty() {
                let script = format!(
                    "for look in $(seq {LOOKS}); do {looks}\nsleep {}; done",
                    PAUSE.as_secs_f32()
                );
                let members = holders.members.clone();
                let follow =
                    follow(context.clone(), machine.name.clone(), script, members, log.clone());
                running.push(tokio::spawn(follow));
            }
        }
        let names = holders.host_names.clone();
        running.push(tokio::spawn(leases(context.clone(), names, log.clone())));
        Self { running }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.running.iter().for_each(JoinHandle::abort);
    }
}

/// What one machine sees; ends when the machine does.
async fn follow(
    context: Arc<ClusterContext>,
    machine: String,
    script: String,
    members: BTreeMap<u64, String>,
    log: Log,
) {
    let Ok(transport) = context.connections.transport(&machine).await else { return };
    let see = |line: &str| {
        let Some(glance) = LeaderSample::parse(line) else { return };
        let at = log.now();
        if let Some(leader) = glance.leader {
            let holder = members.get(&leader).cloned().unwrap_or_else(|| format!("{leader:x}"));
            log.sighting(Observation { of: Measure::EtcdLeader, at, holder });
        }
        if glance.has_address {
            let holder = machine.clone();
            log.sighting(Observation { of: Measure::VirtualAddress, at, holder });
        }
    };
    let script = Script::new(script).timeout(PAUSE * LOOKS * 4);
    // A machine that goes away is what a drill is about.
    let _ = transport.run_with(script, &see).await;
}

/// Asks the api-servers themselves, each as long as it answers: the balancer may be what is
/// broken.
async fn leases(context: Arc<ClusterContext>, names: HostNames, log: Log) {
    let patience = patience(context.config.slow_machines);
    let masters = context.topology.group(Group::Masters);
    for master in masters.iter().cycle() {
        let Ok(server) = context.api.server(&ApiPath::Master(master.name.clone()), &[]).await
        else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(client) = context.api.fresh(&server, patience).await else { return };
        loop {
            let looked = LEASES.map(|(of, lease)| {
                let client = &client;
                async move { (of, lease_holder(client, lease).await) }
            });
            let all = futures::future::join_all(looked);
            let Ok(seen) = tokio::time::timeout(patience.answer, all).await else { break };
            let at = log.now();
            let failed = seen.iter().any(|(_, holder)| holder.is_err());
            for (of, holder) in seen {
                let holder = names.holder_or_host(&holder.unwrap_or_default()).unwrap_or_default();
                log.sighting(Observation { of, at, holder });
            }
            tokio::time::sleep(PAUSE).await;
            if failed {
                break;
            }
        }
    }
}

/// The holder's identity; empty where the lease was given back.
async fn lease_holder(client: &Client, name: &str) -> Result<String, kube::Error> {
    let api: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let identity = api.get(name).await?.spec.and_then(|spec| spec.holder_identity);
    Ok(identity.unwrap_or_default())
}

/// One line: whether the machine has the virtual address, and what its etcd member says. Empty
/// for machines that can have neither.
fn glance(topology: &Topology, machine: &Machine) -> String {
    let balances = topology.is_in(machine, Group::LoadBalancers);
    let address = match topology.vip {
        Some(vip) if balances => format!("$(ip -o -4 addr show to {vip} | grep -q . && echo has)"),
        _ => String::new(),
    };
    let is_member = topology.is_in(machine, Group::Etcd);
    let member = match is_member {
        true => format!("$({CURL}/v3/maintenance/status --max-time ${{KDIY_SLOW:-1}} -d '{{}}')"),
        false => String::new(),
    };
    if address.is_empty() && member.is_empty() {
        return String::new();
    }
    format!("echo \"{address}@{member}\"")
}

#[derive(Debug, Default, PartialEq, Eq)]
struct LeaderSample {
    has_address: bool,
    member: Option<u64>,
    /// As this member has it; `None` where it knows of none.
    leader: Option<u64>,
}

impl LeaderSample {
    fn parse(line: &str) -> Option<Self> {
        let (address, member) = line.split_once('@')?;
        let status: Value = serde_json::from_str(member).unwrap_or_default();
        // JSON of protocol buffers has 64-bit numbers in strings.
        let id = |value: &Value| value.as_str()?.parse().ok().filter(|id| *id != 0);
        Some(Self {
            has_address: address == "has",
            member: id(&status["header"]["member_id"]),
            leader: id(&status["leader"]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterConfig;

    #[test]
    fn a_glance_is_read_whether_the_member_answers_or_not() {
        // As etcd 3.6.14 prints it.
        let line = "has@{\"header\":{\"cluster_id\":\"7\",\"member_id\":\"9\",\"revision\":\"4\",\
                    \"raft_term\":\"3\"},\"version\":\"3.6.14\",\"leader\":\"11\",\"raftTerm\":\"3\"}";
        let seen = LeaderSample { has_address: true, member: Some(9), leader: Some(11) };
        assert_eq!(LeaderSample::parse(line), Some(seen));
        assert_eq!(LeaderSample::parse("@"), Some(LeaderSample::default()));
        assert_eq!(LeaderSample::parse("warning"), None);
    }

    #[test]
    fn only_machines_that_can_hold_something_are_checked() {
        let topology =
            Topology::build(&ClusterConfig::default(), "192.168.56.0/24".parse().unwrap()).unwrap();
        let of = |name: &str| glance(&topology, topology.machine(name).unwrap());
        assert!(of("kdiy-master-1").contains("192.168.56.10"));
        assert_eq!(of("kdiy-worker-1"), "");
    }
}
