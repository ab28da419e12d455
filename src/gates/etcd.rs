//! All members agree on one leader, and each member reads what was written through every other.
//!
//! `etcdctl endpoint health` would not do: it reads and never writes (etcdctl/v3,
//! `ep_command.go`), and a member's status needs no quorum at all.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use crate::cluster_context::ClusterContext;
use crate::etcd::etcdctl::{self, Alarm, ETCDCTL, Status};
use crate::gates::{Gate, Verdict};
use crate::playbook::format::GateName;
use crate::support::event::Evidence;
use crate::topology::{ETCD_PEER_PORT, Group, Quorum, Topology};

#[derive(Default)]
pub struct Etcd {
    /// A database that has reached its quota is no reason to stop: a larger quota is what is being
    /// rolled out, and the alarm can be taken back once every member has it.
    pub tolerates_no_space: bool,
}

const ALARMS: &str = "alarms";
const PREFIX: &str = "/kdiy/gate/";

/// What one member said of itself and of the others.
#[derive(Debug)]
struct Answer {
    status: Status,
    members: BTreeSet<String>,
    /// Where it says that peers and clients find the members.
    hosts: BTreeSet<String>,
    learners: usize,
    alarms: Vec<Alarm>,
    wrote: bool,
    /// Mean time of a write to the write-ahead log, in ms.
    fsync_ms: Option<f64>,
}

#[async_trait]
impl Gate for Etcd {
    fn name(&self) -> GateName {
        GateName::Etcd
    }

    fn watches(&self) -> (Group, &'static [&'static str]) {
        (Group::Etcd, &["etcd.service"])
    }

    fn port(&self) -> Option<u16> {
        Some(ETCD_PEER_PORT)
    }

    async fn probe(&self, context: &ClusterContext) -> Verdict {
        let nonce = format!("{:016x}", rand::random::<u64>());
        let wanted: BTreeSet<String> =
            context.topology.group(Group::Etcd).iter().map(|m| m.name.clone()).collect();
        let mut verdict = Verdict::default();
        let mut answers = BTreeMap::new();
        for (machine, answer) in
            context.ask(Group::Etcd, |machine| first_round(&machine.name, &nonce)).await
        {
            match answer.and_then(|text| parse(&text)) {
                Ok(answer) => {
                    answers.insert(machine.name.clone(), answer);
                }
                Err(error) => {
                    verdict.record(Some(&machine.name), "member status", "an answer", error, false);
                }
            }
        }
        let may_be_full = self.tolerates_no_space && answers.values().any(Answer::is_full);
        judge(&mut verdict, &wanted, &answers, may_be_full);
        judge_hosts(&mut verdict, &context.topology, &answers);
        for (name, answer) in &answers {
            let version = Ok(format!("v{}", answer.status.version));
            context.record_version(&mut verdict, name, "version", "etcd", version);
        }
        if verdict.passed() && !may_be_full {
            let read = context.ask(Group::Etcd, |_| second_round()).await;
            for (machine, answer) in read {
                let text = answer.unwrap_or_else(|error| error);
                let seen = text.lines().filter(|line| *line == nonce).count();
                verdict.record(
                    Some(&machine.name),
                    "reads what was written through each member",
                    format!("{0} of {0}", wanted.len()),
                    format!("{seen} of {}", wanted.len()),
                    seen == wanted.len(),
                );
            }
            self.clean(context).await;
        }
        verdict
    }

    fn fixes(&self, verdict: &Verdict) -> Vec<String> {
        let full = |evidence: &Evidence| {
            !evidence.ok
                && evidence.asked == ALARMS
                && evidence.saw.contains(Alarm::NoSpace.as_str())
        };
        if !verdict.evidence.iter().any(full) {
            return Vec::new();
        }
        vec![
            "raise etcd.quotaMebibytes in the cluster file and run `kdiy up`, which clears the \
            alarm"
                .into(),
            "or free space as docs/reliability.md says: \"etcd is out of space\"".into(),
        ]
    }
}

impl Answer {
    fn is_full(&self) -> bool {
        self.alarms.contains(&Alarm::NoSpace)
    }
}

impl Etcd {
    async fn clean(&self, context: &ClusterContext) {
        let first = context.topology.group(Group::Etcd).first().map(|m| m.name.clone());
        let script = format!("{ETCDCTL} del --prefix {PREFIX} >/dev/null");
        let _ = context
            .ask(Group::Etcd, |machine| {
                if Some(&machine.name) == first.as_ref() { script.clone() } else { ":".into() }
            })
            .await;
    }
}

