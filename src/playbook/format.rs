//! What is installed, as data. The types here *are* the playbook format; `kdiy config schema
//! --playbook` publishes it.
//!
//! A playbook holds steps. A step names the machines it runs on, what it needs, the things it
//! owns on those machines and the gate that proves it. There are no loops, expressions or
//! includes; `when:` takes a closed set.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::topology::Group;

/// The identity of a kubeconfig that shows a bootstrap token instead of a certificate.
pub const KUBELET_BOOTSTRAP: &str = "kubelet-bootstrap";

/// One `playbooks/NN-name/playbook.yaml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Playbook {
    /// One line, as `explain` and the runbook head it.
    pub title: String,
    /// Why this part of a cluster exists. Markdown.
    pub why: String,
    pub steps: Vec<Step>,
}

impl Playbook {
    /// JSON schema, draft 2020-12.
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Step {
    /// Unique among all playbooks; lower case and hyphens.
    pub name: String,
    /// What it does, in a few words, as the progress display shows it.
    pub title: String,
    /// Why it is done, and done this way. Markdown.
    pub why: String,
    pub on: Group,
    /// All must hold for the step to exist.
    #[serde(default)]
    pub when: Vec<Condition>,
    /// Steps that must be done, and whose gates must be green, before this one starts.
    #[serde(default)]
    pub needs: Vec<String>,
    /// On a cluster that already runs: one machine at a time, with the gate in between.
    #[serde(default)]
    pub rolling: bool,
    /// Distribution packages, by the command or file that shows that they are there.
    #[serde(default)]
    pub packages: Vec<Package>,
    /// System users to create.
    #[serde(default)]
    pub users: Vec<User>,
    #[serde(default)]
    pub directories: Vec<Directory>,
    /// Release files to install, by name in `artifacts.yaml`.
    #[serde(default)]
    pub artifacts: Vec<String>,
    /// Container images to load into containerd, by name in `artifacts.yaml`, where the mirror
    /// carries them.
    #[serde(default)]
    pub images: Vec<String>,
    #[serde(default)]
    pub files: Vec<File>,
    /// Run in order after the files are in place and before units start.
    #[serde(default)]
    pub commands: Vec<Command>,
    #[serde(default)]
    pub units: Vec<Unit>,
    /// What `destroy` runs on a machine that exists without kdiy, once the step's units are
    /// stopped and before its files go; the last first.
    #[serde(default)]
    pub undo: Vec<Undo>,
    /// Files that the step's programs make, and directories that they make or fill. `destroy`
    /// removes what was not there before, in directories that were there as well.
    #[serde(default)]
    pub leaves: Vec<String>,
    /// Directories in which the step's programs make things, and others may as well. `undo` takes
    /// out what is the step's; `destroy` removes those that were not there before and are empty.
    #[serde(default)]
    pub shares: Vec<String>,
    /// Polled on the machine itself after its units have started.
    #[serde(default)]
    pub ready: Option<Ready>,
    /// Kubernetes manifests (templates) to apply through the api; for `on: cluster`.
    #[serde(default)]
    pub manifests: Vec<String>,
    /// A change that only Rust can make, by name; for `on: cluster`.
    #[serde(default)]
    pub action: Option<Action>,
    /// The proof, by name, run once after the step is done on all its machines.
    #[serde(default)]
    pub gate: Option<GateRef>,
    /// The proof between two machines of a rolling step, where the step as a whole ends in none.
    #[serde(default)]
    pub gate_between: Option<GateRef>,
    /// How to see for oneself what the step is good for.
    #[serde(default)]
    pub exercise: Option<Exercise>,
}

impl Step {
    /// What proves the machines that were changed before the next one is.
    pub fn between(&self) -> Option<&GateRef> {
        self.gate_between.as_ref().or(self.gate.as_ref())
    }
}

/// Something to break, on a cluster that one may break. Each text is Markdown and a template; it
/// sees the first machine of the step as `machine`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Exercise {
    /// A command that breaks it.
    pub r#break: String,
    /// What to look at, and what is to be seen.
    pub see: String,
    /// What mends it.
    pub mend: String,
}

