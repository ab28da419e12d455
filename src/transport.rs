//! How commands and files reach a machine. Nothing above this module knows SSH.

pub mod account;
pub mod clock_skew;
pub mod control_sockets;
mod output;
pub mod pool;
pub mod ssh;
pub mod target;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::support::time_scale::Unscaled;

/// How long a script may take that says nothing else; multiplied by `slowMachines`.
const ENDS_WITHIN: Unscaled = Unscaled::from_secs(60);

/// A script to run as root with `/bin/sh`, whatever the user's login shell is and prints.
///
/// It finds the programs of `/usr/local/bin` and of the system, whatever path sudo sets, and how
/// many times as long things take there (`slowMachines`) in `$KDIY_SLOW`.
///
/// Without input the script itself travels on standard input, so it may be long and may hold
/// secrets. With input it travels as an argument: keep it short and free of secrets.
#[derive(Debug, Clone)]
pub struct Script {
    pub text: String,
    pub input: Input,
    /// The whole command's deadline; [`ENDS_WITHIN`] where it has none of its own.
    pub timeout: Option<Duration>,
}

#[derive(Debug, Clone, Default)]
pub enum Input {
    #[default]
    None,
    Bytes(Vec<u8>),
    File(PathBuf),
}

impl Script {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), input: Input::None, timeout: None }
    }

    pub fn with_input(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn success(&self) -> bool {
        self.status == 0
    }

    /// The last lines of both streams, standard error last.
    pub fn tail(&self, lines: usize) -> Vec<String> {
        let all: Vec<&str> =
            self.stdout.lines().chain(self.stderr.lines()).filter(|l| !l.is_empty()).collect();
        all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
    }
}

/// Why a command gave no exit status.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The connection could not be made or went away; trying again may help.
    #[error("lost the connection to {machine}")]
    Lost {
        machine: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The machine is there but will not have us; trying again will not help.
    #[error("{machine} refused: {reason}")]
    Refused { machine: String, reason: String },
    /// The machine has another host key than `known_hosts` says; trying again will not help.
    #[error("the host key of {machine} has changed: {reason}")]
    HostKeyChanged { machine: String, reason: String },
    /// `known_hosts` has no key of the machine; trying again will not help.
    #[error("the host key of {machine} is unknown: {reason}")]
    HostKeyUnknown { machine: String, reason: String },
    /// Nothing was asked of the machine: sockets have short names (unix(7)).
    #[error("the path of the directory for ssh's control sockets is too long: {}", path.display())]
    SocketPath { machine: String, path: PathBuf },
    /// The machine lets us in, but not become root; trying again will not help.
    #[error("cannot become root on {machine}: {reason}")]
    NotRoot { machine: String, reason: String },
    /// The account answered with something else: a forced command, a shell that lets nobody in.
    #[error("{machine} did not run the script: {said}")]
    NotRun { machine: String, said: String },
    #[error("no answer from {machine} within {}s", after.as_secs())]
    Timeout { machine: String, after: Duration },
    #[error("could not read {path}")]
    Input {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl TransportError {
    /// The machine that it is about; `None` where this computer could not begin.
    pub fn machine(&self) -> Option<&str> {
        match self {
            Self::Lost { machine, .. }
            | Self::Refused { machine, .. }
            | Self::HostKeyChanged { machine, .. }
            | Self::HostKeyUnknown { machine, .. }
            | Self::SocketPath { machine, .. }
            | Self::NotRoot { machine, .. }
            | Self::NotRun { machine, .. }
            | Self::Timeout { machine, .. } => Some(machine),
            Self::Input { .. } => None,
        }
    }

    /// Whether the same call may go through later.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Timeout { .. } | Self::NotRun { .. })
    }
}

/// Receives each line of output as it appears.
pub type LineSink<'a> = &'a (dyn Fn(&str) + Send + Sync);

#[async_trait]
pub trait Transport: Send + Sync {
    /// The machine's name, for messages.
    fn machine(&self) -> &str;

    /// Runs a script as root. A non-zero exit status is an `Ok`: the caller knows what it means.
    async fn run_with(&self, script: Script, lines: LineSink<'_>)
    -> Result<Output, TransportError>;

    async fn run(&self, script: Script) -> Result<Output, TransportError> {
        self.run_with(script, &|_| {}).await
    }

    /// An address on this computer from which `target` (as the machine sees it) can be reached.
    /// The forward lives as long as the transport.
    async fn forward(&self, target: SocketAddr) -> Result<SocketAddr, TransportError>;

    /// Why the machine forwards no ports, where it does not.
    async fn refuses_forwarding(&self) -> Option<String> {
        None
    }

    /// Whether the connection still stands, as far as this end knows.
    async fn is_alive(&self) -> bool;

    /// Ends the connection. Afterwards every call fails.
    async fn close(&self);
}
