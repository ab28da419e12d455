//! What templates can see: the cluster, and the machine that is rendered for.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::config::{ClusterConfig, Cni, EtcdTopology, LOCAL_PATH, LoadBalancerMode};
use crate::playbook::format::Condition;
use crate::support::failure::{Failure, Result};
use crate::topology::facts::Facts;
use crate::topology::{ETCD_CLIENT_PORT, ETCD_PEER_PORT, Group, Machine, Role, Topology};

/// Everything about a cluster that is known before a machine is touched.
#[derive(Debug, Clone)]
pub struct TemplateContext {
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
}

impl TemplateContext {
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
        let (kube, system) = reserved(machine.role == Role::Master, facts.memory);
        context["reserved"] = json!({"kube": kube, "system": system});
        context["vrrp"] = self.vrrp();
        Ok(context)
    }

    /// The context of manifests, which belong to the cluster as a whole.
    pub fn for_cluster(&self) -> Result<Value> {
        self.shared()
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
            "sandboxImage": without_tag(self.images.get("pause").map_or("", String::as_str)),
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
            Condition::CniNone => config.network.cni == Cni::None,
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

/// MiB that pods leave to Kubernetes' own programs, and to the system's, on a machine with so much
/// memory. What they take on a new cluster, as measured, and a 64th of the memory, because the
/// kubelet and containerd grow with the pods that fit; half of a small machine at most.
fn reserved(is_master: bool, memory: u32) -> (u32, u32) {
    const SYSTEM: u32 = 128;
    /// kubelet, containerd and kube-proxy, 64 each.
    const NODE: u32 = 192;
    /// kube-apiserver 320, etcd 96, controller-manager 96, scheduler 64.
    const CONTROL_PLANE: u32 = 576;
    const SMALL: u32 = 2048;
    // Kernels take more and less of the same memory for themselves.
    const ROUNDED: u32 = 256;
    let memory = if memory == 0 { SMALL } else { memory / ROUNDED * ROUNDED };
    let kube = NODE + if is_master { CONTROL_PLANE } else { 0 } + memory / 64;
    let most = memory / 2;
    let system = SYSTEM.min(most / 2);
    (kube.min(most - system), system)
}

/// A reference with a digest as containerd keeps it, `name@sha256:…`: the name that it is asked to
/// keep for good has to be the same, or the kubelet deletes the image when a disk fills up.
fn without_tag(reference: &str) -> String {
    match reference.split_once('@') {
        Some((tagged, digest)) => {
            let name = tagged.rsplit_once(':').map_or(tagged, |(name, _)| name);
            format!("{name}@{digest}")
        }
        None => reference.to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_fit_the_role_and_the_machine() {
        assert_eq!(reserved(true, 2048), (800, 128));
        assert_eq!(reserved(false, 2048), (224, 128));
        assert_eq!(reserved(false, 65_500), (1212, 128));
        assert_eq!(reserved(true, 1024), (384, 128), "half of it");
        assert_eq!(reserved(false, 256), (64, 64));
        assert_eq!(reserved(true, 0), reserved(true, 2048), "not known");
        assert_eq!(reserved(true, 1990), reserved(true, 1800), "kernels differ");
    }

    #[test]
    fn containerd_keeps_an_image_by_its_digest_alone() {
        assert_eq!(
            without_tag("registry.k8s.io/pause:3.10@sha256:ab"),
            "registry.k8s.io/pause@sha256:ab"
        );
        assert_eq!(without_tag("registry.k8s.io/pause:3.10"), "registry.k8s.io/pause:3.10");
    }
}
