//! Machines, roles and addresses, computed from a validated cluster file. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::config::{
    ClusterConfig, Cni, EtcdTopology, Host, HostRole, LoadBalancerMode, ProviderChoice,
};
use crate::failure::{Failure, Result, closest};

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
}

/// Where machines are laid out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Site {
    /// The cluster file's, or the one that was chosen for this cluster.
    pub machine_network: Ipv4Net,
    /// Places among nodes, from 0, of workers that were taken out. Nobody else gets their pods'
    /// networks; of machines that kdiy makes also their names and addresses.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    vacant: BTreeSet<u32>,
}

impl From<Ipv4Net> for Site {
    fn from(machine_network: Ipv4Net) -> Self {
        Self { machine_network, vacant: BTreeSet::new() }
    }
}

impl Site {
    /// Of nodes, in their order.
    fn places(&self) -> impl Iterator<Item = u32> {
        (0..).filter(|place| !self.vacant.contains(place))
    }

    /// Without the `index`th of so many nodes. What comes after the others is free again.
    pub fn vacate(&mut self, index: usize, nodes: usize) {
        let mut places: Vec<u32> = self.places().take(nodes).collect();
        self.vacant.insert(places.remove(index));
        self.vacant.retain(|place| places.last().is_some_and(|last| place < last));
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
        Ok(Self {
            cluster: config.name.clone(),
            machines,
            machine_network,
            etcd: config.etcd.topology,
            load_balancer: mode,
            vip,
            endpoint,
            api_service: nth(config.network.services, 1)?,
            dns_service: nth(config.network.services, 10)?,
        })
    }

    /// The same cluster, of whose machines these are left out.
    pub fn without(&self, names: &BTreeSet<String>) -> Self {
        let machines = self.machines.iter().filter(|machine| !names.contains(&machine.name));
        Self { machines: machines.cloned().collect(), ..self.clone() }
    }

    pub fn group(&self, group: Group) -> Vec<&Machine> {
        self.machines.iter().filter(|machine| self.is_in(machine, group)).collect()
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
    for (role, wanted, offset, size) in [
        (Role::Master, config.masters, MASTER_OFFSET, &sizes.master),
        (Role::Etcd, etcd, ETCD_OFFSET, &sizes.etcd),
        (Role::LoadBalancer, balancers, LB_OFFSET, &sizes.load_balancer),
        (Role::Worker, config.workers, WORKER_OFFSET, &sizes.worker),
    ] {
        let is_vacant =
            |number| role == Role::Worker && site.vacant.contains(&(config.masters + number - 1));
        let mut numbers: Vec<u32> =
            (1..=LAST_OFFSET - offset + 1).filter(|number| !is_vacant(*number)).collect();
        if wanted > count(numbers.len()) {
            let role = role.as_str();
            return Err(Failure::input(format!(
                "{wanted} machines of the role {role} are too many"
            ))
            .hint(format!("there are addresses for {}", numbers.len())));
        }
        numbers.truncate(wanted as usize);
        for number in numbers {
            machines.push(Machine {
                name: machine_name(&config.name, role, number),
                role,
                number,
                address: nth(site.machine_network, offset + number - 1)?,
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
    let mut places = site.places();
    for host in &config.hosts {
        let role = Role::from(host.role);
        let place = if role.is_node() { places.next() } else { None };
        let left = match (role, place) {
            (Role::Worker, Some(place)) => site.vacant.range(..place).count(),
            _ => 0,
        };
        let before = machines.iter().filter(|other| other.role == role).count();
        let number = 1 + count(before + left);
        machines.push(Machine {
            name: host_name(config, host, role, number),
            role,
            number,
            address: host_address(host)?,
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
            "hosts: {address} is an IPv6 address; clusters are IPv4 for now"
        ))
        .hint("give the machine's IPv4 address")),
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
    let subnets = pods.subnets(24).map_err(|_| too_small())?.zip(0..);
    let mut subnets = subnets.filter(|(_, place)| !site.vacant.contains(place));
    for machine in machines.iter_mut().filter(|machine| machine.role.is_node()) {
        machine.pod_cidr = Some(subnets.next().ok_or_else(too_small)?.0);
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
        .ok_or_else(|| Failure::input(format!("{network} has no address number {n}: too small")))
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
    fn no_more_machines_are_laid_out_than_there_are_addresses_for() {
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
    fn nobody_moves_into_the_place_of_a_worker_that_left() {
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
            let mut site = Site::from("10.0.0.0/24".parse::<Ipv4Net>().unwrap());
            let were = Topology::at(&site, &before).unwrap();
            let nodes = were.group(Group::Nodes);
            let index = nodes.iter().position(|node| node.name == gone).unwrap();
            site.vacate(index, nodes.len());
            let are = Topology::at(&site, &after).unwrap();
            assert_eq!(are, were.without(&BTreeSet::from([gone.to_owned()])));
        }
    }

    #[test]
    fn places_at_the_end_are_taken_again() {
        let network = "192.168.56.0/24".parse::<Ipv4Net>().unwrap();
        let mut site = Site::from(network);
        site.vacate(3, 5);
        let workers = |site: &Site, workers| {
            let config = ClusterConfig { workers, ..Default::default() };
            let topology = Topology::at(site, &config).unwrap();
            let workers = topology.group(Group::Workers).into_iter();
            workers.map(|machine| machine.number).collect::<Vec<_>>()
        };
        assert_eq!(workers(&site, 2), [2, 3]);
        site.vacate(3, 4);
        assert_eq!(site, Site::from(network));
        assert_eq!(workers(&site, 2), [1, 2]);
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
