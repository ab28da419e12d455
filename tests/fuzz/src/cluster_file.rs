//! A cluster file, from its text to the machines that it describes.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use kdiy::artifacts::Catalogue;
use kdiy::config::flags::UpFlags;
use kdiy::config::{ClusterConfig, ProviderChoice, parse, sample};
use kdiy::playbook::load::Playbooks;
use kdiy::support::failure::{Failure, Result};
use kdiy::topology::{Topology, check};

static CATALOGUE: LazyLock<Catalogue> =
    LazyLock::new(|| Catalogue::load(&Playbooks::load(None).unwrap()).unwrap());

/// Nothing panics: a file is refused with a reason that can be said, or says the same wherever it
/// is written down, and describes machines that can be told apart.
pub fn holds(text: &str) -> Result<(), String> {
    let (config, topology) = accepted(text).map_err(|failure| failure.to_string())?;
    reads_back(&config);
    can_be_told_apart(&config, &topology);
    Ok(())
}

/// As `kdiy up` goes about it, without a look at this computer.
fn accepted(text: &str) -> Result<(ClusterConfig, Topology)> {
    let config = UpFlags::default().over(parse::parse("cluster.yaml", text)?)?;
    check::validate(&config)?;
    CATALOGUE.versions(&config)?;
    let network = match config.provider {
        ProviderChoice::Existing => check::network_of_hosts(&config)
            .ok_or_else(|| Failure::input("hosts: the first one has no IPv4 address"))?,
        _ => config.network.machines.unwrap_or_else(check::placeholder),
    };
    check::validate_on(&config, network)?;
    let topology = Topology::build(&config, network)?;
    Ok((config, topology))
}

/// From what `kdiy config show` and `kdiy init` print, and from the record of a cluster.
fn reads_back(config: &ClusterConfig) {
    let shown = serde_saphyr::to_string(config).unwrap();
    let filled = sample::filled(config).unwrap();
    for text in [shown, filled] {
        let read = parse::parse("cluster.yaml", &text);
        let read = read.unwrap_or_else(|failure| panic!("{failure}\nin\n{text}"));
        assert_eq!(read, *config, "as read from\n{text}");
    }
    let recorded = serde_json::to_string(config).unwrap();
    assert_eq!(serde_json::from_str::<ClusterConfig>(&recorded).unwrap(), *config);
}

fn can_be_told_apart(config: &ClusterConfig, topology: &Topology) {
    let machines = &topology.machines;
    let names: BTreeSet<_> = machines.iter().map(|machine| &machine.name).collect();
    let addresses: BTreeSet<_> =
        machines.iter().map(|machine| machine.address).chain(topology.vip).collect();
    assert_eq!(names.len(), machines.len(), "names");
    assert_eq!(addresses.len(), machines.len() + topology.vip.iter().count(), "addresses");
    let pods: Vec<_> = machines.iter().filter_map(|machine| machine.pod_cidr).collect();
    assert_eq!(pods.iter().collect::<BTreeSet<_>>().len(), pods.len(), "networks of pods");
    assert!(pods.iter().all(|own| config.network.pods.contains(own)), "networks of pods");
    for quorum in [topology.master_quorum(), topology.etcd_quorum()] {
        assert!(quorum.members % 2 == 1, "{quorum:?}");
    }
}
