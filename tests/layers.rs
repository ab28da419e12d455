//! The rooms of `src` and their floors, as ARCHITECTURE.md shows them: a room uses what lies on a lower
//! floor. So a reader who knows a room knows where everything that it needs can be, and no two rooms
//! depend on each other.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the lowest floor up.
const FLOORS: &[&[&str]] = &[
    &["support"],
    &["config", "transport"],
    &["topology"],
    &["playbook", "state"],
    &["artifacts", "bundle"],
    &["pki", "providers"],
    &["kubernetes"],
    &["cluster_context"],
    &["session", "etcd"],
    &["gates", "engine"],
    &["operations"],
    &["reports"],
    &["ui"],
    &["cli"],
    &["commands"],
];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut waiting = vec![root];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn room(path: &Path) -> String {
    let below = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = below.components().next().unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// What the program itself uses: without comments and unit tests.
fn code(text: &str) -> String {
    let program = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = program.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The rooms whose names follow a `crate::`.
fn used(code: &str) -> BTreeSet<String> {
    let name = |rest: &str| {
        rest.chars().take_while(|it| it.is_ascii_lowercase() || *it == '_').collect::<String>()
    };
    let paths = code.split("crate::").skip(1).flat_map(|rest| match rest.strip_prefix('{') {
        Some(list) => list.split('}').next().unwrap_or_default().split(',').collect(),
        None => vec![rest],
    });
    paths.map(|path| name(path.trim_start())).filter(|it| floor(it).is_some()).collect()
}

#[test]
fn every_room_uses_lower_floors_only() {
    let mut wrong = Vec::new();
    let mut seen = BTreeMap::new();
    for path in sources() {
        let (from, text) = (room(&path), fs::read_to_string(&path).unwrap());
        if from == "lib" || from == "main" {
            continue;
        }
        let own = floor(&from);
        assert!(own.is_some(), "{}: the room {from} stands on no floor", path.display());
        for to in used(&code(&text)).into_iter().filter(|to| *to != from) {
            if floor(&to) >= own {
                wrong.push(format!("{} uses {to}, which is no lower", path.display()));
            }
            *seen.entry((from.clone(), to)).or_insert(0) += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Else this test would have read nothing.
    assert!(seen.contains_key(&("commands".into(), "operations".into())), "{seen:?}");
}

#[test]
fn an_arrow_up_is_seen() {
    let text = "use crate::{state, support::event};\nuse crate::session::Session;\n// crate::ui::Ui\n\
                #[cfg(test)]\nmod tests {\n use crate::cli::Cli;\n}";
    assert_eq!(
        used(&code(text)),
        BTreeSet::from(["session", "state", "support"].map(str::to_owned))
    );
    assert!(floor("session") > floor("support"));
}

#[test]
fn architecture_shows_every_room() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    for (number, rooms) in FLOORS.iter().enumerate() {
        for room in *rooms {
            let row = format!("| {} | `{room}` |", number + 1);
            assert!(page.contains(&row), "ARCHITECTURE.md has no row {row}");
            let file = root.join("src").join(format!("{room}.rs"));
            assert!(file.exists(), "there is no {}", file.display());
        }
    }
}
