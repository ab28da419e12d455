//! `kdiy up`: creates or repairs the cluster.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use crate::artifacts::Store;
use crate::artifacts::advisories::{self, Advisory};
use crate::cli::Up;
use crate::commands::preflight;
use crate::commands::run_context::RunContext;
use crate::config::ProviderChoice;
use crate::engine::plan::{self, ClusterState, Plan};
use crate::engine::priority_semaphore::PrioritySemaphore;
use crate::engine::{self, Report};
use crate::etcd::quorum_guard::{Service, Standing};
use crate::operations::apply::{Fetched, Runner};
use crate::operations::drill::undo::{self, Pending};
use crate::operations::request::{ClusterRequest, origin};
use crate::pki::{Keeping, Pki};
use crate::playbook::load::Playbooks;
use crate::providers::{self, Provider, host, ssh_keys};
use crate::reports::timings::Timings;
use crate::session::ClusterHandle;
use crate::state::lock::Lock;
use crate::state::{self, Record, StateDir, atomic, journal};
use crate::support;
use crate::support::event::{Event, Events, Stamped};
use crate::support::failure::{Failure, Result};
use crate::support::time_scale::Unscaled;
use crate::topology::{Group, Quorum, Topology, ownership};
use crate::ui::Ui;
use crate::ui::summary::Summary;

/// How often a cluster that served is looked at before it is taken to be down; each look gives a
/// machine 5 s to answer (`transport::pool::SHORTEST_CONNECT`).
const LOOKS: u32 = 3;
/// One attempt, of as long as that takes.
const AT_ONCE: Unscaled = Unscaled::from_secs(0);
const BETWEEN_LOOKS: Unscaled = Unscaled::from_secs(1);

/// Steps that the summary names.
const SLOWEST: usize = 3;

/// What `--only` calls machines on which nothing is installed.
const MACHINES: &str = "machines";

pub async fn run(arguments: Up, overlay: Option<&Path>, ui: Ui) -> Result<u8> {
    if let Some(origin) = origin(&arguments.flags)? {
        ui.note(&origin);
    }
    bring(ClusterRequest::by(&arguments.flags, overlay).await?, &arguments, ui).await
}

