//! Everything that happens, as data. The terminal, `--output json` and the journal all read this
//! stream and nothing else.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::support::printable::make_printable;
use crate::support::redact::Redactor;

/// Identifies a task within a run: `<step>@<machine>`, `<step>` for the cluster as a whole, or
/// `gate:<step>`.
pub type TaskId = String;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stamped {
    pub at: Timestamp,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Event {
    RunStarted {
        command: String,
        cluster: String,
        version: String,
    },
    /// The whole graph, sent once before its first task starts.
    Planned {
        tasks: Vec<TaskInfo>,
    },
    TaskStarted {
        task: TaskId,
        attempt: u32,
    },
    /// `done` and `total` are bytes where both are given.
    TaskProgress {
        task: TaskId,
        message: String,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        done: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        total: Option<u64>,
    },
    TaskFinished {
        task: TaskId,
        attempt: u32,
        outcome: Outcome,
        /// One line for each thing that was changed, such as `wrote /etc/etcd/etcd.env`.
        changes: Vec<String>,
        elapsed_ms: u64,
    },
    /// What a gate asked and what it saw; sent when it turns green, and when it gives up.
    GateEvidence {
        task: TaskId,
        passed: bool,
        evidence: Vec<Evidence>,
    },
    /// A machine's own output, for `--verbose` and the logs.
    Output {
        machine: String,
        task: TaskId,
        line: String,
    },
    Warning {
        message: String,
    },
    Note {
        message: String,
    },
    RunFinished {
        outcome: Outcome,
        changed: u32,
        elapsed_ms: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskInfo {
    pub id: TaskId,
    pub title: String,
    pub step: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub machine: Option<String>,
    pub kind: TaskKind,
    pub needs: Vec<TaskId>,
}

impl TaskInfo {
    /// Where it happens, as people read it: its machine, or what it is about.
    pub fn place(&self) -> String {
        match (self.kind, &self.machine) {
            (_, Some(machine)) => machine.clone(),
            (TaskKind::Fetch, None) => "files".into(),
            (TaskKind::Machine, None) => "machines".into(),
            (TaskKind::Gate, None) => "gates".into(),
            _ => "cluster".into(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// Making a machine, or waiting until it answers.
    Machine,
    /// Fetching files to this computer.
    Fetch,
    /// Changing a machine.
    Apply,
    /// Changing the cluster through its api.
    Cluster,
    /// Proving something.
    Gate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Changed,
    Unchanged,
    /// Not run because something it needs failed or the run was interrupted.
    Skipped,
    Failed,
}

/// One thing a gate looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// The machine that was looked at, where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub machine: Option<String>,
    pub asked: String,
    pub expected: String,
    pub saw: String,
    pub ok: bool,
}

impl Evidence {
    /// What is wrong, of one that is not as expected.
    pub fn difference(&self) -> String {
        let Self { asked, expected, saw, .. } = self;
        format!("{asked}: expected {expected}, observed {saw}")
    }

    /// The same as a line that stands for itself: with the place.
    pub fn difference_there(&self) -> String {
        let place = self.machine.as_deref().unwrap_or("cluster");
        format!("{place}: {}", self.difference())
    }
}

/// The sending end of the stream. Cheap to clone; sending never blocks and never fails: with no
/// reader left there is nobody to tell.
#[derive(Debug, Clone)]
pub struct Events {
    sender: mpsc::UnboundedSender<Stamped>,
    redactor: Redactor,
}

impl Events {
    /// A stream of work that has to do with no cluster's secrets.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Stamped>) {
        Self::redacted(Redactor::default())
    }

    /// A stream in which these secrets are masked, for all who read it: the terminal, JSON and the
    /// journal.
    pub fn redacted(redactor: Redactor) -> (Self, mpsc::UnboundedReceiver<Stamped>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { sender, redactor }, receiver)
    }

    pub fn send(&self, event: Event) {
        let _ = self.sender.send(Stamped { at: Timestamp::now(), event: self.masked(event) });
    }

    /// Without secrets, and without what a terminal would act upon: machines have a say in events.
    /// An event that would no longer be one with its secrets masked is not told at all.
    fn masked(&self, event: Event) -> Event {
        let Ok(mut document) = serde_json::to_value(&event) else { return event };
        let is_changed = make_printable(&mut document);
        if !self.redactor.json(&mut document) && !is_changed {
            return event;
        }
        serde_json::from_value(document).unwrap_or_else(|_| Event::Warning {
            message: "redacted, because this contained a secret".into(),
        })
    }

    pub fn warn(&self, message: impl Into<String>) {
        self.send(Event::Warning { message: message.into() });
    }

    pub fn note(&self, message: impl Into<String>) {
        self.send(Event::Note { message: message.into() });
    }

    pub fn progress(&self, task: &str, message: impl Into<String>) {
        self.send(Event::TaskProgress {
            task: task.to_owned(),
            message: message.into(),
            done: None,
            total: None,
        });
    }

    pub fn bytes(&self, task: &str, message: impl Into<String>, done: u64, total: u64) {
        self.send(Event::TaskProgress {
            task: task.to_owned(),
            message: message.into(),
            done: Some(done),
            total: Some(total),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_reader_of_the_stream_sees_a_secret() {
        let (events, mut reader) = Events::redacted(Redactor::new(["hunter22"]).unwrap());
        events.warn("it is hunter22");
        events.send(Event::Output {
            machine: "m".into(),
            task: "t".into(),
            line: "password: hunter22".into(),
        });
        events.send(Event::GateEvidence {
            task: "t".into(),
            passed: false,
            evidence: vec![Evidence {
                machine: None,
                asked: "a".into(),
                expected: "b".into(),
                saw: "hunter22".into(),
                ok: false,
            }],
        });
        events.note("nothing to hide");
        drop(events);
        let told: Vec<String> = std::iter::from_fn(|| reader.try_recv().ok())
            .map(|stamped| serde_json::to_string(&stamped).unwrap())
            .collect();
        assert_eq!(told.len(), 4);
        assert!(told.iter().all(|event| !event.contains("hunter22")), "{told:?}");
        assert!(told[1].contains("password: ***") && told[3].contains("nothing to hide"));
    }

    #[test]
    fn terminal_control_characters_are_removed_from_the_stream() {
        let (events, mut reader) = Events::channel();
        events.send(Event::Output {
            machine: "m".into(),
            task: "t".into(),
            line: "\u{1b}]0;owned\u{7}\u{1b}[1A\u{1b}[2Kall is well".into(),
        });
        let told = reader.try_recv().unwrap().event;
        assert!(matches!(&told, Event::Output { line, .. } if line == "all is well"), "{told:?}");
    }

    #[test]
    fn a_secret_that_is_the_name_of_an_event_does_not_let_it_through() {
        let (events, mut reader) = Events::redacted(Redactor::new(["note"]).unwrap());
        events.note("a note");
        let told = reader.try_recv().unwrap().event;
        assert!(matches!(&told, Event::Warning { message } if message.contains("redacted")));
    }
}
