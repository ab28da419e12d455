//! Errors that users see.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// Words further apart than this are no misspelling of each other.
const ALIKE: f64 = 0.5;

/// The one of `known` that was probably meant.
pub fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), known))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// Who has to act. Decides the exit code and the heading, never the handling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The cluster file, a flag or an argument.
    Input,
    /// This computer: a missing program, too little memory, an unreachable mirror.
    Host,
    /// One of the cluster's machines: it cannot be reached, or is not what it has to be.
    Machine,
    /// The cluster as a whole, by its api.
    Cluster,
    /// A step on a machine.
    Step,
    /// A gate that stayed red.
    Gate,
    /// What the cluster cannot spare.
    Quorum,
    /// Ctrl-C.
    Interrupted,
    /// A state that kdiy takes to be impossible.
    Bug,
}

/// Verbs that take `--name`, and mean a cluster that exists.
const OF_A_CLUSTER: [&str; 14] = [
    "cis",
    "destroy",
    "drill",
    "explain",
    "kubeconfig",
    "kubectl",
    "logs",
    "remove",
    "ssh",
    "start",
    "status",
    "stop",
    "timings",
    "verify",
];
/// The name that a cluster has when none is given.
const DEFAULT_NAME: &str = "kdiy";

/// A text in which commands can be pasted as they stand: with the cluster's name where it needs
/// one.
pub fn in_cluster(text: &str, cluster: &str) -> String {
    const PROGRAM: &str = "kdiy ";
    let mut named = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(PROGRAM) {
        named.push_str(before);
        named.push_str(PROGRAM);
        rest = after;
        let is_letter = |letter: char| letter.is_ascii_lowercase();
        let verb = &after[..after.len() - after.trim_start_matches(is_letter).len()];
        // What belongs to a command ends with its quotes.
        let command = after.split('`').next().unwrap_or_default();
        let is_whole = before.is_empty() || before.ends_with(['`', ' ', ':', '"']);
        if is_whole
            && OF_A_CLUSTER.contains(&verb)
            && !command.contains("--name")
            && cluster != DEFAULT_NAME
        {
            named.push_str(&format!("{verb} --name {cluster}"));
            rest = &after[verb.len()..];
        }
    }
    named.push_str(rest);
    named
}

/// An error for people: what failed, where, why, what the machine said last, and what to do.
///
/// `tail` and `cause` must already be free of secrets.
#[derive(Debug, Clone, PartialEq, Serialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub kind: Kind,
    /// One sentence without a full stop, naming the field, file or thing.
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The last lines of the command's output.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tail: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<PathBuf>,
    /// What to do about it; each a sentence or a command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            machine: None,
            step: None,
            cause: None,
            tail: Vec::new(),
            log: None,
            hints: Vec::new(),
        }
    }

    pub fn input(what: impl Into<String>) -> Self {
        Self::new(Kind::Input, what)
    }

    /// There is no `kind` of this name; there are `known`.
    pub fn unknown(kind: &str, name: &str, known: &[&str]) -> Self {
        let failure = Self::input(format!("there is no {kind} `{name}`"));
        match closest(name, known.iter().copied()) {
            Some(meant) => failure.hint(format!("did you mean `{meant}`?")),
            None => failure,
        }
        .hint(format!("there are {}", known.join(", ")))
    }

    /// About this computer; see [`Self::machine`] for the cluster's.
    pub fn host(what: impl Into<String>) -> Self {
        Self::new(Kind::Host, what)
    }

    pub fn machine(what: impl Into<String>) -> Self {
        Self::new(Kind::Machine, what)
    }

    pub fn cluster(what: impl Into<String>) -> Self {
        Self::new(Kind::Cluster, what)
    }

    pub fn bug(what: impl Into<String>) -> Self {
        Self::new(Kind::Bug, what)
    }

    /// Keeps the whole chain of sources, which `to_string` alone would cut.
    pub fn because(self, cause: impl std::error::Error + 'static) -> Self {
        self.cause(chain(&cause))
    }

    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    pub fn on(mut self, machine: impl Into<String>) -> Self {
        self.machine = Some(machine.into());
        self
    }

    pub fn in_step(mut self, step: impl Into<String>) -> Self {
        self.step = Some(step.into());
        self
    }

    pub fn tail(mut self, lines: Vec<String>) -> Self {
        self.tail = lines;
        self
    }

    pub fn log(mut self, path: impl Into<PathBuf>) -> Self {
        self.log = Some(path.into());
        self
    }

    /// With hints that can be pasted for a cluster of this name.
    pub fn in_cluster(mut self, cluster: &str) -> Self {
        for hint in &mut self.hints {
            *hint = in_cluster(hint, cluster);
        }
        self
    }

    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Interrupted => 130,
            _ => 1,
        }
    }
}

/// The plain form; the terminal's form is in [`crate::ui`].
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(machine) = &self.machine {
            write!(f, "{machine}: ")?;
        }
        if let Some(step) = &self.step {
            write!(f, "{step}: ")?;
        }
        f.write_str(&self.what)?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        for line in &self.tail {
            write!(f, "\n    {line}")?;
        }
        if let Some(log) = &self.log {
            write!(f, "\n  full log: {}", log.display())?;
        }
        for hint in &self.hints {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// rustls explains this one to programmers, with an address in its documentation.
const UNEXPECTED_EOF: &str = "peer closed connection without sending TLS close_notify";

/// What HTTP libraries say of any request that failed; what follows says why.
const GENERAL: [&str; 2] = ["client error (", "error sending request"];

/// An error with what caused it, on one line, in words for whoever runs kdiy: libraries say more,
/// and say it to programmers.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        let line = match said(error) {
            Said::All(line) => {
                next = None;
                line
            }
            Said::Line(line) => line,
            Said::Nothing => continue,
        };
        if line.starts_with(UNEXPECTED_EOF) {
            add(&mut text, "the server closed the connection");
            return text;
        }
        let is_general = next.is_some() && GENERAL.iter().any(|start| line.starts_with(start));
        if !is_general && !text.contains(&line) {
            add(&mut text, &line);
        }
    }
    text
}

