//! What `up` would do: for each step and machine what it would create, change, restart and run, and
//! why.
//!
//! [`look`] reads the machines; this module decides what follows, with the same functions as `up`.

pub mod current_state;
pub mod graph;

use std::collections::BTreeSet;

use serde::Serialize;
use similar::TextDiff;

use crate::bundle::etcd_data::EtcdData;
use crate::bundle::observe::{Difference, Verb};
use crate::bundle::{Bundle, RECONCILE_DIRECTORY, Renderer};
use crate::engine::plan::Plan;
use crate::etcd::data_loss::{Verdict, lost, verdict};
use crate::playbook::format::Step;
use crate::support::failure::{Failure, Result};
use crate::support::redact::Redactor;
use crate::topology::{Group, Machine, Role};
use current_state::{CurrentState, MachineState, Standing};

/// Lines around a change, as `diff -u` shows them.
const CONTEXT: usize = 3;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    pub cluster: String,
    /// It was begun on this computer before.
    pub begun: bool,
    pub machines: Vec<MachinePreview>,
    /// Members of etcd without their data, and what `up` would do about each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
    /// Steps that would do something, in their order, once for each machine.
    pub parts: Vec<Part>,
    /// Steps whose gates are proven afterwards.
    pub gates: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct MachinePreview {
    pub name: String,
    pub role: Role,
    pub address: std::net::Ipv4Addr,
    #[serde(rename = "is")]
    pub standing: Standing,
}

/// One step on one machine, or on the cluster as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    pub step: String,
    pub title: String,
    pub why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    pub actions: Vec<Action>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Action {
    pub verb: Verb,
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// In the unified format; never of a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
}

impl Preview {
    /// Whether `up` would change anything, as far as the machines could be looked at.
    pub fn changes(&self) -> bool {
        let stands = |machine: &MachinePreview| machine.standing == Standing::Answers;
        !self.parts.is_empty() || !self.findings.is_empty() || !self.machines.iter().all(stands)
    }
}

/// What a preview is made from.
pub struct PreviewBuilder<'a> {
    pub renderer: Renderer<'a>,
    pub plan: &'a Plan,
    pub looks: &'a CurrentState,
    pub redactor: &'a Redactor,
    /// Show what new files hold as well.
    pub full: bool,
    /// The cluster was complete once, so etcd must have data.
    pub had_data: bool,
}

