//! `kdiy destroy`: removes everything that the ledger lists, and checks that nothing is left.

use std::fs;

use crate::cli::Destroy;
use crate::config::{ClusterConfig, ProviderChoice};
use crate::providers::{self, docker, host};
use crate::state::StateDir;
use crate::state::ledger::{Ledger, ResourceKind};
use crate::state::lock::Lock;
use crate::support::event::Events;
use crate::support::failure::{Failure, Kind, Result};
use crate::support::printable::counted;
use crate::topology::Topology;
use crate::ui::Ui;

pub async fn run(arguments: Destroy, ui: Ui) -> Result<u8> {
    let name = &arguments.which.name;
    let state = StateDir::of(name)?;
    if !state.exists() {
        ui.result(
            &format!("the cluster {name} does not exist; nothing to remove"),
            &serde_json::json!({"cluster": name, "removed": []}),
        );
        return Ok(0);
    }
    let lock = Lock::take(&state.lock_file(), "destroy")?;
    let mut ledger = Ledger::open(state.root())?;
    forget(&arguments, &mut ledger, ui)?;
    let has_given_up = !arguments.forget.is_empty();
    let known = match state.record() {
        Ok(Some(record)) => Some((record.topology()?, record.config)),
        Ok(None) => unrecorded(name, &state, &mut ledger, has_given_up).await?,
        Err(failure) => {
            ui.note(&format!("continuing without cluster.json: {failure}"));
            unrecorded(name, &state, &mut ledger, has_given_up).await?
        }
    };
    let mut list: Vec<String> =
        ledger.entries().iter().map(|entry| format!("{} {}", noun(entry.what), entry.id)).collect();
    list.push(format!("directory {}", state.root().display()));
    ui.note(&format!("this removes the cluster {name}:\n  {}", list.join("\n  ")));
    ui.confirm("remove all of this?", arguments.yes)?;

    if let Some((topology, config)) = known {
        let provider = providers::provider(&config, &state).await?;
        let (events, reader) = Events::channel();
        let shown = ui.follow(reader, Default::default(), |_| {});
        let result = provider.destroy(&topology, &ledger, &events).await;
        drop(events);
        let _ = shown.await;
        result?;
        let left = provider.leftovers(&ledger).await?;
        if !left.is_empty() {
            return Err(Failure::new(Kind::Step, "not everything could be removed")
                .tail(
                    left.iter().map(|owned| format!("{} {}", noun(owned.what), owned.id)).collect(),
                )
                .hint("run the same command again; kdiy still knows what is left"));
        }
    }
    let removed: Vec<_> =
        ledger.entries().iter().map(|entry| (entry.what, entry.id.clone())).collect();
    for (what, id) in &removed {
        if *what == ResourceKind::Kubeconfig {
            for left in crate::commands::kubeconfig::unmerge(&state, id)? {
                ui.note(&left);
            }
        }
        ledger.remove(*what, id)?;
    }
    state.remove(lock)?;
    ui.result(
        &format!("removed {name}; checked {}, and none is left", counted(list.len(), "thing")),
        &serde_json::json!({"cluster": name, "removed": list}),
    );
    Ok(0)
}

/// What of a cluster can be found without its record: machines that kdiy made are known to the
/// ledger, to Vagrant and to Docker. `None` where no machine was ever made; an error where machines
/// may run that nothing here leads to, unless some were given up just now (`--forget`).
async fn unrecorded(
    name: &str,
    state: &StateDir,
    ledger: &mut Ledger,
    has_given_up: bool,
) -> Result<Option<(Topology, ClusterConfig)>> {
    let hosts: Vec<String> = ledger
        .entries()
        .iter()
        .filter(|entry| entry.what == ResourceKind::Host)
        .map(|entry| entry.id.clone())
        .collect();
    if !hosts.is_empty() {
        let forget: Vec<String> = hosts.iter().map(|host| format!("--forget {host}")).collect();
        return Err(Failure::host(format!(
            "cluster.json is missing, so kdiy does not know how to reach {}",
            hosts.join(", ")
        ))
        .hint("restore cluster.json from a backup and run the same command again")
        .hint(format!(
            "or leave the machines as they are: kdiy destroy --name {name} {}",
            forget.join(" ")
        )));
    }
    for (machine, provider) in of_vagrant(state) {
        ledger.add(&provider, ResourceKind::Machine, &[machine])?;
    }
    let recorded = ledger.entries().iter().find_map(|entry| provider_named(&entry.provider));
    let provider = match recorded {
        None if has_containers(state).await => Some(ProviderChoice::Docker),
        provider => provider,
    };
    let Some(provider) = provider else {
        // Keys are made after the record and before any machine.
        if !state.pki().exists() || has_given_up {
            return Ok(None);
        }
        let directory = state.root().display();
        return Err(Failure::host(format!(
            "{directory} has the keys of a cluster, but no record of its machines"
        ))
        .hint("restore cluster.json from a backup and run the same command again")
        .hint(format!("if you know that none of its machines runs: rm -r {directory}")));
    };
    let config = ClusterConfig { name: name.to_owned(), provider, ..ClusterConfig::default() };
    // Where its machines were laid out no longer matters: they are found by name.
    let network = "192.0.2.0/24".parse().unwrap_or_default();
    Ok(Some((Topology::build(&config, network)?, config)))
}

fn provider_named(name: &str) -> Option<ProviderChoice> {
    host::PROVIDERS.into_iter().find(|choice| providers::vagrant::spelled(*choice) == name)
}

/// Machines that Vagrant has made and not removed, each with its provider.
fn of_vagrant(state: &StateDir) -> Vec<(String, String)> {
    let names = |at: &std::path::Path| -> Vec<String> {
        let entries = fs::read_dir(at).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let machines = state.vagrant().join(".vagrant/machines");
    let mut found = Vec::new();
    for machine in names(&machines) {
        for provider in names(&machines.join(&machine)) {
            if machines.join(&machine).join(&provider).join("id").exists() {
                found.push((machine.clone(), provider));
            }
        }
    }
    found
}

/// Docker knows by a label whose containers are whose.
async fn has_containers(state: &StateDir) -> bool {
    let filter = format!("label={}={}", docker::LABEL, state.root().display());
    let listed = host::ask("docker", &["ps", "-aq", "--filter", &filter]).await;
    listed.is_ok_and(|text| !text.trim().is_empty())
}

/// Takes machines out of the ledger that will never answer again.
fn forget(arguments: &Destroy, ledger: &mut Ledger, ui: Ui) -> Result<()> {
    let is_host = |name: &&String| {
        ledger.entries().iter().any(|entry| entry.what == ResourceKind::Host && entry.id == **name)
    };
    if let Some(unknown) = arguments.forget.iter().find(|name| !is_host(name)) {
        return Err(Failure::input(format!("--forget: the ledger has no machine {unknown}"))
            .hint("--forget takes existing machines, by the name that the ledger has"));
    }
    for name in &arguments.forget {
        ui.confirm(
            &format!("leave {name} as it is, with everything that kdiy installed there?"),
            arguments.yes,
        )?;
        ledger.remove(ResourceKind::Host, name)?;
    }
    Ok(())
}

fn noun(what: ResourceKind) -> &'static str {
    match what {
        ResourceKind::Machine => "machine",
        ResourceKind::Host => "everything that kdiy installed on",
        ResourceKind::Network => "network",
        ResourceKind::Image => "image",
        ResourceKind::Kubeconfig => "kubeconfig entry in",
    }
}
