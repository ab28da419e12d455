//! System containers, made by Vagrant's docker provider.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use include_dir::{Dir, include_dir};
use serde_json::json;

use crate::bundle::sha256;
use crate::config::{ClusterConfig, ProviderChoice};
use crate::providers::vagrant::{Vagrant, direct, network_name};
use crate::providers::{Finding, Provider, Resource, host, ssh_keys};
use crate::state::StateDir;
use crate::state::ledger::{Ledger, ResourceKind};
use crate::support::event::Events;
use crate::support::failure::{Failure, Result};
use crate::topology::{Machine, Role, Topology};
use crate::transport::target::SshTarget;

/// The definition of the image that machines are made from.
static DEFINITION: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/vagrant/docker");

/// Marks what belongs to a cluster, whatever happens to Vagrant's own records. Its value is the
/// state directory: another KDIY_STATE may hold another cluster of the same name.
pub const LABEL: &str = "dev.kdiy.state";

/// Memory that components were seen to take, in MiB, by role: 3 masters and 2 workers of
/// Kubernetes 1.36 take 1.7 GB in all; the rest is for the first pods.
const MASTER_MEMORY: u64 = 800;
const WORKER_MEMORY: u64 = 400;

/// Rights that a machine needs where `--privileged` is not to be had: everything the engine
/// itself has, a /proc and /sys without masks, and every device.
const UNPRIVILEGED: &[&str] = &[
    "--cap-add",
    "ALL",
    "--cap-drop",
    "SYS_RESOURCE",
    "--security-opt",
    "seccomp=unconfined",
    "--security-opt",
    "apparmor=unconfined",
    "--security-opt",
    "systempaths=unconfined",
    "--device-cgroup-rule=a *:* rwm",
    "--device",
    "/dev/fuse",
    "--device",
    "/dev/net/tun",
];

/// Seconds that systemd gets to shut down before the container is killed; less than [`host::ask`]
/// waits.
const STOPS_WITHIN: &str = "45";

/// About what a machine takes, in MiB.
pub fn memory(role: Role) -> u64 {
    match role {
        Role::Master => MASTER_MEMORY,
        _ => WORKER_MEMORY,
    }
}

struct Container {
    /// As Docker spells it: `created`, `running`, `exited`, …
    state: String,
    id: String,
}

pub struct Docker {
    vagrant: Vagrant,
    config: ClusterConfig,
    state: StateDir,
}

impl Docker {
    pub fn new(config: &ClusterConfig, state: &StateDir) -> Self {
        Self {
            vagrant: Vagrant::new("docker", state),
            config: config.clone(),
            state: state.clone(),
        }
    }

    fn label(&self) -> String {
        format!("{LABEL}={}", self.state.root().display())
    }

    /// The cluster's containers by name.
    async fn containers(&self) -> Result<BTreeMap<String, Container>> {
        let filter = format!("label={}", self.label());
        let format = "{{.Names}}\t{{.State}}\t{{.ID}}";
        let arguments = ["ps", "-a", "--no-trunc", "--filter", &filter, "--format", format];
        let text = host::ask("docker", &arguments).await?;
        Ok(text.lines().filter_map(container).collect())
    }

    /// Names of ours that containers have which are not ours.
    async fn strangers(&self, topology: &Topology) -> Result<Vec<String>> {
        let ours = self.containers().await?;
        let all = host::ask("docker", &["ps", "-a", "--format", "{{.Names}}"]).await?;
        let names = all.lines().filter(|name| topology.machine(name).is_some());
        Ok(names.filter(|name| !ours.contains_key(*name)).map(str::to_owned).collect())
    }

    /// Its first address is the engine's own, and the way out.
    async fn ensure_network(&self, topology: &Topology) -> Result<()> {
        let name = network_name(topology);
        let filter = format!("label={}", self.label());
        let format = ["network", "ls", "--filter", &filter, "--format", "{{.Name}}"];
        if host::ask("docker", &format).await?.lines().any(|line| line == name) {
            return Ok(());
        }
        let subnet = topology.machine_network.to_string();
        let label = self.label();
        host::ask("docker", &["network", "create", "--label", &label, "--subnet", &subnet, &name])
            .await
            .map(drop)
            .map_err(|failure| {
                failure.hint("perhaps another network uses these addresses: set network.machines")
            })
    }

    /// Brings what an interrupted run left to where Vagrant can go on from: a container that never
    /// ran (perhaps it cannot) has nothing on it and is made again; one that Vagrant does not know
    /// yet is made known.
    async fn reconcile(&self, there: &BTreeMap<String, Container>) -> Result<()> {
        for (name, container) in there {
            if container.state == "created" {
                host::ask("docker", &["rm", "--volumes", &container.id]).await?;
            } else {
                self.vagrant.adopt(name, &container.id)?;
            }
        }
        Ok(())
    }

