//! Checks whether the networks of pods and Services are free: on the machines, and on this
//! computer.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::config::{Cni, Network};
use crate::reports::preflight::{Answer, Report, Severity};
use crate::support::failure::Failure;
use crate::topology::{Group, Machine, Topology};

/// Files that containerd reads before this one win (containerd, CRI plugin: the first of
/// `/etc/cni/net.d` in the order of their names).
const OWN_CNI_FILE: &str = "10-kdiy.conflist";

/// What `ip route` writes before the destination of a route that leads nowhere.
const KINDS: [&str; 4] = ["blackhole", "unreachable", "prohibit", "throw"];

/// Of this computer, on Linux; elsewhere there is no such file, and nothing is found.
const ROUTES_HERE: &str = "/proc/net/route";

/// A route that is not the default one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    to: Ipv4Net,
    /// Whether it leads to neighbours, and not behind a router.
    is_on_link: bool,
}

impl Route {
    /// A line of `ip -4 route show`.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().skip_while(|word| KINDS.contains(word));
        let to = words.next()?;
        let to = match to.parse::<Ipv4Net>() {
            Ok(net) => net,
            Err(_) => Ipv4Net::from(to.parse::<Ipv4Addr>().ok()?),
        };
        Some(Self { to, is_on_link: words.next() != Some("via") })
    }

    /// A line of `/proc/net/route`: interface, destination, gateway, …, mask in the eighth column,
    /// each as the kernel has it in memory.
    fn of_kernel(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = |column: usize| {
            let number = u32::from_str_radix(fields.get(column)?, 16).ok()?;
            Some(Ipv4Addr::from(number.to_ne_bytes()))
        };
        let to = Ipv4Net::with_netmask(address(1)?, address(7)?).ok()?;
        Some(Self { to, is_on_link: address(2)?.is_unspecified() })
    }
}

/// The routes of this computer.
pub fn routes_here() -> Vec<Route> {
    let text = std::fs::read_to_string(ROUTES_HERE).unwrap_or_default();
    text.lines().skip(1).filter_map(Route::of_kernel).filter(|it| it.to.prefix_len() > 0).collect()
}

fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other) || other.contains(&one)
}

impl Report {
    /// Adds what is in the way of the networks in the cluster file. Machines that have `joined` have
    /// routes of the cluster itself, and are not asked.
    pub fn networks(
        &mut self,
        network: &Network,
        topology: &Topology,
        answers: &[Result<Answer, Failure>],
        joined: &BTreeSet<String>,
        here: &[Route],
    ) {
        let planned = [("network.pods", network.pods), ("network.services", network.services)];
        let answered = topology.machines.iter().zip(answers).filter_map(|(machine, answer)| {
            // What a cluster left there is told already.
            let answer = answer.as_ref().ok().filter(|answer| answer.all("owner").is_empty())?;
            (!joined.contains(&machine.name)).then_some((machine, answer))
        });
        for (machine, answer) in answered {
            for (field, net) in planned {
                self.routes(machine, answer, field, net);
            }
            let has_bridge = network.cni != Cni::None;
            if has_bridge && topology.is_in(machine, Group::Nodes) {
                self.container_networks(machine, answer);
            }
        }
        let Some(first) = topology.machines.first().filter(|_| joined.is_empty()) else { return };
        for (field, net) in planned {
            for route in here.iter().filter(|route| route.is_on_link && overlap(route.to, net)) {
                let what = format!(
                    "this computer's network {} overlaps {field} {net}: the machines could not \
                    reach this computer",
                    route.to
                );
                self.add(first, Severity::Stops, what, choose(field));
            }
        }
        self.in_order(topology);
    }

    fn routes(&mut self, machine: &Machine, answer: &Answer, field: &str, net: Ipv4Net) {
        for route in answer.all("route").iter().filter_map(|line| Route::parse(line)) {
            if !overlap(route.to, net) {
                continue;
            }
            let to = route.to;
            if !route.is_on_link && to.prefix_len() < net.prefix_len() {
                // Such as 10.0.0.0/8 of a company, of which this is a part that may be free.
                let what = format!("its route to {to} includes {field} {net}");
                let mend = format!(
                    "make sure that nothing there uses an address in {net}, or {}",
                    choose(field)
                );
                self.add(machine, Severity::Warns, what, mend);
            } else {
                let what = format!("its route to {to} overlaps {field} {net}");
                self.add(machine, Severity::Stops, what, choose(field));
            }
        }
        for server in answer.all("nameserver") {
            if server.parse().is_ok_and(|server: Ipv4Addr| net.contains(&server)) {
                let what = format!("its name server {server} is in {field} {net}");
                self.add(machine, Severity::Stops, what, choose(field));
            }
        }
    }

