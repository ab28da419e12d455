//! The cluster file: what a user writes, with its defaults.
//!
//! The rules between fields live in `check`; a value that passed them is safe to build a
//! topology from.

pub mod duration;
pub mod flags;
pub mod parse;
pub mod sample;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use duration::Span;

/// The add-on that kdiy brings along.
pub const LOCAL_PATH: &str = "local-path";

/// The whole cluster file. Every key is optional; an empty file is 3 masters and 2 workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ClusterConfig {
    /// Cluster name: a DNS label, prefix of every machine's name. Each name has its own state.
    pub name: String,
    /// What creates the machines.
    pub provider: ProviderChoice,
    /// Control-plane machines: 1, 3, 5 or 7.
    pub masters: u32,
    /// Machines that run only workloads.
    pub workers: u32,
    /// Kubernetes version, without the leading `v`.
    pub kubernetes: String,
    /// Versions of other components, by artifact name; others come from the tested matrix in
    /// `playbooks/artifacts.yaml`.
    pub versions: BTreeMap<String, String>,
    pub etcd: Etcd,
    pub load_balancer: LoadBalancer,
    pub control_plane: ControlPlane,
    pub network: Network,
    pub machines: Machines,
    pub artifacts: Artifacts,
    /// Cluster add-ons: `local-path`, the path of a manifest file, or its https URL with its digest:
    /// `https://…/addon.yaml#sha256=…`.
    pub addons: Vec<String>,
    /// Multiplies every deadline and etcd's timeouts; 1 for ordinary hardware, 10 or more for
    /// emulated or very old machines.
    pub slow_machines: u32,
    /// The machines themselves, for `provider: existing` only.
    pub hosts: Vec<Host>,
}

impl ClusterConfig {
    /// Add-ons of the user: paths and URLs of manifests.
    pub fn own_addons(&self) -> impl Iterator<Item = &String> {
        self.addons.iter().filter(|addon| *addon != LOCAL_PATH)
    }

    /// Whether masters take ordinary pods. Without workers these would have nowhere else to run.
    pub fn masters_take_pods(&self) -> bool {
        self.control_plane.schedulable.unwrap_or(self.workers == 0)
    }

