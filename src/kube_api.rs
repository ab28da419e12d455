//! Clients of the cluster's api, over every path that a client may use.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::topology::Topology;
use crate::transport::Transport;

/// Makes clients for one api-server or for the load balancer, directly where this computer
/// reaches the address and through SSH where it does not.
pub struct ApiAccess {
    pub topology: Topology,
    pub transports: BTreeMap<String, Arc<dyn Transport>>,
    /// PEM: the Kubernetes CA, and the certificate and key to authenticate with.
    pub ca_pem: String,
    pub certificate_pem: String,
    pub key_pem: String,
}
