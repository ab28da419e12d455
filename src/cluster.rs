//! Changes that are made through the api. Each may be made again without harm and says what it
//! changed, one line a thing.

pub mod certificates;
pub mod drain;
pub mod manifests;
pub mod nodes;

use crate::failure::{Failure, Kind};
use crate::kube_api::chain;

/// A request that the api did not carry out.
pub fn refused(what: impl Into<String>, error: &kube::Error) -> Failure {
    Failure::new(Kind::Step, what).cause(chain(error))
}

/// Whether the same request may go through later.
pub fn is_transient(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code >= 500 || status.code == 429,
        _ => true,
    }
}
