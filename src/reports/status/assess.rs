//! Assesses what was collected: the quorum, the problems, and their severity. Pure.

use std::collections::BTreeSet;

use crate::reports::status::{Etcd, Health, Heard, Lease, Member, Problem, Status};
use crate::topology::Quorum;

/// `up` makes certificates anew from when a third of their year is left (`pki::issue`); with less
/// than this it is time for one.
const CERTIFICATE_DAYS: i64 = 60;
/// Nothing that an authority signs holds longer than itself.
const AUTHORITY_DAYS: i64 = 365;
/// The kubelet renews its own with 10 to 30 % of a year left (kubelet, certificate manager); one
/// with less than this has failed to.
const KUBELET_CERTIFICATE_DAYS: i64 = 7;
/// etcd refuses writes when it lags this far behind itself (etcd 3.6,
/// `maxGapBetweenApplyAndCommitIndex`).
const LAG: u64 = 5000;
/// The kubelet evicts pods at 95 (`evictionHard` in 50-nodes).
const DISK_PERCENT: u8 = 90;

/// etcd as a whole, from what its members say. `planned` are the members that there should be, for
/// when none answers.
pub fn etcd(planned: u32, members: &[(&str, &Heard<Member>)]) -> Etcd {
    let answers = || members.iter().filter_map(|(name, heard)| Some((*name, heard.answer()?)));
    // Of members that disagree, the one with the highest term has heard of the latest election.
    let newest = answers().max_by_key(|(_, member)| (member.term, member.leader != 0));
    let leader_id = newest.map_or(0, |(_, member)| member.leader);
    let count = newest
        .map_or(planned, |(_, member)| u32::try_from(member.voters.len()).unwrap_or(u32::MAX));
    let in_quorum = answers()
        .filter(|(_, member)| leader_id != 0 && member.leader == leader_id && !member.learner)
        .count();
    let in_quorum = u32::try_from(in_quorum).unwrap_or(u32::MAX);
    let quorum = Quorum { members: count };
    Etcd {
        members: count,
        quorum: quorum.needed(),
        tolerance: quorum.tolerance(),
        in_quorum,
        may_lose_now: in_quorum.saturating_sub(quorum.needed()),
        leader: answers()
            .find(|(_, member)| member.id == leader_id)
            .map(|(name, _)| name.to_owned()),
    }
}

