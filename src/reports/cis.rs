//! The CIS Kubernetes Benchmark: checks the running cluster against `playbooks/cis.yaml`.

mod cluster;
pub mod expectation;
mod machine;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::playbook::load::Playbooks;
use crate::session::ClusterHandle;
use crate::support::failure::{Failure, Result};
use crate::topology::Group;
use expectation::Expectation;

/// File of the benchmark below the playbook directory.
const FILE: &str = "cis.yaml";

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Benchmark {
    pub benchmark: String,
    pub version: String,
    pub checks: Vec<Check>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Check {
    /// The benchmark's number.
    pub id: String,
    pub title: String,
    pub look: Probe,
    /// Why it is right that the check fails.
    #[serde(default)]
    pub waiver: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Probe {
    Flags(Flags),
    Files(Files),
    Output(Output),
    Kubelet(Vec<Setting>),
    Denied(Denied),
    /// The `spec` of a pod.
    RefusedPod(serde_json::Value),
    Bound(Bound),
    /// What is done about what cannot be measured.
    Manual(String),
}

/// Flags of the process that is a unit's main one now, whatever its unit file says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Flags {
    pub on: Group,
    /// The unit, without `.service`.
    pub of: String,
    pub all: Vec<Flag>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Flag {
    pub flag: String,
    pub must: Expectation,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Files {
    pub on: Group,
    /// Absolute, with `*` as the shell knows it.
    pub paths: Vec<String>,
    pub must: FileMust,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FileMust {
    /// No bit beyond these, four octal digits.
    Mode(String),
    /// `user:group`.
    Owner(String),
    Absent,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Output {
    pub on: Group,
    /// For `/bin/sh`; what it prints may be shown, so it must not be a secret.
    pub run: String,
    pub must: Expectation,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Setting {
    /// Keys of the kubelet's configuration, with dots between.
    pub at: String,
    pub must: Expectation,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Denied {
    pub group: String,
    pub verbs: Vec<String>,
    /// `resource` or `resource/subresource`.
    pub resource: String,
    #[serde(default)]
    pub api_group: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Bound {
    pub role: String,
    /// `Kind name` of each subject that may have it.
    pub only: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Pass,
    /// It does not hold, and there is a reason why it should not.
    Waived,
    /// Nothing to measure.
    Manual,
    Fail,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub id: String,
    pub title: String,
    pub status: Status,
    /// How many things were looked at.
    pub looked_at: usize,
    /// What is not as it should be, and where.
    pub problems: Vec<String>,
    /// Why it is waived, or what a manual check leaves to the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub benchmark: String,
    pub version: String,
    pub cluster: String,
    /// Machines that did not answer, and why.
    pub unseen: BTreeMap<String, String>,
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn count(&self, status: Status) -> usize {
        self.findings.iter().filter(|finding| finding.status == status).count()
    }
}

/// What became of one look.
#[derive(Debug, Default)]
struct Seen {
    looked_at: usize,
    problems: Vec<String>,
    /// Something could not be looked at, which no waiver excuses.
    blind: bool,
}

impl Seen {
    fn unseen(&mut self, reason: String) {
        self.blind = true;
        self.problems.push(reason);
    }

    /// Notes one thing that was looked at, and what is wrong with it.
    fn note(&mut self, problem: Option<String>) {
        self.looked_at += 1;
        self.problems.extend(problem);
    }
}

impl Benchmark {
    pub fn load(playbooks: &Playbooks) -> Result<Self> {
        let text = playbooks
            .file(FILE)
            .ok_or_else(|| Failure::input(format!("playbooks/{FILE} does not exist")))?;
        Self::parse(text)
    }

    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |problem: String| Failure::input(format!("playbooks/{FILE}: {problem}"));
        let benchmark: Self = serde_saphyr::from_str(text)
            .map_err(|error| Failure::input(format!("playbooks/{FILE}")).because(error))?;
        let mut seen = BTreeSet::new();
        for check in &benchmark.checks {
            if !seen.insert(&check.id) {
                return Err(invalid(format!("{} is listed twice", check.id)));
            }
            if let Probe::Files(files) = &check.look {
                machine::check_paths(&files.paths)
                    .map_err(|problem| invalid(format!("{}: {problem}", check.id)))?;
            }
        }
        Ok(benchmark)
    }
}

/// Holds a cluster against the benchmark. Changes nothing. A machine or an api that does not
/// answer fails each check that needs it.
pub async fn examine(benchmark: &Benchmark, session: &ClusterHandle) -> Report {
    let context = session.cluster_context();
    let machines = machine::look(benchmark, &context).await;
    let cluster = cluster::Cluster::reach(&context).await;
    let mut findings = Vec::new();
    for check in &benchmark.checks {
        let seen = match &check.look {
            Probe::Flags(_) | Probe::Files(_) | Probe::Output(_) => machines.judge(check),
            Probe::Kubelet(settings) => cluster.kubelets(settings),
            Probe::Denied(denied) => cluster.denied(denied).await,
            Probe::RefusedPod(spec) => cluster.refused(spec).await,
            Probe::Bound(bound) => cluster.bound(bound).await,
            Probe::Manual(_) => Seen::default(),
        };
        findings.push(finding(check, seen));
    }
    Report {
        benchmark: benchmark.benchmark.clone(),
        version: benchmark.version.clone(),
        cluster: session.topology().cluster.clone(),
        unseen: machines.unseen(),
        findings,
    }
}

fn finding(check: &Check, mut seen: Seen) -> Finding {
    let (status, reason) = match (&check.look, &check.waiver) {
        (Probe::Manual(text), _) => (Status::Manual, Some(text)),
        _ if seen.blind => (Status::Fail, None),
        _ if seen.looked_at == 0 => {
            seen.problems.push("there was nothing to check".into());
            (Status::Fail, None)
        }
        _ if seen.problems.is_empty() => (Status::Pass, None),
        (_, Some(waiver)) => (Status::Waived, Some(waiver)),
        _ => (Status::Fail, None),
    };
    Finding {
        id: check.id.clone(),
        title: check.title.clone(),
        status,
        looked_at: seen.looked_at,
        problems: seen.problems,
        reason: reason.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(checks: &str) -> Result<Benchmark> {
        Benchmark::parse(&format!("benchmark: b\nversion: '1'\nchecks:\n{checks}"))
    }

    fn status(waiver: Option<&str>, look: &str, seen: Seen) -> Status {
        let benchmark = parse(&format!("- {{id: '1', title: t, look: {look}}}\n")).unwrap();
        let check = Check {
            waiver: waiver.map(str::to_owned),
            ..benchmark.checks.into_iter().next().unwrap()
        };
        finding(&check, seen).status
    }

    const FILES: &str = "{files: {on: all, paths: [/a], must: absent}}";

    #[test]
    fn the_shipped_benchmark_is_sound() {
        let benchmark = Benchmark::load(&Playbooks::load(None).unwrap()).unwrap();
        let manual = |check: &&Check| matches!(check.look, Probe::Manual(_));
        let count = benchmark.checks.len();
        assert_eq!(count, 131, "the benchmark has 131 recommendations");
        assert!(benchmark.checks.iter().filter(manual).count() < 20);
        let waivers = benchmark.checks.iter().filter_map(|check| check.waiver.as_deref());
        assert!(waivers.clone().count() > 0 && waivers.map(str::trim).all(|why| why.len() > 40));
    }

    #[test]
    fn a_waiver_counts_only_while_the_check_fails() {
        let good = || Seen { looked_at: 1, ..Seen::default() };
        let bad = || Seen { looked_at: 1, problems: vec!["x".into()], blind: false };
        assert_eq!(status(Some("why"), FILES, good()), Status::Pass);
        assert_eq!(status(Some("why"), FILES, bad()), Status::Waived);
        assert_eq!(status(None, FILES, bad()), Status::Fail);
        assert_eq!(status(None, "{manual: yours}", Seen::default()), Status::Manual);
    }

    #[test]
    fn a_check_of_nothing_does_not_pass_and_cannot_be_waived() {
        assert_eq!(status(None, FILES, Seen::default()), Status::Fail);
        assert_eq!(status(Some("why"), FILES, Seen::default()), Status::Fail);
        let mut half = Seen { looked_at: 1, problems: vec!["x".into()], blind: false };
        half.unseen("a machine is down".into());
        assert_eq!(status(Some("why"), FILES, half), Status::Fail);
    }

    #[test]
    fn a_number_given_twice_and_a_path_for_the_shell_are_refused() {
        let one = format!("- {{id: '1', title: t, look: {FILES}}}\n");
        let twice = parse(&format!("{one}{one}")).unwrap_err().to_string();
        assert!(twice.contains("cis.yaml: 1 is listed twice"), "{twice}");
        let shell = parse(&one.replace("/a", "'/$(reboot)'")).unwrap_err().to_string();
        assert!(shell.contains("/$(reboot)"), "{shell}");
    }
}
