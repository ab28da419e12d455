//! How a cluster is at one moment: what was read, and what follows from it. The types here *are*
//! the format of `kdiy status --output json`.
//!
//! Looking changes nothing and waits for nothing: what does not answer in time is an answer.

pub mod assess;
pub mod collect;
pub mod dns;
pub mod machine_report;

use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::Serialize;

use crate::topology::Role;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    Healthy,
    /// The cluster serves, but is not as it should be.
    Degraded,
    /// The api does not answer, or nothing can be written.
    Down,
}

impl Health {
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Healthy => 0,
            Self::Degraded => 3,
            Self::Down => 4,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// What the cluster is on account of this alone.
    pub health: Health,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    pub what: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub cluster: String,
    pub at: Timestamp,
    /// How long the look took.
    pub elapsed_ms: u64,
    /// The worst of `problems`.
    pub health: Health,
    /// Worst first.
    pub problems: Vec<Problem>,
    pub kubernetes: String,
    pub endpoint: Endpoint,
    pub etcd: Etcd,
    /// Only where keepalived holds an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_address: Option<VirtualAddress>,
    /// Absent when no api-server answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leases: Option<Vec<Lease>>,
    /// Absent without CNI, and when no api-server answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    pub machines: Vec<Machine>,
}

/// What clients of the api use, asked from this computer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    pub url: String,
    pub ready: bool,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// etcd as a whole, counted from its membership and not from those that happen to be well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Etcd {
    pub members: u32,
    pub quorum: u32,
    pub tolerance: u32,
    /// Members that answer and follow the leader.
    pub in_quorum: u32,
    /// How many more may fail before nothing can be written.
    pub may_lose_now: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualAddress {
    pub address: Ipv4Addr,
    pub holders: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    pub name: String,
    /// The holder's machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// By this computer's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewed_ms_ago: Option<u64>,
    pub duration_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dns {
    pub endpoints: u32,
    pub ready: u32,
    /// How long the Service took to say where `kubernetes.default` is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    pub name: String,
    pub role: Role,
    pub address: Ipv4Addr,
    /// Why nothing was heard from it; then what only it can say is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<System>,
    /// Of machines that run etcd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd: Option<Heard<Member>>,
    /// Why it has none of etcd's data, although it must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_data_lost: Option<String>,
    /// Of masters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_server: Option<ApiServer>,
    /// Of machines that run haproxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// Of machines that run a kubelet, by the api's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
    /// By the soonest end.
    pub certificates: Vec<Certificate>,
    /// Steps that the next `kdiy up` would apply.
    pub drift: Vec<Drift>,
}

/// What was asked for, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Heard<T> {
    Answer(T),
    Error(String),
}

impl<T> Heard<T> {
    pub fn answer(&self) -> Option<&T> {
        match self {
            Self::Answer(answer) => Some(answer),
            Self::Error(_) => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct System {
    pub uptime_seconds: u64,
    /// Processes that want to run, mean of a minute.
    pub load: f64,
    pub cpus: u32,
    pub memory_mebibytes: u64,
    pub memory_available_mebibytes: u64,
    /// Of the root file system.
    pub disk_used_percent: u8,
}

/// An etcd member, by its own word. Needs no quorum.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub id: u64,
    /// 0 when it knows of none.
    pub leader: u64,
    pub learner: bool,
    pub term: u64,
    pub raft_index: u64,
    /// Entries that it has to catch up on, against the furthest member.
    pub lag: u64,
    pub database_bytes: u64,
    /// Alarms and other complaints.
    pub errors: Vec<String>,
    /// Mean time of a write to the write-ahead log since the member started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fsync_ms: Option<f64>,
    /// Names of all members; learners have no vote and do not count.
    pub voters: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiServer {
    pub ready: bool,
    /// Parts of `/readyz` that fail, or why it does not answer.
    pub failing: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    pub holds_virtual_address: bool,
    pub backends: Vec<Backend>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    pub machine: String,
    pub up: bool,
    /// haproxy's words: status and last check.
    pub saw: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub ready: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub version: String,
    /// Takes no new pods by an administrator's word.
    pub cordoned: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// The file that holds it.
    pub path: String,
    pub days_left: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    pub step: String,
    pub differences: Vec<String>,
}
