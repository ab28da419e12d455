//! `kdiy kubeconfig`: prints the kubeconfig, or merges it into the user's own.

mod edit;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::edit::Change;
use crate::cli::Kubeconfig;
use crate::session::known;
use crate::state::ledger::{Ledger, ResourceKind};
use crate::state::{StateDir, atomic};
use crate::support::failure::{Failure, Result};
use crate::ui::Ui;

const LISTS: [&str; 3] = ["clusters", "users", "contexts"];
const EMPTY: &str = "apiVersion: v1\nkind: Config\n";

pub fn run(arguments: Kubeconfig, ui: Ui) -> Result<u8> {
    let (state, record) = known(&arguments.which.name)?;
    let path = state.kubeconfig();
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::input("the cluster is not complete and has no kubeconfig yet")
            .because(error)
            .hint("run `kdiy up` until it succeeds")
    })?;
    if !arguments.merge {
        ui.result(&text, &serde_json::json!({"path": path, "kubeconfig": text}));
        return Ok(0);
    }
    let name = record.config.name;
    let mine = Entries::new(&parse("kdiy's own kubeconfig", &text)?);
    let files = user_kubeconfigs()?;
    let target = target(&files);
    let mut remembered = remembered(&state)?;
    let before = remembered.iter().position(|merged| merged.path == target);
    let before = before.map(|place| remembered.remove(place));

    let mut others = Vec::new();
    for file in &files {
        others.push(parse(&file.display().to_string(), &read(file)?)?);
    }
    let names = free_names(&name, &mine, before.as_ref(), &others).ok_or_else(|| {
        Failure::input(format!(
            "{} already has other clusters, users or contexts named {name} and kdiy-{name}",
            target.display()
        ))
        .hint("nothing was changed; kdiy never replaces entries of others")
        .hint(format!(
            "use a separate file: `kdiy kubeconfig --name {name} > {name}.kubeconfig`, and \
             KUBECONFIG={name}.kubeconfig"
        ))
    })?;
    if names.cluster != name {
        ui.note(&format!(
            "{} already has an entry for another cluster named {name}; kdiy names this one {} there",
            target.display(),
            names.cluster
        ));
    }
    let text = read(&target)?;
    let current = parse(&target.display().to_string(), &text)?["current-context"].clone();
    let merged = Merged {
        path: target.clone(),
        authority: mine.authority(),
        key: mine.key(),
        // What was current before the first time is what comes back.
        before: match &before {
            Some(before) if current == *before.names.context => before.before.clone(),
            _ => current.as_str().map(str::to_owned),
        },
        names,
    };
    let text = merge(&target.display().to_string(), &text, &mine, &merged)?;
    let id = format!("{}:{}", target.display(), merged.names.context);
    Ledger::open(state.root())?.add("kubeconfig", ResourceKind::Kubeconfig, &[id])?;
    let context = merged.names.context.clone();
    remembered.push(merged);
    atomic::write_json(&remembered_file(&state), &remembered)?;
    write(&target, &text)?;
    ui.result(
        &format!(
            "added the context {context} to {}, and made it the current context",
            target.display()
        ),
        &serde_json::json!({"path": target, "context": context}),
    );
    Ok(0)
}

/// Takes out what was merged, and says what was left because it is not what was put there. `id` is
/// the ledger's: `<path>:<context>`.
pub fn unmerge(state: &StateDir, id: &str) -> Result<Vec<String>> {
    let Some((path, context)) = id.rsplit_once(':') else { return Ok(Vec::new()) };
    let path = Path::new(path);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let mine = std::fs::read_to_string(state.kubeconfig()).ok();
    let mine = mine.and_then(|text| parse("kdiy's own kubeconfig", &text).ok());
    let mine = mine.map(|own| Entries::new(&own));
    let remembered = remembered(state)?.into_iter();
    let merged = remembered
        .filter(|merged| merged.path == path)
        .find(|merged| merged.names.context == context)
        // An older kdiy did not write down what it merged.
        .unwrap_or_else(|| Merged {
            path: path.to_owned(),
            names: Names::of(context.rsplit('@').next().unwrap_or_default()),
            authority: mine.as_ref().map(Entries::authority).unwrap_or_default(),
            key: mine.as_ref().map(Entries::key).unwrap_or_default(),
            before: None,
        });
    let text = read(path)?;
    let (after, left) = take_out(&path.display().to_string(), &text, &merged)?;
    if after != text {
        write(path, &after)?;
    }
    Ok(left)
}

