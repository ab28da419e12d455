//! What changes a cluster, and what proves it by trying.

pub mod apply;
pub mod drill;
pub mod inspect;
pub mod request;
pub mod verify;
