//! `playbooks/drills.yaml`: the drills, why the cluster should survive each one, and the bounds of
//! its effects.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::config::Span;
use crate::etcd::quorum_guard::Service;
use crate::operations::drill::limit::Bound;
use crate::operations::drill::measure::Measure;
use crate::playbook::load::Playbooks;
use crate::support::failure::{Failure, Result};

/// File of the catalogue below the playbook directory.
const FILE: &str = "drills.yaml";
/// Names that mean something else on the command line.
const RESERVED: [&str; 2] = ["all", "list"];

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    pub drills: Vec<Drill>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Drill {
    /// Lower case and hyphens, as the command line has it.
    pub name: String,
    pub title: String,
    /// What is about to happen, in a sentence.
    pub happens: String,
    /// Why the cluster should survive it, in a sentence.
    pub survives: String,
    pub on: Target,
    /// What of the machine no longer counts while it lasts.
    #[serde(default)]
    pub costs: Vec<Service>,
    pub fault: Fault,
    /// A template; what it prints on the machine while the fault lasts goes into the report.
    #[serde(default)]
    pub look: Option<String>,
    pub lasts: Span,
    #[serde(default)]
    pub writes: Writes,
    #[serde(default)]
    pub bounds: BTreeMap<Measure, Bound>,
    /// Bounds for `--graceful`, for drills that know it.
    #[serde(default)]
    pub graceful: Option<BTreeMap<Measure, Bound>>,
}

/// Whom a drill hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    EtcdLeader,
    EtcdFollower,
    /// The machine that holds the virtual address.
    VipHolder,
    /// The holder of kube-controller-manager's lease.
    ControllerManager,
    /// The holder of kube-scheduler's lease.
    Scheduler,
    /// The master that holds the virtual address; the first where none does.
    Master,
    Worker,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    Kill(Kill),
    PowerOff,
    Script(Scripts),
}

/// Units that die together.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    pub units: Vec<String>,
}

/// Templates for `/bin/sh`, run as root on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scripts {
    /// Fails, and says why, where the fault cannot be made.
    #[serde(default)]
    pub possible: Option<String>,
    pub inject: String,
    /// May run more than once, and also when `inject` broke off.
    pub undo: String,
}

/// What is to become of writes while the fault lasts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Writes {
    #[default]
    Served,
    Refused,
}

impl Catalogue {
    pub fn load(playbooks: &Playbooks) -> Result<Self> {
        let text = playbooks
            .file(FILE)
            .ok_or_else(|| Failure::input(format!("playbooks/{FILE} does not exist")))?;
        Self::parse(text)
    }

    fn parse(text: &str) -> Result<Self> {
        let catalogue: Self = serde_saphyr::from_str(text)
            .map_err(|error| Failure::input(format!("playbooks/{FILE}")).because(error))?;
        catalogue.check()?;
        Ok(catalogue)
    }

    /// One drill by its name, or all of them.
    pub fn chosen(&self, name: &str) -> Result<Vec<Drill>> {
        if name == "all" {
            return Ok(self.drills.clone());
        }
        let found = self.drills.iter().find(|drill| drill.name == name);
        found.map(|drill| vec![drill.clone()]).ok_or_else(|| {
            let names: Vec<&str> = self.drills.iter().map(|drill| drill.name.as_str()).collect();
            Failure::input(format!("the drill {name} does not exist"))
                .hint(format!("the drills are {}; or all", names.join(", ")))
        })
    }

    fn check(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for drill in &self.drills {
            let wrong = |problem: String| {
                Err(Failure::input(format!("playbooks/{FILE}: {}: {problem}", drill.name)))
            };
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if drill.name.is_empty() || !drill.name.chars().all(plain) {
                return wrong("a name has only lower-case letters, digits and hyphens".into());
            }
            if RESERVED.contains(&drill.name.as_str()) || !names.insert(&drill.name) {
                return wrong("the name is taken".into());
            }
            if drill.happens.trim().is_empty() || drill.survives.trim().is_empty() {
                return wrong("say what `happens` and why the cluster `survives`".into());
            }
            if drill.graceful.is_some() && !matches!(drill.fault, Fault::Kill(_)) {
                return wrong("only units that are killed can be stopped gracefully".into());
            }
            if drill.writes == Writes::Refused && !drill.bounds.is_empty() {
                return wrong("a drill with `writes: refused` has no `bounds`".into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedded() -> Catalogue {
        Catalogue::load(&Playbooks::load(None).unwrap()).unwrap()
    }

    #[test]
    fn the_embedded_drills_are_sound_and_those_that_the_docs_name_are_there() {
        let catalogue = embedded();
        for name in ["etcd-leader", "apiserver", "lb", "master", "partition", "disk-full"] {
            assert_eq!(catalogue.chosen(name).unwrap().len(), 1);
        }
        assert_eq!(catalogue.chosen("all").unwrap().len(), catalogue.drills.len());
    }

    #[test]
    fn what_a_drill_costs_follows_from_what_it_breaks() {
        for drill in embedded().drills {
            let Fault::Kill(kill) = &drill.fault else { continue };
            let costs: Vec<Service> =
                kill.units.iter().filter_map(|unit| Service::of_unit(unit)).collect();
            assert_eq!(drill.costs, costs, "{}", drill.name);
        }
    }

    #[test]
    fn an_unknown_drill_lists_the_known_ones() {
        let refused = embedded().chosen("etcd-leadr").unwrap_err().to_string();
        assert!(refused.contains("etcd-leader, etcd-follower"), "{refused}");
    }

    #[test]
    fn a_bad_catalogue_names_the_drill_and_the_problem() {
        let drill = |name: &str, rest: &str| {
            format!(
                "drills:\n- {{name: {name}, title: t, happens: h, survives: s, on: worker, \
                 lasts: 1s{rest}}}\n"
            )
        };
        for (text, problem) in [
            (drill("all", ", fault: power-off"), "all: the name is taken"),
            (drill("A b", ", fault: power-off"), "lower-case"),
            (drill("a", ", fault: power-off, graceful: {}"), "stopped gracefully"),
            (drill("a", ", fault: power-off, writes: refused, bounds: {pods: 1s}"), "no `bounds`"),
            (drill("a", ", fault: power-off, bounds: {pods: soon}"), "drills.yaml"),
            (drill("a", ", fault: explode"), "drills.yaml"),
        ] {
            let refused = Catalogue::parse(&text).unwrap_err().to_string();
            assert!(refused.contains(problem), "{problem}: {refused}");
        }
    }
}
