//! Clients that write through the load balancer during a drill, and read back what they wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backon::{ConstantBuilder, Retryable as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::kubernetes::client::{ApiAccess, ApiPath, Patience};
use crate::kubernetes::retry::gone;
use crate::operations::drill::measure::{Answer, History, Observation, Request};
use crate::support::failure::{Failure, Result, chain};
use crate::support::time_scale::Unscaled;
use crate::topology::{Group, Topology};

/// Where everything of a drill is in the cluster.
pub const NAMESPACE: &str = "kdiy-drill";
/// Which drill of which run an object is of.
const LABEL: &str = "kdiy.dev/drill";
/// With a balancer that spreads connections, every api-server has one of the clients, whoever
/// else is connected.
const CLIENTS_PER_MASTER: usize = 2;
/// Each client writes once in this time. With three masters that is 24 writes and 24 reads a
/// second, which is next to nothing for the api.
const PACE: Duration = Duration::from_millis(250);
/// A write that takes longer is given up; the client then connects anew. A healthy api answers
/// within a few milliseconds, one that elects a leader within the election timeout.
const REQUEST: Unscaled = Unscaled::from_secs(1);
/// On a network that a cluster would live in, a connection is made or refused at once.
const CONNECT: Unscaled = Unscaled::from_millis(400);
const PAGE: u32 = 500;
/// The objects of a long drill are gone within seconds, its pods within their grace of 30 s;
/// multiplied by `slowMachines`.
const LEAVING: Unscaled = Unscaled::from_secs(60);

/// What clients and watchers see, as they see it.
#[derive(Clone)]
pub struct Log {
    began: Instant,
    history: Arc<Mutex<History>>,
}

impl Log {
    pub fn begin() -> Self {
        Self { began: Instant::now(), history: Arc::default() }
    }

    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn request(&self, request: Request) {
        if let Ok(mut history) = self.history.lock() {
            history.requests.push(request);
        }
    }

    pub fn sighting(&self, sighting: Observation) {
        if let Ok(mut history) = self.history.lock() {
            history.sightings.push(sighting);
        }
    }

    pub fn history(&self) -> History {
        self.history.lock().map(|history| history.clone()).unwrap_or_default()
    }
}

pub fn count(topology: &Topology) -> usize {
    topology.group(Group::Masters).len() * CLIENTS_PER_MASTER
}

/// How long one request may take, as the measurement sees it.
pub fn patience(slow_machines: u32) -> Patience {
    Patience { connect: CONNECT * slow_machines, answer: REQUEST * slow_machines }
}

pub struct Clients {
    running: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    label: String,
}

impl Clients {
    /// `run` tells this drill's objects from those of other runs; `server` is the URL of the load
    /// balancer.
    pub fn start(
        api: &Arc<ApiAccess>,
        server: &str,
        patience: Patience,
        count: usize,
        run: &str,
        log: &Log,
    ) -> Self {
        let stop = CancellationToken::new();
        let numbers = Arc::new(AtomicU64::new(0));
        let running = (0..count)
            .map(|client| {
                let writer = Writer {
                    api: api.clone(),
                    server: server.to_owned(),
                    patience,
                    client,
                    numbers: numbers.clone(),
                    label: run.to_owned(),
                    log: log.clone(),
                };
                tokio::spawn(writer.write_until(stop.clone()))
            })
            .collect();
        Self { running, stop, label: run.to_owned() }
    }

    /// Lets requests that are under way end. Returns the label to read back by.
    pub async fn end(self) -> String {
        self.stop.cancel();
        futures::future::join_all(self.running).await;
        self.label
    }
}

struct Writer {
    api: Arc<ApiAccess>,
    server: String,
    patience: Patience,
    client: usize,
    numbers: Arc<AtomicU64>,
    label: String,
    log: Log,
}