impl PreviewBuilder<'_> {
    pub fn preview(&self, begun: bool) -> Result<Preview> {
        let topology = &self.renderer.template_context.topology;
        // Paths that earlier steps would have changed, by machine.
        let mut changed: Vec<BTreeSet<String>> = vec![BTreeSet::new(); topology.machines.len()];
        let mut parts = Vec::new();
        let mut gates = Vec::new();
        for name in &self.plan.steps(self.renderer.playbooks) {
            let (_, step) = self
                .renderer
                .playbooks
                .step(name)
                .ok_or_else(|| Failure::bug(format!("the step {name} does not exist")))?;
            if step.on == Group::Cluster {
                parts.extend(self.on_cluster(step));
            }
            for (machine, changed) in topology.machines.iter().zip(&mut changed) {
                if topology.is_in(machine, step.on) {
                    parts.extend(self.on_machine(step, machine, changed));
                }
            }
            if step.gate.is_some() {
                gates.push(step.name.clone());
            }
        }
        let machines = topology.machines.iter().map(|machine| self.machine(machine)).collect();
        let findings = self.findings();
        Ok(Preview { cluster: topology.cluster.clone(), begun, machines, findings, parts, gates })
    }

    fn findings(&self) -> Vec<String> {
        let topology = &self.renderer.template_context.topology;
        let data: Vec<(&str, Option<EtcdData>)> = topology
            .group(Group::Etcd)
            .into_iter()
            .map(|machine| {
                let look = &self.looks.machines[&machine.name];
                let data = match look.standing {
                    Standing::Answers => look.observed.etcd_data,
                    Standing::ToBeMade => Some(EtcdData::default()),
                    Standing::Silent { .. } => None,
                };
                (machine.name.as_str(), data)
            })
            .collect();
        if self.had_data && verdict(&data) == Verdict::Lost {
            let failure = lost(&topology.cluster, &data);
            let first = format!("{}, so `kdiy up` would stop and change nothing", failure.what);
            return [first].into_iter().chain(failure.tail).chain(failure.hints).collect();
        }
        let member = |(name, data): &(&str, Option<EtcdData>)| {
            let data = data.filter(|data| data.cluster_exists && !data.has_log)?;
            Some(format!(
                "etcd on {name} has lost its data ({}): `kdiy up` adds it as a new member",
                data.why_not()
            ))
        };
        data.iter().filter_map(member).collect()
    }

    fn machine(&self, machine: &Machine) -> MachinePreview {
        MachinePreview {
            name: machine.name.clone(),
            role: machine.role,
            address: machine.address,
            standing: self.looks.machines[&machine.name].standing.clone(),
        }
    }

    fn on_cluster(&self, step: &Step) -> Option<Part> {
        let foreseen = self.looks.cluster.get(&step.name)?;
        let objects = foreseen.objects.iter().map(|object| {
            let before = object.before.as_deref();
            let verb = if before.is_some() { Verb::Change } else { Verb::Create };
            let shown = !object.secret && (verb == Verb::Change || self.full);
            let diff =
                shown.then(|| self.diff(&object.object, before.unwrap_or_default(), &object.after));
            Action { verb, what: object.object.clone(), why: None, diff, secret: object.secret }
        });
        let actions = foreseen.actions.iter().map(|what| Action::plain(Verb::Run, what));
        part(step, None, objects.chain(actions).collect())
    }

    fn on_machine(
        &self,
        step: &Step,
        machine: &Machine,
        changed: &mut BTreeSet<String>,
    ) -> Option<Part> {
        let look = &self.looks.machines[&machine.name];
        let bundle = look.bundles.get(&step.name)?;
        let lacking = self.looks.lacking(bundle, &look.observed);
        let mut installing: Vec<String> = lacking.iter().map(|(path, _)| path.clone()).collect();
        let staged = bundle.staged(&look.observed.staged);
        installing.extend(staged.into_iter().map(str::to_owned));
        let work = bundle.work(&look.observed, &installing, changed);
        if work.is_empty() {
            return None;
        }
        let written = work
            .iter()
            .filter(|it| matches!(it.verb, Verb::Create | Verb::Change | Verb::Install))
            .map(|it| it.what.clone())
            .collect::<Vec<_>>();
        let mut actions = Vec::new();
        if look.standing == Standing::ToBeMade {
            actions.extend(prerequisites(bundle));
        }
        for difference in work {
            // That a step was never finished goes without saying where there is no machine.
            if difference.verb == Verb::Redo && look.standing == Standing::ToBeMade {
                continue;
            }
            let mut action = self.action(step, bundle, look, difference);
            if action.verb == Verb::Install {
                let sent = || "an earlier run copied it".to_owned();
                let lacks = lacking.iter().find(|it| it.0 == action.what);
                action.why = Some(lacks.map_or_else(sent, |(_, why)| why.clone()));
            }
            if matches!(action.verb, Verb::Restart | Verb::Reload) {
                action.why = cause(bundle, &action.what, look, &written, changed);
            }
            actions.push(action);
        }
        changed.extend(written);
        part(step, Some(machine), actions)
    }

    fn action(&self, step: &Step, bundle: &Bundle, look: &MachineState, it: Difference) -> Action {
        let mut action = Action::plain(it.verb, &it.what);
        if it.verb == Verb::Redo {
            action.why = Some("it was not completed, or its content has changed".into());
        }
        if it.verb == Verb::Run && look.observed.is_untrue(bundle, &it.what) {
            action.why = Some("not in effect on the machine".into());
        }
        let Some(place) = bundle.files.iter().position(|file| file.path == it.what) else {
            return action;
        };
        let file = &bundle.files[place];
        // The step's own files come first, then those of its units.
        action.why = match step.files.get(place) {
            Some(described) => described.why.clone(),
            None if file.path.starts_with(RECONCILE_DIRECTORY) => {
                Some("what kdiy-reconcile checks every few seconds and restores".into())
            }
            None => Some(format!("the unit of {}", step.name)),
        };
        if it.verb == Verb::Settle {
            let was = &look.observed.files[&file.path];
            action.why =
                Some(format!("{} {}, not {} {}", file.mode, file.owner, was.mode, was.owner));
            return action;
        }
        action.secret = file.secret;
        let before = look.contents.get(&file.path).map(String::as_str);
        let shown = it.verb == Verb::Change && before.is_some() || self.full;
        if !file.secret && shown {
            let after = String::from_utf8_lossy(&file.bytes);
            action.diff = Some(self.diff(&file.path, before.unwrap_or_default(), &after));
        }
        action
    }

    fn diff(&self, name: &str, before: &str, after: &str) -> String {
        let diff = TextDiff::from_lines(before, after);
        let text = diff.unified_diff().context_radius(CONTEXT).header(name, name).to_string();
        // Also what somebody else has put into a file that is no secret.
        self.redactor.text(&text).into_owned()
    }
}