/// Everything that is not as it should be, worst first.
pub fn problems(status: &Status) -> Vec<Problem> {
    let mut problems = Problems::default();
    problems.api(status);
    problems.etcd(status);
    problems.leases(status.leases.as_deref());
    problems.virtual_address(status);
    problems.dns(status);
    for machine in &status.machines {
        problems.machine(machine);
    }
    problems.0.sort_by_key(|problem| std::cmp::Reverse(problem.health));
    problems.0
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, health: Health, machine: Option<&str>, what: impl Into<String>) {
        let machine = machine.map(str::to_owned);
        self.0.push(Problem { health, machine, what: what.into() });
    }

    fn degraded(&mut self, machine: Option<&str>, what: impl Into<String>) {
        self.add(Health::Degraded, machine, what);
    }

    fn api(&mut self, status: &Status) {
        let Some(error) = &status.endpoint.error else { return };
        let what = format!("the API does not answer at {}: {error}", status.endpoint.url);
        // Leases were read through some api-server, so one does answer.
        let health = if status.leases.is_some() { Health::Degraded } else { Health::Down };
        self.add(health, None, what);
    }

    fn etcd(&mut self, status: &Status) {
        let members = status.machines.iter().filter_map(|machine| machine.etcd.as_ref());
        let answers: Vec<&Member> = members.filter_map(Heard::answer).collect();
        // A leader that lost its majority steps down within an election timeout, so a leader is
        // proof of a quorum; members out of our reach are no proof of its loss.
        if !answers.is_empty() && answers.iter().all(|member| member.leader == 0) {
            self.add(
                Health::Down,
                None,
                format!(
                    "etcd has no leader: {} of {} members answer, the quorum is {}",
                    answers.len(),
                    status.etcd.members,
                    status.etcd.quorum
                ),
            );
        }
        if answers.iter().flat_map(|member| &member.errors).any(|error| is_no_space(error)) {
            self.add(
                Health::Down,
                None,
                "etcd is out of space (alarm NOSPACE) and refuses writes: raise \
                etcd.quotaMebibytes and run `kdiy up`",
            );
        }
        self.lost_data(status);
        let terms: BTreeSet<u64> = answers.iter().map(|member| member.term).collect();
        if terms.len() > 1 {
            self.degraded(None, format!("etcd's members disagree about the term: {terms:?}"));
        }
    }

    fn lost_data(&mut self, status: &Status) {
        let on_etcd = |machine: &&crate::reports::status::Machine| machine.etcd.is_some();
        let lost: Vec<(&str, &String)> = status
            .machines
            .iter()
            .filter_map(|machine| Some((machine.name.as_str(), machine.etcd_data_lost.as_ref()?)))
            .collect();
        let all = lost.len() == status.machines.iter().filter(on_etcd).count();
        if all && !lost.is_empty() {
            let what = "etcd has no data on any machine; `kdiy up` says what you can do";
            self.add(Health::Down, None, what);
        }
        for (name, reason) in lost {
            let then = if all { "" } else { "; `kdiy up` adds it as a new member" };
            self.degraded(Some(name), format!("etcd: it lost its data ({reason}){then}"));
        }
    }

    fn leases(&mut self, leases: Option<&[Lease]>) {
        for lease in leases.into_iter().flatten() {
            match (&lease.holder, lease.renewed_ms_ago) {
                (Some(holder), Some(age)) if age > lease.duration_ms => self.degraded(
                    Some(holder),
                    format!(
                        "does not renew the lease {}: last renewed {} s ago",
                        lease.name,
                        age / 1000
                    ),
                ),
                (Some(_), Some(_)) => {}
                _ => self.degraded(None, format!("the lease {} has no holder", lease.name)),
            }
        }
    }

    fn virtual_address(&mut self, status: &Status) {
        let Some(vip) = &status.virtual_address else { return };
        match vip.holders.as_slice() {
            [_] => {}
            // Its holder may be a machine that does not answer.
            [] if status.machines.iter().any(|machine| machine.unreachable.is_some()) => {}
            [] => self.degraded(None, format!("no machine holds {}", vip.address)),
            many => self.degraded(
                None,
                format!("{} is on several machines: {}", vip.address, many.join(", ")),
            ),
        }
    }

    fn dns(&mut self, status: &Status) {
        let Some(dns) = &status.dns else { return };
        if dns.ready < dns.endpoints || dns.endpoints == 0 {
            let what = format!("{} of {} CoreDNS endpoints are ready", dns.ready, dns.endpoints);
            self.degraded(None, what);
        }
        if let Some(error) = &dns.error {
            self.degraded(None, format!("DNS does not answer: {error}"));
        }
    }

    fn machine(&mut self, machine: &crate::reports::status::Machine) {
        let name = Some(machine.name.as_str());
        if let Some(reason) = &machine.unreachable {
            self.degraded(name, format!("unreachable: {reason}"));
        }
        match &machine.etcd {
            Some(Heard::Error(error)) => self.degraded(name, format!("etcd: {error}")),
            Some(Heard::Answer(member)) => self.member(name, member),
            None => {}
        }
        if let Some(api) = machine.api_server.as_ref().filter(|api| !api.ready) {
            self.degraded(name, format!("the API server is not ready: {}", api.failing.join(", ")));
        }
        for backend in machine.load_balancer.iter().flat_map(|balancer| &balancer.backends) {
            if !backend.up {
                let what = format!("haproxy does not use {}: {}", backend.machine, backend.saw);
                self.degraded(name, what);
            }
        }
        if let Some(node) = &machine.node {
            if !node.ready {
                let reason = node.reason.as_deref().unwrap_or("not Ready");
                self.degraded(name, format!("node: {reason}"));
            } else if node.cordoned {
                self.degraded(name, "node: cordoned, accepts no new pods");
            }
        }
        if let Some(system) = machine.system.as_ref()
            && system.disk_used_percent >= DISK_PERCENT
        {
            self.degraded(name, format!("the disk is {} % full", system.disk_used_percent));
        }
        for certificate in &machine.certificates {
            let kubelets = certificate.path.starts_with("/var/lib/kubelet/");
            let is_authority = certificate.path.ends_with("ca.crt");
            let limit = match (kubelets, is_authority) {
                (true, _) => KUBELET_CERTIFICATE_DAYS,
                (_, true) => AUTHORITY_DAYS,
                (_, false) => CERTIFICATE_DAYS,
            };
            if certificate.days_left < limit {
                let what = match certificate.days_left {
                    days if days < 0 => format!("{} has expired", certificate.path),
                    days => format!("{} expires in {days} days", certificate.path),
                };
                self.degraded(name, what);
            }
        }
        match machine.drift.as_slice() {
            [] => {}
            [one] => {
                let what = format!("step {} differs: {}", one.step, one.differences.join(", "));
                self.degraded(name, what);
            }
            many => {
                let steps: Vec<&str> = many.iter().map(|drift| drift.step.as_str()).collect();
                let what = format!("{} steps differ: {}", steps.len(), steps.join(", "));
                self.degraded(name, what);
            }
        }
    }

    fn member(&mut self, name: Option<&str>, member: &Member) {
        for error in member.errors.iter().filter(|error| !is_no_space(error)) {
            self.degraded(name, format!("etcd: {error}"));
        }
        if member.learner {
            self.degraded(name, "etcd: a learner, which does not vote yet");
        }
        if member.lag > LAG {
            self.degraded(name, format!("etcd: {} entries behind", member.lag));
        }
    }
}

