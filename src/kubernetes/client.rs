//! Clients of the cluster's API, over every route that a client may use.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::Client;
use kube::client::ConfigExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tower::{BoxError, ServiceBuilder};

use crate::kubernetes::request::raw;
use crate::support::failure::{Failure, Result, chain};
use crate::support::time_scale::Unscaled;
use crate::topology::{API_PORT, Group, Topology};
use crate::transport::pool::ConnectionPool;

/// Whether this computer reaches an address is settled this fast on any network that a cluster
/// would live in; multiplied by `slowMachines`, as the other is.
const DIRECT_WITHIN: Unscaled = Unscaled::from_secs(2);
const REQUEST_TIMEOUT: Unscaled = Unscaled::from_secs(15);

/// A connection on which an answer is waited for is tried after this long, and again after as
/// long: when the virtual address has moved, its new holder knows nothing of the connection and
/// says so. Without that one would wait for an answer that cannot come.
const TRIED_AFTER: Duration = Duration::from_secs(2);

/// How long a client waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    pub connect: Duration,
    pub answer: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ApiPath {
    /// What users and kubelets use: the load balancer, or the only master.
    Endpoint,
    /// One api-server itself.
    Master(String),
}

/// Makes clients, straight to the address where this computer reaches it and through SSH where
/// it does not. TLS is always verified against the cluster's own authority.
pub struct ApiAccess {
    topology: Topology,
    connections: Arc<ConnectionPool>,
    /// A kubeconfig whose server is replaced by each path's own.
    kubeconfig: String,
    patience: Patience,
    clients: Mutex<BTreeMap<ApiPath, Client>>,
}

impl ApiAccess {
    pub fn new(
        topology: Topology,
        connections: Arc<ConnectionPool>,
        kubeconfig: String,
        slow_machines: u32,
    ) -> Self {
        let patience = Patience {
            connect: DIRECT_WITHIN * slow_machines,
            answer: REQUEST_TIMEOUT * slow_machines,
        };
        Self { topology, connections, kubeconfig, patience, clients: Mutex::default() }
    }

    /// A client for one path; kept for later calls.
    pub async fn client(&self, path: &ApiPath) -> Result<Client> {
        if let Some(client) = self.clients.lock().await.get(path) {
            return Ok(client.clone());
        }
        let server = self.server(path, &[]).await?;
        let client = self.fresh(&server, self.patience).await?;
        self.clients.lock().await.insert(path.clone(), client.clone());
        Ok(client)
    }

    /// The URL by which this computer reaches a path: itself, or a way through a machine that is
    /// not one of `avoided`.
    pub async fn server(&self, path: &ApiPath, avoided: &[String]) -> Result<String> {
        let (host, port) = self.address(path)?;
        match self.reachable(&host, port).await {
            Some(server) => Ok(server),
            None => self.forwarded(&host, port, avoided).await,
        }
    }

    /// The endpoint's client or, when the endpoint does not answer, that of the first api-server
    /// that does: no machine is special.
    pub async fn any(&self) -> Result<Client> {
        let mut paths = vec![ApiPath::Endpoint];
        let masters = self.topology.group(Group::Masters);
        paths.extend(masters.iter().map(|master| ApiPath::Master(master.name.clone())));
        let mut last = None;
        for path in paths {
            let client = self.client(&path).await?;
            match raw(&client, "/readyz").await {
                Ok((200, _)) => return Ok(client),
                Ok((status, _)) => last = Some(format!("/readyz answered {status}")),
                Err(error) => last = Some(error),
            }
        }
        Err(Failure::cluster("no API server is ready")
            .cause(last.unwrap_or_default())
            .hint("check the gates of the last run, or run `kdiy up` again"))
    }

    fn address(&self, path: &ApiPath) -> Result<(String, u16)> {
        match path {
            ApiPath::Endpoint => {
                Ok((self.topology.endpoint.host.clone(), self.topology.endpoint.port))
            }
            ApiPath::Master(name) => self
                .topology
                .machine(name)
                .map(|machine| (machine.address.to_string(), API_PORT))
                .ok_or_else(|| Failure::bug(format!("the master {name} does not exist"))),
        }
    }

    /// The URL to use when a connection comes about, or is refused: then the address is within
    /// reach, and nobody listens yet.
    async fn reachable(&self, host: &str, port: u16) -> Option<String> {
        let connected = TcpStream::connect((host, port));
        match tokio::time::timeout(self.patience.connect, connected).await.ok()? {
            Ok(_) => Some(format!("https://{host}:{port}")),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Some(format!("https://{host}:{port}"))
            }
            Err(_) => None,
        }
    }

    async fn forwarded(&self, host: &str, port: u16, avoided: &[String]) -> Result<String> {
        let transports = self.connections.transports().await;
        let address: IpAddr = host
            .parse()
            .map_err(|_| Failure::cluster(format!("this computer cannot reach {host}:{port}")))?;
        let ways = transports.iter().filter(|(machine, _)| !avoided.contains(machine));
        let mut last = None;
        for (_, transport) in ways {
            match transport.forward(SocketAddr::new(address, port)).await {
                Ok(local) => return Ok(format!("https://{local}")),
                Err(error) => last = Some(chain(&error)),
            }
        }
        let failure = Failure::cluster(format!("cannot reach {host}:{port}, not even over SSH"));
        Err(match last {
            Some(reason) => failure.cause(reason),
            None => failure,
        })
    }

    /// A client with a connection of its own. kube's clients speak HTTP/1, so what one of them
    /// waits for does not hold up another.
    pub async fn fresh(&self, server: &str, patience: Patience) -> Result<Client> {
        let mut kubeconfig: Kubeconfig =
            Kubeconfig::from_yaml(&self.kubeconfig).map_err(unusable)?;
        for cluster in &mut kubeconfig.clusters {
            if let Some(cluster) = &mut cluster.cluster {
                cluster.server = Some(server.to_owned());
                // A name that every api-server's certificate has, whatever the way to it.
                cluster.tls_server_name = Some("kubernetes".into());
            }
        }
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(unusable)?;
        client(config, patience)
    }
}

/// kube's own client would not try its connections, and hold back a 503 for up to half a minute
/// and ask again. Whoever asks here wants to know, and decides about another try.
fn client(config: kube::Config, patience: Patience) -> Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(TRIED_AFTER));
    tcp.set_keepalive_interval(Some(TRIED_AFTER));
    let tls = config.rustls_https_connector_with_connector(tcp).map_err(unusable)?;
    let mut connector = TimeoutConnector::new(tls);
    connector.set_connect_timeout(Some(patience.connect));
    connector.set_read_timeout(Some(patience.answer));
    connector.set_write_timeout(Some(patience.answer));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(unusable)?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace))
}

fn unusable(error: impl std::error::Error) -> Failure {
    Failure::bug("cannot use the kubeconfig").cause(error.to_string())
}
