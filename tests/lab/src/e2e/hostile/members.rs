//! etcd members that lose their disk, and keys that go missing.

use crate::e2e::cluster::Cluster;
use crate::stage::Check;

pub(super) fn checks<'a>(_cluster: &Cluster<'a>) -> Vec<Check<'a>> {
    Vec::new()
}
