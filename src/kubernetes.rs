//! The Kubernetes API: clients by every way to it, and changes that can be repeated without harm.

pub mod apply;
pub mod client;
pub mod csr;
pub mod drain;
pub mod nodes;
pub mod request;
pub mod retry;
pub mod tokens;
