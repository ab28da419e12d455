//! kdiy: a highly available Kubernetes cluster, the hard way and in the open.
//!
//! A cluster file becomes a [`topology`]; the topology and the [`playbook`]s become a plan, a
//! graph of steps on machines; the engine runs the plan over a [`transport`]; each step ends in a
//! [`gate`] that proves the cluster got healthier; everything that happened is an [`event`].

pub mod config;
pub mod event;
pub mod failure;
pub mod gate;
pub mod kube_api;
pub mod playbook;
pub mod topology;
pub mod transport;