    /// The image to make machines from, built from the embedded definition where the user named
    /// none.
    async fn image(&self, events: &Events, task: &str) -> Result<String> {
        if let Some(image) = &self.config.machines.image {
            return Ok(image.clone());
        }
        let tag = own_image();
        if host::ask("docker", &["image", "inspect", &tag]).await.is_ok() {
            return Ok(tag);
        }
        events.progress(task, "building the image of the machines (once)");
        let context = tempfile::tempdir()
            .map_err(|error| Failure::host("cannot create a directory").because(error))?;
        DEFINITION
            .extract(context.path())
            .map_err(|error| Failure::host("cannot write the image's files").because(error))?;
        let path = context.path().to_string_lossy().into_owned();
        let output = tokio::process::Command::new("docker")
            .args(["build", "--tag", &tag, &path])
            .output()
            .await
            .map_err(|error| Failure::host("cannot run docker").because(error))?;
        if output.status.success() {
            return Ok(tag);
        }
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        Err(Failure::host("docker cannot build the machines' image")
            .tail(lines[lines.len().saturating_sub(15)..].to_vec())
            .hint("without internet access, set an image that Docker already has: --image"))
    }

    /// Whether this engine may give containers every right.
    async fn privileged(image: &str) -> bool {
        let arguments = [
            "run",
            "--rm",
            "--privileged",
            "--network",
            "none",
            "--entrypoint",
            "/bin/true",
            image,
        ];
        host::ask("docker", &arguments).await.is_ok()
    }

    fn create_arguments(&self, privileged: bool) -> Vec<String> {
        let mut arguments: Vec<String> = Vec::new();
        let mut add =
            |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
        if privileged {
            add(&["--privileged"]);
        } else {
            add(UNPRIVILEGED);
        }
        add(&["--cgroupns=private"]);
        add(&["--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp"]);
        // containerd's and etcd's files are written a lot; a volume spares them the overlay.
        add(&["-v", "/var/lib/containerd", "-v", "/var/lib/etcd"]);
        let key = ssh_keys::authorized(&self.state);
        add(&["-v", &format!("{}:/etc/kdiy-authorized_keys:ro", key.display())]);
        add(&["--label", &self.label()]);
        arguments
    }
}

/// Tag of the image that the embedded definition describes.
fn own_image() -> String {
    let mut text = String::new();
    for file in DEFINITION.files() {
        text.push_str(&sha256(file.contents()));
    }
    format!("kdiy/machine:{}", &sha256(text.as_bytes())[..12])
}

/// Name, state and id, parted by tabs.
fn container(line: &str) -> Option<(String, Container)> {
    let mut fields = line.split('\t').map(str::to_owned);
    let name = fields.next()?;
    Some((name, Container { state: fields.next()?, id: fields.next()? }))
}

