//! Machines, roles and addresses, computed from a validated cluster file. Pure.

pub mod architecture;
pub mod check;
pub mod facts;
pub mod ownership;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::config::{
    ClusterConfig, Cni, EtcdTopology, Host, HostRole, LoadBalancerMode, ProviderChoice,
};
use crate::support::failure::{Failure, Result, closest};

/// Where kube-apiserver listens on every master (the Kubernetes default secure port).
pub const API_PORT: u16 = 6443;
/// Where a load balancer listens that shares its machine with an api-server.
pub const STACKED_LB_PORT: u16 = 8443;
pub const ETCD_CLIENT_PORT: u16 = 2379;
pub const ETCD_PEER_PORT: u16 = 2380;

/// First host number of each role in the machines' network; the gaps leave room to grow.
const VIP_OFFSET: u32 = 10;
const MASTER_OFFSET: u32 = 11;
const ETCD_OFFSET: u32 = 21;
const LB_OFFSET: u32 = 31;
const WORKER_OFFSET: u32 = 51;
/// However large the network is.
const LAST_OFFSET: u32 = 254;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Master,
    Worker,
    Etcd,
    LoadBalancer,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Worker => "worker",
            Self::Etcd => "etcd",
            Self::LoadBalancer => "lb",
        }
    }

    /// Whether it runs a kubelet.
    const fn is_node(self) -> bool {
        matches!(self, Self::Master | Self::Worker)
    }
}

impl From<HostRole> for Role {
    fn from(role: HostRole) -> Self {
        match role {
            HostRole::Master => Self::Master,
            HostRole::Worker => Self::Worker,
            HostRole::Etcd => Self::Etcd,
            HostRole::LoadBalancer => Self::LoadBalancer,
        }
    }
}

/// Sets of machines that playbook steps name in `on:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Every machine.
    All,
    Masters,
    Workers,
    /// Machines that run an etcd member: the masters, or the external ones.
    Etcd,
    /// Machines that run haproxy: the masters, or the dedicated ones.
    LoadBalancers,
    /// Machines that run a kubelet: masters and workers.
    Nodes,
    /// Not a machine: done once, through the api.
    Cluster,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    pub name: String,
    pub role: Role,
    /// 1 for the first of its role.
    pub number: u32,
    /// On the network between the machines; the only address that the cluster uses.
    pub address: Ipv4Addr,
    /// Only machines that run a kubelet have one.
    pub pod_cidr: Option<Ipv4Net>,
    pub cpus: u32,
    pub memory_mebibytes: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    pub cluster: String,
    pub machines: Vec<Machine>,
    pub machine_network: Ipv4Net,
    pub etcd: EtcdTopology,
    pub load_balancer: LoadBalancerMode,
    /// The virtual IP, where keepalived holds one.
    pub vip: Option<Ipv4Addr>,
    /// What clients of the api use: VIP, load balancer, or the only master.
    pub endpoint: Endpoint,
    /// The api's own Service: the first address of the service network.
    pub api_service: Ipv4Addr,
    /// CoreDNS's Service: the tenth address of the service network.
    pub dns_service: Ipv4Addr,
    /// How many of [`Group::Etcd`], from the first, began together; the others joined them.
    pub first_members: u32,
}

/// Where machines are laid out, and what those that are part of the cluster keep.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Site {
    /// The cluster file's, or the one that was chosen for this cluster.
    pub machine_network: Ipv4Net,
    /// Of nodes, by address. Who comes later takes what comes after these, so what a node leaves
    /// between them stays empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    seats: BTreeMap<Ipv4Addr, NodeSlot>,
    /// Members with which etcd began; all others join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_members: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct NodeSlot {
    number: u32,
    pods: Ipv4Net,
}

impl From<Ipv4Net> for Site {
    fn from(machine_network: Ipv4Net) -> Self {
        Self { machine_network, ..Self::default() }
    }
}

impl Site {
    /// The same, of which these machines are a part by now, and no others.
    pub fn settled(&self, topology: &Topology) -> Self {
        let seat = |node: &Machine| {
            Some((node.address, NodeSlot { number: node.number, pods: node.pod_cidr? }))
        };
        Self {
            machine_network: self.machine_network,
            seats: topology.machines.iter().filter_map(seat).collect(),
            first_members: Some(topology.first_members),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    pub fn url(&self) -> String {
        format!("https://{}:{}", self.host, self.port)
    }
}

/// Raft's arithmetic, for members of etcd and machines of a control plane alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Quorum {
    pub members: u32,
}

impl Quorum {
    /// Members that must agree before a write is done: ⌊n/2⌋+1.
    pub const fn needed(self) -> u32 {
        self.members / 2 + 1
    }

