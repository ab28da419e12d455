//! Applying manifests, as `kubectl apply --server-side` does.

mod object;
mod webhook;
mod yaml;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams, ValidationDirective};
use kube::client::Body;
use kube::core::{DynamicObject, GroupVersionKind, Request, Status};
use kube::discovery::{self, Scope};
use kube::{Client, Error, Resource as _};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub use self::object::{Object, Objects, parse};
use self::webhook::{Backend, Webhook};
use crate::kubernetes::retry::{NOT_FOUND, PAUSE, is_transient, refused};
use crate::support::event::Events;
use crate::support::failure::{Failure, Kind, Result};

/// The text of a manifest.
pub fn decode(file: &str, bytes: &[u8]) -> Result<String> {
    yaml::decode(bytes).ok_or_else(|| {
        Failure::input(format!("{file} is not a text file"))
            .hint("a manifest must be UTF-8, or UTF-16 with a byte order mark")
    })
}

/// Who owns the fields that are set here.
const MANAGER: &str = "kdiy";
/// A webhook whose pods are on their way is waited for this many times as long as an api-server
/// may be busy: ten minutes, after which Kubernetes itself gives up on a Deployment that shows no
/// progress (`progressDeadlineSeconds`).
const STARTING: u32 = 30;
/// Pods that cannot start, by their own word, may still do so: an image registry may be back.
const STUCK: u32 = 3;
const CONFLICT: u16 = 409;

/// What becomes of fields that another manager has set to something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflicts {
    /// They are set: the object is kdiy's own.
    Override,
    /// They are an error, as they are for `kubectl apply --server-side`.
    Refuse,
}

/// How manifests are applied.
pub struct Applier<'a> {
    pub client: &'a Client,
    pub conflicts: Conflicts,
    /// What may pass by itself is tried again for this long.
    pub patience: Duration,
    /// Ends all waiting.
    pub stop: CancellationToken,
    /// Where warnings and what is waited for are told, with the task that they belong to.
    pub events: Option<(&'a Events, &'a str)>,
}

impl Applier<'_> {
    /// Applies every document; `file` is what the user can find. Returns a line for each object
    /// that was created or changed.
    pub async fn apply(&self, file: &str, text: &str) -> Result<Vec<String>> {
        let Objects { objects, warnings } = parse(file, text)?;
        let mut told: BTreeSet<String> = BTreeSet::new();
        for warning in warnings {
            self.warn(&mut told, warning);
        }
        let mut changes = Vec::new();
        for object in &objects {
            let (change, warnings) = self.persist(file, object).await?;
            changes.extend(change);
            for warning in warnings {
                self.warn(&mut told, format!("{file}: {}: {warning}", object.describe()));
            }
        }
        Ok(changes)
    }

    fn warn(&self, told: &mut BTreeSet<String>, warning: String) {
        if let (Some((events, _)), true) = (self.events, told.insert(warning.clone())) {
            events.warn(warning);
        }
    }

    fn progress(&self, message: String) {
        if let Some((events, task)) = self.events {
            events.progress(task, message);
        }
    }

    /// Until it is applied, and usable.
    async fn persist(&self, file: &str, object: &Object) -> Result<(Option<String>, Vec<String>)> {
        let refused_here = |error: &Error| {
            let failure = refused(format!("{file}: cannot apply {}", object.describe()), error);
            with_hints(failure, error)
        };
        let mut waiting = Waiting::new(self.patience);
        let applied = loop {
            let error = match apply_one(self.client, object, self.conflicts).await {
                Ok(applied) => break applied,
                Err(error) if may_pass(&error) => error,
                Err(error) => return Err(refused_here(&error)),
            };
            let webhook = Webhook::that_failed(&error);
            let mut why = None;
            if let Some(webhook) = &webhook {
                let backend = webhook.backend(self.client).await.unwrap_or(Backend::Settled);
                match &backend {
                    Backend::Starting { ready, wanted } => self.progress(format!(
                        "waiting for the webhook {}: {ready} of {wanted} pods ready",
                        webhook.name()
                    )),
                    Backend::Stuck(stuck) => {
                        self.progress(format!(
                            "waiting for the webhook {}: {stuck}",
                            webhook.name()
                        ));
                        why = Some(stuck.clone());
                    }
                    Backend::Settled => {}
                }
                waiting.see(&backend);
            }
            if waiting.is_over() {
                let failure = refused_here(&error);
                return Err(match why {
                    Some(why) => {
                        failure.hint(format!("the webhook's own pods do not start: {why}"))
                    }
                    None => failure,
                });
            }
            self.pause().await?;
        };
        if object.kind == "CustomResourceDefinition" {
            self.until_established(file, object).await?;
        }
        Ok(applied)
    }

    /// Objects of a kind are refused until the api serves it, a moment after it was defined.
    async fn until_established(&self, file: &str, object: &Object) -> Result<()> {
        let began = Instant::now();
        loop {
            let now = match resource(self.client, object).await {
                Ok(url) => get(self.client, &url, &object.name).await.ok().flatten(),
                Err(_) => None,
            };
            let conditions = now.as_ref().and_then(|now| now["status"]["conditions"].as_array());
            let holds = |kind: &str, status: &str| {
                conditions
                    .into_iter()
                    .flatten()
                    .find(|it| it["type"] == kind && it["status"] == status)
            };
            if holds("Established", "True").is_some() {
                return Ok(());
            }
            if let Some(refused) = holds("NamesAccepted", "False") {
                return Err(Failure::new(
                    Kind::Step,
                    format!(
                        "{file}: {} defines a kind that another definition already has",
                        object.describe()
                    ),
                )
                .cause(refused["message"].as_str().unwrap_or_default()));
            }
            if began.elapsed() >= self.patience {
                return Err(Failure::new(
                    Kind::Step,
                    format!("{file}: the API does not serve what {} defines", object.describe()),
                ));
            }
            self.pause().await?;
        }
    }

    async fn pause(&self) -> Result<()> {
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => Ok(()),
            () = self.stop.cancelled() => {
                Err(Failure::new(Kind::Interrupted, "interrupted while applying manifests"))
            }
        }
    }
}

