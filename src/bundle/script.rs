//! The archive that carries a bundle to its machine, and the lines that the machine answers.

use std::io;

use crate::bundle::{Bundle, BundleCommand, sha256};
use crate::support::failure::{Failure, Result};

/// Functions that enter what is made on a machine in its ledger.
pub const LEDGER: &str = include_str!("ledger.sh");

/// Functions that every script begins with, after those of [`LEDGER`].
pub const LIBRARY: &str = include_str!("apply.sh");

/// Takes away what a machine's ledger names. Answers like a bundle's script.
pub const REMOVE: &str = include_str!("remove.sh");

/// Unpacks the archive on standard input and runs the script in it. Holds no secrets: it is
/// visible in the machine's process list.
pub const BOOTSTRAP: &str = "umask 077; d=$(mktemp -d /run/kdiy.XXXXXX) && tar -xf - -C \"$d\" \
    && /bin/sh \"$d/apply.sh\" \"$d\"; s=$?; rm -rf \"$d\"; exit $s";

/// Has the script of a step stop waiting for what would only be of use to later steps.
pub fn enough(step: &str) -> String {
    format!("touch {}", quote(&format!("/run/kdiy-{step}.enough")))
}

/// Beside a program's path: what was sent, and waits for its turn.
pub const STAGED: &str = ".kdiy-staged";

/// Marks the lines that are for the driver.
const MARK: &str = "@kdiy ";

