//! Merges flags, a cluster file and the record of an existing cluster into what is wanted.

use std::collections::BTreeSet;
use std::path::Path;

use ipnet::Ipv4Net;

use crate::artifacts::catalogue::Item;
use crate::artifacts::version_skew;
use crate::config::flags::UpFlags;
use crate::config::{ClusterConfig, ProviderChoice, parse};
use crate::pki::keys;
use crate::providers::host;
use crate::session::ResolvedCluster;
use crate::state::{Record, StateDir};
use crate::support::failure::{Failure, Result};
use crate::topology::{Site, Topology, check};

/// The cluster file that is taken when none is named.
pub const DEFAULT_FILE: &str = "cluster.yaml";

/// The cluster file, where there is one.
pub fn file(flags: &UpFlags) -> Option<&Path> {
    let default = Some(Path::new(DEFAULT_FILE)).filter(|path| path.is_file());
    flags.config.as_deref().or(default)
}

/// File, defaults and flags, checked. A cluster that exists and has no file keeps what it was made
/// with; one that has keeps its provider, its version of Kubernetes, and whether masters take pods,
/// where the file leaves these to kdiy: another kdiy may have other defaults.
pub fn effective(flags: &UpFlags) -> Result<ClusterConfig> {
    let file = file(flags);
    let (mut base, said) = file.map(parse::read_with_keys).transpose()?.unwrap_or_default();
    let name = flags.name.as_ref().unwrap_or(&base.name);
    if let Some(record) = StateDir::of(name)?.record()? {
        let decided = record.config.masters_take_pods();
        if file.is_none() {
            base = record.config;
        } else {
            if base.provider == ProviderChoice::Auto {
                base.provider = record.config.provider;
            }
            if !said.contains("kubernetes") {
                base.kubernetes = record.config.kubernetes;
            }
        }
        // Pods on masters have volumes there, which workers that come later do not change.
        base.control_plane.schedulable.get_or_insert(decided);
    }
    let config = flags.over(base)?.settled();
    check::validate(&config)?;
    Ok(config)
}

/// Where the request for a cluster comes from, when that is neither a file nor a name and the cluster
/// would be a new one beside others: whoever is in another directory than they think should notice.
pub fn origin(flags: &UpFlags) -> Result<Option<String>> {
    if flags.config.is_some() || flags.name.is_some() || Path::new(DEFAULT_FILE).is_file() {
        return Ok(None);
    }
    let name = ClusterConfig::default().name;
    let others = StateDir::clusters()?;
    if others.is_empty() || others.contains(&name) {
        return Ok(None);
    }
    let here = std::env::current_dir().unwrap_or_default();
    Ok(Some(format!(
        "{} has no {DEFAULT_FILE}, so this would be a new cluster, {name}; this computer has the \
        clusters {}: set --name, or --config with the file",
        here.display(),
        others.join(", ")
    )))
}

/// What `up` is asked for, and what there is of it. Nothing is changed by finding out.
pub struct ClusterRequest {
    pub design: ResolvedCluster,
    /// Every release file that the cluster takes.
    pub items: Vec<Item>,
    pub state: StateDir,
    /// The record of the cluster, where it was begun before.
    pub before: Option<Record>,
    /// Machines that are part of it by then.
    pub joined: BTreeSet<String>,
    /// With the other machines alone, which are to be added: at first, all.
    pub added: Topology,
    pub site: Site,
}

impl ClusterRequest {
    pub async fn by(flags: &UpFlags, overlay: Option<&Path>) -> Result<Self> {
        Self::of(ResolvedCluster::of(effective(flags)?, overlay)?).await
    }

    pub async fn of(mut design: ResolvedCluster) -> Result<Self> {
        let state = StateDir::of(&design.config.name)?;
        let before = state.same_cluster(&design.config)?;
        if let Some(record) = &before {
            keys::check(&state.pki(), &record.keys)?;
            design.architectures.clone_from(&record.machine_architectures);
            design.id.clone_from(&record.id);
            version_skew::check(record, &design.config.kubernetes)?;
        }
        let (site, joined) = laid_out(&design.config, before.as_ref()).await?;
        check::validate_on(&design.config, site.machine_network)?;
        let topology = Topology::at(&site, &design.config)?;
        let added = topology.without(&joined);
        let site = site.settled(&topology);
        let items = design.items(&site)?;
        // Machines that exist have not yet said which CPUs they have.
        if added.machines.is_empty() || design.config.provider != ProviderChoice::Existing {
            design.source.check(&items)?;
        }
        Ok(Self { design, items, state, before, joined, added, site })
    }
}

/// Where machines are laid out, and which of them are part of the cluster by now.
pub async fn laid_out(
    config: &ClusterConfig,
    before: Option<&Record>,
) -> Result<(Site, BTreeSet<String>)> {
    match before {
        Some(record) => {
            let topology = record.topology()?;
            let site = record.site.settled(&topology);
            Ok((site, topology.machines.into_iter().map(|machine| machine.name).collect()))
        }
        None => Ok((choose_network(config).await?.into(), BTreeSet::new())),
    }
}

/// The file's network, or one that nobody on this computer uses.
async fn choose_network(config: &ClusterConfig) -> Result<Ipv4Net> {
    let mut used = Vec::new();
    for name in StateDir::clusters()? {
        used.extend(StateDir::of(&name)?.record()?.map(|record| record.site.machine_network));
    }
    if config.provider == ProviderChoice::Existing {
        return check::network_of_hosts(config)
            .ok_or_else(|| Failure::input("hosts: the first one has no IPv4 address"));
    }
    let routes = host::networks().await;
    let Some(network) = config.network.machines else {
        used.extend(routes.iter().map(|(network, _)| *network));
        return check::choose_machine_network(&used);
    };
    if let Some((other, interface)) = routes.iter().find(|(other, _)| {
        other.prefix_len() > 0 && (other.contains(&network) || network.contains(other))
    }) {
        return Err(Failure::input(format!(
            "network.machines: {network} overlaps {other}, which this computer has on {interface}"
        ))
        .hint("set another network, or leave it out"));
    }
    Ok(network)
}
