//! etcd members whose data is gone: their machines were replaced, or their disks.
//!
//! Such a member must not begin as it once did. It would come back under its old identity without
//! what it had promised to remember, and could elect a leader that lacks acknowledged writes. So
//! the old member is taken out of the cluster and a new one is let in: first without a vote, and
//! with one when it has caught up.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tokio::sync::MutexGuard;

use super::{Runner, lost};
use crate::bundle::observe::{Difference, Verb};
use crate::bundle::script::quote;
use crate::engine::Failed;
use crate::etcd::{self, ETCDCTL, JOINING, MEMBER_DATA};
use crate::failure::{Failure, Kind, Result};
use crate::guard::{Members, Service};
use crate::plan::Task;
use crate::topology::{ETCD_PEER_PORT, Group, Machine};
use crate::transport::{Output, Script};

/// The other members come up, and take in a new one; multiplied by `slowMachines`.
const LET_IN_WITHIN: Duration = Duration::from_secs(90);
/// A member loads a database of some GB; multiplied likewise.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(500);

/// What stands between a machine without data and its membership.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    /// One of the first members, which has not started yet: it begins as they did.
    First,
    /// The member of this id was here and has lost its data.
    Lost(u64),
    Unknown,
    /// Added and not started yet.
    Added,
}

fn entry(members: &[etcd::Member], address: Ipv4Addr) -> Entry {
    match members.iter().find(|member| member.is_at(address)) {
        None => Entry::Unknown,
        Some(member) if !member.client_urls.is_empty() => Entry::Lost(member.id),
        Some(member) if member.name.is_empty() => Entry::Added,
        Some(_) => Entry::First,
    }
}