fn judge(
    verdict: &mut Verdict,
    wanted: &BTreeSet<String>,
    answers: &BTreeMap<String, Answer>,
    may_be_full: bool,
) {
    let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(" ");
    for (name, answer) in answers {
        let machine = Some(name.as_str());
        verdict.record(
            machine,
            "members",
            list(wanted),
            list(&answer.members),
            answer.members == *wanted,
        );
        verdict.record(
            machine,
            "learners",
            "0",
            match answer.status.learner {
                true => format!("{}, this one", answer.learners.max(1)),
                false => answer.learners.to_string(),
            },
            answer.learners == 0 && !answer.status.learner,
        );
        let alarms: BTreeSet<&str> = answer.alarms.iter().map(|alarm| alarm.as_str()).collect();
        let alarms: Vec<&str> = alarms.into_iter().collect();
        verdict.record(
            machine,
            ALARMS,
            if may_be_full { "none but NOSPACE" } else { "none" },
            if alarms.is_empty() { "none".into() } else { alarms.join(", ") },
            answer.alarms.iter().all(|alarm| may_be_full && *alarm == Alarm::NoSpace),
        );
        verdict.record(
            machine,
            "a write through this member",
            if may_be_full { "done, or refused for lack of space" } else { "done" },
            if answer.wrote { "done" } else { "refused" },
            answer.wrote || may_be_full,
        );
        if let Some(fsync) = answer.fsync_ms {
            verdict.record(
                machine,
                "mean fsync of the log",
                "reported",
                format!("{fsync:.1} ms"),
                true,
            );
        }
    }
    let agree = |verdict: &mut Verdict, asked: &str, values: BTreeSet<u64>| {
        let saw: Vec<String> = values.iter().map(|value| format!("{value:x}")).collect();
        verdict.record(None, asked, "the same on all members", saw.join(", "), values.len() == 1);
    };
    agree(verdict, "cluster id", answers.values().map(|a| a.status.header.cluster_id).collect());
    agree(verdict, "term", answers.values().map(|a| a.status.term).collect());
    let leaders: BTreeSet<u64> = answers.values().map(|a| a.status.leader).collect();
    let leader = answers.iter().find(|(_, answer)| {
        leaders.len() == 1 && leaders.contains(&answer.status.header.member_id)
    });
    verdict.record(
        None,
        "leader",
        "one of the members",
        leader.map_or("the members do not agree", |(name, _)| name),
        leader.is_some(),
    );
    let quorum = Quorum { members: u32::try_from(wanted.len()).unwrap_or(u32::MAX) };
    verdict.record(
        None,
        "members that answer",
        format!(
            "all {} (quorum {}, {} may fail)",
            wanted.len(),
            quorum.needed(),
            quorum.tolerance()
        ),
        answers.len().to_string(),
        answers.len() == wanted.len(),
    );
}

/// A member that gives others a NAT address, which all machines may share, works until it must
/// be found.
fn judge_hosts(verdict: &mut Verdict, topology: &Topology, answers: &BTreeMap<String, Answer>) {
    let members = topology.group(Group::Etcd);
    let wanted: BTreeSet<String> = members.iter().map(|it| it.address.to_string()).collect();
    let list = |hosts: &BTreeSet<String>| hosts.iter().cloned().collect::<Vec<_>>().join(" ");
    for (name, answer) in answers {
        verdict.record(
            Some(name),
            "peer URLs of the members",
            list(&wanted),
            list(&answer.hosts),
            answer.hosts == wanted,
        );
    }
}

fn first_round(name: &str, nonce: &str) -> String {
    format!(
        r#"e() {{ {ETCDCTL} "$@"; }}
echo @status; e endpoint status -w json
echo @members; e member list -w json
echo @alarms; e alarm list -w json
echo @write; e put {PREFIX}{name} {nonce}
echo @fsync; {fsync}
"#,
        fsync = etcdctl::mean_fsync("")
    )
}

/// Reads are linearizable, etcdctl's default: the member asks a quorum before it answers.
fn second_round() -> String {
    format!("{ETCDCTL} get --prefix {PREFIX} --print-value-only")
}

