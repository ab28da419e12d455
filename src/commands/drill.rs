//! `kdiy drill`: causes a failure, measures the recovery, and repairs it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;

use crate::cli;
use crate::commands::run_context::RunContext;
use crate::etcd::quorum_guard::Service;
use crate::operations::drill::catalogue::{Catalogue, Drill};
use crate::operations::drill::report::{Outcome, Report, Verdict};
use crate::operations::drill::{DrillRun, Options, clean_up, undo};
use crate::playbook::load::Playbooks;
use crate::session::{ClusterHandle, Overlay};
use crate::state::lock::Lock;
use crate::support::event::{Event, Events, Outcome as Done, TaskInfo, TaskKind};
use crate::support::failure::{Failure, Kind, Result};
use crate::support::time_scale::Unscaled;
use crate::ui::{Ui, drill};

/// Machines of a cluster that is whole answer at once.
const CONNECTED_WITHIN: Unscaled = Unscaled::from_secs(10);

pub async fn run(arguments: cli::Drill, overlay: Option<&Path>, ui: Ui) -> Result<u8> {
    match arguments.drill.as_deref() {
        Some("list") => list(&arguments.which.name, overlay, ui),
        Some(_) => exercise(arguments, overlay, ui).await,
        None => mend(&arguments.which.name, overlay, ui).await,
    }
}

fn list(cluster: &str, overlay: Option<&Path>, ui: Ui) -> Result<u8> {
    let overlay = Overlay::of(cluster, overlay)?;
    let catalogue = Catalogue::load(&Playbooks::load(overlay.directory.as_deref())?)?;
    let names: Vec<_> = catalogue
        .drills
        .iter()
        .map(|it| {
            let Drill { name, title, happens, survives, .. } = it;
            serde_json::json!({
                "drill": name, "title": title, "happens": happens, "survives": survives,
            })
        })
        .collect();
    ui.result(&drill::list(&catalogue), &serde_json::json!({"drills": names}));
    Ok(0)
}

/// A drill in one of its forms.
struct Item {
    /// As reports and progress call it.
    task: String,
    drill: Drill,
    graceful: bool,
}

async fn exercise(arguments: cli::Drill, overlay: Option<&Path>, ui: Ui) -> Result<u8> {
    let session = ClusterHandle::open(&arguments.which.name, overlay).await?;
    let items = chosen(&Catalogue::load(&session.rendered.playbooks)?, &arguments)?;
    let _lock = Lock::take(&session.state.lock_file(), "drill")?;
    if let Some(pending) = undo::pending(session.state.root())? {
        return Err(Failure::input(format!("the drill {} has not been undone", pending.drill))
            .hint(format!("kdiy drill --undo --name {}", arguments.which.name)));
    }
    if arguments.beyond_quorum {
        let cluster = &session.topology().cluster;
        let question = format!("break one etcd member more than {cluster} tolerates?");
        ui.confirm(&question, arguments.yes > 0)?;
        ui.confirm(
            "the cluster accepts no writes until the drill is undone; continue?",
            arguments.yes > 1,
        )?;
    }
    if let Some((_, failure)) = session.connect(CONNECTED_WITHIN).await.pop_first() {
        return Err(failure.hint("a drill needs a healthy cluster: kdiy up"));
    }

    let recording = RunContext::begin_with(
        &session,
        "drill",
        "`kdiy drill --undo` repairs what is broken",
        ui,
        |_| {},
    )?;
    let exercise = DrillRun {
        session: &session,
        context: Arc::new(session.cluster_context()),
        events: recording.events.clone(),
        stop: recording.stop.clone(),
    };
    let mut report = Report {
        cluster: session.topology().cluster.clone(),
        began: Timestamp::now(),
        drills: Vec::new(),
    };
    let result = carry_out(&exercise, &items, &arguments, &mut report).await;
    drop(exercise);
    session.close().await;
    recording.end().await;

    if !report.drills.is_empty() {
        ui.result(&drill::render(&report), &report);
        if let Some(path) = &arguments.report {
            std::fs::write(path, drill::markdown(&report)).map_err(|error| {
                Failure::host(format!("--report: cannot write {}", path.display())).because(error)
            })?;
        }
    }
    result?;
    Ok(if report.drills.iter().all(Outcome::is_fine) { 0 } else { 1 })
}

