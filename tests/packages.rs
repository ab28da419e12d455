//! Which packages enter a machine's ledger: those that kdiy's own installations brought, whatever
//! fails or is cut off in between, and none that the owner installed.
//!
//! dnf and rpm are simulated by a few lines of shell, which do what those do with the options that
//! are used: dnf plans with dependencies, downloads without installing (and wants the directory to
//! be there), and may fail or be killed half-way; rpm lists what is installed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use kdiy::bundle::script::{LEDGER, LIBRARY};

const DNF: &str = r#"#!/bin/sh
# haproxy needs lua, keepalived needs libnl.
shift
plan='' into=''
while [ $# -gt 0 ]; do
  case $1 in
    --destdir) into=$2; shift ;;
    haproxy) plan="$plan lua haproxy" ;;
    keepalived) plan="$plan libnl keepalived" ;;
  esac
  shift
done
for package in $plan; do
  [ ! -e "$DB/$package" ] || continue
  if [ -n "$into" ]; then
    [ -d "$into" ] || exit 1
    : >"$into/$package.rpm"
    continue
  fi
  : >"$DB/$package"
  case ${BREAKS-} in
    fails) exit 1 ;;
    killed) kill -KILL $PPID; exit 1 ;;
  esac
done
"#;

const RPM: &str = r#"#!/bin/sh
case $1 in
  -q) [ -e "$DB/$2" ] ;;
  -qp) name=${5##*/}; printf %s "${name%.rpm}" ;;
esac
"#;

const TOOLS: [&str; 10] =
    ["sh", "mkdir", "rm", "cat", "grep", "flock", "date", "sort", "dirname", "printf"];

struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["bin", "installed", "state", "run"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let bin = directory.path().join("bin");
        for (name, text) in [("dnf", DNF), ("rpm", RPM)] {
            fs::write(bin.join(name), text).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        for tool in TOOLS {
            let found = ["/usr/bin", "/bin"].map(|at| Path::new(at).join(tool));
            let found = found.iter().find(|path| path.exists()).unwrap();
            symlink(found, bin.join(tool)).unwrap();
        }
        Self { directory }
    }

    fn at(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// The part of a step's script that installs this package.
    fn step(&self, package: &str, breaks: &str) -> bool {
        let script = format!(
            "{LEDGER}\n{LIBRARY}\nneed_package {provides} {package} {package}\ninstall_packages\n",
            provides = self.at(&format!("installed/{package}")),
        );
        let script = script
            .replace("/var/lib/kdiy", &self.at("state"))
            .replace("/run/kdiy-", &self.at("run/kdiy-"));
        let mut shell = Command::new("/bin/sh");
        shell.env_clear().env("PATH", self.at("bin")).env("DB", self.at("installed"));
        shell.env("BREAKS", breaks);
        shell.args(["-c", &script, "sh", "/nowhere"]).output().unwrap().status.success()
    }

    fn owner_installs(&self, package: &str) {
        fs::write(self.at(&format!("installed/{package}")), "").unwrap();
    }

    fn entered(&self) -> Vec<String> {
        let ledger = fs::read_to_string(self.at("state/ledger")).unwrap_or_default();
        let mut names: Vec<String> = ledger
            .lines()
            .filter_map(|line| line.strip_prefix("package\t")?.split('\t').next())
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }
}

#[test]
fn what_a_failed_run_did_not_install_is_the_owners_to_install() {
    let machine = Machine::new();
    assert!(!machine.step("haproxy", "fails"));
    assert_eq!(machine.entered(), ["lua"]);
    machine.owner_installs("tree");
    machine.owner_installs("haproxy");
    assert!(machine.step("haproxy", ""));
    assert_eq!(machine.entered(), ["lua"]);
    assert!(machine.step("keepalived", ""));
    assert_eq!(machine.entered(), ["keepalived", "libnl", "lua"]);
}

#[test]
fn what_an_installation_that_was_cut_off_brought_is_kdiys() {
    let machine = Machine::new();
    assert!(!machine.step("haproxy", "killed"));
    machine.owner_installs("tree");
    assert!(machine.step("haproxy", ""));
    assert_eq!(machine.entered(), ["haproxy", "lua"]);
    assert!(!Path::new(&machine.at("state/planned-packages")).exists());
}