fn parse(text: &str) -> Result<Answer, String> {
    let sections = etcdctl::sections(text);
    let section = |name: &str| sections.get(name).map(String::as_str).unwrap_or_default();
    let members = etcdctl::members(section("members"))?;
    Ok(Answer {
        status: etcdctl::status(section("status"))?,
        learners: members.iter().filter(|member| member.learner).count(),
        hosts: members.iter().flat_map(|member| member.hosts()).map(str::to_owned).collect(),
        members: members.into_iter().map(|member| member.name).collect(),
        alarms: etcdctl::alarms(section("alarms"))?,
        wrote: section("write").trim() == "OK",
        fsync_ms: section("fsync").trim().parse().ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterConfig;

    /// As etcdctl 3.6.14 prints it.
    fn text(member: u64, leader: u64, term: u64) -> String {
        format!(
            "@status\n[{{\"Endpoint\":\"127.0.0.1:2379\",\"Status\":{{\"header\":{{\"cluster_id\":7,\
             \"member_id\":{member},\"revision\":4,\"raft_term\":{term}}},\"version\":\"3.6.14\",\
             \"dbSize\":20480,\"leader\":{leader},\"raftIndex\":9,\"raftTerm\":{term}}}}}]\n\
             @members\n{{\"header\":{{\"cluster_id\":7}},\"members\":[{{\"ID\":1,\"name\":\"a\"}},\
             {{\"ID\":2,\"name\":\"b\"}}]}}\n@alarms\n{{\"header\":{{}}}}\n@write\nOK\n@fsync\n1.5\n"
        )
    }

    fn verdict(answers: [(&str, String); 2]) -> Verdict {
        judged(answers, false)
    }

    fn judged(answers: [(&str, String); 2], may_be_full: bool) -> Verdict {
        let wanted = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let answers = answers
            .into_iter()
            .map(|(name, text)| (name.to_owned(), parse(&text).unwrap()))
            .collect();
        let mut verdict = Verdict::default();
        judge(&mut verdict, &wanted, &answers, may_be_full);
        verdict
    }

    fn red(verdict: &Verdict) -> Vec<&str> {
        let red = verdict.evidence.iter().filter(|evidence| !evidence.ok);
        red.map(|evidence| evidence.asked.as_str()).collect()
    }

    #[test]
    fn agreement_is_green() {
        let verdict = verdict([("a", text(1, 2, 3)), ("b", text(2, 2, 3))]);
        assert!(verdict.passed(), "{:?}", red(&verdict));
    }

    #[test]
    fn two_leaders_two_terms_and_a_refused_write_are_red() {
        let split = verdict([("a", text(1, 1, 3)), ("b", text(2, 2, 4))]);
        assert_eq!(red(&split), ["term", "leader"]);
        let refused = text(2, 2, 3).replace("@write\nOK", "@write\n");
        let verdict = verdict([("a", text(1, 2, 3)), ("b", refused)]);
        assert_eq!(red(&verdict), ["a write through this member"]);
    }

    #[test]
    fn no_space_is_named_with_its_fix_and_tolerated_while_a_quota_is_rolled_out() {
        let full = text(1, 2, 3)
            .replace(
                "@alarms\n{\"header\":{}}",
                "@alarms\n{\"header\":{},\"alarms\":[{\"memberID\":1,\"alarm\":1}]}",
            )
            .replace("@write\nOK", "@write\n");
        let both = || [("a", full.clone()), ("b", text(2, 2, 3))];
        let red_verdict = judged(both(), false);
        assert_eq!(red(&red_verdict), [ALARMS, "a write through this member"]);
        assert!(Etcd::default().fixes(&red_verdict)[0].contains("quotaMebibytes"));
        assert!(judged(both(), true).passed());
        let corrupt = full.replace("\"alarm\":1", "\"alarm\":2");
        assert_eq!(red(&judged([("a", corrupt), ("b", text(2, 2, 3))], true)), [ALARMS]);
    }

    #[test]
    fn a_member_at_a_nat_address_is_red() {
        let config = ClusterConfig { masters: 1, ..ClusterConfig::default() };
        let topology = Topology::build(&config, "192.168.56.0/24".parse().unwrap()).unwrap();
        let judged = |client: &str| {
            let urls = format!(
                "\"name\":\"a\",\"peerURLs\":[\"https://192.168.56.11:2380\"],\
                 \"clientURLs\":[\"https://{client}:2379\"]"
            );
            let answer = parse(&text(1, 1, 3).replace("\"name\":\"a\"", &urls)).unwrap();
            let answers = BTreeMap::from([("a".to_owned(), answer)]);
            let mut verdict = Verdict::default();
            judge_hosts(&mut verdict, &topology, &answers);
            verdict.passed()
        };
        assert!(judged("192.168.56.11"));
        assert!(!judged("10.0.2.15"));
    }

    #[test]
    fn a_member_that_is_down_is_reported() {
        assert!(parse("@status\n@members\n").unwrap_err().contains("does not answer"));
    }

    proptest::proptest! {
        #[test]
        fn no_answer_breaks_the_reader(text in "(?s).*") {
            let _ = parse(&text);
        }
    }
}
