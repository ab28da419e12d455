//! Tokens with which machines join: Secrets that exist in the API only while a machine needs them.
//!
//! The Secret records which machine its token is for. Anyone who can write Secrets in `kube-system`
//! controls the cluster anyway.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, Unit};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use crate::kubernetes::retry::{gone, is_transient, persist, refused};
use crate::pki::BootstrapToken;
use crate::support::failure::Result;

/// Whom a token speaks for; what this group may do is in `rights.yaml.hbs`.
pub(super) const GROUP: &str = "system:bootstrappers:kdiy";
const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// The label that holds the name of the machine. Tokens of an older kdiy have none.
const MACHINE: &str = "kdiy/machine";
const MANAGER: &str = "kdiy";
/// A machine joins within minutes; a day is for one that is looked at by somebody in between. The
/// controller-manager deletes what has expired.
const HOLDS: SignedDuration = SignedDuration::from_hours(24);

/// Lets a machine ask for its certificate with this token, for a day from now.
pub async fn admit(
    client: &Client,
    token: &BootstrapToken,
    patience: std::time::Duration,
) -> Result<()> {
    let BootstrapToken { machine, id, secret } = token;
    let ends = expiration(Timestamp::now());
    let name = format!("bootstrap-token-{id}");
    let document = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {MACHINE: machine}},
        "type": TYPE,
        "stringData": {
            "description": format!("{machine} joins with this token, and no other machine"),
            "token-id": id,
            "token-secret": secret,
            "expiration": ends,
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": GROUP,
        },
    });
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let (parameters, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(&document));
    let applied = persist(patience, is_transient, || secrets.patch(&name, &parameters, &patch));
    let refusal = |error| refused("cannot create a token for joining", &error).on(machine);
    applied.await.map(drop).map_err(refusal)
}

/// In RFC 3339, as the controller-manager reads it.
fn expiration(now: Timestamp) -> String {
    let ends = now.saturating_add(HOLDS).unwrap_or(now);
    ends.round(Unit::Second).unwrap_or(ends).to_string()
}

/// The machine that each token was made for, by the token's id.
pub(super) async fn owners(client: &Client) -> kube::Result<BTreeMap<String, String>> {
    let owner = |secret: &Secret| {
        let id = secret.name_any().strip_prefix("bootstrap-token-")?.to_owned();
        Some((id, secret.labels().get(MACHINE)?.clone()))
    };
    Ok(all(client).await?.iter().filter_map(owner).collect())
}

/// Takes back every token, or those of one machine, and says whose.
pub(super) async fn retire(client: &Client, only: Option<&str>) -> kube::Result<Vec<String>> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let mut taken = Vec::new();
    for secret in all(client).await? {
        let machine = secret.labels().get(MACHINE).cloned();
        if only.is_some() && machine.as_deref() != only {
            continue;
        }
        let name = secret.name_any();
        gone(secrets.delete(&name, &DeleteParams::default()).await)?;
        let whose = machine.unwrap_or_else(|| "a machine".into());
        taken.push(format!("revoked the token of {whose}"));
    }
    Ok(taken)
}

/// Those that kdiy made, and no other tool.
async fn all(client: &Client) -> kube::Result<Vec<Secret>> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let listed = secrets.list(&ListParams::default().fields(&format!("type={TYPE}"))).await?;
    Ok(listed.items.into_iter().filter(is_ours).collect())
}

fn is_ours(secret: &Secret) -> bool {
    let groups = secret.data.as_ref().and_then(|data| data.get("auth-extra-groups"));
    groups.is_some_and(|groups| groups.0 == GROUP.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_ends_after_a_day() {
        let now: Timestamp = "2026-11-30T15:49:33.25Z".parse().unwrap();
        assert_eq!(expiration(now), "2026-12-01T15:49:33Z");
    }

    #[test]
    fn tokens_of_others_are_left_alone() {
        let secret = |groups: &str| {
            let data = json!({"auth-extra-groups": k8s_openapi::ByteString(groups.into())});
            serde_json::from_value::<Secret>(json!({"data": data})).unwrap()
        };
        assert!(is_ours(&secret(GROUP)));
        assert!(!is_ours(&secret("system:bootstrappers:kubeadm:default-node-token")));
        assert!(!is_ours(&Secret::default()));
    }
}