/// What a line of the script's output means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line<'a> {
    /// Something was changed: `wrote /etc/hosts`.
    Did(&'a str),
    /// Something that takes a while has begun.
    Doing(&'a str),
    /// The step failed, and why.
    Fail(&'a str),
    /// What was looked at in the end, and found to be as it should.
    Saw(&'a str),
    /// For the log only.
    Other(&'a str),
}

impl<'a> Line<'a> {
    pub fn parse(line: &'a str) -> Self {
        let Some(rest) = line.strip_prefix(MARK) else { return Self::Other(line) };
        match rest.split_once(' ') {
            Some(("did", what)) => Self::Did(what),
            Some(("doing", what)) => Self::Doing(what),
            Some(("fail", what)) => Self::Fail(what),
            Some(("saw", what)) => Self::Saw(what),
            _ => Self::Other(line),
        }
    }
}

impl Bundle {
    /// The script that applies this bundle; it is in the archive, so it may be long.
    pub fn script(&self) -> String {
        self.script_for(&[])
    }

    /// `outdated` are units of the step that restart or reload although none of their files
    /// changes any more. They are marked, so that an interruption does not forget them.
    fn script_for(&self, outdated: &[&str]) -> String {
        let marks = if outdated.is_empty() { String::new() } else { call("mark", outdated) };
        format!("{LEDGER}\n{LIBRARY}\n{marks}\n{}", self.calls())
    }

    /// The script without the functions that all scripts begin with.
    pub fn calls(&self) -> String {
        let mut lines = vec![call("alone", [&self.step])];
        for package in &self.packages {
            lines.push(call("need_package", [&package.provides, &package.apt, &package.dnf]));
        }
        if !self.packages.is_empty() {
            lines.push("install_packages".into());
        }
        for user in &self.users {
            lines.push(call("user", [&user.name, &user.home]));
        }
        for directory in &self.directories {
            lines.push(call("directory", [&directory.path, &directory.mode, &directory.owner]));
        }
        for (number, file) in self.files.iter().enumerate() {
            let number = number.to_string();
            let fixed = [&number, &file.mode, &file.owner, &file.path];
            lines.push(call("file", fixed.into_iter().chain(&file.restarts)));
        }
        for (number, undo) in self.undo.iter().enumerate() {
            lines.push(call("undo", [&format!("{}-{number}", self.step), &undo.run]));
        }
        for path in &self.leaves {
            lines.push(call("leaves", [path]));
        }
        for path in &self.shares {
            lines.push(call("shares", [path]));
        }
        let reconciled = self.commands.iter().enumerate().filter(|(_, it)| it.reconcile);
        let names: Vec<String> =
            reconciled.map(|(number, _)| format!("{}-{number}", self.step)).collect();
        lines.push(call("reconciles", std::iter::once(&self.step).chain(&names)));
        for program in &self.programs {
            let fixed = [&artifact_key(&program.path), &program.path];
            lines.push(call("place", fixed.into_iter().chain(&program.units)));
        }
        lines.push("reload_units".into());
        for command in &self.commands {
            lines.push(command_lines(command));
        }
        for unit in &self.units {
            let fixed = [unit.name.as_str(), unit.verb().as_str()];
            lines.push(call("unit", fixed.into_iter().chain(self.uses(unit))));
        }
        if let Some(ready) = &self.ready {
            let seconds = ready.seconds.to_string();
            let fixed = [seconds.as_str(), &ready.what, &ready.run];
            let units = self.units.iter().map(|unit| unit.name.as_str());
            lines.push(call("ready", fixed.into_iter().chain(units)));
        }
        lines.push(call("finished", [&self.step, &self.digest()]));
        format!("{}\n", lines.join("\n"))
    }

    /// A tar of `apply.sh` and `files/<number>`, everything 0600. `outdated` are units that have to
    /// restart or reload although none of their files changes any more.
    pub fn archive(&self, outdated: &[&str]) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |name: &str, bytes: &[u8]| -> io::Result<()> {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            header.set_cksum();
            archive.append_data(&mut header, name, bytes)
        };
        add("apply.sh", self.script_for(outdated).as_bytes())
            .and_then(|()| {
                self.files
                    .iter()
                    .enumerate()
                    .try_for_each(|(number, file)| add(&format!("files/{number}"), &file.bytes))
            })
            .and_then(|()| archive.into_inner())
            .map_err(|error| {
                Failure::bug("cannot pack a step's files").in_step(&self.step).because(error)
            })
    }
}

/// The command in a shell of its own, so that its `cd` and `exit` stay its own.
fn command_lines(command: &BundleCommand) -> String {
    let summary = command.summary();
    let body = format!(
        "{}\n/bin/sh -euc {} || fail {}\n{}",
        call("doing", [summary]),
        quote(&command.run),
        quote(&format!("a command failed: {summary}")),
        call("did", [summary]),
    );
    match &command.unless {
        None => body,
        Some(probe) => {
            format!("if ! /bin/sh -euc {} >/dev/null 2>&1; then\n{body}\nfi", quote(probe))
        }
    }
}

/// Names what is noted of an installed or staged artifact, by its path on the machine.
pub fn artifact_key(path: &str) -> String {
    sha256(path.as_bytes())[..16].to_owned()
}

fn call<S: AsRef<str>>(function: &str, arguments: impl IntoIterator<Item = S>) -> String {
    arguments.into_iter().fold(function.to_owned(), |mut line, argument| {
        line.push(' ');
        line.push_str(&quote(argument.as_ref()));
        line
    })
}

/// One shell word, whatever the text is.
pub fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_quoted_word_reaches_the_command_as_it_was(text in "[^\0]{0,40}") {
            let script = format!("printf %s {}", quote(&text));
            let output = std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
            prop_assert_eq!(output.stdout, text.as_bytes());
        }

        #[test]
        fn no_output_confuses_the_reader(line in ".*") {
            let _ = Line::parse(&line);
        }
    }

    #[test]
    fn lines_for_kdiy_are_separated_from_other_output() {
        assert_eq!(Line::parse("@kdiy did wrote /a b"), Line::Did("wrote /a b"));
        assert_eq!(Line::parse("@kdiy fail x"), Line::Fail("x"));
        assert_eq!(Line::parse("did x"), Line::Other("did x"));
    }

    /// What `ready` prints, with a stand-in for systemctl on a machine whose ledger has these units.
    fn waiting(systemctl: &str, units: &[&str], call: &str) -> (String, bool) {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().display().to_string();
        for (name, text) in [("systemctl", systemctl), ("journalctl", "echo its journal")] {
            let program = directory.path().join(name);
            std::fs::write(&program, format!("#!/bin/sh\ncd {at}\n{text}\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let ledger: String = units.iter().map(|unit| format!("unit\t{unit}\t-\n")).collect();
        std::fs::write(directory.path().join("ledger"), ledger).unwrap();
        let script = format!("state={at}\n{LIBRARY}\nenough={at}/enough; PATH={at}:$PATH\n{call}");
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", &script, "sh", &at])
            .output()
            .unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.success())
    }

    #[test]
    fn the_crashing_unit_is_reported() {
        let (said, success) = waiting(
            "case $* in *kubelet*) echo NRestarts=63 ;; *show*) echo NRestarts=0 ;; *) exit 1 ;; esac",
            &["kubelet.service", "kube-proxy.service"],
            "ready 1 'kube-proxy to have written its rules' false kube-proxy.service",
        );
        assert!(!success);
        let blamed = "@kdiy fail gave up waiting for kube-proxy to have written its rules; \
                      kubelet.service has ended and been started again 63 times\n";
        assert!(said.ends_with(blamed), "{said}");
    }

    #[test]
    fn a_healthy_answer_between_two_crashes_is_none() {
        let crashing = "echo x >>restarts; case $1 in show) echo NRestarts=$(wc -l <restarts) ;; \
                        *) exit 1 ;; esac";
        let (said, success) = waiting(crashing, &[], "ready 2 it true kubelet.service");
        assert!(!success && said.ends_with("gave up waiting for it\n"), "{said}");
        // What was never started again is believed at once.
        let well = "case $1 in show) echo NRestarts=4 ;; *) exit 1 ;; esac";
        assert!(waiting(well, &[], "ready 2 it true kubelet.service").1);
    }

    #[test]
    fn a_machine_that_is_slow_today_gets_more_time_and_a_run_that_failed_ends() {
        let late = "first=$(date +%s); export first\n\
                    ready 1 it '[ $(($(date +%s) - first)) -ge 2 ]'";
        let slow = format!("little_work() {{ echo 12000000; }}\n{late}");
        let (said, success) = waiting("exit 1", &[], &slow);
        assert!(success, "{said}");
        assert!(said.contains("takes 3 times as long as usual today: waiting up to 3 s"), "{said}");
        assert!(!waiting("exit 1", &[], &format!("little_work() {{ echo 900000; }}\n{late}")).1);
        let over = "touch \"$enough\"; ready 60 it false";
        let (said, success) = waiting("exit 1", &[], over);
        assert!(!success && said.contains("because another check failed"), "{said}");
    }

    /// `packages_by_apt` with a stand-in for apt-get; `$stage` is the directory given.
    fn with_apt(apt: &str) -> (String, bool) {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("apt-get");
        std::fs::write(&program, format!("#!/bin/sh\ncd {}\n{apt}", directory.path().display()))
            .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let functions = LIBRARY.split("# unit: what it last").next().unwrap();
        let doings = functions.split("did() {").nth(1).unwrap();
        let locking = LIBRARY.split("# arguments of apt-get").nth(1).unwrap();
        let locking = locking.split("# shellcheck").next().unwrap();
        let script = format!(
            "stage={0}; PATH={0}:$PATH; sleep() {{ :; }}\ndid() {{{doings}\n# {locking}\n\
             packages_by_apt install x",
            directory.path().display()
        );
        let output = std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.success())
    }

    #[test]
    fn a_lock_of_packages_is_waited_for_and_its_holder_named() {
        // As apt 2.6.1 says it.
        let (said, success) = with_apt(
            "[ -e twice ] && exit 0; [ -e once ] && touch twice; touch once\n\
             echo 'E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 71 (unattended-upgr)' >&2\n\
             echo 'E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?' >&2\n\
             exit 100",
        );
        assert!(success, "{said}");
        let waiting = "@kdiy doing waiting for process 71 (unattended-upgr), which holds the lock of packages\n";
        assert_eq!(said, waiting);
        assert_eq!(
            with_apt("echo 'E: Unable to locate package x' >&2; exit 100"),
            (String::new(), false)
        );
    }

    #[test]
    fn the_scripts_are_valid() {
        for script in [LEDGER, LIBRARY, REMOVE] {
            let status =
                std::process::Command::new("/bin/sh").args(["-n", "-c", script]).status().unwrap();
            assert!(status.success(), "{script}");
        }
    }

    /// Enough of systemctl for the library: a unit is on or off, and each start is another one.
    const SYSTEMCTL: &str = r#"#!/bin/sh
case "$1 $2" in
  "is-active --quiet") test -e "$STUB/$3.starts" ;;
  "is-enabled "*) echo enabled ;;
  "start "* | "restart "*)
    ! test -e "$STUB/broken" || exit 1
    echo "$1" >>"$STUB/$2.starts" ;;
  "show --property") wc -l <"$STUB/$5.starts" ;;
