//! Collects the state of a cluster: every machine and the API at the same time, each with its own
//! deadline. Changes nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all, select_ok};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::bundle::etcd_data::EtcdData;
use crate::config::Cni;
use crate::gates::controllers::{HostNames, LEASES, NAMESPACE};
use crate::kubernetes::client::ApiPath;
use crate::kubernetes::request::raw;
use crate::operations::inspect::{self, InspectError};
use crate::reports::status::machine_report::{self, Answer};
use crate::reports::status::{
    Dns, Drift, Endpoint, Etcd, Health, Heard, Machine, Status, VirtualAddress, assess, dns,
};
use crate::session::ClusterHandle;
use crate::support::failure::chain;
use crate::support::time_scale::Unscaled;
use crate::topology::{self, Group};
use crate::transport::{Script, Transport};

/// A machine that is there answers in a quarter of a second; one that is off never does.
const CONNECT_WITHIN: Unscaled = Unscaled::from_secs(2);
/// Of everything that is asked of a machine, once it is connected.
const MACHINE_WITHIN: Unscaled = Unscaled::from_secs(4);
/// Of an api-server. Longer than the api takes to say that etcd does not answer it (2 s).
const API_WITHIN: Unscaled = Unscaled::from_secs(3);
/// Head start of the api's endpoint before single api-servers are asked.
const HEAD_START: Duration = Duration::from_millis(400);

/// Looks again and again over the same connections.
pub struct Probe {
    session: Arc<ClusterHandle>,
    /// The cluster was complete once, so etcd must have data.
    had_data: bool,
    /// By machine.
    lines: Mutex<BTreeMap<String, Line>>,
}

/// A connection that works.
#[derive(Clone)]
struct Line {
    transport: Arc<dyn Transport>,
    /// Where the cluster's DNS is reached through this machine; a forward lives as long as its
    /// connection, so there must not be a new one for every look.
    resolver: Option<SocketAddr>,
}

/// What came back from one machine.
struct Seen {
    answer: Answer,
    drift: Vec<Drift>,
    dns: Option<Heard<u64>>,
    etcd_data: Option<EtcdData>,
}

/// What the api says of the cluster.
struct Objects {
    leases: Vec<crate::reports::status::Lease>,
    nodes: BTreeMap<String, crate::reports::status::Node>,
    /// Ready or not, of CoreDNS.
    endpoints: Vec<bool>,
}

impl Probe {
    pub fn new(session: Arc<ClusterHandle>) -> Arc<Self> {
        // A record that cannot be read has stopped the command before.
        let record = session.state.record().ok().flatten();
        let had_data = record.is_some_and(|record| record.had_data());
        Arc::new(Self { session, had_data, lines: Mutex::default() })
    }

    pub async fn look(self: &Arc<Self>) -> Status {
        let began = Instant::now();
        let topology = self.session.topology();
        // Tasks of their own: rendering what machines should have takes more than one core.
        let looks = topology.machines.iter().map(|machine| {
            let (probe, machine) = (self.clone(), machine.clone());
            tokio::spawn(async move { probe.machine(&machine).await })
        });
        let (seen, (endpoint, objects)) = tokio::join!(join_all(looks), self.api());
        let seen = seen.into_iter().map(|seen| seen.unwrap_or_else(|error| Err(error.to_string())));
        let mut status = self.assemble(seen.collect(), endpoint, objects);
        status.problems = assess::problems(&status);
        status.health = status.problems.first().map_or(Health::Healthy, |problem| problem.health);
        status.elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        status
    }

    async fn machine(&self, machine: &topology::Machine) -> Result<Seen, String> {
        let line = self.line(machine).await?;
        let look = tokio::time::timeout(self.slowly(MACHINE_WITHIN), self.ask(machine, &line));
        let seen = look.await.unwrap_or_else(|_| Err("connected, but it does not answer".into()));
        if seen.is_err() {
            // The next look begins with a new connection.
            self.lines.lock().await.remove(&machine.name);
        }
        seen
    }

