//! `kdiy explain`: explains a step, or how a part of the cluster works.

use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use serde_json::json;

use crate::cli::Explain;
use crate::config::ClusterConfig;
use crate::pki::Keeping;
use crate::reports::explain::{self, Explainer};
use crate::reports::guide::{Guide, Sources};
use crate::session::ResolvedCluster;
use crate::state::StateDir;
use crate::support::failure::Result;
use crate::topology::architecture;
use crate::topology::facts::Facts;
use crate::ui::Ui;

/// Of a cluster that does not exist, machines have addresses in VirtualBox's default network.
const EXAMPLE_NETWORK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 56, 0), 24);

pub fn run(arguments: &Explain, overlay: Option<&Path>, ui: Ui) -> Result<u8> {
    let state = StateDir::of(&arguments.which.name)?;
    let record = state.record()?;
    // One that does not exist is told with an example.
    let (config, site) = match record {
        Some(record) => (record.config, record.site),
        None => {
            let name = arguments.which.name.clone();
            let config = ClusterConfig { name, ..ClusterConfig::default() };
            (config, EXAMPLE_NETWORK.into())
        }
    };
    let design = ResolvedCluster::recorded(config, overlay)?;
    let rendered = design.draw(&state.pki(), &site, Keeping::Existing)?;
    let Some(name) = &arguments.what else {
        let entries = explain::entries(&rendered.playbooks);
        ui.document(&explain::list(&rendered.playbooks), arguments.markdown, &entries);
        return Ok(0);
    };
    let guide = Guide::new(&Sources::of(&rendered, architecture::HERE), &Default::default())?;
    let explainer = Explainer {
        playbooks: &rendered.playbooks,
        templates: &rendered.templates,
        template_context: &rendered.template_context,
        guide: &guide,
        facts: Facts::assumed(architecture::HERE),
    };
    let text = explainer.explain(name)?;
    ui.document(&text, arguments.markdown, &json!({ "name": name, "markdown": text }));
    Ok(0)
}
