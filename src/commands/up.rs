//! `kdiy up`: makes the cluster, or makes it right again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use ipnet::Ipv4Net;
use tokio_util::sync::CancellationToken;

use crate::artifacts::catalogue::{Item, Versions};
use crate::artifacts::{Catalogue, Source, Store};
use crate::cli::Up;
use crate::config::flags::UpFlags;
use crate::config::{ClusterConfig, Cni, check, parse};
use crate::engine::{self, Report};
use crate::event::{Event, Events, Outcome};
use crate::failure::{Failure, Result};
use crate::fleet::Fleet;
use crate::kube_api::ApiAccess;
use crate::machines::{self, Provider, host, keys};
use crate::pki::Pki;
use crate::plan::{self, Circumstances};
use crate::playbook::Condition;
use crate::playbook::load::Playbooks;
use crate::redact::Redactor;
use crate::runner::{Fetched, Runner};
use crate::state::journal::{self, Journal};
use crate::state::lock::Lock;
use crate::state::{self, Record, StateDir, atomic};
use crate::template::Templates;
use crate::topology::{Group, Topology};
use crate::ui::Ui;
use crate::ui::summary::Summary;
use crate::world::World;

/// The cluster file that is taken when none is named.
const DEFAULT_FILE: &str = "cluster.yaml";

/// Machines that kdiy makes have this computer's architecture, as release names spell it.
const ARCH: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// What a cluster takes of this computer's disk, in MiB: the releases once, and on each machine
/// the sum of what a master installs (about 620 of programs and twice 120 of images), with room
/// for etcd and the first pods.
const RELEASES: u64 = 1500;
const MACHINE: u64 = 1200;

/// File, defaults and flags, checked.
pub fn effective(flags: &UpFlags) -> Result<ClusterConfig> {
    let file = match &flags.config {
        Some(path) => parse::read(path)?,
        None if Path::new(DEFAULT_FILE).is_file() => parse::read(Path::new(DEFAULT_FILE))?,
        None => ClusterConfig::default(),
    };
    let config = flags.over(file)?;
    check::validate(&config)?;
    Ok(config)
}

