//! Checks whether existing machines can become a cluster, and reports every problem at once, before
//! anything changes on any of them. Pure; [`probe`] asks the machines.

pub mod networks;
pub mod probe;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::support::failure::Failure;
use crate::topology::architecture::{self, Architectures};
use crate::topology::ownership::{self, Ownership};
use crate::topology::{Group, Machine, Role, Topology};
use crate::transport::clock_skew::{self, MOST_SKEW};

/// The certificates that this computer makes begin to be valid by its clock.
const MOST_SKEW_FROM_HERE: f64 = 60.0;
/// etcd's advice is a 99th percentile below 10 ms (etcd docs, "Hardware recommendations"); the
/// mean of a few writes is below that. From the second one on, elections are to be expected.
const SLOW_FSYNC_MS: f64 = 10.0;
const HOPELESS_FSYNC_MS: f64 = 100.0;
/// What components were seen to take, in MiB, with room for the system: less cannot work.
const MASTER_MEMORY: u64 = 1100;
const NODE_MEMORY: u64 = 600;
const OTHER_MEMORY: u64 = 300;
/// What kdiy installs on a master, in MiB, with room for etcd and the first pods.
const DISK: u64 = 3000;
/// For kube-proxy's mode nftables (Kubernetes docs, "Virtual IPs and Service Proxies").
const OLDEST_NFT: semver::Version = semver::Version::new(1, 0, 1);
/// sshd takes ten unless it is told otherwise (`MaxSessions`, sshd_config(5)); kdiy uses eight.
const FEW_SESSIONS: f64 = 8.0;
/// The systems that kdiy is made for, as os-release(5) spells them.
const SUPPORTED: [&str; 6] =
    ["debian 12", "debian 13", "ubuntu 22.04", "ubuntu 24.04", "rocky 9", "almalinux 9"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It would not work, or destroy something.
    Stops,
    /// Good to know.
    Warns,
}

/// Something about a machine that its owner should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub machine: String,
    pub weight: Severity,
    pub what: String,
    /// The command or action that mends it.
    pub mend: String,
}

/// All that was found, and what kinds of machines these are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub problems: Vec<Problem>,
    pub architectures: Architectures,
}

/// What a machine said of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    fields: BTreeMap<String, Vec<String>>,
    /// How far its clock is ahead of this computer's, in seconds.
    offset: Option<f64>,
    /// Machines whose ports it does not reach.
    pub closed: Vec<String>,
    /// The id of the cluster that asks; empty before it was begun.
    pub cluster_id: String,
    /// Why it forwards no ports over SSH, where it does not.
    pub no_forwarding: Option<String>,
    /// Whether this computer gets through to a port of it without SSH.
    pub within_reach: bool,
}

impl Answer {
    /// `None` when the answer is not whole.
    pub fn parse(text: &str, offset: Option<f64>) -> Option<Self> {
        let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in text.lines().filter_map(|line| line.trim_end().split_once('=')) {
            fields.entry(key.to_owned()).or_default().push(value.trim().to_owned());
        }
        fields.contains_key("done").then_some(Self { fields, offset, ..Self::default() })
    }

    fn all(&self, key: &str) -> &[String] {
        self.fields.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    fn one(&self, key: &str) -> &str {
        self.all(key).first().map(String::as_str).unwrap_or_default()
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.one(key).parse().ok()
    }

    fn architecture(&self) -> Option<&'static str> {
        architecture::named(self.one("arch"))
    }

    fn has(&self, key: &str, value: &str) -> bool {
        self.all(key).iter().any(|other| other == value)
    }
}

impl Report {
    pub fn stops(&self) -> bool {
        self.problems.iter().any(|problem| problem.weight == Severity::Stops)
    }

