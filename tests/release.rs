//! What a release is made of: the version that the program prints, the files of the crate, packages and
//! the formula, the workflows, and what watches for new versions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;
use serde_json::Value;
use tempfile::TempDir;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// 2026-11-30 12:00 UTC.
const TIME: &str = "1796040000";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn manifest(path: &str) -> String {
    let text = read("Cargo.toml");
    let line = text.lines().find_map(|line| line.strip_prefix(path)?.strip_prefix(" = "));
    line.unwrap_or_else(|| panic!("Cargo.toml has no {path}")).trim_matches('"').to_owned()
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_program_prints_its_version() {
    let kdiy = || Command::new(env!("CARGO_BIN_EXE_kdiy"));
    let long = output(kdiy().arg("--version"));
    let form = Regex::new(r"^kdiy \S+( \([0-9a-f]{10}( \d{4}-\d{2}-\d{2})?\))?\n$").unwrap();
    assert!(form.is_match(&long), "{long}");
    assert!(long.starts_with(&format!("kdiy {VERSION}")), "{long}");
    assert_eq!(output(kdiy().arg("-V")), format!("kdiy {VERSION}\n"));
}

/// build.rs, compiled on its own, and a directory that it runs in.
struct BuildScript {
    directory: TempDir,
}

impl BuildScript {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        output(
            Command::new(rustc)
                .args(["--edition", "2024", "-o"])
                .arg(directory.path().join("build-script"))
                .arg(root().join("build.rs")),
        );
        fs::create_dir(directory.path().join("kdiy")).unwrap();
        Self { directory }
    }

    fn package(&self) -> PathBuf {
        self.directory.path().join("kdiy")
    }

    fn git(&self, directory: &Path, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@example.org"]).args(arguments);
        git.current_dir(directory).env("GIT_COMMITTER_DATE", format!("{TIME} +0900"));
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CEILING_DIRECTORIES", "/");
        output(&mut git).trim().to_owned()
    }

    /// What a release build prints, with these variables.
    fn run(&self, variables: &[(&str, &str)]) -> String {
        let mut script = Command::new(self.directory.path().join("build-script"));
        script.current_dir(self.package());
        script.env_remove("KDIY_COMMIT").env_remove("SOURCE_DATE_EPOCH");
        script.env("CARGO_PKG_VERSION", "1.2.3").env("PROFILE", "release");
        output(script.envs(variables.iter().copied()))
    }

    fn version(&self, variables: &[(&str, &str)]) -> String {
        let said = self.run(variables);
        let line = said.lines().find_map(|line| line.strip_prefix("cargo:rustc-env=KDIY_VERSION="));
        line.unwrap().to_owned()
    }
}

#[test]
fn the_version_names_the_commit_that_the_environment_gives() {
    let script = BuildScript::new();
    assert_eq!(script.version(&[]), "1.2.3");
    assert_eq!(script.version(&[("KDIY_COMMIT", COMMIT)]), "1.2.3 (0123456789)");
    for (seconds, day) in [
        ("0", "1970-01-01"),
        ("951782399", "2000-02-28"),
        ("951782400", "2000-02-29"),
        ("4107542399", "2100-02-28"),
        ("4107542400", "2100-03-01"),
        (TIME, "2026-11-30"),
    ] {
        let variables = [("KDIY_COMMIT", COMMIT), ("SOURCE_DATE_EPOCH", seconds)];
        assert_eq!(script.version(&variables), format!("1.2.3 (0123456789 {day})"));
    }
    // Packagers set the time always; without a commit it says nothing.
    assert_eq!(script.version(&[("SOURCE_DATE_EPOCH", TIME)]), "1.2.3");
    assert_eq!(script.version(&[("KDIY_COMMIT", ""), ("SOURCE_DATE_EPOCH", "")]), "1.2.3");
    assert_eq!(script.version(&[("KDIY_COMMIT", "v1.2.3 of mine")]), "1.2.3");
}

#[test]
fn the_version_names_the_commit_of_the_repository() {
    let script = BuildScript::new();
    let package = script.package();
    script.git(&package, &["init", "--quiet"]);
    assert_eq!(script.version(&[]), "1.2.3", "a repository without a commit");
    script.git(&package, &["commit", "--quiet", "--allow-empty", "--message", "one"]);
    let first = script.git(&package, &["rev-parse", "HEAD"]);
    assert_eq!(script.version(&[]), format!("1.2.3 ({} 2026-11-30)", &first[..10]));
    assert_eq!(script.version(&[("PROFILE", "debug")]), "1.2.3");
    assert_eq!(script.version(&[("KDIY_COMMIT", COMMIT)]), "1.2.3 (0123456789)");

    // Cargo runs the script anew when one of these changes, and always when one is missing.
    let watched = |script: &BuildScript| -> BTreeMap<PathBuf, Vec<u8>> {
        let said = script.run(&[]);
        let paths = said.lines().filter_map(|line| line.strip_prefix("cargo:rerun-if-changed="));
        let paths = paths.filter(|path| *path != "build.rs").map(|path| package.join(path));
        paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    };
    script.git(&package, &["pack-refs", "--all"]);
    let before = watched(&script);
    script.git(&package, &["commit", "--quiet", "--allow-empty", "--message", "two"]);
    let changed = |before: &BTreeMap<PathBuf, Vec<u8>>| {
        before.iter().any(|(path, text)| fs::read(path).ok().as_ref() != Some(text))
    };
    assert!(changed(&before), "a commit changes none of {:?}", before.keys());
    let before = watched(&script);
    fs::write(package.join("notes"), "not committed").unwrap();
    script.git(&package, &["add", "notes"]);
    assert!(!changed(&before), "work without a commit compiles everything again");
}

