//! kdiy: a highly available Kubernetes cluster, the hard way and in the open.
//!
//! A cluster file becomes a [`topology`]; the topology and the [`playbook`]s become a
//! [`plan`](engine::plan), a graph of steps on machines; the [`engine`] runs it over a [`transport`];
//! each step ends in a gate ([`gates`]) that proves the cluster got healthier; everything that happened
//! is an [`event`](support::event).

pub mod artifacts;
pub mod bundle;
pub mod cli;
pub mod cluster_context;
pub mod commands;
pub mod config;
pub mod engine;
pub mod etcd;
pub mod gates;
pub mod kubernetes;
pub mod operations;
pub mod pki;
pub mod playbook;
pub mod providers;
pub mod reports;
pub mod session;
pub mod state;
pub mod support;
pub mod topology;
pub mod transport;
pub mod ui;
