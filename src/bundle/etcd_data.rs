//! The data of an etcd member on a machine's disk. A member that has lost its write-ahead log has
//! forgotten writes that it acknowledged, so it must never start under its old identity.

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
            Self { unmounted: true, .. } => "its file system is not mounted",
            Self { runs: true, .. } => "etcd is still running, but its files were deleted",
            Self { cluster_exists: true, .. } => "it was a member, and has no write-ahead log",
            _ => "the machine is new, or was reinstalled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_one_that_a_shell_can_run() {
        let output = std::process::Command::new("sh").args(["-c", &script()]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(EtcdData::read(&text).is_some(), "{text}");
    }
}
