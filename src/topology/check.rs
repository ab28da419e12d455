//! The rules between the fields of a cluster file. All problems are reported at once.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::config::{
    ClusterConfig, Cni, EtcdTopology, HostRole, LOCAL_PATH, LoadBalancerMode, ProviderChoice,
};
use crate::support::failure::{Failure, Result};
use crate::topology::{Quorum, Topology, resolved_load_balancer};

/// `<cluster>-master-NN` must be a host name, and VRRP and interfaces like short ones.
const LONGEST_NAME: usize = 30;
/// With `system:node:` before it, a name must fit a certificate's common name of 64 characters
/// (RFC 5280, ub-common-name), which openssl holds every request to.
const LONGEST_NODE_NAME: usize = 64 - "system:node:".len();
const MOST_WORKERS: u32 = 150;
/// kube-apiserver takes no service network larger than this (`--service-cluster-ip-range`).
const LARGEST_SERVICES: u8 = 12;
/// The api takes the first address, CoreDNS the tenth; a /24 leaves room for Services.
const SMALLEST_SERVICES: u8 = 24;
/// The last host number that a machine or the virtual address may have is in a /24.
const SMALLEST_MACHINES: u8 = 24;
/// Host-only addresses that VirtualBox allows without further settings (VirtualBox manual, 6.7).
const VIRTUALBOX_RANGE: &str = "192.168.56.0/21";
/// client-go waits up to this much longer than the retry period (leaderelection.JitterFactor).
const JITTER: f64 = 1.2;
const MOST_SLOW: u32 = 100;
const LEAST_MEMORY: u32 = 256;
const LEAST_MASTER_MEMORY: u32 = 1024;

#[derive(Default)]
struct Problems(Vec<(String, String)>);

impl Problems {
    fn add(&mut self, what: impl Into<String>, hint: impl Into<String>) {
        self.0.push((what.into(), hint.into()));
    }

    fn into_result(self) -> Result<()> {
        let mut problems = self.0.into_iter();
        let Some((what, hint)) = problems.next() else { return Ok(()) };
        let mut failure = Failure::input(what).hint(hint);
        for (what, hint) in problems {
            failure.tail.push(format!("{what} ({hint})"));
        }
        Err(failure)
    }
}

/// Everything that can be decided without looking at this computer.
pub fn validate(config: &ClusterConfig) -> Result<()> {
    let mut problems = Problems::default();
    names(config, &mut problems);
    counts(config, &mut problems);
    load_balancer(config, &mut problems);
    timings(config, &mut problems);
    networks(config, &mut problems);
    versions(config, &mut problems);
    machines(config, &mut problems);
    hosts(config, &mut problems);
    ssh(config, &mut problems);
    addons(config, &mut problems);
    pins(config, &mut problems);
    problems.into_result()
}

/// [`validate`] once it is known which network the machines get: a chosen one must fit the rest of
/// the file as one that the file names.
pub fn validate_on(config: &ClusterConfig, machines: Ipv4Net) -> Result<()> {
    let mut config = config.clone();
    config.network.machines.get_or_insert(machines);
    validate(&config)
}