    /// Members that may fail while writes still get done: n − quorum.
    pub const fn tolerance(self) -> u32 {
        self.members.saturating_sub(self.needed())
    }
}

impl Topology {
    /// Of a cluster that no machine has left yet.
    pub fn build(config: &ClusterConfig, machine_network: Ipv4Net) -> Result<Self> {
        Self::at(&machine_network.into(), config)
    }

    pub fn at(site: &Site, config: &ClusterConfig) -> Result<Self> {
        let machine_network = site.machine_network;
        let mut machines = if config.provider == ProviderChoice::Existing {
            existing_machines(config, site)?
        } else {
            made_machines(config, site)?
        };
        assign_pod_cidrs(&mut machines, config.network.pods, site)?;

        let mode = resolved_load_balancer(config);
        let needs_vip = match mode {
            LoadBalancerMode::Stacked => true,
            LoadBalancerMode::Dedicated => config.load_balancer.machines > 1,
            _ => false,
        };
        let vip = match (needs_vip, config.load_balancer.vip) {
            (false, _) => None,
            (true, Some(vip)) => Some(vip),
            (true, None) => Some(nth(machine_network, VIP_OFFSET)?),
        };
        let endpoint = endpoint(config, mode, vip, &machines)?;
        let mut topology = Self {
            cluster: config.name.clone(),
            machines,
            machine_network,
            etcd: config.etcd.topology,
            load_balancer: mode,
            vip,
            endpoint,
            api_service: nth(config.network.services, 1)?,
            dns_service: nth(config.network.services, 10)?,
            first_members: 0,
        };
        topology.first_members = site.first_members.unwrap_or(topology.etcd_quorum().members);
        Ok(topology)
    }

    /// The same cluster, of whose machines these are left out.
    pub fn without(&self, names: &BTreeSet<String>) -> Self {
        let machines = self.machines.iter().filter(|machine| !names.contains(&machine.name));
        Self { machines: machines.cloned().collect(), ..self.clone() }
    }

    pub fn group(&self, group: Group) -> Vec<&Machine> {
        self.machines.iter().filter(|machine| self.is_in(machine, group)).collect()
    }

    /// Every port that a machine listens on for others, or for itself, once it is part of the
    /// cluster.
    pub fn ports(&self, machine: &Machine) -> Vec<u16> {
        let is = |group| self.is_in(machine, group);
        let mut ports = Vec::new();
        if is(Group::Etcd) {
            ports.extend([2379, 2380]);
        }
        if is(Group::LoadBalancers) {
            ports.extend([self.endpoint.port, 8404]);
        }
        if is(Group::Masters) {
            ports.extend([6443, 10257, 10259]);
        }
        if is(Group::Nodes) {
            ports.extend([10248, 10249, 10250, 10256]);
        }
        ports
    }

    pub fn is_in(&self, machine: &Machine, group: Group) -> bool {
        match group {
            Group::All => true,
            Group::Masters => machine.role == Role::Master,
            Group::Workers => machine.role == Role::Worker,
            Group::Nodes => machine.role.is_node(),
            Group::Etcd => match self.etcd {
                EtcdTopology::Stacked => machine.role == Role::Master,
                EtcdTopology::External => machine.role == Role::Etcd,
            },
            Group::LoadBalancers => match self.load_balancer {
                LoadBalancerMode::Stacked => machine.role == Role::Master,
                LoadBalancerMode::Dedicated => machine.role == Role::LoadBalancer,
                _ => false,
            },
            Group::Cluster => false,
        }
    }

    pub fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.name == name)
    }

    /// A machine as users name it: with or without the cluster's name in front.
    pub fn named(&self, name: &str) -> Result<&Machine> {
        let full = format!("{}-{name}", self.cluster);
        self.machine(name).or_else(|| self.machine(&full)).ok_or_else(|| {
            let names: Vec<&str> = self.machines.iter().map(|m| m.name.as_str()).collect();
            let failure = Failure::input(format!("there is no machine {name}"));
            let failure = match closest(&full, names.iter().copied()) {
                Some(meant) => failure.hint(format!("did you mean `{meant}`?")),
                None => failure,
            };
            failure.hint(format!("there are {}", names.join(", ")))
        })
    }

    pub fn etcd_quorum(&self) -> Quorum {
        Quorum { members: count(self.group(Group::Etcd).len()) }
    }

    pub fn master_quorum(&self) -> Quorum {
        Quorum { members: count(self.group(Group::Masters).len()) }
    }
}