    /// What another container runtime, or a Kubernetes that was taken away, has left.
    fn container_networks(&mut self, machine: &Machine, answer: &Answer) {
        if let Some(addresses) = answer.all("cni0").first() {
            let addresses = if addresses.is_empty() { "no address" } else { addresses };
            self.add(
                machine,
                Severity::Stops,
                format!(
                    "it already has the interface cni0 ({addresses}), which kdiy's pods would use"
                ),
                "if nothing uses it any more: ip link delete cni0".into(),
            );
        }
        for file in answer.all("cni_file").iter().filter(|file| file.as_str() < OWN_CNI_FILE) {
            self.add(
                machine,
                Severity::Stops,
                format!("containerd would use /etc/cni/net.d/{file} for the pod network"),
                format!("remove it, or rename it so that it sorts after {OWN_CNI_FILE}"),
            );
        }
    }
}

fn choose(field: &str) -> String {
    format!("set another {field} in the cluster file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn found(b: &str, here: &[Route]) -> Vec<String> {
        let text = "provider: existing\nmasters: 1\nworkers: 1\nhosts:\n\
            - {role: master, name: a, address: 10.0.0.1}\n\
            - {role: worker, name: b, address: 10.0.0.2}\n";
        let config = parse::parse("test", text).unwrap();
        let topology = Topology::build(&config, "10.0.0.0/24".parse().unwrap()).unwrap();
        let answer = |text: &str| Ok(Answer::parse(&format!("{text}done=yes\n"), None).unwrap());
        let answers = [answer("route=10.0.0.0/24 dev eth0 scope link\n"), answer(b)];
        let mut report = Report::default();
        report.networks(&config.network, &topology, &answers, &BTreeSet::new(), here);
        let told = report.problems.iter();
        told.map(|it| format!("{:?} {} {}", it.weight, it.machine, it.what)).collect()
    }

    #[test]
    fn overlapping_networks_are_reported_with_their_route() {
        for (line, weight, part) in [
            (
                "route=10.244.3.0/24 dev docker0 scope link",
                "Stops",
                "10.244.3.0/24 overlaps network.pods",
            ),
            ("route=10.96.0.0/12 via 10.0.0.254 dev eth0", "Warns", "includes network.services"),
            ("route=10.0.0.0/8 dev eth0 scope link", "Stops", "overlaps network.pods"),
            ("route=10.96.7.7 via 10.0.0.254 dev eth0", "Stops", "10.96.7.7/32"),
            ("nameserver=10.96.0.53", "Stops", "its name server 10.96.0.53 is in network.services"),
            ("cni0=10.42.0.1/24", "Stops", "the interface cni0 (10.42.0.1/24)"),
            ("cni0=", "Stops", "the interface cni0 (no address)"),
            ("cni_file=05-weave.conflist", "Stops", "/etc/cni/net.d/05-weave.conflist"),
        ] {
            let seen = found(&format!("{line}\n"), &[]);
            let told = |it: &String| it.starts_with(&format!("{weight} b ")) && it.contains(part);
            assert!(seen.iter().any(told), "{line}: {seen:?}");
        }
    }

    #[test]
    fn networks_that_are_free_are_no_problem() {
        let fine = "route=default via 10.0.0.254 dev eth0\nroute=172.17.0.0/16 dev docker0 scope link\n\
            route=10.0.0.0/24 dev eth0 scope link\nnameserver=10.0.0.254\ncni_file=87-podman.conflist\n";
        assert_eq!(found(fine, &[]), Vec::<String>::new());
    }

    #[test]
    fn this_computer_is_not_in_them_either() {
        let here = |line: &str| Route::of_kernel(line).unwrap();
        // As a little-endian machine writes them.
        let routes = [
            here("eth0 00000000 0100F40A 0003 0 0 0 00000000 0 0 0"),
            here("eth0 0000F40A 00000000 0001 0 0 0 0000FFFF 0 0 0"),
        ];
        if cfg!(target_endian = "little") {
            assert_eq!(routes[1].to, "10.244.0.0/16".parse().unwrap());
            let seen = found("", &routes[1..]);
            assert!(seen[0].contains("this computer's network 10.244.0.0/16"), "{seen:?}");
        }
        assert!(routes_here().iter().all(|route| route.to.prefix_len() > 0));
    }
}