/// What entries are called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    cluster: String,
    /// Of the user, too.
    context: String,
}

impl Names {
    pub fn of(cluster: &str) -> Self {
        Self { cluster: cluster.into(), context: format!("admin@{cluster}") }
    }

    fn in_list(&self, list: &str) -> &str {
        if list == "clusters" { &self.cluster } else { &self.context }
    }
}

/// What was put into a file, by which it is known again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Merged {
    path: PathBuf,
    names: Names,
    /// SHA-256 of the cluster's authority and of the user's key, as the file has them.
    authority: String,
    key: String,
    /// The context that was current before.
    before: Option<String>,
}

impl Merged {
    pub fn new(path: &Path, names: Names, mine: &Entries) -> Self {
        let (authority, key) = (mine.authority(), mine.key());
        Self { path: path.to_owned(), names, authority, key, before: None }
    }

    /// Whether an entry of kdiy's name is kdiy's: others may have set a namespace or another
    /// server since, but authority and key are of this cluster alone.
    fn owns(&self, list: &str, entry: &Value) -> bool {
        let has = |value: &Value, digest: &str| {
            value.as_str().is_some_and(|text| digest_of(text) == digest)
        };
        match list {
            "clusters" => has(&entry["cluster"]["certificate-authority-data"], &self.authority),
            "users" => has(&entry["user"]["client-key-data"], &self.key),
            _ => {
                entry["context"]["cluster"] == *self.names.cluster
                    && entry["context"]["user"] == *self.names.context
            }
        }
    }
}

fn digest_of(text: &str) -> String {
    use sha2::{Digest as _, Sha256};
    hex::encode(Sha256::digest(text))
}

/// The cluster's own cluster and user.
#[derive(Debug, Clone)]
pub struct Entries {
    cluster: Value,
    user: Value,
}

impl Entries {
    pub fn new(own: &Value) -> Self {
        let (cluster, user) = (&own["clusters"][0]["cluster"], &own["users"][0]["user"]);
        Self { cluster: cluster.clone(), user: user.clone() }
    }

    fn authority(&self) -> String {
        digest_of(self.cluster["certificate-authority-data"].as_str().unwrap_or_default())
    }

    fn key(&self) -> String {
        digest_of(self.user["client-key-data"].as_str().unwrap_or_default())
    }

    fn named(&self, list: &str, names: &Names) -> Value {
        let Names { cluster, context } = names;
        match list {
            "clusters" => serde_json::json!({"name": cluster, "cluster": self.cluster}),
            "users" => serde_json::json!({"name": context, "user": self.user}),
            _ => serde_json::json!({
                "name": context,
                "context": {"cluster": cluster, "user": context},
            }),
        }
    }
}

fn find<'a>(document: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    document[list].as_array()?.iter().find(|entry| entry["name"] == name)
}

/// The cluster's own name, or one beside it, where no file has a foreign entry of that name: of
/// two files that have one, kubectl takes the first.
fn free_names(
    cluster: &str,
    mine: &Entries,
    before: Option<&Merged>,
    documents: &[Value],
) -> Option<Names> {
    let again = before.map(|before| before.names.clone());
    let fresh = [cluster.to_owned(), format!("kdiy-{cluster}")].map(|name| Names::of(&name));
    again.into_iter().chain(fresh).find(|names| {
        let now = Merged::new(Path::new(""), names.clone(), mine);
        let owns = |list: &str, entry: &Value| {
            now.owns(list, entry) || before.is_some_and(|before| before.owns(list, entry))
        };
        documents.iter().all(|document| {
            LISTS.iter().all(|list| {
                find(document, list, names.in_list(list)).is_none_or(|entry| owns(list, entry))
            })
        })
    })
}

