//! Reads the current state: each machine in three round trips, the cluster through its API. Changes
//! nothing.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::artifacts::{Store, image_path};
use crate::bundle::observe::{Observed, Verb};
use crate::bundle::script::quote;
use crate::bundle::{Bundle, Renderer};
use crate::kubernetes::apply::{self, Conflicts, DryRun};
use crate::kubernetes::{csr, nodes};
use crate::operations::inspect::{self, InspectError};
use crate::playbook::format::{Action, Step};
use crate::playbook::load::Book;
use crate::session::{ClusterHandle, RenderedCluster};
use crate::support::failure::{Failure, Result};
use crate::support::time_scale::Unscaled;
use crate::topology::facts::Facts;
use crate::topology::{Machine, architecture};
use crate::transport::Script;

/// A machine that runs answers within this; multiplied by `slowMachines`.
const ANSWERS_WITHIN: Unscaled = Unscaled::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Standing {
    ToBeMade,
    Answers,
    Silent { reason: String },
}

/// One machine.
pub struct MachineState {
    pub standing: Standing,
    /// By step; empty for a machine that does not answer.
    pub bundles: BTreeMap<String, Bundle>,
    pub observed: Observed,
    /// What files hold now that would change, by path; never of secrets.
    pub contents: BTreeMap<String, String>,
}

/// What a step would do through the api.
#[derive(Default)]
pub struct ClusterObjects {
    pub objects: Vec<DryRun>,
    /// One line a thing.
    pub actions: Vec<String>,
}

pub struct CurrentState {
    /// By name.
    pub machines: BTreeMap<String, MachineState>,
    /// By step.
    pub cluster: BTreeMap<String, ClusterObjects>,
    /// By artifact or image.
    artifacts: BTreeMap<String, Vec<Place>>,
}

/// Where a release file goes.
struct Place {
    path: String,
    /// `etcd 3.6.14`.
    version: String,
    /// Of each architecture's file, where it is known without fetching the file.
    digests: Vec<String>,
}

impl CurrentState {
    /// Of a cluster that was never begun: everything is to be made.
    pub async fn assumed(rendered: &RenderedCluster, store: &Store) -> Result<Self> {
        let renderer = rendered.renderer();
        let mut machines = BTreeMap::new();
        for machine in &rendered.template_context.topology.machines {
            machines.insert(machine.name.clone(), to_be_made(&renderer, machine)?);
        }
        let artifacts = artifacts(rendered, store)?;
        Ok(Self { machines, cluster: cluster(&renderer, None, store).await?, artifacts })
    }

    /// Of machines that are there, or should be, because they have `joined`.
    pub async fn at(
        session: &ClusterHandle,
        store: &Store,
        joined: &BTreeSet<String>,
    ) -> Result<Self> {
        let mut silent = session.connect(ANSWERS_WITHIN).await;
        let renderer = &session.rendered.renderer();
        let looked = session.topology().machines.iter().map(|machine| {
            let reason = silent.remove(&machine.name);
            async move {
                let look = if joined.contains(&machine.name) {
                    look_at(session, machine, reason).await?
                } else {
                    to_be_made(renderer, machine)?
                };
                Ok((machine.name.clone(), look))
            }
        });
        let machines =
            futures::future::join_all(looked).await.into_iter().collect::<Result<_>>()?;
        let artifacts = artifacts(&session.rendered, store)?;
        Ok(Self { machines, cluster: cluster(renderer, Some(session), store).await?, artifacts })
    }

    /// As if every machine had every artifact.
    #[cfg(test)]
    pub fn forget_artifacts(&mut self) {
        self.artifacts.clear();
    }

    /// Paths of artifacts and images that a machine lacks, with what they are.
    pub fn lacking(&self, bundle: &Bundle, observed: &Observed) -> Vec<(String, String)> {
        let names = bundle.artifacts.iter().chain(&bundle.images);
        names
            .filter_map(|name| self.artifacts.get(name))
            .flatten()
            .filter_map(|place| {
                let installed = observed.artifacts.get(&place.path).map(|it| &it.digest);
                // What waits there is what will be installed.
                let why = match observed.staged.get(&place.path).or(installed) {
                    Some(has) if place.digests.contains(has) => return None,
                    Some(_) if place.digests.is_empty() => {
                        format!(
                            "{}, unless the machine already has it: not downloaded yet",
                            place.version
                        )
                    }
                    _ => place.version.clone(),
                };
                Some((place.path.clone(), why))
            })
            .collect()
    }
}

fn to_be_made(renderer: &Renderer<'_>, machine: &Machine) -> Result<MachineState> {
    Ok(MachineState {
        standing: Standing::ToBeMade,
        bundles: renderer.bundles(machine, &Facts::assumed(architecture::HERE))?,
        observed: Observed::default(),
        contents: BTreeMap::new(),
    })
}

async fn look_at(
    session: &ClusterHandle,
    machine: &Machine,
    reason: Option<Failure>,
) -> Result<MachineState> {
    let silent = |reason: String| MachineState {
        standing: Standing::Silent { reason },
        bundles: BTreeMap::new(),
        observed: Observed::default(),
        contents: BTreeMap::new(),
    };
    if let Some(failure) = reason {
        return Ok(silent(failure.cause.unwrap_or(failure.what)));
    }
    let transport = session.connections.transport(&machine.name).await?;
    // What is not there now is not waited for.
    let stop = CancellationToken::new();
    stop.cancel();
    let reached = match inspect::survey(session, machine, &*transport, &stop).await {
        Ok(reached) => reached,
        Err(InspectError::Transport(error)) => return Ok(silent(error.to_string())),
        Err(InspectError::Failure(failure)) => return Ok(silent(failure.what)),
    };
    inspect::check_keys(&machine.name, &reached)?;
    let script = contents_script(&reached.bundles, &reached.observed);
    let contents = match transport.run(Script::new(script)).await {
        Ok(output) => contents(&output.stdout),
        Err(error) => return Ok(silent(error.to_string())),
    };
    Ok(MachineState {
        standing: Standing::Answers,
        bundles: reached.bundles,
        observed: reached.observed,
        contents,
    })
}

