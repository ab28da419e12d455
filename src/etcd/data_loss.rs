//! A cluster whose members have all lost their data.

use crate::bundle::etcd_data::EtcdData;
use crate::etcd::etcdctl::ETCDCTL_BY_HAND;
use crate::support::failure::{Failure, Kind};

/// What is known of the data of a whole cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A machine has data.
    Kept,
    /// Not all machines were looked at, and none of the others has any.
    Unknown,
    /// No machine has any.
    Lost,
}

/// `None` stands for a machine that was not looked at.
pub fn verdict(machines: &[(&str, Option<EtcdData>)]) -> Verdict {
    if machines.iter().any(|(_, data)| data.is_some_and(|data| data.has_log)) {
        return Verdict::Kept;
    }
    if machines.iter().any(|(_, data)| data.is_none()) { Verdict::Unknown } else { Verdict::Lost }
}

/// What a user has to know, and can do, where no member of a cluster has its data.
pub fn lost(cluster: &str, machines: &[(&str, Option<EtcdData>)]) -> Failure {
    let known = || machines.iter().filter_map(|(name, data)| Some((*name, (*data)?)));
    let mut failure = Failure::new(Kind::Quorum, "etcd has no data on any machine")
        .cause(format!(
            "the cluster {cluster} exists; starting etcd now would replace it with a new, empty one"
        ))
        .tail(known().map(|(name, data)| format!("{name}: {}", data.why_not())).collect());
    for (name, data) in known() {
        if data.unmounted {
            failure = failure.hint(format!(
                "mount it: kdiy ssh {name} -- sudo mount /var/lib/etcd; then kdiy up"
            ));
        } else if data.runs {
            failure = failure.hint(format!(
                "save a snapshot of etcd on {name} before it stops: kdiy ssh {name} -- sudo \
                 {ETCDCTL_BY_HAND} snapshot save /root/etcd.snapshot"
            ));
        }
    }
    failure
        .hint("if you have a snapshot, restore it as docs/reliability.md says, then run `kdiy up`")
        .hint(format!(
            "without one the data is lost: kdiy destroy --name {cluster}, and start again"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: EtcdData =
        EtcdData { has_log: false, cluster_exists: false, unmounted: false, runs: false };
    const KEPT: EtcdData = EtcdData { has_log: true, ..EMPTY };

    #[test]
    fn one_machine_with_a_log_is_enough_and_one_that_is_silent_leaves_it_open() {
        assert_eq!(verdict(&[("a", Some(EMPTY)), ("b", Some(KEPT)), ("c", None)]), Verdict::Kept);
        assert_eq!(verdict(&[("a", Some(EMPTY)), ("b", None)]), Verdict::Unknown);
        assert_eq!(verdict(&[("a", Some(EMPTY)), ("b", Some(EMPTY))]), Verdict::Lost);
    }

    #[test]
    fn a_loss_names_every_machine_and_the_way_out_of_its_kind() {
        let unmounted = EtcdData { unmounted: true, cluster_exists: true, ..EMPTY };
        let failure = lost("x", &[("a", Some(unmounted)), ("b", Some(EMPTY))]);
        assert_eq!(
            failure.tail,
            ["a: its file system is not mounted", "b: the machine is new, or was reinstalled"]
        );
        assert!(failure.hints[0].contains("sudo mount /var/lib/etcd"), "{:?}", failure.hints);
        let running = EtcdData { runs: true, ..EMPTY };
        let failure = lost("x", &[("a", Some(running))]);
        assert!(failure.hints[0].contains("snapshot save"), "{:?}", failure.hints);
        assert!(!failure.hints[0].contains('$'), "{:?}", failure.hints);
    }
}
