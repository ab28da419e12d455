//! What happened, as data. The terminal, `--output json` and the journal all read this stream
//! and nothing else.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

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
            (TaskKind::Gate, None) => "proofs".into(),
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

/// The sending end of the stream. Cheap to clone; sending never blocks and never fails: with no
/// reader left there is nobody to tell.
#[derive(Debug, Clone)]
pub struct Events(mpsc::UnboundedSender<Stamped>);

impl Events {
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Stamped>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    pub fn send(&self, event: Event) {
        let _ = self.0.send(Stamped { at: Timestamp::now(), event });
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