impl Writer {
    async fn write_until(self, stop: CancellationToken) {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connected = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = pace.tick() => {}
            }
            // A client holds on to its one connection until a request on it fails: what the
            // balancer does to connections that are open is a part of what is measured.
            let api = match connected.take() {
                Some(api) => api,
                None => match self.api.fresh(&self.server, self.patience).await {
                    Ok(client) => Api::namespaced(client, NAMESPACE),
                    Err(_) => continue,
                },
            };
            if self.write_and_read(&api).await {
                connected = Some(api);
            }
        }
    }

    /// Whether the connection is worth keeping.
    async fn write_and_read(&self, api: &Api<ConfigMap>) -> bool {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let object = object(number, &self.label);
        let posting = PostParams::default();
        let written = async { api.create(&posting, &object).await.map(|_| Answer::Done) };
        if self.timed(number, true, written).await != Answer::Done {
            return false;
        }
        let reading = async {
            let found = api.get_opt(&name(number, &self.label)).await?;
            Ok(if found.is_some() { Answer::Done } else { Answer::Missing })
        };
        !matches!(self.timed(number, false, reading).await, Answer::Failed(_))
    }

    async fn timed(
        &self,
        number: u64,
        write: bool,
        request: impl Future<Output = Result<Answer, kube::Error>>,
    ) -> Answer {
        let began = self.log.now();
        let answer = match tokio::time::timeout(self.patience.answer, request).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(kube::Error::Api(status))) => Answer::Failed(status.message),
            Ok(Err(error)) => Answer::Failed(chain(&error)),
            Err(_) => Answer::Failed("no answer in time".into()),
        };
        let ended = self.log.now();
        let answered = answer.clone();
        self.log.request(Request { client: self.client, number, write, began, ended, answer });
        answered
    }
}

fn name(number: u64, label: &str) -> String {
    format!("{label}-{number}")
}

fn object(number: u64, label: &str) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.name = Some(name(number, label));
    object.metadata.labels = Some(BTreeMap::from([(LABEL.to_owned(), label.to_owned())]));
    object.data = Some(BTreeMap::from([("number".to_owned(), number.to_string())]));
    object
}

/// That of an earlier drill may still be on its way out, with all that would be written into it;
/// its end is waited for.
pub async fn make_namespace(client: &Client, slow_machines: u32) -> Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    let deadline = Instant::now() + LEAVING * slow_machines;
    while Instant::now() < deadline && is_leaving(&api).await? {
        tokio::time::sleep(PACE).await;
    }
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let params = PatchParams::apply("kdiy-drill").force();
    api.patch(NAMESPACE, &params, &Patch::Apply(&body)).await.map(drop).map_err(|error| {
        Failure::cluster(format!("cannot create the namespace {NAMESPACE}"))
            .because(error)
            .hint(format!("kdiy kubectl -- describe namespace {NAMESPACE}"))
    })
}

async fn is_leaving(api: &Api<Namespace>) -> Result<bool> {
    let found = api.get_opt(NAMESPACE).await.map_err(|error| {
        Failure::cluster(format!("cannot read the namespace {NAMESPACE}")).because(error)
    })?;
    Ok(found.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()))
}

/// No error where there is none.
pub async fn remove_namespace(client: &Client) -> Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    gone(api.delete(NAMESPACE, &DeleteParams::background()).await).map_err(|error| {
        Failure::cluster(format!("cannot remove the namespace {NAMESPACE}"))
            .because(error)
            .hint(format!("kdiy kubectl -- delete namespace {NAMESPACE}"))
    })
}

/// The acknowledged writes that some api-server does not have. A list without a resource version
/// is linearizable: the api-server asks a quorum of etcd (Kubernetes docs, "API concepts").
pub async fn lost(
    api: &ApiAccess,
    topology: &Topology,
    label: &str,
    acknowledged: &BTreeSet<u64>,
) -> Result<BTreeSet<u64>> {
    let masters = topology.group(Group::Masters);
    let lists = masters.iter().map(|master| async move {
        let client = api.client(&ApiPath::Master(master.name.clone())).await?;
        // The first may still go by a connection that a machine's end has left half open.
        let read = (|| numbers(&client, label)).retry(ConstantBuilder::default());
        read.await.map_err(|error| {
            Failure::cluster("cannot read back what the clients wrote")
                .on(&master.name)
                .because(error)
        })
    });
    let mut lost = BTreeSet::new();
    for there in futures::future::try_join_all(lists).await? {
        lost.extend(acknowledged.difference(&there));
    }
    Ok(lost)
}

pub fn selector(label: &str) -> String {
    format!("{LABEL}={label}")
}

async fn numbers(client: &Client, label: &str) -> Result<BTreeSet<u64>, kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let mut params = ListParams::default().labels(&selector(label)).limit(PAGE);
    let mut found = BTreeSet::new();
    loop {
        let page = api.list(&params).await?;
        let values = page.items.into_iter().filter_map(|object| object.data?.remove("number"));
        found.extend(values.filter_map(|number| number.parse::<u64>().ok()));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(found),
        }
    }
}
