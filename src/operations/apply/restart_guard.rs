//! Restarts of etcd and API servers: one at a time, and only if the cluster can tolerate it.

use std::time::Instant;

use tokio::sync::MutexGuard;

use crate::bundle::observe::{Difference, Observed, Verb};
use crate::engine::plan::Task;
use crate::etcd::quorum_guard::{Members, OVERRIDE, Service};
use crate::operations::apply::Runner;
use crate::support::failure::Result;
use crate::support::time_scale::Unscaled;

/// How often a member whose unit ran is looked at before it is taken not to count: it may be
/// unhealthy for the moment in which another one restarts, or slow to answer.
const LOOKS: u32 = 3;
/// A member that is just coming back is waited for this long; multiplied by `slowMachines`.
const BACK_WITHIN: Unscaled = Unscaled::from_secs(60);
const PAUSE: Unscaled = Unscaled::from_millis(500);

impl Runner {
    /// Waits until the cluster, as it is then, can spare what this work stops on the machine.
    /// Nothing else that it counts on is stopped while the result is held. `None` where nothing is
    /// stopped, or what does not count: several of these may have to start together.
    pub(super) async fn spared(
        &self,
        task: &Task,
        machine: &str,
        work: &[Difference],
        observed: &Observed,
    ) -> Result<Option<MutexGuard<'_, ()>>> {
        // What never served has nobody to lose, and may be waiting for this very restart.
        if !self.has_served {
            return Ok(None);
        }
        let Some((service, runs)) = stopped_by(work, observed) else { return Ok(None) };
        let context = self.session.cluster_context();
        // Looked at while nothing else is stopped, which would make this member look unhealthy.
        let turn = self.turn.lock().await;
        let mut looks = 1;
        while !Members::of(service, &context).await.counts_on(machine) {
            if !runs || looks == LOOKS || self.stop.is_cancelled() {
                return Ok(None);
            }
            looks += 1;
            tokio::time::sleep(self.slowly(PAUSE)).await;
        }
        let began = Instant::now();
        loop {
            let members = Members::of(service, &context).await;
            if members.list().len() == 1 {
                let unit = service.unit();
                self.events.note(format!(
                    "{machine} has the only {unit}: the API is unavailable while it restarts"
                ));
                return Ok(Some(turn));
            }
            let Err(refusal) = members.allows_loss_of(&[machine]) else { return Ok(Some(turn)) };
            if self.beyond_quorum {
                self.events.warn(format!("{}; continuing because of {OVERRIDE}", refusal.what));
                return Ok(Some(turn));
            }
            if began.elapsed() >= self.slowly(BACK_WITHIN) || self.stop.is_cancelled() {
                return Err(refusal.in_step(&task.step));
            }
            self.events.progress(&task.id, format!("waiting: {}", refusal.what));
            tokio::time::sleep(self.slowly(PAUSE)).await;
        }
    }
}

/// The guarded service that this work restarts, and whether it ran when the machine was looked at.
/// What is to be started counts as well: it may have come up by itself since. What was never enabled
/// is new.
fn stopped_by(work: &[Difference], observed: &Observed) -> Option<(Service, bool)> {
    let is_installed = |unit: &str| observed.units.get(unit).is_some_and(|state| state.enabled);
    work.iter()
        .filter(|it| matches!(it.verb, Verb::Start | Verb::Restart) && is_installed(&it.what))
        .find_map(|it| Some((Service::of_unit(&it.what)?, it.verb == Verb::Restart)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::observe::UnitState;

    #[test]
    fn a_unit_that_is_not_installed_is_not_stopped() {
        let start = [Difference::new(Verb::Start, "etcd.service")];
        let mut observed = Observed::default();
        assert_eq!(stopped_by(&start, &observed), None);
        let state = UnitState { active: false, enabled: true, ..UnitState::default() };
        observed.units.insert("etcd.service".into(), state);
        assert_eq!(stopped_by(&start, &observed), Some((Service::Etcd, false)));
    }

    #[test]
    fn only_restarts_stop_something() {
        let state = UnitState { active: true, enabled: true, ..UnitState::default() };
        let mut observed = Observed::default();
        for unit in ["etcd.service", "kubelet.service"] {
            observed.units.insert(unit.into(), state.clone());
        }
        let work = |verb, unit| stopped_by(&[Difference::new(verb, unit)], &observed);
        assert_eq!(work(Verb::Restart, "etcd.service"), Some((Service::Etcd, true)));
        assert_eq!(work(Verb::Restart, "kubelet.service"), None);
        assert_eq!(work(Verb::Settle, "etcd.service"), None);
    }
}
