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

use super::target::{Password, Root, SshTarget};
use super::{ENDS_WITHIN, Input, LineSink, Output, Script, Transport, TransportError, lines};

/// Channels at once on one connection. sshd allows ten (`MaxSessions`, sshd_config(5)); two are
/// left for the user's own `kdiy ssh`.
const CHANNELS: usize = 8;

/// A connection over which nothing came for three of these is gone (ServerAliveCountMax,
/// ssh_config(5)); multiplied by `slowMachines`.
const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// How long an idle connection master outlives a kdiy that was killed.
const PERSIST: Duration = Duration::from_secs(60);

/// ssh appends this much to the control directory's path; sockets end at 108 bytes (unix(7)).
const CONTROL_PATH_ROOM: usize = 108 - 46;

/// Prints how whoever logs in becomes root. sudo is asked for the very command that is run later:
/// a rule may be for some commands only. `-k`: a password given a moment ago must not count.
const HOW_TO_BECOME_ROOT: &str = "if [ \"$(id -u)\" = 0 ]; then echo root; \
    elif ! command -v sudo >/dev/null; then echo none; \
    elif sudo -k -n -- /bin/sh -c : 2>/dev/null; then echo sudo; else echo password; fi";

pub struct Ssh {
    machine: String,
    session: RwLock<Option<Arc<Session>>>,
    slots: Semaphore,
    becomes_root: BecomesRoot,
    /// A script that says nothing else.
    ends_within: Duration,
}

enum BecomesRoot {
    Already,
    BySudo,
    ByPassword(Password),
}

impl BecomesRoot {
    /// The command that runs what follows it as root.
    fn prefix(&self) -> &'static [&'static str] {
        match self {
            Self::Already => &[],
            Self::BySudo => &["sudo", "-n", "--"],
            // With -k sudo always reads the password, so that the shell never gets to see it.
            Self::ByPassword(_) => &["sudo", "-k", "-S", "-p", "", "--"],
        }
    }

    fn password(&self) -> Option<&Password> {
        match self {
            Self::ByPassword(password) => Some(password),
            Self::Already | Self::BySudo => None,
        }
    }
}

impl Ssh {
    /// One attempt to connect; the caller decides about retries.
    pub async fn connect(
        target: &SshTarget,
        control_directory: &Path,
        timeout: Duration,
    ) -> Result<Self, TransportError> {
        if control_directory.as_os_str().len() > CONTROL_PATH_ROOM {
            let (machine, path) = (target.machine.clone(), control_directory.to_owned());
            return Err(TransportError::SocketPath { machine, path });
        }
        let session = tokio::time::timeout(
            timeout + Duration::from_secs(2),
            builder(target, control_directory, timeout).connect_mux(&target.host),
        )
        .await
        .map_err(|_| TransportError::Timeout { machine: target.machine.clone(), after: timeout })?
        .map_err(|error| connect_error(&target.machine, error))?;
        let mut ssh = Self {
            machine: target.machine.clone(),
            session: RwLock::new(Some(Arc::new(session))),
            slots: Semaphore::new(CHANNELS),
            becomes_root: BecomesRoot::BySudo,
            ends_within: ENDS_WITHIN * target.slow_machines,
        };
        if let Root::FindOut { password } = &target.root {
            ssh.becomes_root = ssh.find_out(password.as_ref(), timeout).await?;
        }
        Ok(ssh)
    }

    async fn find_out(
        &self,
        password: Option<&Password>,
        timeout: Duration,
    ) -> Result<BecomesRoot, TransportError> {
        let after = timeout;
        let late = |_| TransportError::Timeout { machine: self.machine.clone(), after };
        let session = self.session().await?;
        let mut question = session.command("/bin/sh");
        question.args(["-c", HOW_TO_BECOME_ROOT]);
        let answer = tokio::time::timeout(timeout, question.output()).await.map_err(late)?;
        let answer = answer.map_err(|error| self.lost(error))?.stdout;
        match String::from_utf8_lossy(&answer).trim() {
            "root" => return Ok(BecomesRoot::Already),
            "sudo" => return Ok(BecomesRoot::BySudo),
            "password" => {}
            _ => return Err(self.not_root("sudo is not installed there")),
        }
        let Some(password) = password else {
            return Err(self.not_root("sudo wants a password"));
        };
        // Tried once, with nothing behind it: sudo would take lines of a script for further
        // attempts, and the user's account may be locked after a few.
        let trial = BecomesRoot::ByPassword(password.clone());
        let nothing = Script::new(":").with_input(Input::Bytes(Vec::new()));
        let script = lines::Source::of(nothing).await?;
        let tried = tokio::time::timeout(timeout, self.exchange(script, &trial, &|_| {}));
        let output = tried.await.map_err(late)??;
        if output.success() {
            return Ok(trial);
        }
        Err(self.not_root("sudo does not take the password, or does not let this user"))
    }

    fn not_root(&self, reason: &str) -> TransportError {
        TransportError::NotRoot { machine: self.machine.clone(), reason: reason.to_owned() }
    }

    async fn session(&self) -> Result<Arc<Session>, TransportError> {
        self.session.read().await.clone().ok_or_else(|| self.lost(openssh::Error::Disconnected))
    }

    fn lost(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TransportError {
        TransportError::Lost { machine: self.machine.clone(), source: source.into() }
    }

    async fn exchange(
        &self,
        (arguments, input): (Vec<String>, lines::Source),
        root: &BecomesRoot,
        sink: LineSink<'_>,
    ) -> Result<Output, TransportError> {
        let session = self.session().await?;
        // ssh reads a file itself: a copy through kdiy would cost as much as the encryption.
        let (stdin, input) = match (input, root.password()) {
            (lines::Source::File(file), None) => {
                (Stdio::from(file.into_std().await), lines::Source::Bytes(Vec::new()))
            }
            (input, _) => (Stdio::piped(), input),
        };
        let mut words = root.prefix().iter().copied().chain(["/bin/sh"]);
        let mut command = session.clone().arc_command(words.next().unwrap_or_default());
        command.args(words).args(arguments);
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .await
            .map_err(|error| self.lost(error))?;
        let stdin = child.stdin().take();
        let stdout = child.stdout().take();
        let stderr = child.stderr().take();
        let ((), stdout, stderr) = tokio::join!(
            lines::feed(stdin, root.password(), input),
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
        let after = script.timeout.unwrap_or(self.ends_within);
        let source = lines::Source::of(script).await?;
        tokio::time::timeout(after, self.exchange(source, &self.becomes_root, sink))
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
        .connect_timeout(timeout)
        .server_alive_interval(ALIVE_EVERY * target.slow_machines)
        .control_directory(control_directory)
        .control_persist(ControlPersist::IdleFor(
            (PERSIST.as_secs() as usize).try_into().unwrap_or(std::num::NonZeroUsize::MIN),
        ));
    if let Some(file) = &target.known_hosts {
        builder.user_known_hosts_file(file);
    }
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
    if let Some(file) = &target.known_hosts {
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", file.display()));
    }
    if target.accept_new_host_key {
        ssh.arg("-o").arg("StrictHostKeyChecking=accept-new");
    }
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
