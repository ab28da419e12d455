//! `kdiy kubeconfig`: prints it, or merges it into the user's own.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::Kubeconfig;
use crate::failure::{Failure, Result};
use crate::session::known;
use crate::state::atomic;
use crate::state::ledger::{Ledger, What};
use crate::ui::Ui;

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
    let mine: Value = serde_saphyr::from_str(&text)
        .map_err(|error| Failure::bug("kdiy's own kubeconfig").because(error))?;
    for list in ["clusters", "users", "contexts"] {
        let additions = mine[list].as_array().cloned().unwrap_or_default();
        let entries = document[list].as_array_mut().map(std::mem::take).unwrap_or_default();
        let kept = entries
            .into_iter()
            .filter(|entry| !additions.iter().any(|addition| addition["name"] == entry["name"]));
        document[list] = kept.chain(additions.clone()).collect();
    }
    document["current-context"] = mine["current-context"].clone();
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
    let cluster = context.rsplit('@').next().unwrap_or_default();
    let mut document = read(path)?;
    for (list, name) in [("clusters", cluster), ("users", context), ("contexts", context)] {
        if let Some(entries) = document[list].as_array_mut() {
            entries.retain(|entry| entry["name"] != name);
        }
    }
    if document["current-context"] == context {
        document["current-context"] = "".into();
    }
    write(path, &document)
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
        return Ok(serde_json::json!({"apiVersion": "v1", "kind": "Config"}));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::host(format!("cannot read {}", path.display())).because(error))?;
    serde_saphyr::from_str(&text).map_err(|error| {
        Failure::input(format!("{} is no kubeconfig", path.display())).because(error)
    })
}

fn write(path: &Path, document: &Value) -> Result<()> {
    if let Some(directory) = path.parent() {
        atomic::private_directory(directory)?;
    }
    let text = serde_saphyr::to_string(document)
        .map_err(|error| Failure::bug("a kubeconfig").because(error))?;
    atomic::write(path, text.as_bytes(), 0o600)
}