pub async fn run(arguments: Up, overlay: Option<&Path>, ui: Ui) -> Result<u8> {
    let config = effective(&arguments.flags)?;
    let playbooks = Playbooks::load(overlay)?;
    let catalogue = Catalogue::load(&playbooks)?;
    let versions = catalogue.versions(&config)?;
    let source = Source::from_config(&config)?;

    source.check(&items(&playbooks, &catalogue, &versions, &config)?)?;

    let state = StateDir::of(&config.name)?;
    let before = state.same_cluster(&config)?;
    let network = match &before {
        Some(record) => record.machine_network,
        None => choose_network(&config).await?,
    };
    let topology = Topology::build(&config, network)?;
    let provider = machines::provider(&config, &state).await?;
    let live = before.as_ref().is_some_and(|record| record.complete);
    if before.is_none() {
        check_host(&*provider, &topology).await?;
    }

    state.create()?;
    let lock = Lock::take(&state.lock_file(), "up")?;
    keys::ensure(&state).await?;
    let mut record = Record {
        kdiy: env!("CARGO_PKG_VERSION").into(),
        machine_network: network,
        config: config.clone(),
        complete: live,
    };
    state.write_record(&record)?;
    let pki = Pki::open_or_create(&state.pki(), &topology, &config)?;
    let endpoint = topology.endpoint.url();
    let kubeconfig = pki.kubeconfig_for(&config.name, &endpoint, "admin", None)?;
    let bootstrap = pki.kubeconfig_for(&config.name, &endpoint, "bootstrap-admin", None)?;

    atomic::write(&state.kubeconfig(), kubeconfig.as_bytes(), 0o600)?;
    let mirrored_images = catalogue
        .image_files()
        .into_iter()
        .filter(|(_, file)| source.lists(file))
        .map(|(name, _)| name.to_owned())
        .collect();
    let world = World {
        topology: topology.clone(),
        versions: versions.by_name.clone(),
        images: versions.images.clone(),
        mirrored_images,
        bootstrap_tokens: pki.bootstrap_tokens(),
        vrrp_password: pki.vrrp_password().to_owned(),
        config,
    };
    let plan = plan::build(&playbooks, &world, &Circumstances { live })?;
    let store = Store::open(&state::cache()?, state.root(), source)?;
    let sockets = tempfile::Builder::new()
        .prefix("kdiy-")
        .tempdir_in("/tmp")
        .map_err(|error| Failure::host("cannot make a directory in /tmp").because(error))?;
    let fleet = Arc::new(Fleet::new(sockets.path().to_owned()));
    let api = Arc::new(ApiAccess::new(topology.clone(), fleet.clone(), bootstrap));

    let (events, reader) = Events::channel();
    let secrets = pki.secrets();
    let redactor = Redactor::new(secrets.iter().map(String::as_str))?;
    let mut journal = Journal::begin(&state.runs(), "up")?.redacting(redactor);
    let learned = journal::learned_durations(&state.runs());
    let seen = Arc::new(std::sync::Mutex::new(Seen::default()));
    let shown = ui.follow(reader, learned, {
        let seen = seen.clone();
        move |stamped| {
            if let Ok(mut seen) = seen.lock() {
                seen.note(&stamped.event);
            }
            // A journal that cannot be written costs the estimate of the next run, no more.
            let _ = journal.append(stamped);
        }
    });
    events.send(Event::RunStarted {
        command: "up".into(),
        cluster: topology.cluster.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
    });
    if let Some(owner) = &lock.left_by {
        events.note(format!("an earlier run ended without a word ({owner}); going on from there"));
    }
    let stop = CancellationToken::new();
    let signals = tokio::spawn(listen(stop.clone(), events.clone()));
    let runner = Arc::new(Runner {
        state: state.clone(),
        playbooks,
        templates: Templates::new(),
        world,
        pki,
        provider,
        catalogue,
        versions: versions.clone(),
        store,
        fleet: fleet.clone(),
        api,
        events: events.clone(),
        stop: stop.clone(),
        arch: ARCH.into(),
        fetched: Fetched::default(),
        proven_before: live,
        changed: Default::default(),
    });
    let report =
        engine::run(&plan, runner.clone(), arguments.parallel.into(), &events, &stop).await;
    signals.abort();
    drop(runner);
    fleet.close().await;
    drop(events);
    // Only the last sender's end ends the display.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), shown).await;

    if let Some(failure) = report.failure {
        return Err(failure);
    }
    record.complete = true;
    state.write_record(&record)?;
    let seen = seen.lock().map(|seen| seen.clone()).unwrap_or_default();
    let summary = summary(&topology, &state, &versions.by_name, &report, seen);
    ui.result(&summary.render(), &summary);
    Ok(0)
}

/// Every release file that this cluster takes.
fn items(
    playbooks: &Playbooks,
    catalogue: &Catalogue,
    versions: &Versions,
    config: &ClusterConfig,
) -> Result<Vec<Item>> {
    let flannel = config.network.cni == Cni::Flannel;
    let names: BTreeSet<&String> = playbooks
        .steps()
        .filter(|(_, step)| flannel || !step.when.contains(&Condition::CniFlannel))
        .flat_map(|(_, step)| &step.artifacts)
        .collect();
    names.into_iter().map(|name| catalogue.item(name, versions, ARCH)).collect()
}

/// What the summary takes from the events.
#[derive(Debug, Clone, Default)]
struct Seen {
    leader: Option<String>,
    durations: BTreeMap<String, u64>,
}

impl Seen {
    fn note(&mut self, event: &Event) {
        match event {
            Event::GateEvidence { passed: true, evidence, .. } => {
                if let Some(line) = evidence.iter().find(|line| line.asked == "leader") {
                    self.leader = Some(line.saw.clone());
                }
            }
            Event::TaskFinished { task, elapsed_ms, outcome, .. }
                if *outcome != Outcome::Skipped =>
            {
                let step = task.split('@').next().unwrap_or(task).to_owned();
                let longest = self.durations.entry(step).or_default();
                *longest = (*longest).max(*elapsed_ms);
            }
            _ => {}
        }
    }
}

