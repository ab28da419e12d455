//! etcd members whose data is gone: their machines were replaced, or their disks.
//!
//! Such a member must not begin as it once did. It would come back under its old identity without
//! what it had promised to remember, and could elect a leader that lacks acknowledged writes. So
//! the old member is taken out of the cluster and a new one is let in: first without a vote, and
//! with one when it has caught up. On the machine itself etcd's unit sees to that, by the mark
//! [`CLUSTER_EXISTS`]: until the machine joins anew it does not start without data.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tokio::sync::MutexGuard;

use crate::bundle::etcd_data::{self, CLUSTER_EXISTS, EtcdData, HAS_LOG, JOINING, MEMBER};
use crate::bundle::observe::{Difference, Verb};
use crate::bundle::script::{LEDGER, quote};
use crate::engine::TaskError;
use crate::engine::plan::Task;
use crate::etcd::data_loss::{self, Verdict, verdict};
use crate::etcd::etcdctl::{self, ETCDCTL};
use crate::etcd::quorum_guard::{Members, Service};
use crate::operations::apply::{Runner, lost};
use crate::support::failure::{Failure, Kind, Result};
use crate::support::poll::poll;
use crate::support::time_scale::Unscaled;
use crate::topology::{ETCD_PEER_PORT, Group, Machine};
use crate::transport::{Output, Script};

/// The other members come up, and take in a new one; multiplied by `slowMachines`.
const LET_IN_WITHIN: Unscaled = Unscaled::from_secs(90);
/// A member loads a database of some GB; multiplied likewise.
const CAUGHT_UP_WITHIN: Unscaled = Unscaled::from_secs(300);
const PAUSE: Duration = Duration::from_millis(500);

/// What stands between a machine without data and its membership.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    /// One of the first members, which has not started yet: it begins as they did.
    First,
    /// The member of this id was here and has lost its data.
    Lost(u64),
    Unknown,
    /// Added, and not started as far as the others know.
    Added(u64),
}

fn entry(members: &[etcdctl::Member], address: Ipv4Addr) -> Entry {
    match members.iter().find(|member| member.is_at(address)) {
        None => Entry::Unknown,
        Some(member) if !member.client_urls.is_empty() => Entry::Lost(member.id),
        Some(member) if member.name.is_empty() => Entry::Added(member.id),
        Some(_) => Entry::First,
    }
}

fn starts_etcd(work: &[Difference]) -> bool {
    let etcd = Service::Etcd.unit();
    work.iter().any(|it| it.verb == Verb::Start && it.what == etcd)
}

fn unmounted(task: &Task, machine: &Machine) -> Failure {
    let name = &machine.name;
    Failure::new(Kind::Step, "etcd's data is on a file system that is not mounted")
        .on(name)
        .in_step(&task.step)
        .hint(format!("mount it: kdiy ssh {name} -- sudo mount /var/lib/etcd; then `kdiy up`"))
        .hint(
            "if the disk is lost, remove it from /etc/fstab: `kdiy up` then adds the machine as a \
            new member",
        )
}