fn is_label(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty()
        && text.len() <= 63
        && text.chars().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn names(config: &ClusterConfig, problems: &mut Problems) {
    if !is_label(&config.name) || config.name.len() > LONGEST_NAME {
        problems.add(
            format!("name: `{}` is not valid in a host name", config.name),
            format!(
                "use up to {LONGEST_NAME} lower-case letters, digits and hyphens, such as homelab"
            ),
        );
    }
    if !config.network.dns_domain.split('.').all(is_label) {
        problems.add(
            format!("network.dnsDomain: `{}` is not a domain", config.network.dns_domain),
            "for example cluster.local",
        );
    }
}

fn quorum_sentence(members: u32) -> String {
    let quorum = Quorum { members };
    format!("{members} tolerate the failure of {} (quorum {})", quorum.tolerance(), quorum.needed())
}

fn counts(config: &ClusterConfig, problems: &mut Problems) {
    let masters = config.masters;
    if masters == 0 {
        problems
            .add("masters: a cluster needs at least one", "use 1 to learn, 3 to survive a failure");
    } else if masters.is_multiple_of(2) {
        problems.add(
            format!("masters: {masters} is even"),
            format!(
                "{}, exactly as {} do, and one more machine can fail; use {} or {}",
                quorum_sentence(masters),
                masters - 1,
                masters - 1,
                masters + 1
            ),
        );
    } else if masters > 7 {
        problems.add(
            format!("masters: {masters} is too many"),
            "every write waits for a majority; 3 tolerate 1 failure, 5 tolerate 2, 7 tolerate 3",
        );
    }
    if config.workers > MOST_WORKERS {
        problems.add(
            format!("workers: {} is too many", config.workers),
            format!("one network has room for {MOST_WORKERS}"),
        );
    }
    if config.etcd.topology == EtcdTopology::External && ![3, 5, 7].contains(&config.etcd.members) {
        problems.add(
            format!("etcd.members: {} is not possible", config.etcd.members),
            format!(
                "external etcd has 3, 5 or 7 members; {}, {}",
                quorum_sentence(2),
                quorum_sentence(3)
            ),
        );
    }
}

fn load_balancer(config: &ClusterConfig, problems: &mut Problems) {
    let settings = &config.load_balancer;
    match resolved_load_balancer(config) {
        LoadBalancerMode::Dedicated if !(1..=2).contains(&settings.machines) => problems.add(
            format!("loadBalancer.machines: {} is not possible", settings.machines),
            "use one machine, or two that share a virtual address",
        ),
        LoadBalancerMode::None if config.masters > 1 => problems.add(
            "loadBalancer.mode: none would send all clients to one of several masters",
            "use stacked, dedicated or external; none is for one master",
        ),
        LoadBalancerMode::External => {
            let address = settings.address.as_deref().unwrap_or_default();
            let valid = address.rsplit_once(':').is_some_and(|(host, port)| {
                port.parse::<u16>().is_ok_and(|port| port > 0)
                    && (host.parse::<Ipv4Addr>().is_ok() || host.split('.').all(is_label))
            });
            if !valid {
                problems.add(
                    format!("loadBalancer.address: `{address}` is not HOST:PORT"),
                    "for example 10.0.0.5:6443",
                );
            }
        }
        _ => {}
    }
    if settings.address.is_some() && settings.mode != LoadBalancerMode::External {
        problems.add(
            "loadBalancer.address: only an external load balancer has an address",
            "set loadBalancer.mode: external, or set loadBalancer.vip instead",
        );
    }
}

fn timings(config: &ClusterConfig, problems: &mut Problems) {
    let election = &config.control_plane.leader_election;
    let (lease, renew, retry) = (
        election.lease_duration.get().as_secs_f64(),
        election.renew_deadline.get().as_secs_f64(),
        election.retry_period.get().as_secs_f64(),
    );
    let hint = "lease duration > renew deadline > retry period × 1.2, such as 15s, 10s, 2s: a \
        holder must give up before another may take its lease";
    if lease <= renew {
        problems.add(
            format!(
                "controlPlane.leaderElection.leaseDuration: {} is not longer than renewDeadline {}",
                election.lease_duration, election.renew_deadline
            ),
            hint,
        );
    }
    if renew <= retry * JITTER || retry <= 0.0 {
        problems.add(
            format!(
                "controlPlane.leaderElection.renewDeadline: {} is not longer than 1.2 × retryPeriod {}",
                election.renew_deadline, election.retry_period
            ),
            hint,
        );
    }
    let (heartbeat, timeout) =
        (config.etcd.heartbeat_interval.get(), config.etcd.election_timeout.get());
    if heartbeat.is_zero()
        || timeout < heartbeat * 5
        || timeout * config.slow_machines > std::time::Duration::from_secs(50)
    {
        problems.add(
            format!(
                "etcd.electionTimeout: {} does not fit heartbeatInterval {}",
                config.etcd.election_timeout, config.etcd.heartbeat_interval
            ),
            "at least five heartbeats and, times slowMachines, at most 50s; etcd's defaults are 100ms and 1s",
        );
    }
    if !(64..=8192).contains(&config.etcd.quota_mebibytes) {
        problems.add(
            format!("etcd.quotaMebibytes: {} is out of range", config.etcd.quota_mebibytes),
            "64 to 8192 (etcd's advised maximum); 2048 is the default",
        );
    }
    if !(1..=MOST_SLOW).contains(&config.slow_machines) {
        problems.add(
            format!("slowMachines: {} is out of range", config.slow_machines),
            format!("1 for ordinary hardware, up to {MOST_SLOW}"),
        );
    }
}

fn networks(config: &ClusterConfig, problems: &mut Problems) {
    let network = &config.network;
    let mut named = vec![("network.pods", network.pods), ("network.services", network.services)];
    named.extend(network.machines.map(|machines| ("network.machines", machines)));
    for (index, (name, net)) in named.iter().enumerate() {
        for (other_name, other) in &named[index + 1..] {
            if net.contains(other) || other.contains(net) {
                problems.add(
                    format!("{name}: {net} overlaps {other_name} {other}"),
                    "the three networks must not overlap, or packets are misrouted",
                );
            }
        }
        if net.addr() != net.network() {
            problems.add(
                format!("{name}: {net} is the address of a host, not of a network"),
                format!("write {}", net.trunc()),
            );
        }
    }
    let services = network.services.prefix_len();
    if !(LARGEST_SERVICES..=SMALLEST_SERVICES).contains(&services) {
        problems.add(
            format!(
                "network.services: /{services} is too {}",
                if services < LARGEST_SERVICES { "large" } else { "small" }
            ),
            format!("use /{LARGEST_SERVICES} to /{SMALLEST_SERVICES}"),
        );
    }
    let nodes = u64::from(config.masters) + u64::from(config.workers);
    let rooms = 1_u64 << 24_u8.saturating_sub(network.pods.prefix_len());
    if network.pods.prefix_len() > 24 || rooms < nodes {
        problems.add(
            format!("network.pods: {} is too small for {nodes} nodes", network.pods),
            "each node gets a /24; a /16 has room for 256 nodes",
        );
    }
    if let Some(machines) = network.machines {
        machine_network(config, machines, problems);
    }
}

fn machine_network(config: &ClusterConfig, machines: Ipv4Net, problems: &mut Problems) {
    if config.provider == ProviderChoice::Existing {
        return;
    }
    if machines.prefix_len() > SMALLEST_MACHINES {
        problems.add(
            format!("network.machines: {machines} is too small"),
            format!("use a /{SMALLEST_MACHINES} or larger"),
        );
        return;
    }
    if !machines.addr().is_private() {
        problems.add(
            format!("network.machines: {machines} is not private"),
            "use one of 10.0.0.0/8, 172.16.0.0/12 and 192.168.0.0/16",
        );
    }
    let allowed: Ipv4Net = VIRTUALBOX_RANGE.parse().unwrap_or_default();
    if config.provider == ProviderChoice::Virtualbox && !allowed.contains(&machines) {
        problems.add(
            format!("network.machines: VirtualBox does not allow {machines}"),
            format!("host-only networks are in {VIRTUALBOX_RANGE}, unless /etc/vbox/networks.conf says more"),
        );
    }
    if let Ok(topology) = Topology::build(config, machines)
        && let Some(vip) = topology.vip
    {
        virtual_address(&topology, vip, problems);
    }
}

fn virtual_address(topology: &Topology, vip: Ipv4Addr, problems: &mut Problems) {
    let network = topology.machine_network;
    let hint = "use another address of the network that is free";
    let gateway = Ipv4Addr::from(u32::from(network.network()) + 1);
    if let Some(machine) = topology.machines.iter().find(|machine| machine.address == vip) {
        problems.add(format!("loadBalancer.vip: {vip} is the address of {}", machine.name), hint);
    } else if !network.contains(&vip) {
        problems.add(
            format!("loadBalancer.vip: {vip} is not in the machines' network {network}"),
            hint,
        );
    } else if vip == network.network() || vip == network.broadcast() || vip == gateway {
        problems.add(
            format!("loadBalancer.vip: {vip} is reserved: network, gateway or broadcast"),
            hint,
        );
    }
}

fn versions(config: &ClusterConfig, problems: &mut Problems) {
    let given = std::iter::once(("kubernetes".to_owned(), &config.kubernetes))
        .chain(config.versions.iter().map(|(name, version)| (format!("versions.{name}"), version)));
    for (field, version) in given {
        if field == "kubernetes" && semver::Version::parse(version).is_err() {
            let hint = match version.strip_prefix('v') {
                Some(rest) => format!("write it without the v: {rest}"),
                None => "write three numbers, such as 1.36.4".into(),
            };
            problems.add(format!("{field}: `{version}` is not a version"), hint);
        } else if !is_version(version) {
            problems.add(
                format!("{field}: `{version}` is not a version"),
                "write numbers and dots, such as 3.6.14",
            );
        }
    }
}

fn machines(config: &ClusterConfig, problems: &mut Problems) {
    let sizes = &config.machines;
    for (name, size, least) in [
        ("master", &sizes.master, LEAST_MASTER_MEMORY),
        ("worker", &sizes.worker, LEAST_MEMORY),
        ("etcd", &sizes.etcd, LEAST_MEMORY),
        ("loadBalancer", &sizes.load_balancer, LEAST_MEMORY),
    ] {
        if size.memory_mebibytes < least || size.cpus == 0 || size.cpus > 256 {
            problems.add(
                format!(
                    "machines.{name}: {} CPUs and {} MiB are not enough",
                    size.cpus, size.memory_mebibytes
                ),
                format!("use at least 1 CPU and {least} MiB"),
            );
        }
    }
    let safe = |text: &String| {
        text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:@".contains(c)) && !text.is_empty()
    };
    for (name, value) in [("box", &sizes.r#box), ("image", &sizes.image)] {
        if let Some(value) = value.as_ref().filter(|value| !safe(value)) {
            problems.add(
                format!("machines.{name}: `{value}` is not a name"),
                "such as bento/debian-12",
            );
        }
    }
}

fn hosts(config: &ClusterConfig, problems: &mut Problems) {
    let existing = config.provider == ProviderChoice::Existing;
    if existing == config.hosts.is_empty() {
        let (what, hint) = if existing {
            (
                "hosts: the list is empty",
                "provider: existing needs the role and the address of each machine",
            )
        } else {
            ("hosts: they need provider: existing", "set provider: existing, or remove hosts")
        };
        problems.add(what, hint);
        return;
    }
    let mut seen = BTreeSet::new();
    for host in &config.hosts {
        if !seen.insert(host.address.to_string()) {
            problems
                .add(format!("hosts: {} is listed twice", host.address), "list each machine once");
        }
        if let Some(name) = &host.name {
            node_name(name, problems);
        }
        let (fits, hint) = match host.role {
            HostRole::Etcd => {
                (config.etcd.topology == EtcdTopology::External, "etcd.topology: external")
            }
            HostRole::LoadBalancer => (
                resolved_load_balancer(config) == LoadBalancerMode::Dedicated,
                "loadBalancer.mode: dedicated",
            ),
            HostRole::Master | HostRole::Worker => (true, ""),
        };
        if !fits {
            problems.add(
                format!("hosts: {} has a role that this cluster does not use", host.address),
                format!("set {hint}, or set another role"),
            );
        }
    }
    if let Some(network) = network_of_hosts(config) {
        hosts_network(config, network, problems);
    }
}

fn node_name(name: &str, problems: &mut Problems) {
    if !is_label(name) {
        problems.add(
            format!("hosts: `{name}` is not a host name"),
            "use lower-case letters, digits and hyphens",
        );
    } else if name.len() > LONGEST_NODE_NAME {
        problems.add(
            format!("hosts: the name {name} has {} letters", name.len()),
            format!(
                "use at most {LONGEST_NODE_NAME}: with `system:node:` before it, it is the common \
                name of the node's certificate, which may have 64 characters"
            ),
        );
    }
}

/// The file's network, or the /24 around the first host.
pub fn network_of_hosts(config: &ClusterConfig) -> Option<Ipv4Net> {
    let first = match config.hosts.first()?.address {
        IpAddr::V4(address) => Ipv4Net::new(address, SMALLEST_MACHINES).ok()?.trunc(),
        IpAddr::V6(_) => return None,
    };
    Some(config.network.machines.unwrap_or(first))
}

fn hosts_network(config: &ClusterConfig, network: Ipv4Net, problems: &mut Problems) {
    let Ok(topology) = Topology::build(config, network) else { return };
    for machine in &topology.machines {
        if topology.machines.iter().filter(|other| other.name == machine.name).count() > 1 {
            problems.add(
                format!("hosts: two have the name {}", machine.name),
                "use a unique name for each",
            );
        }
        if config.network.cni == Cni::Bridge && !network.contains(&machine.address) {
            problems.add(
                format!("hosts: {} is not in the machines' network {network}", machine.address),
                "set network.machines to the network that all of them share, or network.cni: \
                flannel if they share none",
            );
        }
    }
    let Some(vip) = topology.vip else { return };
    if config.load_balancer.vip.is_none() {
        problems.add(
            "loadBalancer.vip: several load balancers on existing machines need a virtual address",
            format!("set an address of {network} that is free and that DHCP does not assign"),
        );
    } else {
        virtual_address(&topology, vip, problems);
    }
}

/// What ssh is given must not look like one of its options, nor like two words.
fn ssh(config: &ClusterConfig, problems: &mut Problems) {
    let plain = |text: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-:%@,[]".contains(c))
    };
    for host in &config.hosts {
        let settings = &host.ssh;
        for (name, value) in
            [("host", &settings.host), ("user", &settings.user), ("jump", &settings.jump)]
        {
            if let Some(value) = value.as_ref().filter(|value| !plain(value)) {
                problems.add(
                    format!(
                        "hosts: {}: ssh.{name}: `{}` is not a name",
                        host.address,
                        value.escape_debug()
                    ),
                    "write it as for ssh: a host or user name, for jump also user@host:port",
                );
            }
        }
    }
}

fn addons(config: &ClusterConfig, problems: &mut Problems) {
    for addon in &config.addons {
        if addon == LOCAL_PATH
            || addon.starts_with("https://")
            || std::path::Path::new(addon).is_file()
        {
            continue;
        }
        let scheme = addon.split_once("://").map(|(scheme, _)| scheme);
        let (what, hint) = match scheme {
            Some("http") => {
                (format!("`{addon}` is not an add-on"), "kdiy downloads manifests over https only")
            }
            Some(_) => (
                format!("`{addon}` is not an add-on"),
                "write an https URL, or the path of a manifest",
            ),
            None => {
                let at = std::path::absolute(addon).unwrap_or_else(|_| addon.into());
                (
                    format!("there is no file {}", at.display()),
                    "write local-path, an https URL, or the path of a manifest, relative to the \
                    cluster file",
                )
            }
        };
        problems.add(format!("addons: {what}"), hint);
    }
}

fn pins(config: &ClusterConfig, problems: &mut Problems) {
    let is_sha256 = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    for (name, pin) in &config.artifacts.pins {
        let field = format!("artifacts.pins.{name}");
        if !is_version(&pin.version) {
            problems.add(
                format!("{field}.version: `{}` is not a version", pin.version),
                "write numbers and dots, such as 3.6.14",
            );
        }
        if config.versions.get(name).is_some_and(|version| *version != pin.version) {
            problems.add(
                format!("{field}.version: {} differs from versions.{name}", pin.version),
                "set the version in one of the two places",
            );
        }
        for (arch, digest) in &pin.sha256 {
            if !["amd64", "arm64"].contains(&arch.as_str()) || !is_sha256(digest) {
                problems.add(
                    format!(
                        "{field}.sha256: `{arch}: {digest}` is not the digest of a release file"
                    ),
                    "write amd64 or arm64, and the 64 hex digits that `sha256sum` prints",
                );
            }
        }
        if let Some(digest) = &pin.digest
            && !digest.strip_prefix("sha256:").is_some_and(is_sha256)
        {
            problems.add(
                format!("{field}.digest: `{digest}` is not the digest of an image"),
                "write `sha256:` and 64 hex digits, as the registry shows it",
            );
        }
    }
}

fn is_version(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c))
}