    /// `answers` are in the topology's order. Machines that have `joined` the cluster already are
    /// judged only by whether they and the others reach each other.
    pub fn of(
        topology: &Topology,
        answers: &[Result<Answer, Failure>],
        joined: &BTreeSet<String>,
    ) -> Self {
        let is_new = |machine: &Machine| !joined.contains(&machine.name);
        let mut report = Self::default();
        let mut answered = Vec::new();
        for (machine, answer) in topology.machines.iter().zip(answers) {
            match answer {
                Ok(answer) => answered.push((machine, answer)),
                Err(failure) if is_new(machine) => report.unreachable(machine, failure),
                // How the cluster stands without it is for `up` to say.
                Err(_) => {}
            }
        }
        for (machine, answer) in &answered {
            let mut look = Look { report: &mut report, topology, machine, answer, joined };
            look.reach();
            if is_new(machine) {
                look.account();
                look.system();
                look.kernel();
                look.resources();
                look.occupied();
                look.firewall();
            }
        }
        report.architectures = answered
            .iter()
            .filter_map(|(machine, answer)| {
                Some((machine.name.clone(), answer.architecture()?.to_owned()))
            })
            .collect();
        report.clashes(&answered);
        report.ways(&answered);
        report.clocks(&answered, is_new);
        report.in_order(topology);
        report
    }

    /// By machine, the worst first.
    fn in_order(&mut self, topology: &Topology) {
        let order = |name: &str| topology.machines.iter().position(|other| other.name == name);
        self.problems.sort_by_key(|problem| (order(&problem.machine), problem.weight));
    }

    /// Of nodes that are new, where kube-proxy is to write its rules with nft.
    pub fn check_nft(
        &mut self,
        topology: &Topology,
        answers: &[Result<Answer, Failure>],
        joined: &BTreeSet<String>,
    ) {
        for (machine, answer) in topology.machines.iter().zip(answers) {
            let Ok(answer) = answer else { continue };
            let version = answer.one("nft").trim_start_matches('v');
            let is_old = semver::Version::parse(version).is_ok_and(|version| version < OLDEST_NFT);
            let is_node = topology.is_in(machine, Group::Nodes);
            if is_old && is_node && !joined.contains(&machine.name) {
                let what = format!("its nft is {version}; kube-proxy needs {OLDEST_NFT} or newer");
                let mend = "set network.kubeProxy: iptables, or use a newer system";
                self.add(machine, Severity::Stops, what, mend.into());
            }
        }
        self.in_order(topology);
    }

    fn add(&mut self, machine: &Machine, weight: Severity, what: String, mend: String) {
        self.problems.push(Problem { machine: machine.name.clone(), weight, what, mend });
    }

    fn unreachable(&mut self, machine: &Machine, failure: &Failure) {
        let cause = failure.cause.as_deref().and_then(|cause| cause.lines().last());
        let what = match cause {
            Some(cause) => format!("{}: {cause}", failure.what),
            None => failure.what.clone(),
        };
        self.add(machine, Severity::Stops, what, failure.hints.join("; "));
    }

    /// What must be different on each machine.
    fn clashes(&mut self, answered: &[(&Machine, &Answer)]) {
        for (key, called, mend) in [
            ("hostname", "host name", "hostnamectl set-hostname NAME"),
            (
                "machine_id",
                "machine id",
                "a cloned disk: rm /etc/machine-id; systemd-machine-id-setup; reboot",
            ),
            ("mac", "MAC address", "give the virtual machine a unique MAC address"),
        ] {
            for (index, (machine, answer)) in answered.iter().enumerate() {
                let value = answer.one(key);
                let same = |(_, other): &&(&Machine, &Answer)| other.one(key) == value;
                if let Some((other, _)) = answered[..index].iter().find(same) {
                    let what = format!("its {called} {value} is also that of {}", other.name);
                    self.add(machine, Severity::Stops, what, mend.into());
                }
            }
        }
    }

    /// kdiy talks to the api directly, or by a port that any one machine forwards.
    fn ways(&mut self, answered: &[(&Machine, &Answer)]) {
        if answered.iter().any(|(_, answer)| answer.no_forwarding.is_none()) {
            return;
        }
        for (machine, answer) in answered.iter().filter(|(_, answer)| !answer.within_reach) {
            let reason = answer.no_forwarding.as_deref().unwrap_or_default();
            self.add(
                machine,
                Severity::Stops,
                format!("{reason}, and this computer cannot reach {} directly", machine.address),
                "in /etc/ssh/sshd_config: AllowTcpForwarding local, and no PermitOpen for this \
                 user; then systemctl reload ssh (Debian, Ubuntu) or sshd"
                    .into(),
            );
        }
    }

