//! Each file in `examples/` is a whole cluster file that kdiy takes, and the list of them is
//! complete.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn files() -> BTreeSet<String> {
    let entries = fs::read_dir(directory()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".yaml")).collect()
}

#[test]
fn kdiy_takes_every_example() {
    let home = tempfile::tempdir().unwrap();
    assert!(!files().is_empty());
    for name in files() {
        let mut kdiy = Command::cargo_bin("kdiy").unwrap();
        kdiy.env_clear()
            .current_dir(home.path())
            .env("HOME", home.path())
            .env("KDIY_STATE", home.path().join("state"))
            .args(["config", "show", "--output", "json", "--config"])
            .arg(directory().join(&name));
        let run = kdiy.assert().success();
        let shown: serde_json::Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
        let text = fs::read_to_string(directory().join(&name)).unwrap();
        let own_name = text.lines().find_map(|line| line.strip_prefix("name: "));
        assert_eq!(shown["name"].as_str(), own_name, "{name}");
    }
}

#[test]
fn the_list_names_every_example_once() {
    let list = fs::read_to_string(directory().join("README.md")).unwrap();
    let linked: Vec<&str> =
        list.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert_eq!(linked.iter().copied().collect::<BTreeSet<_>>().len(), linked.len(), "{linked:?}");
    assert_eq!(linked.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), files());
}
