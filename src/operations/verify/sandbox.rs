//! The environment of a check: its namespace, objects in it, and a deadline.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cluster_context::ClusterContext;
use crate::gates::network;
use crate::kubernetes::retry::{PATIENCE, gone, is_transient, persist, refused};
use crate::support::event::Evidence;
use crate::support::failure::{Failure, Kind, Result, chain};
use crate::support::poll::{Ended, poll};
use crate::support::time_scale::Unscaled;

const PREFIX: &str = "kdiy-verify-";
const PAUSE: Duration = Duration::from_millis(250);
/// What a check waits for happens within this, times `slowMachines`: the slowest is a change of a
/// ConfigMap, which takes up to 90 s to reach a volume.
const WITHIN: Unscaled = Unscaled::from_secs(180);
/// Namespaces are gone within this.
const GONE_WITHIN: Unscaled = Unscaled::from_secs(120);

/// The namespaces of all checks and of the network gate, of this run and of earlier ones.
pub struct Namespaces {
    client: Client,
    context: Arc<ClusterContext>,
}

impl Namespaces {
    pub fn new(client: Client, context: Arc<ClusterContext>) -> Self {
        Self { client, context }
    }

    /// Makes the namespace of a check, for it to work in.
    pub async fn bench(&self, check: &str, stop: &CancellationToken) -> Result<Sandbox> {
        let namespace = format!("{PREFIX}{check}");
        let object = json!({"metadata": {"name": namespace, "labels": {network::TRIAL: "true"}}});
        let api: Api<Namespace> = Api::all(self.client.clone());
        let object = serde_json::from_value(object)
            .map_err(|error| Failure::bug("a namespace").because(error))?;
        let bench = Sandbox {
            client: self.client.clone(),
            namespace,
            context: self.context.clone(),
            stop: stop.clone(),
            within: WITHIN * self.context.config.slow_machines,
            evidence: Mutex::default(),
        };
        let what = format!("create the namespace {}", bench.namespace);
        bench.ask(&what, || create_or_get(&api, &object)).await?;
        // Until a controller has made it, the api refuses every pod.
        let found = |_: &ServiceAccount| Some(());
        bench.until_object("default", "the namespace to have its ServiceAccount", found).await?;
        Ok(bench)
    }