    async fn line(&self, machine: &topology::Machine) -> Result<Line, String> {
        if let Some(line) = self.lines.lock().await.get(&machine.name) {
            return Ok(line.clone());
        }
        let session = &self.session;
        let target = session.provider.ssh_target(session.topology(), &machine.name);
        let target = target.map_err(|failure| failure.to_string())?;
        let deadline = self.slowly(CONNECT_WITHIN);
        let transport = session
            .connections
            .connect(&target, deadline)
            .await
            .map_err(|failure| failure.cause.unwrap_or(failure.what))?;
        let resolver = if self.has_dns() && session.topology().is_in(machine, Group::Nodes) {
            let service = SocketAddr::new(session.topology().dns_service.into(), 53);
            transport.forward(service).await.ok()
        } else {
            None
        };
        let line = Line { transport, resolver };
        self.lines.lock().await.insert(machine.name.clone(), line.clone());
        Ok(line)
    }

    async fn ask(&self, machine: &topology::Machine, line: &Line) -> Result<Seen, String> {
        let topology = self.session.topology();
        let script = Script::new(machine_report::script(topology, machine));
        let (answer, drift, dns) = tokio::join!(
            line.transport.run(script),
            self.drift(machine, &*line.transport),
            self.dns(line.resolver)
        );
        let output = answer.map_err(|error| chain(&error))?;
        let answer = machine_report::parse(topology, machine, &output.stdout, Timestamp::now());
        let (drift, etcd_data) = drift?;
        Ok(Seen { answer, drift, dns, etcd_data })
    }

    async fn drift(
        &self,
        machine: &topology::Machine,
        transport: &dyn Transport,
    ) -> Result<(Vec<Drift>, Option<EtcdData>), String> {
        // A machine that lacks its address is an answer here, and not waited for.
        let now = CancellationToken::new();
        now.cancel();
        let reached = match inspect::survey(&self.session, machine, transport, &now).await {
            Ok(reached) => reached,
            Err(InspectError::Transport(error)) => return Err(chain(&error)),
            Err(InspectError::Failure(failure)) => return Err(failure.what),
        };
        let steps = reached.bundles.values().map(|bundle| Drift {
            step: bundle.step.clone(),
            differences: bundle
                .differences(&reached.observed)
                .iter()
                .map(ToString::to_string)
                .collect(),
        });
        let drift = steps.filter(|drift| !drift.differences.is_empty()).collect();
        Ok((drift, reached.observed.etcd_data))
    }

    /// Milliseconds until the cluster's DNS answered through a machine.
    async fn dns(&self, resolver: Option<SocketAddr>) -> Option<Heard<u64>> {
        let name = format!(
            "kubernetes.default.svc.{}",
            self.session.rendered.template_context.config.network.dns_domain
        );
        let began = Instant::now();
        let answer = tokio::time::timeout(self.slowly(CONNECT_WITHIN), dns::ask(resolver?, &name));
        Some(match answer.await {
            Ok(Ok(())) => Heard::Answer(u64::try_from(began.elapsed().as_millis()).unwrap_or(0)),
            Ok(Err(error)) => Heard::Error(error),
            Err(_) => Heard::Error("no answer in time".into()),
        })
    }

    fn has_dns(&self) -> bool {
        self.session.rendered.template_context.config.network.cni != Cni::None
    }

    fn slowly(&self, ordinary: Unscaled) -> Duration {
        ordinary * self.session.rendered.template_context.config.slow_machines
    }

    /// Whether the endpoint answers, and what the first api-server that does says: after a short
    /// while the masters are asked themselves, so that the fall of the load balancer is not taken
    /// for that of the api.
    async fn api(&self) -> (Result<(), String>, Option<Objects>) {
        let endpoint = self.ready(ApiPath::Endpoint).boxed().shared();
        let masters = self.session.topology().group(Group::Masters);
        let masters = masters.into_iter().map(|master| ApiPath::Master(master.name.clone()));
        let mut ways: Vec<BoxFuture<'_, Result<Client, String>>> = vec![endpoint.clone().boxed()];
        ways.extend(masters.map(|path| {
            async move {
                tokio::time::sleep(HEAD_START).await;
                self.ready(path).await
            }
            .boxed()
        }));
        let objects = async {
            let (client, _) = select_ok(ways).await.ok()?;
            tokio::time::timeout(self.slowly(API_WITHIN), self.objects(&client)).await.ok()?
        };
        let (endpoint, objects) = tokio::join!(endpoint, objects);
        (endpoint.map(drop), objects)
    }