#[test]
fn a_package_knows_its_commit_and_ignores_the_repository_around_it() {
    let script = BuildScript::new();
    let around = script.directory.path();
    script.git(around, &["init", "--quiet"]);
    script.git(around, &["commit", "--quiet", "--allow-empty", "--message", "not kdiy's"]);
    assert_eq!(script.version(&[]), "1.2.3");
    let about = format!(r#"{{"git": {{"sha1": "{COMMIT}"}}, "path_in_vcs": ""}}"#);
    fs::write(script.package().join(".cargo_vcs_info.json"), about).unwrap();
    assert_eq!(script.version(&[]), "1.2.3 (0123456789)");
}

#[test]
fn the_crate_holds_what_the_program_is_built_from_and_nothing_else() {
    let listed = output(Command::new(env!("CARGO")).current_dir(root()).args([
        "package",
        "--list",
        "--allow-dirty",
        "--offline",
        "--package",
        "kdiy",
    ]));
    let listed: BTreeSet<&str> = listed.lines().collect();
    let committed = output(Command::new("git").current_dir(root()).args([
        "ls-files",
        "--cached",
        "src",
        "playbooks",
        "vagrant",
        "build.rs",
        "Cargo.lock",
    ]));
    let missing: Vec<&str> = committed.lines().filter(|path| !listed.contains(path)).collect();
    assert!(missing.is_empty(), "the crate lacks {missing:?}");
    assert!(listed.contains("playbooks/artifacts.yaml"), "{listed:?}");
    for path in listed {
        let known =
            ["src/", "playbooks/", "vagrant/", "Cargo.", ".cargo_vcs_info.json", "build.rs"];
        let about = ["README.md", "CHANGELOG.md", "LICENSE", "NOTICE"];
        let wanted = known.iter().any(|it| path.starts_with(it)) || about.contains(&path);
        assert!(wanted, "{path} does not belong into the crate");
    }
}

/// Targets of the released archives.
fn targets() -> BTreeSet<String> {
    let target = Regex::new(r"\{target: ([a-z0-9_-]+),").unwrap();
    let workflow = read(".github/workflows/release.yml");
    target.captures_iter(&workflow).map(|found| found[1].to_owned()).collect()
}

#[test]
fn the_formula_names_every_archive_of_a_release() {
    let directory = tempfile::tempdir().unwrap();
    let sums = directory.path().join("SHA256SUMS");
    let archives: Vec<String> =
        targets().iter().map(|target| format!("kdiy-1.2.3-{target}.tar.gz")).collect();
    assert_eq!(archives.len(), 4);
    let digest = |number: usize| format!("{number:064x}");
    let lines = archives.iter().enumerate().map(|(at, name)| format!("{}  {name}\n", digest(at)));
    fs::write(&sums, lines.collect::<String>()).unwrap();
    let render = |sums: &Path| {
        let script = root().join("packaging/homebrew/render.sh");
        Command::new(script).arg("1.2.3").arg(sums).output().unwrap()
    };
    let done = render(&sums);
    let formula = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success() && !formula.contains('@'), "{formula}");
    for (at, name) in archives.iter().enumerate() {
        let wanted = format!("/releases/download/v1.2.3/{name}\"\n      sha256 \"{}\"", digest(at));
        assert!(formula.contains(&wanted), "{wanted}\n{formula}");
    }
    fs::write(&sums, format!("{}  {}\n", digest(0), archives[0])).unwrap();
    assert!(!render(&sums).status.success(), "an archive is missing");
}

#[test]
fn binstall_looks_for_the_archives_of_a_release() {
    let url = manifest("pkg-url");
    let [version, target] = ["{ version }", "{ target }"];
    assert_eq!(
        url,
        format!("{{ repo }}/releases/download/v{version}/kdiy-{version}-{target}.tar.gz")
    );
    assert_eq!(manifest("bin-dir"), format!("kdiy-{version}-{target}/{{ bin }}{{ binary-ext }}"));
    let script = read("packaging/build.sh");
    for line in ["name=kdiy-$version-$target\n", ">\"dist/$name.tar.gz\"\n"] {
        assert!(script.contains(line), "packaging/build.sh has no {line}");
    }
}

