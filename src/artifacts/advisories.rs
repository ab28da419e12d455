//! `playbooks/advisories.yaml`: known vulnerabilities of what kdiy installs.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::playbook::load::Playbooks;
use crate::support::failure::{Failure, Result};

/// File of the list below the playbook directory.
const FILE: &str = "advisories.yaml";

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    advisories: Vec<Advisory>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advisory {
    /// `CVE-…`, or as the project calls it.
    pub id: String,
    /// By artifact or image name, as in `artifacts.yaml`.
    pub component: String,
    /// The first version with it; absent: the first of all.
    #[serde(default)]
    pub from: Option<String>,
    /// The first version without it.
    pub fixed: String,
    /// What whoever uses it can do.
    pub what: String,
}

impl Advisory {
    fn affects(&self, version: &str) -> bool {
        let version = numbers(version);
        version < numbers(&self.fixed)
            && self.from.as_ref().is_none_or(|from| numbers(from) <= version)
    }
}

impl std::fmt::Display for Advisory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} (fixed in {})", self.id, self.what, self.fixed)
    }
}

/// `[2, 3, 6]` of `2.3.6`. What is no number ends it.
fn numbers(version: &str) -> Vec<u64> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

/// All that affect one of these versions, by component.
pub fn affecting(
    playbooks: &Playbooks,
    versions: &BTreeMap<String, String>,
) -> Result<Vec<Advisory>> {
    let text = playbooks
        .file(FILE)
        .ok_or_else(|| Failure::input(format!("playbooks/{FILE} does not exist")))?;
    let list: List = serde_saphyr::from_str(text)
        .map_err(|error| Failure::input(format!("playbooks/{FILE}")).because(error))?;
    let affects = |it: &Advisory| versions.get(&it.component).is_some_and(|at| it.affects(at));
    Ok(list.advisories.into_iter().filter(affects).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::Catalogue;
    use crate::config::ClusterConfig;

    fn known(component: &str, version: &str) -> Vec<String> {
        let playbooks = Playbooks::load(None).unwrap();
        let versions = [(component.to_owned(), version.to_owned())].into();
        let found = affecting(&playbooks, &versions).unwrap();
        found.into_iter().map(|advisory| advisory.id).collect()
    }

    /// When this fails, give `artifacts.yaml` a version without the hole, and its digests.
    #[test]
    fn no_pinned_version_has_a_known_hole() {
        let playbooks = Playbooks::load(None).unwrap();
        let catalogue = Catalogue::load(&playbooks).unwrap();
        for minor in catalogue.minors() {
            let config = ClusterConfig { kubernetes: format!("{minor}.0"), ..Default::default() };
            let mut versions = catalogue.versions(&config).unwrap().by_name;
            // Which patch of Kubernetes is for the cluster file to say.
            versions.remove("kubernetes");
            let found = affecting(&playbooks, &versions).unwrap();
            assert!(found.is_empty(), "Kubernetes {minor}: {found:?}");
        }
        let versions = catalogue.versions(&ClusterConfig::default()).unwrap().by_name;
        assert_eq!(affecting(&playbooks, &versions).unwrap(), []);
    }

    #[test]
    fn every_advisory_is_of_something_that_is_installed() {
        let playbooks = Playbooks::load(None).unwrap();
        let list: List = serde_saphyr::from_str(playbooks.file(FILE).unwrap()).unwrap();
        let catalogue = Catalogue::load(&playbooks).unwrap();
        let versions = catalogue.versions(&ClusterConfig::default()).unwrap().by_name;
        for advisory in list.advisories {
            assert!(versions.contains_key(&advisory.component), "{advisory:?}");
            assert!(numbers(&advisory.fixed).len() == 3 && !advisory.what.is_empty());
        }
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(known("containerd", "2.3.4"), ["CVE-2026-53495", "GHSA-rp3h-jf77-q9p4"]);
        assert!(known("containerd", "2.3.10").is_empty());
        assert_eq!(known("local-path", "0.0.30"), ["CVE-2025-62878", "CVE-2026-44543"]);
        assert_eq!(known("local-path", "0.0.35"), ["CVE-2026-44543"]);
        let from = Advisory {
            id: "x".into(),
            component: "x".into(),
            from: Some("1.10.0".into()),
            fixed: "1.10.2".into(),
            what: "x".into(),
        };
        assert!(from.affects("1.10.1") && !from.affects("1.9.9") && !from.affects("1.10.2"));
    }
}
