//! Manifests are read as kubectl reads them. `tests/manifests/kubectl.json` is what kubectl made of
//! the other files there (`kubectl annotate --local -f FILE -o json x-` reads without a cluster);
//! `cargo lab test` holds it against the kubectl of the mirror, and applies the files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kdiy::kubernetes::apply::{Object, decode, parse};
use serde_json::Value;

const READ: &str = "kubectl.json";

fn corpus() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests")
}

/// What tells objects apart.
fn key(value: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &value["metadata"];
    (text(&value["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
}

#[test]
fn every_object_is_what_kubectl_reads() {
    let read = fs::read_to_string(corpus().join(READ)).unwrap();
    let by_kubectl: BTreeMap<String, Vec<Value>> = serde_json::from_str(&read).unwrap();
    let mut files: Vec<String> = fs::read_dir(corpus())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != READ)
        .collect();
    files.sort();
    assert!(by_kubectl.keys().eq(&files), "{READ} is of other files than {files:?}");
    let mut objects = 0;
    for (file, mut theirs) in by_kubectl {
        let bytes = fs::read(corpus().join(&file)).unwrap();
        let ours = parse(&file, &decode(&file, &bytes).unwrap()).unwrap().objects;
        let mut ours: Vec<Value> = ours.into_iter().map(|Object { value, .. }| value).collect();
        ours.sort_by_key(key);
        theirs.sort_by_key(key);
        assert_eq!(ours.len(), theirs.len(), "{file}");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(differences(ours, theirs, ""), [""; 0], "{file}: {:?}", key(theirs));
            objects += 1;
        }
    }
    assert_eq!(objects, 35, "docs/how-to/add-ons.md says how many there are");
}

/// Paths at which two values differ, with both.
fn differences(ours: &Value, theirs: &Value, at: &str) -> Vec<String> {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => ours
            .keys()
            .chain(theirs.keys().filter(|key| !ours.contains_key(*key)))
            .flat_map(|key| {
                let of = |fields: &serde_json::Map<String, Value>| {
                    fields.get(key).cloned().unwrap_or_else(|| "(nothing)".into())
                };
                differences(&of(ours), &of(theirs), &format!("{at}.{key}"))
            })
            .collect(),
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => ours
            .iter()
            .zip(theirs)
            .enumerate()
            .flat_map(|(place, (ours, theirs))| {
                differences(ours, theirs, &format!("{at}[{place}]"))
            })
            .collect(),
        _ if ours == theirs => Vec::new(),
        _ => vec![format!("{at}: {ours}, kubectl has {theirs}")],
    }
}

#[test]
fn what_kubectl_refuses_is_refused() {
    for text in [
        "a: .inf",
        "a: !!int x",
        "a: !!bool 5",
        "a: &a [*a]",
        "a: *nothing",
        "? [a, b]\n: c",
        "~: null is no key",
        "a: {<<: 5}",
        "a: b\n--- c\n",
        "a: b: c",
        "a:\n\t- tab",
        "{\"a\": }",
    ] {
        assert!(parse("x", text).is_err(), "{text:?} was taken");
    }
}

#[test]
fn a_few_lines_that_stand_for_millions_are_refused() {
    let mut text =
        "apiVersion: v1\nkind: X\nmetadata: {name: a}\na0: &a0 [x, x, x, x, x, x, x, x, x]\n"
            .to_owned();
    for level in 1..9 {
        let alias = format!("*a{}", level - 1);
        text += &format!("a{level}: &a{level} [{}]\n", vec![alias; 9].join(", "));
    }
    let failure = parse("x", &text).unwrap_err().to_string();
    assert!(failure.contains("aliases"), "{failure}");
}

#[test]
fn a_key_that_is_given_twice_is_told() {
    let text = "apiVersion: v1\nkind: X\nmetadata: {name: a, labels: {l: a, l: b}}\n";
    let read = parse("my.yaml", text).unwrap();
    assert_eq!(read.objects[0].value["metadata"]["labels"]["l"], "b");
    assert_eq!(read.warnings.len(), 1);
    assert!(read.warnings[0].contains("my.yaml") && read.warnings[0].contains("line 3"));
}
