//! SSH with one multiplexed connection a machine.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio as ProcessStdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use openssh::{ControlPersist, ForwardType, KnownHosts, Session, SessionBuilder, Stdio};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, RwLock, Semaphore};

use crate::support::failure::chain;
use crate::support::time_scale::Unscaled;
use crate::transport::target::{Password, Root, SshTarget};
use crate::transport::{
    ENDS_WITHIN, Input, LineSink, Output, Script, Transport, TransportError, account, output,
};

/// Channels at once on one connection. sshd allows ten (`MaxSessions`, sshd_config(5)); two are
/// left for the user's own `kdiy ssh`. Where it takes fewer, fewer are used.
const CHANNELS: usize = 8;

/// Until a channel that sshd refused is tried again; it may just be closing another.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// A server that is forwarded to says hello unasked (RFC 4253, 4.2); multiplied by `slowMachines`.
const HELLO_WITHIN: Unscaled = Unscaled::from_secs(3);

/// A connection over which nothing came for three of these is gone (ServerAliveCountMax,
/// ssh_config(5)); multiplied by `slowMachines`.
const ALIVE_EVERY: Unscaled = Unscaled::from_secs(5);

/// How long an idle connection master outlives a kdiy that was killed.
const PERSIST: Duration = Duration::from_secs(60);

/// ssh appends this much to the control directory's path; sockets end at 108 bytes (unix(7)).
const CONTROL_PATH_ROOM: usize = 108 - 46;

/// Prints how whoever logs in becomes root, and where sshd was found. sudo is asked for the very
/// command that is run later: a rule may be for some commands only. `-k`: a password given a
/// moment ago must not count. What sudo says is printed, in English.
const HOW_TO_BECOME_ROOT: &str = "echo \"sshd=$SSH_CONNECTION\"; export LC_ALL=C LANGUAGE=C\n\
    if [ \"$(id -u)\" = 0 ]; then echo root\n\
    elif ! command -v sudo >/dev/null; then echo none\n\
    elif said=$(sudo -k -n -- /bin/sh -c : 2>&1); then echo sudo\n\
    else echo \"$said\"; fi";

pub struct Ssh {
    machine: String,
    session: RwLock<Option<Arc<Session>>>,
    slots: Semaphore,
    /// How many slots there are, taken ones included.
    channels: AtomicUsize,
    becomes_root: BecomesRoot,
    /// A script that says nothing else.
    ends_within: Duration,
    slow: u32,
    /// Where the machine's sshd listens, as the machine sees it.
    sshd: Option<SocketAddr>,
    /// Why the machine forwards no ports, where it does not; asked once.
    no_forwarding: OnceCell<Option<String>>,
}

/// How a command went, on both streams.
struct Exchanged {
    status: i32,
    stdout: output::Heard,
    stderr: output::Heard,
}

impl Exchanged {
    /// What the script said, or what the account said instead of running it.
    fn output(self) -> Result<Output, String> {
        let (Some(stdout), Some(stderr)) = (self.stdout.text, self.stderr.text) else {
            let said = account::words(&self.stdout.before, &self.stderr.before);
            return Err(match (said.is_empty(), self.status) {
                (true, 97) => TAKEN_OVER.to_owned(),
                (true, status) => format!("it exited with {status} and printed nothing"),
                (false, _) => said,
            });
        };
        Ok(Output { status: self.status, stdout, stderr })
    }
}

