//! Failures on purpose: what happens when something breaks, measured while clients write, and
//! undone whatever becomes of kdiy meanwhile.

pub mod catalogue;
mod fault;
mod leadership;
mod limit;
pub mod measure;
mod pods;
mod quorum_loss;
pub mod report;
mod run;
mod target;
pub mod undo;
mod workload;

pub use run::{DrillRun, Options, clean_up};
