//! What is on a machine now, read in one round trip, and what that leaves to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::script::quote;
use super::{Bundle, BundleCommand, BundleFile, key};
use crate::etcd_data::{self, EtcdData};

/// Where [`crate::runner`] notes what it installed: one file an artifact, holding the digest,
/// size and modification time of the installed file.
pub const ARTIFACT_STAMPS: &str = "/var/lib/kdiy/artifacts";

const ETCD: &str = "etcd.service";

/// The parts of a machine's state that bundles care about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Digest, mode and owner by path.
    pub files: BTreeMap<String, FileState>,
    pub units: BTreeMap<String, UnitState>,
    /// Digest of the last bundle that was applied whole, by step.
    pub steps: BTreeMap<String, String>,
    /// Units whose files changed and that have not restarted since.
    pub pending: BTreeSet<String>,
    /// Digest of installed artifacts by path, where the file is as kdiy left it.
    pub artifacts: BTreeMap<String, String>,
    /// Identifies the keys in files that hold one, by path ([`key::of_text`]).
    pub keys: BTreeMap<String, String>,
    /// Commands whose `unless` fails, by step and place in it.
    pub untrue: BTreeSet<(String, usize)>,
    /// What packages provide and is not there any more ([`crate::playbook::Package::provides`]).
    pub lacking: BTreeSet<String>,
    /// Of machines that are to run an etcd member.
    pub etcd_data: Option<EtcdData>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileState {
    pub digest: String,
    /// Four octal digits.
    pub mode: String,
    pub owner: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    pub active: bool,
    pub enabled: bool,
}