/// As etcd's status names the alarm: `memberID:… alarm:NOSPACE`.
fn is_no_space(error: &str) -> bool {
    error.contains("alarm:NOSPACE")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::reports::status::{ApiServer, Endpoint, Machine, VirtualAddress};
    use crate::topology::Role;

    const NAMES: [&str; 3] = ["a", "b", "c"];

    fn member(id: u64, leader: u64, term: u64) -> Heard<Member> {
        let voters = NAMES.map(str::to_owned).to_vec();
        Heard::Answer(Member { id, leader, term, voters, ..Default::default() })
    }

    fn gone() -> Heard<Member> {
        Heard::Error("no answer".into())
    }

    fn status(members: [Heard<Member>; 3], api: bool) -> Status {
        let named: Vec<(&str, &Heard<Member>)> = NAMES.into_iter().zip(&members).collect();
        let etcd = etcd(3, &named);
        let address = "10.0.0.1".parse().unwrap();
        let machine = |(name, etcd): (&str, Heard<Member>)| Machine {
            name: name.into(),
            role: Role::Master,
            address,
            unreachable: None,
            system: None,
            etcd: Some(etcd),
            etcd_data_lost: None,
            api_server: Some(ApiServer { ready: api, failing: Vec::new() }),
            load_balancer: None,
            node: None,
            certificates: Vec::new(),
            drift: Vec::new(),
        };
        Status {
            cluster: "x".into(),
            at: Timestamp::UNIX_EPOCH,
            elapsed_ms: 0,
            health: Health::Healthy,
            problems: Vec::new(),
            kubernetes: String::new(),
            endpoint: Endpoint {
                url: "https://10.0.0.9:8443".into(),
                ready: api,
                error: (!api).then(|| "refused".into()),
            },
            etcd,
            virtual_address: Some(VirtualAddress { address, holders: vec!["a".into()] }),
            leases: api.then(Vec::new),
            dns: None,
            machines: NAMES.into_iter().zip(members).map(machine).collect(),
        }
    }

    fn worst(status: &Status) -> Option<Health> {
        problems(status).first().map(|problem| problem.health)
    }

    #[test]
    fn three_members_that_agree_may_lose_one() {
        let status = status([member(1, 2, 4), member(2, 2, 4), member(3, 2, 4)], true);
        let etcd = &status.etcd;
        assert_eq!((etcd.members, etcd.quorum, etcd.may_lose_now), (3, 2, 1));
        assert_eq!(etcd.leader.as_deref(), Some("b"));
        assert_eq!(problems(&status), []);
    }

    #[test]
    fn with_one_of_three_gone_none_may_be_lost_but_all_works() {
        let status = status([gone(), member(2, 2, 4), member(3, 2, 4)], true);
        assert_eq!((status.etcd.tolerance, status.etcd.may_lose_now), (1, 0));
        assert_eq!(worst(&status), Some(Health::Degraded));
    }

    #[test]
    fn a_member_that_follows_an_older_leader_is_not_counted() {
        let status = status([member(1, 1, 3), member(2, 2, 4), member(3, 2, 4)], true);
        assert_eq!((status.etcd.in_quorum, status.etcd.leader.as_deref()), (2, Some("b")));
        assert!(problems(&status)[0].what.contains("term"));
    }

    #[test]
    fn no_leader_is_down_and_counted_from_membership() {
        let status = status([gone(), gone(), member(3, 0, 5)], false);
        assert_eq!((status.etcd.members, status.etcd.in_quorum), (3, 0));
        let down: Vec<_> =
            problems(&status).into_iter().filter(|it| it.health == Health::Down).collect();
        assert_eq!(down.len(), 2, "{down:?}");
        assert!(down[1].what.contains("1 of 3 members answer, the quorum is 2"), "{down:?}");
    }

    #[test]
    fn machines_out_of_our_reach_do_not_mean_that_the_cluster_is_down() {
        let status = status([gone(), gone(), gone()], true);
        assert_eq!(worst(&status), Some(Health::Degraded));
    }

    #[test]
    fn an_endpoint_that_fails_while_an_api_server_answers_is_not_down() {
        let mut status = status([member(1, 2, 4), member(2, 2, 4), member(3, 2, 4)], true);
        status.endpoint.error = Some("refused".into());
        assert_eq!(worst(&status), Some(Health::Degraded));
    }

    #[test]
    fn a_cluster_that_cannot_write_is_down_and_says_what_to_do() {
        let mut status = status([member(1, 2, 4), member(2, 2, 4), member(3, 2, 4)], true);
        if let Some(Heard::Answer(member)) = &mut status.machines[0].etcd {
            member.errors = vec!["memberID:1 alarm:NOSPACE".into()];
        }
        assert_eq!(worst(&status), Some(Health::Down));
        assert!(problems(&status)[0].what.contains("etcd.quotaMebibytes"));
        assert_eq!(problems(&status).len(), 1);
    }

    #[test]
    fn loss_of_all_data_differs_from_loss_on_one_member() {
        let mut status = status([gone(), member(2, 2, 4), member(3, 2, 4)], true);
        status.machines[0].etcd_data_lost = Some("it was a member".into());
        assert_eq!(worst(&status), Some(Health::Degraded));
        assert!(problems(&status).iter().any(|it| it.what.contains("as a new member")));
        for machine in &mut status.machines {
            machine.etcd_data_lost = Some("it was a member".into());
        }
        assert_eq!(worst(&status), Some(Health::Down));
    }

    #[test]
    fn a_lease_that_ran_out_or_has_no_holder_is_a_problem() {
        let lease = |holder: Option<&str>, age| Lease {
            name: "kube-scheduler".into(),
            holder: holder.map(str::to_owned),
            renewed_ms_ago: age,
            duration_ms: 15_000,
        };
        let mut status = status([member(1, 2, 4), member(2, 2, 4), member(3, 2, 4)], true);
        status.leases = Some(vec![lease(Some("a"), Some(14_000))]);
        assert_eq!(problems(&status), []);
        status.leases = Some(vec![lease(Some("a"), Some(16_000)), lease(None, None)]);
        assert_eq!(problems(&status).len(), 2);
    }

    #[test]
    fn an_address_without_a_holder_is_a_problem_if_all_machines_answered() {
        let mut status = status([member(1, 2, 4), member(2, 2, 4), member(3, 2, 4)], true);
        status.virtual_address.as_mut().unwrap().holders.clear();
        assert!(problems(&status)[0].what.contains("no machine holds"));
        status.machines[2].unreachable = Some("off".into());
        assert!(!problems(&status).iter().any(|it| it.what.contains("holds")));
    }

    #[test]
    fn an_address_on_two_machines_is_a_problem() {
        let mut status = status([member(1, 2, 4), member(2, 2, 4), member(3, 2, 4)], true);
        status.virtual_address.as_mut().unwrap().holders.push("b".into());
        assert!(problems(&status)[0].what.contains("a, b"));
    }
}
