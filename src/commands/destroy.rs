//! `kdiy destroy`: takes everything away that the ledger names, and proves it gone.

use crate::cli::Destroy;
use crate::event::Events;
use crate::failure::{Failure, Kind, Result};
use crate::machines;
use crate::state::StateDir;
use crate::state::ledger::{Ledger, What};
use crate::state::lock::Lock;
use crate::ui::Ui;

pub async fn run(arguments: Destroy, ui: Ui) -> Result<u8> {
    let name = &arguments.which.name;
    let state = StateDir::of(name)?;
    if !state.exists() {
        ui.result(
            &format!("there is no cluster {name}; nothing to remove"),
            &serde_json::json!({"cluster": name, "removed": []}),
        );
        return Ok(0);
    }
    let lock = Lock::take(&state.lock_file(), "destroy")?;
    let mut ledger = Ledger::open(state.root())?;
    forget(&arguments, &mut ledger, ui)?;
    let mut list: Vec<String> =
        ledger.entries().iter().map(|entry| format!("{} {}", noun(entry.what), entry.id)).collect();
    list.push(format!("directory {}", state.root().display()));
    ui.note(&format!("this removes the cluster {name}:\n  {}", list.join("\n  ")));
    ui.confirm("remove all of it?", arguments.yes)?;

    if let Some(record) = state.record()? {
        let topology = record.topology()?;
        let provider = machines::provider(&record.config, &state).await?;
        let (events, reader) = Events::channel();
        let shown = ui.follow(reader, Default::default(), |_| {});
        let result = provider.destroy(&topology, &ledger, &events).await;
        drop(events);
        let _ = shown.await;
        result?;
        let left = provider.leftovers(&ledger).await?;
        if !left.is_empty() {
            return Err(Failure::new(Kind::Step, "something is still there")
                .tail(
                    left.iter().map(|owned| format!("{} {}", noun(owned.what), owned.id)).collect(),
                )
                .hint("the same command tries again; nothing else was forgotten"));
        }
    }
    let removed: Vec<_> =
        ledger.entries().iter().map(|entry| (entry.what, entry.id.clone())).collect();
    for (what, id) in &removed {
        if *what == What::Kubeconfig {
            super::kubeconfig::unmerge(id)?;
        }
        ledger.remove(*what, id)?;
    }
    state.remove(lock)?;
    ui.result(
        &format!("{name} is gone: {} things were looked for, and none is left", list.len()),
        &serde_json::json!({"cluster": name, "removed": list}),
    );
    Ok(0)
}

/// Takes machines out of the ledger that will never answer again.
fn forget(arguments: &Destroy, ledger: &mut Ledger, ui: Ui) -> Result<()> {
    let is_host = |name: &&String| {
        ledger.entries().iter().any(|entry| entry.what == What::Host && entry.id == **name)
    };
    if let Some(unknown) = arguments.forget.iter().find(|name| !is_host(name)) {
        return Err(Failure::input(format!("--forget: there is no machine {unknown} to forget"))
            .hint(
                "only machines that exist without kdiy can be forgotten; the ledger names them",
            ));
    }
    for name in &arguments.forget {
        ui.confirm(
            &format!("leave {name} as it is, with all that kdiy put there?"),
            arguments.yes,
        )?;
        ledger.remove(What::Host, name)?;
    }
    Ok(())
}

fn noun(what: What) -> &'static str {
    match what {
        What::Machine => "machine",
        What::Host => "everything that kdiy put on",
        What::Network => "network",
        What::Image => "image",
        What::Kubeconfig => "kubeconfig entry in",
    }
}
