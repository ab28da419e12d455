//! What only looks: at the cluster, at this computer, or at what would be done.

pub mod cis;
pub mod doctor;
pub mod explain;
pub mod guide;
pub mod preflight;
pub mod preview;
pub mod status;
pub mod timings;
