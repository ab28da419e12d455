//! One opened cluster: its configuration, its directory on this computer, and the connections to
//! its machines and its API.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::artifacts::catalogue::{Item, Versions};
use crate::artifacts::{Catalogue, Source};
use crate::bundle::Renderer;
use crate::bundle::reached::ObservedMachine;
use crate::cluster_context::ClusterContext;
use crate::config::{ClusterConfig, Cni, LOCAL_PATH};
use crate::kubernetes::client::ApiAccess;
use crate::pki::{Keeping, Pki};
use crate::playbook::context::TemplateContext;
use crate::playbook::format::Condition;
use crate::playbook::load::Playbooks;
use crate::playbook::template::Templates;
use crate::providers::{self, Provider};
use crate::state::{Record, StateDir};
use crate::support::failure::{Failure, Result};
use crate::support::redact::Redactor;
use crate::support::time_scale::Unscaled;
use crate::topology::architecture::Architectures;
use crate::topology::{Site, Topology};
use crate::transport::control_sockets;
use crate::transport::pool::ConnectionPool;
use crate::transport::target::Password;
use tokio::sync::RwLock;

/// What a cluster is to be; nothing of it need exist.
pub struct ResolvedCluster {
    pub overlay: Overlay,
    pub config: ClusterConfig,
    pub playbooks: Playbooks,
    pub catalogue: Catalogue,
    pub versions: Versions,
    pub source: Source,
    pub architectures: Architectures,
    /// Of the cluster that was begun; empty before.
    pub id: String,
}

/// What `--playbooks` takes to lay nothing over the built-in ones any more.
const NO_OVERLAY: &str = "none";

/// Playbooks that replace or add to the built-in ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Absolute.
    pub directory: Option<PathBuf>,
    /// It was not named now, but when the cluster was last made.
    pub remembered: bool,
}

impl Overlay {
    /// The directory that is named or, for a cluster that exists, the one that it was made with:
    /// to leave it out would roll the cluster back to the built-in playbooks.
    pub fn of(cluster: &str, named: Option<&Path>) -> Result<Self> {
        match named {
            Some(named) if named == Path::new(NO_OVERLAY) => return Ok(Self::default()),
            Some(named) => {
                let directory = std::path::absolute(named).map_err(|error| {
                    Failure::input(format!("--playbooks: {} is not a path", named.display()))
                        .because(error)
                })?;
                return Ok(Self { directory: Some(directory), remembered: false });
            }
            None => {}
        }
        let record = StateDir::of(cluster)?.record()?;
        let Some(directory) = record.and_then(|record| record.playbooks) else {
            return Ok(Self::default());
        };
        if !directory.is_dir() {
            return Err(Failure::input(format!(
                "the cluster {cluster} was created with the playbooks in {}, which does not exist",
                directory.display()
            ))
            .hint("restore the directory, or set its new path: --playbooks DIR")
            .hint("`--playbooks none` uses the built-in playbooks again"));
        }
        Ok(Self { directory: Some(directory), remembered: true })
    }

    /// What is to be said of playbooks that nobody has named now.
    pub fn note(&self) -> Option<String> {
        let directory = self.directory.as_ref().filter(|_| self.remembered)?;
        Some(format!(
            "using the playbooks in {}, as when the cluster was created (`--playbooks none` \
            ignores them)",
            directory.display()
        ))
    }
}

impl ResolvedCluster {
    /// `overlay` is a directory of playbooks that replace or add to the built-in ones.
    pub fn of(config: ClusterConfig, overlay: Option<&Path>) -> Result<Self> {
        let source = Source::from_config(&config)?;
        Self::from(config, overlay, source)
    }

    /// Of a cluster that is only looked at. Its mirror may be gone by now.
    pub fn recorded(config: ClusterConfig, overlay: Option<&Path>) -> Result<Self> {
        let source = Source::from_config(&config).unwrap_or_default();
        Self::from(config, overlay, source)
    }

    fn from(config: ClusterConfig, overlay: Option<&Path>, source: Source) -> Result<Self> {
        let overlay = Overlay::of(&config.name, overlay)?;
        let playbooks = Playbooks::load(overlay.directory.as_deref())?;
        let catalogue = Catalogue::load(&playbooks)?;
        let versions = catalogue.versions(&config)?;
        let architectures = Architectures::default();
        let id = String::new();
        Ok(Self { config, playbooks, overlay, catalogue, versions, source, architectures, id })
    }

