//! Runs one drill, from the check whether it is possible to its results.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams};
use tokio_util::sync::CancellationToken;

use crate::cluster_context::ClusterContext;
use crate::etcd::quorum_guard::{Service, Standing};
use crate::gates::{self, wait};
use crate::kubernetes::client::ApiPath;
use crate::operations::drill::catalogue::{Drill, Writes};
use crate::operations::drill::fault::{Act, BROKEN, Prepared};
use crate::operations::drill::leadership::{Holders, Watch};
use crate::operations::drill::measure::{Measure, Window};
use crate::operations::drill::report::{Outcome, Promise};
use crate::operations::drill::target::{self, NoTarget};
use crate::operations::drill::undo::{self, Pending};
use crate::operations::drill::workload::{self, Clients, Log};
use crate::operations::drill::{pods, quorum_loss};
use crate::playbook::format::GateName;
use crate::session::ClusterHandle;
use crate::support::event::Events;
use crate::support::failure::{Failure, Kind, Result};
use crate::support::time_scale::Unscaled;
use crate::topology::Group;
use crate::transport::Script;
use crate::transport::pool::transport_failure;

/// What has to be green before something is broken, and again afterwards.
const GATES: [GateName; 5] = [
    GateName::Etcd,
    GateName::ApiServers,
    GateName::LoadBalancer,
    GateName::Controllers,
    GateName::Nodes,
];
/// How long a cluster may take to be whole again; multiplied by `slowMachines`. A machine that
/// was switched off has to boot, and its node to be ready.
const RECOVERED_WITHIN: Unscaled = Unscaled::from_secs(180);
/// Clients write undisturbed for this long before something is broken.
const CALM: Duration = Duration::from_secs(2);
const CALM_WITHIN: Unscaled = Unscaled::from_secs(20);
const COUNTDOWN: u32 = 5;
/// The machine mends itself this long after kdiy should have done it.
const DEAD_MAN: Unscaled = Unscaled::from_secs(120);
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The machine that the user wants to be hit.
    pub on: Option<String>,
    /// Stop units instead of killing them.
    pub graceful: bool,
    /// Break one more than the cluster can lose.
    pub beyond_quorum: bool,
    pub countdown: bool,
}

pub struct DrillRun<'a> {
    pub session: &'a ClusterHandle,
    pub context: Arc<ClusterContext>,
    pub events: Events,
    pub stop: CancellationToken,
}

/// A drill that is about to be done.
struct Ready {
    machines: Vec<String>,
    faults: Vec<Prepared>,
    promise: Promise,
    holders: Holders,
    task: String,
}

