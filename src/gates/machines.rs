//! Every machine has its own identity, the right time and the kernel settings in effect, and
//! reaches every other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use async_trait::async_trait;

use crate::bundle::RECONCILE_DIRECTORY;
use crate::cluster_context::ClusterContext;
use crate::config::ProviderChoice;
use crate::gates::{Gate, Verdict};
use crate::playbook::format::GateName;
use crate::topology::{Group, Machine};
use crate::transport::clock_skew::{self, Clock, MOST_SKEW, SAY_TIME};

pub struct Machines;

#[async_trait]
impl Gate for Machines {
    fn name(&self) -> GateName {
        GateName::Machines
    }

    fn watches(&self) -> (Group, &'static [&'static str]) {
        (Group::All, &[])
    }

    fn port(&self) -> Option<u16> {
        Some(22)
    }

    async fn probe(&self, context: &ClusterContext) -> Verdict {
        let all: Vec<String> =
            context.topology.machines.iter().map(|m| m.address.to_string()).collect();
        let machines = context.topology.machines.iter();
        let clocks: BTreeMap<&str, Clock> =
            machines.map(|machine| (machine.name.as_str(), Clock::default())).collect();
        let answers = context
            .hear(
                Group::All,
                |machine| script(&machine.address.to_string(), &all),
                |machine, line| clocks[machine.name.as_str()].hear(line),
            )
            .await;
        let mut verdict = Verdict::default();
        // A machine that was there before the cluster is called what its owner calls it.
        let keeps_its_name = context.config.provider == ProviderChoice::Existing;
        let mut seen: BTreeMap<(&str, String), String> = BTreeMap::new();
        let addresses = addresses(&answers);
        for (machine, answer) in &answers {
            let name = machine.name.as_str();
            let text = match answer {
                Ok(text) => text,
                Err(error) => {
                    verdict.record(Some(name), "an answer over SSH", "one", error, false);
                    continue;
                }
            };
            let fields: BTreeMap<&str, &str> =
                text.lines().filter_map(|line| line.split_once('=')).collect();
            let field = |key: &str| fields.get(key).copied().unwrap_or_default();
            if !keeps_its_name {
                let hostname = field("hostname");
                verdict.record(Some(name), "hostname", name, hostname, hostname == name);
            }
            for key in ["hostname", "machine_id", "mac"] {
                let value = field(key).to_owned();
                let other = seen.insert((key, value.clone()), name.to_owned());
                let unique = !value.is_empty() && other.is_none();
                let saw = match (value.is_empty(), other) {
                    (true, _) => "none".to_owned(),
                    (false, Some(other)) => format!("{value}, the same as on {other}"),
                    (false, None) => value,
                };
                verdict.record(Some(name), key, "a unique one", saw, unique);
            }
            let shared = shared(&addresses, name);
            verdict.record(
                Some(name),
                "addresses that other machines also have",
                "none that the cluster uses",
                listed(&shared),
                !shared.contains(&machine.address),
            );
            let holders = field("interfaces");
            verdict.record(
                Some(name),
                format!("interfaces with {}", machine.address),
                "1",
                holders,
                holders == "1",
            );
            verdict.record(
                Some(name),
                "swap areas in use",
                "0",
                field("swap"),
                field("swap") == "0",
            );
            let untrue = untrue(text, context.steps.as_ref());
            verdict.record(
                Some(name),
                "kernel settings, rules and routes",
                "in effect",
                if untrue.is_empty() {
                    "in effect".to_owned()
                } else {
                    format!("not in effect: {}", untrue.join("; "))
                },
                untrue.is_empty(),
            );
            let unreached = field("unreached");
            verdict.record(
                Some(name),
                "reaches every other machine",
                "all",
                if unreached.is_empty() { "all" } else { unreached },
                fields.contains_key("unreached") && unreached.is_empty(),
            );
        }
        record_skew(&mut verdict, &clocks);
        verdict
    }
}

/// What is not as a step set it, of the given steps or of all. Lines are `untrue=STEP-NUMBER WHY`.
fn untrue<'a>(text: &'a str, steps: Option<&BTreeSet<String>>) -> Vec<&'a str> {
    let of_steps = |kept: &str| {
        let step = kept.rsplit_once('-').map_or(kept, |(step, _)| step);
        steps.is_none_or(|steps| steps.contains(step))
    };
    text.lines()
        .filter_map(|line| line.strip_prefix("untrue=")?.split_once(' '))
        .filter_map(|(kept, why)| of_steps(kept).then_some(why))
        .collect()
}