impl Runner {
    /// Lets the machine's etcd into the cluster where it is about to start without data and the
    /// cluster has some. No other member joins, and none stops, while the result is held.
    pub(super) async fn let_in(
        &self,
        task: &Task,
        machine: &Machine,
        work: &[Difference],
    ) -> Result<Option<MutexGuard<'_, ()>>, Failed> {
        if !self.may_join(task, machine, work).await || self.has_data(task, machine).await? {
            return Ok(None);
        }
        let began = Instant::now();
        loop {
            let turn = self.turn.lock().await;
            let reason = match self.next_step_in(task, machine).await {
                Ok(Entry::First) => return Ok(None),
                Ok(Entry::Added) => return Ok(Some(turn)),
                Ok(Entry::Lost(_) | Entry::Unknown) => continue,
                Err(reason) => reason,
            };
            drop(turn);
            if began.elapsed() >= self.slowly(LET_IN_WITHIN) || self.stop.is_cancelled() {
                return Err(Failure::new(Kind::Quorum, "etcd has no data here, and cannot join")
                    .on(&machine.name)
                    .in_step(&task.step)
                    .cause(reason)
                    .hint("a majority of the other members must be healthy for that: mend them")
                    .hint("if their data is gone as well, there is nothing to join: kdiy destroy")
                    .into());
            }
            self.events.progress(&task.id, format!("waiting to join: {reason}"));
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Takes one step on the way in; says from where, or why it could not.
    async fn next_step_in(&self, task: &Task, machine: &Machine) -> Result<Entry, String> {
        let sponsor = self.sponsor().await?;
        let members = self.members_by(&sponsor).await?;
        let found = entry(&members, machine.address);
        let (name, address) = (&machine.name, machine.address);
        match found {
            Entry::First => {}
            Entry::Lost(id) => {
                self.ask(&sponsor, &format!("{ETCDCTL} member remove {id:x}")).await?;
                self.events.note(format!("took the etcd member of {name} out: its data is gone"));
            }
            Entry::Unknown => {
                self.events.progress(&task.id, "adding the member, without a vote");
                let add = format!(
                    "{ETCDCTL} member add {} --learner --peer-urls=https://{address}:{ETCD_PEER_PORT}",
                    quote(name)
                );
                self.ask(&sponsor, &add).await?;
            }
            Entry::Added => {
                let environment = joining(&self.etcd_names(), &members);
                self.ask(name, &format!("printf '%s' {} >{JOINING}", quote(&environment))).await?;
            }
        }
        Ok(found)
    }

    /// Whether etcd is about to start here while another machine has been a member before: then
    /// there is a cluster to join.
    pub(super) async fn may_join(
        &self,
        task: &Task,
        machine: &Machine,
        work: &[Difference],
    ) -> bool {
        let etcd = Service::Etcd.unit();
        if !work.iter().any(|it| it.verb == Verb::Start && it.what == etcd) {
            return false;
        }
        for other in self.session.topology().group(Group::Etcd) {
            if other.name != machine.name
                && let Ok(reached) = self.session.fleet.reached(&other.name).await
                && reached.observed.steps.contains_key(&task.step)
            {
                return true;
            }
        }
        false
    }

    /// Gives a vote to the machine's member, where it has none, as soon as it has caught up.
    pub(super) async fn promote(&self, task: &Task, machine: &Machine) -> Result<Vec<String>> {
        let began = Instant::now();
        loop {
            let reason = match self.promote_once(machine).await {
                Ok(true) => return Ok(vec![format!("let etcd of {} vote", machine.name)]),
                Ok(false) => return Ok(Vec::new()),
                Err(reason) => reason,
            };
            self.events.progress(&task.id, format!("waiting for the member to catch up: {reason}"));
            if began.elapsed() >= self.slowly(CAUGHT_UP_WITHIN) || self.stop.is_cancelled() {
                return Err(Failure::new(Kind::Step, "the new etcd member has no vote yet")
                    .on(&machine.name)
                    .in_step(&task.step)
                    .cause(reason)
                    .hint("`kdiy up` goes on waiting for it"));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether there was anything to do.
    async fn promote_once(&self, machine: &Machine) -> Result<bool, String> {
        let sponsor = self.sponsor().await?;
        let members = self.members_by(&sponsor).await?;
        let learner = members.iter().find(|it| it.is_at(machine.address) && it.learner);
        if let Some(learner) = learner {
            let id = learner.id;
            self.ask(&sponsor, &format!("{ETCDCTL} member promote {id:x}")).await?;
        }
        self.ask(&machine.name, &format!("rm -f {JOINING}")).await?;
        Ok(learner.is_some())
    }

    async fn has_data(&self, task: &Task, machine: &Machine) -> Result<bool, Failed> {
        let transport = self.connected(&machine.name).await?;
        let script = format!("rm -f {JOINING}; [ -d {MEMBER_DATA} ]");
        let output = transport.run(Script::new(script)).await;
        Ok(output.map_err(|error| lost(&task.step, &error))?.success())
    }

    /// A machine whose member votes and is healthy.
    async fn sponsor(&self) -> Result<String, String> {
        let members = Members::of(Service::Etcd, &self.session.gate_context()).await;
        let healthy = members.list().iter().find(|member| member.health.is_ok());
        healthy.map(|member| member.machine.clone()).ok_or_else(|| "etcd has no quorum".into())
    }

    async fn members_by(&self, sponsor: &str) -> Result<Vec<etcd::Member>, String> {
        etcd::members(&self.ask(sponsor, &format!("{ETCDCTL} member list -w json")).await?)
    }

    fn etcd_names(&self) -> BTreeMap<Ipv4Addr, String> {
        let machines = self.session.topology().group(Group::Etcd).into_iter();
        machines.map(|machine| (machine.address, machine.name.clone())).collect()
    }

    /// What a command printed, or the last line of why it failed.
    async fn ask(&self, machine: &str, script: &str) -> Result<String, String> {
        let said = |output: &Output| output.tail(1).concat();
        let transport =
            self.session.fleet.transport(machine).await.map_err(|failure| failure.to_string())?;
        match transport.run(Script::new(script)).await {
            Ok(output) if output.success() => Ok(output.stdout),
            Ok(output) => Err(said(&output)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The environment in which etcd joins: the list must be the cluster's own, to the last member.
fn joining(names: &BTreeMap<Ipv4Addr, String>, members: &[etcd::Member]) -> String {
    let name = |member: &etcd::Member| {
        let ours = names.iter().find(|(address, _)| member.is_at(**address));
        ours.map_or_else(|| member.name.clone(), |(_, name)| name.clone())
    };
    let list: Vec<String> = members
        .iter()
        .flat_map(|member| {
            member.peer_urls.iter().map(|url| format!("{}={url}", name(member))).collect::<Vec<_>>()
        })
        .collect();
    format!("ETCD_INITIAL_CLUSTER_STATE=existing\nETCD_INITIAL_CLUSTER={}\n", list.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str, started: bool) -> etcd::Member {
        let url = |port| format!("https://10.0.0.{id}:{port}");
        etcd::Member {
            id,
            name: name.into(),
            peer_urls: vec![url(2380)],
            client_urls: if started { vec![url(2379)] } else { Vec::new() },
            learner: false,
        }
    }

    #[test]
    fn a_machine_without_data_joins_by_what_the_others_know_of_it() {
        let members = [member(1, "a", true), member(2, "b", false), member(3, "", false)];
        let entry = |host: u8| entry(&members, Ipv4Addr::new(10, 0, 0, host));
        assert_eq!(entry(1), Entry::Lost(1));
        assert_eq!(entry(2), Entry::First);
        assert_eq!(entry(3), Entry::Added);
        assert_eq!(entry(4), Entry::Unknown);
    }

    #[test]
    fn who_joins_is_told_exactly_the_members_that_there_are() {
        let names =
            [(Ipv4Addr::new(10, 0, 0, 1), "a".into()), (Ipv4Addr::new(10, 0, 0, 3), "c".into())];
        let members = [member(1, "a", true), member(3, "", false), member(9, "old", true)];
        assert_eq!(
            joining(&names.into(), &members),
            "ETCD_INITIAL_CLUSTER_STATE=existing\nETCD_INITIAL_CLUSTER=a=https://10.0.0.1:2380,\
             c=https://10.0.0.3:2380,old=https://10.0.0.9:2380\n"
        );
    }
}
