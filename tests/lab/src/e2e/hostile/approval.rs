//! Requests for node certificates that kdiy must not approve.

use crate::e2e::cluster::Cluster;
use crate::stage::Check;

pub(super) fn checks<'a>(_cluster: &Cluster<'a>) -> Vec<Check<'a>> {
    Vec::new()
}
