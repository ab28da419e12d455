//! The state of a machine, read in one round trip, and its differences from the bundles.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::bundle::etcd_data::{self, EtcdData};
use crate::bundle::script::{STAGED, quote};
use crate::bundle::{Bundle, BundleCommand, BundleFile, BundleUnit, key};
use crate::playbook::format::OnChange;

/// Where [`crate::operations::apply`] notes what it installed: one file an artifact, holding the digest,
/// size and modification time of the installed file.
pub const ARTIFACT_STAMPS: &str = "/var/lib/kdiy/artifacts";
/// The same of what was sent and is not in its place yet.
pub const STAGED_STAMPS: &str = "/var/lib/kdiy/staged";

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
    /// Installed artifacts by path, where the file is as kdiy left it.
    pub artifacts: BTreeMap<String, ArtifactState>,
    /// Digest of artifacts that wait beside their path.
    pub staged: BTreeMap<String, String>,
    /// What units were started with, by kdiy.
    pub started: BTreeMap<String, Started>,
    /// Identifies the keys in files that hold one, by path ([`key::of_text`]).
    pub keys: BTreeMap<String, String>,
    /// Commands whose `unless` fails, by step and place in it.
    pub untrue: BTreeSet<(String, usize)>,
    /// What packages provide and is not there any more ([`crate::playbook::format::Package::provides`]).
    pub lacking: BTreeSet<String>,
    /// Of machines that are to run an etcd member.
    pub etcd_data: Option<EtcdData>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactState {
    pub digest: String,
    /// Seconds since 1970.
    pub modified: i64,
}

