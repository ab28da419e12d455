//! The Kubernetes API: clients over every route, and changes that are safe to repeat.

pub mod apply;
pub mod client;
pub mod csr;
pub mod drain;
pub mod nodes;
pub mod request;
pub mod retry;
pub mod tokens;