/// Adds the entries, in place of those that were merged before, and makes the context the current
/// one. `file` is what the user can find.
pub fn merge(file: &str, text: &str, mine: &Entries, merged: &Merged) -> Result<String> {
    let mut expected = parse(file, text)?;
    let mut text = beginning(text);
    for list in LISTS {
        let name = merged.names.in_list(list);
        let entry = match find(&expected, list, name) {
            // It may have a namespace that the user has set.
            Some(entry) if list == "contexts" => entry.clone(),
            _ => mine.named(list, &merged.names),
        };
        if find(&expected, list, name) != Some(&entry) {
            text = changed(file, &text, &Change { list, name, entry: Some(&entry) })?;
        }
        let mut entries = expected[list].as_array().cloned().unwrap_or_default();
        match entries.iter_mut().find(|entry| entry["name"] == name) {
            Some(old) => *old = entry,
            None => entries.push(entry),
        }
        expected[list] = entries.into();
    }
    text = with_current(file, &text, &merged.names.context)?;
    expected["current-context"] = merged.names.context.clone().into();
    let text = read_back(file, text, &expected)?;
    // kdiy adds nothing that it could not take out again.
    take_out(file, &text, merged)?;
    Ok(text)
}

/// Something to add fields to.
fn beginning(text: &str) -> String {
    let is_comment = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(is_comment) {
        let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return format!("{text}{newline}{EMPTY}");
    }
    // `---` or `null`.
    let is_nothing = serde_saphyr::from_str::<Value>(text).is_ok_and(|value| value.is_null());
    if is_nothing { EMPTY.to_owned() } else { text.to_owned() }
}

/// The text without what was merged, and what was left because somebody has changed it.
pub fn take_out(file: &str, text: &str, merged: &Merged) -> Result<(String, Vec<String>)> {
    let mut expected = parse(file, text)?;
    let (mut text, mut left) = (text.to_owned(), Vec::new());
    for list in LISTS {
        let name = merged.names.in_list(list);
        match find(&expected, list, name) {
            None => {}
            Some(entry) if merged.owns(list, entry) => {
                text = changed(file, &text, &Change { list, name, entry: None })?;
                if let Some(entries) = expected[list].as_array_mut() {
                    entries.retain(|entry| entry["name"] != name);
                }
            }
            Some(_) => left.push(format!(
                "{file}: kdiy leaves `{name}` in {list}, because somebody changed it"
            )),
        }
    }
    let context = &merged.names.context;
    if expected["current-context"] == **context && find(&expected, "contexts", context).is_none() {
        let before = merged.before.clone().unwrap_or_default();
        let before = match find(&expected, "contexts", &before) {
            Some(_) => before,
            None => String::new(),
        };
        text = with_current(file, &text, &before)?;
        expected["current-context"] = before.into();
    }
    Ok((read_back(file, text, &expected)?, left))
}

fn changed(file: &str, text: &str, change: &Change<'_>) -> Result<String> {
    edit::entry(text, change).map_err(|error| unusual(file).because(error))
}

fn with_current(file: &str, text: &str, context: &str) -> Result<String> {
    edit::current_context(text, context).map_err(|error| unusual(file).because(error))
}

/// The text, if it says what is expected.
fn read_back(file: &str, text: String, expected: &Value) -> Result<String> {
    match parse(file, &text) {
        Ok(document) if document == *expected => Ok(text),
        _ => Err(unusual(file)),
    }
}

fn unusual(file: &str) -> Failure {
    Failure::input(format!("cannot change {file} without rewriting entries of others"))
        .hint("nothing was changed")
        .hint(
            "bring it into kubectl's usual layout (`kubectl config view --raw`), or edit it by \
            hand",
        )
}

/// The files that kubectl reads, absolute: later commands may run in another directory.
fn user_kubeconfigs() -> Result<Vec<PathBuf>> {
    let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
    let listed: Vec<PathBuf> =
        std::env::split_paths(&listed).filter(|path| !path.as_os_str().is_empty()).collect();
    let files = if listed.is_empty() {
        let home = etcetera::home_dir()
            .map_err(|error| Failure::host("this user has no home directory").because(error))?;
        vec![home.join(".kube/config")]
    } else {
        listed
    };
    let absolute = |path: PathBuf| {
        std::path::absolute(&path).map_err(|error| {
            Failure::input(format!("KUBECONFIG: {} is not a path", path.display())).because(error)
        })
    };
    files.into_iter().map(absolute).collect()
}

