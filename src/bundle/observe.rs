//! What is on a machine now, read in one round trip, and what that leaves to do.

use std::collections::{BTreeMap, BTreeSet};

use super::Bundle;
use super::script::quote;

/// Where [`crate::runner`] notes what it installed: one file an artifact, holding the digest,
/// size and modification time of the installed file.
pub const ARTIFACT_STAMPS: &str = "/var/lib/kdiy/artifacts";

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
    for bundle in bundles {
        paths.extend(bundle.files.iter().map(|file| quote(&file.path)));
        units.extend(bundle.units.iter().map(|unit| quote(&unit.name)));
    }
    let list = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join(" ");
    format!(
        r#"export LC_ALL=C
cd /var/lib/kdiy 2>/dev/null || exit 0
for f in steps/*; do [ -f "$f" ] && printf 'step\t%s\t%s\n' "${{f#steps/}}" "$(cat "$f")"; done
for f in pending/*; do [ -f "$f" ] && printf 'pending\t%s\n' "${{f#pending/}}"; done
for f in artifacts/*; do
  [ -f "$f" ] || continue
  read -r path digest size mtime <"$f"
  [ "$(stat -c '%s %Y' "$path" 2>/dev/null)" = "$size $mtime" ] && printf 'artifact\t%s\t%s\n' "$path" "$digest"
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
:
"#,
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
            _ => {}
        }
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

impl Bundle {
    /// What has to change for the machine to be as this bundle wants it, one line a thing;
    /// empty when nothing has. Artifacts and images are not looked at.
    pub fn differences(&self, observed: &Observed) -> Vec<String> {
        let mut differences = Vec::new();
        for file in &self.files {
            match observed.files.get(&file.path) {
                None => differences.push(format!("create {}", file.path)),
                Some(state) if state.digest != file.digest => {
                    differences.push(format!("change {}", file.path));
                }
                Some(state) if state.mode != file.mode || state.owner != file.owner => {
                    differences.push(format!("set mode and owner of {}", file.path));
                }
                Some(_) => {}
            }
        }
        for unit in &self.units {
            let state = observed.units.get(&unit.name);
            if !state.is_some_and(|state| state.enabled) {
                differences.push(format!("enable {}", unit.name));
            }
            if !state.is_some_and(|state| state.active) {
                differences.push(format!("start {}", unit.name));
            } else if observed.pending.contains(&unit.name) {
                differences.push(format!("restart {}", unit.name));
            }
        }
        if differences.is_empty() && observed.steps.get(&self.step) != Some(&self.digest()) {
            differences.push("run the step again: it has changed, or was not finished".into());
        }
        differences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_back() {
        let observed = parse(
            "step\tetcd\tabc\npending\tetcd.service\nartifact\t/usr/local/bin/etcd\tfff\n\
             digest\t00ff\t/etc/etcd/etcd.env\nmode\t640\troot:etcd\t/etc/etcd/etcd.env\n\
             unit\tetcd.service\tactive\tenabled\nnonsense\n",
        );
        assert_eq!(observed.steps["etcd"], "abc");
        assert_eq!(observed.files["/etc/etcd/etcd.env"].mode, "0640");
        assert_eq!(observed.units["etcd.service"], UnitState { active: true, enabled: true });
        assert!(observed.pending.contains("etcd.service"));
        assert_eq!(observed.artifacts["/usr/local/bin/etcd"], "fff");
    }

    proptest::proptest! {
        #[test]
        fn no_answer_breaks_the_reader(text in "(?s).*") {
            let _ = parse(&text);
        }
    }
}