/// What [`output::Source`] ends with where another shell reads the script.
const TAKEN_OVER: &str = "another shell read it as its own input; if a start-up file of the login \
    shell runs `exec`, let it do so only on a terminal: [ -t 0 ] && exec …";

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
            channels: AtomicUsize::new(CHANNELS),
            becomes_root: BecomesRoot::BySudo,
            ends_within: ENDS_WITHIN * target.slow_machines,
            slow: target.slow_machines,
            sshd: None,
            no_forwarding: OnceCell::new(),
        };
        if let Root::FindOut { password } = &target.root {
            let found = ssh.find_out(password.as_ref(), timeout).await;
            let (becomes_root, sshd) = found?;
            (ssh.becomes_root, ssh.sshd) = (becomes_root, sshd);
        }
        Ok(ssh)
    }

    /// How to become root, and where sshd listens.
    async fn find_out(
        &self,
        password: Option<&Password>,
        timeout: Duration,
    ) -> Result<(BecomesRoot, Option<SocketAddr>), TransportError> {
        let after = timeout;
        let late = |_| TransportError::Timeout { machine: self.machine.clone(), after };
        let question = Script::new(HOW_TO_BECOME_ROOT);
        let asked = self.exchange(question, &BecomesRoot::Already, &|_| {});
        let answer = tokio::time::timeout(timeout, asked).await.map_err(late)??;
        let answer = answer.output().map_err(|said| self.not_root(&said))?.stdout;
        let (sshd, answer) = answer.split_once('\n').unwrap_or_default();
        let sshd = listens_at(sshd);
        match answer.trim() {
            "root" => return Ok((BecomesRoot::Already, sshd)),
            "sudo" => return Ok((BecomesRoot::BySudo, sshd)),
            "none" => return Err(self.not_root("sudo is not installed on the machine")),
            said if account::wants_password(said) => {}
            said => return Err(self.not_root(&account::words(said, ""))),
        }
        let Some(password) = password else {
            return Err(self.not_root("sudo wants a password"));
        };
        // Tried once, with nothing behind it: sudo would take lines of a script for further
        // attempts, and the user's account may be locked after a few.
        let trial = BecomesRoot::ByPassword(password.clone());
        let nothing = Script::new(":").with_input(Input::Bytes(Vec::new()));
        let tried = tokio::time::timeout(timeout, self.exchange(nothing, &trial, &|_| {}));
        match tried.await.map_err(late)??.output() {
            Ok(output) if output.success() => Ok((trial, sshd)),
            Ok(output) => Err(self.not_root(&account::words("", &output.stderr))),
            Err(said) => {
                Err(self.not_root(&format!("sudo refuses the password or this user: {said}")))
            }
        }
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

    /// Runs a script as soon as sshd has a channel for it.
    async fn exchange(
        &self,
        script: Script,
        root: &BecomesRoot,
        sink: LineSink<'_>,
    ) -> Result<Exchanged, TransportError> {
        let mut slot = self.slots.acquire().await.map_err(|error| self.lost(error))?;
        loop {
            match self.attempt(script.clone(), root, sink).await? {
                Some(exchanged) => return Ok(exchanged),
                None if self.is_only_slot() => drop(slot),
                // This one is taken as never having been there.
                None => slot.forget(),
            }
            tokio::time::sleep(REFUSED_PAUSE).await;
            slot = self.slots.acquire().await.map_err(|error| self.lost(error))?;
        }
    }

    /// Notes that there is one channel less, unless it is the last.
    fn is_only_slot(&self) -> bool {
        let less = |channels: usize| (channels > 1).then(|| channels - 1);
        self.channels.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err()
    }

    /// `None` when sshd refused a channel, because it allows no more of them (`MaxSessions`).
    async fn attempt(
        &self,
        script: Script,
        root: &BecomesRoot,
        sink: LineSink<'_>,
    ) -> Result<Option<Exchanged>, TransportError> {
        let marker = output::marker();
        let (arguments, input) = output::Source::of(script, &marker, self.slow).await?;
        let session = self.session().await?;
        // ssh reads a file itself: a copy through kdiy would cost as much as the encryption.
        let (stdin, input) = match (input, root.password()) {
            (output::Source::File(file), None) => {
                (Stdio::from(file.into_std().await), output::Source::Bytes(Vec::new()))
            }
            (input, _) => (Stdio::piped(), input),
        };
        let mut words = root.prefix().iter().copied().chain(["/bin/sh"]);
        let mut command = session.clone().arc_command(words.next().unwrap_or_default());
        command.args(words).args(arguments);
        let spawned =
            command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().await;
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) if chain(&error).contains("refused by peer") => return Ok(None),
            Err(error) => return Err(self.lost(error)),
        };
        let stdin = child.stdin().take();
        let stdout = child.stdout().take();
        let stderr = child.stderr().take();
        let ((), stdout, stderr) = tokio::join!(
            output::feed(stdin, root.password(), input),
            output::collect(stdout, &marker, sink),
            output::collect(stderr, &marker, sink),
        );
        let status = match child.wait().await {
            Ok(status) => status.code().unwrap_or(-1),
            Err(openssh::Error::RemoteProcessTerminated) if session.check().await.is_ok() => -1,
            Err(error) => return Err(self.lost(error)),
        };
        Ok(Some(Exchanged { status, stdout, stderr }))
    }

    async fn forwarded(&self, target: SocketAddr) -> Result<SocketAddr, TransportError> {
        let session = self.session().await?;
        let local = free_local_address().await.map_err(|error| self.lost(error))?;
        session
            .request_port_forward(ForwardType::Local, local, target)
            .await
            .map_err(|error| self.lost(error))?;
        Ok(local)
    }

    /// ssh listens here whether or not the machine forwards; only what comes through tells. The
    /// one thing there that is known to talk unasked is sshd itself.
    async fn tries_forwarding(&self) -> Option<String> {
        let local = self.forwarded(self.sshd?).await.ok()?;
        let greeted = async {
            let mut hello = [0; 4];
            TcpStream::connect(local).await?.read_exact(&mut hello).await
        };
        match tokio::time::timeout(HELLO_WITHIN * self.slow, greeted).await {
            Ok(Err(_)) => Some("its sshd forwards no ports".into()),
            Ok(Ok(_)) | Err(_) => None,
        }
    }
}