/// A network for where it does not matter which, such as to count machines.
pub fn placeholder() -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 56, 0), SMALLEST_MACHINES)
}

/// The first /24 of VirtualBox's range that neither another cluster nor this computer uses.
pub fn choose_machine_network(used: &[Ipv4Net]) -> Result<Ipv4Net> {
    let range: Ipv4Net = VIRTUALBOX_RANGE.parse().unwrap_or_default();
    let free = |candidate: &Ipv4Net| {
        !used.iter().any(|other| other.contains(candidate) || candidate.contains(other))
    };
    range.subnets(SMALLEST_MACHINES).ok().and_then(|mut subnets| subnets.find(free)).ok_or_else(
        || {
            Failure::host(format!("no network is free in {VIRTUALBOX_RANGE}"))
                .hint("destroy a cluster, or set network.machines")
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Pin, Span};

    fn complaint(change: impl Fn(&mut ClusterConfig)) -> String {
        let mut config = ClusterConfig::default();
        change(&mut config);
        validate(&config).map_or_else(|failure| failure.to_string(), |()| "fine".into())
    }

    fn pin(config: &mut ClusterConfig, arch: &str, digest: &str) {
        let pin = Pin {
            version: "3.6.99".into(),
            sha256: [(arch.to_owned(), digest.to_owned())].into(),
            digest: None,
        };
        config.artifacts.pins.insert("etcd".into(), pin);
    }

    #[test]
    fn the_defaults_are_fine() {
        assert_eq!(complaint(|_| {}), "fine");
    }

    #[test]
    fn an_even_number_of_masters_is_explained() {
        let text = complaint(|c| c.masters = 4);
        assert!(text.contains("4 tolerate the failure of 1 (quorum 3), exactly as 3 do"), "{text}");
    }

    #[test]
    fn each_field_that_is_wrong_is_named() {
        type Change = fn(&mut ClusterConfig);
        let cases: [(&str, Change); 27] = [
            ("masters:", |c| c.masters = 0),
            ("masters:", |c| c.masters = 9),
            ("workers:", |c| c.workers = 100_000),
            ("masters:", |c| {
                c.masters = u32::MAX;
                c.network.machines = "0.0.0.0/0".parse().ok();
            }),
            ("slowMachines:", |c| {
                c.slow_machines = u32::MAX;
                c.etcd.election_timeout = "8760h".parse().unwrap();
            }),
            ("name:", |c| c.name = "Über".into()),
            ("name:", |c| c.name = "a; rm -rf /".into()),
            ("etcd.members:", |c| {
                c.etcd.topology = EtcdTopology::External;
                c.etcd.members = 2;
            }),
            ("etcd.electionTimeout:", |c| c.etcd.election_timeout = Span::from_millis(200)),
            ("network.pods:", |c| c.network.pods = "10.96.0.0/12".parse().unwrap()),
            ("network.pods:", |c| c.network.pods = "10.244.0.0/23".parse().unwrap()),
            ("network.services:", |c| c.network.services = "10.96.0.0/28".parse().unwrap()),
            ("network.machines:", |c| c.network.machines = "192.168.56.0/28".parse().ok()),
            ("network.machines:", |c| c.network.machines = "8.8.8.0/24".parse().ok()),
            ("network.machines: VirtualBox", |c| {
                c.provider = ProviderChoice::Virtualbox;
                c.network.machines = "10.0.0.0/24".parse().ok();
            }),
            ("address of kdiy-master-1", |c| {
                c.network.machines = "192.168.56.0/24".parse().ok();
                c.load_balancer.vip = "192.168.56.11".parse().ok();
            }),
            ("loadBalancer.mode: none", |c| c.load_balancer.mode = LoadBalancerMode::None),
            ("loadBalancer.address:", |c| c.load_balancer.mode = LoadBalancerMode::External),
            ("leaseDuration:", |c| {
                c.control_plane.leader_election.lease_duration = Span::from_secs(10);
            }),
            ("renewDeadline:", |c| {
                c.control_plane.leader_election.retry_period = Span::from_secs(9);
            }),
            ("kubernetes: `v1.36.4` is not a version; hint", |c| c.kubernetes = "v1.36.4".into()),
            ("hosts:", |c| c.provider = ProviderChoice::Existing),
            ("addons:", |c| c.addons = vec!["http://example.com/a.yaml".into()]),
            ("artifacts.pins.etcd.sha256:", |c| pin(c, "amd64", "12")),
            ("artifacts.pins.etcd.sha256:", |c| pin(c, "mips", &"0".repeat(64))),
            ("artifacts.pins.etcd.version:", |c| {
                pin(c, "amd64", &"0".repeat(64));
                c.versions.insert("etcd".into(), "3.6.14".into());
            }),
            ("slowMachines:", |c| c.slow_machines = 0),
        ];
        for (expected, change) in cases {
            let text = complaint(change).replace("\n  hint: ", "; hint ");
            let wanted = expected.trim_end_matches("; hint");
            assert!(text.contains(wanted), "{expected}: {text}");
        }
    }

    #[test]
    fn hosts_that_make_no_cluster_are_refused_with_the_reason() {
        let complaint = |more: &str| {
            let text = format!("provider: existing\nmasters: 3\nworkers: 0\nhosts:\n{more}");
            let config = crate::config::parse::parse("test", &text).unwrap();
            validate(&config).map_or_else(|failure| failure.to_string(), |()| "fine".into())
        };
        let masters = "- {role: master, address: 10.0.0.1}\n- {role: master, address: 10.0.0.2}\n\
                       - {role: master, address: 10.0.0.3}\n";
        let vip = "loadBalancer: {vip: 10.0.0.9}\n";
        assert_eq!(complaint(&format!("{masters}{vip}")), "fine");
        for (more, expected) in [
            ("", "loadBalancer.vip: several"),
            ("loadBalancer: {vip: 10.0.0.2}\n", "address of kdiy-master-2"),
            ("loadBalancer: {vip: 10.0.1.9}\n", "not in the machines' network 10.0.0.0/24"),
            ("- {role: etcd, address: 10.0.0.4}\n", "etcd.topology: external"),
            ("- {role: load-balancer, address: 10.0.0.4}\n", "loadBalancer.mode: dedicated"),
            ("- {role: worker, address: 10.0.1.4}\n", "network.machines"),
            (
                "- {role: worker, address: 10.0.0.4, \
                 name: a2345678901234567890123456789012345678901234567890123}\n",
                "has 53 letters",
            ),
            ("- {role: worker, name: kdiy-master-1, address: 10.0.0.4}\n", "two have the name"),
            ("- {role: worker, address: 10.0.0.1}\n", "listed twice"),
        ] {
            let text = complaint(&format!("{masters}{more}"));
            assert!(text.contains(expected), "{more}: {text}");
        }
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let text = complaint(|c| {
            c.masters = 2;
            c.workers = 100_000;
        });
        assert!(text.contains("masters:") && text.contains("workers:"), "{text}");
    }

    #[test]
    fn clusters_get_networks_of_their_own() {
        let used = ["192.168.56.0/24".parse().unwrap(), "192.168.57.0/25".parse().unwrap()];
        assert_eq!(choose_machine_network(&used).unwrap().to_string(), "192.168.58.0/24");
        assert!(choose_machine_network(&["192.168.0.0/16".parse().unwrap()]).is_err());
    }
}