/// `auto` made concrete.
pub fn resolved_load_balancer(config: &ClusterConfig) -> LoadBalancerMode {
    match config.load_balancer.mode {
        LoadBalancerMode::Auto if config.masters > 1 => LoadBalancerMode::Stacked,
        LoadBalancerMode::Auto => LoadBalancerMode::None,
        mode => mode,
    }
}

fn made_machines(config: &ClusterConfig, site: &Site) -> Result<Vec<Machine>> {
    let etcd = match config.etcd.topology {
        EtcdTopology::External => config.etcd.members,
        EtcdTopology::Stacked => 0,
    };
    let balancers = match resolved_load_balancer(config) {
        LoadBalancerMode::Dedicated => config.load_balancer.machines,
        _ => 0,
    };
    let sizes = &config.machines;
    let mut machines = Vec::new();
    for (role, wanted, offsets, size) in [
        (Role::Master, config.masters, MASTER_OFFSET..ETCD_OFFSET, &sizes.master),
        (Role::Etcd, etcd, ETCD_OFFSET..LB_OFFSET, &sizes.etcd),
        (Role::LoadBalancer, balancers, LB_OFFSET..WORKER_OFFSET, &sizes.load_balancer),
        (Role::Worker, config.workers, WORKER_OFFSET..LAST_OFFSET + 1, &sizes.worker),
    ] {
        let first = offsets.start;
        let has_seat = |offset: &u32| {
            let address = nth(site.machine_network, *offset);
            address.is_ok_and(|address| site.seats.contains_key(&address))
        };
        let seated: Vec<u32> = offsets.clone().filter(has_seat).collect();
        let free = seated.last().map_or(first, |last| last + 1)..offsets.end;
        let mut taken: Vec<u32> = seated.into_iter().chain(free).collect();
        if wanted > count(taken.len()) {
            let role = role.as_str();
            return Err(Failure::input(format!("too many machines of the role {role}: {wanted}"))
                .hint(format!("the network has addresses for {}", taken.len())));
        }
        taken.truncate(wanted as usize);
        for offset in taken {
            let number = offset - first + 1;
            machines.push(Machine {
                name: machine_name(&config.name, role, number),
                role,
                number,
                address: nth(site.machine_network, offset)?,
                pod_cidr: None,
                cpus: size.cpus,
                memory_mebibytes: size.memory_mebibytes,
            });
        }
    }
    Ok(machines)
}

fn existing_machines(config: &ClusterConfig, site: &Site) -> Result<Vec<Machine>> {
    let mut machines: Vec<Machine> = Vec::new();
    for host in &config.hosts {
        let role = Role::from(host.role);
        let address = host_address(host)?;
        let number = site.seats.get(&address).map_or_else(
            || {
                let others = machines.iter().filter(|other| other.role == role);
                others.map(|other| other.number).max().unwrap_or(0) + 1
            },
            |seat| seat.number,
        );
        machines.push(Machine {
            name: host_name(config, host, role, number),
            role,
            number,
            address,
            pod_cidr: None,
            cpus: 0,
            memory_mebibytes: 0,
        });
    }
    Ok(machines)
}

fn host_name(config: &ClusterConfig, host: &Host, role: Role, number: u32) -> String {
    host.name.clone().unwrap_or_else(|| machine_name(&config.name, role, number))
}

fn host_address(host: &Host) -> Result<Ipv4Addr> {
    match host.address {
        std::net::IpAddr::V4(address) => Ok(address),
        std::net::IpAddr::V6(address) => Err(Failure::input(format!(
            "hosts: {address} is an IPv6 address; kdiy supports only IPv4"
        ))
        .hint("set the IPv4 address of the machine")),
    }
}

fn machine_name(cluster: &str, role: Role, number: u32) -> String {
    format!("{cluster}-{}-{number}", role.as_str())
}

fn assign_pod_cidrs(machines: &mut [Machine], pods: Ipv4Net, site: &Site) -> Result<()> {
    let too_small = || {
        Failure::input(format!("network.pods: {pods} has too few /24 networks for the nodes"))
            .hint("each node gets a /24; a /16 has room for 256 nodes")
    };
    let last = site.seats.values().map(|seat| seat.pods).max();
    let mut free = pods
        .subnets(24)
        .map_err(|_| too_small())?
        .filter(|subnet| last.is_none_or(|last| *subnet > last));
    for machine in machines.iter_mut().filter(|machine| machine.role.is_node()) {
        let kept = site.seats.get(&machine.address).map(|seat| seat.pods);
        machine.pod_cidr = Some(kept.or_else(|| free.next()).ok_or_else(too_small)?);
    }
    Ok(())
}

