//! Failures on purpose, measured while clients write, and undone even if kdiy is killed.

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