/// Of the arguments all but the flags, which `wanted` is made of.
pub(super) async fn bring(wanted: ClusterRequest, arguments: &Up, ui: Ui) -> Result<u8> {
    let ClusterRequest { mut design, mut items, state, before, joined, added, site } = wanted;
    for step in arguments.only.iter().filter(|step| *step != MACHINES) {
        design.playbooks.known_step(step)?;
    }
    design.config.provider = providers::chosen(&design.config, &state).await?;
    let complete =
        added.machines.is_empty() && before.as_ref().is_some_and(|record| record.complete);
    if !added.machines.is_empty() {
        let vip = added.vip.filter(|_| before.is_none());
        check_host(&*providers::provider(&design.config, &state).await?, &added, vip).await?;
        if design.config.provider == ProviderChoice::Existing {
            let found = preflight::pass(&design.config, &site, &joined, ui).await?;
            design.architectures.learn(found);
            items = design.items(&site)?;
            design.source.check(&items)?;
        }
    }
    let store = Store::open(&state::cache()?, state.root(), design.source.clone())?;
    store.check_local(&items)?;
    design.check_images(&site)?;
    store.check_manifests(design.config.own_addons()).await?;

    state.create()?;
    let lock = Lock::take(&state.lock_file(), "up")?;
    ssh_keys::ensure(&state, host::emulated(design.config.provider)).await?;
    if design.id.is_empty() {
        design.id = ownership::new_id();
    }
    // Before there is a record: what it has to be true to is there from then on.
    let topology = Topology::at(&site, &design.config)?;
    let pki = Pki::open(&state.pki(), &topology, &design.config, Keeping::Made)?;
    let mut record = Record {
        kdiy: env!("CARGO_PKG_VERSION").into(),
        id: design.id.clone(),
        site,
        config: design.config.clone(),
        complete,
        had_data: before.as_ref().is_some_and(Record::had_data),
        machine_architectures: design.architectures.clone(),
        playbooks: design.overlay.directory.clone(),
        // Those of an older kdiy's cluster are believed once every machine has them, too.
        keys: before.as_ref().map_or_else(|| pki.fingerprints(), |record| record.keys.clone()),
        proven_kubernetes: before.as_ref().and_then(Record::proven_kubernetes).map(str::to_owned),
    };
    let overlay = design.overlay.note();
    state.write_record(&record)?;
    let session = ClusterHandle::new(design, state.clone(), &record.site, Keeping::Made).await?;
    let topology = session.topology().clone();
    let endpoint = topology.endpoint.url();
    let kubeconfig =
        session.rendered.pki.kubeconfig_for(&topology.cluster, &endpoint, "admin", None)?;
    atomic::write(&state.kubeconfig(), kubeconfig.as_bytes(), 0o600)?;
    let standing = match &before {
        Some(before) => Some(look(&session, before.had_data()).await),
        None => None,
    };
    let learners = standing.iter().flat_map(|standing| standing.etcd.learners()).cloned().collect();
    let plan = plan::build(
        &session.rendered.playbooks,
        &session.rendered.template_context,
        &ClusterState {
            // Nobody counts on what never served: it needs no turns, and may need a change that is
            // made everywhere at once to come about.
            standing: standing.filter(|_| record.had_data),
            added: added.machines.iter().map(|machine| machine.name.clone()).collect(),
        },
    )?;
    let is_whole = arguments.only.is_empty();
    let plan = if is_whole { plan } else { plan.only(&arguments.only) };
    let starts_etcd = starts_etcd(&plan, &session.rendered.playbooks);
    let versions = session.rendered.versions.by_name.clone();

    let recording = RunContext::begin(&session, "up", ui, |_| {})?;
    let journal = recording.journal.clone();
    for advisory in advisories::affecting(&session.rendered.playbooks, &versions)? {
        let Advisory { component, .. } = &advisory;
        recording.events.note(format!(
            "{component} {} has a known vulnerability: {advisory}",
            versions[component]
        ));
    }
    if let Some(note) = overlay {
        recording.events.note(note);
    }
    if let Some(owner) = &lock.left_by {
        recording.events.note(format!("the previous run was killed ({owner}); resuming"));
    }
    if before.is_some() && !added.machines.is_empty() {
        let names: Vec<&str> = added.machines.iter().map(|machine| machine.name.as_str()).collect();
        recording.events.note(format!("adding {} to {}", names.join(", "), topology.cluster));
        let (joining, then) = (added.etcd_quorum().members, topology.etcd_quorum());
        if joining > 0 {
            let now = Quorum { members: then.members - joining };
            recording.events.note(format!(
                "etcd grows from {} to {} members: {} may fail afterwards, {} now",
                now.members,
                then.members,
                then.tolerance(),
                now.tolerance()
            ));
        }
    }
    mend_drill(&session, &recording.events).await?;
    let runner = Arc::new(Runner {
        session,
        store,
        events: recording.events.clone(),
        stop: recording.stop.clone(),
        fetched: Fetched::default(),
        sending: PrioritySemaphore::at_once(2 * support::cores()),
        wanted: topology.machines.iter().map(|machine| machine.name.clone()).collect(),
        proven_before: complete,
        had_data: record.had_data && starts_etcd,
        unreached: Default::default(),
        repairs: true,
        has_served: record.had_data,
        beyond_quorum: arguments.beyond_quorum,
        learners,
        turn: Default::default(),
        changed: Default::default(),
        waits: Default::default(),
        done: Default::default(),
    });
    let parallel = arguments.parallel.into();
    let report =
        engine::run(&plan, runner.clone(), parallel, &recording.events, &recording.stop).await;
    runner.session.close().await;
    drop(runner);
    recording.end().await;
    // A journal that could not be written costs what is told of it, no more.
    let events = journal::read(&journal).unwrap_or_default();
    let timings = Timings::of(&events);
    if let (Some(path), Some(timings)) = (&arguments.timings, &timings) {
        crate::commands::timings::draw(timings, path)?;
        ui.note(&format!("wrote the timeline to {}", path.display()));
    }

    if let Some(failure) = report.failure {
        return Err(failure);
    }
    if !is_whole {
        let done = arguments.only.join(", ");
        let text = format!("done: {done}; run `kdiy up` without --only for the remaining steps");
        ui.result(&text, &serde_json::json!({ "only": arguments.only, "changed": report.changed }));
        return Ok(0);
    }
    record.complete = true;
    record.had_data = true;
    record.keys = pki.fingerprints();
    record.proven_kubernetes = Some(record.config.kubernetes.clone());
    state.write_record(&record)?;
    let mut summary = summary(&topology, &state, &versions, &report);
    summary.etcd_leader = leader(&events);
    summary.slowest = timings.map(|timings| timings.slowest(SLOWEST)).unwrap_or_default();
    ui.result(&summary.render(), &summary);
    Ok(0)
}

