//! Which version of Kubernetes a cluster may go to from the one that it has.
//!
//! Kubernetes' version skew policy (https://kubernetes.io/releases/version-skew-policy/): api-servers
//! of one cluster are at most one minor apart, and none may be older than what etcd was last written
//! by; no other component may be newer than the api-server that it talks to, and a kubelet may be
//! up to three minors older. `up` takes all components along, and the machines one after the
//! other, so what is left to be checked is the way from one version to the next.

use semver::Version;

use crate::state::Record;
use crate::support::failure::{Failure, Result};

/// How many minors the api-servers of a cluster may be apart, and so how far one upgrade goes.
const MINORS_UP: u64 = 1;
/// Objects in etcd may be of kinds and versions that an older minor cannot read. Patch releases of
/// one minor all read the same, so one may go back to an earlier one.
const MINORS_DOWN: u64 = 0;

/// An error with the rule, where the cluster cannot go to this version.
pub fn check(record: &Record, wanted: &str) -> Result<()> {
    let Ok(to) = Version::parse(wanted) else { return Ok(()) };
    // Where an upgrade is under way, machines may have either version.
    let proven = record.proven_kubernetes().and_then(|version| Version::parse(version).ok());
    let begun = Version::parse(&record.config.kubernetes).ok();
    let from = [proven, begun].into_iter().flatten();
    let newest = from.clone().max_by_key(|version| (version.major, version.minor));
    let oldest = from.min_by_key(|version| (version.major, version.minor));
    let (Some(newest), Some(oldest)) = (newest, oldest) else { return Ok(()) };
    let name = &record.config.name;
    if (to.major, to.minor + MINORS_DOWN) < (newest.major, newest.minor) {
        return Err(Failure::input(format!(
            "kubernetes: {wanted} is an older minor version than {newest}, which the cluster \
            {name} has"
        ))
        .cause(
            "Kubernetes has no downgrade of minor versions: an older API server may not be able \
            to read what a newer one has written",
        )
        .hint(format!(
            "leave `kubernetes:` out to keep {newest}, or set another patch release of \
            {}.{}",
            newest.major, newest.minor
        )));
    }
    if to.major != oldest.major || to.minor > oldest.minor + MINORS_UP {
        return Err(Failure::input(format!(
            "kubernetes: {wanted} is more than one minor newer than {oldest}, which the cluster {name} has"
        ))
        .cause(
            "upgrade Kubernetes by one minor version at a time: API servers of one cluster may \
            not differ by more",
        )
        .hint(format!(
            "upgrade to the newest {}.{} first",
            oldest.major,
            oldest.minor + MINORS_UP
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterConfig;
    use crate::topology::architecture::Architectures;

    fn record(config: &str, proven: Option<&str>) -> Record {
        Record {
            kdiy: "0.1.0".into(),
            id: String::new(),
            site: "192.168.56.0/24".parse::<ipnet::Ipv4Net>().unwrap().into(),
            config: ClusterConfig { kubernetes: config.into(), ..ClusterConfig::default() },
            complete: true,
            had_data: true,
            machine_architectures: Architectures::default(),
            playbooks: None,
            keys: Default::default(),
            proven_kubernetes: proven.map(str::to_owned),
        }
    }

    #[test]
    fn one_minor_up_and_any_patch_release_is_a_way() {
        let from = record("1.35.4", None);
        for wanted in ["1.35.4", "1.35.9", "1.35.0", "1.36.0", "1.36.9"] {
            check(&from, wanted).unwrap();
        }
        for (wanted, rule) in [
            ("1.34.11", "older minor"),
            ("1.37.0", "one minor version at a time"),
            ("2.35.0", "one minor"),
        ] {
            let refused = check(&from, wanted).unwrap_err().to_string();
            assert!(refused.contains(rule) && refused.contains("kubernetes: "), "{refused}");
        }
    }

    #[test]
    fn an_upgrade_that_is_under_way_can_only_go_on() {
        let under_way = record("1.36.4", Some("1.35.4"));
        check(&under_way, "1.36.4").unwrap();
        check(&under_way, "1.36.3").unwrap();
        assert!(check(&under_way, "1.35.4").is_err(), "an API server may already have 1.36");
        assert!(check(&under_way, "1.37.0").is_err(), "another may still have 1.35");
    }
}
