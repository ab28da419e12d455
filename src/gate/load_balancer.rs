//! One address, held by exactly one machine, behind which every api-server answers.

use async_trait::async_trait;

use super::{Gate, GateContext, Verdict};
use crate::kube_api::{ApiPath, raw};
use crate::topology::{Group, Topology};

pub struct LoadBalancer;

/// haproxy's own statistics, on the machine only.
pub const STATS: &str = "http://127.0.0.1:8404/;csv";

/// VRRP's protocol number (RFC 5798), which the kernel lists raw sockets by. A keepalived whose card
/// was not there when it began runs, and has none.
const VRRP: u8 = 112;

#[async_trait]
impl Gate for LoadBalancer {
    fn name(&self) -> &'static str {
        "load-balancer"
    }

    fn watches(&self) -> (Group, &'static [&'static str]) {
        (Group::LoadBalancers, &["haproxy.service"])
    }

    fn port(&self) -> Option<u16> {
        None
    }

    async fn probe(&self, context: &GateContext) -> Verdict {
        let mut verdict = Verdict::default();
        let topology = &context.topology;
        let script = script(topology, context.seconds(3));
        let mut holders = Vec::new();
        for (machine, answer) in context.ask(Group::LoadBalancers, |_| script.clone()).await {
            let text = match answer {
                Ok(text) => text,
                Err(error) => {
                    verdict.record(Some(&machine.name), "an answer over SSH", "one", error, false);
                    continue;
                }
            };
            if text.lines().any(|line| line == "holds") {
                holders.push(machine.name.clone());
            }
            if let Some(vip) = topology.vip {
                let votes = text.lines().any(|line| line == "votes");
                verdict.record(
                    Some(&machine.name),
                    format!("keepalived takes part in who holds {vip}"),
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
        "{holds}for i in $(seq {requests}); do curl -s -o /dev/null -f --max-time {seconds} \
         --cacert /etc/haproxy/kubernetes-ca.crt {url}/readyz && echo answered; done\n\
         echo @stats; curl -s --max-time {seconds} '{STATS}'\n",
        url = topology.endpoint.url(),
    )
}

/// Each api-server must be up by what `/readyz` said, not by an open port.
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
    }
}

/// Status and last check of a server (haproxy management guide, section 9.1, columns 18 and 37).
pub fn backend<'a>(stats: &'a str, server: &str) -> Option<(&'a str, &'a str)> {
    stats.lines().map(|line| line.split(',').collect::<Vec<_>>()).find_map(|fields| {
        (fields.first() == Some(&"apiservers") && fields.get(1) == Some(&server))
            .then(|| Some((*fields.get(17)?, *fields.get(36)?)))?
    })
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
}
