//! etcd's members, its data directories, and the loss that its quorum still allows.

pub mod data_loss;
pub mod etcdctl;
pub mod quorum_guard;
