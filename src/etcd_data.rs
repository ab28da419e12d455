//! What a machine has on disk of its etcd member. A member that has lost its write-ahead log has
//! forgotten what it promised, so it must never start as the member that it was.

use std::fmt::Write as _;

use crate::failure::{Failure, Kind};

/// What etcd itself makes within its data directory (`--data-dir` in 20-etcd).
pub const MEMBER: &str = "/var/lib/etcd/data/member";
/// Read when the unit starts, and removed by it once the member has joined. It is in /run, so that
/// a machine that restarts before it has data does not join with a list that is out of date.
pub const JOINING: &str = "/run/kdiy-etcd-joins.env";
/// Says that this machine must not begin a cluster. It is apart from the data, so that it is there
/// when the data is not; etcd's unit writes it, and refuses to start without data because of it.
pub const CLUSTER_EXISTS: &str = "/etc/etcd/cluster-exists";

/// Succeeds where the member has its write-ahead log. etcd itself goes by this (etcd 3.6,
/// `wal.Exist`): it makes the directory around it before it knows whether it may start.
pub const HAS_LOG: &str = "ls /var/lib/etcd/data/member/wal/*.wal >/dev/null 2>&1";

/// What a machine has of its member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EtcdData {
    /// It has its write-ahead log, and so its data.
    pub has_log: bool,
    /// A cluster existed when this machine's etcd ran last.
    pub cluster_exists: bool,
    /// systemd knows a file system for it (fstab, or a mount unit) that is not mounted.
    pub unmounted: bool,
    pub runs: bool,
}

/// Prints one line, which [`EtcdData::parse`] reads.
pub fn script() -> String {
    format!(
        r#"log=no exists=no unmounted=no runs=no
if {HAS_LOG}; then log=yes; fi
if [ -e {CLUSTER_EXISTS} ]; then exists=yes; fi
for unit in var-lib-etcd.mount var-lib-etcd-data.mount; do
  case $(systemctl show --property LoadState,ActiveState "$unit" 2>/dev/null | sort | tr '\n' ' ') in
    'ActiveState=active LoadState=loaded ') ;;
    *LoadState=loaded*) unmounted=yes ;;
  esac
done
if systemctl is-active --quiet etcd.service; then runs=yes; fi
printf 'etcd\t%s\t%s\t%s\t%s\n' $log $exists $unmounted $runs
"#
    )
}

impl EtcdData {
    /// Of the fields of the line that [`script`] prints, without the first.
    pub fn parse(fields: &[&str]) -> Option<Self> {
        let [has_log, cluster_exists, unmounted, runs] = fields else { return None };
        let yes = |field: &str| field == "yes";
        Some(Self {
            has_log: yes(has_log),
            cluster_exists: yes(cluster_exists),
            unmounted: yes(unmounted),
            runs: yes(runs),
        })
    }

    /// From all that [`script`] and others printed.
    pub fn read(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("etcd\t"))?;
        Self::parse(&line.split('\t').collect::<Vec<_>>())
    }

    /// In a few words, why there is no data.
    pub const fn why_not(self) -> &'static str {
        match self {
            Self { unmounted: true, .. } => "a file system belongs there, and is not mounted",
            Self { runs: true, .. } => "etcd runs on, but its files were deleted",
            Self { cluster_exists: true, .. } => "it was a member, and has no write-ahead log",
            _ => "the machine is new, or was installed again",
        }
    }
}

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
            "the cluster {cluster} exists; starting etcd now would put a new, empty one in its place"
        ))
        .tail(known().map(|(name, data)| format!("{name}: {}", data.why_not())).collect());
    for (name, data) in known() {
        if data.unmounted {
            failure = failure.hint(format!(
                "mount it: kdiy ssh {name} -- sudo mount /var/lib/etcd; then kdiy up"
            ));
        } else if data.runs {
            let mut hint = format!("save what etcd on {name} still knows, before it stops: ");
            let _ = write!(
                hint,
                "kdiy ssh {name} -- sudo {} snapshot save /root/etcd.snapshot",
                crate::etcd::ETCDCTL
            );
            failure = failure.hint(hint);
        }
    }
    failure
        .hint("with a snapshot: restore it as docs/reliability.md says, then run `kdiy up`")
        .hint(format!(
            "without one the data is gone: kdiy destroy --name {cluster}, and begin anew"
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
            [
                "a: a file system belongs there, and is not mounted",
                "b: the machine is new, or was installed again"
            ]
        );
        assert!(failure.hints[0].contains("sudo mount /var/lib/etcd"), "{:?}", failure.hints);
        let running = EtcdData { runs: true, ..EMPTY };
        let failure = lost("x", &[("a", Some(running))]);
        assert!(failure.hints[0].contains("snapshot save"), "{:?}", failure.hints);
    }

    #[test]
    fn the_script_is_one_that_a_shell_can_run() {
        let output = std::process::Command::new("sh").args(["-c", &script()]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(EtcdData::read(&text).is_some(), "{text}");
    }
}