fn endpoint(
    config: &ClusterConfig,
    mode: LoadBalancerMode,
    vip: Option<Ipv4Addr>,
    machines: &[Machine],
) -> Result<Endpoint> {
    let first = |role: Role| {
        machines
            .iter()
            .find(|machine| machine.role == role)
            .map(|machine| machine.address.to_string())
            .ok_or_else(|| Failure::bug(format!("a topology without a {}", role.as_str())))
    };
    let host_of_vip_or = |role: Role| match vip {
        Some(vip) => Ok(vip.to_string()),
        None => first(role),
    };
    match mode {
        LoadBalancerMode::Stacked => {
            Ok(Endpoint { host: host_of_vip_or(Role::Master)?, port: STACKED_LB_PORT })
        }
        LoadBalancerMode::Dedicated => {
            Ok(Endpoint { host: host_of_vip_or(Role::LoadBalancer)?, port: API_PORT })
        }
        LoadBalancerMode::External => {
            let address = config.load_balancer.address.as_deref().unwrap_or_default();
            address
                .rsplit_once(':')
                .and_then(|(host, port)| {
                    Some(Endpoint { host: host.to_owned(), port: port.parse().ok()? })
                })
                .ok_or_else(|| {
                    Failure::input(format!("loadBalancer.address: `{address}` is not HOST:PORT"))
                        .hint("for example 10.0.0.5:6443")
                })
        }
        LoadBalancerMode::None | LoadBalancerMode::Auto => {
            Ok(Endpoint { host: first(Role::Master)?, port: API_PORT })
        }
    }
}

