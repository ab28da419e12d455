//! Prevents kdiy from replacing a complete cluster that lost its data with a new, empty one.

use std::time::Duration;

use crate::bundle::etcd_data::EtcdData;
use crate::etcd::data_loss::{Verdict, lost, verdict};
use crate::operations::apply::Runner;
use crate::support::failure::Result;
use crate::topology::Group;

const PAUSE: Duration = Duration::from_millis(100);

impl Runner {
    /// Before anything is changed: waits until a machine with etcd's data was seen. Where none was
    /// and a machine cannot be reached, nothing can be said, and the run ends for that reason.
    pub(super) async fn data_is_there(&self) -> Result<()> {
        if !self.had_data {
            return Ok(());
        }
        while self.data_verdict().await? == Verdict::Unknown {
            if self.stop.is_cancelled() || !self.unreached.lock().await.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// An error where every machine was looked at and none has data, although there was some.
    pub(super) async fn data_verdict(&self) -> Result<Verdict> {
        let machines = self.etcd_data().await;
        match verdict(&machines) {
            Verdict::Lost if self.had_data => {
                Err(lost(&self.session.topology().cluster, &machines).hint("nothing was changed"))
            }
            verdict => Ok(verdict),
        }
    }

    /// What each machine that is to run etcd had of its data when this run looked at it.
    pub(super) async fn etcd_data(&self) -> Vec<(&str, Option<EtcdData>)> {
        let mut machines = Vec::new();
        for machine in self.session.topology().group(Group::Etcd) {
            let reached = self.session.reached(&machine.name).await.ok();
            let data = reached.and_then(|reached| reached.observed.etcd_data);
            machines.push((machine.name.as_str(), data));
        }
        machines
    }
}