impl DrillRun<'_> {
    /// Proves that the cluster is whole.
    pub async fn whole(&self, task: &str, stop: &CancellationToken) -> Result<()> {
        let deadline = self.slowly(RECOVERED_WITHIN);
        let balanced = !self.context.topology.group(Group::LoadBalancers).is_empty();
        let held = GATES
            .into_iter()
            .filter(|name| *name != GateName::LoadBalancer || balanced)
            .map(gates::gate)
            .map(|gate| async move {
                wait::hold(&*gate, &self.context, deadline, &self.events, task, stop).await
            });
        futures::future::try_join_all(held).await.map(drop)
    }

    /// The cluster must be whole. What was broken is mended when this returns, whatever it
    /// returns.
    pub async fn carry_out(&self, drill: &Drill, options: &Options, task: &str) -> Result<Outcome> {
        self.events.note(format!("{}\n  {}\n  {}", drill.title, drill.happens, drill.survives));
        self.events.progress(task, "choosing the target");
        let ready = match self.prepare(drill, options, task).await? {
            Ok(ready) => ready,
            Err(NoTarget(reason)) => {
                return Ok(Outcome::not_possible(&drill.name, &drill.title, reason));
            }
        };
        if options.countdown {
            self.count_down(&ready).await?;
        }
        let mut outcome = Outcome::begin(&drill.name, &drill.title, ready.machines.clone());
        self.measure(drill, &ready, options, &mut outcome).await?;
        Ok(outcome)
    }

    /// Whom to hit and how, if it can be done here and the cluster can spare it.
    async fn prepare(
        &self,
        drill: &Drill,
        options: &Options,
        task: &str,
    ) -> Result<Result<Ready, NoTarget>> {
        let topology = &self.context.topology;
        let holders = Holders::of(&self.context).await;
        let candidates = match target::candidates(drill.on, topology, &holders) {
            Ok(candidates) => candidates,
            Err(nobody) => return Ok(Err(nobody)),
        };
        let first = match &options.on {
            Some(wanted) => target::named(wanted, &candidates, topology)?,
            None => candidates.into_iter().next().unwrap_or_default(),
        };
        let machines = match options.beyond_quorum {
            true => target::beyond_quorum(&first, topology),
            false => vec![first],
        };
        let mut faults = Vec::new();
        for name in &machines {
            let machine = topology
                .machine(name)
                .ok_or_else(|| Failure::bug(format!("there is no machine {name}")))?;
            let fault = Prepared::of(self.session, machine, drill, options.graceful)?;
            if let Some(reason) = self.impossible(&fault).await? {
                return Ok(Err(NoTarget(reason)));
            }
            faults.push(fault);
        }
        if !options.beyond_quorum {
            self.guard(drill, &machines).await?;
        }
        let promise = self.promise(drill, options)?;
        Ok(Ok(Ready { machines, faults, promise, holders, task: task.to_owned() }))
    }

    async fn guard(&self, drill: &Drill, machines: &[String]) -> Result<()> {
        if drill.costs.is_empty() {
            return Ok(());
        }
        let standing = Standing::of(&self.context).await;
        let lost: Vec<&str> = machines.iter().map(String::as_str).collect();
        for service in &drill.costs {
            match service {
                Service::Etcd => standing.etcd.allows_loss_of(&lost)?,
                Service::ApiServer => standing.api_servers.allows_loss_of(&lost)?,
            }
        }
        Ok(())
    }

    fn promise(&self, drill: &Drill, options: &Options) -> Result<Promise> {
        if options.beyond_quorum {
            return Ok(Promise { writes: Writes::Refused, bounds: BTreeMap::new() });
        }
        let bounds = match (&drill.graceful, options.graceful) {
            (Some(bounds), true) => bounds,
            (None, true) => {
                return Err(Failure::input(format!(
                    "--graceful: {} has no clean stop",
                    drill.name
                )));
            }
            (_, false) => &drill.bounds,
        };
        let config = &self.context.config;
        let bounds = bounds.iter().map(|(measure, bound)| (*measure, bound.of(config))).collect();
        Ok(Promise { writes: drill.writes, bounds })
    }

    /// Why this fault cannot be made, where it cannot.
    async fn impossible(&self, fault: &Prepared) -> Result<Option<String>> {
        if fault.act == Act::PowerOff {
            return Ok(self.session.provider.no_switch().map(str::to_owned));
        }
        let Some(possible) = &fault.possible else { return Ok(None) };
        let output = self.run(&fault.machine, Script::new(possible)).await?;
        let reason = output.tail(1).pop().unwrap_or_else(|| "the machine gives no reason".into());
        Ok((!output.success()).then_some(reason))
    }

    async fn count_down(&self, ready: &Ready) -> Result<()> {
        for left in (1..=COUNTDOWN).rev() {
            let line = format!("{} in {left} s; Ctrl-C cancels", ready.machines.join(", "));
            self.events.progress(&ready.task, &line);
            if left == COUNTDOWN {
                self.events.note(line);
            }
            tokio::select! {
                () = self.stop.cancelled() => return Err(called_off()),
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
        Ok(())
    }

    async fn measure(
        &self,
        drill: &Drill,
        ready: &Ready,
        options: &Options,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let log = Log::begin();
        let slow_machines = self.context.config.slow_machines;
        workload::make_namespace(&self.context.api.any().await?, slow_machines).await?;
        let has_pods = ready.promise.bounds.contains_key(&Measure::Pods);
        let roamers = match has_pods {
            true => {
                self.events.progress(&ready.task, "starting the pods that the drill reschedules");
                let client = self.context.api.any().await?;
                pods::start(&client, &self.context, &ready.machines[0]).await?;
                Some(pods::watch(self.context.clone(), ready.machines[0].clone(), log.clone()))
            }
            false => None,
        };
        let watch = Watch::start(&self.context, &ready.holders, &log);
        let server = self.context.api.server(&ApiPath::Endpoint, &ready.machines).await?;
        let count = workload::count(&self.context.topology);
        let patience = workload::patience(self.context.config.slow_machines);
        let run = format!("{}-{:08x}", drill.name, rand::random::<u32>());
        let clients = Clients::start(&self.context.api, &server, patience, count, &run, &log);
        let broken = self.break_and_mend(drill, ready, options, &log, outcome).await;
        // Clients go on until all is well again: mending can hurt them as well.
        let recovered = match &broken {
            Ok(_) => self.recover(&ready.task).await,
            Err(_) => Ok(()),
        };
        let end = log.now();
        let label = clients.end().await;
        drop((watch, roamers));
        let fault = broken?;
        let history = log.history();
        outcome.measure(&history, &ready.promise, fault, Window { to: end, ..fault });
        recovered?;

        let acknowledged = history.acknowledged();
        let line = format!("reading {} acknowledged writes back", acknowledged.len());
        self.events.progress(&ready.task, line);
        let topology = &self.context.topology;
        let lost = workload::lost(&self.context.api, topology, &label, &acknowledged).await?;
        outcome.lost = Some(lost.len());
        self.clean(&label).await;
        if !self.stop.is_cancelled() {
            outcome.judge();
        }
        Ok(())
    }

    /// Returns from when until when the fault lasted. Mends also when breaking failed half-way.
    async fn break_and_mend(
        &self,
        drill: &Drill,
        ready: &Ready,
        options: &Options,
        log: &Log,
        outcome: &mut Outcome,
    ) -> Result<Window> {
        self.calm(ready, log).await?;
        let before = match options.beyond_quorum {
            true => quorum_loss::containers(&self.context, &ready.machines).await,
            false => BTreeMap::new(),
        };
        let pending = Pending {
            drill: drill.name.clone(),
            began: Timestamp::now(),
            remedies: ready.faults.iter().map(Prepared::remedy).collect(),
        };
        undo::remember(self.session.state.root(), &pending)?;
        let longest = self.longest(drill, ready);
        let broken = self.inject(ready, longest + self.slowly(DEAD_MAN), log).await;
        if let Ok(from) = &broken {
            self.wait(drill, ready, *from, longest, log).await;
            outcome.seen.extend(self.look(ready).await);
            if options.beyond_quorum {
                let evidence = quorum_loss::look(&self.context, &ready.machines, &before).await;
                outcome.take_evidence(evidence);
            }
        }
        let to = log.now();
        self.events.progress(&ready.task, format!("mending {}", ready.machines.join(", ")));
        undo::undo(self.session, &pending, &self.events).await?;
        broken.map(|from| Window { from, to })
    }

    /// Until every client has written for a while.
    async fn calm(&self, ready: &Ready, log: &Log) -> Result<()> {
        self.events.progress(&ready.task, "clients write before the fault");
        let began = Instant::now();
        let patience = self.slowly(CALM_WITHIN);
        let count = workload::count(&self.context.topology);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Err(called_off()),
                () = tokio::time::sleep(PAUSE) => {}
            }
            let history = log.history();
            let now = log.now();
            let recent = Window { from: now.saturating_sub(CALM), to: now };
            let undisturbed = history.write_gap(recent) < CALM / 2
                && history.clients_that_wrote() == count
                && history.last_failure(recent).is_none();
            if began.elapsed() >= CALM && undisturbed {
                return Ok(());
            }
            if began.elapsed() > patience {
                let reasons = history.reasons(Window { from: Duration::ZERO, to: now });
                let reason = reasons.into_iter().next().map(|(reason, _)| reason);
                return Err(Failure::new(
                    Kind::Gate,
                    "writes through the load balancer already fail or are slow",
                )
                .cause(reason.unwrap_or_else(|| "writes take too long".into()))
                .hint("nothing was broken; perhaps this computer is too busy"));
            }
        }
    }

    /// Breaks all machines at the same time; the moment of the first fault.
    async fn inject(&self, ready: &Ready, dead_man: Duration, log: &Log) -> Result<Duration> {
        let broken = OnceLock::new();
        let line = format!("{} is broken", ready.machines.join(", "));
        self.events.progress(&ready.task, line);
        let breaks = ready.faults.iter().map(|fault| async {
            let Some(text) = fault.script(dead_man) else {
                broken.get_or_init(|| log.now());
                return self.session.provider.power_off(&fault.machine, &self.events).await;
            };
            let see = |line: &str| {
                if line == BROKEN {
                    broken.get_or_init(|| log.now());
                }
            };
            let transport = self.context.connections.transport(&fault.machine).await?;
            let failed = |error| transport_failure("drill", &error);
            let output = transport.run_with(Script::new(text), &see).await.map_err(failed)?;
            if output.success() {
                return Ok(());
            }
            Err(Failure::new(Kind::Step, "kdiy could not cause the fault")
                .on(&fault.machine)
                .tail(output.tail(8))
                .hint("kdiy undid what it had already done"))
        });
        futures::future::try_join_all(breaks).await?;
        broken.into_inner().ok_or_else(|| Failure::bug("a fault without a moment"))
    }

    /// The longest that the fault lasts: somewhat more than what is promised to happen, so that
    /// what comes late is measured as well.
    fn longest(&self, drill: &Drill, ready: &Ready) -> Duration {
        let events = ready.promise.bounds.iter().filter(|(measure, _)| measure.is_event());
        let latest = events.map(|(_, bound)| *bound).max().unwrap_or_default();
        self.slowly(Unscaled::of(drill.lasts.get())).max(latest * 3 / 2)
    }

    async fn wait(
        &self,
        drill: &Drill,
        ready: &Ready,
        from: Duration,
        longest: Duration,
        log: &Log,
    ) {
        let least = self.slowly(Unscaled::of(drill.lasts.get()));
        let events: Vec<Measure> =
            ready.promise.bounds.keys().copied().filter(|measure| measure.is_event()).collect();
        let mut said = String::new();
        loop {
            let elapsed = log.now().saturating_sub(from);
            let history = log.history();
            let missing = events.iter().find(|measure| history.moved(**measure, from).is_none());
            if elapsed >= longest || elapsed >= least && missing.is_none() {
                return;
            }
            let line = format!(
                "broken for {} s; {} writes acknowledged, {} requests failed",
                elapsed.as_secs(),
                history.acknowledged().len(),
                history.failed()
            );
            if line != said {
                self.events.progress(&ready.task, &line);
                said = line;
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    async fn look(&self, ready: &Ready) -> Vec<String> {
        let mut seen = Vec::new();
        for fault in &ready.faults {
            if let Some(look) = &fault.look
                && let Ok(output) = self.run(&fault.machine, Script::new(look)).await
            {
                seen.extend(output.tail(3));
            }
        }
        seen
    }

    /// Also after Ctrl-C: what was broken on purpose has to be seen whole again.
    async fn recover(&self, task: &str) -> Result<()> {
        self.events.progress(task, "checking that the cluster is healthy again");
        self.whole(task, &CancellationToken::new()).await
    }

    /// The objects of this drill; what stays goes with the namespace.
    async fn clean(&self, label: &str) {
        if let Ok(client) = self.context.api.any().await {
            let api: Api<ConfigMap> = Api::namespaced(client, workload::NAMESPACE);
            let mine = ListParams::default().labels(&workload::selector(label));
            let _ = api.delete_collection(&DeleteParams::default(), &mine).await;
        }
    }

    async fn run(&self, machine: &str, script: Script) -> Result<crate::transport::Output> {
        let transport = self.context.connections.transport(machine).await?;
        transport.run(script).await.map_err(|error| transport_failure("drill", &error))
    }

    fn slowly(&self, ordinary: Unscaled) -> Duration {
        ordinary * self.context.config.slow_machines
    }
}

fn called_off() -> Failure {
    Failure::new(Kind::Interrupted, "cancelled; nothing was broken")
}

/// Everything of earlier drills that is still in the cluster.
pub async fn clean_up(context: &ClusterContext) -> Result<()> {
    workload::remove_namespace(&context.api.any().await?).await
}