fn summary(
    topology: &Topology,
    state: &StateDir,
    versions: &BTreeMap<String, String>,
    report: &Report,
    seen: Seen,
) -> Summary {
    let mut slowest: Vec<(String, u64)> = seen.durations.into_iter().collect();
    slowest.sort_by_key(|(_, ms)| std::cmp::Reverse(*ms));
    slowest.truncate(4);
    let version = |name: &str| versions.get(name).cloned().unwrap_or_default();
    Summary {
        cluster: topology.cluster.clone(),
        endpoint: topology.endpoint.url(),
        kubernetes: version("kubernetes"),
        etcd: version("etcd"),
        nodes: topology.group(Group::Nodes).len(),
        etcd_quorum: topology.etcd_quorum(),
        masters: topology.master_quorum(),
        kubeconfig: state.kubeconfig().display().to_string(),
        changed: report.changed,
        elapsed_ms: u64::try_from(report.elapsed.as_millis()).unwrap_or(u64::MAX),
        etcd_leader: seen.leader,
        slowest,
    }
}

/// The file's network, or one that nobody on this computer uses.
async fn choose_network(config: &ClusterConfig) -> Result<Ipv4Net> {
    let mut used = Vec::new();
    for name in StateDir::clusters()? {
        used.extend(StateDir::of(&name)?.record()?.map(|record| record.machine_network));
    }
    let routes = host::networks().await;
    let Some(network) = config.network.machines else {
        used.extend(routes.iter().map(|(network, _)| *network));
        return check::choose_machine_network(&used);
    };
    if config.provider != crate::config::ProviderChoice::Existing
        && let Some((other, interface)) = routes.iter().find(|(other, _)| {
            other.prefix_len() > 0 && (other.contains(&network) || network.contains(other))
        })
    {
        return Err(Failure::input(format!(
            "network.machines: {network} overlaps {other}, which this computer has on {interface}"
        ))
        .hint("take another network, or leave it out"));
    }
    Ok(network)
}

/// Nothing is fetched or made on a computer that cannot carry the cluster.
async fn check_host(provider: &dyn Provider, topology: &Topology) -> Result<()> {
    let mut findings = provider.check_host(topology).await;
    if let Some(vip) = topology.vip
        && host::answers(vip).await
    {
        findings.push(machines::Finding {
            what: format!("loadBalancer.vip: something answers at {vip} already"),
            mend: "take another with loadBalancer.vip".into(),
        });
    }
    let needed = RELEASES + MACHINE * topology.machines.len() as u64;
    if provider.name() != "existing"
        && let Some(free) = host::available_disk(&state::cache()?).await
        && free < needed
    {
        findings.push(machines::Finding {
            what: format!("the cluster takes about {needed} MiB of disk, {free} MiB are free"),
            mend: "make room, or make fewer machines".into(),
        });
    }
    let mut findings = findings.into_iter();
    let Some(first) = findings.next() else { return Ok(()) };
    let mut failure =
        Failure::host(format!("{} ({})", first.what, provider.name())).hint(first.mend);
    for finding in findings {
        failure.tail.push(format!("{}: {}", finding.what, finding.mend));
    }
    Err(failure)
}

/// Ctrl-C once lets what is under way finish; twice ends at once. Both leave a state from which
/// the next `up` goes on.
async fn listen(stop: CancellationToken, events: Events) {
    if tokio::signal::ctrl_c().await.is_err() {
        return;
    }
    stop.cancel();
    events.note("finishing what is under way; Ctrl-C again stops at once");
    if tokio::signal::ctrl_c().await.is_ok() {
        events.note("stopped; `kdiy up` goes on from here");
        // The display has its own task; give it a moment to show the line.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        #[expect(clippy::exit, reason = "the second Ctrl-C means now, whatever is under way")]
        std::process::exit(130);
    }
}
