//! The settings that a cluster was created with, and whether the wanted settings are the same
//! cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::config::{self, ClusterConfig, EtcdTopology, HostRole, LoadBalancerMode};
use crate::support::failure::{Failure, Result};
use crate::topology::architecture::Architectures;
use crate::topology::{Machine, Role, Site, Topology, resolved_load_balancer};

/// Keys of the cluster file that cannot change under machines that exist. The others can be
/// rolled out.
const SHAPE: [&str; 7] =
    ["provider", "masters", "workers", "etcd", "loadBalancer", "network", "hosts"];
/// Keys within those that can change all the same.
const ROLLED_OUT: [&str; 4] = [
    "etcd.heartbeatInterval",
    "etcd.electionTimeout",
    "etcd.quotaMebibytes",
    "etcd.compactionRetention",
];

/// Of the keys that a cluster cannot do without, by name: SHA-256 in hex of the public key in
/// base64, or of the key for Secrets, which is 32 random bytes that nobody finds by trying.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprints(pub BTreeMap<String, String>);

/// What a cluster was made with: `cluster.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The kdiy that wrote this.
    pub kdiy: String,
    /// Tells this cluster from others of its name; empty when an older kdiy wrote this. `up` makes
    /// one and writes it to each machine.
    #[serde(default)]
    pub id: String,
    #[serde(flatten)]
    pub site: Site,
    /// The effective cluster file.
    pub config: ClusterConfig,
    /// Every gate has been green at least once.
    #[serde(default)]
    pub complete: bool,
    /// Every gate was green once, maybe before machines were added: etcd has data since.
    #[serde(default)]
    pub had_data: bool,
    #[serde(default)]
    pub machine_architectures: Architectures,
    /// The playbooks that were laid over the built-in ones, as an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub playbooks: Option<PathBuf>,
    /// Of the keys that it was made with. A cluster of an older kdiy has none here until its
    /// first `up`.
    #[serde(default)]
    pub keys: Fingerprints,
    /// The version of Kubernetes with which every gate was green last.
    #[serde(default)]
    pub proven_kubernetes: Option<String>,
}

/// A field of the cluster file whose value cannot change under a cluster that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// As a path: `network.pods`, `hosts[2].address`.
    pub field: String,
    pub was: String,
    pub wanted: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: was {}, now {}", self.field, self.was, self.wanted)
    }
}

impl Record {
    /// The version that was proven last, if any was. An older kdiy noted only that one was.
    pub fn proven_kubernetes(&self) -> Option<&str> {
        let noted = self.proven_kubernetes.as_deref();
        noted.or_else(|| self.complete.then_some(self.config.kubernetes.as_str()))
    }

    /// Where `wanted` describes other machines, or the same ones connected otherwise. What only
    /// makes a choice of kdiy's explicit is no difference, and neither are workers, and masters once
    /// the cluster is complete, that come after all that are there: nothing of what is there changes
    /// its name, address or pods' network.
    pub fn differences(&self, wanted: &ClusterConfig) -> Result<Vec<Difference>> {
        let was = self.shape(&self.config)?;
        let now = self.shape(wanted)?;
        let mut found = Vec::new();
        for key in SHAPE {
            compare(key.to_owned(), &was[key], &now[key], &mut found);
        }
        found.retain(|Difference { field, .. }| {
            !can_change(field) && !self.adds_nodes(wanted, field)
        });
        Ok(found)
    }

    fn adds_nodes(&self, wanted: &ClusterConfig, field: &str) -> bool {
        // New members join etcd; before it has come about there is nothing to join.
        let may_join = |role| match role {
            HostRole::Worker => true,
            HostRole::Master => self.complete,
            HostRole::Etcd | HostRole::LoadBalancer => false,
        };
        let host = field.strip_prefix("hosts[").and_then(|rest| rest.strip_suffix(']'));
        match (host.and_then(|index| index.parse().ok()), field) {
            (Some(index), _) => {
                let added = wanted.hosts.get(index).filter(|_| self.config.hosts.len() <= index);
                added.is_some_and(|host| may_join(host.role))
            }
            (None, "workers") => wanted.workers > self.config.workers,
            (None, "masters") => wanted.masters > self.config.masters && may_join(HostRole::Master),
            _ => false,
        }
    }

