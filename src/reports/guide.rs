//! The runbook: one cluster, from bare machines to the last check, as commands for a person.
//!
//! It comes from the same playbooks that `up` uses. It contains no secrets: readers generate their
//! own keys, and where `up` would write a secret, the guide has a placeholder that the reader's
//! shell replaces. Pure.

pub mod block;
mod delivery;
pub mod html;
mod keys;
pub mod rationale;
pub mod releases;
pub mod secret_placeholders;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::json;

use crate::artifacts::catalogue::Versions;
use crate::artifacts::{Catalogue, Source};
use crate::bundle::script::quote;
use crate::bundle::{Bundle, Renderer};
use crate::playbook::context::TemplateContext;
use crate::playbook::format::Step;
use crate::playbook::load::{Book, Playbooks};
use crate::playbook::template::Templates;
use crate::session::RenderedCluster;
use crate::support::failure::{Failure, Result};
use crate::topology::facts::Facts;
use crate::topology::{Group, Machine};
use crate::transport::target::SshTarget;
use block::Block;
use delivery::DELIVERED;
use releases::Releases;
use secret_placeholders::SecretPlaceholders;

/// Templates of the guide below the playbook directory.
const TEMPLATES: &str = "guide";

/// What is in the guide besides steps, their actions and their checks; one template each.
pub const CHAPTERS: [&str; 9] = [
    "before",
    "keys",
    "authorities",
    "certificates",
    "other-keys",
    "made-of-keys",
    "releases",
    "deliver",
    "after",
];

/// A cluster whose secrets are stand-ins, with everything that a person needs to make it.
pub struct Guide<'a> {
    pub playbooks: &'a Playbooks,
    pub templates: &'a Templates,
    template_context: TemplateContext,
    releases: Releases,
    /// Of machines, by name and step.
    bundles: BTreeMap<String, BTreeMap<String, Bundle>>,
}

/// What the guide is written from.
pub struct Sources<'a> {
    pub playbooks: &'a Playbooks,
    pub templates: &'a Templates,
    pub template_context: &'a TemplateContext,
    pub catalogue: &'a Catalogue,
    pub versions: &'a Versions,
    pub source: &'a Source,
    pub arch: &'a str,
}

impl<'a> Sources<'a> {
    pub fn of(rendered: &'a RenderedCluster, arch: &'a str) -> Self {
        Self {
            playbooks: &rendered.playbooks,
            templates: &rendered.templates,
            template_context: &rendered.template_context,
            catalogue: &rendered.catalogue,
            versions: &rendered.versions,
            source: &rendered.source,
            arch,
        }
    }
}

impl<'a> Guide<'a> {
    /// `facts` by machine; a machine without any is taken for an ordinary virtual machine.
    pub fn new(sources: &Sources<'a>, facts: &BTreeMap<String, Facts>) -> Result<Self> {
        let Sources { playbooks, templates, .. } = *sources;
        let template_context = sources.template_context.clone();
        let renderer = Renderer {
            playbooks,
            templates,
            template_context: &template_context,
            secrets: &SecretPlaceholders,
        };
        let assumed = Facts::assumed(sources.arch);
        let mut bundles = BTreeMap::new();
        for machine in &template_context.topology.machines {
            let facts = facts.get(&machine.name).unwrap_or(&assumed);
            // Who does it by hand begins with machines that are part of nothing.
            let facts = Facts { joined: false, ..facts.clone() };
            bundles.insert(machine.name.clone(), renderer.bundles(machine, &facts)?);
        }
        let of_steps = bundles.values().flat_map(BTreeMap::values);
        let names: BTreeSet<&String> =
            of_steps.flat_map(|bundle| bundle.artifacts.iter().chain(&bundle.images)).collect();
        let releases = Releases::of(
            names.into_iter(),
            &template_context,
            sources.catalogue,
            sources.versions,
            sources.source,
            sources.arch,
        )?;
        Ok(Self { playbooks, templates, template_context, releases, bundles })
    }

    /// The whole document, as Markdown. `steps` are in the order of the plan; `targets` say how
    /// machines are reached, where that is known.
    pub fn markdown(
        &self,
        steps: &[String],
        targets: &BTreeMap<String, SshTarget>,
        assumed: bool,
    ) -> Result<String> {
        let mut text = self.chapter("before", &json!({ "assumed": assumed }))?;
        text.push_str(&block::markdown(&[self.working_directory(targets)]));
        text.push_str(&self.chapter("keys", &json!({}))?);
        text.push_str(&self.keys()?);
        text.push_str(&self.chapter("releases", &json!({}))?);
        text.push_str(&block::markdown(&[self.here(&self.releases.fetching())]));
        text.push_str(&self.chapter("deliver", &json!({}))?);
        text.push_str(&block::markdown(&self.deliveries()));
        let mut books: BTreeSet<&str> = BTreeSet::new();
        for (number, name) in steps.iter().enumerate() {
            let (book, step) = self.playbooks.known_step(name)?;
            let _ = write!(text, "## {}. {}: {}\n\n", number + 1, step.name, step.title);
            if books.insert(&book.directory) {
                let _ = write!(
                    text,
                    "> **{}.** {}\n\n",
                    book.playbook.title,
                    one_line(&book.playbook.why)
                );
            }
            let _ = write!(text, "{}\n\n", step.why.trim());
            text.push_str(&self.doing(book, step, None)?);
            text.push_str(&rationale::of(step));
            let ready = |other: &Step, with: Option<&str>| {
                other.ready.as_ref().is_some_and(|ready| ready.with.as_deref() == with)
            };
            if ready(step, None) {
                text.push_str(&self.waiting(step, None));
            }
            for (_, other) in self.playbooks.steps().filter(|(_, it)| ready(it, Some(name))) {
                text.push_str(&self.waiting(other, None));
            }
            text.push_str(&self.check(step)?);
        }
        text.push_str(&self.chapter("after", &json!({}))?);
        Ok(text)
    }

