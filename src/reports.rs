//! Reports that only read: about the cluster, about this computer, or about what would change.

pub mod cis;
pub mod doctor;
pub mod explain;
pub mod guide;
pub mod preflight;
pub mod preview;
pub mod status;
pub mod timings;
