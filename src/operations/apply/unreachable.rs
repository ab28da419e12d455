//! Machines that do not answer: kdiy waits for them, but names them long before the deadline, with
//! the effect on the cluster.

use std::sync::Arc;
use std::time::Instant;

use crate::etcd::quorum_guard::{Members, Service, Standing};
use crate::operations::apply::Runner;
use crate::support::failure::{Failure, Result};
use crate::support::time_scale::Unscaled;
use crate::transport::Transport;
use crate::transport::target::SshTarget;

/// A machine that boots answers within this; multiplied by `slowMachines`.
const REACHED_WITHIN: Unscaled = Unscaled::from_secs(180);
/// One that takes longer than this is worth a word; multiplied by `slowMachines`. A machine that
/// is well answers in a second, one that restarts in half a minute.
const NAMED_AFTER: Unscaled = Unscaled::from_secs(15);

struct Late {
    /// Whether it was waited for to the end; else the machine does not want us.
    is_late: bool,
    failure: Failure,
}

impl Runner {
    pub(super) async fn connect(&self, target: &SshTarget) -> Result<Arc<dyn Transport>> {
        loop {
            let began = Instant::now();
            match self.connect_within(target).await {
                Err(failure) if failure.is_late && self.waits.was_making(began) => {}
                result => return result.map_err(|late| late.failure),
            }
        }
    }

    /// One attempt, of as long as a machine takes that is there.
    async fn connect_within(&self, target: &SshTarget) -> Result<Arc<dyn Transport>, Late> {
        let began = Instant::now();
        let (deadline, early) = (self.slowly(REACHED_WITHIN), self.slowly(NAMED_AFTER));
        let mut connecting = std::pin::pin!(self.session.connections.connect(target, deadline));
        let mut is_named = false;
        let connected = loop {
            tokio::select! {
                connected = &mut connecting => break connected,
                () = tokio::time::sleep(early), if !is_named => {}
            }
            // One that was being made until just now is given as long as any other.
            let since = Instant::now().checked_sub(early).map_or(began, |then| then.max(began));
            if self.waits.was_making(since) {
                continue;
            }
            is_named = true;
            let meaning = self.meaning().await.map(|it| format!("; {it}")).unwrap_or_default();
            self.events.warn(format!(
                "{} ({}) has not answered for {} s{meaning}; waiting {} s more",
                target.machine,
                target.host,
                early.as_secs(),
                deadline.saturating_sub(began.elapsed()).as_secs(),
            ));
        };
        match connected {
            Ok(transport) => Ok(transport),
            Err(failure) => {
                let is_late = began.elapsed() >= deadline;
                let failure = match self.meaning().await {
                    Some(meaning) => failure.hint(meaning),
                    None => failure,
                };
                Err(Late { is_late, failure: failure.hint(self.replacement(&target.machine)) })
            }
        }
    }

    /// What the machines that are away mean for a cluster that was whole once; nothing is to be
    /// said of one that is still being made.
    async fn meaning(&self) -> Option<String> {
        if !self.proven_before {
            return None;
        }
        Some(meaning(&Standing::of(&self.session.cluster_context()).await))
    }

    fn replacement(&self, machine: &str) -> String {
        let provider = &self.session.provider;
        if !provider.makes_machines() {
            return format!("if {machine} is lost, replace it with another machine");
        }
        let maker = provider.name();
        format!(
            "if {machine} is lost, delete it with {maker}'s own tool: `kdiy up` creates it again"
        )
    }
}

fn meaning(standing: &Standing) -> String {
    let count = |service: Service| {
        let members = standing.members(service);
        format!("{} of {}", members.healthy(), members.list().len())
    };
    let numbers = format!(
        "{} etcd members ({} needed) and {} API servers are healthy",
        count(Service::Etcd),
        standing.etcd.needed(),
        count(Service::ApiServer)
    );
    if Service::ALL.into_iter().map(|it| standing.members(it)).all(Members::works) {
        format!("the cluster works without it: {numbers}")
    } else {
        format!("the cluster does not work: {numbers}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(healthy: usize) -> Standing {
        let members = |service| {
            let health = |number| if number <= healthy { Ok(()) } else { Err("gone".to_owned()) };
            Members::new(service, (1..=3).map(|number| (format!("m{number}"), health(number))))
        };
        Standing { etcd: members(Service::Etcd), api_servers: members(Service::ApiServer) }
    }

    #[test]
    fn an_outage_that_the_cluster_tolerates_differs_from_one_that_it_does_not() {
        assert_eq!(
            meaning(&standing(2)),
            "the cluster works without it: 2 of 3 etcd members (2 needed) and 2 of 3 API servers \
             are healthy"
        );
        assert!(meaning(&standing(1)).starts_with("the cluster does not work: 1 of 3 etcd"));
    }
}