    /// Every release file that the cluster takes, for every architecture that takes it.
    pub fn items(&self, site: &Site) -> Result<Vec<Item>> {
        let topology = Topology::at(site, &self.config)?;
        let flannel = self.config.network.cni == Cni::Flannel;
        let names: BTreeSet<&String> = self
            .playbooks
            .steps()
            .filter(|(_, step)| flannel || !step.when.contains(&Condition::CniFlannel))
            .flat_map(|(_, step)| &step.artifacts)
            .collect();
        let mut items = Vec::new();
        for name in names {
            for arch in self.playbooks.architectures_taking(name, &self.architectures, &topology) {
                items.push(self.catalogue.item(name, &self.versions, arch)?);
            }
        }
        Ok(items)
    }

    /// The cluster on paper: everything of it that files, scripts and manifests are rendered
    /// from. With [`Keeping::Made`] certificates that are missing are made and kept in `pki`;
    /// otherwise this changes nothing on this computer.
    pub fn draw(self, pki: &Path, site: &Site, keeping: Keeping) -> Result<RenderedCluster> {
        let topology = Topology::at(site, &self.config)?;
        let pki = Pki::open(pki, &topology, &self.config, keeping)?;
        let mirrored_images = self.mirrored_images(&topology);
        let images = self.references(&mirrored_images);
        let template_context = TemplateContext {
            id: self.id,
            topology,
            versions: self.versions.by_name.clone(),
            images,
            mirrored_images,
            config: self.config,
        };
        Ok(RenderedCluster {
            playbooks: self.playbooks,
            templates: Templates::new(),
            catalogue: self.catalogue,
            versions: self.versions,
            source: self.source,
            architectures: self.architectures,
            template_context,
            pki,
        })
    }

    /// An error for an image that machines would pull by nothing but its tag.
    pub fn check_images(&self, site: &Site) -> Result<()> {
        let mirrored = self.mirrored_images(&Topology::at(site, &self.config)?);
        let mut pulled = self.catalogue.image_names().filter(|name| {
            let is_taken = *name != LOCAL_PATH || self.config.addons.iter().any(|it| it == name);
            is_taken && !mirrored.iter().any(|image| image == name)
        });
        pulled.try_for_each(|name| self.versions.check_pulled(name))
    }

    /// What pods and containerd call the images. Those of a mirror are loaded under their tags,
    /// after their files' digests were checked.
    fn references(&self, mirrored: &[String]) -> BTreeMap<String, String> {
        let reference = |name: &str| {
            let tagged =
                self.versions.images.get(name).filter(|_| mirrored.iter().any(|m| m == name));
            tagged.cloned().unwrap_or_else(|| self.versions.pulled(name))
        };
        self.catalogue.image_names().map(|name| (name.to_owned(), reference(name))).collect()
    }

    /// Names of the images that the mirror has for every architecture that takes them.
    fn mirrored_images(&self, topology: &Topology) -> Vec<String> {
        let has = |name: &&str| {
            let mut takers = self
                .playbooks
                .architectures_taking(name, &self.architectures, topology)
                .into_iter();
            takers.all(|arch| {
                self.catalogue.image_file(name, arch).is_some_and(|file| self.source.lists(&file))
            })
        };
        self.catalogue.image_names().filter(has).map(str::to_owned).collect()
    }
}

/// A cluster on paper; no machine of it need exist.
pub struct RenderedCluster {
    pub playbooks: Playbooks,
    pub templates: Templates,
    pub catalogue: Catalogue,
    pub versions: Versions,
    pub source: Source,
    pub architectures: Architectures,
    pub template_context: TemplateContext,
    pub pki: Pki,
}

impl RenderedCluster {
    /// Of the machines on which a step installs this artifact or image.
    pub fn architectures_taking(&self, name: &str) -> BTreeSet<&str> {
        self.playbooks.architectures_taking(
            name,
            &self.architectures,
            &self.template_context.topology,
        )
    }

    pub fn renderer(&self) -> Renderer<'_> {
        Renderer {
            playbooks: &self.playbooks,
            templates: &self.templates,
            template_context: &self.template_context,
            secrets: &self.pki,
        }
    }
}

pub struct ClusterHandle {
    pub state: StateDir,
    pub rendered: RenderedCluster,
    /// Masks what the pki keeps.
    pub redactor: Redactor,
    pub provider: Box<dyn Provider>,
    pub connections: Arc<ConnectionPool>,
    pub api: Arc<ApiAccess>,
    reached: RwLock<BTreeMap<String, Arc<ObservedMachine>>>,
    /// Holds ssh's control sockets, which must not outlive it.
    _sockets: TempDir,
}