/// How long one object has been waited for, and why it may take longer.
struct Waiting {
    patience: Duration,
    began: Instant,
    /// When there last was a reason to go on beyond patience.
    hopeful: Instant,
    stuck: Option<Instant>,
}

impl Waiting {
    fn new(patience: Duration) -> Self {
        let now = Instant::now();
        Self { patience, began: now, hopeful: now, stuck: None }
    }

    fn see(&mut self, backend: &Backend) {
        let now = Instant::now();
        match backend {
            Backend::Starting { .. } => {
                self.hopeful = now;
                self.stuck = None;
            }
            Backend::Stuck(_) => {
                let since = *self.stuck.get_or_insert(now);
                if now - since < self.patience * STUCK {
                    self.hopeful = now;
                }
            }
            Backend::Settled => self.stuck = None,
        }
    }

    fn is_over(&self) -> bool {
        self.hopeful.elapsed() >= self.patience || self.began.elapsed() >= self.patience * STARTING
    }
}

fn with_hints(failure: Failure, error: &Error) -> Failure {
    match error {
        Error::Api(status)
            if status.code == CONFLICT && status.message.contains("conflict with") =>
        {
            failure
                .hint(
                    "another field manager has set those fields differently; remove them from the \
                    manifest to keep its values",
                )
                .hint(format!(
                    "or take them over: `kdiy kubectl -- apply --server-side \
                     --field-manager={MANAGER} --force-conflicts -f FILE`"
                ))
        }
        _ => failure,
    }
}

/// What applying would do to one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DryRun {
    /// `ConfigMap kube-system/coredns`.
    pub object: String,
    /// As YAML; `None` for an object that is not there.
    pub before: Option<String>,
    pub after: String,
    /// The texts must not be shown to anybody.
    pub secret: bool,
}

/// What applying would create or change. The api is asked what the outcome would be (a dry run);
/// without an api everything would be created.
pub async fn foresee(
    client: Option<&Client>,
    file: &str,
    text: &str,
    conflicts: Conflicts,
) -> Result<Vec<DryRun>> {
    let mut foreseen = Vec::new();
    for object in parse(file, text)?.objects {
        let outcome = match client {
            None => Some((None, object.value.clone())),
            Some(client) => match dry_run(client, &object, conflicts).await {
                Ok(outcome) => outcome,
                // Its kind or namespace is made by an object before it, or what would judge it is.
                Err(error) if is_undefined(&error) || Webhook::that_failed(&error).is_some() => {
                    Some((None, object.value.clone()))
                }
                Err(error) => {
                    let failure = refused(format!("{file}: {}", object.describe()), &error);
                    return Err(with_hints(failure, &error));
                }
            },
        };
        if let Some((before, after)) = outcome {
            let yaml = |value: &Value| {
                serde_saphyr::to_string(value)
                    .map_err(|error| Failure::bug(object.describe()).because(error))
            };
            foreseen.push(DryRun {
                object: object.describe(),
                before: before.as_ref().map(yaml).transpose()?,
                after: yaml(&after)?,
                secret: object.kind == "Secret",
            });
        }
    }
    Ok(foreseen)
}

/// Before and after; `None` when they are the same.
async fn dry_run(
    client: &Client,
    object: &Object,
    conflicts: Conflicts,
) -> Result<Option<(Option<Value>, Value)>, Error> {
    let url = resource(client, object).await?;
    let before = get(client, &url, &object.name).await?.map(without_bookkeeping);
    let (after, _) = patch(client, &url, object, params(conflicts).dry_run()).await?;
    let after = without_bookkeeping(after);
    Ok((before.as_ref() != Some(&after)).then_some((before, after)))
}

