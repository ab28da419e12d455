//! Failures on purpose: what happens when something breaks, measured while clients write, and
//! undone whatever becomes of kdiy meanwhile.

mod bound;
pub mod catalogue;
mod client;
mod exercise;
mod fault;
mod holders;
pub mod measure;
mod pods;
mod quorum_loss;
pub mod report;
mod target;
pub mod undo;

pub use exercise::{Exercise, Options, clean_up};