/// The file that `kubectl config` would write to: the first that is there, or the last.
fn target(files: &[PathBuf]) -> PathBuf {
    let found = files.iter().find(|file| file.exists()).or(files.last());
    found.cloned().unwrap_or_default()
}

fn remembered_file(state: &StateDir) -> PathBuf {
    state.root().join("merged.json")
}

fn remembered(state: &StateDir) -> Result<Vec<Merged>> {
    atomic::read_json(&remembered_file(state))
}

fn read(path: &Path) -> Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        text => text.map_err(|error| {
            Failure::host(format!("cannot read {}", path.display())).because(error)
        }),
    }
}

/// `name` is what the user can find. What is not understood is refused, not overwritten.
pub fn parse(name: &str, text: &str) -> Result<Value> {
    if text.trim().is_empty() {
        return Ok(empty());
    }
    let refused = || Failure::input(format!("{name} is not a kubeconfig"));
    let document: Value = serde_saphyr::from_str(text).map_err(|error| refused().because(error))?;
    if document.is_null() {
        return Ok(empty());
    }
    if !document.is_object() {
        return Err(refused().hint("it has no fields"));
    }
    match LISTS.into_iter().find(|list| !(document[list].is_null() || document[list].is_array())) {
        Some(list) => Err(refused().hint(format!("`{list}` is not a list"))),
        None => Ok(document),
    }
}

fn empty() -> Value {
    serde_json::json!({"apiVersion": "v1", "kind": "Config"})
}

