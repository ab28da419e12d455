//! Applying manifests, as `kubectl apply --server-side` does.

use std::time::{Duration, Instant};

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::discovery::{self, Scope};
use kube::{Client, Error, ResourceExt, core::GroupVersionKind};

use super::{is_transient, refused};
use crate::failure::{Failure, Result};

/// Who owns the fields that are set here.
const MANAGER: &str = "kdiy";

/// How long to wait for a kind that another manifest has just defined, or for an api-server that
/// is busy.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(300);

/// Applies every document; `name` is what the user can find. Returns a line for each object that
/// was created or changed.
pub async fn apply(client: &Client, name: &str, text: &str) -> Result<Vec<String>> {
    let objects = parse(name, text)?;
    let mut changes = Vec::new();
    for object in &objects {
        changes.extend(apply_patiently(client, name, object).await?);
    }
    Ok(changes)
}

fn parse(name: &str, text: &str) -> Result<Vec<DynamicObject>> {
    let invalid = |error: &dyn std::error::Error| {
        Failure::input(format!("{name} is no valid manifest")).cause(error.to_string())
    };
    // As Kubernetes reads them: only `true` and `false` are booleans, `n` is a name.
    let options = serde_saphyr::options! { strict_booleans: true };
    let documents: Vec<serde_json::Value> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| invalid(&error))?;
    documents
        .into_iter()
        .filter(|document| !document.is_null())
        .map(|document| serde_json::from_value(document).map_err(|error| invalid(&error)))
        .collect()
}

async fn apply_patiently(
    client: &Client,
    name: &str,
    object: &DynamicObject,
) -> Result<Option<String>> {
    let began = Instant::now();
    loop {
        match apply_one(client, object).await {
            Ok(change) => return Ok(change),
            Err(error) if may_pass(&error) && began.elapsed() < PATIENCE => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                return Err(refused(format!("{name}: cannot apply {}", describe(object)), &error));
            }
        }
    }
}

/// A kind that is not known yet may be defined in a moment; a namespace likewise.
fn may_pass(error: &Error) -> bool {
    is_transient(error)
        || matches!(error, Error::Discovery(_))
        || matches!(error, Error::Api(status) if status.code == 404)
}

async fn apply_one(client: &Client, object: &DynamicObject) -> Result<Option<String>, Error> {
    let types = object.types.clone().unwrap_or_default();
    let kind =
        GroupVersionKind::try_from(&types).map_err(|error| Error::Service(Box::new(error)))?;
    let (resource, capabilities) = discovery::pinned_kind(client, &kind).await?;
    let api: Api<DynamicObject> = if capabilities.scope == Scope::Cluster {
        Api::all_with(client.clone(), &resource)
    } else {
        let namespace = object.namespace().unwrap_or_else(|| "default".into());
        Api::namespaced_with(client.clone(), &namespace, &resource)
    };
    let name = object.name_any();
    let before = api.get_opt(&name).await?;
    let params = PatchParams::apply(MANAGER).force();
    let after = api.patch(&name, &params, &Patch::Apply(object)).await?;
    Ok(match before {
        None => Some(format!("created {}", describe(object))),
        Some(before) => (without_bookkeeping(before) != without_bookkeeping(after))
            .then(|| format!("changed {}", describe(object))),
    })
}

/// The object as people mean it. The api may give a new resource version to what stayed the same.
fn without_bookkeeping(mut object: DynamicObject) -> DynamicObject {
    object.metadata.managed_fields = None;
    object.metadata.resource_version = None;
    object
}

fn describe(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("object", |types| types.kind.as_str());
    match object.namespace() {
        Some(namespace) => format!("{kind} {namespace}/{}", object.name_any()),
        None => format!("{kind} {}", object.name_any()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_told_apart_and_empty_ones_passed_over() {
        let text = "---\napiVersion: v1\nkind: A\nmetadata: {name: a}\n---\n---\napiVersion: v1\n\
                    kind: B\nmetadata: {name: b, namespace: n}\n";
        let names: Vec<String> = parse("x", text).unwrap().iter().map(describe).collect();
        assert_eq!(names, ["A a", "B n/b"]);
    }

    #[test]
    fn what_is_no_manifest_is_named() {
        assert!(parse("my.yaml", "a: [").unwrap_err().to_string().contains("my.yaml"));
    }
}
