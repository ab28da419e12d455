//! `kdiy list`: lists the clusters that this computer manages.

use serde::Serialize;

use crate::providers;
use crate::state::{Record, StateDir};
use crate::support::failure::Result;
use crate::ui::{Ui, table};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: String,
    masters: u32,
    workers: u32,
    /// Machines of all roles.
    machines: usize,
    provider: String,
    kubernetes: String,
    /// Every gate has been green at least once.
    complete: bool,
    api: String,
}

pub async fn run(ui: Ui) -> Result<u8> {
    let mut listed = Vec::new();
    for name in StateDir::clusters()? {
        let state = StateDir::of(&name)?;
        // A directory without a record is one that a destroy or an up is about to leave.
        let Some(record) = state.record()? else { continue };
        let provider = match providers::provider(&record.config, &state).await {
            Ok(provider) => provider.name().to_owned(),
            // What made the machines may have been taken away since; the cluster is listed still.
            Err(_) => "unknown".into(),
        };
        listed.push(entry(name, &record, provider)?);
    }
    let rows = listed.iter().map(|cluster| {
        [
            cluster.name.clone(),
            format!("{}+{}", cluster.masters, cluster.workers),
            cluster.provider.clone(),
            cluster.kubernetes.clone(),
            cluster.api.clone(),
            if cluster.complete {
                "complete".into()
            } else {
                "not complete: `kdiy up` resumes".into()
            },
        ]
    });
    let text = match listed.is_empty() {
        true => "this computer manages no cluster; `kdiy up` creates one".to_owned(),
        false => table(["name", "size", "provider", "kubernetes", "api", "state"], rows),
    };
    ui.result(&text, &listed);
    Ok(0)
}

fn entry(name: String, record: &Record, provider: String) -> Result<Listed> {
    let topology = record.topology()?;
    Ok(Listed {
        name,
        masters: record.config.masters,
        workers: record.config.workers,
        machines: topology.machines.len(),
        provider,
        kubernetes: record.config.kubernetes.clone(),
        complete: record.complete,
        api: topology.endpoint.url(),
    })
}