    /// The commands of a step, on one machine or on all of its machines, and the wait for what
    /// they have started.
    pub fn by_hand(&self, book: &Book, step: &Step, only: Option<&Machine>) -> Result<String> {
        Ok(self.doing(book, step, only)? + &self.waiting(step, only))
    }

    fn doing(&self, book: &Book, step: &Step, only: Option<&Machine>) -> Result<String> {
        if step.on == Group::Cluster {
            return self.through_the_api(book, step);
        }
        let bundles = self.bundles_of(step, only);
        let blocks = bundles.filter_map(|bundle| block::doing(bundle, &self.releases));
        Ok(block::markdown(&blocks.collect::<Vec<_>>()))
    }

    fn waiting(&self, step: &Step, only: Option<&Machine>) -> String {
        let blocks = self.bundles_of(step, only).filter_map(block::waiting);
        block::markdown(&blocks.collect::<Vec<_>>())
    }

    fn bundles_of(&self, step: &Step, only: Option<&Machine>) -> impl Iterator<Item = &Bundle> {
        let machines = self.template_context.topology.group(step.on).into_iter();
        let machines = machines.filter(move |it| only.is_none_or(|only| only.name == it.name));
        machines.filter_map(|machine| self.bundles[&machine.name].get(&step.name))
    }

    /// The proof of a step, as commands that fail where the cluster is not as it should be.
    pub fn check(&self, step: &Step) -> Result<String> {
        let Some(gate) = &step.gate else { return Ok(String::new()) };
        let commands = self.render(&format!("gate-{}", gate.name), &json!({}))?;
        Ok(format!("**Check.** {}\n\n{commands}\n", gate.why.trim()))
    }

    fn through_the_api(&self, book: &Book, step: &Step) -> Result<String> {
        let renderer = Renderer {
            playbooks: self.playbooks,
            templates: self.templates,
            template_context: &self.template_context,
            secrets: &SecretPlaceholders,
        };
        let mut blocks = Vec::new();
        for (place, manifest) in renderer.manifests(book, step)? {
            let name = place.rsplit('/').next().unwrap_or(&place).trim_end_matches(".hbs");
            let path = format!("manifests/{name}");
            let writing = block::putting_together(&path, &manifest);
            blocks.push(self.here(&format!(
                "mkdir -p manifests\n{writing}\nkubectl apply --server-side -f {path}"
            )));
        }
        let mut text = block::markdown(&blocks);
        if let Some(action) = step.action {
            let name = serde_json::to_value(action)
                .map_err(|error| Failure::bug("an action's name").because(error))?;
            text.push_str(&self.render(name.as_str().unwrap_or_default(), &json!({}))?);
        }
        Ok(text)
    }

    fn chapter(&self, name: &str, more: &serde_json::Value) -> Result<String> {
        Ok(self.render(name, more)? + "\n")
    }

    fn render(&self, name: &str, more: &serde_json::Value) -> Result<String> {
        let path = format!("{TEMPLATES}/{name}.md.hbs");
        let text = self
            .playbooks
            .file(&path)
            .ok_or_else(|| Failure::input(format!("playbooks/{path} does not exist")))?;
        let mut context = self.template_context.for_cluster()?;
        context["more"] = more.clone();
        context["delivered"] = DELIVERED.into();
        context["directory"] = self.directory().into();
        context["here"] = self.settings().into();
        context["ownAddons"] =
            self.template_context.config.own_addons().map(String::as_str).collect();
        self.templates.render(&format!("playbooks/{path}"), text, &context)
    }