impl ClusterHandle {
    /// With [`Keeping::Made`] certificates that are missing are made and kept; otherwise this
    /// changes nothing on this computer.
    pub async fn new(
        design: ResolvedCluster,
        state: StateDir,
        site: &Site,
        keeping: Keeping,
    ) -> Result<Self> {
        providers::sudo::obtain(&design.config)?;
        let provider = providers::provider(&design.config, &state).await?;
        let rendered = design.draw(&state.pki(), site, keeping)?;
        let topology = rendered.template_context.topology.clone();
        let password = providers::sudo::password();
        let secrets = rendered.pki.secrets();
        let known = secrets.iter().map(String::as_str);
        let redactor = Redactor::new(known.chain(password.as_ref().map(Password::reveal)))?;
        let endpoint = topology.endpoint.url();
        // `up` makes and mends the bindings that everybody else's rights come from.
        let complete = state.record()?.is_some_and(|record| record.complete);
        let identity = match keeping {
            Keeping::Existing if complete => "admin",
            _ => "bootstrap-admin",
        };
        let kubeconfig =
            rendered.pki.kubeconfig_for(&topology.cluster, &endpoint, identity, None)?;
        let sockets = control_sockets::directory()?;
        let connections = Arc::new(ConnectionPool::new(sockets.path().to_owned()));
        let slow = rendered.template_context.config.slow_machines;
        let api = Arc::new(ApiAccess::new(topology, connections.clone(), kubeconfig, slow));
        Ok(Self {
            state,
            rendered,
            redactor,
            provider,
            connections,
            api,
            reached: RwLock::default(),
            _sockets: sockets,
        })
    }

    /// A cluster that was begun on this computer, to look at it.
    pub async fn open(name: &str, overlay: Option<&Path>) -> Result<Self> {
        let (state, record) = known(name)?;
        let design = ResolvedCluster::recorded(record.config.clone(), overlay)?;
        let design = ResolvedCluster {
            architectures: record.machine_architectures,
            id: record.id,
            ..design
        };
        Self::new(design, state, &record.site, Keeping::Existing).await
    }

    pub fn topology(&self) -> &Topology {
        &self.rendered.template_context.topology
    }

    /// Connects to all machines at the same time. A machine that does not answer within
    /// the deadline has the reason why; it is no error of the whole.
    pub async fn connect(&self, within: Unscaled) -> BTreeMap<String, Failure> {
        let machines = self.topology().machines.iter();
        let names: Vec<String> = machines.map(|machine| machine.name.clone()).collect();
        self.connect_to(&names, within).await
    }

    /// The same for some machines, by their names.
    pub async fn connect_to(
        &self,
        names: &[String],
        within: Unscaled,
    ) -> BTreeMap<String, Failure> {
        let deadline = within * self.rendered.template_context.config.slow_machines;
        let connections = names.iter().map(|name| async move {
            let connected = match self.provider.ssh_target(self.topology(), name) {
                Ok(target) => self.connections.connect(&target, deadline).await.map(drop),
                Err(failure) => Err(failure),
            };
            connected.err().map(|failure| (name.clone(), failure))
        });
        futures::future::join_all(connections).await.into_iter().flatten().collect()
    }

    pub fn cluster_context(&self) -> ClusterContext {
        ClusterContext {
            config: self.rendered.template_context.config.clone(),
            topology: self.topology().clone(),
            connections: self.connections.clone(),
            api: self.api.clone(),
            images: self.rendered.template_context.images.clone(),
            versions: self.rendered.template_context.versions.clone(),
            turn_to_come: None,
            steps: None,
        }
    }

    pub async fn record(&self, machine: &str, reached: ObservedMachine) {
        self.reached.write().await.insert(machine.to_owned(), Arc::new(reached));
    }

    pub async fn reached(&self, machine: &str) -> Result<Arc<ObservedMachine>> {
        self.reached
            .read()
            .await
            .get(machine)
            .cloned()
            .ok_or_else(|| Failure::bug("kdiy has not read the state of the machine").on(machine))
    }

    /// Ends the connections. What is not closed here ends by itself after a minute.
    pub async fn close(&self) {
        self.connections.close().await;
    }
}

/// The record of a cluster that was begun on this computer; an error that lists the others when
/// there is none of this name.
pub fn known(name: &str) -> Result<(StateDir, Record)> {
    let state = StateDir::of(name)?;
    if let Some(record) = state.record()? {
        return Ok((state, record));
    }
    let clusters = StateDir::clusters()?;
    let failure = Failure::input(format!("this computer has no cluster {name}"));
    Err(match clusters.as_slice() {
        [] => failure.hint("`kdiy up` creates one"),
        others => failure.hint(format!("the clusters are {}; set --name", others.join(", "))),
    })
}