/// Checks the arguments against what the drills can do.
fn chosen(catalogue: &Catalogue, arguments: &cli::Drill) -> Result<Vec<Item>> {
    let wanted = arguments.drill.as_deref().unwrap_or_default();
    let drills = catalogue.chosen(wanted)?;
    let all = wanted == "all";
    if all && (arguments.on.is_some() || arguments.beyond_quorum || arguments.graceful) {
        return Err(Failure::input("--on, --graceful and --beyond-quorum need a single drill")
            .hint("name one drill instead of `all`"));
    }
    let mut items = Vec::new();
    for drill in drills {
        if arguments.graceful && drill.graceful.is_none() {
            return Err(Failure::input(format!("--graceful: {} has no clean stop", drill.name))
                .hint(format!("these have: {}", names(catalogue, |it| it.graceful.is_some()))));
        }
        if arguments.beyond_quorum && !drill.costs.contains(&Service::Etcd) {
            let costly = names(catalogue, |it| it.costs.contains(&Service::Etcd));
            return Err(Failure::input(format!(
                "--beyond-quorum: {} breaks no etcd member",
                drill.name
            ))
            .hint(format!("these break one: {costly}")));
        }
        if !arguments.graceful {
            items.push(Item { task: drill.name.clone(), drill: drill.clone(), graceful: false });
        }
        if arguments.graceful || all && drill.graceful.is_some() {
            let task = format!("{}, stopped", drill.name);
            items.push(Item { task, drill, graceful: true });
        }
    }
    Ok(items)
}