impl Runner {
    /// Lets the machine's etcd into the cluster where it is about to start without data and the
    /// cluster has some. No other member joins, and none stops, while the result is held; `turn` is
    /// what is held already.
    pub(super) async fn let_in<'a>(
        &'a self,
        task: &Task,
        machine: &Machine,
        work: &[Difference],
        turn: Option<MutexGuard<'a, ()>>,
    ) -> Result<Option<MutexGuard<'a, ()>>, TaskError> {
        if !starts_etcd(work) {
            return Ok(turn);
        }
        let data = self.data_on(task, machine).await?;
        if data.has_log && !self.is_out(machine).await {
            return Ok(turn);
        }
        if data.unmounted {
            return Err(unmounted(task, machine).into());
        }
        if !data.has_log && !self.must_join(task, machine, data).await? {
            return Ok(turn);
        }
        if !self.keep_from_starting(task, machine, data).await? {
            return Ok(turn);
        }
        drop(turn);
        let began = Instant::now();
        let mut added = false;
        loop {
            let turn = self.turn.lock().await;
            let reason = match self.next_step_in(task, machine, added).await {
                Ok(Entry::First | Entry::Added(_)) => return Ok(Some(turn)),
                Ok(Entry::Lost(_)) => continue,
                Ok(Entry::Unknown) => {
                    added = true;
                    continue;
                }
                Err(reason) => reason,
            };
            drop(turn);
            if began.elapsed() >= self.slowly(LET_IN_WITHIN) || self.stop.is_cancelled() {
                return Err(Failure::new(
                    Kind::Quorum,
                    "etcd has no data on this machine, and \
                    cannot join",
                )
                .on(&machine.name)
                .in_step(&task.step)
                .cause(reason)
                .hint(
                    "to join, it needs a healthy majority of the members: repair the others \
                        first",
                )
                .hint(
                    "if a majority has lost its data, restore a snapshot as \
                        docs/reliability.md says",
                )
                .into());
            }
            self.events.progress(&task.id, format!("waiting to join: {reason}"));
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Takes one step on the way in; says from where, or why it could not. What was `added` by this
    /// run has not started yet.
    async fn next_step_in(
        &self,
        task: &Task,
        machine: &Machine,
        added: bool,
    ) -> Result<Entry, String> {
        let sponsor = self.sponsor().await?;
        let members = self.members_by(&sponsor).await?;
        let (name, address) = (&machine.name, machine.address);
        let found = match entry(&members, address) {
            // It may have started since, and lost its data: then the leader believes that it has
            // what it once confirmed, and it never catches up. Without a vote it is not missed.
            Entry::Added(id) if !added => Entry::Lost(id),
            found => found,
        };
        match found {
            Entry::First => {
                self.ask(name, &format!("rm -f {CLUSTER_EXISTS}")).await?;
            }
            Entry::Lost(id) => {
                self.ask(&sponsor, &format!("{ETCDCTL} member remove {id:x}")).await?;
                self.events.note(format!(
                    "removed the etcd member {id:x} of {name}, which lost its data; {name} joins \
                    as a new member"
                ));
            }
            Entry::Unknown => {
                self.events.progress(&task.id, "adding the member as a learner");
                let add = format!(
                    "{ETCDCTL} member add {} --learner --peer-urls=https://{address}:{ETCD_PEER_PORT}",
                    quote(name)
                );
                self.ask(&sponsor, &add).await?;
            }
            Entry::Added(_) => {
                // Without its log, what etcd left there is of no use to any member.
                let environment = quote(&joining(&self.etcd_names(), &members));
                let script = format!(
                    "! {HAS_LOG} && rm -rf {MEMBER} && printf '%s' {environment} >{JOINING}"
                );
                self.ask(name, &script).await?;
            }
        }
        Ok(found)
    }

    /// Stops what may be there of the unit, and has it stay so until the machine joins; false where
    /// the member has its data after all. The data of a member that was removed is kept beside.
    async fn keep_from_starting(
        &self,
        task: &Task,
        machine: &Machine,
        data: EtcdData,
    ) -> Result<bool, TaskError> {
        let unit = Service::Etcd.unit();
        let then = if data.has_log {
            format!("mv {MEMBER} {MEMBER}.removed-$(date +%s)")
        } else {
            format!("if {HAS_LOG}; then echo kept; fi")
        };
        let script = format!(
            "{LEDGER}\nset -e; mkdir -p \"$state\"; \
             [ -e {CLUSTER_EXISTS} ] || enter_file {CLUSTER_EXISTS}; \
             mkdir -p \"$(dirname {CLUSTER_EXISTS})\"; touch {CLUSTER_EXISTS}; \
             timeout 20 systemctl stop {unit} 2>/dev/null ||
               systemctl kill --signal=KILL {unit} 2>/dev/null || true; \
             if systemctl is-active --quiet {unit}; then echo 'etcd does not stop' >&2; exit 1; fi; \
             rm -f {JOINING}; {then}"
        );
        let transport = self.connected(&machine.name).await?;
        let output = transport.run(Script::new(script)).await;
        let output = output.map_err(|error| lost(&task.step, &error))?;
        if !output.success() {
            return Err(Failure::new(
                Kind::Step,
                "cannot prevent etcd from starting without its data",
            )
            .on(&machine.name)
            .in_step(&task.step)
            .tail(output.tail(5))
            .into());
        }
        if data.has_log {
            self.events.note(format!(
                "{} has the data of an etcd member that was removed from the cluster; moved it to \
                 {MEMBER}.removed-…",
                machine.name
            ));
        }
        Ok(output.stdout.trim() != "kept")
    }

    /// Whether the others, with a majority, know of no member on this machine: etcd would refuse to
    /// start with the data that it has.
    async fn is_out(&self, machine: &Machine) -> bool {
        let Ok(sponsor) = self.sponsor().await else { return false };
        let members = self.members_by(&sponsor).await;
        members.is_ok_and(|members| entry(&members, machine.address) == Entry::Unknown)
    }

    /// Whether there is a cluster, so that a machine without data must not begin one; an error where
    /// that cannot be told, and where no machine has the cluster's data.
    async fn must_join(
        &self,
        task: &Task,
        machine: &Machine,
        own: EtcdData,
    ) -> Result<bool, TaskError> {
        let silent = || {
            Failure::new(
                Kind::Quorum,
                "etcd has no data on this machine, and not all machines answer",
            )
            .on(&machine.name)
            .in_step(&task.step)
            .cause(
                "another machine may have the data of the cluster; a new cluster would replace it",
            )
        };
        let exists = self.had_data || own.cluster_exists;
        while !exists && self.etcd_data().await.iter().any(|(_, data)| data.is_none()) {
            if self.stop.is_cancelled() || !self.unreached.lock().await.is_empty() {
                return Err(silent().into());
            }
            self.events.progress(&task.id, "checking whether another machine has data");
            tokio::time::sleep(PAUSE).await;
        }
        let mut machines = self.etcd_data().await;
        for (name, data) in &mut machines {
            if **name == *machine.name {
                *data = Some(own);
            }
        }
        let knows = |data: &EtcdData| data.cluster_exists;
        if !exists
            && !machines.iter().any(|(_, data)| data.as_ref().is_some_and(knows))
            && !self.another_began(task, machine).await
        {
            return Ok(false);
        }
        match verdict(&machines) {
            Verdict::Lost => {
                let cluster = &self.session.topology().cluster;
                Err(data_loss::lost(cluster, &machines).in_step(&task.step).into())
            }
            Verdict::Kept | Verdict::Unknown => Ok(true),
        }
    }

    /// Whether the step was done on another machine, by whichever kdiy.
    async fn another_began(&self, task: &Task, machine: &Machine) -> bool {
        for other in self.session.topology().group(Group::Etcd) {
            if other.name != machine.name
                && let Ok(reached) = self.session.reached(&other.name).await
                && reached.observed.steps.contains_key(&task.step)
            {
                return true;
            }
        }
        false
    }

    /// Whether etcd was started where it may have joined, by this attempt or one before.
    pub(super) async fn may_have_joined(
        &self,
        task: &Task,
        machine: &Machine,
        work: &[Difference],
    ) -> bool {
        starts_etcd(work) && self.another_began(task, machine).await
    }

    /// Gives a vote to the machine's member, where it has none, as soon as it has caught up.
    pub(super) async fn promote(&self, task: &Task, machine: &Machine) -> Result<Vec<String>> {
        let promoted = poll(self.slowly(CAUGHT_UP_WITHIN), PAUSE, &self.stop, || async {
            self.promote_once(machine).await.inspect_err(|reason| {
                let text = format!("waiting for the member to catch up: {reason}");
                self.events.progress(&task.id, text);
            })
        });
        match promoted.await {
            Ok(true) => Ok(vec![format!("promoted the etcd learner {}", machine.name)]),
            Ok(false) => Ok(Vec::new()),
            Err(ended) => Err(Failure::new(Kind::Step, "the new etcd member is still a learner")
                .on(&machine.name)
                .in_step(&task.step)
                .cause(ended.last())
                .hint("run `kdiy up` again: it continues to wait for it")),
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

    /// As it is now.
    async fn data_on(&self, task: &Task, machine: &Machine) -> Result<EtcdData, TaskError> {
        let transport = self.connected(&machine.name).await?;
        let output = transport.run(Script::new(etcd_data::script())).await;
        let output = output.map_err(|error| lost(&task.step, &error))?;
        EtcdData::read(&output.stdout).ok_or_else(|| {
            Failure::new(Kind::Step, "cannot find out whether etcd has data on this machine")
                .on(&machine.name)
                .in_step(&task.step)
                .tail(output.tail(5))
                .into()
        })
    }

    /// A machine whose member votes and is healthy.
    pub(super) async fn sponsor(&self) -> Result<String, String> {
        let members = Members::of(Service::Etcd, &self.session.cluster_context()).await;
        let healthy = members.list().iter().find(|member| member.health.is_ok());
        healthy.map(|member| member.machine.clone()).ok_or_else(|| "etcd has no quorum".into())
    }

    async fn members_by(&self, sponsor: &str) -> Result<Vec<etcdctl::Member>, String> {
        etcdctl::members(&self.ask(sponsor, &format!("{ETCDCTL} member list -w json")).await?)
    }

    fn etcd_names(&self) -> BTreeMap<Ipv4Addr, String> {
        let machines = self.session.topology().group(Group::Etcd).into_iter();
        machines.map(|machine| (machine.address, machine.name.clone())).collect()
    }

    /// What a command printed, or the last line of why it failed.
    pub(super) async fn ask(&self, machine: &str, script: &str) -> Result<String, String> {
        let said = |output: &Output| output.tail(1).concat();
        let transport = self
            .session
            .connections
            .transport(machine)
            .await
            .map_err(|failure| failure.to_string())?;
        match transport.run(Script::new(script)).await {
            Ok(output) if output.success() => Ok(output.stdout),
            Ok(output) => Err(said(&output)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The environment in which etcd joins: the list must be the cluster's own, to the last member.
fn joining(names: &BTreeMap<Ipv4Addr, String>, members: &[etcdctl::Member]) -> String {
    let name = |member: &etcdctl::Member| {
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

    fn member(id: u64, name: &str, started: bool) -> etcdctl::Member {
        let url = |port| format!("https://10.0.0.{id}:{port}");
        etcdctl::Member {
            id,
            name: name.into(),
            peer_urls: vec![url(2380)],
            client_urls: if started { vec![url(2379)] } else { Vec::new() },
            learner: false,
        }
    }

    #[test]
    fn a_machine_without_data_joins_according_to_the_member_list() {
        let members = [member(1, "a", true), member(2, "b", false), member(3, "", false)];
        let entry = |host: u8| entry(&members, Ipv4Addr::new(10, 0, 0, host));
        assert_eq!(entry(1), Entry::Lost(1));
        assert_eq!(entry(2), Entry::First);
        assert_eq!(entry(3), Entry::Added(3));
        assert_eq!(entry(4), Entry::Unknown);
    }

    #[test]
    fn a_joining_member_gets_exactly_the_current_members() {
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
