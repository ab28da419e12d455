//! A cluster on paper, for tests of what is rendered from it.

use kdiy::artifacts::catalogue::Catalogue;
use kdiy::config::ClusterConfig;
use kdiy::playbook::context::TemplateContext;
use kdiy::playbook::load::Playbooks;
use kdiy::topology::Topology;

/// With images from a mirror.
pub fn on_paper(playbooks: &Playbooks, config: ClusterConfig) -> TemplateContext {
    let catalogue = Catalogue::load(playbooks).unwrap();
    let versions = catalogue.versions(&config).unwrap();
    TemplateContext {
        id: "0".repeat(32),
        topology: Topology::build(&config, "192.168.56.0/24".parse().unwrap()).unwrap(),
        versions: versions.by_name,
        images: versions.images,
        mirrored_images: catalogue.image_names().map(str::to_owned).collect(),
        config,
    }
}