    async fn ready(&self, path: ApiPath) -> Result<Client, String> {
        let asked = async {
            let client = self.session.api.client(&path).await;
            let client = client.map_err(|failure| failure.to_string())?;
            match raw(&client, "/readyz").await? {
                (200, _) => Ok(client),
                (status, _) => Err(format!("/readyz answered {status}")),
            }
        };
        let deadline = self.slowly(API_WITHIN);
        tokio::time::timeout(deadline, asked)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", deadline.as_secs())))
    }

    async fn objects(&self, client: &Client) -> Option<Objects> {
        let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
        let nodes: Api<Node> = Api::all(client.clone());
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
        let everything = ListParams::default();
        let of_dns = ListParams::default().labels("kubernetes.io/service-name=kube-dns");
        let (leases, nodes, slices) = tokio::join!(
            join_all(LEASES.map(|name| leases.get_opt(name))),
            nodes.list(&everything),
            slices.list(&of_dns)
        );
        let now = Timestamp::now();
        let leases = LEASES.iter().zip(leases);
        Some(Objects {
            leases: leases
                .map(|(name, read)| Some(lease(name, read.ok()?, now)))
                .collect::<Option<_>>()?,
            nodes: nodes.ok()?.iter().map(|it| (it.name_any(), node(it))).collect(),
            endpoints: slices
                .ok()?
                .items
                .into_iter()
                .flat_map(|slice| slice.endpoints.unwrap_or_default())
                .map(|endpoint| endpoint.conditions.and_then(|it| it.ready).unwrap_or_default())
                .collect(),
        })
    }

    fn assemble(
        &self,
        seen: Vec<Result<Seen, String>>,
        endpoint: Result<(), String>,
        objects: Option<Objects>,
    ) -> Status {
        let topology = self.session.topology();
        let resolved: Vec<&Heard<u64>> =
            seen.iter().flatten().filter_map(|seen| seen.dns.as_ref()).collect();
        let known = objects.as_ref().filter(|_| self.has_dns());
        let dns = known.map(|objects| dns_status(&objects.endpoints, &resolved));
        let nodes = objects.as_ref().map(|objects| &objects.nodes);
        let names = host_names(topology, &seen);
        let mut machines: Vec<Machine> = topology
            .machines
            .iter()
            .zip(seen)
            .map(|(machine, seen)| {
                let registered = nodes.filter(|_| topology.is_in(machine, Group::Nodes));
                let node = registered.map(|nodes| {
                    nodes.get(&machine.name).cloned().unwrap_or_else(|| {
                        crate::reports::status::Node {
                            ready: false,
                            reason: Some("not registered".into()),
                            version: String::new(),
                            cordoned: false,
                        }
                    })
                });
                described(machine, seen, node, self.had_data)
            })
            .collect();
        let etcd = measure_etcd(topology.etcd_quorum().members, &mut machines);
        let holders = |machine: &&Machine| {
            machine.load_balancer.as_ref().is_some_and(|it| it.holds_virtual_address)
        };
        Status {
            cluster: topology.cluster.clone(),
            at: Timestamp::now(),
            elapsed_ms: 0,
            health: Health::Healthy,
            problems: Vec::new(),
            kubernetes: self.session.rendered.template_context.config.kubernetes.to_string(),
            endpoint: Endpoint {
                url: topology.endpoint.url(),
                ready: endpoint.is_ok(),
                error: endpoint.err(),
            },
            etcd,
            virtual_address: topology.vip.map(|address| VirtualAddress {
                address,
                holders: machines.iter().filter(holders).map(|it| it.name.clone()).collect(),
            }),
            leases: objects.map(|objects| held_by_machines(objects.leases, &names)),
            dns,
            machines,
        }
    }
}

fn host_names(topology: &topology::Topology, seen: &[Result<Seen, String>]) -> HostNames {
    let pairs = topology.machines.iter().zip(seen).map(|(machine, seen)| {
        let host = seen.as_ref().ok().and_then(|seen| seen.answer.host_name.as_ref());
        (host.unwrap_or(&machine.name).clone(), machine.name.clone())
    });
    pairs.collect()
}

