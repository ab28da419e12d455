//! A whole cluster, from nothing to nothing: what a user does first, checked from outside.
//!
//! kdiy's own gates are not repeated here; what is checked is what a user would see.

mod cis;
pub mod cluster;
mod computer;
mod drills;
pub mod existing;
mod grow;
mod health;
mod homelab;
pub mod hostile;
mod identity;
mod leaks;
mod plan;
mod pods;
mod power;
pub mod recovery;
mod repair;
pub mod runbook;
mod tampered;
pub mod upgrade;
pub mod watched;
mod workers;

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::Ready;
use crate::stage::{Check, Stage};
use cluster::Cluster;

const NAME: &str = "lab-e2e";
const MASTERS: usize = 3;
const WORKERS: usize = 2;

/// What is tried on the one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Cluster,
    Repair,
    Drills,
    Hostile,
}

/// All these parts on one cluster: making it takes longer than most of them.
pub fn stage<'a>(lab: &'a Ready, cache: &'a Path, parts: &[Part]) -> Result<Stage<'a>> {
    let cluster = Cluster::new(lab, cache, NAME)?;
    let with = |check: fn(&Cluster) -> Result<String>| {
        let cluster = cluster.clone();
        move || check(&cluster)
    };
    let mut checks = Vec::new();
    if parts.contains(&Part::Cluster) {
        checks.extend([
            Check::new("every machine is a Ready node", with(nodes_are_ready)),
            Check::new("a second up changes nothing", with(second_up_changes_nothing)),
            Check::new("plan finds nothing to do", with(plan::finds_nothing_to_do)),
            Check::new(
                "plan finds what was edited by hand",
                with(plan::finds_what_was_edited_by_hand),
            ),
            Check::new("a pod runs on every machine", with(pods::start)),
            Check::new("every pod reaches every other pod", with(pods::reach_each_other)),
            Check::new("every pod finds a Service by its name", with(pods::find_a_service)),
            Check::new("this computer reaches a NodePort", with(pods::answer_on_a_node_port)),
            Check::new("status says that all is well", with(health::is_healthy)),
            Check::new("verify --deep passes and leaves nothing", with(health::verifies)),
            Check::new(
                "status notices a worker that is off, and that it is back",
                with(health::notices_a_machine_that_is_off),
            ),
            Check::new("the cluster's directory is private", with(leaks::state_is_private)),
            Check::new("no record, log or output holds a secret", with(leaks::not_in_records)),
            Check::new("no process was called with a secret", with(leaks::not_in_arguments)),
            Check::new("no file for all holds a secret", with(leaks::not_in_readable_files)),
            Check::new("nothing of the CIS benchmark fails", with(cis::nothing_fails)),
            Check::new("what got worse fails in it", with(cis::what_got_worse_is_found)),
            Check::new("a secret lies in wait", with(identity::prepare)),
            Check::new(
                "a kubelet sees only what its own pods need",
                with(identity::kubelets_see_only_what_their_pods_need),
            ),
            Check::new(
                "etcd wants a certificate of its own",
                with(identity::etcd_wants_a_certificate_of_its_own),
            ),
            Check::new(
                "anonymous hears of health alone",
                with(identity::anonymous_hears_of_health_alone),
            ),
            Check::new(
                "a secret in etcd is ciphertext",
                with(identity::secrets_are_ciphertext_in_etcd),
            ),
            Check::new(
                "foreign and expired certificates are refused",
                with(identity::foreign_and_expired_certificates_are_refused),
            ),
            Check::new(
                "who need not cannot read secrets",
                with(identity::identities_without_need_cannot_read_secrets),
            ),
            Check::new(
                "a bootstrap token is for asking alone",
                with(identity::a_bootstrap_token_is_for_asking_alone),
            ),
            Check::new(
                "an impostor gets no certificate",
                with(identity::an_impostor_gets_no_certificate),
            ),
            Check::new("the bait is taken away", with(identity::tidy)),
            Check::new("a changed release file stops everything", move || {
                tampered::a_changed_file_stops_everything(lab, cache)
            }),
            Check::new("no quorum is given away", with(power::quorum_is_not_given_away)),
            Check::new("all come back from a stop", with(power::all_come_back_from_a_stop)),
            Check::new(
                "all come back from a power cut",
                with(power::all_come_back_from_a_power_cut),
            ),
            Check::new("nothing has to be mended then", with(second_up_changes_nothing)),
        ]);
    }
    if parts.contains(&Part::Repair) {
        checks.extend([
            Check::new("up mends exactly what differs", with(repair::of_exactly_what_differs)),
            Check::new("a change rolls through the masters", with(repair::by_rolling_a_change)),
            Check::new(
                "units restart for what an earlier run changed",
                with(repair::by_restarting_for_what_an_earlier_run_changed),
            ),
            Check::new("a worker is added, and taken away again", with(workers::come_and_go)),
            Check::new(
                "a master that was replaced is let in again",
                with(repair::of_a_master_that_was_replaced),
            ),
            Check::new("a master is joined by two more", move || {
                grow::from_one_master_to_three(lab, cache)
            }),
        ]);
    }
    if parts.contains(&Part::Drills) {
        checks.extend([
            Check::new("every drill is survived, and no write is lost", with(drills::all)),
            Check::new("a drill whose kdiy was killed is undone", with(drills::killed_and_undone)),
            Check::new("a lost quorum refuses writes and comes back", with(drills::beyond_quorum)),
        ]);
    }
    if parts.contains(&Part::Hostile) {
        checks.extend(hostile::checks(&cluster));
    }
    Ok(Stage {
        setup: vec![
            Check::new("nothing is left of an earlier run", with(|cluster| cluster.destroy())),
            Check::new("3 masters and 2 workers come up", with(up)),
        ],
        checks,
        teardown: vec![Check::new(
            "destroy leaves nothing behind",
            with(|cluster| cluster.destroy()),
        )],
        keep: Some(Box::new(move |check| cluster.keep_what_was_said(check))),
    })
}

fn up(cluster: &Cluster) -> Result<String> {
    let watch = leaks::Watch::begin();
    let run = cluster.up(MASTERS, WORKERS);
    watch.end(cluster)?;
    let run = run?;
    ensure!(!cluster.containers()?.is_empty(), "no container has the cluster's name");
    let gates = run.of_kind("gate-evidence").filter(|event| event["passed"] == true).count();
    ensure!(gates > 0, "no gate said that it passed");
    Ok(format!("{gates} gates passed in {} s", run.elapsed_seconds()?))
}

fn second_up_changes_nothing(cluster: &Cluster) -> Result<String> {
    let run = cluster.up_again()?;
    let changed = run.changed();
    ensure!(changed.is_empty(), "changed {}", changed.join(", "));
    let last = run.last()?;
    ensure!(last["changed"] == 0, "the run says that it changed {}", last["changed"]);
    Ok(format!("{} s", run.elapsed_seconds()?))
}

fn nodes_are_ready(cluster: &Cluster) -> Result<String> {
    let nodes = cluster.get(&["nodes"])?;
    let nodes = nodes["items"].as_array().context("no list of nodes")?;
    let ready = |node: &&serde_json::Value| {
        node["status"]["conditions"].as_array().is_some_and(|conditions| {
            conditions.iter().any(|it| it["type"] == "Ready" && it["status"] == "True")
        })
    };
    let ready = nodes.iter().filter(ready).count();
    ensure!(ready == MASTERS + WORKERS, "{ready} of {} nodes are Ready", nodes.len());
    Ok(format!("{ready} nodes"))
}
