//! Exactly one machine holds the address, and behind it every API server answers and has its share
//! of the connections.

use std::fmt;

use async_trait::async_trait;

use crate::cluster_context::ClusterContext;
use crate::gates::{Gate, Verdict};
use crate::kubernetes::client::ApiPath;
use crate::kubernetes::request::raw;
use crate::playbook::format::GateName;
use crate::topology::{Group, Topology};

pub struct LoadBalancer;

/// haproxy's own statistics, on the machine only.
pub const STATS: &str = "http://127.0.0.1:8404/;csv";

/// VRRP's protocol number (RFC 5798), which the kernel lists raw sockets by. A keepalived whose card
/// was not there when it began runs, and has none.
const VRRP: u8 = 112;

#[async_trait]
impl Gate for LoadBalancer {
    fn name(&self) -> GateName {
        GateName::LoadBalancer
    }

    fn watches(&self) -> (Group, &'static [&'static str]) {
        (Group::LoadBalancers, &["haproxy.service"])
    }

    fn port(&self) -> Option<u16> {
        None
    }

    async fn probe(&self, context: &ClusterContext) -> Verdict {
        let mut verdict = Verdict::default();
        let topology = &context.topology;
        let script = script(topology, context.seconds(3));
        let mut holders = Vec::new();
        for (machine, answer) in context.ask(Group::LoadBalancers, |_| script.clone()).await {
            let text = match answer {
                Ok(text) => text,
                Err(_) if context.is_to_come(&machine.name) => continue,
                Err(error) => {
                    verdict.record(Some(&machine.name), "an answer over SSH", "one", error, false);
                    continue;
                }
            };
            if text.lines().any(|line| line == "holds") {
                holders.push(machine.name.clone());
            }
            if context.is_to_come(&machine.name) {
                continue;
            }
            if let Some(vip) = topology.vip {
                let votes = text.lines().any(|line| line == "votes");
                verdict.record(
                    Some(&machine.name),
                    format!("keepalived takes part in the election for {vip}"),
                    "yes",
                    if votes { "yes" } else { "no, it has no VRRP socket" },
                    votes,
                );
            }
            let answered = text.lines().filter(|line| *line == "answered").count();
            let asked = topology.group(Group::Masters).len() * 2;
            verdict.record(
                Some(&machine.name),
                format!("requests to {}", topology.endpoint.url()),
                format!("{asked} answered"),
                format!("{answered} answered"),
                answered == asked,
            );
            record_backends(&mut verdict, &machine.name, topology, &text);
        }
        if let Some(vip) = topology.vip {
            verdict.record(
                holders.first().map(String::as_str),
                format!("machines that hold {vip}"),
                "exactly one",
                if holders.is_empty() { "none".to_owned() } else { holders.join(", ") },
                holders.len() == 1,
            );
        }
        let (saw, ok) = match context.api.client(&ApiPath::Endpoint).await {
            Ok(client) => match raw(&client, "/readyz").await {
                Ok((status, _)) => (status.to_string(), status == 200),
                Err(error) => (error, false),
            },
            Err(failure) => (failure.to_string(), false),
        };
        let asked = format!("{}/readyz from this computer, verified", topology.endpoint.url());
        verdict.record(None, asked, "200", saw, ok);
        verdict
    }
}

fn script(topology: &Topology, seconds: u32) -> String {
    let requests = topology.group(Group::Masters).len() * 2;
    let holds = topology.vip.map_or(String::new(), |vip| {
        format!(
            "ip -o -4 addr show | grep -q ' {vip}/' && echo holds\n\
             grep -q ':{VRRP:04X} ' /proc/net/raw && echo votes\n"
        )
    });
    format!(
        "{holds}for i in $(seq {requests}); do curl --noproxy '*' -s -o /dev/null -f --max-time {seconds} \
         --cacert /etc/haproxy/kubernetes-ca.crt {url}/readyz && echo answered; done\n\
         echo @stats; curl --noproxy '*' -s --max-time {seconds} '{STATS}'\n",
        url = topology.endpoint.url(),
    )
}

