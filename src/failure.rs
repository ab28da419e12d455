//! What users see when something goes wrong.

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
    pub fn because(self, cause: impl std::error::Error) -> Self {
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

/// An error with what caused it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let line = inner.to_string();
        if line.starts_with(UNEXPECTED_EOF) {
            return format!("{text}: the other side closed the connection");
        }
        if !text.contains(&line) {
            text = format!("{text}: {line}");
        }
        source = inner.source();
    }
    text
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
    fn causes_stand_once_each_and_without_what_is_for_programmers() {
        assert_eq!(chain(&links(&["a: b", "b", "c"])), "a: b: c");
        let eof = format!("{UNEXPECTED_EOF}: https://docs.rs/rustls");
        assert_eq!(chain(&links(&["a", &eof])), "a: the other side closed the connection");
    }
}
