//! Checks on the machines themselves, in one round trip for each.

use std::collections::{BTreeMap, BTreeSet};

use crate::bundle::script::quote;
use crate::cluster_context::ClusterContext;
use crate::reports::cis::{Benchmark, Check, FileMust, Files, Flags, Output, Probe, Seen};
use crate::topology::{Group, Machine, Topology};

/// What one machine said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    /// Command lines of main processes, by unit.
    processes: BTreeMap<String, Vec<String>>,
    /// By number of the check.
    files: BTreeMap<String, Vec<FileSeen>>,
    outputs: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, Eq)]
struct FileSeen {
    path: String,
    mode: u32,
    owner: String,
}

pub struct Machines<'a> {
    topology: &'a Topology,
    said: BTreeMap<String, Result<Said, String>>,
}

/// Asks every machine at once.
pub async fn look<'a>(benchmark: &Benchmark, context: &'a ClusterContext) -> Machines<'a> {
    let topology = &context.topology;
    let answers = context.ask(Group::All, |machine| script(benchmark, machine, topology)).await;
    let said = answers
        .into_iter()
        .map(|(machine, answer)| (machine.name.clone(), answer.map(|text| parse(&text))))
        .collect();
    Machines { topology, said }
}

/// Only what the shell takes for a path and `*` for what may stand there: it is not quoted.
pub fn check_paths(paths: &[String]) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-*".contains(c);
    match paths.iter().find(|path| !path.starts_with('/') || !path.chars().all(plain)) {
        Some(path) => Err(format!("`{path}` is not an absolute path")),
        None => Ok(()),
    }
}

fn script(benchmark: &Benchmark, machine: &Machine, topology: &Topology) -> String {
    let mut units = BTreeSet::new();
    let mut parts = String::new();
    for check in &benchmark.checks {
        match &check.look {
            Probe::Flags(flags) if topology.is_in(machine, flags.on) => {
                units.insert(quote(&flags.of));
            }
            Probe::Files(files) if topology.is_in(machine, files.on) => {
                parts.push_str(&format!("files {} {}\n", quote(&check.id), files.paths.join(" ")));
            }
            Probe::Output(output) if topology.is_in(machine, output.on) => {
                parts.push_str(&format!("output {} {}\n", quote(&check.id), quote(&output.run)));
            }
            _ => {}
        }
    }
    let units: Vec<String> = units.into_iter().collect();
    format!(
        r#"export LC_ALL=C
files() {{
  id=$1; shift
  for f in "$@"; do [ ! -e "$f" ] || stat -c "file	$id	%a	%U:%G	%n" -- "$f"; done
}}
output() {{ printf 'output\t%s\t%s\n' "$1" "$(/bin/sh -c "$2" 2>/dev/null | head -n 1)"; }}
for unit in {units}; do
  pid=$(systemctl show --property MainPID --value "$unit.service")
  [ "${{pid:-0}}" -gt 0 ] || continue
  tr '\0' '\n' <"/proc/$pid/cmdline" | while IFS= read -r word; do printf 'word\t%s\t%s\n' "$unit" "$word"; done
done
{parts}:
"#,
        units = units.join(" "),
    )
}

/// Lines that make no sense are passed over: what was not seen fails its check.
fn parse(text: &str) -> Said {
    let mut said = Said::default();
    for line in text.lines() {
        match line.splitn(5, '\t').collect::<Vec<_>>()[..] {
            ["word", unit, word] => {
                said.processes.entry(unit.to_owned()).or_default().push(word.to_owned());
            }
            ["file", id, mode, owner, path] => {
                let Ok(mode) = u32::from_str_radix(mode, 8) else { continue };
                let seen = FileSeen { path: path.to_owned(), mode, owner: owner.to_owned() };
                said.files.entry(id.to_owned()).or_default().push(seen);
            }
            ["output", id, value] => {
                said.outputs.insert(id.to_owned(), value.to_owned());
            }
            _ => {}
        }
    }
    said
}

impl Machines<'_> {
    /// Machines that did not answer, and why.
    pub(super) fn unseen(&self) -> BTreeMap<String, String> {
        let said = self.said.iter();
        said.filter_map(|(name, said)| Some((name.clone(), said.as_ref().err()?.clone()))).collect()
    }

    pub(super) fn judge(&self, check: &Check) -> Seen {
        let mut seen = Seen::default();
        let on = match &check.look {
            Probe::Flags(Flags { on, .. })
            | Probe::Files(Files { on, .. })
            | Probe::Output(Output { on, .. }) => *on,
            _ => return seen,
        };
        for machine in self.topology.group(on) {
            let mut here = Seen::default();
            match self.said.get(&machine.name) {
                Some(Ok(said)) => said.judge(check, &mut here),
                Some(Err(_)) | None => here.unseen("does not answer".into()),
            }
            seen.looked_at += here.looked_at;
            seen.blind |= here.blind;
            let place = |problem| format!("{}: {problem}", machine.name);
            seen.problems.extend(here.problems.into_iter().map(place));
        }
        seen
    }
}

impl Said {
    fn judge(&self, check: &Check, seen: &mut Seen) {
        match &check.look {
            Probe::Flags(flags) => self.flags(flags, seen),
            Probe::Files(files) => self.files(&check.id, files, seen),
            Probe::Output(output) => {
                let value = self.outputs.get(&check.id).map(String::as_str);
                seen.note(output.must.problem("the answer", value));
            }
            _ => {}
        }
    }

