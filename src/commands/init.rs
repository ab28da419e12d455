//! `kdiy init`: interviews the user and writes a commented cluster file. It does not ask what a
//! flag answers; without a terminal it uses the defaults of the purpose.

use std::path::Path;

use crate::cli::{Init, Purpose, Storage};
use crate::config::flags::{HostAddress, UpFlags};
use crate::config::{
    ClusterConfig, Cni, EtcdTopology, Host, HostRole, HostSsh, LoadBalancerMode, ProviderChoice,
    sample,
};
use crate::providers::{self, Finding, host, vagrant};
use crate::state::atomic;
use crate::support;
use crate::support::failure::Result;
use crate::support::printable::counted;
use crate::topology::{Quorum, Topology, check};
use crate::ui::Ui;
use futures::future::join_all;

/// Failures that one can ask to survive; each costs two more masters.
const MAY_FAIL: [u32; 4] = [0, 1, 2, 3];

pub async fn run(arguments: Init, ui: Ui) -> Result<u8> {
    let path = arguments.path.clone();
    crate::commands::config::check_absent(&path, arguments.force)?;
    let ground = HostCapabilities::look().await;
    let config = Wizard { ui, asks: !arguments.yes && ui.can_ask(), arguments, ground: &ground }
        .configuration()?;
    check::validate(&config)?;
    let warnings = ground.warnings(&config)?;
    for warning in &warnings {
        ui.note(&format!("warning: {warning}"));
    }
    atomic::write(&path, sample::filled(&config)?.as_bytes(), 0o644)?;
    ui.result(
        &format!("wrote {}; {}", path.display(), next(&path)),
        &serde_json::json!({"wrote": path, "config": config, "warnings": warnings}),
    );
    Ok(0)
}

/// `up` finds a file of the usual name by itself.
fn next(path: &Path) -> String {
    match path == Path::new(crate::operations::request::DEFAULT_FILE) {
        true => "check the file, then run: kdiy up".into(),
        false => format!("check the file, then run: kdiy up --config {}", path.display()),
    }
}

/// What this computer can carry.
struct HostCapabilities {
    providers: Vec<(ProviderChoice, Result<(), Finding>)>,
    memory: Option<u64>,
    cores: usize,
}

impl HostCapabilities {
    async fn look() -> Self {
        let asked =
            host::PROVIDERS.map(|choice| async move { (choice, host::usable(choice).await) });
        Self {
            providers: join_all(asked).await,
            memory: host::available_memory(),
            cores: support::cores(),
        }
    }

    fn why_not(&self, choice: ProviderChoice) -> Option<&Finding> {
        let found = self.providers.iter().find(|(provider, _)| *provider == choice);
        found.and_then(|(_, usable)| usable.as_ref().err())
    }

    fn first_usable(&self) -> Option<ProviderChoice> {
        let mut taken =
            self.providers.iter().filter(|(choice, it)| it.is_ok() && !host::emulated(*choice));
        taken.next().map(|(choice, _)| *choice)
    }

    /// What will be slow, or not fit, or is not there yet.
    fn warnings(&self, config: &ClusterConfig) -> Result<Vec<String>> {
        if config.provider == ProviderChoice::Existing {
            return Ok(Vec::new());
        }
        let mut warnings = Vec::new();
        let provider = match config.provider {
            ProviderChoice::Auto => self.first_usable(),
            named => Some(named),
        };
        match provider.map(|choice| (choice, self.why_not(choice))) {
            None => warnings.push(
                "this computer has no usable provider yet; `kdiy doctor` says what to install"
                    .into(),
            ),
            Some((_, Some(finding))) => {
                warnings.push(format!("{}; {}", finding.what, finding.mend))
            }
            Some((_, None)) => {}
        }
        let network = config.network.machines.unwrap_or_else(check::placeholder);
        let topology = Topology::build(config, network)?;
        let needed = providers::memory(provider, &topology);
        let count = topology.machines.len();
        if let Some(free) = self.memory.filter(|free| *free < needed) {
            warnings.push(format!(
                "{count} machines need about {needed} MiB of memory; {free} MiB are free here"
            ));
        }
        if count > self.cores {
            warnings.push(format!(
                "{count} machines share {}: this works, but it is slow",
                counted(self.cores, "core")
            ));
        }
        Ok(warnings)
    }
}

struct Wizard<'a> {
    ui: Ui,
    asks: bool,
    arguments: Init,
    ground: &'a HostCapabilities,
}

/// An answer, and what is said of it.
type Choice<T> = (T, String);