    /// The same cluster without this worker. The others keep names, addresses and pods' networks.
    pub fn without(&self, machine: &Machine) -> Result<Self> {
        let name = &machine.name;
        if machine.role != Role::Worker {
            return Err(Failure::input(format!("{name} is not a worker")).hint(
                "kdiy removes only workers; `kdiy up` replaces a lost machine of another role",
            ));
        }
        let before = self.topology()?;
        let mut smaller = self.clone();
        smaller.config.workers = smaller.config.workers.saturating_sub(1);
        let position = before.machines.iter().position(|other| other == machine);
        if let Some(position) = position.filter(|position| *position < self.config.hosts.len()) {
            smaller.config.hosts.remove(position);
        }
        smaller.site = self.site.settled(&before.without(&BTreeSet::from([name.clone()])));
        smaller.machine_architectures.forget(name);
        Ok(smaller)
    }

    /// Whether there must be data. A record of an older kdiy says so by `complete` alone.
    pub const fn had_data(&self) -> bool {
        self.had_data || self.complete
    }

    pub fn topology(&self) -> Result<Topology> {
        Topology::at(&self.site, &self.config)
    }

    /// An error that lists every field that differs.
    pub fn check_same(&self, wanted: &ClusterConfig) -> Result<()> {
        let differences = self.differences(wanted)?;
        if differences.is_empty() {
            return Ok(());
        }
        let name = &wanted.name;
        let failure =
            Failure::input(format!("the cluster {name} already exists with another topology"))
                .tail(differences.iter().map(Difference::to_string).collect());
        let failure = if wanted.workers < self.config.workers {
            failure.hint("`kdiy remove` removes a worker")
        } else if wanted.masters > self.config.masters && !self.complete {
            failure.hint(
                "to add masters, first complete the cluster: `kdiy up` with its original settings",
            )
        } else if wanted.masters > self.config.masters {
            failure.hint(
                "to add masters, the address of the API must stay the same: a cluster with a \
                single master must have been created with --lb stacked",
            )
        } else {
            failure
        };
        Err(failure
            .hint("use another --name for another cluster")
            .hint(format!("or remove this one first: kdiy destroy --name {name}")))
    }

    /// With what kdiy chooses made explicit, and what the chosen modes leave without meaning
    /// taken out.
    fn shape(&self, config: &ClusterConfig) -> Result<Value> {
        let network = config.network.machines.unwrap_or(self.site.machine_network);
        let mut shape = config.clone();
        shape.network.machines = Some(network);
        if shape.etcd.topology == EtcdTopology::Stacked {
            shape.etcd.members = config::Etcd::default().members;
        }
        let unused = config::LoadBalancer::default();
        let balancer = &mut shape.load_balancer;
        balancer.mode = resolved_load_balancer(config);
        if balancer.mode != LoadBalancerMode::Dedicated {
            balancer.machines = unused.machines;
        }
        if balancer.mode != LoadBalancerMode::External {
            balancer.address = unused.address;
        }
        balancer.vip = Topology::build(config, network)?.vip;
        serde_json::to_value(shape).map_err(|error| Failure::bug("a cluster file").because(error))
    }
}

/// How a host is reached may change; what it is may not.
fn can_change(field: &str) -> bool {
    ROLLED_OUT.contains(&field) || field.split('.').nth(1) == Some("ssh")
}