/// Prints the files that differ, one a line; those that are secrets stay where they are.
fn contents_script(bundles: &BTreeMap<String, Bundle>, observed: &Observed) -> String {
    let mut lines = Vec::new();
    for bundle in bundles.values() {
        let changes = bundle.differences(observed).into_iter().filter(|it| it.verb == Verb::Change);
        for change in changes {
            let secret = bundle.files.iter().any(|file| file.path == change.what && file.secret);
            if !secret {
                lines.push(print_file(&change.what));
            }
        }
    }
    lines.join("\n")
}

fn print_file(path: &str) -> String {
    let path = quote(path);
    format!("printf '%s\\t%s\\n' {path} \"$(base64 -w0 {path})\"")
}

fn contents(text: &str) -> BTreeMap<String, String> {
    let file = |line: &str| {
        let (path, encoded) = line.split_once('\t')?;
        let bytes = BASE64.decode(encoded).ok()?;
        Some((path.to_owned(), String::from_utf8_lossy(&bytes).into_owned()))
    };
    text.lines().filter_map(file).collect()
}

fn artifacts(rendered: &RenderedCluster, store: &Store) -> Result<BTreeMap<String, Vec<Place>>> {
    let RenderedCluster { catalogue, versions, template_context, .. } = rendered;
    let mut found = BTreeMap::new();
    let steps =
        rendered.playbooks.steps().filter(|(_, step)| template_context.all_hold(&step.when));
    for (_, step) in steps {
        for name in &step.artifacts {
            let mut places: BTreeMap<String, Place> = BTreeMap::new();
            for arch in rendered.architectures_taking(name) {
                let item = catalogue.item(name, versions, arch)?;
                let version = format!("{name} {}", item.version);
                for (path, digest) in store.foresee(&item)? {
                    let new =
                        Place { path: path.clone(), version: version.clone(), digests: Vec::new() };
                    places.entry(path).or_insert(new).digests.extend(digest);
                }
            }
            found.insert(name.clone(), places.into_values().collect());
        }
        for name in
            step.images.iter().filter(|name| template_context.mirrored_images.contains(name))
        {
            let mut digests = Vec::new();
            for arch in rendered.architectures_taking(name) {
                let file = catalogue.image_file(name, arch).unwrap_or_default();
                digests.extend(store.foresee_image(&file)?);
            }
            let version = template_context.images[name].clone();
            found.insert(name.clone(), vec![Place { path: image_path(name), version, digests }]);
        }
    }
    Ok(found)
}

/// With an api that answers, what applying would change; on a cluster that was never begun
/// everything is applied.
async fn cluster(
    renderer: &Renderer<'_>,
    session: Option<&ClusterHandle>,
    store: &Store,
) -> Result<BTreeMap<String, ClusterObjects>> {
    let client = match session {
        Some(session) => session.api.any().await.ok(),
        None => None,
    };
    let mut looks = BTreeMap::new();
    let steps = renderer
        .playbooks
        .steps()
        .filter(|(_, step)| renderer.template_context.all_hold(&step.when));
    for (book, step) in steps {
        if step.manifests.is_empty() && step.action.is_none() {
            continue;
        }
        let look = if session.is_some() && client.is_none() {
            let unknown = format!(
                "{} (the API does not answer, so kdiy does not know what differs)",
                step.title
            );
            ClusterObjects { actions: vec![unknown], ..ClusterObjects::default() }
        } else {
            look_through(renderer, client.as_ref(), book, step, store).await?
        };
        looks.insert(step.name.clone(), look);
    }
    Ok(looks)
}

async fn look_through(
    renderer: &Renderer<'_>,
    client: Option<&kube::Client>,
    book: &Book,
    step: &Step,
    store: &Store,
) -> Result<ClusterObjects> {
    let template_context = renderer.template_context;
    let manifests = renderer.manifests(book, step)?.into_iter();
    let mut texts: Vec<_> =
        manifests.map(|(place, text)| (place, text, Conflicts::Override)).collect();
    let mut actions = Vec::new();
    match (step.action, client) {
        (None, _) => {}
        (Some(Action::ApplyAddons), _) => {
            for addon in template_context.config.own_addons() {
                let text = apply::decode(addon, &store.read_manifest(addon).await?)?;
                texts.push((addon.clone(), text, Conflicts::Refuse));
            }
        }
        (Some(Action::ApproveNodeCertificates), Some(client)) => {
            actions = csr::foresee(client, &template_context.topology).await?;
        }
        (Some(Action::MarkNodes), Some(client)) => {
            let schedulable = template_context.config.masters_take_pods();
            actions = nodes::foresee(client, &template_context.topology, schedulable).await?;
        }
        (Some(_), None) => actions.push(step.title.clone()),
    }
    let mut objects = Vec::new();
    for (place, text, conflicts) in texts {
        objects.extend(apply::foresee(client, &place, &text, conflicts).await?);
    }
    Ok(ClusterObjects { objects, actions })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_contents_are_read_back_unchanged() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("it's a\"file");
        std::fs::write(&path, "one\ttwo\n\nthree").unwrap();
        let path = path.to_string_lossy().into_owned();
        let script = print_file(&path);
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let read = contents(&String::from_utf8(output.stdout).unwrap());
        assert_eq!(read, [(path, "one\ttwo\n\nthree".to_owned())].into());
    }
}
