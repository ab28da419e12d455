//! A `playbook.yaml`, from its text to the archives that go to machines.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use kdiy::bundle::{Renderer, observe};
use kdiy::config::ClusterConfig;
use kdiy::engine::plan::{self, ClusterState};
use kdiy::kubernetes::apply;
use kdiy::pki::Keeping;
use kdiy::playbook::load::Playbooks;
use kdiy::session::{RenderedCluster, ResolvedCluster};
use kdiy::support::failure::Result;
use kdiy::topology::check;
use kdiy::topology::facts::Facts;

const BOOK: &str = "10-tried";

/// Three masters and a worker that are as slow as may be, so that every deadline is multiplied.
static CLUSTER: LazyLock<RenderedCluster> = LazyLock::new(|| {
    let config = ClusterConfig { workers: 1, slow_machines: 100, ..ClusterConfig::default() };
    // Nothing is read there and nothing kept.
    let nowhere = Path::new("no-such-directory");
    let design = ResolvedCluster::of(config, None).unwrap();
    design.draw(nowhere, &check::placeholder().into(), Keeping::Existing).unwrap()
});

/// The templates of all playbooks, beside the one that is tried.
static BESIDE: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let templates = CLUSTER.playbooks.files().filter(|(path, _)| path.ends_with(".hbs"));
    let beside = templates.map(|(path, text)| match path.rsplit_once('/') {
        Some((_, name)) => (format!("{BOOK}/{name}"), text.to_owned()),
        None => (path.to_owned(), text.to_owned()),
    });
    beside.collect()
});

/// Nothing panics: a playbook comes to something, or is refused with a reason that can be said.
pub fn holds(text: &str) -> Result<(), String> {
    let mut files = BESIDE.clone();
    files.insert(format!("{BOOK}/playbook.yaml"), text.to_owned());
    let playbooks = Playbooks::from_files(files).map_err(|failure| failure.to_string())?;
    // Each has its say, whatever the others say.
    let outcomes = [planned(&playbooks), packed(&playbooks), applied(&playbooks)];
    outcomes.into_iter().collect::<Result<_>>().map_err(|failure| failure.to_string())
}

fn planned(playbooks: &Playbooks) -> Result<()> {
    plan::build(playbooks, &CLUSTER.template_context, &ClusterState::default()).map(drop)
}

fn packed(playbooks: &Playbooks) -> Result<()> {
    let renderer = Renderer { playbooks, ..CLUSTER.renderer() };
    let machines = &CLUSTER.template_context.topology.machines;
    for machine in machines.first().into_iter().chain(machines.last()) {
        let bundles = renderer.bundles(machine, &Facts::assumed("amd64"))?;
        drop(observe::script(bundles.values()));
        for bundle in bundles.values() {
            bundle.archive(&[])?;
        }
    }
    Ok(())
}

fn applied(playbooks: &Playbooks) -> Result<()> {
    let renderer = Renderer { playbooks, ..CLUSTER.renderer() };
    for (book, step) in playbooks.steps() {
        for (name, text) in renderer.manifests(book, step)? {
            apply::parse(&name, &text)?;
        }
    }
    Ok(())
}