/// The leases with machines instead of identities.
fn held_by_machines(
    leases: Vec<crate::reports::status::Lease>,
    names: &HostNames,
) -> Vec<crate::reports::status::Lease> {
    let machine = |identity: String| names.holder_or_host(&identity);
    let held = leases.into_iter().map(|lease| crate::reports::status::Lease {
        holder: lease.holder.and_then(machine),
        ..lease
    });
    held.collect()
}

fn described(
    machine: &topology::Machine,
    seen: Result<Seen, String>,
    node: Option<crate::reports::status::Node>,
    had_data: bool,
) -> Machine {
    let mut described = Machine {
        name: machine.name.clone(),
        role: machine.role,
        address: machine.address,
        unreachable: None,
        system: None,
        etcd: None,
        etcd_data_lost: None,
        api_server: None,
        load_balancer: None,
        node,
        certificates: Vec::new(),
        drift: Vec::new(),
    };
    match seen {
        Ok(Seen { answer, drift, etcd_data, .. }) => {
            let lost = etcd_data.filter(|data| !data.has_log && (had_data || data.cluster_exists));
            described.etcd_data_lost = lost.map(|data| data.why_not().to_owned());
            described.system = answer.system;
            described.etcd = answer.etcd;
            described.api_server = answer.api_server;
            described.load_balancer = answer.load_balancer;
            described.certificates = answer.certificates;
            described.drift = drift;
        }
        Err(reason) => described.unreachable = Some(reason),
    }
    described
}

/// etcd as a whole; also says of each member how far it is behind.
fn measure_etcd(planned: u32, machines: &mut [Machine]) -> Etcd {
    let furthest = machines
        .iter()
        .filter_map(|machine| machine.etcd.as_ref()?.answer())
        .map(|member| member.raft_index)
        .max()
        .unwrap_or_default();
    for machine in machines.iter_mut() {
        if let Some(Heard::Answer(member)) = &mut machine.etcd {
            member.lag = furthest - member.raft_index;
        }
    }
    let members: Vec<(&str, &Heard<_>)> = machines
        .iter()
        .filter_map(|machine| Some((machine.name.as_str(), machine.etcd.as_ref()?)))
        .collect();
    assess::etcd(planned, &members)
}

fn dns_status(endpoints: &[bool], resolved: &[&Heard<u64>]) -> Dns {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Dns {
        endpoints: count(endpoints.len()),
        ready: count(endpoints.iter().filter(|ready| **ready).count()),
        answered_ms: resolved.iter().filter_map(|heard| heard.answer()).max().copied(),
        error: resolved.iter().find_map(|heard| match heard {
            Heard::Error(error) => Some(error.clone()),
            Heard::Answer(_) => None,
        }),
    }
}

/// Its holder is an identity, until [`held_by_machines`] knows the machine.
fn lease(name: &str, lease: Option<Lease>, now: Timestamp) -> crate::reports::status::Lease {
    let spec = lease.and_then(|lease| lease.spec).unwrap_or_default();
    let holder = spec.holder_identity.filter(|holder| !holder.is_empty());
    let age = spec.renew_time.map(|renewed| now.as_millisecond() - renewed.0.as_millisecond());
    crate::reports::status::Lease {
        name: name.to_owned(),
        holder,
        // Clocks that differ a little may put the renewal into the future.
        renewed_ms_ago: age.map(|age| u64::try_from(age).unwrap_or(0)),
        duration_ms: u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or(0)
            * 1000,
    }
}

fn node(node: &Node) -> crate::reports::status::Node {
    let status = node.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let condition = conditions.iter().find(|condition| condition.type_ == "Ready");
    let ready = condition.is_some_and(|condition| condition.status == "True");
    crate::reports::status::Node {
        ready,
        reason: (!ready).then(|| {
            let said = condition.and_then(|condition| condition.message.clone());
            said.unwrap_or_else(|| "prints nothing".into())
        }),
        version: status.node_info.map(|info| info.kubelet_version).unwrap_or_default(),
        cordoned: node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default(),
    }
}
