//! Checks through the API.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, Error, ResourceExt as _};
use serde_json::{Value, json};

use crate::cluster_context::ClusterContext;
use crate::kubernetes::request::raw;
use crate::reports::cis::{Bound, Denied, Seen, Setting};
use crate::support::failure::chain;
use crate::topology::Group;

/// Where a pod without further ado would go; it has no Pod Security label of its own.
const NAMESPACE: &str = "default";
/// Nobody; the question is what the group alone allows.
const STRANGER: &str = "kdiy:nobody";

pub struct Cluster {
    /// An api-server that is ready, or why there is none.
    client: Result<Client, String>,
    /// Each kubelet's settings in force, by machine.
    kubelets: Vec<(String, Result<Value, String>)>,
}

impl Cluster {
    pub async fn reach(context: &ClusterContext) -> Self {
        let nodes = context.topology.group(Group::Nodes);
        let client = context.api.any().await.map_err(|failure| failure.to_string());
        let kubelets = nodes.into_iter().map(|node| async {
            let settings = match &client {
                Ok(client) => settings(client, &node.name).await,
                Err(reason) => Err(reason.clone()),
            };
            (node.name.clone(), settings)
        });
        let kubelets = futures::future::join_all(kubelets).await;
        Self { client, kubelets }
    }

    pub(super) fn kubelets(&self, wanted: &[Setting]) -> Seen {
        let mut seen = Seen::default();
        for (machine, settings) in &self.kubelets {
            let place = |problem: String| format!("{machine}: {problem}");
            match settings {
                Err(reason) => seen.unseen(place(reason.clone())),
                Ok(settings) => {
                    for setting in wanted {
                        let value = value(settings, &setting.at);
                        let problem = setting.must.problem(&setting.at, value.as_deref());
                        seen.note(problem.map(place));
                    }
                }
            }
        }
        seen
    }

    pub(super) async fn denied(&self, denied: &Denied) -> Seen {
        let mut seen = Seen::default();
        for verb in &denied.verbs {
            let what = format!("{} may {verb} {}", denied.group, denied.resource);
            match self.may(denied, verb).await {
                Ok(may) => seen.note(may.then_some(what)),
                Err(reason) => seen.unseen(format!("cannot check whether {what}: {reason}")),
            }
        }
        seen
    }

    async fn may(&self, denied: &Denied, verb: &str) -> Result<bool, String> {
        let client = self.client.clone()?;
        let (resource, subresource) = match denied.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource)),
            None => (denied.resource.as_str(), None),
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(STRANGER.into()),
                groups: Some(vec![denied.group.clone()]),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.into()),
                    group: Some(denied.api_group.clone()),
                    resource: Some(resource.into()),
                    subresource: subresource.map(str::to_owned),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = Api::<SubjectAccessReview>::all(client)
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| reason(&error))?;
        answer.status.map(|status| status.allowed).ok_or_else(|| "no answer".into())
    }

    /// Asks the api to make the pod and to keep nothing of it.
    pub(super) async fn refused(&self, spec: &Value) -> Seen {
        let mut seen = Seen::default();
        let what = format!("the API accepts a pod with {spec}");
        match self.try_pod(spec).await {
            Ok(refused) => seen.note((!refused).then_some(what)),
            Err(reason) => seen.unseen(format!("cannot check whether {what}: {reason}")),
        }
        seen
    }

    /// Whether Pod Security refuses it; that it is refused for another reason prints nothing.
    async fn try_pod(&self, spec: &Value) -> Result<bool, String> {
        let client = self.client.clone()?;
        let pod = json!({"metadata": {"generateName": "kdiy-cis-"}, "spec": spec});
        let pod: Pod = serde_json::from_value(pod).map_err(|error| error.to_string())?;
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        match Api::<Pod>::namespaced(client, NAMESPACE).create(&dry, &pod).await {
            Ok(_) => Ok(false),
            Err(Error::Api(status)) if status.message.contains("violates PodSecurity") => Ok(true),
            Err(error) => Err(reason(&error)),
        }
    }

    pub(super) async fn bound(&self, bound: &Bound) -> Seen {
        let mut seen = Seen::default();
        let bindings = match self.bindings().await {
            Ok(bindings) => bindings,
            Err(reason) => {
                seen.unseen(reason);
                return seen;
            }
        };
        for binding in bindings.iter().filter(|binding| binding.role_ref.name == bound.role) {
            for subject in binding.subjects.iter().flatten() {
                let who = format!("{} {}", subject.kind, subject.name);
                let problem = (!bound.only.contains(&who))
                    .then(|| format!("{} gives {} to {who}", binding.name_any(), bound.role));
                seen.note(problem);
            }
        }
        seen
    }

    async fn bindings(&self) -> Result<Vec<ClusterRoleBinding>, String> {
        let client = self.client.clone()?;
        let listed = Api::<ClusterRoleBinding>::all(client).list(&ListParams::default()).await;
        listed.map(|list| list.items).map_err(|error| reason(&error))
    }
}

fn reason(error: &Error) -> String {
    match error {
        Error::Api(status) => status.message.clone(),
        other => chain(other),
    }
}

async fn settings(client: &Client, node: &str) -> Result<Value, String> {
    let (status, body) = raw(client, &format!("/api/v1/nodes/{node}/proxy/configz")).await?;
    if status != 200 {
        return Err(format!("the kubelet answered {status}"));
    }
    let mut answer: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
    Ok(answer["kubeletconfig"].take())
}

/// The text of a value, or of a list with commas between.
fn value(settings: &Value, at: &str) -> Option<String> {
    match settings.pointer(&format!("/{}", at.replace('.', "/")))? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => {
            let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            Some(items.join(","))
        }
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(kubelet: Result<Value, String>) -> Cluster {
        Cluster { client: Err("no api".into()), kubelets: vec![("worker".into(), kubelet)] }
    }

    fn settings() -> Value {
        json!({"authentication": {"anonymous": {"enabled": false}}, "tlsCipherSuites": ["A", "B"]})
    }

    fn wanted(text: &str) -> Vec<Setting> {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn settings_are_found_by_their_path() {
        let wanted = wanted(
            "[{at: authentication.anonymous.enabled, must: {is: 'false'}}, \
              {at: tlsCipherSuites, must: {among: [A, B]}}, {at: podPidsLimit, must: {atLeast: 1}}]",
        );
        let seen = cluster(Ok(settings())).kubelets(&wanted);
        assert_eq!(seen.looked_at, 3);
        assert_eq!(seen.problems, ["worker: podPidsLimit is not set; it must be at least 1"]);
    }

    #[tokio::test]
    async fn a_check_without_an_answer_does_not_pass() {
        let cluster = cluster(Err("no answer".into()));
        assert_eq!(cluster.kubelets(&wanted("[{at: a, must: absent}]")).problems.len(), 1);
        let spec = json!({"hostPID": true});
        assert!(cluster.refused(&spec).await.problems[0].contains("cannot check whether"));
        let denied: Denied =
            serde_saphyr::from_str("{group: g, verbs: [get, list], resource: secrets}").unwrap();
        assert_eq!(cluster.denied(&denied).await.problems.len(), 2);
        let bound = Bound { role: "cluster-admin".into(), only: vec![] };
        assert_eq!(cluster.bound(&bound).await.problems, ["no api"]);
    }
}