    /// With what it leaves to its other keys said, as templates read it and records keep it.
    pub fn settled(mut self) -> Self {
        self.control_plane.schedulable = Some(self.masters_take_pods());
        self
    }
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            name: "kdiy".into(),
            provider: ProviderChoice::Auto,
            masters: 3,
            workers: 2,
            kubernetes: "1.36.4".into(),
            versions: BTreeMap::new(),
            etcd: Etcd::default(),
            load_balancer: LoadBalancer::default(),
            control_plane: ControlPlane::default(),
            network: Network::default(),
            machines: Machines::default(),
            artifacts: Artifacts::default(),
            addons: vec![LOCAL_PATH.into()],
            slow_machines: 1,
            hosts: Vec::new(),
        }
    }
}

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[clap(rename_all = "snake_case")]
pub enum ProviderChoice {
    /// The first provider below that this computer can use.
    Auto,
    Libvirt,
    Virtualbox,
    VmwareDesktop,
    Parallels,
    /// System containers: fast, and enough to learn and test with.
    Docker,
    /// Existing machines, reached over SSH (`hosts:`).
    Existing,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Etcd {
    /// `stacked` runs a member on every master, `external` on machines of its own.
    pub topology: EtcdTopology,
    /// Members, for `external` only: 3, 5 or 7.
    pub members: u32,
    /// Interval of the leader's heartbeats. etcd's default; about the round-trip time between
    /// members (etcd docs, "Tuning").
    pub heartbeat_interval: Span,
    /// Time without a heartbeat after which a follower starts an election; at least five
    /// heartbeats, at most 50 s (etcd docs, "Tuning").
    pub election_timeout: Span,
    /// Database size at which etcd refuses writes, in MiB (etcd's default 2048, advised maximum
    /// 8192).
    pub quota_mebibytes: u32,
    /// Age of the revisions that the periodic auto-compaction keeps.
    pub compaction_retention: Span,
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            topology: EtcdTopology::Stacked,
            members: 3,
            heartbeat_interval: Span::from_millis(100),
            election_timeout: Span::from_millis(1000),
            quota_mebibytes: 2048,
            compaction_retention: Span::from_secs(3600),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EtcdTopology {
    Stacked,
    External,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LoadBalancer {
    /// The load balancer in front of the API servers. `auto`: `stacked` for more than one master,
    /// `none` for one.
    pub mode: LoadBalancerMode,
    /// Machines for `dedicated`: 1, or 2 with a virtual address.
    pub machines: u32,
    /// HOST:PORT of an existing load balancer, for `external`.
    pub address: Option<String>,
    /// The virtual address; by default the tenth address of the machines' network.
    pub vip: Option<std::net::Ipv4Addr>,
}

impl Default for LoadBalancer {
    fn default() -> Self {
        Self { mode: LoadBalancerMode::Auto, machines: 1, address: None, vip: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LoadBalancerMode {
    Auto,
    Stacked,
    Dedicated,
    External,
    None,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ControlPlane {
    pub leader_election: LeaderElection,
    /// Let ordinary pods run on masters (no taint). By default only if the cluster is created
    /// without workers.
    pub schedulable: Option<bool>,
}

/// The lease of kube-controller-manager and kube-scheduler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LeaderElection {
    /// How long a lease is valid after its last renewal (`--leader-elect-lease-duration`).
    pub lease_duration: Span,
    /// How long the holder tries to renew before it gives up (`--leader-elect-renew-deadline`).
    pub renew_deadline: Span,
    /// How often the holder and the standbys try (`--leader-elect-retry-period`).
    pub retry_period: Span,
}

impl Default for LeaderElection {
    fn default() -> Self {
        Self {
            lease_duration: Span::from_secs(15),
            renew_deadline: Span::from_secs(10),
            retry_period: Span::from_secs(2),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Network {
    /// The network between the machines (IPv4, /24 or larger). By default the first /24 in
    /// 192.168.56.0/21 that no other cluster of this computer uses.
    #[schemars(with = "Option<String>")]
    pub machines: Option<Ipv4Net>,
    /// Pod addresses; each node gets a /24 of it.
    #[schemars(with = "String")]
    pub pods: Ipv4Net,
    /// Service addresses.
    #[schemars(with = "String")]
    pub services: Ipv4Net,
    pub dns_domain: String,
    pub cni: Cni,
    pub kube_proxy: KubeProxyMode,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            machines: None,
            pods: "10.244.0.0/16".parse().expect("constant"),
            services: "10.96.0.0/16".parse().expect("constant"),
            dns_domain: "cluster.local".into(),
            cni: Cni::Bridge,
            kube_proxy: KubeProxyMode::Nftables,
        }
    }
}

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Cni {
    /// A bridge on each machine and a route to each other machine's pods.
    Bridge,
    /// flannel's vxlan, as a service on each machine.
    Flannel,
    /// None: list the manifests of your own network in `addons`.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KubeProxyMode {
    Nftables,
    Iptables,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Machines {
    pub master: MachineSize,
    pub worker: MachineSize,
    pub etcd: MachineSize,
    pub load_balancer: MachineSize,
    /// Vagrant box, instead of the provider's default.
    pub r#box: Option<String>,
    /// Image for `provider: docker`; by default kdiy builds its own.
    pub image: Option<String>,
}

impl Default for Machines {
    fn default() -> Self {
        Self {
            master: MachineSize { cpus: 2, memory_mebibytes: 2048 },
            worker: MachineSize { cpus: 2, memory_mebibytes: 2048 },
            etcd: MachineSize { cpus: 1, memory_mebibytes: 1024 },
            load_balancer: MachineSize { cpus: 1, memory_mebibytes: 512 },
            r#box: None,
            image: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MachineSize {
    pub cpus: u32,
    pub memory_mebibytes: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Artifacts {
    /// Directory or URL laid out like the release servers: `<mirror>/<host>/<path>`.
    pub mirror: Option<String>,
    /// `sha256sum`-style file that replaces the pinned digests, for mirrors of rebuilt files.
    pub digests: Option<PathBuf>,
    /// Releases whose digests kdiy does not know, by artifact or image name; each sets the version
    /// as `versions` does.
    pub pins: BTreeMap<String, Pin>,
}

/// A release and its digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Pin {
    pub version: String,
    /// SHA-256 of the release file, in hex, by architecture (`amd64`, `arm64`); for artifacts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sha256: BTreeMap<String, String>,
    /// `sha256:` and 64 hex digits: the digest of the image's index, for all architectures; for
    /// images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// One existing machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Host {
    pub role: HostRole,
    /// Address on the network that the cluster uses; also for SSH, unless `ssh.host` is set.
    pub address: IpAddr,
    /// Name of the Node and the etcd member, at most 52 letters; by default
    /// `<cluster>-<role>-<number>`. kdiy does not change the machine's own host name.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub ssh: HostSsh,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HostRole {
    Master,
    Worker,
    Etcd,
    LoadBalancer,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct HostSsh {
    /// Name or address to connect to; an alias of `~/.ssh/config` works.
    pub host: Option<String>,
    pub user: Option<String>,
    pub port: Option<u16>,
    pub key: Option<PathBuf>,
    /// Bastion, as in ssh's `-J`. Its own key and port come from the ssh configuration.
    pub jump: Option<String>,
    /// An ssh configuration file to read instead of `~/.ssh/config`.
    pub config: Option<PathBuf>,
    /// Accept and remember an unknown host key. A changed host key is always refused.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub accept_new_host_key: bool,
    /// `sudo` asks for a password: kdiy asks you once, or reads it from `$KDIY_SUDO_PASSWORD` or
    /// from the file (0600) that `$KDIY_SUDO_PASSWORD_FILE` names.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sudo_password: bool,
}
