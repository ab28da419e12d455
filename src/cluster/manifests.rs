//! Applying manifests, as `kubectl apply --server-side` does.

use std::time::Duration;

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::discovery::{self, Scope};
use kube::{Client, Error, ResourceExt, core::GroupVersionKind};

use super::{NOT_FOUND, is_transient, persist, refused};
use crate::failure::{Failure, Result};

/// Who owns the fields that are set here.
const MANAGER: &str = "kdiy";

/// Applies every document; `name` is what the user can find. What may pass is tried again for
/// `patience`. Returns a line for each object that was created or changed.
pub async fn apply(
    client: &Client,
    name: &str,
    text: &str,
    patience: Duration,
) -> Result<Vec<String>> {
    let objects = parse(name, text)?;
    let mut changes = Vec::new();
    for object in &objects {
        let applied = persist(patience, may_pass, || apply_one(client, object)).await;
        changes.extend(applied.map_err(|error| {
            refused(format!("{name}: cannot apply {}", describe(object)), &error)
        })?);
    }
    Ok(changes)
}

/// What applying would do to one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreseen {
    /// `ConfigMap kube-system/coredns`.
    pub object: String,
    /// As YAML; `None` for an object that is not there.
    pub before: Option<String>,
    pub after: String,
    /// The texts must not be shown to anybody.
    pub secret: bool,
}

/// What [`apply`] would create or change. The api is asked what the outcome would be (a dry
/// run); without an api everything would be created.
pub async fn foresee(client: Option<&Client>, name: &str, text: &str) -> Result<Vec<Foreseen>> {
    let mut foreseen = Vec::new();
    for object in parse(name, text)? {
        let outcome = match client {
            None => Some((None, object.clone())),
            Some(client) => match dry_run(client, &object).await {
                Ok(outcome) => outcome,
                // Its kind or namespace is made by an object before it.
                Err(error) if is_undefined(&error) => Some((None, object.clone())),
                Err(error) => {
                    return Err(refused(format!("{name}: {}", describe(&object)), &error));
                }
            },
        };
        if let Some((before, after)) = outcome {
            let yaml = |object: &DynamicObject| {
                serde_saphyr::to_string(object)
                    .map_err(|error| Failure::bug(describe(object)).because(error))
            };
            foreseen.push(Foreseen {
                object: describe(&object),
                before: before.as_ref().map(yaml).transpose()?,
                after: yaml(&after)?,
                secret: object.types.as_ref().is_some_and(|types| types.kind == "Secret"),
            });
        }
    }
    Ok(foreseen)
}

/// Before and after; `None` when they are the same.
async fn dry_run(
    client: &Client,
    object: &DynamicObject,
) -> Result<Option<(Option<DynamicObject>, DynamicObject)>, Error> {
    let api = api_of(client, object).await?;
    let name = object.name_any();
    let before = api.get_opt(&name).await?.map(without_bookkeeping);
    let params = PatchParams::apply(MANAGER).force().dry_run();
    let after = without_bookkeeping(api.patch(&name, &params, &Patch::Apply(object)).await?);
    Ok((before.as_ref() != Some(&after)).then_some((before, after)))
}

/// `name` is what the user can find.
pub fn parse(name: &str, text: &str) -> Result<Vec<DynamicObject>> {
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

/// A kind that is not known yet may be defined in a moment; a namespace likewise.
fn may_pass(error: &Error) -> bool {
    is_transient(error) || is_undefined(error)
}

fn is_undefined(error: &Error) -> bool {
    matches!(error, Error::Discovery(_))
        || matches!(error, Error::Api(status) if status.code == NOT_FOUND)
}

async fn api_of(client: &Client, object: &DynamicObject) -> Result<Api<DynamicObject>, Error> {
    let types = object.types.clone().unwrap_or_default();
    let kind =
        GroupVersionKind::try_from(&types).map_err(|error| Error::Service(Box::new(error)))?;
    let (resource, capabilities) = discovery::pinned_kind(client, &kind).await?;
    if capabilities.scope == Scope::Cluster {
        return Ok(Api::all_with(client.clone(), &resource));
    }
    let namespace = object.namespace().unwrap_or_else(|| "default".into());
    Ok(Api::namespaced_with(client.clone(), &namespace, &resource))
}

async fn apply_one(client: &Client, object: &DynamicObject) -> Result<Option<String>, Error> {
    let api = api_of(client, object).await?;
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
    object.metadata.generation = None;
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