/// The addresses of each machine that answered.
fn addresses(answers: &[(&Machine, Result<String, String>)]) -> BTreeMap<String, Vec<Ipv4Addr>> {
    answers
        .iter()
        .filter_map(|(machine, answer)| {
            let text = answer.as_ref().ok()?;
            let list = text.lines().find_map(|line| line.strip_prefix("addresses="))?;
            let parsed = list.split_whitespace().filter_map(|address| address.parse().ok());
            Some((machine.name.clone(), parsed.collect()))
        })
        .collect()
}

/// Such as VirtualBox's NAT address, 10.0.2.15 on every machine.
fn shared(addresses: &BTreeMap<String, Vec<Ipv4Addr>>, machine: &str) -> Vec<Ipv4Addr> {
    let own = addresses.get(machine).into_iter().flatten();
    own.filter(|address| {
        addresses.iter().any(|(other, theirs)| other != machine && theirs.contains(address))
    })
    .copied()
    .collect()
}

fn listed(addresses: &[Ipv4Addr]) -> String {
    if addresses.is_empty() {
        return "none".into();
    }
    addresses.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(" ")
}

fn record_skew(verdict: &mut Verdict, clocks: &BTreeMap<&str, Clock>) {
    let Some(median) = clock_skew::median(clocks.values().filter_map(Clock::offset)) else {
        return;
    };
    for (name, clock) in clocks {
        let Some(skew) = clock.offset().map(|offset| offset - median) else { continue };
        verdict.record(
            Some(name),
            "clock",
            format!("within {MOST_SKEW} s of the others"),
            format!("{skew:+.2} s"),
            skew.abs() <= MOST_SKEW,
        );
    }
}

fn script(own: &str, all: &[String]) -> String {
    let others: Vec<&str> = all.iter().map(String::as_str).filter(|other| *other != own).collect();
    format!(
        r#"{SAY_TIME}
echo "hostname=$(hostname)"
echo "machine_id=$(cat /etc/machine-id)"
device=$(ip -o -4 addr show | awk '{{split($4, p, "/"); if (p[1] == "{own}") {{print $2; exit}}}}')
echo "mac=$(cat "/sys/class/net/$device/address")"
echo "interfaces=$(ip -o -4 addr show | awk '{{split($4, p, "/"); if (p[1] == "{own}") n++}} END {{print n+0}}')"
echo "addresses=$(ip -o -4 addr show scope global | awk '{{split($4, p, "/"); printf " %s", p[1]}}')"
{SAY_TIME}
echo "swap=$(($(wc -l </proc/swaps) - 1))"
for kept in {RECONCILE_DIRECTORY}/*; do
  [ -e "$kept" ] || continue
  {{ /bin/sh "$kept" check >/dev/null 2>&1 ||
    echo "untrue=${{kept##*/}} $(sed -n '1s/^# //p' "$kept")"; }} &
done
wait
unreached=
for a in {others}; do ping -c 1 -W 2 -q "$a" >/dev/null 2>&1 || unreached="$unreached $a"; done
echo "unreached=$unreached"
{SAY_TIME}
"#,
        others = others.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterConfig;
    use crate::topology::Topology;

    #[test]
    fn a_step_that_is_not_due_yet_is_not_held_against_a_machine() {
        let text = "untrue=machine-2 settings\nuntrue=kernel-state-0 rules\nhostname=a\n";
        assert_eq!(untrue(text, None), ["settings", "rules"]);
        let due = BTreeSet::from(["machine".to_owned()]);
        assert_eq!(untrue(text, Some(&due)), ["settings"]);
    }

    #[test]
    fn a_nat_address_is_seen_to_be_shared() {
        let config = ClusterConfig::default();
        let topology = Topology::build(&config, "192.168.56.0/24".parse().unwrap()).unwrap();
        let answers: Vec<_> = topology
            .machines
            .iter()
            .map(|machine| (machine, Ok(format!("addresses= 10.0.2.15 {}\n", machine.address))))
            .chain([(&topology.machines[0], Err("gone".into()))])
            .collect();
        let addresses = addresses(&answers);
        assert_eq!(listed(&shared(&addresses, "kdiy-worker-2")), "10.0.2.15");
        assert_eq!(listed(&shared(&addresses, "unknown")), "none");
    }
}