fn add(text: &mut String, line: &str) {
    if !text.is_empty() {
        text.push_str(": ");
    }
    text.push_str(line);
}

/// What one error of a chain has to say.
enum Said {
    /// Its sources say the same once more.
    All(String),
    Line(String),
    Nothing,
}

fn said(error: &(dyn std::error::Error + 'static)) -> Said {
    if let Some(error) = error.downcast_ref::<kube::Error>() {
        return match error {
            kube::Error::Api(status) => Said::All(refusal(status)),
            kube::Error::Service(_) | kube::Error::HyperError(_) => Said::Nothing,
            kube::Error::Discovery(error) => Said::All(undiscovered(error)),
            error => Said::Line(error.to_string()),
        };
    }
    if let Some(status) = error.downcast_ref::<kube::core::Status>() {
        return Said::All(refusal(status));
    }
    match error.downcast_ref::<serde_saphyr::Error>() {
        Some(error) => Said::All(yaml(error)),
        None => Said::Line(error.to_string()),
    }
}

/// What the api answered.
fn refusal(status: &kube::core::Status) -> String {
    match (status.message.trim(), status.reason.as_str()) {
        ("", "") => format!("the API answered {}", status.code),
        ("", reason) => reason.to_owned(),
        (message, _) => message.to_owned(),
    }
}

fn undiscovered(error: &kube::error::DiscoveryError) -> String {
    use kube::error::DiscoveryError as E;
    match error {
        // The library shows its own type here, which holds the kind in quotes.
        E::MissingKind(kind) => {
            let kind = kind.split('"').skip(1).step_by(2).collect::<Vec<_>>();
            format!("the API has no kind {}", kind.join(" "))
        }
        E::MissingApiGroup(group) | E::EmptyApiGroup(group) => {
            format!("the API has no group {group}")
        }
        error => error.to_string(),
    }
}

/// What is wrong with a YAML text, with the lines in question, and without what its author could
/// not act upon.
pub fn yaml(error: &serde_saphyr::Error) -> String {
    error.render_with_formatter(&serde_saphyr::UserMessageFormatter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Link(String, #[source] Option<Box<Link>>);

    /// Each is caused by the next.
    fn links(texts: &[&str]) -> Link {
        let (first, rest) = texts.split_first().unwrap();
        Link((*first).into(), (!rest.is_empty()).then(|| Box::new(links(rest))))
    }

    #[test]
    fn each_cause_appears_once_without_programmers_details() {
        assert_eq!(chain(&links(&["a: b", "b", "c"])), "a: b: c");
        let eof = format!("{UNEXPECTED_EOF}: https://docs.rs/rustls");
        assert_eq!(chain(&links(&["a", &eof])), "a: the server closed the connection");
        let request = links(&["sending failed", "client error (Connect)", "refused"]);
        assert_eq!(chain(&request), "sending failed: refused");
    }

    #[test]
    fn commands_can_be_pasted_for_any_cluster() {
        for (hint, named) in [
            ("look at it: kdiy ssh m1", "look at it: kdiy ssh --name lab m1"),
            (
                "`kdiy kubectl -- get pods` or `kdiy up`",
                "`kdiy kubectl --name lab -- get pods` or `kdiy up`",
            ),
            ("kdiy destroy --name other", "kdiy destroy --name other"),
            (
                "`kdiy destroy`, or `kdiy status --name x`",
                "`kdiy destroy --name lab`, or `kdiy status --name x`",
            ),
            ("is a kdiy here?", "is a kdiy here?"),
        ] {
            assert_eq!(in_cluster(hint, "lab"), named);
            assert_eq!(in_cluster(hint, "kdiy"), hint);
        }
    }

    #[test]
    fn the_error_of_the_api_appears_once_and_unchanged() {
        let status = kube::core::Status {
            message: "pods \"a\" is forbidden: no".into(),
            reason: "Forbidden".into(),
            code: 403,
            ..Default::default()
        };
        let error = kube::Error::Api(Box::new(status));
        let failure = Failure::host("cannot apply Pod a").because(error);
        assert_eq!(failure.to_string(), "cannot apply Pod a: pods \"a\" is forbidden: no");
        let silent = kube::core::Status { code: 502, ..Default::default() };
        assert_eq!(chain(&kube::Error::Api(Box::new(silent))), "the API answered 502");
        let kind = "GroupVersionKind { group: \"a.b\", version: \"v1\", kind: \"C\" }";
        let error = kube::error::DiscoveryError::MissingKind(kind.into());
        assert_eq!(chain(&kube::Error::Discovery(error)), "the API has no kind a.b v1 C");
    }

    #[test]
    fn a_yaml_error_is_readable() {
        let error = serde_saphyr::from_str::<serde_json::Value>("a: 1\na: 2\n").unwrap_err();
        let said = chain(&error);
        assert!(said.contains("duplicate") && said.contains('2'), "{said}");
        assert!(!said.contains("Policy") && !said.contains("Options"), "{said}");
    }
}