    pub async fn begin_removing(&self, check: &str) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        // What this does not do, the removal of all at the end does.
        let _ = api.delete(&format!("{PREFIX}{check}"), &DeleteParams::background()).await;
    }

    /// Removes every namespace of a verification, and waits until they and their volumes are gone.
    pub async fn remove_all(&self) -> Result<Evidence> {
        let patience = PATIENCE * self.context.config.slow_machines;
        let began = Instant::now();
        loop {
            let left = persist(patience, is_transient, || self.left()).await;
            let left =
                left.map_err(|error| refused("cannot remove the objects of the checks", &error))?;
            if left.is_empty() {
                return Ok(Evidence {
                    machine: None,
                    asked: "namespaces and volumes of checks".into(),
                    expected: "none".into(),
                    saw: "none".into(),
                    ok: true,
                });
            }
            if began.elapsed() > GONE_WITHIN * self.context.config.slow_machines {
                return Err(Failure::new(
                    Kind::Gate,
                    "the objects of the checks are still being deleted",
                )
                .cause(left.join(", "))
                .hint(format!("kdiy kubectl -- delete namespaces -l {}", network::TRIAL)));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Names of what is still there; namespaces that are not on their way out are sent there.
    async fn left(&self) -> kube::Result<Vec<String>> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let found = api.list(&ListParams::default().labels(network::TRIAL)).await?;
        let mut left = Vec::new();
        for namespace in found {
            let name = namespace.name_any();
            if namespace.metadata.deletion_timestamp.is_none() {
                gone(api.delete(&name, &DeleteParams::background()).await)?;
            }
            left.push(format!("namespace {name}"));
        }
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        for volume in volumes.list(&ListParams::default()).await? {
            let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            let namespace = claim.and_then(|claim| claim.namespace.as_deref()).unwrap_or_default();
            if namespace.starts_with(PREFIX) {
                left.push(format!("volume {}", volume.name_any()));
            }
        }
        Ok(left)
    }
}

/// One check's place to work.
pub struct Sandbox {
    pub client: Client,
    pub namespace: String,
    pub context: Arc<ClusterContext>,
    stop: CancellationToken,
    within: Duration,
    evidence: Mutex<Vec<Evidence>>,
}

/// Nobody else makes an object of this name, so one that is there was made by a request whose answer
/// was lost.
async fn create_or_get<K>(api: &Api<K>, object: &K) -> kube::Result<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize,
{
    match api.create(&PostParams::default(), object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => api.get(&object.name_any()).await,
        created => created,
    }
}

/// Types whose objects live in a namespace.
pub trait Object:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
        + Send
        + Sync
        + 'static
{
}

impl Sandbox {
    pub fn api<K: Object>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn busybox(&self) -> String {
        self.context.images.get("busybox").cloned().unwrap_or_default()
    }

    /// What was proven so far.
    pub fn evidence(&self) -> Vec<Evidence> {
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn prove(&self, asked: &str, expected: impl ToString, saw: impl ToString, ok: bool) {
        let evidence = Evidence {
            machine: None,
            asked: asked.into(),
            expected: expected.to_string(),
            saw: saw.to_string(),
            ok,
        };
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner).push(evidence);
    }

    /// As [`Sandbox::prove`], where what is expected is one thing exactly.
    pub fn prove_same<T: PartialEq + ToString>(&self, asked: &str, expected: T, saw: T) {
        let ok = expected == saw;
        self.prove(asked, expected, saw, ok);
    }

    /// Creates an object; the caller wants to know how it is refused.
    pub async fn try_create<K: Object>(&self, object: Value) -> Result<K, kube::Error> {
        let object: K = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
        self.api().create(&PostParams::default(), &object).await
    }

    /// What the api answers; tried again while it may pass: whether every single request gets through
    /// is for `kdiy drill` to say. `what` is the end of "cannot …".
    pub async fn ask<T, F: Future<Output = kube::Result<T>>>(
        &self,
        what: &str,
        request: impl FnMut() -> F,
    ) -> Result<T> {
        let patience = PATIENCE * self.context.config.slow_machines;
        let answer = persist(patience, is_transient, request).await;
        answer.map_err(|error| refused(format!("cannot {what}"), &error))
    }

    pub async fn create<K: Object>(&self, object: Value) -> Result<K> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let kind = K::kind(&());
        let object: K = serde_json::from_value(object)
            .map_err(|error| Failure::bug(format!("{kind} {name}")).because(error))?;
        let api = self.api();
        self.ask(&format!("create {kind} {name}"), || create_or_get(&api, &object)).await
    }

    pub async fn patch<K: Object>(
        &self,
        name: &str,
        parameters: &PatchParams,
        patch: &Patch<Value>,
    ) -> Result<K> {
        let api = self.api::<K>();
        let what = format!("change {} {name}", K::kind(&()));
        self.ask(&what, || api.patch(name, parameters, patch)).await
    }

    pub async fn delete<K: Object>(&self, name: &str) -> Result<()> {
        let api = self.api::<K>();
        let parameters = DeleteParams::background();
        let what = format!("delete {} {name}", K::kind(&()));
        self.ask(&what, || async { gone(api.delete(name, &parameters).await) }).await
    }

    /// Looks until there is something; `Err` of a look is what is seen instead.
    pub async fn until<T, F>(&self, what: &str, look: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, String>>,
    {
        poll(self.within, PAUSE, &self.stop, look).await.map_err(|ended| match ended {
            Ended::Stopped(_) => crate::operations::verify::interrupted(),
            Ended::Late(seen) => {
                let seconds = self.within.as_secs();
                Failure::new(Kind::Gate, format!("waited {seconds} s for {what}"))
                    .cause(seen)
                    .hint(format!("kdiy kubectl -- get events -n {}", self.namespace))
            }
        })
    }

    /// Waits until an object is as `look` wants it; `None` while it is not.
    pub async fn until_object<K: Object, T>(
        &self,
        name: &str,
        what: &str,
        look: impl Fn(&K) -> Option<T>,
    ) -> Result<T> {
        let api = self.api::<K>();
        self.until(what, || async {
            match api.get_opt(name).await {
                Ok(Some(object)) => look(&object).ok_or_else(|| "not yet".to_owned()),
                Ok(None) => Err(format!("there is no {name}")),
                Err(error) => Err(chain(&error)),
            }
        })
        .await
    }

    /// A busybox pod that runs a script, and asks for no right at all.
    pub fn pod(&self, name: &str, script: &str) -> Value {
        json!({
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": self.pod_spec(script),
        })
    }

    pub fn pod_spec(&self, script: &str) -> Value {
        json!({
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65534, "runAsGroup": 65534, "fsGroup": 65534,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [self.container("main", script)],
        })
    }

    pub fn container(&self, name: &str, script: &str) -> Value {
        json!({
            "name": name,
            "image": self.busybox(),
            "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", script],
            "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            },
        })
    }

    /// Serves its own host name; ready once it does.
    pub fn server_spec(&self) -> Value {
        let mut spec = self.pod_spec(&serve("hostname"));
        spec["containers"][0]["readinessProbe"] =
            json!({"tcpSocket": {"port": PORT}, "periodSeconds": 1});
        spec
    }

    pub async fn until_ready(&self, pod: &str) -> Result<Pod> {
        self.until_object(pod, &format!("the pod {pod} to be ready"), |pod: &Pod| {
            is_ready(pod).then(|| pod.clone())
        })
        .await
    }

    /// Waits until a pod that is not restarted has come to its end, well or badly: its phase.
    pub async fn until_ended(&self, pod: &str) -> Result<String> {
        self.until_object(pod, &format!("the pod {pod} to end"), |pod: &Pod| {
            let phase = pod.status.as_ref()?.phase.clone()?;
            ["Succeeded", "Failed"].contains(&phase.as_str()).then_some(phase)
        })
        .await
    }

    /// Waits until as many pods with this `app` label are ready, and no other is left.
    pub async fn until_pods(&self, app: &str, count: usize) -> Result<Vec<Pod>> {
        let api = self.api::<Pod>();
        let params = ListParams::default().labels(&format!("app={app}"));
        self.until(&format!("{count} pods of {app} to be ready"), || async {
            let pods = api.list(&params).await.map_err(|error| chain(&error))?.items;
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            if ready == count && pods.len() == count {
                Ok(pods)
            } else {
                Err(format!("{ready} of {} are ready", pods.len()))
            }
        })
        .await
    }

    pub async fn exec(&self, pod: &str, script: &str) -> Result<String> {
        network::exec(&self.api(), pod, script, self.context.config.slow_machines).await.map_err(
            |error| {
                Failure::new(Kind::Gate, format!("cannot run a command in the pod {pod}"))
                    .cause(error)
            },
        )
    }

    pub async fn logs(&self, pod: &str) -> Result<String> {
        let (api, parameters) = (self.api::<Pod>(), LogParams::default());
        self.ask(&format!("read the logs of {pod}"), || api.logs(pod, &parameters)).await
    }
}

/// Where [`serve`] listens.
pub const PORT: u16 = 8080;

/// A script that answers each request with what `command` printed when it began.
pub fn serve(command: &str) -> String {
    format!("{command} >/tmp/index.html && exec httpd -f -p {PORT} -h /tmp")
}

/// A shell function `get HOST` for scripts in pods: prints what [`serve`] answers.
pub fn get() -> String {
    format!("get() {{ printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 \"$1\" {PORT} | tail -n 1; }}")
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True")
}
