//! `kdiy preflight`: checks whether existing machines can become the cluster. Changes nothing.

use std::collections::BTreeSet;

use crate::cli;
use crate::config::{ClusterConfig, KubeProxyMode, ProviderChoice};
use crate::providers::{self, sudo};
use crate::reports::preflight::{Report, networks, probe};
use crate::state::StateDir;
use crate::support::failure::{Failure, Result};
use crate::topology::architecture::Architectures;
use crate::topology::{Site, Topology};
use crate::ui::{self, Ui};

/// Machines of a cluster that was made from here are left alone, but for those that are to be
/// added; made from elsewhere, they are found to be taken.
pub async fn run(arguments: cli::Preflight, ui: Ui) -> Result<u8> {
    let config = crate::operations::request::effective(&arguments.flags)?;
    if config.provider != ProviderChoice::Existing {
        return Err(Failure::input("provider: preflight checks only existing machines").hint(
            "set provider: existing and list the hosts; `kdiy up` checks the machines that it \
            creates",
        ));
    }
    let before = StateDir::of(&config.name)?.same_cluster(&config)?;
    let (site, joined) = crate::operations::request::laid_out(&config, before.as_ref()).await?;
    let report = look(&config, &site, &joined).await?;
    ui.result(&ui::preflight::render(&report, config.hosts.len()), &report);
    Ok(u8::from(report.stops()))
}

/// Asks all machines of the file at once.
async fn look(config: &ClusterConfig, site: &Site, joined: &BTreeSet<String>) -> Result<Report> {
    sudo::obtain(config)?;
    let topology = Topology::at(site, config)?;
    let state = StateDir::of(&config.name)?;
    let id = state.record()?.map(|record| record.id).unwrap_or_default();
    let provider = providers::provider(config, &state).await?;
    let answers = probe::look(&*provider, &topology, &id, config.slow_machines).await?;
    let mut report = Report::of(&topology, &answers, joined);
    if config.network.kube_proxy == KubeProxyMode::Nftables {
        report.check_nft(&topology, &answers, joined);
    }
    report.networks(&config.network, &topology, &answers, joined, &networks::routes_here());
    Ok(report)
}

/// Looks before anything is changed, and returns the machines' architectures; an error that says
/// all that is in the way of those that have not `joined` yet.
pub async fn pass(
    config: &ClusterConfig,
    site: &Site,
    joined: &BTreeSet<String>,
    ui: Ui,
) -> Result<Architectures> {
    let report = look(config, site, joined).await?;
    if report.stops() {
        let lines = ui::preflight::lines(&report);
        return Err(Failure::host("preflight found problems; nothing was changed")
            .tail(lines)
            .hint("fix them and run `kdiy preflight` again; warnings do not stop `kdiy up`"));
    }
    if !report.problems.is_empty() {
        ui.note(&ui::preflight::render(&report, config.hosts.len()));
    }
    Ok(report.architectures)
}
