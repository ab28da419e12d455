//! What every probe needs: the configuration of a cluster, its machines, and the connections to
//! them and to its API.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::config::ClusterConfig;
use crate::kubernetes::client::ApiAccess;
use crate::support::failure::chain;
use crate::support::time_scale::Unscaled;
use crate::topology::{Group, Machine, Topology};
use crate::transport::Script;
use crate::transport::pool::ConnectionPool;

const SCRIPT_WITHIN: Unscaled = Unscaled::from_secs(15);

/// Everything a probe may look at.
pub struct ClusterContext {
    pub config: ClusterConfig,
    pub topology: Topology,
    pub connections: Arc<ConnectionPool>,
    pub api: Arc<ApiAccess>,
    /// Full references, by image name.
    pub images: BTreeMap<String, String>,
    /// Versions that are to run, by component.
    pub versions: BTreeMap<String, String>,
    /// Between two turns of a rolling step: its machines whose turn is to come, which may run the
    /// version that they had. `None` where the whole is to be proven.
    pub turn_to_come: Option<BTreeSet<String>>,
    /// Within a run: the steps whose work must show by now. Later ones may have been begun by a run
    /// that was interrupted. `None` where every step must show.
    pub steps: Option<BTreeSet<String>>,
}

impl ClusterContext {
    /// Whether the machine is one whose turn in a rolling step is to come. It may wait for that very
    /// step to be mended, so it is not held against those that were changed.
    pub fn is_to_come(&self, machine: &str) -> bool {
        self.turn_to_come.as_ref().is_some_and(|machines| machines.contains(machine))
    }

    /// Runs a script on each machine of a group at the same time. A machine that does not answer
    /// has an `Err` with the reason.
    pub async fn ask(
        &self,
        group: Group,
        script: impl Fn(&Machine) -> String,
    ) -> Vec<(&Machine, Result<String, String>)> {
        self.hear(group, script, |_, _| {}).await
    }

    /// The same, with every line as it arrives.
    pub(crate) async fn hear(
        &self,
        group: Group,
        script: impl Fn(&Machine) -> String,
        listen: impl Fn(&Machine, &str) + Sync,
    ) -> Vec<(&Machine, Result<String, String>)> {
        let listen = &listen;
        let asked = self.topology.group(group).into_iter().map(|machine| {
            let script = Script::new(script(machine)).timeout(self.patience());
            async move {
                let answer = match self.connections.transport(&machine.name).await {
                    Ok(transport) => {
                        let listen = |line: &str| listen(machine, line);
                        transport.run_with(script, &listen).await.map_err(|error| chain(&error))
                    }
                    Err(failure) => Err(failure.to_string()),
                };
                (machine, answer.map(|output| output.stdout))
            }
        });
        futures::future::join_all(asked).await
    }

    /// Seconds that one request of such a script may take, as curl and nc are told: those of
    /// ordinary hardware, multiplied by `slowMachines`.
    pub fn seconds(&self, ordinary: u32) -> u32 {
        ordinary.saturating_mul(self.config.slow_machines)
    }

    /// How long one script of a probe may take.
    pub(crate) fn patience(&self) -> Duration {
        SCRIPT_WITHIN * self.config.slow_machines
    }
}