    fn clocks(&mut self, answered: &[(&Machine, &Answer)], is_judged: impl Fn(&Machine) -> bool) {
        let offsets = answered.iter().filter_map(|(_, answer)| answer.offset);
        let Some(median) = clock_skew::median(offsets) else { return };
        for (machine, answer) in answered.iter().filter(|(machine, _)| is_judged(machine)) {
            let Some(offset) = answer.offset else { continue };
            let mend = "timedatectl set-ntp true".to_owned();
            if (offset - median).abs() > MOST_SKEW {
                let what =
                    format!("its clock differs from the others by {:+.1} s", offset - median);
                self.add(machine, Severity::Stops, what, mend);
            } else if offset.abs() > MOST_SKEW_FROM_HERE {
                let what = format!("its clock differs from this computer's by {offset:+.0} s");
                self.add(
                    machine,
                    Severity::Stops,
                    what,
                    format!("{mend}, on the machine or on this computer"),
                );
            }
        }
    }
}

/// One machine that is looked at.
struct Look<'a> {
    report: &'a mut Report,
    topology: &'a Topology,
    machine: &'a Machine,
    answer: &'a Answer,
    joined: &'a BTreeSet<String>,
}

impl Look<'_> {
    fn stop(&mut self, what: impl Into<String>, mend: impl Into<String>) {
        self.report.add(self.machine, Severity::Stops, what.into(), mend.into());
    }

    fn warn(&mut self, what: impl Into<String>, mend: impl Into<String>) {
        self.report.add(self.machine, Severity::Warns, what.into(), mend.into());
    }

    fn is(&self, group: Group) -> bool {
        self.topology.is_in(self.machine, group)
    }

    fn system(&mut self) {
        let answer = self.answer;
        if answer.architecture().is_none() {
            self.stop(
                format!("its CPU architecture is {}", answer.one("arch")),
                "use amd64 or arm64 (also on a Raspberry Pi: a 64-bit system)",
            );
        }
        let os = answer.one("os");
        let is_supported = |known: &str| os == known || os.starts_with(&format!("{known}."));
        if !SUPPORTED.iter().any(|known| is_supported(known)) {
            self.warn(
                format!("kdiy is not tested on {os}"),
                format!("tested systems: {}", SUPPORTED.join(", ")),
            );
        }
        if answer.one("systemd").is_empty() {
            self.stop("PID 1 is not systemd", "install a system with systemd");
        }
        let lacks = answer.all("lacks");
        if !lacks.is_empty() {
            let mend = "install them (packages curl, tar, coreutils, iproute2, iputils-ping, kmod, \
                passwd)";
            self.stop(format!("it does not have {}", lacks.join(", ")), mend);
        }
        for module in answer.all("module") {
            let mend =
                "install the kernel's full set of modules (linux-modules-extra, kernel-modules)";
            self.stop(format!("its kernel has no module {module}"), mend);
        }
        let interfaces = answer.all("interface");
        if interfaces.len() != 1 {
            let address = self.machine.address;
            let what = match interfaces {
                [] => format!("no interface has the address {address}"),
                several => format!("{address} is on {}", several.join(" and ")),
            };
            self.stop(
                what,
                "hosts[].address must be on exactly one interface; see `ip address` on the machine",
            );
        }
        if self.is(Group::Nodes) && answer.one("cgroup") == "1" {
            self.warn(
                "it uses cgroup v1, which Kubernetes is dropping",
                "boot it with systemd.unified_cgroup_hierarchy=1",
            );
        }
        if answer.one("selinux") == "Enforcing" {
            self.warn(
                "SELinux is enforcing; kdiy installs no policy for containerd and kubelet",
                "dnf install container-selinux; if a unit is denied: setenforce 0",
            );
        }
    }

    /// What the account that logs in may do.
    fn account(&mut self) {
        if let Some(sessions) = self.answer.number("sessions").filter(|it| *it < FEW_SESSIONS) {
            self.warn(
                format!("its sshd allows {sessions:.0} sessions for each connection (MaxSessions)"),
                "this works; with 10, the default, several steps run at the same time",
            );
        }
    }

    /// What is turned on or off at boot, and would come back.
    fn kernel(&mut self) {
        let answer = self.answer;
        let missing = answer.all("controller");
        if self.is(Group::Nodes) && !missing.is_empty() {
            let mend = match answer.all("cmdline").first() {
                Some(file) => format!(
                    "append cgroup_enable=memory cgroup_memory=1 to the line in {file}, and reboot"
                ),
                None if answer.one("os").starts_with("rocky")
                    || answer.one("os").starts_with("alma") =>
                {
                    "grubby --update-kernel=ALL --args=cgroup_enable=memory, and reboot".into()
                }
                None => "add cgroup_enable=memory to GRUB_CMDLINE_LINUX in /etc/default/grub; \
                         update-grub, and reboot"
                    .into(),
            };
            self.stop(format!("its kernel has no cgroup controller {}", missing.join(", ")), mend);
        }
        let swapping = if self.is(Group::Nodes) { answer.all("swaps") } else { &[] };
        for unit in swapping {
            let mend =
                format!("systemctl disable --now {unit}; the kubelet does not start with swap");
            self.stop(format!("{unit} turns swap on at every boot"), mend);
        }
        if answer.has("clock", "free") {
            self.warn(
                "no service synchronizes its clock",
                "apt install systemd-timesyncd, or dnf install chrony; timedatectl set-ntp true",
            );
        }
        if answer.has("proxy", "services") {
            let Topology { machine_network, .. } = self.topology;
            self.warn(
                "systemd sets a proxy for every service (DefaultEnvironment), also for the \
                cluster's",
                format!(
                    "add NO_PROXY with {machine_network}, network.pods and network.services to it \
                    in /etc/systemd/system.conf; systemctl daemon-reexec"
                ),
            );
        }
        if self.is(Group::Nodes) && answer.has("nameserver", "none") {
            self.warn(
                "it has no name server that its pods can reach: they need an IPv4 address that is \
                not loopback",
                "CoreDNS will use 8.8.8.8 and 8.8.4.4; to use others, set them in \
                /etc/systemd/resolved.conf (DNS=) or /etc/resolv.conf",
            );
        }
    }

    fn resources(&mut self) {
        let answer = self.answer;
        let needed = match self.machine.role {
            Role::Master => MASTER_MEMORY,
            Role::Worker => NODE_MEMORY,
            Role::Etcd | Role::LoadBalancer => OTHER_MEMORY,
        };
        let short =
            |key: &str, needed: u64| answer.number(key).filter(|found| *found < needed as f64);
        if let Some(found) = short("memory", needed) {
            let role = self.machine.role.as_str();
            self.stop(format!("{found:.0} MiB of memory"), format!("a {role} needs {needed} MiB"));
        }
        if let Some(found) = short("disk", DISK) {
            let mend = format!("free disk space: kdiy needs about {DISK} MiB");
            self.stop(format!("{found:.0} MiB free in /var/lib"), mend);
        }
        if let Some(swap) = answer.all("swap").first() {
            self.warn(
                format!("swap is on ({swap})"),
                "kdiy turns it off, because the kubelet requires that; destroy turns it on again",
            );
        }
        let Some(fsync) = answer.number("fsync_us").map(|us| us / 1000.0) else { return };
        if fsync > HOPELESS_FSYNC_MS {
            let mend =
                "use an SSD, or set etcd.heartbeatInterval and electionTimeout ten times as long";
            self.stop(format!("fsync takes {fsync:.0} ms"), mend);
        } else if fsync > SLOW_FSYNC_MS {
            let mend = "etcd recommends less than 10 ms, as on an SSD; elections may be frequent";
            self.warn(format!("fsync takes {fsync:.0} ms"), mend);
        }
    }

    /// What is there already and in the way.
    fn occupied(&mut self) {
        let answer = self.answer;
        if self.comes_back() {
            self.warn(
                "it still has what kdiy installed before the worker was removed",
                "nothing to do; kdiy uses it again",
            );
            return;
        }
        if let Some(said) = answer.all("owner").first() {
            let (what, mend) = self.belongs(said);
            self.stop(what, mend);
            return;
        }
        const OTHERS: [&str; 7] = [
            "kubelet",
            "k3s",
            "k3s-agent",
            "rke2-server",
            "rke2-agent",
            "k0scontroller",
            "k0sworker",
        ];
        let kubernetes: Vec<&str> = OTHERS
            .into_iter()
            .chain(["snap.microk8s.daemon-kubelite"])
            .filter(|unit| answer.has("active", unit))
            .chain(answer.all("kubernetes").iter().map(String::as_str))
            .collect();
        if !kubernetes.is_empty() {
            self.stop(
                format!("another Kubernetes is installed: {}", kubernetes.join(", ")),
                "uninstall it (k3s-uninstall.sh, kubeadm reset, …) and remove the files named here",
            );
        }
        let taken = [
            ("etcd", Group::Etcd),
            ("haproxy", Group::LoadBalancers),
            ("keepalived", Group::LoadBalancers),
            ("containerd", Group::Nodes),
            ("docker", Group::Nodes),
            ("crio", Group::Nodes),
        ];
        for (unit, group) in taken {
            if answer.has("active", unit) && self.is(group) {
                let mend = format!("systemctl disable --now {unit}; destroy restores its files");
                self.stop(format!("{unit} is already running, and kdiy installs its own"), mend);
            }
        }
        let data = [
            ("/var/lib/etcd", "etcd", Group::Etcd),
            ("/var/lib/containerd", "containerd", Group::Nodes),
        ];
        for (path, program, group) in data {
            if answer.has("data", path) && self.is(group) {
                self.stop(
                    format!("{path} has the data of another {program}"),
                    format!("move it away: mv {path} {path}.before; mkdir {path}"),
                );
            }
        }
        let ports = self.topology.ports(self.machine);
        let used: Vec<String> =
            ports.iter().map(u16::to_string).filter(|port| answer.has("port", port)).collect();
        if !used.is_empty() {
            let mend = "find the program with ss -ltnp; stop it or move it to another port";
            self.stop(format!("ports are in use: {}", used.join(", ")), mend);
        }
    }

    /// A machine that has a ledger, and is not one that comes back.
    fn belongs(&self, said: &str) -> (String, String) {
        let Self { answer, topology, .. } = *self;
        let Topology { cluster, .. } = topology;
        let id = &answer.cluster_id;
        let owner = Ownership::judge(cluster, id, said);
        if let Some(objection) = owner.as_ref().and_then(|owner| owner.objection(cluster)) {
            return objection;
        }
        let found = match owner {
            None => "it has files of kdiy, but no record of their cluster".to_owned(),
            Some(_) => format!("it has files of kdiy for a cluster {cluster}"),
        };
        let fix = format!("kdiy destroy --name {cluster}, on the computer that created it");
        let is_by_name = owner == Some(Ownership::OursByName) && !answer.has("active", "etcd");
        (
            found,
            if is_by_name && !id.is_empty() {
                format!(
                    "{fix}; if it is this cluster, run there: echo {id} | sudo tee -a {}",
                    ownership::FILE
                )
            } else {
                fix
            },
        )
    }

    /// Whether it is a worker that was given up while it did not answer (`kdiy remove --force`).
    /// What runs etcd was not: it is another cluster's, of the same name.
    fn comes_back(&self) -> bool {
        let Self { answer, topology, joined, .. } = *self;
        let id = &answer.cluster_id;
        let is_ours = match Ownership::judge(&topology.cluster, id, answer.one("owner")) {
            Some(Ownership::Ours) => true,
            // This cluster has no id either yet.
            Some(Ownership::OursByName) => id.is_empty(),
            _ => false,
        };
        !joined.is_empty() && is_ours && !answer.has("active", "etcd")
    }

    /// Whether it reaches the others; of two that joined already, that is no longer the question.
    fn reach(&mut self) {
        let Self { answer, topology, joined, .. } = *self;
        let network = topology.machine_network;
        let has_joined = joined.contains(&self.machine.name);
        let is_new = |other: &&Machine| !has_joined || !joined.contains(&other.name);
        for other in topology.machines.iter().filter(is_new) {
            if answer.has("unreached", &other.address.to_string()) {
                let mend = format!(
                    "check cables, routes and network.machines ({network}); ping must work"
                );
                self.stop(format!("it cannot reach {}", other.address), mend);
            }
            if answer.closed.contains(&other.name) {
                let name = &other.name;
                self.stop(
                    format!("it cannot connect to a port of {name}"),
                    format!("allow {network} and the pod network in the firewall of {name}"),
                );
            }
        }
    }

    /// What may keep machines and pods apart later.
    fn firewall(&mut self) {
        let answer = self.answer;
        let network = self.topology.machine_network;
        let walls = [
            ("ufw", "ufw allow from NETWORK; ufw default allow routed"),
            (
                "firewalld",
                "firewall-cmd --permanent --zone=trusted --add-source=NETWORK; firewall-cmd --reload",
            ),
        ];
        for (unit, mend) in walls.into_iter().filter(|(unit, _)| answer.has("active", unit)) {
            let mend = mend.replace("NETWORK", &network.to_string());
            self.warn(
                format!("{unit} is active"),
                format!("{mend}; do the same for the pod network"),
            );
        }
        if self.is(Group::Nodes) && answer.has("drops", "forward") {
            self.warn(
                "its firewall drops forwarded packets, such as those of pods",
                "accept the pod network in the forward chain",
            );
        }
    }
}

