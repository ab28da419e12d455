//! One step rendered for one machine: the files with their bytes, the units, the commands, and the
//! script that applies them. Pure; the same input gives the same bytes.

pub mod etcd_data;
pub mod key;
pub mod observe;
pub mod reached;
pub mod script;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::playbook::context::TemplateContext;
use crate::playbook::format::{Directory, File, OnChange, Package, Step, Unit, User};
use crate::playbook::load::{Book, Playbooks};
use crate::playbook::template::Templates;
use crate::support::failure::{Failure, Result};
use crate::topology::Machine;
use crate::topology::facts::Facts;

/// Where unit files go that kdiy writes.
const UNIT_DIRECTORY: &str = "/etc/systemd/system";

/// Where `kdiy-reconcile` finds what it keeps true: one file a command, called `STEP-NUMBER`.
pub const RECONCILE_DIRECTORY: &str = "/var/lib/kdiy/reconcile";

/// The template of units that a playbook describes by `exec` and `flags`.
const UNIT_TEMPLATE: &str = "unit.service.hbs";

#[derive(Debug, Clone)]
pub struct Bundle {
    pub step: String,
    pub machine: String,
    pub packages: Vec<Package>,
    pub users: Vec<User>,
    pub directories: Vec<Directory>,
    pub files: Vec<BundleFile>,
    pub undo: Vec<BundleUndo>,
    pub leaves: Vec<String>,
    pub shares: Vec<String>,
    pub commands: Vec<BundleCommand>,
    pub units: Vec<BundleUnit>,
    /// What its units use that may be a release file, with all units of the machine that use it.
    pub programs: Vec<BundleProgram>,
    pub ready: Option<BundleReady>,
    /// Names of artifacts and images; their digests are not part of [`Bundle::digest`].
    pub artifacts: Vec<String>,
    pub images: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct BundleFile {
    pub path: String,
    /// Four octal digits.
    pub mode: String,
    /// `user:group`.
    pub owner: String,
    #[serde(skip)]
    pub bytes: Vec<u8>,
    /// SHA-256 of `bytes`, hex.
    pub digest: String,
    /// The bytes must not be shown to anybody.
    pub secret: bool,
    /// Units of this machine, of whichever step, that must restart or reload when this file changes.
    /// Which they are is no part of what this step wants, and so not of its digest.
    #[serde(skip)]
    pub restarts: Vec<String>,
    /// Identifies the key in it, where that is made once for the cluster.
    #[serde(skip)]
    pub key: Option<String>,
    /// Its step takes it away again, so that having it is no part of being as it should be.
    #[serde(skip)]
    pub once: bool,
}

/// A path that a unit uses and that no step writes as a file. What is sent for it waits beside it,
/// until the step of the unit puts it in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleProgram {
    pub path: String,
    /// Units of this machine that use it.
    pub units: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct BundleCommand {
    pub run: String,
    pub unless: Option<String>,
    /// [`crate::playbook::format::Command::reconcile`]; left out of digests that were made without it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reconcile: bool,
    pub why: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct BundleUndo {
    pub run: String,
    pub why: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct BundleUnit {
    pub name: String,
    pub on_change: OnChange,
    /// Absolute paths; when one of them changes, the unit restarts.
    pub depends_on: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct BundleReady {
    pub run: String,
    pub what: String,
    pub seconds: u32,
}

/// Where a bundle gets certificates, keys and kubeconfigs from.
pub trait Secrets: Sync {
    fn certificate(&self, identity: &str, machine: &Machine) -> Result<String>;
    fn key(&self, identity: &str, machine: &Machine) -> Result<String>;
    fn kubeconfig(&self, identity: &str, machine: &Machine, server: &str) -> Result<String>;
    fn authority(&self, name: &str) -> Result<String>;
}

/// What all bundles of a machine have in common.
pub struct Renderer<'a> {
    pub playbooks: &'a Playbooks,
    pub templates: &'a Templates,
    pub template_context: &'a TemplateContext,
    pub secrets: &'a dyn Secrets,
}

impl Renderer<'_> {
    /// What every step wants of a machine, by step.
    pub fn bundles(&self, machine: &Machine, facts: &Facts) -> Result<BTreeMap<String, Bundle>> {
        let context = self.template_context.for_machine(machine, facts)?;
        let topology = &self.template_context.topology;
        let mut bundles = self
            .playbooks
            .steps()
            .filter(|(_, step)| {
                topology.is_in(machine, step.on) && self.template_context.all_hold(&step.when)
            })
            .map(|(book, step)| {
                Ok((step.name.clone(), self.bundle(book, step, machine, &context)?))
            })
            .collect::<Result<BTreeMap<String, Bundle>>>()?;
        connect(&mut bundles);
        Ok(bundles)
    }

    /// One step alone: units of other steps that use its files are not known here.
    /// `context` is [`TemplateContext::for_machine`] of the same machine.
    pub fn bundle(
        &self,
        book: &Book,
        step: &Step,
        machine: &Machine,
        context: &Value,
    ) -> Result<Bundle> {
        let place = format!("{}/{}", book.directory, step.name);
        let render = |what: &str, text: &str| {
            self.templates.render(&format!("playbooks/{place}: {what}"), text, context)
        };
        let mut files = Vec::new();
        let units = step
            .units
            .iter()
            .map(|unit| self.unit(book, unit, context))
            .collect::<Result<Vec<_>>>()?;
        let own_units: Vec<String> = units.iter().map(|(unit, _)| unit.name.clone()).collect();
        for file in step.files.iter().filter(|file| !file.is_token() || !has_joined(context)) {
            let path = render("path", &file.path)?;
            let (text, secret) = self.file_text(book, file, machine, context)?;
            files.push(BundleFile::new(path, file, text, secret, own_units.clone()));
        }
        for (unit, text) in &units {
            if let Some(text) = text {
                files.push(BundleFile::for_unit(&unit.name, text.clone()));
            }
        }
        let undo = step
            .undo
            .iter()
            .map(|undo| Ok(BundleUndo { run: render("undo", &undo.run)?, why: undo.why.clone() }))
            .collect::<Result<_>>()?;
        let commands = step
            .commands
            .iter()
            .map(|command| {
                Ok(BundleCommand {
                    run: render("run", &command.run)?,
                    unless: command
                        .unless
                        .as_deref()
                        .map(|text| render("unless", text))
                        .transpose()?,
                    reconcile: command.reconcile,
                    why: command.why.clone(),
                })
            })
            .collect::<Result<Vec<BundleCommand>>>()?;
        let reconciled = commands.iter().enumerate().filter(|(_, command)| command.reconcile);
        files.extend(reconciled.map(|(number, command)| {
            BundleFile::for_reconciling(&format!("{}-{number}", step.name), command)
        }));
        let ready = step
            .ready
            .as_ref()
            .map(|ready| {
                Ok::<_, Failure>(BundleReady {
                    run: render("ready", &ready.run)?,
                    what: render("what", &ready.what)?,
                    seconds: ready
                        .seconds
                        .saturating_mul(self.template_context.config.slow_machines),
                })
            })
            .transpose()?;
        let carried = &self.template_context.mirrored_images;
        Ok(Bundle {
            step: step.name.clone(),
            machine: machine.name.clone(),
            packages: step.packages.clone(),
            users: step.users.clone(),
            directories: step.directories.clone(),
            files,
            undo,
            leaves: step.leaves.clone(),
            shares: step.shares.clone(),
            commands,
            units: units.into_iter().map(|(unit, _)| unit).collect(),
            programs: Vec::new(),
            ready,
            artifacts: step.artifacts.clone(),
            images: step.images.iter().filter(|name| carried.contains(name)).cloned().collect(),
        })
    }

    /// The manifests of a step, rendered, each with the name that the user can find it by.
    pub fn manifests(&self, book: &Book, step: &Step) -> Result<Vec<(String, String)>> {
        let context = self.template_context.for_cluster()?;
        let render = |name: &String| {
            let place = format!("playbooks/{}/{name}", book.directory);
            let text = self.playbooks.template(book, name)?;
            let rendered = self.templates.render(&place, text, &context)?;
            Ok((place, rendered))
        };
        step.manifests.iter().map(render).collect()
    }

    fn file_text(
        &self,
        book: &Book,
        file: &File,
        machine: &Machine,
        context: &Value,
    ) -> Result<(String, bool)> {
        if let Some(name) = &file.template {
            let text = self.playbooks.template(book, name)?;
            let rendered =
                self.templates.render(&format!("{}/{name}", book.directory), text, context)?;
            return Ok((rendered, false));
        }
        if let Some(text) = &file.content {
            return Ok((self.templates.render(&file.path, text, context)?, false));
        }
        if let Some(identity) = &file.certificate {
            return Ok((self.secrets.certificate(identity, machine)?, false));
        }
        if let Some(identity) = &file.key {
            return Ok((self.secrets.key(identity, machine)?, true));
        }
        if let Some(kubeconfig) = &file.kubeconfig {
            let server = self.templates.render(&file.path, &kubeconfig.server, context)?;
            return Ok((self.secrets.kubeconfig(&kubeconfig.identity, machine, &server)?, true));
        }
        let name = file.authority.as_deref().unwrap_or_default();
        let secret = !(name.ends_with(".crt") || name.ends_with(".pub"));
        Ok((self.secrets.authority(name)?, secret))
    }

    /// The unit, and the text of its file where kdiy writes one.
    fn unit(
        &self,
        book: &Book,
        unit: &Unit,
        context: &Value,
    ) -> Result<(BundleUnit, Option<String>)> {
        let mut depends_on = unit
            .restarts_with
            .iter()
            .map(|path| self.templates.render(&unit.name, path, context))
            .collect::<Result<Vec<_>>>()?;
        depends_on.extend(unit.exec.clone());
        let text = match &unit.template {
            Some(name) => {
                let text = self.playbooks.template(book, name)?;
                Some(self.templates.render(&format!("{}/{name}", book.directory), text, context)?)
            }
            None if unit.packaged => None,
            None => Some(self.described_unit(unit, context)?),
        };
        let bundled = BundleUnit { name: unit.name.clone(), on_change: unit.on_change, depends_on };
        Ok((bundled, text))
    }

    fn described_unit(&self, unit: &Unit, context: &Value) -> Result<String> {
        let mut flags = Vec::new();
        for flag in unit.flags.iter().filter(|flag| self.template_context.all_hold(&flag.when)) {
            let name = format!("{}: {}", unit.name, flag.flag);
            let value = self.templates.render(&name, &flag.value, context)?;
            flags.push(format!("{}={value}", flag.flag));
        }
        let mut service = Vec::new();
        for (key, value) in &unit.service {
            let name = format!("{}: {key}", unit.name);
            service.push(serde_json::json!({
                "key": key,
                "value": self.templates.render(&name, value, context)?,
            }));
        }
        let own = |key: &str| unit.service.contains_key(key);
        let view = serde_json::json!({
            "description": unit.description,
            "documentation": unit.documentation,
            "after": unit.after,
            "mounts": unit.mounts,
            "user": unit.user,
            "exec": unit.exec,
            "flags": flags,
            "service": service,
            "sandbox": unit.sandbox,
            "writes": unit.writes,
            "settings": context["settings"],
            "restart": !own("Restart"),
            "restartSec": !own("RestartSec"),
        });
        let template = self
            .playbooks
            .file(UNIT_TEMPLATE)
            .ok_or_else(|| Failure::input(format!("playbooks/{UNIT_TEMPLATE} does not exist")))?;
        self.templates.render(UNIT_TEMPLATE, template, &view)
    }
}

/// Tells each file and each program of a machine which of its units use it.
fn connect(bundles: &mut BTreeMap<String, Bundle>) {
    let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut written = BTreeSet::new();
    for bundle in bundles.values() {
        written.extend(bundle.files.iter().map(|file| file.path.clone()));
        for unit in &bundle.units {
            for path in bundle.uses(unit) {
                users.entry(path.to_owned()).or_default().insert(unit.name.clone());
            }
        }
    }
    let of = |path: &str| users.get(path).into_iter().flatten().cloned().collect::<Vec<_>>();
    for bundle in bundles.values_mut() {
        for file in &mut bundle.files {
            file.restarts = of(&file.path);
        }
        let paths: BTreeSet<&String> =
            bundle.units.iter().flat_map(|unit| &unit.depends_on).collect();
        let programs = paths.into_iter().filter(|path| !written.contains(*path));
        bundle.programs =
            programs.map(|path| BundleProgram { path: path.clone(), units: of(path) }).collect();
    }
}

impl BundleFile {
    fn new(path: String, file: &File, text: String, secret: bool, restarts: Vec<String>) -> Self {
        // Not of a public key alone: with another private one, that differs as well.
        let key = file.authority.as_ref().and_then(|_| key::of_text(&text));
        let bytes = text.into_bytes();
        Self {
            path,
            mode: file.mode.clone(),
            owner: file.owner.clone(),
            digest: sha256(&bytes),
            bytes,
            secret,
            restarts,
            key,
            once: file.is_token(),
        }
    }

    fn for_unit(name: &str, text: String) -> Self {
        let bytes = text.into_bytes();
        Self {
            path: format!("{UNIT_DIRECTORY}/{name}"),
            mode: "0644".into(),
            owner: "root:root".into(),
            digest: sha256(&bytes),
            bytes,
            secret: false,
            restarts: vec![name.to_owned()],
            key: None,
            once: false,
        }
    }

    /// A script whose first argument says whether to `check` or to `restore`. Nothing restarts with
    /// it: it is read anew each time.
    fn for_reconciling(name: &str, command: &BundleCommand) -> Self {
        let unless = command.unless.as_deref().unwrap_or_default();
        let text = format!(
            "# {}\nset -eu\ncheck() {{\n{}\n}}\nrestore() {{\n{}\n}}\n\"$1\"\n",
            command.summary(),
            unless.trim_end(),
            command.run.trim_end()
        );
        let bytes = text.into_bytes();
        Self {
            path: format!("{RECONCILE_DIRECTORY}/{name}"),
            mode: "0600".into(),
            owner: "root:root".into(),
            digest: sha256(&bytes),
            bytes,
            secret: false,
            restarts: Vec::new(),
            key: None,
            once: false,
        }
    }
}

impl Bundle {
    /// Every path whose change restarts or reloads this unit of the step.
    pub fn uses<'a>(&'a self, unit: &'a BundleUnit) -> BTreeSet<&'a str> {
        let own = self.files.iter().filter(|file| file.restarts.contains(&unit.name));
        let own = own.map(|file| file.path.as_str());
        own.chain(unit.depends_on.iter().map(String::as_str)).collect()
    }

    pub fn has_unit(&self, name: &str) -> bool {
        self.units.iter().any(|unit| unit.name == name)
    }

    /// Whether the machine is given a token to join with, which the api has to know first.
    pub fn brings_token(&self) -> bool {
        self.files.iter().any(|file| file.once)
    }

    /// Identifies what the step wants of the machine, secrets included only by their digests.
    pub fn digest(&self) -> String {
        let leaves: Vec<&String> = self.leaves.iter().chain(&self.shares).collect();
        let lasting: Vec<&BundleFile> = self.files.iter().filter(|file| !file.once).collect();
        let parts = serde_json::json!([
            self.packages,
            self.users,
            self.directories,
            lasting,
            self.undo,
            leaves,
            self.commands,
            self.units,
            self.ready,
            self.images,
        ]);
        sha256(parts.to_string().as_bytes())
    }
}

impl Bundle {
    /// Whether the unit's file is ours; otherwise it comes with a package.
    pub fn writes_unit(&self, name: &str) -> bool {
        let path = format!("{UNIT_DIRECTORY}/{name}");
        self.files.iter().any(|file| file.path == path)
    }
}

impl BundleCommand {
    /// What it does, as a progress line says it.
    pub fn summary(&self) -> &str {
        self.why.lines().next().unwrap_or_default()
    }
}

impl BundleUnit {
    /// How it takes up what changed.
    pub const fn verb(&self) -> observe::Verb {
        match self.on_change {
            OnChange::Restart => observe::Verb::Restart,
            OnChange::Reload => observe::Verb::Reload,
        }
    }
}

/// Of a machine's context.
fn has_joined(context: &Value) -> bool {
    context["facts"]["joined"].as_bool().unwrap_or_default()
}

/// SHA-256 in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