/// The `n`th address of a network, 0 being the network itself.
fn nth(network: Ipv4Net, n: u32) -> Result<Ipv4Addr> {
    u32::from(network.network())
        .checked_add(n)
        .map(Ipv4Addr::from)
        .filter(|address| network.contains(address))
        .ok_or_else(|| {
            Failure::input(format!("{network} is too small: it has no address number {n}"))
        })
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Whether pods reach each other over routes that kdiy itself sets.
pub fn routes_are_ours(config: &ClusterConfig) -> bool {
    config.network.cni == Cni::Bridge
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(config: &ClusterConfig) -> Topology {
        Topology::build(config, "192.168.56.0/24".parse().unwrap()).unwrap()
    }

    #[test]
    fn quorum_is_a_majority() {
        let table: Vec<_> = (1..=7)
            .map(|members| Quorum { members })
            .map(|quorum| (quorum.members, quorum.needed(), quorum.tolerance()))
            .collect();
        assert_eq!(
            table,
            [(1, 1, 0), (2, 2, 0), (3, 2, 1), (4, 3, 1), (5, 3, 2), (6, 4, 2), (7, 4, 3)]
        );
    }

    #[test]
    fn the_default_is_three_stacked_masters_behind_a_vip() {
        let topology = topology(&ClusterConfig::default());
        let seen: Vec<_> = topology
            .machines
            .iter()
            .map(|machine| format!("{} {}", machine.name, machine.address))
            .collect();
        assert_eq!(
            seen,
            [
                "kdiy-master-1 192.168.56.11",
                "kdiy-master-2 192.168.56.12",
                "kdiy-master-3 192.168.56.13",
                "kdiy-worker-1 192.168.56.51",
                "kdiy-worker-2 192.168.56.52",
            ]
        );
        assert_eq!(topology.endpoint.url(), "https://192.168.56.10:8443");
        assert_eq!(topology.group(Group::Etcd).len(), 3);
        assert_eq!(topology.dns_service.to_string(), "10.96.0.10");
    }

    #[test]
    fn a_machine_is_known_by_its_short_name_too() {
        let topology = topology(&ClusterConfig::default());
        for name in ["master-2", "kdiy-master-2"] {
            assert_eq!(topology.named(name).unwrap().name, "kdiy-master-2");
        }
        let failure = topology.named("master-4").unwrap_err().to_string();
        assert!(failure.contains("kdiy-worker-2"), "{failure}");
    }

    #[test]
    fn one_master_needs_no_load_balancer() {
        let topology = topology(&ClusterConfig { masters: 1, ..Default::default() });
        assert_eq!(topology.vip, None);
        assert_eq!(topology.endpoint.url(), "https://192.168.56.11:6443");
        assert!(topology.group(Group::LoadBalancers).is_empty());
    }

    #[test]
    fn the_network_must_have_an_address_for_every_machine() {
        let config = ClusterConfig { workers: u32::MAX, ..Default::default() };
        let failure = Topology::build(&config, Ipv4Net::default()).unwrap_err().to_string();
        assert!(failure.contains("4294967295") && failure.contains("204"), "{failure}");
    }

    #[test]
    fn every_node_has_its_own_pod_network() {
        let topology = topology(&ClusterConfig::default());
        let mut cidrs: Vec<_> =
            topology.group(Group::Nodes).iter().map(|node| node.pod_cidr.unwrap()).collect();
        cidrs.sort();
        cidrs.dedup();
        assert_eq!(cidrs.len(), 5);
    }

    #[test]
    fn who_stays_keeps_name_address_and_network_when_a_worker_leaves() {
        let hosts = |names: &[&str]| {
            let line = |name: &&str| {
                let role = if name.starts_with('w') { "worker" } else { "master" };
                let address = 10 + u32::from(name.as_bytes()[1] - b'0');
                format!("- {{role: {role}, name: {name}, address: 10.0.0.{address}}}\n")
            };
            let lines: String = names.iter().map(line).collect();
            let workers = names.iter().filter(|name| name.starts_with('w')).count();
            let text =
                format!("provider: existing\nmasters: 1\nworkers: {workers}\nhosts:\n{lines}");
            crate::config::parse::parse("test", &text).unwrap()
        };
        let workers = |workers| ClusterConfig { workers, ..Default::default() };
        for (before, gone, after) in [
            (workers(3), "kdiy-worker-1", workers(2)),
            (workers(3), "kdiy-worker-3", workers(2)),
            (hosts(&["w1", "m2", "w3", "w4"]), "w1", hosts(&["m2", "w3", "w4"])),
            (hosts(&["m1", "w2", "w3"]), "w2", hosts(&["m1", "w3"])),
        ] {
            let site = Site::from("10.0.0.0/24".parse::<Ipv4Net>().unwrap());
            let were = Topology::at(&site, &before).unwrap();
            let left = were.without(&BTreeSet::from([gone.to_owned()]));
            assert_eq!(Topology::at(&site.settled(&left), &after).unwrap(), left);
        }
    }

    #[test]
    fn later_machines_come_after_all_others() {
        let site = Site::from("192.168.56.0/24".parse::<Ipv4Net>().unwrap());
        let wanted = |masters, workers| ClusterConfig { masters, workers, ..Default::default() };
        let before = Topology::at(&site, &wanted(3, 3)).unwrap();
        let gone = BTreeSet::from(["kdiy-worker-2".to_owned()]);
        let site = site.settled(&before.without(&gone));
        let after = Topology::at(&site, &wanted(5, 3)).unwrap();
        let seen: Vec<_> = after
            .machines
            .iter()
            .filter(|machine| before.machine(&machine.name) != Some(machine))
            .map(|it| format!("{} {} {}", it.name, it.address, it.pod_cidr.unwrap()))
            .collect();
        assert_eq!(
            seen,
            [
                "kdiy-master-4 192.168.56.14 10.244.6.0/24",
                "kdiy-master-5 192.168.56.15 10.244.7.0/24",
                "kdiy-worker-4 192.168.56.54 10.244.8.0/24",
            ]
        );
        assert_eq!((after.first_members, after.etcd_quorum().members), (3, 5));
        assert_eq!(Topology::at(&site.settled(&after), &wanted(5, 3)).unwrap(), after);
    }

    #[test]
    fn free_places_at_the_end_are_reused() {
        let site = Site::from("192.168.56.0/24".parse::<Ipv4Net>().unwrap());
        let workers = |workers| ClusterConfig { workers, ..Default::default() };
        let before = Topology::at(&site, &workers(2)).unwrap();
        let left = before.without(&BTreeSet::from(["kdiy-worker-2".to_owned()]));
        assert_eq!(Topology::at(&site.settled(&left), &workers(2)).unwrap(), before);
    }

    #[test]
    fn external_etcd_takes_the_members_off_the_masters() {
        let mut config = ClusterConfig::default();
        config.etcd.topology = EtcdTopology::External;
        let topology = topology(&config);
        let members: Vec<_> =
            topology.group(Group::Etcd).iter().map(|member| member.address.to_string()).collect();
        assert_eq!(members, ["192.168.56.21", "192.168.56.22", "192.168.56.23"]);
        assert!(topology.machine("kdiy-etcd-1").unwrap().pod_cidr.is_none());
    }
}