/// The port by which others are most in need of a machine.
fn port_between(topology: &Topology, machine: &Machine) -> u16 {
    match machine.role {
        Role::Master => 6443,
        Role::Worker => 10250,
        Role::Etcd => 2379,
        Role::LoadBalancer => topology.endpoint.port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const FINE: &str = "time=1\nos=debian 12\narch=x86_64\nmemory=4000\ncpus=4\ndisk=20000\n\
        systemd=yes\ncgroup=2\ninterface=eth0\nfsync_us=900\ndone=yes\n";

    fn topology() -> Topology {
        let text = "provider: existing\nmasters: 1\nworkers: 1\nhosts:\n\
            - {role: master, name: a, address: 10.0.0.1}\n\
            - {role: worker, name: b, address: 10.0.0.2}\n";
        let config = parse::parse("test", text).unwrap();
        Topology::build(&config, "10.0.0.0/24".parse().unwrap()).unwrap()
    }

    fn answer(name: &str, more: &str, offset: f64) -> Result<Answer, Failure> {
        let own = format!("hostname={name}\nmachine_id={name}\nmac={name}\n{FINE}{more}");
        Ok(Answer::parse(&own, Some(offset)).unwrap())
    }

    fn judged(answers: &[Result<Answer, Failure>]) -> Report {
        Report::of(&topology(), answers, &BTreeSet::new())
    }

    fn found(a: &str, b: &str) -> Vec<String> {
        let report = judged(&[answer("a", a, 0.0), answer("b", b, 0.1)]);
        report.problems.iter().map(|it| format!("{} {}", it.machine, it.what)).collect()
    }

    #[test]
    fn good_machines_have_no_problems_and_report_their_facts() {
        let report = judged(&[answer("a", "", 0.0), answer("b", "", 0.1)]);
        assert_eq!(report.problems, []);
        assert_eq!(report.architectures.of("b"), "amd64");
        assert!(!report.stops());
    }

    #[test]
    fn every_problem_of_every_machine_is_reported_at_once() {
        let seen = found(
            "port=6443\nport=2379\nport=22\nactive=docker\nkubernetes=/etc/rancher\n",
            "lacks=curl\nmodule=overlay\nunreached=10.0.0.1\ninterface=eth1\nswap=/dev/sda2\n",
        );
        for part in [
            "a another Kubernetes is installed: /etc/rancher",
            "a docker is already running",
            "a ports are in use: 2379, 6443",
            "b it does not have curl",
            "b its kernel has no module overlay",
            "b it cannot reach 10.0.0.1",
            "b 10.0.0.2 is on eth0 and eth1",
            "b swap is on (/dev/sda2)",
        ] {
            assert!(seen.iter().any(|line| line.contains(part)), "no {part} in {seen:?}");
        }
    }

    #[test]
    fn what_changes_at_the_next_boot_is_reported_before_anything_is_changed() {
        let seen = found(
            "controller=memory\ncmdline=/boot/firmware/cmdline.txt\nswaps=dphys-swapfile\n",
            "clock=free\nproxy=services\nsessions=2\nnameserver=none\n",
        );
        for part in [
            "a its kernel has no cgroup controller memory",
            "a dphys-swapfile turns swap on at every boot",
            "b no service synchronizes its clock",
            "b systemd sets a proxy for every service",
            "b its sshd allows 2 sessions",
            "b it has no name server that its pods can reach",
        ] {
            assert!(seen.iter().any(|line| line.contains(part)), "no {part} in {seen:?}");
        }
        let report = judged(&[answer("a", "controller=memory\n", 0.0), answer("b", "", 0.1)]);
        assert!(report.stops() && report.problems[0].mend.contains("GRUB_CMDLINE_LINUX"));
        assert_eq!(found("sessions=10\n", ""), Vec::<String>::new());
    }

    #[test]
    fn one_machine_that_forwards_ports_is_enough() {
        let way = |no_forwarding: Option<&str>, within_reach| {
            answer("x", "", 0.0).map(|answer| Answer {
                no_forwarding: no_forwarding.map(str::to_owned),
                within_reach,
                ..answer
            })
        };
        let blocked = |answers: &[Result<Answer, Failure>]| {
            let problems = judged(answers).problems;
            problems.iter().filter(|it| it.mend.contains("AllowTcpForwarding")).count()
        };
        assert_eq!(blocked(&[way(Some("no"), false), way(Some("no"), false)]), 2);
        assert_eq!(blocked(&[way(Some("no"), true), way(Some("no"), false)]), 1);
        assert_eq!(blocked(&[way(Some("no"), false), way(None, false)]), 0);
    }

    #[test]
    fn only_ports_that_the_machine_will_use_are_checked() {
        assert_eq!(found("", "port=6443\nactive=haproxy\n"), Vec::<String>::new());
    }

    #[test]
    fn a_machine_that_joined_is_checked_only_for_reaching_new_ones() {
        let taken = "owner=kdiy\nport=6443\nunreached=10.0.0.2\nactive=ufw\n";
        let found = |b: &str| {
            let answers = [answer("a", taken, 0.0), answer("b", b, 0.1)];
            let report = Report::of(&topology(), &answers, &BTreeSet::from(["a".to_owned()]));
            report.problems.into_iter().map(|it| format!("{} {}", it.machine, it.what))
        };
        assert!(found("").eq(["a it cannot reach 10.0.0.2"]));
        assert!(found("unreached=10.0.0.1\n").any(|line| line == "b it cannot reach 10.0.0.1"));
        assert!(found("port=10250\n").any(|line| line.starts_with("b ports are in use")));
        let away = [Err(Failure::machine("gone")), answer("b", "", 0.1)];
        let report = Report::of(&topology(), &away, &BTreeSet::from(["a".to_owned()]));
        assert_eq!(report.problems, []);
    }

    #[test]
    fn only_a_worker_of_an_existing_cluster_can_be_one_that_was_removed() {
        let stops = |b: &str, id: &str, joined: &BTreeSet<String>| {
            let left = format!("port=10250\nkubernetes=/var/lib/kubelet\n{b}");
            let mut b = answer("b", &left, 0.1).unwrap();
            id.clone_into(&mut b.cluster_id);
            Report::of(&topology(), &[answer("a", "", 0.0), Ok(b)], joined).stops()
        };
        let there = BTreeSet::from(["a".to_owned()]);
        assert!(!stops("owner=kdiy 1f", "1f", &there));
        assert!(stops("owner=kdiy 1f\nactive=etcd\n", "1f", &there));
        assert!(stops("owner=kdiy 1f", "1f", &BTreeSet::new()));
        // Another cluster of the same name; one that does not say which; neither says.
        assert!(stops("owner=kdiy 2e", "1f", &there));
        assert!(stops("owner=kdiy", "1f", &there));
        assert!(!stops("owner=kdiy", "", &there));
    }

    #[test]
    fn cloned_machines_and_wrong_clocks_are_reported() {
        let report = judged(&[answer("a", "", 0.0), answer("a", "", -7.5)]);
        let seen: Vec<&str> = report.problems.iter().map(|it| it.what.as_str()).collect();
        for part in [
            "host name a is also that of a",
            "machine id a is also",
            "MAC address a is also",
            "-7.5 s",
        ] {
            let any = seen.iter().any(|line| line.contains(part));
            assert!(any || part == "-7.5 s", "no {part} in {seen:?}");
        }
        assert!(seen.iter().any(|line| line.contains("by -7.5 s")), "{seen:?}");
        let both = [answer("a", "", 3600.0), answer("b", "", 3600.0)];
        assert_eq!(judged(&both).problems.len(), 2);
    }

    #[test]
    fn a_machine_of_another_kind_is_refused_and_an_unknown_system_only_warned_of() {
        let odd = FINE.replace("x86_64", "armv7l").replace("debian 12", "arch rolling");
        let odd = Answer::parse(&format!("hostname=b\nmachine_id=b\nmac=b\n{odd}"), Some(0.0));
        let report = judged(&[answer("a", "", 0.0), Ok(odd.unwrap())]);
        let weights: Vec<Severity> = report.problems.iter().map(|it| it.weight).collect();
        assert_eq!(weights, [Severity::Stops, Severity::Warns], "{:?}", report.problems);
    }

    #[test]
    fn a_machine_that_cannot_be_reached_says_why_and_what_to_do() {
        let failure = Failure::machine("cannot connect").cause("no route").hint("ping it");
        let report = judged(&[answer("a", "", 0.0), Err(failure)]);
        assert_eq!(report.problems[0].what, "cannot connect: no route");
        assert_eq!(report.problems[0].mend, "ping it");
    }

    #[test]
    fn minor_releases_of_a_supported_system_are_supported() {
        assert_eq!(found("", ""), Vec::<String>::new());
        for (os, warns) in [("rocky 9.4", false), ("rocky 8.10", true), ("debian 120", true)] {
            let text =
                format!("hostname=b\nmachine_id=b\nmac=b\n{}", FINE.replace("debian 12", os));
            let other = Ok(Answer::parse(&text, Some(0.0)).unwrap());
            let report = judged(&[answer("a", "", 0.0), other]);
            assert_eq!(!report.problems.is_empty(), warns, "{os}: {:?}", report.problems);
        }
    }

    #[test]
    fn an_nft_that_kube_proxy_does_not_take_is_named() {
        for (version, stops) in [("v0.9.8", true), ("v1.0.1", false), ("v1.1.3", false)] {
            let b = answer("b", &format!("nft={version}\n"), 0.1);
            let answers = [answer("a", "", 0.0), b];
            let mut report = judged(&answers);
            report.check_nft(&topology(), &answers, &BTreeSet::new());
            assert_eq!(report.stops(), stops, "{version}");
        }
    }

    #[test]
    fn a_broken_off_answer_is_none() {
        assert_eq!(Answer::parse("time=1\nos=debian 12\n", None), None);
    }

    #[test]
    fn the_script_runs_here() {
        let script =
            format!("own=127.0.0.1 others= etcd=no\n{}", include_str!("preflight/probe.sh"));
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let answer = Answer::parse(&String::from_utf8(output.stdout).unwrap(), None).unwrap();
        assert_eq!(answer.all("interface"), ["lo"]);
        assert!(answer.number("memory").unwrap() > 0.0);
    }
}