impl Wizard<'_> {
    fn configuration(self) -> Result<ClusterConfig> {
        let purpose = self.purpose()?;
        let provider = self.provider(purpose)?;
        let mut config = ClusterConfig { provider, ..ClusterConfig::default() };
        let named = &self.arguments.host;
        let named_as = |role| named.iter().filter(|host| host.role == role).count();
        if named.is_empty() {
            config.masters = 2 * self.may_fail(purpose)? + 1;
            config.workers = self.workers(purpose)?;
        } else {
            config.masters = count(named_as(HostRole::Master));
            config.workers = count(named_as(HostRole::Worker));
        }
        self.etcd(&mut config)?;
        self.load_balancer(&mut config)?;
        self.storage(&mut config)?;
        config.network.cni = self.cni()?;
        config.name = self.name(purpose)?;
        if config.provider == ProviderChoice::Existing {
            config.hosts = self.hosts(&config)?;
        }
        Ok(config)
    }

    fn choose<T: Copy + PartialEq>(
        &self,
        given: Option<T>,
        question: &str,
        about: &str,
        choices: &[Choice<T>],
        default: T,
    ) -> Result<T> {
        if let Some(given) = given {
            return Ok(given);
        }
        if !self.asks {
            return Ok(default);
        }
        self.ui.note(&format!("\n{about}"));
        let texts: Vec<String> = choices.iter().map(|(_, text)| text.clone()).collect();
        let at = choices.iter().position(|(value, _)| *value == default).unwrap_or_default();
        let chosen = self.ui.choose(question, &texts, at)?;
        Ok(choices.get(chosen).map_or(default, |(value, _)| *value))
    }

    fn purpose(&self) -> Result<Purpose> {
        self.choose(
            self.arguments.purpose,
            "What is the cluster for?",
            "The purpose sets the defaults of the next questions.",
            &[
                (
                    Purpose::Learning,
                    "learning: machines on this computer, soon deleted again".into(),
                ),
                (Purpose::Homelab, "a homelab: existing machines, kept for years".into()),
                (
                    Purpose::Serious,
                    "production: one machine may fail while another is being changed".into(),
                ),
            ],
            Purpose::Learning,
        )
    }

    fn provider(&self, purpose: Purpose) -> Result<ProviderChoice> {
        let mut choices = vec![(
            ProviderChoice::Auto,
            "this computer, with the first provider that works".to_owned(),
        )];
        for (choice, usable) in &self.ground.providers {
            let state = match usable {
                Ok(()) => "ready".to_owned(),
                Err(finding) => format!("not available: {}", finding.what),
            };
            choices.push((*choice, format!("{} ({state})", vagrant::spelled(*choice))));
        }
        choices.push((ProviderChoice::Existing, "existing machines, over SSH".into()));
        let default = match purpose {
            Purpose::Homelab => ProviderChoice::Existing,
            _ => ProviderChoice::Auto,
        };
        let given = match self.arguments.host.is_empty() {
            true => self.arguments.provider,
            false => Some(ProviderChoice::Existing),
        };
        self.choose(
            given,
            "Where does the cluster run?",
            "Virtual machines behave most like real ones; containers start in seconds.\nkdiy \
            installs on existing machines, but never creates or deletes them.",
            &choices,
            default,
        )
    }

    fn may_fail(&self, purpose: Purpose) -> Result<u32> {
        let choices = MAY_FAIL.map(|failures| {
            let quorum = Quorum { members: 2 * failures + 1 };
            let (masters, needed) = (quorum.members, quorum.needed());
            (
                failures,
                format!("{failures} may fail: {}, quorum {needed}", counted(masters, "master")),
            )
        });
        self.choose(
            self.arguments.may_fail,
            "How many masters may fail at the same time?",
            "etcd accepts a write once more than half of the masters, the quorum, have it.\nSo an \
            even number is no better: 4 masters tolerate 1 failure, as 3 do.",
            &choices,
            match purpose {
                Purpose::Learning | Purpose::Homelab => 1,
                Purpose::Serious => 2,
            },
        )
    }

    fn workers(&self, purpose: Purpose) -> Result<u32> {
        let default = match purpose {
            Purpose::Learning => 2,
            Purpose::Homelab | Purpose::Serious => 3,
        };
        match (self.arguments.workers, self.asks) {
            (Some(workers), _) => Ok(workers),
            (None, false) => Ok(default),
            (None, true) => {
                self.ui.note(
                    "\nWorkers run what you deploy. With two, one may fail and the other keeps \
                    running;\nwith none, the masters run your pods as well.",
                );
                self.ui.enter("How many workers?", Some(default))
            }
        }
    }

    fn etcd(&self, config: &mut ClusterConfig) -> Result<()> {
        if let Some(flag) = &self.arguments.etcd {
            let flags = UpFlags { etcd: Some(flag.clone()), ..UpFlags::default() };
            *config = flags.over(std::mem::take(config))?;
            return Ok(());
        }
        config.etcd.topology = self.choose(
            None,
            "Where does etcd run?",
            "etcd stores the whole state of the cluster. On the masters it needs no extra \
            machines;\non separate machines it shares no disk and no failure with the API \
            servers.",
            &[
                (EtcdTopology::Stacked, "on the masters".into()),
                (EtcdTopology::External, "on three separate machines".into()),
            ],
            EtcdTopology::Stacked,
        )?;
        Ok(())
    }

    fn load_balancer(&self, config: &mut ClusterConfig) -> Result<()> {
        if let Some(flag) = &self.arguments.lb {
            let flags = UpFlags { lb: Some(flag.clone()), ..UpFlags::default() };
            *config = flags.over(std::mem::take(config))?;
            return Ok(());
        }
        if config.masters == 1 {
            return Ok(());
        }
        let (mode, machines) = self.choose(
            None,
            "What balances the load of the API servers?",
            "Clients use one address. haproxy distributes requests among the API servers that\nare \
            ready, and keepalived moves the address when its machine fails.",
            &[
                ((LoadBalancerMode::Auto, 1), "haproxy and keepalived on the masters".into()),
                (
                    (LoadBalancerMode::Dedicated, 2),
                    "haproxy and keepalived on two separate machines".into(),
                ),
                (
                    (LoadBalancerMode::Dedicated, 1),
                    "haproxy on one separate machine; if it is down, so is the API".into(),
                ),
                ((LoadBalancerMode::External, 1), "a load balancer that you already have".into()),
            ],
            (LoadBalancerMode::Auto, 1),
        )?;
        config.load_balancer.mode = mode;
        config.load_balancer.machines = machines;
        if mode == LoadBalancerMode::External {
            let address: String = self.ui.enter("Its address (HOST:PORT)", None)?;
            config.load_balancer.address = Some(address);
        }
        Ok(())
    }

    fn storage(&self, config: &mut ClusterConfig) -> Result<()> {
        let storage = self.choose(
            self.arguments.storage,
            "Where are volumes stored?",
            "local-path gives pods a directory on their node's disk: simple and fast, but\nlost \
            with the node. Without it you install your own storage system.",
            &[
                (Storage::LocalPath, "local-path, the default StorageClass".into()),
                (Storage::None, "none; I install my own".into()),
            ],
            Storage::LocalPath,
        )?;
        if storage == Storage::None {
            config.addons.clear();
        }
        Ok(())
    }

    fn cni(&self) -> Result<Cni> {
        self.choose(
            self.arguments.cni,
            "How do pods of different machines reach each other?",
            "Routes are the simplest, but need all machines on one network.\nflannel encapsulates \
            packets (VXLAN), which also works across routers; its releases\npublish no digest, so \
            you have to set one in artifacts.pins.",
            &[
                (Cni::Bridge, "a bridge on each machine, and routes between the machines".into()),
                (Cni::Flannel, "flannel".into()),
                (Cni::None, "none; I install my own manifests".into()),
            ],
            Cni::Bridge,
        )
    }

    fn name(&self, purpose: Purpose) -> Result<String> {
        let default = match purpose {
            Purpose::Homelab => "homelab",
            Purpose::Learning | Purpose::Serious => "kdiy",
        };
        match (&self.arguments.name, self.asks) {
            (Some(name), _) => Ok(name.clone()),
            (None, false) => Ok(default.into()),
            (None, true) => {
                self.ui.note(
                    "\nEvery machine's name begins with the name of the cluster. Clusters with \
                    different\nnames can run side by side.",
                );
                self.ui.enter("What is the name of the cluster?", Some(default.to_owned()))
            }
        }
    }

    fn hosts(&self, config: &ClusterConfig) -> Result<Vec<Host>> {
        let named = &self.arguments.host;
        if !named.is_empty() || !self.asks {
            return Ok(named.iter().map(|host| existing(host.role, &host.at)).collect());
        }
        self.ui.note("\nAt which address does SSH reach each machine?");
        let etcd =
            if config.etcd.topology == EtcdTopology::External { config.etcd.members } else { 0 };
        let balancers = match config.load_balancer.mode {
            LoadBalancerMode::Dedicated => config.load_balancer.machines,
            _ => 0,
        };
        let mut hosts = Vec::new();
        for (role, noun, count) in [
            (HostRole::Master, "master", config.masters),
            (HostRole::Etcd, "etcd", etcd),
            (HostRole::LoadBalancer, "load balancer", balancers),
            (HostRole::Worker, "worker", config.workers),
        ] {
            for number in 1..=count {
                let question = format!("{noun} {number} ([user@]address)");
                let at: HostAddress = self.ui.enter(&question, None)?;
                hosts.push(existing(role, &at));
            }
        }
        Ok(hosts)
    }
}

fn existing(role: HostRole, at: &HostAddress) -> Host {
    let ssh = HostSsh { user: at.user.clone(), ..HostSsh::default() };
    Host { role, address: at.address, name: None, ssh }
}

fn count(machines: usize) -> u32 {
    u32::try_from(machines).unwrap_or(u32::MAX)
}