fn compare(path: String, was: &Value, now: &Value, found: &mut Vec<Difference>) {
    match (was, now) {
        (Value::Object(before), Value::Object(after)) => {
            for key in before.keys().chain(after.keys().filter(|key| !before.contains_key(*key))) {
                compare(format!("{path}.{key}"), &was[key], &now[key], found);
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            for index in 0..before.len().max(after.len()) {
                let at = |list: &Vec<Value>| list.get(index).cloned().unwrap_or_default();
                compare(format!("{path}[{index}]"), &at(before), &at(after), found);
            }
        }
        _ if was == now => {}
        _ => found.push(Difference { field: path, was: plainly(was), wanted: plainly(now) }),
    }
}

fn plainly(value: &Value) -> String {
    match value {
        Value::Null => "absent".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Identifies the layout that a version of kdiy makes of a cluster file: names, roles,
/// addresses. The same file gives another one only where kdiy itself lays machines out anew.
pub fn fingerprint(topology: &Topology) -> String {
    let mut hasher = Sha256::new();
    for machine in &topology.machines {
        hasher.update(format!(
            "{} {} {} {:?}\n",
            machine.name,
            machine.role.as_str(),
            machine.address,
            machine.pod_cidr
        ));
    }
    hasher.update(format!(
        "{:?} {} {} {}",
        topology.vip,
        topology.endpoint.url(),
        topology.api_service,
        topology.dns_service
    ));
    hex::encode(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv4Net;

    use super::*;
    use crate::config::Cni;

    fn record(config: ClusterConfig) -> Record {
        Record {
            kdiy: "0.1.0".into(),
            id: "0".repeat(32),
            site: "192.168.56.0/24".parse::<Ipv4Net>().unwrap().into(),
            config,
            complete: true,
            had_data: true,
            machine_architectures: Architectures::default(),
            playbooks: None,
            keys: Fingerprints::default(),
            proven_kubernetes: None,
        }
    }

    fn fields(record: &Record, wanted: &ClusterConfig) -> Vec<String> {
        record.differences(wanted).unwrap().iter().map(Difference::to_string).collect()
    }

    #[test]
    fn every_field_that_differs_is_named_with_both_values() {
        let mut wanted = ClusterConfig { masters: 1, ..Default::default() };
        wanted.load_balancer.mode = LoadBalancerMode::Stacked;
        wanted.network.pods = "10.0.0.0/16".parse().unwrap();
        wanted.network.cni = Cni::Flannel;
        assert_eq!(
            fields(&record(ClusterConfig::default()), &wanted),
            [
                "masters: was 3, now 1",
                "network.pods: was 10.244.0.0/16, now 10.0.0.0/16",
                "network.cni: was bridge, now flannel",
            ]
        );
        let refused = record(ClusterConfig::default()).check_same(&wanted).unwrap_err().to_string();
        assert!(refused.contains("masters: was 3") && refused.contains("--name"), "{refused}");
    }

    #[test]
    fn settings_that_can_be_rolled_out_keep_the_cluster() {
        let mut wanted = ClusterConfig { kubernetes: "1.36.3".into(), ..Default::default() };
        wanted.etcd.quota_mebibytes = 4096;
        wanted.addons.clear();
        assert!(fields(&record(ClusterConfig::default()), &wanted).is_empty());
    }

    #[test]
    fn workers_may_be_added_but_not_dropped() {
        let workers = |workers| ClusterConfig { workers, ..Default::default() };
        assert!(fields(&record(workers(2)), &workers(3)).is_empty());
        assert_eq!(fields(&record(workers(2)), &workers(1)), ["workers: was 2, now 1"]);
    }

    #[test]
    fn masters_may_be_added_to_a_complete_cluster_whose_address_stays() {
        let masters = |masters| ClusterConfig { masters, ..Default::default() };
        let mut three = record(masters(3));
        assert!(fields(&three, &masters(5)).is_empty());
        three.complete = false;
        assert_eq!(fields(&three, &masters(5)), ["masters: was 3, now 5"]);
        let mut stacked = masters(1);
        stacked.load_balancer.mode = LoadBalancerMode::Stacked;
        assert!(fields(&record(stacked), &masters(3)).is_empty());
        let refused = record(masters(1)).check_same(&masters(3)).unwrap_err().to_string();
        assert!(refused.contains("the address of the API"), "{refused}");
    }

    #[test]
    fn only_workers_can_be_removed() {
        let record = record(ClusterConfig::default());
        let without = |name: &str| record.without(record.topology().unwrap().named(name).unwrap());
        let smaller = without("worker-1").unwrap();
        let topology = smaller.topology().unwrap();
        assert!(topology.named("worker-1").is_err() && topology.named("worker-2").is_ok());
        let written = serde_json::to_value(&smaller).unwrap();
        assert_eq!(written["machineNetwork"], "192.168.56.0/24");
        assert_eq!(serde_json::from_value::<Record>(written).unwrap(), smaller);
        assert!(without("master-3").is_err());
    }

    #[test]
    fn hosts_may_be_added_at_the_end_and_as_nodes_only() {
        let hosts = |hosts: &[(&str, u8)]| {
            let role = |(role, number): &(&str, u8)| {
                format!("- {{role: {role}, address: 10.0.0.{number}}}\n")
            };
            let lines: String = hosts.iter().map(role).collect();
            let of = |wanted: &str| hosts.iter().filter(|(role, _)| *role == wanted).count();
            let (masters, workers) = (of("master"), of("worker"));
            let text = format!(
                "provider: existing\nmasters: {masters}\nworkers: {workers}\n\
                 loadBalancer: {{mode: stacked, vip: 10.0.0.9}}\nhosts:\n{lines}"
            );
            config::parse::parse("test", &text).unwrap()
        };
        let was = record(hosts(&[("master", 1), ("worker", 2)]));
        let differ = |wanted: &[(&str, u8)]| !fields(&was, &hosts(wanted)).is_empty();
        let smaller = was.without(&was.topology().unwrap().machines[1]).unwrap();
        assert_eq!(smaller.config, hosts(&[("master", 1)]));
        assert!(!differ(&[("master", 1), ("worker", 2), ("worker", 3), ("worker", 4)]));
        assert!(!differ(&[("master", 1), ("worker", 2), ("master", 3), ("master", 4)]));
        assert!(differ(&[("master", 1), ("worker", 3), ("worker", 2)]));
        assert!(differ(&[("master", 1), ("worker", 2), ("load-balancer", 3)]));
        assert!(differ(&[("master", 1)]));
    }

    #[test]
    fn setting_a_value_that_kdiy_chose_is_no_difference() {
        let mut wanted = ClusterConfig::default();
        wanted.network.machines = Some("192.168.56.0/24".parse().unwrap());
        wanted.load_balancer.mode = LoadBalancerMode::Stacked;
        wanted.load_balancer.vip = Some("192.168.56.10".parse().unwrap());
        wanted.etcd.members = 5;
        assert!(fields(&record(ClusterConfig::default()), &wanted).is_empty());
        wanted.etcd.topology = EtcdTopology::External;
        assert_eq!(
            fields(&record(ClusterConfig::default()), &wanted),
            ["etcd.topology: was stacked, now external", "etcd.members: was 3, now 5"]
        );
    }

    #[test]
    fn the_fingerprint_follows_the_layout_only() {
        let network = "192.168.56.0/24".parse().unwrap();
        let of = |config: &ClusterConfig| fingerprint(&Topology::build(config, network).unwrap());
        let same = ClusterConfig { kubernetes: "1.35.0".into(), ..Default::default() };
        let other = ClusterConfig { workers: 3, ..Default::default() };
        assert_eq!(of(&ClusterConfig::default()), of(&same));
        assert_ne!(of(&ClusterConfig::default()), of(&other));
    }
}
