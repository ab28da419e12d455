//! `kdiy kubeconfig`: prints it, or merges it into the user's own.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::Kubeconfig;
use crate::failure::{Failure, Result};
use crate::session::known;
use crate::state::atomic;
use crate::state::ledger::{Ledger, What};
use crate::ui::Ui;

const LISTS: [&str; 3] = ["clusters", "users", "contexts"];

pub fn run(arguments: Kubeconfig, ui: Ui) -> Result<u8> {
    let (state, record) = known(&arguments.which.name)?;
    let path = state.kubeconfig();
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::input("the cluster is not complete: it has no kubeconfig yet")
            .because(error)
            .hint("run `kdiy up` to its end")
    })?;
    if !arguments.merge {
        ui.result(&text, &serde_json::json!({"path": path, "kubeconfig": text}));
        return Ok(0);
    }
    let target = user_kubeconfig()?;
    let id = format!("{}:admin@{}", target.display(), record.config.name);
    Ledger::open(state.root())?.add("kubeconfig", What::Kubeconfig, &[id])?;
    let mut document = read(&target)?;
    let mine = parse("kdiy's own kubeconfig", &text)?;
    merge(&mut document, &mine);
    write(&target, &document)?;
    let context = mine["current-context"].as_str().unwrap_or_default();
    ui.result(
        &format!("{} has the context {context}, and it is the current one", target.display()),
        &serde_json::json!({"path": target, "context": context}),
    );
    Ok(0)
}

/// Takes out what was merged. `id` is the ledger's: `<path>:<context>`.
pub fn unmerge(id: &str) -> Result<()> {
    let Some((path, context)) = id.rsplit_once(':') else { return Ok(()) };
    let path = Path::new(path);
    if !path.exists() {
        return Ok(());
    }
    let mut document = read(path)?;
    take_out(&mut document, context);
    write(path, &document)
}

/// Adds the entries of `mine`, in place of those of the same names.
pub fn merge(document: &mut Value, mine: &Value) {
    for list in LISTS {
        let additions = mine[list].as_array().cloned().unwrap_or_default();
        let entries = document[list].as_array_mut().map(std::mem::take).unwrap_or_default();
        let kept = entries
            .into_iter()
            .filter(|entry| !additions.iter().any(|addition| addition["name"] == entry["name"]));
        document[list] = kept.chain(additions.clone()).collect();
    }
    document["current-context"] = mine["current-context"].clone();
}

/// Removes what [`merge`] added: `context` is `user@cluster`.
pub fn take_out(document: &mut Value, context: &str) {
    let cluster = context.rsplit('@').next().unwrap_or_default();
    for (list, name) in LISTS.into_iter().zip([cluster, context, context]) {
        if let Some(entries) = document[list].as_array_mut() {
            entries.retain(|entry| entry["name"] != name);
        }
    }
    if document["current-context"] == context {
        document["current-context"] = "".into();
    }
}

fn user_kubeconfig() -> Result<PathBuf> {
    if let Some(first) = std::env::var_os("KUBECONFIG")
        .and_then(|value| std::env::split_paths(&value).next())
        .filter(|path| !path.as_os_str().is_empty())
    {
        return Ok(first);
    }
    etcetera::home_dir()
        .map(|home| home.join(".kube/config"))
        .map_err(|error| Failure::host("this user has no home directory").because(error))
}

fn read(path: &Path) -> Result<Value> {
    if !path.exists() {
        return Ok(empty());
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::host(format!("cannot read {}", path.display())).because(error))?;
    parse(&path.display().to_string(), &text)
}

/// `name` is what the user can find. What is not understood is refused, not overwritten.
pub fn parse(name: &str, text: &str) -> Result<Value> {
    if text.trim().is_empty() {
        return Ok(empty());
    }
    let refused = || Failure::input(format!("{name} is no kubeconfig"));
    let document: Value = serde_saphyr::from_str(text).map_err(|error| refused().because(error))?;
    if document.is_null() {
        return Ok(empty());
    }
    if !document.is_object() {
        return Err(refused().hint("it holds no fields"));
    }
    match LISTS.into_iter().find(|list| !(document[list].is_null() || document[list].is_array())) {
        Some(list) => Err(refused().hint(format!("`{list}` is no list"))),
        None => Ok(document),
    }
}

fn empty() -> Value {
    serde_json::json!({"apiVersion": "v1", "kind": "Config"})
}

fn write(path: &Path, document: &Value) -> Result<()> {
    if let Some(directory) = path.parent() {
        atomic::private_directory(directory)?;
    }
    let text = serde_saphyr::to_string(document)
        .map_err(|error| Failure::bug("a kubeconfig").because(error))?;
    atomic::write(path, text.as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINE: &str = "clusters: [{name: kdiy}]\nusers: [{name: admin@kdiy}]\n\
                        contexts: [{name: admin@kdiy}]\ncurrent-context: admin@kdiy\n";

    #[test]
    fn what_is_merged_replaces_its_like_and_can_be_taken_out() {
        let other =
            "users: [{name: other}, {name: admin@kdiy, user: old}]\ncurrent-context: other\n";
        let mut document = parse("x", other).unwrap();
        merge(&mut document, &parse("x", MINE).unwrap());
        assert_eq!(
            document["users"],
            serde_json::json!([{"name": "other"}, {"name": "admin@kdiy"}])
        );
        assert_eq!(document["current-context"], "admin@kdiy");
        take_out(&mut document, "admin@kdiy");
        assert_eq!(document["users"], serde_json::json!([{"name": "other"}]));
        assert_eq!(document["clusters"], serde_json::json!([]));
    }

    #[test]
    fn a_file_that_is_something_else_is_refused() {
        for text in ["[]", "just text", "7", "clusters: 5", "users: {a: b}"] {
            assert!(parse("x", text).is_err(), "{text}");
        }
        assert_eq!(parse("x", "").unwrap(), empty());
        assert!(parse("x", "clusters:\n").is_ok(), "kubectl writes empty lists as null");
    }

    proptest! {
        #[test]
        fn no_file_breaks_the_merge(text in "(?s)(clusters|users|x)?:? ?.{0,60}") {
            if let Ok(mut document) = parse("x", &text) {
                merge(&mut document, &parse("x", MINE).unwrap());
                take_out(&mut document, "admin@kdiy");
            }
        }
    }
}
