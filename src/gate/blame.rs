//! Which machine is at fault. The machine that complains is often not the one that is broken, so
//! every machine is asked whom it reaches before one is accused.

use std::collections::BTreeMap;

use super::{Gate, GateContext, Verdict};
use crate::topology::Machine;

pub struct Culprit {
    pub machine: String,
    /// A sentence.
    pub why: String,
}

pub async fn culprit(gate: &dyn Gate, context: &GateContext, verdict: &Verdict) -> Option<Culprit> {
    let by_evidence = || {
        let mut red: BTreeMap<&str, usize> = BTreeMap::new();
        for evidence in verdict.evidence.iter().filter(|evidence| !evidence.ok) {
            *red.entry(evidence.machine.as_deref()?).or_default() += 1;
        }
        let (machine, count) = red.into_iter().max_by_key(|(_, count)| *count)?;
        Some(Culprit {
            machine: machine.to_owned(),
            why: format!("most of what is wrong is seen on {machine} ({count} findings)"),
        })
    };
    let Some(port) = gate.port() else { return by_evidence() };
    let (group, _) = gate.watches();
    let targets = context.topology.group(group);
    let checks: Vec<String> = targets
        .iter()
        .map(|target| {
            let address = target.address;
            format!(
                "if timeout 2 bash -c '</dev/tcp/{address}/{port}' 2>/dev/null; \
                 then echo '{address} yes'; else echo '{address} no'; fi"
            )
        })
        .collect();
    let script = checks.join("\n");
    let answers = context.ask(group, |_| script.clone()).await;
    let reach: Vec<(&Machine, Option<Vec<bool>>)> = answers
        .iter()
        .map(|(machine, answer)| (*machine, answer.as_ref().ok().map(|text| reads(text))))
        .collect();
    judge(&reach, port).or_else(by_evidence)
}

fn reads(text: &str) -> Vec<bool> {
    text.lines().map(|line| line.ends_with(" yes")).collect()
}

/// `reach[a].1[b]`: whether machine a reaches machine b; `None` when a itself did not answer.
fn judge(reach: &[(&Machine, Option<Vec<bool>>)], port: u16) -> Option<Culprit> {
    if let Some((machine, _)) = reach.iter().find(|(_, row)| row.is_none()) {
        return Some(Culprit {
            machine: machine.name.clone(),
            why: format!("{} does not answer over SSH any more", machine.name),
        });
    }
    for (column, (machine, _)) in reach.iter().enumerate() {
        let seen: Vec<bool> =
            reach.iter().filter_map(|(_, row)| row.as_ref()?.get(column).copied()).collect();
        if !seen.is_empty() && seen.iter().all(|reached| !reached) {
            return Some(Culprit {
                machine: machine.name.clone(),
                why: format!("nobody reaches port {port} of {}, not even itself", machine.name),
            });
        }
        let by_itself = reach[column].1.as_ref().and_then(|row| row.get(column).copied());
        if by_itself == Some(true)
            && seen.iter().filter(|reached| **reached).count() == 1
            && seen.len() > 1
        {
            return Some(Culprit {
                machine: machine.name.clone(),
                why: format!(
                    "port {port} of {} answers on the machine itself and to nobody else: look at its firewall",
                    machine.name
                ),
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterConfig;
    use crate::topology::{Group, Topology};

    fn blamed(rows: [Option<[bool; 3]>; 3]) -> Option<(String, String)> {
        let topology =
            Topology::build(&ClusterConfig::default(), "10.0.0.0/24".parse().unwrap()).unwrap();
        let reach: Vec<_> = topology
            .group(Group::Masters)
            .into_iter()
            .zip(rows)
            .map(|(machine, row)| (machine, row.map(|row| row.to_vec())))
            .collect();
        judge(&reach, 2380).map(|culprit| (culprit.machine, culprit.why))
    }

    #[test]
    fn the_machine_that_nobody_reaches_is_at_fault() {
        let row = Some([true, true, false]);
        let (machine, _) = blamed([row, row, row]).unwrap();
        assert_eq!(machine, "kdiy-master-3");
    }

    #[test]
    fn a_firewall_is_told_from_a_service_that_is_down() {
        let closed = Some([true, true, false]);
        let (machine, why) = blamed([closed, closed, Some([true, true, true])]).unwrap();
        assert_eq!(machine, "kdiy-master-3");
        assert!(why.contains("firewall"), "{why}");
    }

    #[test]
    fn a_machine_without_ssh_is_named_first_and_a_full_mesh_blames_nobody() {
        let full = Some([true; 3]);
        assert_eq!(blamed([full, None, full]).unwrap().0, "kdiy-master-2");
        assert!(blamed([full, full, full]).is_none());
    }
}
