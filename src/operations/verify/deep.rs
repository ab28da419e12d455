//! Features of Kubernetes, as its documentation describes them: the parts of its conformance suite
//! that need no images of their own. Each check does what a user would do, and checks the result.

mod access;
mod api;
mod config;
mod network;
mod pods;
mod workloads;

use crate::operations::verify::Check;

/// Those that wait longest come first, so that the others run meanwhile.
pub fn checks() -> Vec<Check> {
    [workloads::CHECKS, config::CHECKS, pods::CHECKS, network::CHECKS, access::CHECKS, api::CHECKS]
        .concat()
}
