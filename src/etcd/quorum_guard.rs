//! The quorum guard: whether the cluster, in its current state, can lose the given machines.
//!
//! The tolerated number follows from etcd's own list of members, not from the machines that kdiy
//! created; and a member counts as healthy only if it answers with a quorum.

use crate::cluster_context::ClusterContext;
use crate::etcd::etcdctl::{self, CURL, ETCDCTL};
use crate::support::failure::{Failure, Kind, Result};
use crate::topology::{API_PORT, Group, Machine, Quorum, Topology};

/// The flag of every guarded command that goes on all the same.
pub const OVERRIDE: &str = "--beyond-quorum";

/// What the cluster as a whole cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    Etcd,
    ApiServer,
}

impl Service {
    pub const ALL: [Self; 2] = [Self::Etcd, Self::ApiServer];

    /// The service whose unit this is.
    pub fn of_unit(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.unit() == name)
    }

    pub const fn unit(self) -> &'static str {
        match self {
            Self::Etcd => "etcd.service",
            Self::ApiServer => "kube-apiserver.service",
        }
    }

    const fn group(self) -> Group {
        match self {
            Self::Etcd => Group::Etcd,
            Self::ApiServer => Group::Masters,
        }
    }

    fn probe(self, context: &ClusterContext) -> String {
        match self {
            // A list of members needs no quorum when it need not be the latest. A member that is
            // out of space still votes.
            Self::Etcd => format!(
                "echo @members; {ETCDCTL} member list --consistency=s -w json\n\
                 echo @health; {CURL}/health?exclude=NOSPACE"
            ),
            Self::ApiServer => format!(
                "echo @health; curl --noproxy '*' -s --max-time {} --cacert /etc/kubernetes/pki/ca.crt \
                 https://127.0.0.1:{API_PORT}/readyz",
                context.seconds(5)
            ),
        }
    }

    fn is_healthy(self, answer: &str) -> bool {
        match self {
            Self::Etcd => answer.contains("\"health\":\"true\""),
            Self::ApiServer => answer.trim() == "ok",
        }
    }
}

/// One member of a service: an etcd member that votes, or an api-server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub machine: String,
    /// Or why it does not count.
    pub health: Result<(), String>,
}

/// A service on all its machines, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    service: Service,
    list: Vec<Member>,
    learners: Vec<String>,
}

/// How the cluster stands at one moment.
#[derive(Debug, Clone)]
pub struct Standing {
    pub etcd: Members,
    pub api_servers: Members,
}

impl Standing {
    /// Looks at all machines at the same time. One that does not answer is a finding, no error.
    pub async fn of(context: &ClusterContext) -> Self {
        let (etcd, api_servers) = tokio::join!(
            Members::of(Service::Etcd, context),
            Members::of(Service::ApiServer, context)
        );
        Self { etcd, api_servers }
    }

    pub const fn members(&self, service: Service) -> &Members {
        match service {
            Service::Etcd => &self.etcd,
            Service::ApiServer => &self.api_servers,
        }
    }

    /// Whether these machines can all be away at the same time, with everything on them.
    pub fn allows_loss_of(&self, machines: &[&str]) -> Result<()> {
        self.etcd.allows_loss_of(machines)?;
        self.api_servers.allows_loss_of(machines)
    }
}

impl Members {
    pub async fn of(service: Service, context: &ClusterContext) -> Self {
        let answers = context.ask(service.group(), |_| service.probe(context)).await;
        judge(service, &context.topology, &answers)
    }

    pub fn new(
        service: Service,
        list: impl IntoIterator<Item = (String, Result<(), String>)>,
    ) -> Self {
        let member = |(machine, health)| Member { machine, health };
        Self { service, list: list.into_iter().map(member).collect(), learners: Vec::new() }
    }

    pub fn list(&self) -> &[Member] {
        &self.list
    }

    /// Machines whose etcd member follows without a vote.
    pub fn learners(&self) -> &[String] {
        &self.learners
    }

    pub fn healthy(&self) -> usize {
        self.list.iter().filter(|member| member.health.is_ok()).count()
    }

    /// How many have to be healthy: for etcd a majority of its members; api-servers have no votes,
    /// any one of them answers for all.
    pub fn needed(&self) -> usize {
        let members = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        match self.service {
            Service::Etcd => Quorum { members }.needed() as usize,
            Service::ApiServer => 1,
        }
    }

    /// Whether the service works now.
    pub fn works(&self) -> bool {
        self.healthy() >= self.needed()
    }

    /// Whether this machine has, or should have, a member that counts.
    pub fn lists(&self, machine: &str) -> bool {
        self.list.iter().any(|member| member.machine == machine)
    }

    /// Nothing is lost by the loss of a machine whose member does not count anyway.
    pub fn counts_on(&self, machine: &str) -> bool {
        self.list.iter().any(|member| member.machine == machine && member.health.is_ok())
    }