fn workflows() -> Vec<(String, String)> {
    let directory = root().join(".github/workflows");
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: PathBuf| (path.display().to_string(), fs::read_to_string(path).unwrap());
    paths.map(read).collect()
}

#[test]
fn workflows_pin_actions_and_start_without_permissions() {
    let pinned = Regex::new(r"^[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$").unwrap();
    let mut uses = 0;
    for (path, text) in workflows() {
        assert!(text.contains("\npermissions: {}\n"), "{path} starts with permissions");
        assert!(!text.contains("pull_request_target"), "{path} runs foreign code with secrets");
        for line in text.lines() {
            let Some((_, action)) = line.split_once("uses: ") else { continue };
            let ours = action.strip_prefix("./").is_some_and(|file| root().join(file).is_file());
            assert!(ours || pinned.is_match(action), "{path}: {action}");
            uses += 1;
        }
    }
    assert!(uses > 20, "{uses}");
}

/// The lines that a shell gets, of every `run:` of a workflow.
fn scripts(step: &Value, found: &mut Vec<String>) {
    match step {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(script) if key == "run" => found.push(script.to_owned()),
                    _ => scripts(value, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|it| scripts(it, found)),
        _ => {}
    }
}

#[test]
fn no_expression_becomes_part_of_a_script() {
    let mut count = 0;
    for (path, text) in workflows() {
        let workflow: Value = serde_saphyr::from_str(&text).unwrap();
        let mut found = Vec::new();
        scripts(&workflow, &mut found);
        count += found.len();
        for script in found {
            assert!(!script.contains("${{"), "{path}: pass it as a variable: {script}");
        }
    }
    assert!(count > 20, "{count}");
}

#[test]
fn workflows_use_the_oldest_compiler_that_is_supported() {
    let oldest = format!("{}.0", manifest("rust-version"));
    assert!(read(".github/workflows/ci.yml").contains(&format!("[\"stable\", \"{oldest}\"]")));
    let release = read(".github/workflows/release.yml");
    assert!(release.contains(&format!("RUSTUP_TOOLCHAIN: \"{oldest}\"")));
}

/// Versions that Renovate finds in a file: of what, and which. Renovate's RE2 and Rust's `regex` share
/// their syntax.
fn watched(file: &str) -> BTreeSet<(String, String)> {
    let renovate: Value = serde_json::from_str(&read("renovate.json")).unwrap();
    let text = read(file);
    let mut found = BTreeSet::new();
    for manager in renovate["customManagers"].as_array().unwrap() {
        if !manager["managerFilePatterns"].as_array().unwrap().contains(&file.into()) {
            continue;
        }
        for pattern in manager["matchStrings"].as_array().unwrap() {
            let before = found.len();
            for it in Regex::new(pattern.as_str().unwrap()).unwrap().captures_iter(&text) {
                let named = it.name("depName").map(|it| it.as_str());
                let name = named.or(manager["depNameTemplate"].as_str()).unwrap();
                if named.is_some() {
                    let package = manager["packageNameTemplate"].as_str().unwrap();
                    let known = format!("(equals depName '{name}')");
                    assert!(package.contains(&known), "no package for {name}");
                }
                found.insert((name.to_owned(), it["currentValue"].to_owned()));
            }
            assert!(found.len() > before, "{pattern} finds nothing in {file}");
        }
    }
    found
}

#[test]
fn renovate_watches_every_version_that_kdiy_installs() {
    let artifacts: Value = serde_saphyr::from_str(&read("playbooks/artifacts.yaml")).unwrap();
    let mut wanted = BTreeSet::new();
    for versions in artifacts["matrix"].as_object().unwrap().values() {
        for (name, version) in versions.as_object().unwrap() {
            wanted.insert((name.clone(), version.as_str().unwrap().to_owned()));
        }
    }
    // Of Kubernetes, the newest patch of each minor.
    let mut newest: BTreeMap<u64, semver::Version> = BTreeMap::new();
    for version in artifacts["artifacts"]["kubelet"]["digests"].as_object().unwrap().keys() {
        let version: semver::Version = version.parse().unwrap();
        let known = newest.entry(version.minor).or_insert_with(|| version.clone());
        *known = version.max(known.clone());
    }
    assert_eq!(newest.len(), artifacts["matrix"].as_object().unwrap().len());
    wanted.extend(newest.into_values().map(|it| ("kubernetes".to_owned(), it.to_string())));
    assert_eq!(watched("playbooks/artifacts.yaml"), wanted);
    let default = kdiy::config::ClusterConfig::default().kubernetes;
    assert_eq!(watched("src/config.rs"), BTreeSet::from([("kubernetes".into(), default)]));
}
