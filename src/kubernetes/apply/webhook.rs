//! Webhooks that do not answer yet. Until the pods of a webhook are ready, the API refuses objects
//! that are applied after it.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, ListParams};
use kube::{Client, Error, ResourceExt};

/// What a container waits for that does not come by itself, as a rule.
const STUCK: [&str; 6] = [
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
];

/// The Service that the api could not ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The webhook's own name, or the Service's where the api tells no other.
    name: String,
    service: String,
    namespace: String,
}

/// What stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// Its pods are on their way.
    Starting { ready: usize, wanted: usize },
    /// Its pods will hardly come; why.
    Stuck(String),
    /// There is nothing to wait for: all pods are ready, or there are none.
    Settled,
}

impl Webhook {
    /// Of an api's answer such as `failed calling webhook "a.b.c": failed to call webhook: Post
    /// "https://service.namespace.svc:443/path": no endpoints available`, or `conversion webhook
    /// for … failed: Post …`.
    pub fn that_failed(error: &Error) -> Option<Self> {
        let Error::Api(status) = error else { return None };
        let message = &status.message;
        if !message.contains("webhook") {
            return None;
        }
        let (_, url) = message.split_once("https://")?;
        let host = url.split(['/', ':', '"', '?']).next()?;
        let (service, rest) = host.split_once('.')?;
        let (namespace, _) = rest.split_once(".svc")?;
        let name = message
            .split_once("calling webhook \"")
            .and_then(|(_, rest)| rest.split_once('"'))
            .map_or(service, |(name, _)| name);
        Some(Self { name: name.into(), service: service.into(), namespace: namespace.into() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub async fn backend(&self, client: &Client) -> Result<Backend, Error> {
        let services: Api<Service> = Api::namespaced(client.clone(), &self.namespace);
        let service = services.get_opt(&self.service).await?;
        let selector = service.and_then(|service| service.spec?.selector).unwrap_or_default();
        if selector.is_empty() {
            return Ok(Backend::Settled);
        }
        let labels: Vec<String> =
            selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let pods: Api<Pod> = Api::namespaced(client.clone(), &self.namespace);
        let pods = pods.list(&ListParams::default().labels(&labels.join(","))).await?.items;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &self.namespace);
        let mut deployments = deployments.list(&ListParams::default()).await?.items;
        deployments.retain(|deployment| {
            let template = deployment.spec.as_ref().map(|spec| &spec.template);
            let labels = template
                .and_then(|template| template.metadata.as_ref()?.labels.clone())
                .unwrap_or_default();
            selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        });
        Ok(judge(&pods, &deployments))
    }
}

fn judge(pods: &[Pod], deployments: &[Deployment]) -> Backend {
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    let replicas = |deployment: &Deployment| {
        let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
        usize::try_from(replicas.unwrap_or(1)).unwrap_or_default()
    };
    let wanted = deployments.iter().map(replicas).sum::<usize>().max(pods.len());
    if ready > 0 || wanted == 0 {
        return Backend::Settled;
    }
    let given_up = deployments.iter().find_map(gave_up);
    match given_up.or_else(|| pods.iter().find_map(stuck)) {
        Some(why) => Backend::Stuck(why),
        None => Backend::Starting { ready, wanted },
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|it| it.type_ == "Ready" && it.status == "True")
}

/// Kubernetes' own word that a Deployment makes no progress, by its `progressDeadlineSeconds`.
fn gave_up(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failed = conditions.iter().find(|it| {
        (it.type_ == "Progressing" && it.status == "False")
            || (it.type_ == "ReplicaFailure" && it.status == "True")
    })?;
    let message = failed.message.clone().or_else(|| failed.reason.clone()).unwrap_or_default();
    Some(format!("Deployment {}: {message}", deployment.name_any()))
}

fn stuck(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    containers.into_iter().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().filter(|reason| STUCK.contains(reason))?;
        let message = waiting.message.clone().unwrap_or_default();
        Some(format!("pod {}: {reason}: {message}", pod.name_any()))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(message: &str) -> Error {
        Error::Api(Box::new(kube::core::Status {
            message: message.into(),
            code: 500,
            ..Default::default()
        }))
    }

    #[test]
    fn the_service_is_parsed_from_the_error_of_the_api() {
        let said = error(
            "Internal error occurred: failed calling webhook \"hook.example.org\": failed to call \
             webhook: Post \"https://hook.default.svc:443/?timeout=5s\": no endpoints available \
             for service \"hook\"",
        );
        let webhook = Webhook::that_failed(&said).unwrap();
        assert_eq!((webhook.name(), &*webhook.service), ("hook.example.org", "hook"));
        assert_eq!(webhook.namespace, "default");
        let said = error(
            "conversion webhook for a/v1, Kind=B failed: Post \
             \"https://c.operators.svc/convert?timeout=30s\": dial tcp: connection refused",
        );
        assert_eq!(Webhook::that_failed(&said).unwrap().name(), "c");
        assert_eq!(Webhook::that_failed(&error("etcdserver: request timed out")), None);
    }

    #[test]
    fn starting_pods_are_waited_for_and_stuck_ones_reported() {
        let pod = |state: serde_json::Value| {
            serde_json::from_value::<Pod>(json!({
                "metadata": {"name": "p"},
                "status": {"containerStatuses": [{
                    "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": state,
                }]},
            }))
            .unwrap()
        };
        let starting = pod(json!({"running": {}}));
        assert_eq!(judge(&[starting], &[]), Backend::Starting { ready: 0, wanted: 1 });
        let stuck = pod(json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}}));
        assert_eq!(judge(&[stuck], &[]), Backend::Stuck("pod p: ErrImagePull: not found".into()));
        assert_eq!(judge(&[], &[]), Backend::Settled);
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "d"},
            "spec": {"selector": {}, "template": {}},
            "status": {"conditions": [
                {"type": "Progressing", "status": "False", "message": "it took too long"},
            ]},
        }))
        .unwrap();
        assert_eq!(
            judge(&[], &[deployment]),
            Backend::Stuck("Deployment d: it took too long".into())
        );
    }
}