    /// Whether the service goes on without its members on these machines.
    pub fn allows_loss_of(&self, machines: &[&str]) -> Result<()> {
        let lost = machines.iter().filter(|machine| self.counts_on(machine)).count();
        if lost == 0 || self.healthy() - lost >= self.needed() {
            return Ok(());
        }
        Err(self.refusal(machines, self.healthy() - lost))
    }

    fn refusal(&self, machines: &[&str], left: usize) -> Failure {
        let (total, needed, healthy) = (self.list.len(), self.needed(), self.healthy());
        let on = machines.join(", ");
        let (what, cause) = match self.service {
            Service::Etcd => (
                format!("without etcd on {on} the cluster has no quorum"),
                format!(
                    "etcd has {total} {}, so {needed} must be healthy; {healthy} {} now, and \
                     {left} would be left",
                    plural(total, "member", "members"),
                    plural(healthy, "is", "are"),
                ),
            ),
            Service::ApiServer => (
                format!("without kube-apiserver on {on} no API server is available"),
                format!(
                    "{healthy} of {total} {} ready now, and none would be left",
                    plural(healthy, "API servers is", "API servers are"),
                ),
            ),
        };
        let sick = self.list.iter().filter_map(|member| {
            member.health.as_ref().err().map(|reason| (member.machine.as_str(), reason.as_str()))
        });
        let mut failure = Failure::new(Kind::Quorum, what)
            .cause(cause)
            .tail(sick.clone().map(|(machine, reason)| format!("{machine}: {reason}")).collect());
        if let Some((machine, _)) = sick.clone().next() {
            let unit = self.service.unit();
            failure = failure.hint(format!(
                "repair {machine} first: kdiy ssh {machine} -- sudo systemctl status {unit}"
            ));
        }
        failure.hint(format!("{OVERRIDE} does it anyway; the API is unavailable until it is back"))
    }
}

fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}

/// What one machine said.
struct Answer {
    members: Option<Vec<etcdctl::Member>>,
    health: Result<(), String>,
}

fn read(service: Service, answer: &Result<String, String>) -> Answer {
    let text = match answer {
        Ok(text) => text,
        Err(reason) => return Answer { members: None, health: Err(reason.clone()) },
    };
    let sections = etcdctl::sections(text);
    let section = |name: &str| sections.get(name).map(String::as_str).unwrap_or_default();
    let health = section("health").trim();
    Answer {
        members: etcdctl::members(section("members")).ok(),
        health: match health {
            _ if service.is_healthy(health) => Ok(()),
            "" => Err(format!("{} does not answer", service.unit())),
            other => Err(other.lines().next_back().unwrap_or_default().to_owned()),
        },
    }
}

