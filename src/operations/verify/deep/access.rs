//! Permissions and quotas.

use std::sync::Arc;

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, LimitRange, Pod, ResourceQuota, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Client;
use serde_json::json;

use crate::kubernetes::request::status_of;
use crate::operations::verify::sandbox::Sandbox;
use crate::operations::verify::{Check, CheckResult};
use crate::support::failure::chain;

pub const CHECKS: &[Check] = &[
    Check {
        name: "rbac",
        title: "a ServiceAccount may do only what its Role allows",
        run: |bench| rbac(bench).boxed(),
    },
    Check {
        name: "pod-security",
        title: "PodSecurity refuses pods that could take over their node",
        run: |bench| pod_security(bench).boxed(),
    },
    Check {
        name: "quota",
        title: "a ResourceQuota is enforced, and a LimitRange sets defaults",
        run: |bench| quota(bench).boxed(),
    },
];

async fn rbac(bench: Arc<Sandbox>) -> CheckResult {
    bench.create::<ServiceAccount>(json!({"metadata": {"name": "reader"}})).await?;
    let role = json!({
        "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}],
    });
    bench.create::<Role>(role).await?;
    let binding = json!({
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": bench.namespace}],
    });
    bench.create::<RoleBinding>(binding).await?;
    bench.create::<ConfigMap>(json!({"metadata": {"name": "settings"}})).await?;
    let user = format!("system:serviceaccount:{}:reader", bench.namespace);
    let here = format!("/api/v1/namespaces/{}", bench.namespace);
    let settings = format!("{here}/configmaps/settings");
    bench
        .until("the Role to take effect", || async {
            match as_user(&bench.client, &user, "GET", &settings).await {
                200 => Ok(()),
                status => Err(status.to_string()),
            }
        })
        .await?;
    let secrets = format!("{here}/secrets");
    for (what, method, path, expected) in [
        ("reads a ConfigMap", "GET", settings.as_str(), 200),
        ("deletes it", "DELETE", settings.as_str(), 403),
        ("lists Secrets", "GET", secrets.as_str(), 403),
        ("reads another namespace", "GET", "/api/v1/namespaces/kube-system/configmaps", 403),
        ("lists nodes", "GET", "/api/v1/nodes", 403),
    ] {
        let saw = as_user(&bench.client, &user, method, path).await;
        bench.prove_same(&format!("the ServiceAccount {what}"), expected, saw);
    }
    Ok(())
}

/// The status of a request in the name of another, whose rights alone then count. 0: no answer.
async fn as_user(client: &Client, user: &str, method: &str, path: &str) -> u16 {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("Impersonate-User", user)
        .body(kube::client::Body::empty());
    match request {
        Ok(request) => client.send(request).await.map_or(0, |answer| answer.status().as_u16()),
        Err(_) => 0,
    }
}

async fn pod_security(bench: Arc<Sandbox>) -> CheckResult {
    let mut privileged = bench.pod("privileged", "true");
    privileged["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    let mut host_path = bench.pod("host-path", "true");
    host_path["spec"]["volumes"] = json!([{"name": "host", "hostPath": {"path": "/"}}]);
    let mut host_network = bench.pod("host-network", "true");
    host_network["spec"]["hostNetwork"] = json!(true);
    for (what, pod) in [
        ("a privileged pod", privileged),
        ("a pod that mounts its node's disk", host_path),
        ("a pod on its node's network", host_network),
    ] {
        let saw = refusal(bench.try_create::<Pod>(pod).await);
        bench.prove(what, "refused by PodSecurity", &saw, saw.contains("PodSecurity"));
    }
    Ok(())
}

async fn quota(bench: Arc<Sandbox>) -> CheckResult {
    let limits = json!({
        "metadata": {"name": "limits"},
        "spec": {"limits": [{"type": "Container",
            "default": {"memory": "32Mi"}, "defaultRequest": {"memory": "16Mi"}, "max": {"memory": "64Mi"}}]},
    });
    bench.create::<LimitRange>(limits).await?;
    let quota = json!({"metadata": {"name": "quota"}, "spec": {"hard": {"pods": "1"}}});
    bench.create::<ResourceQuota>(quota).await?;
    bench
        .until_object("quota", "the quota to take effect", |quota: &ResourceQuota| {
            quota.status.as_ref()?.hard.as_ref().map(drop)
        })
        .await?;
    let mut greedy = bench.pod("greedy", "true");
    greedy["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "1Gi"}});
    let saw = refusal(bench.try_create::<Pod>(greedy).await);
    bench.prove("a pod above the range", "refused: maximum", &saw, saw.contains("maximum memory"));
    let first: Pod = bench.create(bench.pod("first", "sleep 3600")).await?;
    let memory = first.spec.and_then(|spec| {
        let limits = spec.containers.into_iter().next()?.resources?.limits?;
        limits.get("memory").map(|quantity| quantity.0.clone())
    });
    bench.prove_same("default limit", "32Mi", memory.as_deref().unwrap_or("none"));
    let saw = refusal(bench.try_create::<Pod>(bench.pod("second", "sleep 3600")).await);
    bench.prove(
        "a pod above the quota",
        "refused: exceeded quota",
        &saw,
        saw.contains("exceeded quota"),
    );
    Ok(())
}

/// How a request was refused.
fn refusal<T>(result: Result<T, kube::Error>) -> String {
    match result {
        Ok(_) => "taken".into(),
        Err(error) => match status_of(&error) {
            Some(status) => format!("{}: {}", status.code, status.message),
            None => chain(&error),
        },
    }
}