    /// A directory of the reader's, with the way to the machines in it.
    fn working_directory(&self, targets: &BTreeMap<String, SshTarget>) -> Block {
        let directory = self.directory();
        let hosts: Vec<String> = self
            .template_context
            .topology
            .machines
            .iter()
            .map(|machine| ssh_host(machine, targets.get(&machine.name)))
            .collect();
        Block::here(format!(
            "umask 077\nmkdir -p {directory}\ncd {directory}\n\
             cat >ssh_config <<END\n{}\
             Host *\n  UserKnownHostsFile \"$PWD/known_hosts\"\n  \
             StrictHostKeyChecking accept-new\n  BatchMode yes\nEND\n\
             # Every block for this computer starts with these settings.\n\
             cat >settings <<'END'\n\
             umask 077\ncd {directory}\n\
             PATH=$PWD/bin:$PATH KUBECONFIG=$PWD/root.kubeconfig\nexport PATH KUBECONFIG\n\
             # on MACHINE COMMAND: run it there as root; into: the same, with standard input\n\
             on() {{ into \"$@\" </dev/null; }}\n\
             into() {{ machine=$1; shift; ssh -F ssh_config \"$machine\" sudo -n \"$@\"; }}\nEND\n\
             . ./settings\n\
             for one in {}; do on $one hostname; done",
            hosts.concat(),
            self.names(),
        ))
    }

    /// Of the reader's, for everything that is made on the way.
    fn directory(&self) -> String {
        format!("~/{}-by-hand", self.template_context.topology.cluster)
    }

    fn settings(&self) -> String {
        format!(". {}/settings", self.directory())
    }

    fn here(&self, commands: &str) -> Block {
        Block::here(format!("{}\n{commands}", self.settings()))
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self
            .template_context
            .topology
            .machines
            .iter()
            .map(|machine| machine.name.as_str())
            .collect();
        names.join(" ")
    }

    fn keys(&self) -> Result<String> {
        let template_context = &self.template_context;
        let mut needed: BTreeSet<String> = BTreeSet::new();
        let mut made = Vec::new();
        for (machine, bundles) in &self.bundles {
            for file in bundles.values().flat_map(|bundle| &bundle.files) {
                let text = String::from_utf8_lossy(&file.bytes);
                needed.extend(certificates_in(&text));
                if secret_placeholders::is_in(&text)
                    && secret_placeholders::whole_file(&text).is_none()
                {
                    let path = block::made_here(file, machine);
                    let directory = path.rsplit_once('/').map_or(".", |(directory, _)| directory);
                    made.push(format!(
                        "mkdir -p {}\n{}",
                        quote(directory),
                        block::putting_together(&path, &text)
                    ));
                }
            }
        }
        for (file, identity) in
            [("root.kubeconfig", "bootstrap-admin"), ("admin.kubeconfig", "admin")]
        {
            let text = SecretPlaceholders.own_kubeconfig(&template_context.topology, identity)?;
            needed.extend(certificates_in(&text));
            made.push(block::putting_together(file, &text));
        }
        let sections = [
            ("authorities", keys::authorities(&template_context.topology)),
            (
                "certificates",
                keys::certificates(&template_context.topology, &template_context.config, &needed),
            ),
            ("other-keys", keys::others(&template_context.topology)),
            ("made-of-keys", made.join("\n")),
        ];
        let mut text = String::new();
        for (name, commands) in sections {
            text.push_str(&self.chapter(name, &json!({}))?);
            text.push_str(&block::markdown(&[self.here(&commands)]));
        }
        Ok(text)
    }

    /// To each machine what it needs of this computer, and nothing else.
    fn deliveries(&self) -> Vec<Block> {
        let send = |(machine, bundles): (&String, &BTreeMap<String, Bundle>)| {
            let mut files: BTreeSet<String> = BTreeSet::new();
            for bundle in bundles.values() {
                files
                    .extend(bundle.files.iter().filter_map(|file| block::delivered(file, machine)));
                let released = bundle.artifacts.iter().chain(&bundle.images);
                let released = released.filter_map(|name| self.releases.file(name));
                files.extend(released.map(str::to_owned));
            }
            let files: Vec<String> = files.iter().map(|file| quote(file)).collect();
            self.here(&format!(
                "on {machine} install -d -m 0700 {DELIVERED}\n\
                 tar -cf - \\\n  {} |\n  into {machine} tar -xf - -C {DELIVERED} --no-same-owner",
                files.join(" \\\n  ")
            ))
        };
        self.bundles.iter().map(send).collect()
    }
}

/// The certificates (`pki/NAME`) whose files a text stands for.
fn certificates_in(text: &str) -> Vec<String> {
    let commands = secret_placeholders::commands(text).into_iter();
    let name = |command: String| {
        let path = command.rsplit([' ', '<']).next()?;
        path.strip_suffix(".crt").map(str::to_owned)
    };
    commands.filter_map(name).collect()
}

fn ssh_host(machine: &Machine, target: Option<&SshTarget>) -> String {
    let mut text = format!("Host {}\n", machine.name);
    let Some(target) = target else {
        let _ = writeln!(text, "  HostName {}", machine.address);
        return text;
    };
    let _ = writeln!(text, "  HostName {}", target.host);
    if let Some(port) = target.port {
        let _ = writeln!(text, "  Port {port}");
    }
    if let Some(user) = &target.user {
        let _ = writeln!(text, "  User {user}");
    }
    for key in &target.keys {
        let _ = writeln!(text, "  IdentityFile {}", key.display());
    }
    if let Some(jump) = &target.jump {
        let _ = writeln!(text, "  ProxyJump {jump}");
    }
    text
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
