//! Collects facts from machines, before anything changes on them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::bundle::script::quote;
use crate::providers::Provider;
use crate::reports::preflight::{Answer, port_between};
use crate::support::failure::{Failure, Result};
use crate::support::time_scale::Unscaled;
use crate::topology::{Group, Machine, Topology};
use crate::transport::clock_skew::Clock;
use crate::transport::pool::{ConnectionPool, transport_failure};
use crate::transport::{Script, Transport, control_sockets};

const SCRIPT: &str = include_str!("probe.sh");
const REACHED_WITHIN: Unscaled = Unscaled::from_secs(10);
/// 50 writes to a slow disk, and pings of which each waits for 2 s.
const ANSWERED_WITHIN: Unscaled = Unscaled::from_secs(120);
/// How long machines listen to each other, and how long the others leave them to begin.
const LISTENS_FOR: Duration = Duration::from_secs(6);
const BEGINS_WITHIN: Duration = Duration::from_secs(1);
/// How long this computer tries each; multiplied by `slowMachines`.
const KNOCKS_FOR: Duration = Duration::from_secs(3);

/// What each machine answered, in the topology's order, or why it did not. `id` is the cluster's;
/// empty for one that was never begun.
pub async fn look(
    provider: &dyn Provider,
    topology: &Topology,
    id: &str,
    slow: u32,
) -> Result<Vec<Result<Answer>>> {
    let sockets = control_sockets::directory()?;
    let connections = ConnectionPool::new(sockets.path().to_owned());
    let asked = topology
        .machines
        .iter()
        .map(|machine| ask(provider, topology, &connections, machine, slow));
    let mut answers = futures::future::join_all(asked).await;
    let ports = ports(topology, &connections, slow).await;
    for (machine, answer) in topology.machines.iter().zip(&mut answers) {
        if let Ok(answer) = answer {
            id.clone_into(&mut answer.cluster_id);
            answer.closed = ports.closed.get(&machine.name).cloned().unwrap_or_default();
            answer.within_reach = ports.within_reach.contains(&machine.name);
        }
    }
    connections.close().await;
    Ok(answers)
}

async fn ask(
    provider: &dyn Provider,
    topology: &Topology,
    connections: &ConnectionPool,
    machine: &Machine,
    slow: u32,
) -> Result<Answer> {
    let target = provider.ssh_target(topology, &machine.name)?;
    let transport = connections.connect(&target, REACHED_WITHIN * slow).await?;
    let others: Vec<String> =
        topology.machines.iter().map(|other| other.address.to_string()).collect();
    let own = machine.address.to_string();
    let etcd = if topology.is_in(machine, Group::Etcd) { "yes" } else { "no" };
    let others: Vec<&str> =
        others.iter().map(String::as_str).filter(|other| *other != own).collect();
    let text = format!("own={own} others={} etcd={etcd}\n{SCRIPT}", quote(&others.join(" ")));
    let clock = Clock::default();
    let script = Script::new(text).timeout(ANSWERED_WITHIN * slow);
    let output = transport
        .run_with(script, &|line| clock.hear(line))
        .await
        .map_err(|error| transport_failure("preflight", &error))?;
    let answer = Answer::parse(&output.stdout, clock.offset()).ok_or_else(|| {
        Failure::machine("the machine stopped answering during the preflight checks")
            .on(&machine.name)
            .tail(output.tail(10))
    })?;
    Ok(Answer { no_forwarding: transport.refuses_forwarding().await, ..answer })
}

/// What firewalls let through.
struct Ports {
    /// By machine: the names of those whose port it does not reach.
    closed: BTreeMap<String, Vec<String>>,
    /// Machines of which this computer reaches a port.
    within_reach: BTreeSet<String>,
}

/// For a few seconds every machine listens on a port that it is going to use, and all others try
/// it, and so does this computer: what a firewall lets through is seen, not guessed.
async fn ports(topology: &Topology, connections: &ConnectionPool, slow: u32) -> Ports {
    let transports = connections.transports().await;
    let reached: Vec<(&Machine, _)> = topology
        .machines
        .iter()
        .filter_map(|machine| Some((machine, transports.get(&machine.name)?)))
        .collect();
    let listening = reached.iter().map(|(machine, transport)| {
        let (address, port) = (machine.address, port_between(topology, machine));
        let seconds = LISTENS_FOR.as_secs();
        // Where the port is taken already, whoever has it is as good to knock at.
        let text = format!(
            "timeout {seconds} systemd-socket-activate --listen={address}:{port} sleep {seconds}"
        );
        transport.run(Script::new(text))
    });
    let knocking = async {
        tokio::time::sleep(BEGINS_WITHIN).await;
        let knocks = reached.iter().map(|(machine, transport)| {
            let targets = reached.iter().filter(|(other, _)| other.name != machine.name);
            let targets: Vec<(&Machine, u16)> =
                targets.map(|(other, _)| (*other, port_between(topology, other))).collect();
            async move { (machine.name.clone(), knock(&***transport, &targets).await) }
        });
        futures::future::join_all(knocks).await.into_iter().collect()
    };
    let from_here = async {
        tokio::time::sleep(BEGINS_WITHIN).await;
        let knocks = reached.iter().map(|(machine, _)| async move {
            let address = (machine.address, port_between(topology, machine));
            let connected = TcpStream::connect(address);
            let connected = tokio::time::timeout(KNOCKS_FOR * slow, connected).await;
            matches!(connected, Ok(Ok(_))).then(|| machine.name.clone())
        });
        futures::future::join_all(knocks).await.into_iter().flatten().collect()
    };
    let listening = futures::future::join_all(listening);
    let (_, closed, within_reach) = tokio::join!(listening, knocking, from_here);
    Ports { closed, within_reach }
}

/// Those of `targets` that do not answer at their ports.
async fn knock(transport: &dyn Transport, targets: &[(&Machine, u16)]) -> Vec<String> {
    let attempts = targets.iter().map(|(machine, port)| {
        let Machine { address, name, .. } = machine;
        format!("(timeout $((3 * ${{KDIY_SLOW:-1}})) bash -c ': </dev/tcp/{address}/{port}' 2>/dev/null || echo {name}) &\n")
    });
    let script = Script::new(format!("{}wait", attempts.collect::<String>()));
    match transport.run(script).await {
        Ok(output) => output.stdout.lines().map(str::to_owned).collect(),
        // A connection that broke is no closed port.
        Err(_) => Vec::new(),
    }
}
