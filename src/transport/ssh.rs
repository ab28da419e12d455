//! SSH with one multiplexed connection a machine.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio as ProcessStdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use openssh::{ControlPersist, ForwardType, KnownHosts, Session, SessionBuilder, Stdio};
use tokio::net::TcpListener;
use tokio::sync::{RwLock, Semaphore};

use super::target::SshTarget;
use super::{LineSink, Output, Script, Transport, TransportError, lines};

/// Channels at once on one connection. sshd allows ten (`MaxSessions`, sshd_config(5)); two are
/// left for the user's own `kdiy ssh`.
const CHANNELS: usize = 8;

/// How long an idle connection master outlives a kdiy that was killed.
const PERSIST: Duration = Duration::from_secs(60);

/// ssh appends this much to the control directory's path; sockets end at 108 bytes (unix(7)).
const CONTROL_PATH_ROOM: usize = 108 - 46;

pub struct Ssh {
    machine: String,
    session: RwLock<Option<Arc<Session>>>,
    slots: Semaphore,
}

impl Ssh {
    /// One attempt to connect; the caller decides about retries.
    pub async fn connect(
        target: &SshTarget,
        control_directory: &Path,
        timeout: Duration,
    ) -> Result<Self, TransportError> {
        if control_directory.as_os_str().len() > CONTROL_PATH_ROOM {
            return Err(TransportError::Refused {
                machine: target.machine.clone(),
                reason: format!(
                    "the directory for ssh's control sockets is too long for a socket: {}",
                    control_directory.display()
                ),
            });
        }
        let session = tokio::time::timeout(
            timeout + Duration::from_secs(2),
            builder(target, control_directory, timeout).connect_mux(&target.host),
        )
        .await
        .map_err(|_| TransportError::Timeout { machine: target.machine.clone(), after: timeout })?
        .map_err(|error| connect_error(&target.machine, error))?;
        Ok(Self {
            machine: target.machine.clone(),
            session: RwLock::new(Some(Arc::new(session))),
            slots: Semaphore::new(CHANNELS),
        })
    }

    async fn session(&self) -> Result<Arc<Session>, TransportError> {
        self.session.read().await.clone().ok_or_else(|| self.lost(openssh::Error::Disconnected))
    }

    fn lost(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TransportError {
        TransportError::Lost { machine: self.machine.clone(), source: source.into() }
    }

    async fn exchange(&self, script: Script, sink: LineSink<'_>) -> Result<Output, TransportError> {
        let session = self.session().await?;
        let (arguments, input) = lines::Source::of(script).await?;
        let mut command = session.clone().arc_command("sudo");
        command.args(["-n", "--", "/bin/sh"]).args(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .await
            .map_err(|error| self.lost(error))?;
        let stdin = child.stdin().take();
        let stdout = child.stdout().take();
        let stderr = child.stderr().take();
        let ((), stdout, stderr) = tokio::join!(
            lines::feed(stdin, input),
            lines::collect(stdout, sink),
            lines::collect(stderr, sink),
        );
        match child.wait().await {
            Ok(status) => Ok(Output { status: status.code().unwrap_or(-1), stdout, stderr }),
            Err(openssh::Error::RemoteProcessTerminated) if session.check().await.is_ok() => {
                Ok(Output { status: -1, stdout, stderr })
            }
            Err(error) => Err(self.lost(error)),
        }
    }
}

#[async_trait]
impl Transport for Ssh {
    fn machine(&self) -> &str {
        &self.machine
    }

    async fn run_with(&self, script: Script, sink: LineSink<'_>) -> Result<Output, TransportError> {
        let _slot = self.slots.acquire().await.map_err(|error| self.lost(error))?;
        let after = script.timeout;
        tokio::time::timeout(after, self.exchange(script, sink))
            .await
            .map_err(|_| TransportError::Timeout { machine: self.machine.clone(), after })?
    }

    async fn forward(&self, target: SocketAddr) -> Result<SocketAddr, TransportError> {
        let session = self.session().await?;
        let local = free_local_address().await.map_err(|error| self.lost(error))?;
        session
            .request_port_forward(ForwardType::Local, local, target)
            .await
            .map_err(|error| self.lost(error))?;
        Ok(local)
    }

    async fn is_alive(&self) -> bool {
        match self.session().await {
            Ok(session) => session.check().await.is_ok(),
            Err(_) => false,
        }
    }

    async fn close(&self) {
        let session = self.session.write().await.take();
        if let Some(session) = session.and_then(Arc::into_inner) {
            // The machine may be gone already, which closes the connection just as well.
            let _ = session.close().await;
        }
    }
}

fn builder(target: &SshTarget, control_directory: &Path, timeout: Duration) -> SessionBuilder {
    let mut builder = SessionBuilder::default();
    builder
        .known_hosts_check(if target.accept_new_host_key {
            KnownHosts::Add
        } else {
            KnownHosts::Strict
        })
        .user_known_hosts_file(&target.known_hosts)
        .connect_timeout(timeout)
        .server_alive_interval(Duration::from_secs(5))
        .control_directory(control_directory)
        .control_persist(ControlPersist::IdleFor(
            (PERSIST.as_secs() as usize).try_into().unwrap_or(std::num::NonZeroUsize::MIN),
        ));
    if let Some(user) = &target.user {
        builder.user(user.clone());
    }
    if let Some(port) = target.port {
        builder.port(port);
    }
    if let Some(key) = target.keys.first() {
        builder.keyfile(key);
    }
    if let Some(config) = &target.config_file {
        builder.config_file(config);
    }
    if let Some(jump) = &target.jump {
        builder.jump_hosts([jump]);
    }
    builder
}

/// Tells a machine that is not there yet from one that will never have us.
fn connect_error(machine: &str, error: openssh::Error) -> TransportError {
    let text = match &error {
        openssh::Error::Connect(source) | openssh::Error::Master(source) => source.to_string(),
        other => other.to_string(),
    };
    let permanent =
        ["Permission denied", "Host key verification failed", "IDENTIFICATION HAS CHANGED"];
    if permanent.iter().any(|sign| text.contains(sign)) {
        TransportError::Refused { machine: machine.to_owned(), reason: text }
    } else {
        TransportError::Lost { machine: machine.to_owned(), source: Box::new(error) }
    }
}

async fn free_local_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0").await?.local_addr()
}

/// Hands this terminal to `ssh` itself, for `kdiy ssh`. The exit status is the remote command's.
pub async fn interactive(target: &SshTarget, command: &[String]) -> std::io::Result<i32> {
    let mut ssh = tokio::process::Command::new("ssh");
    ssh.arg("-o").arg(format!("UserKnownHostsFile={}", target.known_hosts.display()));
    ssh.arg("-o").arg(format!(
        "StrictHostKeyChecking={}",
        if target.accept_new_host_key { "accept-new" } else { "yes" }
    ));
    if let Some(config) = &target.config_file {
        ssh.arg("-F").arg(config);
    }
    for key in &target.keys {
        ssh.arg("-i").arg(key);
    }
    if let Some(port) = target.port {
        ssh.arg("-p").arg(port.to_string());
    }
    if let Some(user) = &target.user {
        ssh.arg("-l").arg(user);
    }
    if let Some(jump) = &target.jump {
        ssh.arg("-J").arg(jump);
    }
    ssh.arg("--").arg(&target.host).args(command);
    let status = ssh.stdin(ProcessStdio::inherit()).status().await?;
    Ok(status.code().unwrap_or(255))
}