esac
"#;

    /// Runs these calls of the library on a machine that is a directory.
    fn on_a_machine(at: &std::path::Path, calls: &str) -> bool {
        use std::os::unix::fs::PermissionsExt as _;
        let program = at.join("systemctl");
        std::fs::write(&program, SYSTEMCTL).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let state = at.join("state");
        let script = format!("{LEDGER}\n{LIBRARY}\n{calls}")
            .replace("state=/var/lib/kdiy", &format!("state={}", state.display()));
        std::fs::create_dir_all(at.join("files")).unwrap();
        let path = std::env::var("PATH").unwrap();
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", &script, "sh"])
            .arg(at)
            .env("STUB", at)
            .env("PATH", format!("{}:{path}", at.display()))
            .output()
            .unwrap();
        output.status.success()
    }

    fn starts(at: &std::path::Path) -> usize {
        std::fs::read_to_string(at.join("x.service.starts")).unwrap_or_default().lines().count()
    }

    #[test]
    fn a_unit_restarts_for_changes_of_an_interrupted_run() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let owner = std::process::Command::new("stat").args(["-c", "%U:%G"]).arg(at).output();
        let owner = String::from_utf8(owner.unwrap().stdout).unwrap();
        let path = at.join("a").display().to_string();
        let file = call("file", ["0", "0644", owner.trim(), path.as_str(), "x.service"]);
        let unit = call("unit", ["x.service", "restart", path.as_str()]);
        let write = |text: &str| std::fs::write(at.join("files/0"), text).unwrap();
        std::fs::create_dir_all(at.join("files")).unwrap();
        write("one");
        assert!(on_a_machine(at, &format!("{file}\n{unit}")));
        assert_eq!(starts(at), 1);
        assert!(on_a_machine(at, &format!("{file}\n{unit}")));
        assert_eq!(starts(at), 1, "nothing has changed");
        // One step writes the file, and the run ends before that of the unit; so does one in which
        // the unit does not come up.
        write("two");
        assert!(on_a_machine(at, &file));
        std::fs::write(at.join("broken"), "").unwrap();
        assert!(!on_a_machine(at, &unit));
        std::fs::remove_file(at.join("broken")).unwrap();
        assert!(on_a_machine(at, &unit));
        assert_eq!(starts(at), 2);
        assert!(on_a_machine(at, &unit));
        assert_eq!(starts(at), 2, "it has restarted for that");
        let noted = std::fs::read_to_string(at.join("state/started/x.service")).unwrap();
        assert!(noted.starts_with("2\n") && noted.contains(&sha256(b"two")), "{noted}");
    }

    #[test]
    fn a_program_waits_beside_its_path_until_the_step_of_its_unit() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let path = at.join("program").display().to_string();
        std::fs::write(&path, "old").unwrap();
        std::fs::write(format!("{path}{STAGED}"), "new").unwrap();
        std::fs::create_dir_all(at.join("state/staged")).unwrap();
        std::fs::write(at.join("state/staged/key"), format!("{path} 0123 3 0\n")).unwrap();
        let place = call("place", ["key", path.as_str(), "x.service"]);
        let unit = call("unit", ["x.service", "restart", path.as_str()]);
        assert!(on_a_machine(at, &unit));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert!(on_a_machine(at, &place));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert!(on_a_machine(at, &format!("{place}\n{unit}")));
        assert_eq!(starts(at), 2);
        let noted = std::fs::read_to_string(at.join("state/started/x.service")).unwrap();
        assert!(noted.contains(&format!("0123  {path}")), "{noted}");
    }
}