fn names(catalogue: &Catalogue, which: impl Fn(&Drill) -> bool) -> String {
    let found = catalogue.drills.iter().filter(|drill| which(drill));
    found.map(|drill| drill.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// One drill after the other, each on a cluster that was proven whole.
async fn carry_out(
    exercise: &DrillRun<'_>,
    items: &[Item],
    arguments: &cli::Drill,
    report: &mut Report,
) -> Result<()> {
    let began = Instant::now();
    let events = &exercise.events;
    events.send(Event::Planned { tasks: planned(items) });
    events.send(Event::TaskStarted { task: WHOLE.into(), attempt: 1 });
    let whole = exercise.whole(WHOLE, &exercise.stop).await;
    finish(events, WHOLE, if whole.is_ok() { Done::Unchanged } else { Done::Failed }, "", began);
    whole.map_err(|failure| {
        failure.hint("nothing was broken, because a drill needs a healthy cluster")
    })?;
    let result = in_a_row(exercise, items, arguments, report).await;
    let cleaned = clean_up(&exercise.context).await;
    let fine = result.is_ok() && report.drills.iter().all(Outcome::is_fine);
    events.send(Event::RunFinished {
        outcome: if fine { Done::Changed } else { Done::Failed },
        changed: u32::try_from(report.drills.len()).unwrap_or(u32::MAX),
        elapsed_ms: milliseconds(began),
    });
    result.and(cleaned)
}

async fn in_a_row(
    exercise: &DrillRun<'_>,
    items: &[Item],
    arguments: &cli::Drill,
    report: &mut Report,
) -> Result<()> {
    let events = &exercise.events;
    for Item { task, drill, graceful } in items {
        let began = Instant::now();
        events.send(Event::TaskStarted { task: task.clone(), attempt: 1 });
        let options = Options {
            on: arguments.on.clone(),
            graceful: *graceful,
            beyond_quorum: arguments.beyond_quorum,
            countdown: arguments.yes == 0,
        };
        let outcome = match exercise.carry_out(drill, &options, task).await {
            // What this cluster cannot spare is no reason not to try the rest.
            Err(failure) if failure.kind == Kind::Quorum && items.len() > 1 => {
                Outcome::not_possible(task, &drill.title, failure.to_string())
            }
            Err(failure) => {
                finish(events, task, Done::Failed, "", began);
                return Err(failure);
            }
            Ok(outcome) => outcome,
        };
        let verdict = outcome.verdict;
        let done = match verdict {
            Verdict::Survived => Done::Changed,
            Verdict::NotPossible => Done::Skipped,
            Verdict::Failed | Verdict::Interrupted => Done::Failed,
        };
        finish(events, task, done, verdict.as_str(), began);
        report.drills.push(Outcome { drill: task.clone(), ..outcome });
        if verdict == Verdict::Interrupted {
            return Err(Failure::new(
                Kind::Interrupted,
                "interrupted; kdiy repaired what the drill broke",
            ));
        }
    }
    Ok(())
}

const WHOLE: &str = "whole";

fn planned(items: &[Item]) -> Vec<TaskInfo> {
    let task = |id: &str, title: &str, kind, needs: Option<&str>| TaskInfo {
        id: id.to_owned(),
        title: title.to_owned(),
        step: id.to_owned(),
        machine: None,
        kind,
        needs: needs.map(str::to_owned).into_iter().collect(),
    };
    let mut tasks = vec![task(WHOLE, "the cluster is healthy", TaskKind::Gate, None)];
    for item in items {
        let before = tasks.last().map(|task| task.id.clone());
        tasks.push(task(&item.task, &item.drill.title, TaskKind::Cluster, before.as_deref()));
    }
    tasks
}

fn finish(events: &Events, task: &str, outcome: Done, change: &str, began: Instant) {
    let changes = if change.is_empty() { Vec::new() } else { vec![change.to_owned()] };
    events.send(Event::TaskFinished {
        task: task.to_owned(),
        attempt: 1,
        outcome,
        changes,
        elapsed_ms: milliseconds(began),
    });
}

fn milliseconds(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// `kdiy drill --undo`.
async fn mend(name: &str, overlay: Option<&Path>, ui: Ui) -> Result<u8> {
    let session = ClusterHandle::open(name, overlay).await?;
    let _lock = Lock::take(&session.state.lock_file(), "drill --undo")?;
    let Some(pending) = undo::pending(session.state.root())? else {
        let nothing: BTreeMap<&str, &str> = BTreeMap::new();
        ui.result("there is no drill to undo", &nothing);
        return Ok(0);
    };
    ui.note(&format!("undoing the drill {} of {:.0}", pending.drill, pending.began));
    let recording =
        RunContext::begin_with(&session, "drill", "`kdiy drill --undo` resumes", ui, |_| {})?;
    let result = undone(&session, &pending, &recording).await;
    session.close().await;
    recording.end().await;
    result?;
    let machines: Vec<&str> = pending.remedies.iter().map(|it| it.machine.as_str()).collect();
    ui.result(
        &format!("undid the drill {}; the cluster is healthy", pending.drill),
        &serde_json::json!({"undone": pending.drill, "machines": machines}),
    );
    Ok(0)
}

async fn undone(
    session: &ClusterHandle,
    pending: &undo::Pending,
    recording: &RunContext,
) -> Result<()> {
    // Those that the drill switched off do not answer yet.
    session.connect(CONNECTED_WITHIN).await;
    undo::undo(session, pending, &recording.events).await?;
    let exercise = DrillRun {
        session,
        context: Arc::new(session.cluster_context()),
        events: recording.events.clone(),
        stop: recording.stop.clone(),
    };
    exercise.whole("undo", &recording.stop).await?;
    clean_up(&exercise.context).await
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn items(line: &[&str]) -> Result<Vec<String>> {
        let line = [&["kdiy", "drill"], line].concat();
        let cli::Command::Drill(arguments) = cli::Cli::try_parse_from(line).unwrap().command else {
            panic!("not a drill");
        };
        let catalogue = Catalogue::load(&Playbooks::load(None).unwrap()).unwrap();
        Ok(chosen(&catalogue, &arguments)?.into_iter().map(|item| item.task).collect())
    }

    #[test]
    fn all_drills_are_done_in_each_of_their_forms() {
        let all = items(&["all"]).unwrap();
        assert!(all.contains(&"scheduler".into()) && all.contains(&"scheduler, stopped".into()));
        assert_eq!(items(&["scheduler", "--graceful"]).unwrap(), ["scheduler, stopped"]);
        assert_eq!(items(&["scheduler"]).unwrap(), ["scheduler"]);
    }

    #[test]
    fn unsupported_options_of_a_drill_name_the_drills_that_support_them() {
        for (line, part) in [
            (vec!["master", "--graceful"], "controller-manager, scheduler"),
            (vec!["scheduler", "--beyond-quorum"], "etcd-leader"),
            (vec!["all", "--on", "master-1"], "need a single drill"),
            (vec!["earthquake"], "the drill earthquake does not exist"),
        ] {
            let refused = items(&line).unwrap_err().to_string();
            assert!(refused.contains(part), "{line:?}: {refused}");
        }
    }

    #[test]
    fn either_a_drill_or_undo_is_asked_for() {
        assert!(cli::Cli::try_parse_from(["kdiy", "drill"]).is_err());
        assert!(cli::Cli::try_parse_from(["kdiy", "drill", "lb", "--undo"]).is_err());
        assert!(cli::Cli::try_parse_from(["kdiy", "drill", "--undo"]).is_ok());
    }
}