/// Each api-server must be up by what `/readyz` said, not by an open port, and clients must have
/// been sent to it.
fn record_backends(verdict: &mut Verdict, machine: &str, topology: &Topology, text: &str) {
    let stats = text.split_once("@stats").map_or("", |(_, stats)| stats);
    for master in topology.group(Group::Masters) {
        let row = backend(stats, &master.name);
        let (saw, ok) = match row {
            Some((status, check)) => {
                (format!("{status} by {check}"), status.starts_with("UP") && check == "L7OK")
            }
            None => ("not listed".to_owned(), false),
        };
        verdict.record(
            Some(machine),
            format!("{} behind haproxy", master.name),
            "UP by L7OK",
            saw,
            ok,
        );
        let traffic = Traffic::parse(stats, &master.name);
        verdict.record(
            Some(machine),
            format!("connections from haproxy to {}", master.name),
            "some since it is UP, with answers",
            traffic.as_ref().map_or("not listed".to_owned(), Traffic::to_string),
            traffic.is_some_and(|traffic| traffic.has_flowed()),
        );
    }
}

/// What clients had of a server. How many more there are after so many requests would be no proof:
/// each goes to whoever has the fewest connections then, so that a few may all go to the same.
/// Whoever just came up has the fewest, and there is a client at any time: keepalived's check, on
/// every load balancer every second.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Traffic {
    /// Connections since haproxy began.
    connections: u64,
    /// Bytes of its answers.
    answered: u64,
    /// Seconds since the last connection; `None` when there was none.
    last: Option<u64>,
    /// Seconds since it was last found to be up or down.
    up_for: u64,
}

impl Traffic {
    /// Columns `stot`, `bout`, `lastchg` and `lastsess` of haproxy's management guide, section 9.1.
    fn parse(stats: &str, server: &str) -> Option<Self> {
        let fields = row(stats, server)?;
        let number = |column: usize| fields.get(column)?.parse::<u64>().ok();
        Some(Self {
            connections: number(7)?,
            answered: number(9)?,
            // -1 before the first.
            last: number(55),
            up_for: number(23)?,
        })
    }

    fn has_flowed(&self) -> bool {
        // Both are whole seconds, each rounded down by itself.
        let since_it_is_up = self.last.is_some_and(|last| last <= self.up_for + 1);
        self.connections > 0 && self.answered > 0 && since_it_is_up
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, answered, last, up_for } = self;
        match last {
            None => write!(f, "none"),
            Some(last) => write!(
                f,
                "{connections}, the last {last} s ago (up for {up_for} s), {answered} bytes answered"
            ),
        }
    }
}

/// Status and last check of a server (haproxy management guide, section 9.1, columns 18 and 37).
pub fn backend<'a>(stats: &'a str, server: &str) -> Option<(&'a str, &'a str)> {
    let fields = row(stats, server)?;
    Some((fields.get(17)?, fields.get(36)?))
}

fn row<'a>(stats: &'a str, server: &str) -> Option<Vec<&'a str>> {
    let mut rows = stats.lines().map(|line| line.split(',').collect::<Vec<_>>());
    rows.find(|row| row.first() == Some(&"apiservers") && row.get(1) == Some(&server))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_found_in_the_statistics() {
        let mut fields = vec!["0"; 40];
        (fields[0], fields[1], fields[17], fields[36]) = ("apiservers", "m1", "UP", "L7OK");
        let text = format!("# pxname,svname\n{}\n", fields.join(","));
        assert_eq!(backend(&text, "m1"), Some(("UP", "L7OK")));
        assert_eq!(backend(&text, "m2"), None);
    }

    #[test]
    fn a_server_that_had_no_client_since_it_is_up_is_not_proven() {
        let flowed = |connections: &str, answered: &str, up_for: &str, last: &str| {
            let mut fields = vec!["0"; 60];
            (fields[0], fields[1], fields[7], fields[9]) =
                ("apiservers", "m1", connections, answered);
            (fields[23], fields[55]) = (up_for, last);
            Traffic::parse(&fields.join(","), "m1").unwrap().has_flowed()
        };
        assert!(flowed("3", "9000", "60", "2"));
        assert!(!flowed("0", "0", "60", "-1"), "none");
        assert!(!flowed("3", "0", "60", "2"), "none was answered");
        assert!(!flowed("3", "9000", "5", "30"), "none since it came back");
        assert_eq!(Traffic::parse("apiservers,m1", "m1"), None);
    }
}
