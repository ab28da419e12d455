//! The connection pool: connections, facts, and the observed state of machines.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, RwLock, Semaphore};

use crate::support;
use crate::support::failure::{Failure, Result, chain};
use crate::support::time_scale::Unscaled;
use crate::transport::ssh::Ssh;
use crate::transport::target::SshTarget;
use crate::transport::{Transport, TransportError, account};

/// One attempt to connect; machines that boot answer or refuse much faster.
const CONNECT_TIMEOUT: Unscaled = Unscaled::from_secs(10);
/// The same where there is no time for a second attempt. A machine that is off is told by the
/// network within 3 s (ARP); a busy one takes longer than that to say hello.
const SHORTEST_CONNECT: Unscaled = Unscaled::from_secs(5);
/// A kernel that is up takes a connection at once, however busy the machine is. ssh would leave it to
/// the kernel here to repeat its first packet, after 1, 3 and 7 s only (RFC 6298).
const KNOCK: Unscaled = Unscaled::from_secs(1);
/// How long a machine that may still be made is given to say hello, at first: before its network is
/// there, something else may take the connection, and say nothing.
const FIRST_HELLO: Duration = Duration::from_secs(1);
/// Between attempts while a machine boots.
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Default)]
pub struct ConnectionPool {
    control_directory: PathBuf,
    targets: RwLock<BTreeMap<String, SshTarget>>,
    transports: RwLock<BTreeMap<String, Arc<dyn Transport>>>,
    /// By machine; held by whoever connects to it.
    connecting: Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
    handshakes: Handshakes,
}

/// Connections that are made at the same time. Each costs this computer more than anything that goes
/// over it later: with thirty at once, machines that are well would seem not to answer.
struct Handshakes(Semaphore);

impl Default for Handshakes {
    fn default() -> Self {
        Self(Semaphore::new((4 * support::cores()).clamp(4, 16)))
    }
}

impl ConnectionPool {
    /// `control_directory` must be short: sockets go there.
    pub fn new(control_directory: PathBuf) -> Self {
        Self { control_directory, ..Self::default() }
    }

    /// The connection that stands, or a new one; tries again until the deadline while the machine
    /// is not there yet. A machine that refuses us is a failure at once. One connection is made at
    /// a time: who asks meanwhile gets the same.
    pub async fn connect(
        &self,
        target: &SshTarget,
        deadline: Duration,
    ) -> Result<Arc<dyn Transport>> {
        if let Some(transport) = self.standing(&target.machine).await {
            return Ok(transport);
        }
        self.targets.write().await.insert(target.machine.clone(), target.clone());
        let began = Instant::now();
        let slow = target.slow_machines;
        let patience = deadline.clamp(SHORTEST_CONNECT * slow, CONNECT_TIMEOUT * slow);
        let turn = self.connecting.lock().await.entry(target.machine.clone()).or_default().clone();
        let after = deadline.max(patience);
        let _turn = tokio::time::timeout(after, turn.lock()).await.map_err(|_| {
            let machine = target.machine.clone();
            unreachable(target, TransportError::Timeout { machine, after })
        })?;
        if let Some(transport) = self.standing(&target.machine).await {
            return Ok(transport);
        }
        // Only who has time to try again can afford to be impatient at first.
        let mut hello = if deadline < SHORTEST_CONNECT * slow { patience } else { FIRST_HELLO };
        loop {
            match self.attempt(target, hello, patience).await {
                Ok(ssh) => {
                    let transport: Arc<dyn Transport> = Arc::new(ssh);
                    self.transports.write().await.insert(target.machine.clone(), transport.clone());
                    return Ok(transport);
                }
                Err(error) if error.is_transient() && began.elapsed() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                    hello = patience.min(hello * 2);
                }
                Err(error) => return Err(unreachable(target, error)),
            }
        }
    }

    async fn attempt(
        &self,
        target: &SshTarget,
        hello: Duration,
        patience: Duration,
    ) -> Result<Ssh, TransportError> {
        if let Some(address) = target.knock_at {
            let machine = || target.machine.clone();
            let lost = |error| TransportError::Lost { machine: machine(), source: Box::new(error) };
            let late = |after| TransportError::Timeout { machine: machine(), after };
            let knock = KNOCK * target.slow_machines;
            let stream = tokio::time::timeout(knock, TcpStream::connect(address)).await;
            let stream = stream.map_err(|_| late(knock))?.map_err(lost)?;
            let greeted = tokio::time::timeout(hello, greeted(stream)).await;
            greeted.map_err(|_| late(hello))?.map_err(lost)?;
        }
        // Never closed, so there is always one to wait for.
        let _turn = self.handshakes.0.acquire().await;
        Ssh::connect(target, &self.control_directory, patience).await
    }

    /// The machine's connection. One that broke, because the machine restarted or the network
    /// was away, is made anew; one attempt, for whoever needs more patience has `connect`.
    pub async fn transport(&self, machine: &str) -> Result<Arc<dyn Transport>> {
        if let Some(transport) = self.standing(machine).await {
            return Ok(transport);
        }
        let target = self.targets.read().await.get(machine).cloned();
        let target = target.ok_or_else(|| Failure::bug("there is no connection").on(machine))?;
        self.connect(&target, Duration::ZERO).await
    }

    async fn standing(&self, machine: &str) -> Option<Arc<dyn Transport>> {
        let transport = self.transports.read().await.get(machine).cloned()?;
        transport.is_alive().await.then_some(transport)
    }

    pub async fn transports(&self) -> BTreeMap<String, Arc<dyn Transport>> {
        self.transports.read().await.clone()
    }

    pub async fn close(&self) {
        let transports = std::mem::take(&mut *self.transports.write().await);
        futures::future::join_all(transports.values().map(|transport| transport.close())).await;
    }
}

