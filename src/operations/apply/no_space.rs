//! etcd's alarm NOSPACE: etcd raises it when a database reaches its quota, refuses every write, and
//! keeps it until somebody clears it.

use std::collections::BTreeMap;

use crate::etcd::etcdctl::{self, Alarm, CURL, ETCDCTL};
use crate::operations::apply::Runner;
use crate::topology::Group;

/// So much of the quota may be in use, in per cent, for the alarm not to be back at once.
const IN_USE_AT_MOST: u64 = 95;

impl Runner {
    /// Takes the alarm back where every database has room again, because its quota was raised or it
    /// was defragmented. Whatever else is wrong is left to the gate, which follows.
    pub(super) async fn take_back_no_space(&self) {
        let Ok(sponsor) = self.sponsor().await else { return };
        let list = format!("{ETCDCTL} alarm list -w json");
        let alarms = self.ask(&sponsor, &list).await.and_then(|text| etcdctl::alarms(&text));
        // `alarm disarm` takes back every alarm, also that of a database that is corrupt.
        let only_space =
            |alarms: &[Alarm]| !alarms.is_empty() && alarms.iter().all(|it| *it == Alarm::NoSpace);
        if !alarms.is_ok_and(|alarms| only_space(&alarms)) {
            return;
        }
        let script = format!("{CURL}/metrics");
        let context = self.session.cluster_context();
        for (machine, answer) in context.ask(Group::Etcd, |_| script.clone()).await {
            let usage = answer.ok().and_then(|text| usage(&text));
            if usage.is_none_or(|(bytes, quota)| bytes * 100 >= quota * IN_USE_AT_MOST) {
                self.events.warn(format!(
                    "etcd has raised the alarm NOSPACE, and its database on {} is still almost as \
                    large as its quota",
                    machine.name
                ));
                return;
            }
        }
        match self.ask(&sponsor, &format!("{ETCDCTL} alarm disarm")).await {
            Ok(_) => {
                self.events.note("cleared etcd's alarm NOSPACE: its databases have room again")
            }
            Err(reason) => self.events.warn(format!("cannot clear the alarm NOSPACE: {reason}")),
        }
    }
}

/// Bytes of the database's file, and those that it may have, from etcd's metrics (etcd 3.6).
fn usage(metrics: &str) -> Option<(u64, u64)> {
    let values: BTreeMap<&str, f64> = metrics
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| Some((name, value.trim().parse().ok()?)))
        .collect();
    // Prometheus writes large numbers as 2.147483648e+09; they are whole.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = |name: &str| values.get(name).filter(|value| **value >= 0.0).map(|it| *it as u64);
    Some((whole("etcd_mvcc_db_total_size_in_bytes")?, whole("etcd_server_quota_backend_bytes")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_prometheus_writes_them() {
        let metrics = "# TYPE etcd_mvcc_db_total_size_in_bytes gauge\n\
                       etcd_mvcc_db_total_size_in_bytes 20480\n\
                       etcd_server_quota_backend_bytes 2.147483648e+09\n";
        assert_eq!(usage(metrics), Some((20_480, 2_147_483_648)));
        assert_eq!(usage("etcd_server_quota_backend_bytes NaN\n"), None);
    }
}