/// A script that reports on everything in `bundles`, one tab-separated line a thing.
pub fn script<'a>(bundles: impl Iterator<Item = &'a Bundle>) -> String {
    let mut paths = BTreeSet::new();
    let mut units = BTreeSet::new();
    let mut with_keys = BTreeSet::new();
    let mut provided = BTreeSet::new();
    let mut probes = String::new();
    for bundle in bundles {
        let kept = bundle.files.iter().filter(|file| file.key.is_some());
        with_keys.extend(kept.map(|file| quote(&file.path)));
        provided.extend(bundle.packages.iter().map(|package| quote(&package.provides)));
        for (number, unless) in bundle.probes() {
            probes.push_str(&format!(
                "{{ /bin/sh -euc {} >/dev/null 2>&1 || printf 'untrue\\t%s\\t%s\\n' {} {number}; }} &\n",
                quote(unless),
                quote(&bundle.step),
            ));
        }
        paths.extend(bundle.files.iter().map(|file| quote(&file.path)));
        units.extend(bundle.units.iter().map(|unit| quote(&unit.name)));
    }
    let etcd_data = if units.contains(&quote(ETCD)) { etcd_data::script() } else { String::new() };
    let list = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join(" ");
    format!(
        r#"export LC_ALL=C
{etcd_data}{keys}cd /var/lib/kdiy 2>/dev/null || exit 0
for f in steps/*; do [ -f "$f" ] && printf 'step\t%s\t%s\n' "${{f#steps/}}" "$(cat "$f")"; done
for f in pending/*; do [ -f "$f" ] && printf 'pending\t%s\n' "${{f#pending/}}"; done
for f in artifacts/*; do
  [ -f "$f" ] || continue
  read -r path digest size mtime <"$f"
  [ "$(stat -c '%s %Y' "$path" 2>/dev/null)" = "$size $mtime" ] && printf 'artifact\t%s\t%s\n' "$path" "$digest"
done
{probes}for p in {provided}; do
  command -v "$p" >/dev/null || [ -e "$p" ] || printf 'lacking\t%s\n' "$p"
done
set -- {paths}
if [ $# -gt 0 ]; then
  sha256sum -- "$@" 2>/dev/null | sed 's/^\([0-9a-f]*\)  /digest\t\1\t/'
  stat -c 'mode	%a	%U:%G	%n' -- "$@" 2>/dev/null
fi
set -- {units}
if [ $# -gt 0 ]; then
  systemctl show --property Id,ActiveState,UnitFileState -- "$@" 2>/dev/null |
    awk -F= '/^Id=/ {{id=$2}} /^ActiveState=/ {{active=$2}} /^UnitFileState=/ {{enabled=$2}} /^$/ {{print "unit\t" id "\t" active "\t" enabled}} END {{print "unit\t" id "\t" active "\t" enabled}}'
fi
wait
"#,
        // Also on a machine that kdiy does not know yet.
        keys = key::shell(&list(with_keys)),
        provided = list(provided),
        paths = list(paths),
        units = list(units),
    )
}

/// Reads what [`script`] printed. Lines that make no sense are passed over: what is not known
/// to be right is done again.
pub fn parse(text: &str) -> Observed {
    let mut observed = Observed::default();
    let mut digests = BTreeMap::new();
    let mut modes = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        match fields[..] {
            ["step", name, digest] => {
                observed.steps.insert(name.to_owned(), digest.to_owned());
            }
            ["pending", unit] => {
                observed.pending.insert(unit.to_owned());
            }
            ["artifact", path, digest] => {
                observed.artifacts.insert(path.to_owned(), digest.to_owned());
            }
            ["key", key, path] => {
                observed.keys.insert(path.to_owned(), key.to_owned());
            }
            ["untrue", step, number] => {
                let number = number.parse().ok().map(|number| (step.to_owned(), number));
                observed.untrue.extend(number);
            }
            ["lacking", provides] => {
                observed.lacking.insert(provides.to_owned());
            }
            ["digest", digest, path] => {
                digests.insert(path, digest);
            }
            ["mode", mode, owner, path] => {
                modes.insert(path, (mode, owner));
            }
            ["unit", name, active, enabled] => {
                let state = UnitState { active: active == "active", enabled: enabled == "enabled" };
                observed.units.insert(name.to_owned(), state);
            }
            ["etcd", ref rest @ ..] => observed.etcd_data = EtcdData::parse(rest),
            _ => {}
        }
    }
    // etcd goes on for a while after its files were deleted, and is lost at its next start.
    if observed.etcd_data.is_some_and(|data| !data.has_log)
        && let Some(state) = observed.units.get_mut(ETCD)
    {
        state.active = false;
    }
    for (path, digest) in digests {
        if let Some((mode, owner)) = modes.get(path) {
            let state = FileState {
                digest: digest.to_owned(),
                mode: format!("{mode:0>4}"),
                owner: (*owner).to_owned(),
            };
            observed.files.insert(path.to_owned(), state);
        }
    }
    observed
}

impl Observed {
    /// Whether the command of `bundle` that is told as `summary` has something to restore.
    pub fn is_untrue(&self, bundle: &Bundle, summary: &str) -> bool {
        let mut commands = bundle.commands.iter().enumerate();
        commands.any(|(number, command)| {
            command.summary() == summary && self.untrue.contains(&(bundle.step.clone(), number))
        })
    }
}

/// One thing that a bundle has to change on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub verb: Verb,
    /// A path, a unit, or a command in a few words.
    pub what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// A release file or image that the machine lacks, or has in another version.
    Install,
    Create,
    Change,
    /// Mode and owner; the content is right.
    Settle,
    /// A command of the step.
    Run,
    Enable,
    Start,
    Restart,
    Reload,
    /// The step was not finished, or consists of other things now.
    Redo,
}

impl Verb {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Install => "install",
            Self::Create => "create",
            Self::Change => "change",
            Self::Settle => "set mode and owner of",
            Self::Run => "run",
            Self::Enable => "enable",
            Self::Start => "start",
            Self::Restart => "restart",
            Self::Reload => "reload",
            Self::Redo => "run again",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb.as_str(), self.what)
    }
}

impl Difference {
    pub fn new(verb: Verb, what: impl Into<String>) -> Self {
        Self { verb, what: what.into() }
    }
}

impl Bundle {
    /// What has to change for the machine to be as this bundle wants it; empty when nothing has.
    /// Artifacts and images are not looked at.
    pub fn differences(&self, observed: &Observed) -> Vec<Difference> {
        let mut differences = Vec::new();
        for package in &self.packages {
            if observed.lacking.contains(&package.provides) {
                let what = format!("the package {}", package.apt);
                differences.push(Difference::new(Verb::Install, what));
            }
        }
        for (number, _) in self.probes() {
            if observed.untrue.contains(&(self.step.clone(), number)) {
                let summary = self.commands[number].summary();
                differences.push(Difference::new(Verb::Run, summary));
            }
        }
        for file in &self.files {
            let verb = match observed.files.get(&file.path) {
                None => Verb::Create,
                Some(state) if state.digest != file.digest => Verb::Change,
                Some(state) if state.mode != file.mode || state.owner != file.owner => Verb::Settle,
                Some(_) => continue,
            };
            differences.push(Difference::new(verb, &file.path));
        }
        for unit in &self.units {
            let state = observed.units.get(&unit.name);
            if !state.is_some_and(|state| state.enabled) {
                differences.push(Difference::new(Verb::Enable, &unit.name));
            }
            if !state.is_some_and(|state| state.active) {
                differences.push(Difference::new(Verb::Start, &unit.name));
            } else if observed.pending.contains(&unit.name) {
                differences.push(Difference::new(unit.verb(), &unit.name));
            }
        }
        if differences.is_empty() && observed.steps.get(&self.step) != Some(&self.digest()) {
            differences.push(Difference::new(Verb::Redo, &self.step));
        }
        differences
    }

    /// Files that hold another cluster's key on the machine. One that holds none, because somebody
    /// damaged it, is not among them: it is made right again.
    pub fn foreign_keys(&self, observed: &Observed) -> impl Iterator<Item = &str> {
        let is_foreign = |file: &&BundleFile| match (&file.key, observed.keys.get(&file.path)) {
            (Some(own), Some(found)) => own != found,
            _ => false,
        };
        self.files.iter().filter(is_foreign).map(|file| file.path.as_str())
    }

    /// What tells whether a command of this bundle has anything to do, with its place among them.
    fn probes(&self) -> impl Iterator<Item = (usize, &str)> {
        let commands = self.commands.iter().enumerate();
        commands.filter_map(|(number, command)| Some((number, command.unless.as_deref()?)))
    }

    /// Everything that applying this bundle does, in the order in which it is done; empty when
    /// the machine is left alone. `installing` are the paths of artifacts and images that are
    /// sent for this step, `changed` the paths that the steps before it have changed.
    pub fn work(
        &self,
        observed: &Observed,
        installing: &[String],
        changed: &BTreeSet<String>,
    ) -> Vec<Difference> {
        let differences = self.differences(observed);
        let changes = |path: &String| changed.contains(path) || installing.contains(path);
        let mut restarts: BTreeSet<&str> = self
            .units
            .iter()
            .filter(|unit| unit.depends_on.iter().any(changes))
            .map(|unit| unit.name.as_str())
            .collect();
        if differences.is_empty() && installing.is_empty() && restarts.is_empty() {
            return Vec::new();
        }
        let writes =
            |difference: &&Difference| matches!(difference.verb, Verb::Create | Verb::Change);
        for written in differences.iter().filter(writes) {
            let file = self.files.iter().find(|file| file.path == written.what);
            restarts.extend(file.into_iter().flat_map(|file| &file.restarts).map(String::as_str));
        }
        let (files, others): (Vec<_>, Vec<_>) = differences
            .into_iter()
            // All commands are named below, in their order.
            .filter(|it| it.verb != Verb::Run)
            .partition(|it| {
                matches!(it.verb, Verb::Install | Verb::Create | Verb::Change | Verb::Settle)
            });
        let installs = installing.iter().map(|path| Difference::new(Verb::Install, path));
        let mut work: Vec<Difference> = installs.chain(files).collect();
        let is_open = |number: usize, command: &BundleCommand| {
            // What the step writes may change what its probes say.
            command.unless.is_none()
                || !work.is_empty()
                || !observed.steps.contains_key(&self.step)
                || observed.untrue.contains(&(self.step.clone(), number))
        };
        let commands = self.commands.iter().enumerate();
        let open = commands.filter(|(number, command)| is_open(*number, command));
        let runs: Vec<Difference> =
            open.map(|(_, command)| Difference::new(Verb::Run, command.summary())).collect();
        work.extend(runs);
        work.extend(others);
        for unit in &self.units {
            let acts = |it: &Difference| {
                it.what == unit.name
                    && matches!(it.verb, Verb::Start | Verb::Restart | Verb::Reload)
            };
            if restarts.contains(unit.name.as_str()) && !work.iter().any(acts) {
                work.push(Difference::new(unit.verb(), &unit.name));
            }
        }
        work
    }
}

#[cfg(test)]
impl Observed {
    /// As the machine is once `bundle` was applied.
    pub fn settle(&mut self, bundle: &Bundle) {
        for file in &bundle.files {
            let state = FileState {
                digest: file.digest.clone(),
                mode: file.mode.clone(),
                owner: file.owner.clone(),
            };
            self.files.insert(file.path.clone(), state);
        }
        for unit in &bundle.units {
            self.units.insert(unit.name.clone(), UnitState { active: true, enabled: true });
        }
        self.steps.insert(bundle.step.clone(), bundle.digest());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{BundleUnit, sha256};
    use crate::playbook::OnChange;

    #[test]
    fn an_answer_is_read_back() {
        let observed = parse(
            "step\tetcd\tabc\npending\tetcd.service\nartifact\t/usr/local/bin/etcd\tfff\n\
             digest\t00ff\t/etc/etcd/etcd.env\nmode\t640\troot:etcd\t/etc/etcd/etcd.env\n\
             unit\tetcd.service\tactive\tenabled\nuntrue\tmachine\t2\nuntrue\tmachine\tx\n\
             lacking\tnft\nnonsense\n",
        );
        assert_eq!(observed.untrue, [("machine".to_owned(), 2)].into());
        assert_eq!(observed.lacking, ["nft".to_owned()].into());
        assert_eq!(observed.steps["etcd"], "abc");
        assert_eq!(observed.files["/etc/etcd/etcd.env"].mode, "0640");
        assert_eq!(observed.units["etcd.service"], UnitState { active: true, enabled: true });
        assert!(observed.pending.contains("etcd.service"));
        assert_eq!(observed.artifacts["/usr/local/bin/etcd"], "fff");
    }

    #[test]
    fn etcd_without_its_log_is_as_good_as_stopped() {
        let active = |log: &str| {
            let text = format!("etcd\t{log}\tyes\tno\tyes\nunit\tetcd.service\tactive\tenabled\n");
            parse(&text).units["etcd.service"].active
        };
        assert!(active("yes") && !active("no"));
    }

    fn bundle() -> Bundle {
        let file = |path: &str, text: &str| BundleFile {
            path: path.into(),
            mode: "0644".into(),
            owner: "root:root".into(),
            digest: sha256(text.as_bytes()),
            bytes: text.into(),
            secret: false,
            restarts: vec!["x.service".into()],
            key: None,
            once: false,
        };
        Bundle {
            step: "x".into(),
            machine: "m".into(),
            packages: Vec::new(),
            users: Vec::new(),
            directories: Vec::new(),
            files: vec![file("/etc/x", "x")],
            undo: Vec::new(),
            leaves: Vec::new(),
            shares: Vec::new(),
            commands: vec![BundleCommand {
                run: "true".into(),
                unless: None,
                reconcile: false,
                why: "look".into(),
            }],
            units: vec![BundleUnit {
                name: "x.service".into(),
                on_change: OnChange::Restart,
                depends_on: vec!["/etc/ca".into(), "/usr/local/bin/x".into()],
            }],
            ready: None,
            artifacts: Vec::new(),
            images: Vec::new(),
        }
    }

    fn settled() -> Observed {
        let mut observed = Observed::default();
        observed.settle(&bundle());
        observed
    }

    fn work(observed: &Observed, installing: &[&str], changed: &[&str]) -> Vec<String> {
        let installing: Vec<String> = installing.iter().map(|path| (*path).to_owned()).collect();
        let changed = changed.iter().map(|path| (*path).to_owned()).collect();
        let work = bundle().work(observed, &installing, &changed);
        work.iter().map(Difference::to_string).collect()
    }

    #[test]
    fn a_settled_machine_is_left_alone() {
        assert!(work(&settled(), &[], &["/etc/other"]).is_empty());
    }

    #[test]
    fn a_changed_file_restarts_its_unit_once() {
        let mut observed = settled();
        observed.files.get_mut("/etc/x").unwrap().digest = "0".into();
        assert_eq!(work(&observed, &[], &[]), ["change /etc/x", "run look", "restart x.service"]);
        observed.pending.insert("x.service".into());
        assert_eq!(work(&observed, &[], &["/etc/ca"]).len(), 3);
    }

    #[test]
    fn a_unit_restarts_with_what_other_steps_changed_and_with_its_program() {
        let observed = settled();
        assert_eq!(work(&observed, &[], &["/etc/ca"]), ["run look", "restart x.service"]);
        let sent = work(&observed, &["/usr/local/bin/x"], &[]);
        assert_eq!(sent, ["install /usr/local/bin/x", "run look", "restart x.service"]);
    }

    #[test]
    fn a_key_of_another_cluster_is_foreign_and_a_damaged_file_is_not() {
        let mut own = bundle();
        own.files[0].key = Some("own".into());
        let foreign = |text: &str| own.foreign_keys(&parse(text)).count();
        assert_eq!(foreign("key\tother\t/etc/x\n"), 1);
        assert_eq!(foreign("key\town\t/etc/x\n"), 0);
        assert_eq!(foreign("digest\t00ff\t/etc/x\nmode\t600\troot:root\t/etc/x\n"), 0);
    }

    #[test]
    fn on_an_empty_machine_everything_is_made_and_started() {
        let all = ["create /etc/x", "run look", "enable x.service", "start x.service"];
        assert_eq!(work(&Observed::default(), &[], &[]), all);
    }

    #[test]
    fn a_mode_that_was_set_by_hand_restarts_nothing() {
        let mut observed = settled();
        observed.files.get_mut("/etc/x").unwrap().mode = "0666".into();
        assert_eq!(work(&observed, &[], &[]), ["set mode and owner of /etc/x", "run look"]);
    }

    #[test]
    fn what_the_kernel_lost_and_packages_that_were_removed_are_differences() {
        let mut bundle = bundle();
        bundle.commands[0].unless = Some("false".into());
        bundle.packages = vec![crate::playbook::Package {
            apt: "nftables".into(),
            dnf: "nftables".into(),
            provides: "nft".into(),
        }];
        let mut observed = Observed::default();
        observed.settle(&bundle);
        assert_eq!(bundle.differences(&observed), []);
        observed.untrue.insert(("x".into(), 0));
        observed.lacking.insert("nft".into());
        let work = bundle.work(&observed, &[], &BTreeSet::new());
        let work: Vec<String> = work.iter().map(Difference::to_string).collect();
        assert_eq!(work, ["install the package nftables", "run look"]);
    }

    #[test]
    fn a_machine_tells_what_is_not_true_and_what_it_lacks() {
        let mut bundle = bundle();
        let command = |unless: &str| BundleCommand {
            run: "true".into(),
            unless: Some(unless.into()),
            reconcile: false,
            why: "it's so".into(),
        };
        bundle.commands = vec![command("exit 0"), command("false; true"), command("test '' = ''")];
        let package = |provides: &str| crate::playbook::Package {
            apt: "a".into(),
            dnf: "a".into(),
            provides: provides.into(),
        };
        bundle.packages = vec![package("sh"), package("/no/such"), package("no-such-command")];
        bundle.units.clear();
        let here = script(std::iter::once(&bundle)).replace("/var/lib/kdiy 2", "/ 2");
        let output = std::process::Command::new("sh").args(["-c", &here]).output().unwrap();
        let observed = parse(&String::from_utf8(output.stdout).unwrap());
        assert_eq!(observed.untrue, [("x".to_owned(), 1)].into());
        let lacking: Vec<&str> = observed.lacking.iter().map(String::as_str).collect();
        assert_eq!(lacking, ["/no/such", "no-such-command"]);
    }

    proptest::proptest! {
        #[test]
        fn no_answer_breaks_the_reader(text in "(?s).*") {
            let _ = parse(&text);
        }
    }
}