/// Where no machine can say who the members are, they are those that there should be.
fn judge(
    service: Service,
    topology: &Topology,
    answers: &[(&Machine, Result<String, String>)],
) -> Members {
    let answers: Vec<(&Machine, Answer)> =
        answers.iter().map(|(machine, answer)| (*machine, read(service, answer))).collect();
    let knowing = |healthy: bool| {
        answers
            .iter()
            .filter(|(_, answer)| answer.health.is_ok() == healthy)
            .find_map(|(_, answer)| answer.members.as_ref())
    };
    let own = |machine: &Machine| {
        let found = answers.iter().find(|(asked, _)| asked.name == machine.name);
        found.map_or_else(|| Err("was not checked".into()), |(_, answer)| answer.health.clone())
    };
    let of_machine = |machine: &Machine| (machine.name.clone(), own(machine));
    // A member that is cut off may know an older list than the healthy ones.
    let Some(known) = knowing(true).or_else(|| knowing(false)) else {
        return Members::new(service, topology.group(service.group()).into_iter().map(of_machine));
    };
    let at =
        |member: &etcdctl::Member| topology.machines.iter().find(|it| member.is_at(it.address));
    let stranger = |member: &etcdctl::Member| {
        let name = format!("member {:x} {}", member.id, member.name);
        (name, Err("is on no machine of this cluster".into()))
    };
    let (learners, voters): (Vec<_>, Vec<_>) = known.iter().partition(|member| member.learner);
    let voters =
        voters.into_iter().map(|member| at(member).map_or_else(|| stranger(member), of_machine));
    let learners = learners.into_iter().filter_map(|member| Some(at(member)?.name.clone()));
    Members { learners: learners.collect(), ..Members::new(service, voters) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterConfig;

    /// Of `total` members the first `healthy` are.
    fn members(service: Service, total: usize, healthy: usize) -> Members {
        let health =
            |number| if number <= healthy { Ok(()) } else { Err("does not answer".to_owned()) };
        Members::new(service, (1..=total).map(|number| (format!("m{number}"), health(number))))
    }

    fn may_lose(total: usize, healthy: usize, lost: usize) -> bool {
        let names: Vec<String> = (1..=lost).map(|number| format!("m{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        members(Service::Etcd, total, healthy).allows_loss_of(&names).is_ok()
    }

    #[test]
    fn a_healthy_cluster_may_lose_its_tolerance_and_no_more() {
        for (total, tolerance) in [(1, 0), (3, 1), (5, 2), (7, 3)] {
            for lost in 0..=total {
                assert_eq!(may_lose(total, total, lost), lost <= tolerance, "{lost} of {total}");
            }
        }
    }

    #[test]
    fn members_that_are_down_reduce_the_tolerance() {
        for (total, healthy, allowed) in [(3, 2, 0), (5, 4, 1), (5, 3, 0), (7, 6, 2), (7, 5, 1)] {
            assert!(may_lose(total, healthy, allowed), "{allowed} of {healthy}/{total}");
            assert!(!may_lose(total, healthy, allowed + 1), "{} of {healthy}/{total}", allowed + 1);
        }
    }

    #[test]
    fn removing_an_unhealthy_member_costs_nothing() {
        let degraded = members(Service::Etcd, 3, 2);
        assert!(degraded.allows_loss_of(&["m3"]).is_ok());
        assert!(degraded.allows_loss_of(&["m3", "m1"]).is_err());
        assert!(degraded.allows_loss_of(&["worker"]).is_ok());
    }

    #[test]
    fn the_last_api_server_stays() {
        assert!(members(Service::ApiServer, 3, 3).allows_loss_of(&["m1", "m2"]).is_ok());
        assert!(members(Service::ApiServer, 3, 1).allows_loss_of(&["m1"]).is_err());
        assert!(members(Service::ApiServer, 3, 1).allows_loss_of(&["m2"]).is_ok());
    }

    #[test]
    fn a_refusal_shows_its_arithmetic_and_the_way_out() {
        let refused = members(Service::Etcd, 3, 2).allows_loss_of(&["m1"]).unwrap_err();
        assert_eq!(refused.what, "without etcd on m1 the cluster has no quorum");
        assert_eq!(
            refused.cause.unwrap(),
            "etcd has 3 members, so 2 must be healthy; 2 are now, and 1 would be left"
        );
        assert_eq!(refused.tail, ["m3: does not answer"]);
        assert!(refused.hints[0].contains("kdiy ssh m3"), "{:?}", refused.hints);
        assert!(refused.hints[1].contains("--beyond-quorum"), "{:?}", refused.hints);
    }

    const LIST: &str = r#"@members
{"members":[{"ID":1,"name":"kdiy-master-1","peerURLs":["https://192.168.56.11:2380"]},
{"ID":2,"name":"kdiy-master-2","peerURLs":["https://192.168.56.12:2380"]},
{"ID":3,"peerURLs":["https://192.168.56.13:2380"],"isLearner":true},
{"ID":10,"name":"old","peerURLs":["https://192.168.56.99:2380"]}]}
"#;

    fn judged(answers: [Result<&str, &str>; 3]) -> Members {
        let network = "192.168.56.0/24".parse().unwrap();
        let topology = Topology::build(&ClusterConfig::default(), network).unwrap();
        let answers: Vec<_> = topology
            .group(Group::Etcd)
            .into_iter()
            .zip(answers.map(|answer| answer.map(str::to_owned).map_err(str::to_owned)))
            .collect();
        judge(Service::Etcd, &topology, &answers)
    }

    #[test]
    fn members_are_those_that_etcd_lists_and_learners_have_no_vote() {
        let healthy = format!("{LIST}@health\n{{\"health\":\"true\",\"reason\":\"\"}}\n");
        let members = judged([Ok(&healthy), Ok(&healthy), Ok("@members\n@health\n")]);
        let names: Vec<_> = members.list.iter().map(|member| member.machine.as_str()).collect();
        assert_eq!(names, ["kdiy-master-1", "kdiy-master-2", "member a old"]);
        assert_eq!((members.healthy(), members.needed()), (2, 2));
        assert_eq!(members.learners(), ["kdiy-master-3"]);
        assert!(members.allows_loss_of(&["kdiy-master-3"]).is_ok());
        assert!(members.allows_loss_of(&["kdiy-master-1"]).is_err());
    }

    #[test]
    fn an_unhealthy_members_list_counts_only_without_a_healthy_one() {
        let old = "@members\n{\"members\":[]}\n@health\n{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n";
        let healthy = format!("{LIST}@health\n{{\"health\":\"true\"}}\n");
        assert_eq!(judged([Ok(old), Ok(&healthy), Err("gone")]).list.len(), 3);
    }

    #[test]
    fn a_silent_cluster_is_assumed_to_have_its_configured_members() {
        let members = judged([Err("no route"), Ok("@members\n@health\n"), Err("no route")]);
        assert_eq!((members.list.len(), members.healthy(), members.works()), (3, 0, false));
        assert_eq!(members.list[0].health, Err("no route".into()));
        assert_eq!(members.list[1].health, Err("etcd.service does not answer".into()));
    }
}