    fn flags(&self, flags: &Flags, seen: &mut Seen) {
        let Some(words) = self.processes.get(&flags.of) else {
            return seen.note(Some(format!("{} does not run", flags.of)));
        };
        for wanted in &flags.all {
            seen.note(wanted.must.problem(&wanted.flag, value(words, &wanted.flag)));
        }
    }

    fn files(&self, id: &str, files: &Files, seen: &mut Seen) {
        let found = self.files.get(id).map(Vec::as_slice).unwrap_or_default();
        if files.must == FileMust::Absent {
            let paths: Vec<&str> = found.iter().map(|file| file.path.as_str()).collect();
            let problem = (!found.is_empty()).then(|| format!("there is {}", paths.join(", ")));
            return seen.note(problem);
        }
        if found.is_empty() {
            seen.note(Some(format!("there is no {}", files.paths.join(", "))));
        }
        for file in found {
            seen.note(files.must.problem(file));
        }
    }
}

/// The last one counts, as Go's flags have it. A flag without a value says `true`.
fn value<'a>(words: &'a [String], flag: &str) -> Option<&'a str> {
    words.iter().rev().find_map(|word| match word.split_once('=') {
        Some((name, value)) => (name == flag).then_some(value),
        None => (word == flag).then_some("true"),
    })
}

impl FileMust {
    fn problem(&self, file: &FileSeen) -> Option<String> {
        match self {
            Self::Mode(most) => {
                let most = u32::from_str_radix(most, 8).unwrap_or(0);
                (file.mode & !most != 0).then(|| {
                    format!(
                        "{} has mode {:04o}; it must be at most {most:04o}",
                        file.path, file.mode
                    )
                })
            }
            Self::Owner(owner) => (file.owner != *owner).then(|| {
                format!("{} belongs to {}; it must belong to {owner}", file.path, file.owner)
            }),
            Self::Absent => Some(format!("there is {}", file.path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "word\tetcd\t/usr/local/bin/etcd\n\
                        word\tetcd\t--client-cert-auth=true\n\
                        word\tetcd\t--name=a\tb=c\n\
                        file\t1.1\t640\troot:root\t/etc/a\n\
                        output\t2.7\tits own\n\
                        nonsense\n";

    fn problems(look: &str) -> Vec<String> {
        let text = format!(
            "benchmark: b\nversion: '1'\nchecks:\n- {{id: '1.1', title: t, look: {look}}}\n"
        );
        let benchmark = Benchmark::parse(&text).unwrap();
        let mut seen = Seen::default();
        parse(SAID).judge(&benchmark.checks[0], &mut seen);
        assert!(seen.looked_at > 0, "{look}");
        seen.problems
    }

    #[test]
    fn flags_are_those_of_the_process() {
        let flags =
            |rule: &str| problems(&format!("{{flags: {{on: etcd, of: etcd, all: [{rule}]}}}}"));
        assert!(flags("{flag: --client-cert-auth, must: {is: 'true'}}").is_empty());
        assert_eq!(
            flags("{flag: --auto-tls, must: given}"),
            ["--auto-tls is not set; it must be set"]
        );
        assert_eq!(
            problems("{flags: {on: etcd, of: kubelet, all: [{flag: --x, must: absent}]}}"),
            ["kubelet does not run"],
            "a process that does not run has no flag, which proves nothing"
        );
    }

    #[test]
    fn modes_are_upper_bounds_and_a_missing_file_is_a_problem() {
        let files = |must: &str| {
            problems(&format!("{{files: {{on: all, paths: [/etc/a], must: {must}}}}}"))
        };
        assert!(files("{mode: '0640'}").is_empty());
        assert!(files("{mode: '0644'}").is_empty());
        assert_eq!(files("{mode: '0600'}"), ["/etc/a has mode 0640; it must be at most 0600"]);
        assert_eq!(files("{owner: 'etcd:etcd'}").len(), 1);
        assert_eq!(files("absent"), ["there is /etc/a"]);
        let mut seen = Seen::default();
        let files =
            Files { on: Group::All, paths: vec!["/b".into()], must: FileMust::Mode("0600".into()) };
        Said::default().files("9", &files, &mut seen);
        assert_eq!(seen.problems, ["there is no /b"]);
    }

    #[test]
    fn the_last_of_a_flag_counts_and_one_without_a_value_is_true() {
        let words = ["--a=1", "--ab=3", "--a=2", "--b"].map(str::to_owned);
        assert_eq!(value(&words, "--a"), Some("2"));
        assert_eq!(value(&words, "--b"), Some("true"));
        assert_eq!(value(&words, "--c"), None);
    }

    #[test]
    fn the_script_is_valid_shell() {
        let playbooks = crate::playbook::load::Playbooks::load(None).unwrap();
        let benchmark = Benchmark::load(&playbooks).unwrap();
        let topology =
            Topology::build(&Default::default(), "192.168.56.0/24".parse().unwrap()).unwrap();
        for machine in &topology.machines {
            let script = script(&benchmark, machine, &topology);
            let status =
                std::process::Command::new("/bin/sh").args(["-n", "-c", &script]).status().unwrap();
            assert!(status.success(), "{script}");
        }
    }
}