#[async_trait]
impl Provider for Docker {
    fn name(&self) -> &'static str {
        "docker"
    }

    async fn check_host(&self, topology: &Topology) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Err(finding) = host::usable(ProviderChoice::Docker).await {
            return vec![finding];
        }
        for name in self.strangers(topology).await.unwrap_or_default() {
            findings.push(Finding {
                what: format!("the container {name} does not belong to this cluster"),
                mend: format!("docker rm -f -v {name}, or set another name with --name"),
            });
        }
        let there = self.containers().await.unwrap_or_default();
        let missing = topology.machines.iter().filter(|machine| !there.contains_key(&machine.name));
        let needed: u64 = missing.map(|machine| memory(machine.role)).sum();
        if let Some(free) = host::available_memory()
            && free < needed
        {
            findings.push(Finding {
                what: format!(
                    "the machines need about {needed} MiB of memory; {free} MiB are free"
                ),
                mend: "close other programs, or use fewer machines".into(),
            });
        }
        if let Some(image) = &self.config.machines.image
            && host::ask("docker", &["image", "inspect", image]).await.is_err()
        {
            findings.push(Finding {
                what: format!("machines.image: Docker has no image {image}"),
                mend: "leave it out, and kdiy builds one".into(),
            });
        }
        findings
    }

    fn makes(&self, topology: &Topology) -> Vec<Resource> {
        let mut owned: Vec<Resource> = topology
            .machines
            .iter()
            .map(|machine| Resource { what: ResourceKind::Machine, id: machine.name.clone() })
            .collect();
        owned.push(Resource { what: ResourceKind::Network, id: network_name(topology) });
        owned
    }

    async fn up(
        &self,
        topology: &Topology,
        wanted: &[&Machine],
        events: &Events,
        task: &str,
    ) -> Result<Vec<String>> {
        drop(self.vagrant.alone(events, task).await?);
        let there = self.containers().await?;
        let is = |name: &str, state: &str| there.get(name).is_some_and(|it| it.state == state);
        let made = |name: &str| there.contains_key(name) && !is(name, "created");
        let touched: Vec<String> = wanted
            .iter()
            .filter(|machine| !is(&machine.name, "running"))
            .map(|machine| {
                let verb = if made(&machine.name) { "started" } else { "made" };
                format!("{verb} {}", machine.name)
            })
            .collect();
        if touched.is_empty() {
            return Ok(touched);
        }
        let new = wanted.iter().filter(|machine| !made(&machine.name));
        let addresses: Vec<_> = new.map(|machine| machine.address).collect();
        ssh_keys::forget(&self.state, &addresses).await?;
        let image = self.image(events, task).await?;
        self.ensure_network(topology).await?;
        self.reconcile(&there).await?;
        let privileged = Self::privileged(&image).await;
        let extra = json!({
            "image": image,
            "privateKey": ssh_keys::private(&self.state),
            "createArgs": self.create_arguments(privileged),
        });
        self.vagrant.write(topology, &self.config, extra)?;
        let mut arguments = vec!["up", "--provider", "docker", "--no-provision"];
        arguments.extend(wanted.iter().map(|machine| machine.name.as_str()));
        let Err(failure) = self.vagrant.run(&arguments, events, task).await else {
            return Ok(touched);
        };
        // Made at the same time, machines can get in each other's way: Vagrant then takes the id of
        // one for that of another, and looks for it before it is there ("No such object"). What it
        // has made stays, and the second time it makes the rest.
        if !failure.tail.iter().any(|line| line.contains("No such object")) {
            return Err(failure);
        }
        let there = self.containers().await?;
        let missing: Vec<&Machine> =
            wanted.iter().copied().filter(|machine| !there.contains_key(&machine.name)).collect();
        for machine in missing {
            self.vagrant.forget(&machine.name)?;
        }
        self.reconcile(&there).await?;
        self.vagrant.run(&arguments, events, task).await?;
        Ok(touched)
    }

    /// By the engine itself: Vagrant's provider would kill it after ten seconds.
    async fn stop(&self, machine: &Machine, _: &Events, _: &str) -> Result<Vec<String>> {
        let there = self.containers().await?;
        let Some(container) = there.get(&machine.name).filter(|it| it.state == "running") else {
            return Ok(Vec::new());
        };
        host::ask("docker", &["stop", "--time", STOPS_WITHIN, &container.id]).await?;
        if self.containers().await?.get(&machine.name).is_some_and(|it| it.state == "running") {
            return Err(Failure::host("docker stop succeeded, but it still runs").on(&machine.name));
        }
        Ok(vec![format!("stopped {}", machine.name)])
    }

    fn ssh_target(&self, topology: &Topology, machine: &str) -> Result<SshTarget> {
        direct(topology, machine, &self.state, self.config.slow_machines)
    }

    async fn power_off(&self, machine: &str, _: &Events) -> Result<()> {
        host::ask("docker", &["kill", machine]).await.map(drop)
    }

    async fn power_on(&self, machine: &str, _: &Events) -> Result<()> {
        host::ask("docker", &["start", machine]).await.map(drop)
    }

    async fn remove(
        &self,
        _: &Topology,
        machine: &Machine,
        events: &Events,
        task: &str,
    ) -> Result<()> {
        drop(self.vagrant.alone(events, task).await?);
        if let Some(container) = self.containers().await?.get(&machine.name) {
            host::ask("docker", &["rm", "--force", "--volumes", &container.id]).await?;
        }
        self.vagrant.forget(&machine.name)
    }

    /// Works on containers by their label, so that it does not need Vagrant to be sane.
    async fn destroy(&self, _: &Topology, ledger: &Ledger, events: &Events) -> Result<()> {
        drop(self.vagrant.alone(events, "destroy").await?);
        let there = self.containers().await?;
        if !there.is_empty() {
            let mut arguments = vec!["rm", "--force", "--volumes"];
            arguments.extend(there.keys().map(String::as_str));
            events.progress("destroy", format!("removing {} containers", there.len()));
            host::ask("docker", &arguments).await?;
        }
        let left = self.leftovers(ledger).await?;
        let entered = left.into_iter().filter(|owned| owned.what == ResourceKind::Network);
        let mut networks: BTreeSet<String> = entered.map(|owned| owned.id).collect();
        // The ledger may be lost.
        let filter = format!("label={}", self.label());
        let labelled = ["network", "ls", "--filter", &filter, "--format", "{{.Name}}"];
        networks.extend(host::ask("docker", &labelled).await?.lines().map(str::to_owned));
        for network in &networks {
            host::ask("docker", &["network", "rm", network]).await?;
        }
        Ok(())
    }

    async fn leftovers(&self, ledger: &Ledger) -> Result<Vec<Resource>> {
        let containers = host::ask("docker", &["ps", "-a", "--format", "{{.Names}}"]).await?;
        let networks = host::ask("docker", &["network", "ls", "--format", "{{.Name}}"]).await?;
        Ok(ledger
            .entries()
            .iter()
            .filter(|entry| match entry.what {
                ResourceKind::Machine => containers.lines().any(|name| name == entry.id),
                ResourceKind::Network => networks.lines().any(|name| name == entry.id),
                ResourceKind::Host | ResourceKind::Image | ResourceKind::Kubeconfig => false,
            })
            .map(|entry| Resource { what: entry.what, id: entry.id.clone() })
            .collect())
    }
}