/// Waits until an SSH server says hello, as it does unasked (RFC 4253, 4.2).
async fn greeted(mut stream: TcpStream) -> std::io::Result<()> {
    let mut hello = [0; 4];
    stream.read_exact(&mut hello).await?;
    if hello == *b"SSH-" { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

fn unreachable(target: &SshTarget, error: TransportError) -> Failure {
    let user = target.user.as_deref().map(|user| format!("{user}@")).unwrap_or_default();
    let failure = Failure::machine(format!("cannot connect to {user}{} over SSH", target.host))
        .on(&target.machine);
    let failure = match &error {
        TransportError::HostKeyChanged { .. } => changed_host_key(target, failure),
        TransportError::HostKeyUnknown { .. } => unknown_host_key(target, failure),
        TransportError::SocketPath { .. } => return socket_path(target, &error),
        TransportError::Refused { .. } => {
            failure.hint("check the user and the key; kdiy never asks for a password to log in")
        }
        TransportError::NotRoot { reason, .. } if advice(target, reason).is_some() => {
            failure.hint(advice(target, reason).unwrap_or_default())
        }
        TransportError::NotRoot { reason, .. } if !reason.contains("sudo") => {
            failure.hint(by_hand(target))
        }
        TransportError::NotRoot { .. } => failure
            .hint(
                "let this user use sudo without a password, or set ssh.sudoPassword: true for \
                the host",
            )
            .hint(
                "kdiy then asks for the password, or reads it from $KDIY_SUDO_PASSWORD or the \
                file $KDIY_SUDO_PASSWORD_FILE",
            ),
        _ => failure
            .hint(format!("check that the machine is on and reachable: ping {}", target.host)),
    };
    failure.cause(chain(&error))
}

fn advice(target: &SshTarget, said: &str) -> Option<String> {
    account::advice(said, target.user.as_deref().unwrap_or("USER"))
}

/// For an account that answers with something of its own.
fn by_hand(target: &SshTarget) -> String {
    format!("this command must print nothing and exit with 0: {} true", ssh_command(target))
}

fn socket_path(target: &SshTarget, error: &TransportError) -> Failure {
    Failure::host("cannot use ssh on this computer")
        .on(&target.machine)
        .hint("kdiy creates the directory in /tmp; check where /tmp points: realpath /tmp")
        .cause(chain(error))
}

fn changed_host_key(target: &SshTarget, failure: Failure) -> Failure {
    // As ssh writes it in known_hosts.
    let name = match target.port {
        Some(port) if port != 22 => format!("[{}]:{port}", target.host),
        _ => target.host.clone(),
    };
    let file = match &target.known_hosts {
        Some(file) => format!(" -f {}", file.display()),
        None => String::new(),
    };
    failure
        .hint("its host key has changed: make sure that this is the machine you mean")
        .hint(format!("if it was reinstalled: ssh-keygen -R '{name}'{file}"))
}

fn unknown_host_key(target: &SshTarget, failure: Failure) -> Failure {
    let ssh = ssh_command(target);
    failure
        .hint("its host key is unknown; add it to known_hosts")
        .hint(format!("log in once and compare the fingerprint: {ssh}"))
        .hint(
            "or set `ssh.acceptNewHostKey: true` for the host: kdiy then accepts the first key \
            that it sees",
        )
}

/// As a user would type it.
fn ssh_command(target: &SshTarget) -> String {
    let mut ssh = String::from("ssh");
    if let Some(config) = &target.config_file {
        ssh.push_str(&format!(" -F {}", config.display()));
    }
    if let Some(jump) = &target.jump {
        ssh.push_str(&format!(" -J {jump}"));
    }
    if let Some(port) = target.port {
        ssh.push_str(&format!(" -p {port}"));
    }
    let user = target.user.as_deref().map(|user| format!("{user}@")).unwrap_or_default();
    format!("{ssh} {user}{}", target.host)
}

/// A step's failure from a lost connection or a deadline, with what to tell the user.
pub fn transport_failure(step: &str, error: &TransportError) -> Failure {
    Failure::machine("the connection to the machine failed")
        .on(error.machine().unwrap_or_default())
        .in_step(step)
        .cause(chain(error))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::transport::target::Root;

    fn target(at: std::net::SocketAddr) -> SshTarget {
        SshTarget {
            machine: "master-1".into(),
            host: at.ip().to_string(),
            port: Some(at.port()),
            user: None,
            keys: Vec::new(),
            known_hosts: None,
            accept_new_host_key: false,
            config_file: None,
            jump: None,
            knock_at: Some(at),
            slow_machines: 1,
            root: Root::Sudo,
        }
    }

    #[tokio::test]
    async fn one_connection_is_made_at_a_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = target(listener.local_addr().unwrap());
        let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (now, peak) = (open.clone(), most.clone());
        // It takes connections, says nothing for a while, and hangs up.
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let now = now.clone();
                tokio::spawn(async move {
                    let hangs_up = Duration::from_millis(100);
                    let _ = tokio::time::timeout(hangs_up, stream.read(&mut [0; 1])).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        let pool = ConnectionPool::default();
        let within = Duration::from_millis(100);
        let asked = (0..4).map(|_| pool.connect(&target, within));
        let failed = futures::future::join_all(asked).await;
        assert!(failed.iter().all(Result::is_err));
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_socket_path_that_is_too_long_is_no_matter_of_keys() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = SshTarget { knock_at: None, ..target(listener.local_addr().unwrap()) };
        let pool = ConnectionPool::new(PathBuf::from("/tmp").join("x".repeat(100)));
        let failure = pool.connect(&target, Duration::ZERO).await.err().unwrap();
        let said = failure.to_string();
        assert!(said.contains("too long"), "{said}");
        assert!(!said.contains("key"), "{said}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_refuses_again_and_again_is_asked_until_the_deadline() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = listener.local_addr().unwrap();
        drop(listener);
        let target = target(closed);
        // Time between attempts is skipped, so these are hundreds.
        let failure =
            ConnectionPool::default().connect(&target, Duration::from_millis(300)).await.err();
        let said = failure.expect("nothing listens there").to_string();
        assert!(said.contains("cannot connect to 127.0.0.1"), "{said}");
    }
}
