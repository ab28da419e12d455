//! Which CPUs the machines have.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::playbook::load::Playbooks;
use crate::topology::Topology;

/// This computer's, as release names spell it.
pub const HERE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// What a machine says of itself (`uname -m`), as release names spell it; `None` for what
/// Kubernetes is not published for.
pub fn named(machine: &str) -> Option<&'static str> {
    match machine {
        "x86_64" | "amd64" => Some("amd64"),
        "aarch64" | "arm64" => Some("arm64"),
        _ => None,
    }
}

/// By machine, as release names spell them. A machine that is not in here has this computer's, as
/// those that kdiy makes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Architectures(BTreeMap<String, String>);

impl Architectures {
    pub fn of(&self, machine: &str) -> &str {
        self.0.get(machine).map_or(HERE, String::as_str)
    }

    /// What machines were found to be, over what was known of them.
    pub fn learn(&mut self, found: Self) {
        self.0.extend(found.0);
    }

    pub fn forget(&mut self, machine: &str) {
        self.0.remove(machine);
    }

    /// Of the machines on which a step installs this artifact or image.
    pub fn taking<'a>(
        &'a self,
        name: &str,
        playbooks: &Playbooks,
        topology: &Topology,
    ) -> BTreeSet<&'a str> {
        let takes = |list: &[String]| list.iter().any(|other| other == name);
        playbooks
            .steps()
            .filter(|(_, step)| takes(&step.artifacts) || takes(&step.images))
            .flat_map(|(_, step)| topology.machines.iter().map(move |machine| (step.on, machine)))
            .filter(|(group, machine)| topology.is_in(machine, *group))
            .map(|(_, machine)| self.of(&machine.name))
            .collect()
    }
}

impl FromIterator<(String, String)> for Architectures {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(machines: I) -> Self {
        Self(machines.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterConfig;

    #[test]
    fn a_machine_is_sent_only_what_it_installs() {
        let config = ClusterConfig::default();
        let topology = Topology::build(&config, "192.168.56.0/24".parse().unwrap()).unwrap();
        let playbooks = Playbooks::load(None).unwrap();
        let mixed: Architectures = topology
            .machines
            .iter()
            .map(|machine| {
                let arch = if machine.name.contains("worker") { "arm64" } else { "amd64" };
                (machine.name.clone(), arch.to_owned())
            })
            .collect();
        let taking = |name| Vec::from_iter(mixed.taking(name, &playbooks, &topology));
        assert_eq!(taking("kube-apiserver"), ["amd64"]);
        assert_eq!(taking("kubelet"), ["amd64", "arm64"]);
        assert_eq!(taking("pause"), ["amd64", "arm64"]);
        assert!(taking("no-such-thing").is_empty());
    }

    #[test]
    fn a_machine_that_nobody_asked_has_this_computers() {
        assert_eq!(Architectures::default().of("kdiy-master-1"), HERE);
    }
}