#[async_trait]
impl Transport for Ssh {
    fn machine(&self) -> &str {
        &self.machine
    }

    async fn run_with(&self, script: Script, sink: LineSink<'_>) -> Result<Output, TransportError> {
        let after = script.timeout.unwrap_or(self.ends_within);
        let exchange = self.exchange(script, &self.becomes_root, sink);
        let exchanged = tokio::time::timeout(after, exchange)
            .await
            .map_err(|_| TransportError::Timeout { machine: self.machine.clone(), after })??;
        let machine = || self.machine.clone();
        exchanged.output().map_err(|said| TransportError::NotRun { machine: machine(), said })
    }

    async fn forward(&self, target: SocketAddr) -> Result<SocketAddr, TransportError> {
        if let Some(reason) = self.refuses_forwarding().await {
            return Err(TransportError::Refused { machine: self.machine.clone(), reason });
        }
        self.forwarded(target).await
    }

    async fn refuses_forwarding(&self) -> Option<String> {
        self.no_forwarding.get_or_init(|| self.tries_forwarding()).await.clone()
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
    let (machine, has) = (machine.to_owned(), |sign| text.contains(sign));
    // As ssh of OpenSSH says it; a changed key ends with the words for an unknown one, too.
    if has("IDENTIFICATION HAS CHANGED") {
        TransportError::HostKeyChanged { machine, reason: text }
    } else if has("Host key verification failed") {
        TransportError::HostKeyUnknown { machine, reason: text }
    } else if has("Permission denied") {
        TransportError::Refused { machine, reason: text }
    } else {
        TransportError::Lost { machine, source: Box::new(error) }
    }
}

/// From `$SSH_CONNECTION`: addresses and ports of client and server (ssh(1)).
fn listens_at(line: &str) -> Option<SocketAddr> {
    let mut words = line.strip_prefix("sshd=")?.split_whitespace().skip(2);
    let address: IpAddr = words.next()?.parse().ok()?;
    Some(SocketAddr::new(address, words.next()?.parse().ok()?))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn connected(said: &str) -> TransportError {
        let source = std::io::Error::other(said.to_owned());
        connect_error("a", openssh::Error::Connect(source))
    }

    #[test]
    fn the_ways_in_which_ssh_refuses_are_told_apart() {
        let changed =
            "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed.";
        let cases = [
            (changed, "changed", false),
            ("Host key verification failed.", "unknown", false),
            ("ops@a: Permission denied (publickey).", "refused", false),
            ("connect to host a port 22: Connection refused", "lost", true),
        ];
        for (said, part, transient) in cases {
            let error = connected(said);
            assert!(error.to_string().contains(part), "{said}: {error}");
            assert_eq!(error.is_transient(), transient, "{said}");
            assert_eq!(error.machine(), Some("a"));
        }
    }
}