impl Action {
    fn plain(verb: Verb, what: &str) -> Self {
        Self { verb, what: what.to_owned(), why: None, diff: None, secret: false }
    }
}

fn part(step: &Step, machine: Option<&Machine>, actions: Vec<Action>) -> Option<Part> {
    (!actions.is_empty()).then(|| Part {
        step: step.name.clone(),
        title: step.title.clone(),
        why: step.why.trim().to_owned(),
        machine: machine.map(|machine| machine.name.clone()),
        actions,
    })
}

/// What a machine that does not exist yet cannot have.
fn prerequisites(bundle: &Bundle) -> Vec<Action> {
    let packages = bundle
        .packages
        .iter()
        .map(|package| (Verb::Install, format!("the package {}", package.apt)));
    let users = bundle.users.iter().map(|user| (Verb::Create, format!("the user {}", user.name)));
    let directories =
        bundle.directories.iter().map(|directory| (Verb::Create, format!("{}/", directory.path)));
    packages
        .chain(users)
        .chain(directories)
        .map(|(verb, what)| Action::plain(verb, &what))
        .collect()
}

/// What makes a unit restart.
fn cause(
    bundle: &Bundle,
    unit: &str,
    look: &MachineState,
    written: &[String],
    changed: &BTreeSet<String>,
) -> Option<String> {
    let unit = bundle.units.iter().find(|it| it.name == unit)?;
    let changes = |path: &&str| written.iter().any(|it| it == path) || changed.contains(*path);
    match bundle.uses(unit).into_iter().find(changes) {
        Some(path) => Some(format!("{path} changes")),
        None => bundle.outdated(unit, &look.observed).map(|outdated| outdated.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::Store;
    use crate::config::ClusterConfig;
    use crate::engine::plan::{self, ClusterState};
    use crate::pki::Keeping;
    use crate::session::{RenderedCluster, ResolvedCluster};

    /// A cluster on paper, and what would have to be done for it.
    struct Paper {
        rendered: RenderedCluster,
        plan: Plan,
        looks: CurrentState,
        _directory: tempfile::TempDir,
    }

    impl Paper {
        async fn draw() -> Self {
            crate::support::tls::install_provider();
            let directory = tempfile::tempdir().unwrap();
            let at = directory.path();
            let design = ResolvedCluster::of(ClusterConfig::default(), None).unwrap();
            let store = Store::open(&at.join("cache"), at, design.source.clone()).unwrap();
            let network: ipnet::Ipv4Net = "192.168.56.0/24".parse().unwrap();
            let site = network.into();
            let rendered = design.draw(&at.join("pki"), &site, Keeping::Existing).unwrap();
            let plan = plan::build(
                &rendered.playbooks,
                &rendered.template_context,
                &ClusterState::default(),
            )
            .unwrap();
            let looks = CurrentState::assumed(&rendered, &store).await.unwrap();
            Self { rendered, plan, looks, _directory: directory }
        }

        /// As it is after `up`.
        async fn settled() -> Self {
            let mut paper = Self::draw().await;
            for look in paper.looks.machines.values_mut() {
                look.standing = Standing::Answers;
                let kept = EtcdData { has_log: true, ..EtcdData::default() };
                look.observed.etcd_data = look.bundles.contains_key("etcd").then_some(kept);
                for bundle in look.bundles.values() {
                    look.observed.settle(bundle);
                }
            }
            paper.looks.cluster.clear();
            paper.looks.forget_artifacts();
            paper
        }

        fn preview(&self, full: bool) -> Preview {
            let secrets = self.rendered.pki.secrets();
            let redactor = Redactor::new(secrets.iter().map(String::as_str)).unwrap();
            let drafter = PreviewBuilder {
                renderer: self.rendered.renderer(),
                plan: &self.plan,
                looks: &self.looks,
                redactor: &redactor,
                full,
                had_data: true,
            };
            drafter.preview(true).unwrap()
        }
    }

    #[tokio::test]
    async fn a_settled_cluster_needs_nothing() {
        let preview = Paper::settled().await.preview(false);
        assert!(!preview.changes(), "{:?}", preview.parts);
    }

    #[tokio::test]
    async fn a_file_edited_by_hand_is_shown_where_it_is_and_nowhere_else() {
        let mut paper = Paper::settled().await;
        let path = "/etc/haproxy/haproxy.cfg";
        let look = paper.looks.machines.get_mut("kdiy-master-2").unwrap();
        look.observed.files.get_mut(path).unwrap().digest = "0".into();
        let wanted = &look.bundles["haproxy"].files.iter().find(|file| file.path == path).unwrap();
        let edited = String::from_utf8_lossy(&wanted.bytes).replace("mode tcp", "mode http");
        look.contents.insert(path.into(), edited);
        let preview = paper.preview(false);
        let [part] = preview.parts.as_slice() else { panic!("{:?}", preview.parts) };
        assert_eq!(part.machine.as_deref(), Some("kdiy-master-2"));
        let diff = part.actions[0].diff.as_deref().unwrap();
        assert!(diff.contains("-  mode http") && diff.contains("+  mode tcp"), "{diff}");
        let last = part.actions.last().unwrap();
        assert_eq!((last.verb, last.what.as_str()), (Verb::Reload, "haproxy.service"));
        assert_eq!(last.why.as_deref(), Some("/etc/haproxy/haproxy.cfg changes"));
    }

    #[tokio::test]
    async fn data_that_is_lost_is_a_finding() {
        let mut paper = Paper::settled().await;
        let gone = EtcdData { cluster_exists: true, ..EtcdData::default() };
        let mut lose = |machine: &str| {
            paper.looks.machines.get_mut(machine).unwrap().observed.etcd_data = Some(gone);
            paper.preview(false)
        };
        let one = lose("kdiy-master-2");
        assert!(one.changes() && one.findings.len() == 1, "{:?}", one.findings);
        assert!(one.findings[0].contains("kdiy-master-2 has lost its data"), "{:?}", one.findings);
        lose("kdiy-master-1");
        let all = lose("kdiy-master-3");
        assert!(all.findings[0].contains("would stop"), "{:?}", all.findings);
    }

    #[tokio::test]
    async fn a_new_certificate_restarts_what_uses_it_in_another_step() {
        let mut paper = Paper::settled().await;
        let look = paper.looks.machines.get_mut("kdiy-master-1").unwrap();
        look.observed.files.remove("/etc/kubernetes/pki/apiserver.crt");
        let preview = paper.preview(false);
        let steps: Vec<&str> = preview.parts.iter().map(|part| part.step.as_str()).collect();
        assert_eq!(steps, ["control-plane-files", "kube-apiserver"]);
        let restart = preview.parts[1].actions.last().unwrap();
        assert_eq!(restart.why.as_deref(), Some("/etc/kubernetes/pki/apiserver.crt changes"));
    }

    #[tokio::test]
    async fn a_preview_of_a_new_cluster_shows_everything_but_secrets() {
        let paper = Paper::draw().await;
        let text = serde_json::to_string(&paper.preview(true)).unwrap();
        assert!(
            text.contains("--initial-cluster-token=") && text.contains("/usr/local/bin/kubelet")
        );
        for secret in paper.rendered.pki.secrets() {
            assert!(!text.contains(&secret));
        }
    }
}