/// A file that is there keeps its mode.
fn write(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if let Some(directory) = path.parent() {
        atomic::private_directory(directory)?;
    }
    let mode = std::fs::metadata(path).map_or(0o600, |metadata| metadata.permissions().mode());
    atomic::write(path, text.as_bytes(), mode & 0o777)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mine() -> Entries {
        Entries::new(&serde_json::json!({
            "clusters": [{"name": "bug", "cluster": {
                "server": "https://10.0.0.2:6443", "certificate-authority-data": "QUJD",
            }}],
            "users": [{"name": "admin@bug", "user": {"client-key-data": "REVG"}}],
        }))
    }

    fn merged(names: &str) -> Merged {
        Merged::new(Path::new("config"), Names::of(names), &mine())
    }

    /// As most people have it: with comments, block lists of two styles, and a token of their own.
    const OWN: &str = "# my own comment\napiVersion: v1\nkind: Config\nclusters:\n- name: old # why\n  \
                       cluster: {server: \"https://10.0.0.9:6443\"}\nusers:\n  # mine\n  - name: old\n    \
                       user:\n      token: |\n        not-a-real-one\ncontexts:\n- context:\n    \
                       cluster: old\n    user: old\n  name: old\ncurrent-context: old\n\
                       preferences: {}\n# the end\n";

    #[test]
    fn a_kubeconfig_is_identical_after_its_entries_are_removed() {
        let mut merged = merged("bug");
        merged.before = Some("old".into());
        let flow = "{\"apiVersion\": \"v1\", \"clusters\": [{\"name\": \"old\"}], \
                    \"users\": [{\"name\": \"old\"}], \"contexts\": [{\"name\": \"old\"}], \
                    \"current-context\": \"old\"}\n";
        for text in [OWN, OWN.trim_end(), &OWN.replace("\n  # mine", "")] {
            let with = merge("x", text, &mine(), &merged).unwrap();
            for line in text.lines().filter(|line| !line.starts_with("current-context")) {
                assert!(with.lines().any(|other| other == line), "`{line}` is gone from {with}");
            }
            let again = merge("x", &with, &mine(), &merged).unwrap();
            assert_eq!(again, with, "a second time changes nothing");
            let (without, left) = take_out("x", &with, &merged).unwrap();
            assert_eq!(without.trim_end(), text.trim_end());
            assert_eq!(left, [""; 0]);
        }
        let with = merge("x", flow, &mine(), &merged).unwrap();
        let (without, _) = take_out("x", &with, &merged).unwrap();
        assert_eq!(parse("x", &without).unwrap(), parse("x", flow).unwrap());
    }

    #[test]
    fn nothing_and_empty_lists_are_filled() {
        for text in [
            "",
            "# nothing\n",
            "clusters: []\nusers: null\ncontexts:\n",
            "{}",
            "{\"users\": []}",
            "clusters: # none yet\nusers: ~\ncurrent-context: \"\"",
        ] {
            let with = merge("x", text, &mine(), &merged("bug")).unwrap();
            let document = parse("x", &with).unwrap();
            assert_eq!(document["current-context"], "admin@bug", "{with}");
            assert!(LISTS.iter().all(|list| document[list].as_array().unwrap().len() == 1));
            let (without, _) = take_out("x", &with, &merged("bug")).unwrap();
            let document = parse("x", &without).unwrap();
            assert!(LISTS.iter().all(|list| document[list] == serde_json::json!([])), "{without}");
        }
    }

    #[test]
    fn foreign_entries_of_the_same_name_are_neither_replaced_nor_removed() {
        let foreign = "clusters:\n- name: bug\n  cluster: {server: \"https://10.0.0.9:6443\"}\n";
        let document = parse("x", foreign).unwrap();
        let names = free_names("bug", &mine(), None, &[document]).unwrap();
        assert_eq!(names, Names::of("kdiy-bug"));
        let merged = Merged::new(Path::new("x"), names, &mine());
        let with = merge("x", foreign, &mine(), &merged).unwrap();
        assert!(with.starts_with(foreign), "{with}");
        let document = parse("x", &with).unwrap();
        assert_eq!(document["contexts"][0]["context"]["cluster"], "kdiy-bug");
        let both = parse("x", "clusters: [{name: bug}, {name: kdiy-bug}]").unwrap();
        assert_eq!(free_names("bug", &mine(), None, &[both]), None);

        let (without, left) = take_out("x", foreign, &super::tests::merged("bug")).unwrap();
        assert_eq!(without, foreign);
        assert!(left[0].contains("`bug` in clusters"), "{left:?}");
    }

    #[test]
    fn settings_of_the_user_in_a_context_stay_until_it_is_removed() {
        let with = merge("x", OWN, &mine(), &merged("bug")).unwrap();
        let with = with.replace("    user: admin@bug\n", "    user: admin@bug\n    namespace: n\n");
        let again = merge("x", &with, &mine(), &merged("bug")).unwrap();
        assert!(again.contains("namespace: n"), "{again}");
        let (without, left) = take_out("x", &again, &merged("bug")).unwrap();
        assert!(!without.contains("bug") && left.is_empty(), "{without}");
    }

    #[test]
    fn the_file_is_the_one_that_kubectl_would_write_to() {
        let directory = tempfile::tempdir().unwrap();
        let files = ["a", "b", "c"].map(|name| directory.path().join(name));
        assert_eq!(target(&files), files[2]);
        std::fs::write(&files[1], "").unwrap();
        assert_eq!(target(&files), files[1]);
    }

    #[test]
    fn a_file_that_is_something_else_is_refused() {
        for text in ["[]", "just text", "7", "clusters: 5", "users: {a: b}"] {
            assert!(parse("x", text).is_err(), "{text}");
        }
        assert_eq!(parse("x", "").unwrap(), empty());
        assert!(parse("x", "clusters:\n").is_ok(), "kubectl writes empty lists as null");
    }

    #[test]
    fn nothing_is_merged_that_could_not_be_taken_out() {
        let text = "clusters: &¡";
        assert!(merge("x", text, &mine(), &merged("bug")).is_err());
    }

    proptest! {
        #[test]
        fn no_file_breaks_the_merge(text in "(?s)(clusters|users|x)?:? ?.{0,60}") {
            if let Ok(with) = merge("x", &text, &mine(), &merged("bug")) {
                take_out("x", &with, &merged("bug")).unwrap();
            }
        }
    }
}
