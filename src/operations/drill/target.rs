//! Chooses the target of a drill.

use crate::operations::drill::catalogue::Target;
use crate::operations::drill::leadership::Holders;
use crate::operations::drill::measure::Measure;
use crate::support::failure::{Failure, Result};
use crate::topology::{Group, Topology};

/// Why a drill has nobody to hit on this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoTarget(pub String);

/// Machines that may be hit, best first.
pub fn candidates(
    target: Target,
    topology: &Topology,
    holders: &Holders,
) -> Result<Vec<String>, NoTarget> {
    let names = |group| -> Vec<String> {
        topology.group(group).iter().map(|machine| machine.name.clone()).collect()
    };
    let only = |measure, why: &str| {
        let holder = holders.get(measure).map(|name| vec![name.to_owned()]);
        holder.ok_or_else(|| NoTarget(why.to_owned()))
    };
    let found = match target {
        Target::EtcdLeader => only(Measure::EtcdLeader, "etcd has no leader")?,
        Target::EtcdFollower => {
            let leader = holders.get(Measure::EtcdLeader);
            names(Group::Etcd).into_iter().filter(|name| Some(name.as_str()) != leader).collect()
        }
        Target::VipHolder if topology.vip.is_none() => {
            return Err(NoTarget("this cluster has no virtual address".into()));
        }
        Target::VipHolder => only(Measure::VirtualAddress, "no machine has the virtual address")?,
        Target::ControllerManager => {
            only(Measure::ControllerManager, "kube-controller-manager's lease has no holder")?
        }
        Target::Scheduler => only(Measure::Scheduler, "kube-scheduler's lease has no holder")?,
        Target::Master => {
            let mut masters = names(Group::Masters);
            let holder = holders.get(Measure::VirtualAddress);
            masters.sort_by_key(|name| Some(name.as_str()) != holder);
            masters
        }
        Target::Worker => names(Group::Workers),
    };
    if found.is_empty() {
        return Err(NoTarget(match target {
            Target::Worker => "this cluster has no worker".into(),
            _ => "etcd has only one member, and so no followers".into(),
        }));
    }
    Ok(found)
}

/// The machine that `--on` names, with or without the cluster's name, if the drill may hit it.
pub fn named(wanted: &str, candidates: &[String], topology: &Topology) -> Result<String> {
    let full = format!("{}-{wanted}", topology.cluster);
    let Some(machine) = topology.machine(wanted).or_else(|| topology.machine(&full)) else {
        let names: Vec<&str> = topology.machines.iter().map(|it| it.name.as_str()).collect();
        return Err(Failure::input(format!("--on: the machine {wanted} does not exist"))
            .hint(format!("the machines are {}", names.join(", "))));
    };
    if candidates.contains(&machine.name) {
        return Ok(machine.name.clone());
    }
    Err(Failure::input(format!("--on: this drill cannot break {}", machine.name))
        .hint(format!("it can break {}", candidates.join(", "))))
}

/// One machine more than etcd can lose, beginning with these.
pub fn beyond_quorum(first: &str, topology: &Topology) -> Vec<String> {
    let count = topology.etcd_quorum().tolerance() as usize + 1;
    let others = topology.group(Group::Etcd).into_iter().map(|machine| machine.name.as_str());
    let others = others.filter(|name| *name != first);
    std::iter::once(first).chain(others).take(count).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterConfig;

    fn topology(masters: u32, workers: u32) -> Topology {
        let config = ClusterConfig { masters, workers, ..Default::default() };
        Topology::build(&config, "192.168.56.0/24".parse().unwrap()).unwrap()
    }

    fn holders(held: &[(Measure, &str)]) -> Holders {
        held.iter().map(|(measure, name)| (*measure, (*name).to_owned())).collect()
    }

    #[test]
    fn a_drill_breaks_the_holder_of_its_lease_or_address() {
        let topology = topology(3, 2);
        let holders = holders(&[
            (Measure::EtcdLeader, "kdiy-master-2"),
            (Measure::VirtualAddress, "kdiy-master-3"),
        ]);
        let of = |target| candidates(target, &topology, &holders);
        assert_eq!(of(Target::EtcdLeader).unwrap(), ["kdiy-master-2"]);
        assert_eq!(of(Target::EtcdFollower).unwrap(), ["kdiy-master-1", "kdiy-master-3"]);
        assert_eq!(of(Target::VipHolder).unwrap(), ["kdiy-master-3"]);
        assert_eq!(of(Target::Master).unwrap()[0], "kdiy-master-3");
        assert!(of(Target::Scheduler).unwrap_err().0.contains("kube-scheduler"));
    }

    #[test]
    fn a_drill_without_a_target_gives_the_reason() {
        let topology = topology(1, 0);
        let holders = holders(&[(Measure::EtcdLeader, "kdiy-master-1")]);
        for (target, reason) in [
            (Target::EtcdFollower, "no followers"),
            (Target::VipHolder, "no virtual address"),
            (Target::Worker, "no worker"),
        ] {
            let nobody = candidates(target, &topology, &holders).unwrap_err();
            assert!(nobody.0.contains(reason), "{nobody:?}");
        }
    }

    #[test]
    fn a_machine_that_the_drill_is_not_about_is_refused() {
        let topology = topology(3, 2);
        let leader = ["kdiy-master-2".to_owned()];
        assert_eq!(named("master-2", &leader, &topology).unwrap(), "kdiy-master-2");
        let refused = named("master-1", &leader, &topology).unwrap_err().to_string();
        assert!(refused.contains("cannot break kdiy-master-1"), "{refused}");
        assert!(named("master-9", &leader, &topology).is_err());
    }

    #[test]
    fn one_failure_too_many_is_the_tolerance_and_one() {
        assert_eq!(beyond_quorum("kdiy-master-1", &topology(1, 0)), ["kdiy-master-1"]);
        let two = beyond_quorum("kdiy-master-3", &topology(3, 0));
        assert_eq!(two, ["kdiy-master-3", "kdiy-master-1"]);
        assert_eq!(beyond_quorum("kdiy-master-1", &topology(5, 0)).len(), 3);
    }
}
