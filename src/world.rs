//! What templates can see: the cluster, and the machine that is rendered for.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::config::{ClusterConfig, Cni, EtcdTopology, LOCAL_PATH, LoadBalancerMode};
use crate::facts::Facts;
use crate::failure::{Failure, Result};
use crate::playbook::Condition;
use crate::topology::{ETCD_CLIENT_PORT, ETCD_PEER_PORT, Group, Machine, Topology};

/// Everything about a cluster that is known before a machine is touched.
#[derive(Debug, Clone)]
pub struct World {
    pub config: ClusterConfig,
    /// Tells this cluster from another of the same name; empty for one that was never begun.
    pub id: String,
    pub topology: Topology,
    /// By artifact or image name.
    pub versions: BTreeMap<String, String>,
    /// Full references, by image name.
    pub images: BTreeMap<String, String>,
    /// Names of the images that the mirror carries.
    pub mirrored_images: Vec<String>,
    pub bootstrap_tokens: Vec<BootstrapToken>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootstrapToken {
    pub machine: String,
    /// Six characters; public.
    pub id: String,
    /// Sixteen characters.
    pub secret: String,
}

impl World {
    /// The context of templates that belong to a machine.
    pub fn for_machine(&self, machine: &Machine, facts: &Facts) -> Result<Value> {
        let mut context = self.shared()?;
        let others: Vec<&Machine> = self
            .topology
            .group(Group::Nodes)
            .into_iter()
            .filter(|other| other.name != machine.name)
            .collect();
        context["machine"] = encode(machine)?;
        context["others"] = encode(&others)?;
        context["facts"] = encode(facts)?;
        context["vrrp"] = self.vrrp();
        Ok(context)
    }

    /// The context of manifests, which belong to the cluster as a whole.
    pub fn for_cluster(&self) -> Result<Value> {
        let mut context = self.shared()?;
        context["bootstrapTokens"] = encode(&self.bootstrap_tokens)?;
        Ok(context)
    }

    /// The context of a drill's scripts on a machine. `peers` are the addresses of everybody that
    /// it shares the control plane with.
    pub fn for_drill(&self, machine: &Machine) -> Result<Value> {
        let mut context = self.shared()?;
        let serving = [Group::Masters, Group::Etcd, Group::LoadBalancers];
        let peers: Vec<_> = self
            .topology
            .machines
            .iter()
            .filter(|other| other.name != machine.name)
            .filter(|other| serving.iter().any(|group| self.topology.is_in(other, *group)))
            .map(|other| other.address)
            .collect();
        context["machine"] = encode(machine)?;
        context["peers"] = encode(&peers)?;
        Ok(context)
    }

    fn shared(&self) -> Result<Value> {
        let topology = &self.topology;
        let network = &self.config.network;
        let etcd = topology.group(Group::Etcd);
        Ok(json!({
            "cluster": {
                "name": topology.cluster,
                "id": self.id,
                "endpoint": {
                    "host": topology.endpoint.host,
                    "port": topology.endpoint.port,
                    "url": topology.endpoint.url(),
                },
                "vip": topology.vip,
                "apiService": topology.api_service,
                "dnsService": topology.dns_service,
                "dnsDomain": network.dns_domain,
                "podNetwork": network.pods,
                "serviceNetwork": network.services,
                "machineNetwork": topology.machine_network,
                "prefixLength": topology.machine_network.prefix_len(),
            },
            "machines": topology.machines,
            "masters": topology.group(Group::Masters),
            "workers": topology.group(Group::Workers),
            "nodes": topology.group(Group::Nodes),
            "etcd": etcd,
            "loadBalancers": topology.group(Group::LoadBalancers),
            "etcdCluster": {
                "initialCluster": list(
                    etcd.iter().take(topology.first_members as usize),
                    |m| format!("{}=https://{}:{ETCD_PEER_PORT}", m.name, m.address),
                ),
                "endpoints": list(etcd.iter(), |m| {
                    format!("https://{}:{ETCD_CLIENT_PORT}", m.address)
                }),
            },
            "versions": self.versions,
            "images": self.images,
            "settings": encode(&self.config)?,
        }))
    }

    /// VRRP's router id (RFC 5798, 1 to 255). Another cluster of the same network may have the same
    /// one: adverts go to this cluster's load balancers only, and are taken from no other machine.
    fn vrrp(&self) -> Value {
        let router_id = self.topology.vip.map_or(1, |vip| vip.octets()[3].max(1));
        json!({ "routerId": router_id })
    }

    pub fn holds(&self, condition: Condition) -> bool {
        let config = &self.config;
        match condition {
            Condition::Vip => self.topology.vip.is_some(),
            Condition::EtcdStacked => config.etcd.topology == EtcdTopology::Stacked,
            Condition::EtcdExternal => config.etcd.topology == EtcdTopology::External,
            Condition::LbStacked => self.topology.load_balancer == LoadBalancerMode::Stacked,
            Condition::LbDedicated => self.topology.load_balancer == LoadBalancerMode::Dedicated,
            Condition::CniBridge => config.network.cni == Cni::Bridge,
            Condition::CniFlannel => config.network.cni == Cni::Flannel,
            Condition::CniAny => config.network.cni != Cni::None,
            Condition::AddonLocalPath => config.addons.iter().any(|addon| addon == LOCAL_PATH),
            Condition::AddonManifests => config.own_addons().next().is_some(),
            Condition::MastersTainted => !config.masters_take_pods(),
            Condition::ImagesMirrored => !self.mirrored_images.is_empty(),
            Condition::Kubernetes136 => semver::Version::parse(&config.kubernetes)
                .is_ok_and(|version| (version.major, version.minor) >= (1, 36)),
        }
    }

    pub fn all_hold(&self, conditions: &[Condition]) -> bool {
        conditions.iter().all(|condition| self.holds(*condition))
    }
}

fn list<'a>(
    members: impl Iterator<Item = &'a &'a Machine>,
    each: impl Fn(&Machine) -> String,
) -> String {
    members.map(|member| each(member)).collect::<Vec<_>>().join(",")
}

fn encode(value: &(impl Serialize + ?Sized)) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Failure::bug("a template context").because(error))
}