/// A kind that is not known yet may be defined in a moment; a namespace, and the account that
/// comes with it, likewise.
fn may_pass(error: &Error) -> bool {
    let is_account = |status: &Status| {
        status.message.contains("error looking up service account")
            || status.message.contains("no API token found for service account")
    };
    is_transient(error)
        || is_undefined(error)
        || matches!(error, Error::Api(status) if is_account(status))
}

fn is_undefined(error: &Error) -> bool {
    matches!(error, Error::Discovery(_))
        || matches!(error, Error::Api(status) if status.code == NOT_FOUND)
}

/// As kubectl does it, a field that the api does not know is an error; in what comes with kdiy it is
/// a warning, because an older api may not know it yet.
fn params(conflicts: Conflicts) -> PatchParams {
    let unknown_fields = match conflicts {
        Conflicts::Override => ValidationDirective::Warn,
        Conflicts::Refuse => ValidationDirective::Strict,
    };
    PatchParams {
        force: conflicts == Conflicts::Override,
        field_validation: Some(unknown_fields),
        ..PatchParams::apply(MANAGER)
    }
}

/// The path of objects of its kind.
async fn resource(client: &Client, object: &Object) -> Result<String, Error> {
    let (group, version) =
        object.api_version.split_once('/').unwrap_or(("", object.api_version.as_str()));
    let kind = GroupVersionKind::gvk(group, version, &object.kind);
    let (resource, capabilities) = discovery::pinned_kind(client, &kind).await?;
    let namespace = match capabilities.scope {
        Scope::Cluster => None,
        Scope::Namespaced => Some(object.namespace.as_deref().unwrap_or("default")),
    };
    Ok(DynamicObject::url_path(&resource, namespace))
}

async fn get(client: &Client, url: &str, name: &str) -> Result<Option<Value>, Error> {
    let request = Request::new(url).get(name, &Default::default()).map_err(Error::BuildRequest)?;
    match client.request::<Value>(request).await {
        Ok(value) => Ok(Some(value)),
        Err(Error::Api(status)) if status.code == NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}

/// The object as it is now, and what the api warns of.
async fn patch(
    client: &Client,
    url: &str,
    object: &Object,
    params: PatchParams,
) -> Result<(Value, Vec<String>), Error> {
    use http_body_util::BodyExt as _;
    let request = Request::new(url)
        .patch(&object.name, &params, &Patch::Apply(&object.value))
        .map_err(Error::BuildRequest)?;
    let answer = client.send(request.map(Body::from)).await?;
    let warnings = warnings(answer.headers());
    let code = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    if code.is_success() {
        return Ok((serde_json::from_slice(&body).map_err(Error::SerdeError)?, warnings));
    }
    let status = serde_json::from_slice(&body).unwrap_or_else(|_| {
        Status::failure(String::from_utf8_lossy(&body).trim(), "").with_code(code.as_u16())
    });
    Err(Error::Api(status.boxed()))
}

/// `Warning: 299 - "text"`, with `\"` and `\\` in the text (RFC 7234, 5.5).
fn warnings(headers: &http::HeaderMap) -> Vec<String> {
    let text = |value: &http::HeaderValue| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let (_, quoted) = value.split_once('"')?;
        let text = quoted.rsplit_once('"')?.0;
        Some(text.replace("\\\"", "\"").replace("\\\\", "\\"))
    };
    headers.get_all(http::header::WARNING).iter().filter_map(text).collect()
}

async fn apply_one(
    client: &Client,
    object: &Object,
    conflicts: Conflicts,
) -> Result<(Option<String>, Vec<String>), Error> {
    let url = resource(client, object).await?;
    let before = get(client, &url, &object.name).await?;
    let (after, warnings) = patch(client, &url, object, params(conflicts)).await?;
    let change = match before {
        None => Some(format!("created {}", object.describe())),
        Some(before) => (without_bookkeeping(before) != without_bookkeeping(after))
            .then(|| format!("changed {}", object.describe())),
    };
    Ok((change, warnings))
}

/// The object as people mean it. The api may give a new resource version to what stayed the same.
fn without_bookkeeping(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["managedFields", "resourceVersion", "generation"] {
            metadata.remove(field);
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_read_as_the_api_quotes_them() {
        let mut headers = http::HeaderMap::new();
        for warning in [r#"299 - "would violate PodSecurity \"baseline:latest\"""#, "299 - \"b\""] {
            headers.append(http::header::WARNING, warning.parse().unwrap());
        }
        assert_eq!(warnings(&headers), ["would violate PodSecurity \"baseline:latest\"", "b"]);
    }

    #[test]
    fn starting_webhooks_are_waited_for_longer_than_silent_ones() {
        let patience = Duration::from_millis(30);
        let mut starting = Waiting::new(patience);
        let mut silent = Waiting::new(patience);
        let mut stuck = Waiting::new(patience);
        let began = Instant::now();
        while began.elapsed() < patience * (STUCK + 2) {
            starting.see(&Backend::Starting { ready: 0, wanted: 1 });
            silent.see(&Backend::Settled);
            stuck.see(&Backend::Stuck("no image".into()));
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(!starting.is_over() && silent.is_over() && stuck.is_over());
    }
}
