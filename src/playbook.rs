//! Playbooks: what is installed, in which order, and with which settings.

pub mod context;
pub mod format;
pub mod load;
pub mod template;