/// What kdiy noted as it started a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Started {
    /// systemd's name for that start; any other start has another.
    pub invocation: String,
    /// Digest by path, of all that the unit uses.
    pub used: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileState {
    pub digest: String,
    /// Four octal digits.
    pub mode: String,
    pub owner: String,
    /// Seconds since 1970; a change of mode or owner is none.
    pub modified: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    pub active: bool,
    pub enabled: bool,
    pub invocation: String,
    /// When its process began, in seconds since 1970, where it has begun.
    pub since: Option<i64>,
    /// It runs a file that has been replaced or removed.
    pub replaced: bool,
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
        with_keys.extend(kept.map(|file| quote(&format!("{}  {}", file.digest, file.path))));
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
for f in pending/* restarting/*; do [ -f "$f" ] && printf 'pending\t%s\n' "${{f#*/}}"; done
for f in started/*; do
  [ -f "$f" ] && awk -v unit="${{f#started/}}" 'NR == 1 {{print "started\t" unit "\t" $1; next}} {{print "used\t" unit "\t" $1 "\t" $2}}' "$f"
done
for f in artifacts/*; do
  [ -f "$f" ] || continue
  read -r path digest size mtime <"$f"
  [ "$(stat -c '%s %Y' "$path" 2>/dev/null)" = "$size $mtime" ] && printf 'artifact\t%s\t%s\t%s\n' "$path" "$digest" "$mtime"
done
for f in staged/*; do
  [ -f "$f" ] || continue
  read -r path digest size mtime <"$f"
  # Its move may have been cut off.
  for at in "$path{STAGED}" "$path"; do
    [ "$(stat -c '%s %Y' "$at" 2>/dev/null)" = "$size $mtime" ] && printf 'staged\t%s\t%s\n' "$path" "$digest" && break
  done
done
{probes}for p in {provided}; do
  command -v "$p" >/dev/null || [ -e "$p" ] || printf 'lacking\t%s\n' "$p"
done
set -- {paths}
if [ $# -gt 0 ]; then
  sha256sum -- "$@" 2>/dev/null | sed 's/^\([0-9a-f]*\)  /digest\t\1\t/'
  stat -c 'mode	%a	%U:%G	%Y	%n' -- "$@" 2>/dev/null
fi
set -- {units}
if [ $# -gt 0 ]; then
  # Times are local ones unless it is told otherwise.
  TZ=UTC systemctl show --property Id,ActiveState,UnitFileState,InvocationID,MainPID,ExecMainStartTimestamp -- "$@" 2>/dev/null |
    awk -F= 'function tell() {{print id "|" active "|" enabled "|" invocation "|" pid "|" since; invocation = pid = since = ""}}
      /^Id=/ {{id=$2}} /^ActiveState=/ {{active=$2}} /^UnitFileState=/ {{enabled=$2}} /^InvocationID=/ {{invocation=$2}}
      /^MainPID=/ {{pid=$2}} /^ExecMainStartTimestamp=/ {{since=$2}} /^$/ {{tell()}} END {{tell()}}' |
    while IFS='|' read -r id active enabled invocation pid since; do
      [ -z "$since" ] || since=$(date -d "$since" +%s 2>/dev/null)
      program=present
      case $(readlink "/proc/$pid/exe" 2>/dev/null) in *' (deleted)') program=replaced ;; esac
      printf 'unit\t%s\t%s\t%s\t%s\t%s\t%s\n' "$id" "$active" "$enabled" "$invocation" "$since" "$program"
    done
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
            ["artifact", path, digest, modified] => {
                let modified = modified.parse().unwrap_or_default();
                let state = ArtifactState { digest: digest.to_owned(), modified };
                observed.artifacts.insert(path.to_owned(), state);
            }
            ["staged", path, digest] => {
                observed.staged.insert(path.to_owned(), digest.to_owned());
            }
            ["started", unit, invocation] => {
                let started = observed.started.entry(unit.to_owned()).or_default();
                invocation.clone_into(&mut started.invocation);
            }
            ["used", unit, digest, path] => {
                let started = observed.started.entry(unit.to_owned()).or_default();
                started.used.insert(path.to_owned(), digest.to_owned());
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
            ["mode", mode, owner, modified, path] => {
                modes.insert(path, (mode, owner, modified));
            }
            ["unit", name, active, enabled, invocation, since, program] => {
                let state = UnitState {
                    active: active == "active",
                    enabled: enabled == "enabled",
                    invocation: invocation.to_owned(),
                    since: since.parse().ok(),
                    replaced: program == "replaced",
                };
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
        if let Some((mode, owner, modified)) = modes.get(path) {
            let state = FileState {
                digest: digest.to_owned(),
                mode: format!("{mode:0>4}"),
                owner: (*owner).to_owned(),
                modified: modified.parse().unwrap_or_default(),
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

    /// Digest of what is at a path now, and when it was written, where that is known.
    fn at(&self, path: &str) -> Option<(&str, i64)> {
        let file = self.files.get(path).map(|file| (file.digest.as_str(), file.modified));
        let artifact = || self.artifacts.get(path).map(|it| (it.digest.as_str(), it.modified));
        file.or_else(artifact)
    }

    /// Why the unit, which is active, has to restart or reload: the process that runs was started
    /// with something else than is there now. Paths are those that it uses.
    ///
    /// Of a start by kdiy it was noted which contents it found, so contents are compared. One by
    /// anybody else (systemd after a crash or at boot, somebody by hand) found what was there at
    /// that moment: what was written since counts, unless it has the contents of the last start
    /// that was noted. Only here clocks matter.
    fn outdated<'a>(&self, unit: &str, paths: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let state = self.units.get(unit)?;
        let started = self.started.get(unit);
        let by_kdiy = started.is_some_and(|started| started.invocation == state.invocation);
        let mut found = paths.filter_map(|path| Some((path, self.at(path)?)));
        let outdated = found.find(|(path, (digest, modified))| {
            let same = started.and_then(|started| started.used.get(*path));
            if same.is_some_and(|used| used == digest) {
                return false;
            }
            let later = state.since.is_some_and(|since| *modified > since);
            if by_kdiy && same.is_some() { true } else { later }
        });
        outdated.map(|(path, _)| path)
    }
}

/// Why a unit that is active does not run what is on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outdated<'a> {
    /// A run that was cut off, or that was to do other steps only, left a mark.
    Marked,
    /// Its program was replaced.
    Program,
    /// This file or program is not the one that it was started with.
    Path(&'a str),
}

impl fmt::Display for Outdated<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Marked => {
                f.write_str("one of its files was changed, and it has not restarted since")
            }
            Self::Program => f.write_str("it runs a program that was replaced on disk"),
            Self::Path(path) => write!(f, "it was started with another {path}"),
        }
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
    /// Why a unit of the step has to restart or reload, though nothing of it is to be changed.
    pub fn outdated<'a>(
        &'a self,
        unit: &'a BundleUnit,
        observed: &Observed,
    ) -> Option<Outdated<'a>> {
        let state = observed.units.get(&unit.name).filter(|state| state.active)?;
        if observed.pending.contains(&unit.name) {
            return Some(Outdated::Marked);
        }
        // A reload does not bring another program into the process.
        if state.replaced && unit.on_change == OnChange::Restart {
            return Some(Outdated::Program);
        }
        // What a reload takes up begins no new process, so without a note there is no telling.
        let is_told =
            unit.on_change == OnChange::Restart || observed.started.contains_key(&unit.name);
        let paths = self.uses(unit).into_iter().filter(|_| is_told);
        observed.outdated(&unit.name, paths).map(Outdated::Path)
    }

    /// Programs of its units that were sent and wait for their turn.
    pub fn staged<'a>(&'a self, staged: &'a BTreeMap<String, String>) -> Vec<&'a str> {
        let paths = self.programs.iter().map(|program| program.path.as_str());
        paths.filter(|path| staged.contains_key(*path)).collect()
    }

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
            } else if self.outdated(unit, observed).is_some() {
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
    /// sent for this step or put in their place by it, `changed` the paths that the steps before it
    /// have changed.
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
                modified: 0,
            };
            self.files.insert(file.path.clone(), state);
        }
        for unit in &bundle.units {
            let state = UnitState { active: true, enabled: true, ..UnitState::default() };
            self.units.insert(unit.name.clone(), state);
        }
        self.steps.insert(bundle.step.clone(), bundle.digest());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{BundleUnit, sha256};
    use crate::playbook::format::OnChange;

    #[test]
    fn an_answer_is_read_back() {
        let observed = parse(
            "step\tetcd\tabc\npending\tetcd.service\nartifact\t/usr/local/bin/etcd\tfff\t7\n\
             staged\t/usr/local/bin/etcd\teee\nstarted\tetcd.service\tabcd\n\
             used\tetcd.service\t00ff\t/etc/etcd/etcd.env\n\
             digest\t00ff\t/etc/etcd/etcd.env\nmode\t640\troot:etcd\t9\t/etc/etcd/etcd.env\n\
             unit\tetcd.service\tactive\tenabled\tabcd\t8\treplaced\nuntrue\tmachine\t2\nuntrue\tmachine\tx\n\
             lacking\tnft\nnonsense\n",
        );
        assert_eq!(observed.untrue, [("machine".to_owned(), 2)].into());
        assert_eq!(observed.lacking, ["nft".to_owned()].into());
        assert_eq!(observed.steps["etcd"], "abc");
        assert_eq!(observed.files["/etc/etcd/etcd.env"].mode, "0640");
        assert_eq!(observed.files["/etc/etcd/etcd.env"].modified, 9);
        let unit = &observed.units["etcd.service"];
        assert!(unit.active && unit.enabled && unit.replaced);
        assert_eq!((unit.invocation.as_str(), unit.since), ("abcd", Some(8)));
        assert!(observed.pending.contains("etcd.service"));
        assert_eq!(observed.artifacts["/usr/local/bin/etcd"].digest, "fff");
        assert_eq!(observed.staged["/usr/local/bin/etcd"], "eee");
        assert_eq!(observed.started["etcd.service"].invocation, "abcd");
        assert_eq!(observed.started["etcd.service"].used["/etc/etcd/etcd.env"], "00ff");
    }

    #[test]
    fn etcd_without_its_log_is_as_good_as_stopped() {
        let active = |log: &str| {
            let text = format!(
                "etcd\t{log}\tyes\tno\tyes\nunit\tetcd.service\tactive\tenabled\t\t\tpresent\n"
            );
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
            programs: Vec::new(),
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

    /// The unit as a start at 100 left it, where kdiy noted the contents.
    fn running(invocation: &str, used: &[(&str, &str)]) -> Observed {
        let mut observed = settled();
        let unit = observed.units.get_mut("x.service").unwrap();
        (unit.invocation, unit.since) = (invocation.into(), Some(100));
        for (path, digest) in used {
            let started = observed.started.entry("x.service".into()).or_default();
            started.invocation = "by-kdiy".into();
            started.used.insert((*path).into(), (*digest).into());
        }
        observed
    }

    fn outdated(mut observed: Observed, path: &str, modified: i64) -> Option<String> {
        let state = ArtifactState { digest: "new".into(), modified };
        observed.artifacts.insert(path.into(), state);
        let bundle = bundle();
        let outdated = bundle.outdated(&bundle.units[0], &observed);
        outdated.map(|outdated| outdated.to_string())
    }

    #[test]
    fn units_that_kdiy_started_are_compared_by_content_not_by_time() {
        let ca = "/etc/ca";
        for modified in [50, 150] {
            let started = |digest: &str| running("by-kdiy", &[(ca, digest)]);
            assert_eq!(outdated(started("new"), ca, modified), None);
            let said = outdated(started("old"), ca, modified).unwrap();
            assert_eq!(said, "it was started with another /etc/ca");
        }
    }

    #[test]
    fn units_that_others_started_are_compared_with_changes_since_their_start() {
        let ca = "/etc/ca";
        let started = |digest: &str| running("at-boot", &[(ca, digest)]);
        assert_eq!(outdated(started("old"), ca, 50), None);
        assert!(outdated(started("old"), ca, 150).is_some());
        assert_eq!(outdated(started("new"), ca, 150), None, "only its date is new");
    }

    #[test]
    fn a_cluster_of_an_older_kdiy_restarts_nothing_that_began_after_its_files() {
        assert_eq!(outdated(running("old-kdiy", &[]), "/etc/ca", 100), None);
        assert!(outdated(running("old-kdiy", &[]), "/etc/ca", 101).is_some());
        // A path that the note does not have yet.
        let noted = || running("by-kdiy", &[("/etc/other", "x")]);
        assert_eq!(outdated(noted(), "/etc/ca", 100), None);
    }

    #[test]
    fn a_program_that_was_replaced_under_its_process_restarts_it() {
        let mut observed = running("by-kdiy", &[]);
        observed.units.get_mut("x.service").unwrap().replaced = true;
        assert_eq!(work(&observed, &[], &[]), ["run look", "restart x.service"]);
        let mut reloads = bundle();
        reloads.units[0].on_change = OnChange::Reload;
        assert_eq!(reloads.outdated(&reloads.units[0], &observed), None);
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
    fn on_an_empty_machine_everything_is_created_and_started() {
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
    fn missing_kernel_state_and_removed_packages_are_differences() {
        let mut bundle = bundle();
        bundle.commands[0].unless = Some("false".into());
        bundle.packages = vec![crate::playbook::format::Package {
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
    fn failed_checks_and_missing_packages_of_a_machine_are_parsed() {
        let mut bundle = bundle();
        let command = |unless: &str| BundleCommand {
            run: "true".into(),
            unless: Some(unless.into()),
            reconcile: false,
            why: "it's so".into(),
        };
        bundle.commands = vec![command("exit 0"), command("false; true"), command("test '' = ''")];
        let package = |provides: &str| crate::playbook::format::Package {
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
