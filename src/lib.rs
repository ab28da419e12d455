//! kdiy: a highly available Kubernetes cluster, the hard way and in the open.
//!
//! A cluster file becomes a [`topology`]; the topology and the [`playbook`]s become a [`plan`], a
//! graph of steps on machines; the [`engine`] runs the plan over a [`transport`]; each step ends
//! in a [`gate`] that proves the cluster got healthier; everything that happened is an [`event`].

pub mod architecture;
pub mod artifacts;
pub mod bundle;
pub mod cis;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod commands;
pub mod config;
mod crash;
pub mod doctor;
pub mod drill;
pub mod engine;
pub mod etcd;
pub mod etcd_data;
pub mod event;
pub mod explain;
pub mod facts;
pub mod failure;
pub mod fleet;
pub mod gate;
pub mod guard;
pub mod guide;
pub mod kube_api;
pub mod machines;
pub mod ownership;
pub mod pki;
pub mod plan;
pub mod playbook;
pub mod preflight;
pub mod preview;
pub mod printable;
pub mod redact;
pub mod runner;
pub mod session;
pub mod state;
pub mod status;
pub mod survey;
pub mod template;
pub mod timings;
pub mod tls;
pub mod topology;
pub mod transport;
pub mod turns;
pub mod ui;
pub mod verify;
pub mod version_skew;
pub mod world;
