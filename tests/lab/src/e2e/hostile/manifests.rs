//! Manifests, read and applied as kubectl does.

use crate::e2e::cluster::Cluster;
use crate::stage::Check;

pub(super) fn checks<'a>(_cluster: &Cluster<'a>) -> Vec<Check<'a>> {
    Vec::new()
}