/// `--only` may leave etcd alone: then nothing can begin a new cluster, and what a restored snapshot
/// needs can be installed.
fn starts_etcd(plan: &Plan, playbooks: &Playbooks) -> bool {
    let unit = Service::Etcd.unit();
    plan.tasks.iter().any(|task| {
        let step = playbooks.step(&task.step).map(|(_, step)| step);
        step.is_some_and(|step| step.units.iter().any(|it| it.name == unit))
    })
}

/// What a drill broke and could not mend. A machine that is gone for good cannot be mended, but
/// made anew: that is what follows.
async fn mend_drill(session: &ClusterHandle, events: &Events) -> Result<()> {
    if let Some(pending) = undo::pending(session.state.root())? {
        let Pending { drill, began, .. } = &pending;
        events.note(format!("the drill {drill} of {began:.0} was interrupted; undoing it first"));
        if let Err(failure) = undo::undo(session, &pending, events).await {
            events.warn(failure.to_string());
        }
    }
    Ok(())
}

/// How a cluster that was begun stands now. One that `served` is looked at again where it does not
/// seem to: a machine that is slow to let kdiy in must not make it look down.
async fn look(session: &ClusterHandle, served: bool) -> Standing {
    let context = session.cluster_context();
    let mut looks = 1;
    loop {
        session.connect(AT_ONCE).await;
        let standing = Standing::of(&context).await;
        let serves = Service::ALL.into_iter().all(|service| standing.members(service).works());
        if serves || !served || looks == LOOKS {
            return standing;
        }
        looks += 1;
        tokio::time::sleep(BETWEEN_LOOKS * session.rendered.template_context.config.slow_machines)
            .await;
    }
}

/// As the last green gate of etcd saw it.
fn leader(events: &[Stamped]) -> Option<String> {
    events.iter().rev().find_map(|stamped| match &stamped.event {
        Event::GateEvidence { passed: true, evidence, .. } => {
            evidence.iter().find(|line| line.asked == "leader").map(|line| line.saw.clone())
        }
        _ => None,
    })
}

fn summary(
    topology: &Topology,
    state: &StateDir,
    versions: &BTreeMap<String, String>,
    report: &Report,
) -> Summary {
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
        etcd_leader: None,
        slowest: Vec::new(),
    }
}

/// Nothing is fetched or made on a computer that cannot carry these machines. Nothing may have the
/// virtual address yet, where one is given.
async fn check_host(
    provider: &dyn Provider,
    topology: &Topology,
    vip: Option<Ipv4Addr>,
) -> Result<()> {
    let mut findings = provider.check_host(topology).await;
    findings.extend(host::ssh_client());
    if let Some(vip) = vip
        && host::answers(vip).await
    {
        findings.push(providers::Finding {
            what: format!("loadBalancer.vip: something already answers at {vip}"),
            mend: "set loadBalancer.vip to a free address".into(),
        });
    }
    let needed = host::disk_for(topology.machines.len());
    if provider.makes_machines()
        && let Some(free) = host::available_disk(&state::cache()?).await
        && free < needed
    {
        findings.push(providers::Finding {
            what: format!("the machines need about {needed} MiB of disk; {free} MiB are free"),
            mend: "free disk space, or use fewer machines".into(),
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