/// The closed set of `when:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// There is a virtual IP for keepalived to hold.
    Vip,
    EtcdStacked,
    EtcdExternal,
    LbStacked,
    LbDedicated,
    CniBridge,
    CniFlannel,
    /// kdiy makes the pod network.
    CniAny,
    /// The pod network comes with the add-ons.
    CniNone,
    AddonLocalPath,
    /// There are add-ons from files or URLs.
    AddonManifests,
    /// Masters keep ordinary pods away.
    MastersTainted,
    /// The mirror carries container images.
    ImagesMirrored,
    /// Kubernetes is 1.36 or newer.
    #[serde(rename = "kubernetes-1.36")]
    Kubernetes136,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Package {
    /// Name in Debian and Ubuntu.
    pub apt: String,
    /// Name in Rocky and Alma.
    pub dnf: String,
    /// An absolute path, or a command name, that exists once it is installed.
    pub provides: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct User {
    pub name: String,
    pub home: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Directory {
    pub path: String,
    /// Four octal digits.
    pub mode: String,
    /// `user:group`.
    #[serde(default = "root")]
    pub owner: String,
}

/// Exactly one of `template`, `content`, `certificate`, `key`, `kubeconfig` and `authority`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct File {
    /// Absolute; a template.
    pub path: String,
    /// A `.hbs` file beside the playbook.
    #[serde(default)]
    pub template: Option<String>,
    /// The text itself; a template.
    #[serde(default)]
    pub content: Option<String>,
    /// Certificate of this identity (`pki::identity`), for this machine.
    #[serde(default)]
    pub certificate: Option<String>,
    /// Private key of this identity, for this machine.
    #[serde(default)]
    pub key: Option<String>,
    /// A kubeconfig that authenticates as this identity.
    #[serde(default)]
    pub kubeconfig: Option<Kubeconfig>,
    /// `kubernetes`, `etcd` or `front-proxy`, with `.crt` or `.key`; `service-account.key` or
    /// `.pub`; `encryption-config`.
    #[serde(default)]
    pub authority: Option<String>,
    #[serde(default = "world_readable")]
    pub mode: String,
    #[serde(default = "root")]
    pub owner: String,
    #[serde(default)]
    pub why: Option<String>,
}

impl File {
    /// What a machine joins with: it is there only while the machine has no certificate.
    pub fn is_token(&self) -> bool {
        self.kubeconfig.as_ref().is_some_and(|it| it.identity == KUBELET_BOOTSTRAP)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Kubeconfig {
    pub identity: String,
    /// `https://host:port`; a template.
    pub server: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Command {
    /// For `/bin/sh`, as root; a template.
    pub run: String,
    /// Skips the command when this succeeds; a template. Every look at the machine asks it, so it
    /// changes nothing and ends within seconds: one that fails is drift.
    #[serde(default)]
    pub unless: Option<String>,
    /// The machine itself asks `unless` every few seconds, and runs the command again when it fails
    /// twice (`kdiy-reconcile.service`).
    #[serde(default)]
    pub reconcile: bool,
    pub why: String,
}

/// Takes back what commands and programs change outside of the step's own files. May find it
/// half done, or not done at all, and must succeed then as well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Undo {
    /// For `/bin/sh`, as root; a template.
    pub run: String,
    pub why: String,
}

/// A systemd unit. Either `template` names a file, or the fields below describe a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Unit {
    /// With its suffix: `etcd.service`.
    pub name: String,
    #[serde(default)]
    pub template: Option<String>,
    /// The unit comes from a distribution package; only its state is ours.
    #[serde(default)]
    pub packaged: bool,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub documentation: Option<String>,
    #[serde(default)]
    pub after: Vec<String>,
    /// Paths whose file systems are mounted before it starts, where they have one of their own.
    #[serde(default)]
    pub mounts: Vec<String>,
    #[serde(default)]
    pub user: Option<String>,
    /// The program, absolute.
    #[serde(default)]
    pub exec: Option<String>,
    #[serde(default)]
    pub flags: Vec<Flag>,
    /// Further lines of `[Service]`, in alphabetical order of their keys.
    #[serde(default)]
    pub service: BTreeMap<String, String>,
    /// What systemd keeps the unit from, should somebody take it over (`unit.service.hbs`).
    #[serde(default)]
    pub sandbox: Option<Sandbox>,
    /// Paths that the unit may write to, for all that its sandbox makes read-only.
    #[serde(default)]
    pub writes: Vec<String>,
    /// Files of other steps and artifacts at whose change this unit restarts, besides the files
    /// and artifacts of its own step.
    #[serde(default)]
    pub restarts_with: Vec<String>,
    /// `reload` where the daemon can read its files again without stopping.
    #[serde(default)]
    pub on_change: OnChange,
}

/// How much a unit can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Sandbox {
    /// It reads its files, serves and connects; it runs as a user of its own.
    Server,
    /// It is root and changes the kernel's network: rules, routes, interfaces, settings.
    Network,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnChange {
    #[default]
    Restart,
    Reload,
}

/// One command-line flag with its reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Flag {
    /// With its dashes: `--advertise-address`.
    pub flag: String,
    /// A template; rendered as `flag=value`.
    pub value: String,
    pub why: String,
    #[serde(default)]
    pub when: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Ready {
    /// For `/bin/sh`; a template. Polled until it succeeds.
    pub run: String,
    /// What is being waited for, as a progress line says it.
    pub what: String,
    /// Seconds on ordinary hardware; multiplied by `slowMachines`.
    pub seconds: u32,
    /// A step that begins later and that this one cannot be ready without. They run at the same
    /// time; who does one after the other, as the guide does, waits after that one.
    #[serde(default)]
    pub with: Option<String>,
}

/// A proof that kdiy knows.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum GateName {
    Machines,
    Etcd,
    ApiServers,
    LoadBalancer,
    Controllers,
    Nodes,
    Network,
}

impl GateName {
    pub const ALL: [Self; 7] = [
        Self::Machines,
        Self::Etcd,
        Self::ApiServers,
        Self::LoadBalancer,
        Self::Controllers,
        Self::Nodes,
        Self::Network,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Machines => "machines",
            Self::Etcd => "etcd",
            Self::ApiServers => "api-servers",
            Self::LoadBalancer => "load-balancer",
            Self::Controllers => "controllers",
            Self::Nodes => "nodes",
            Self::Network => "network",
        }
    }
}

impl fmt::Display for GateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GateRef {
    pub name: GateName,
    /// Seconds on ordinary hardware; multiplied by `slowMachines`.
    pub seconds: u32,
    /// What green means, in a sentence.
    pub why: String,
    /// The proof costs pods of its own, so it is not repeated by a run that changed nothing on a
    /// cluster for which it was green before.
    #[serde(default)]
    pub costly: bool,
}

/// Changes that need more than files and commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Approves kubelet certificate requests that match the topology.
    ApproveNodeCertificates,
    /// Gives each Node its role label, taint and the pod network that the topology assigns.
    MarkNodes,
    /// Applies the manifests in `addons:`.
    ApplyAddons,
}

fn root() -> String {
    "root:root".into()
}

fn world_readable() -> String {
    "0644".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_called_what_playbooks_call_them() {
        for gate in GateName::ALL {
            assert_eq!(serde_json::to_value(gate).unwrap(), gate.as_str());
        }
    }
}
