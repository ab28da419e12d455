//! A machine whose state was read: its facts, its bundles, and the observed state.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::Mutex;

use crate::bundle::Bundle;
use crate::bundle::observe::Observed;
use crate::topology::facts::Facts;

/// A machine that has answered.
pub struct ObservedMachine {
    pub facts: Facts,
    /// Every step's bundle for this machine, by step.
    pub bundles: BTreeMap<String, Bundle>,
    pub observed: Observed,
    /// Paths that this run has changed on the machine since it was looked at. Which units restart
    /// for that is marked on the machine; this only tells that there is something to do.
    pub changed: Mutex<BTreeSet<String>>,
    /// Digests of programs that wait beside their paths.
    pub staged: Mutex<BTreeMap<String, String>>,
}

impl ObservedMachine {
    pub fn new(facts: Facts, bundles: BTreeMap<String, Bundle>, observed: Observed) -> Self {
        let staged = Mutex::new(observed.staged.clone());
        Self { facts, bundles, observed, changed: Mutex::default(), staged }
    }

    /// Whether a release file waits beside its path for the step of a unit that uses it.
    pub fn waits(&self, path: &str) -> bool {
        let programs = self.bundles.values().flat_map(|bundle| &bundle.programs);
        programs.into_iter().any(|program| program.path == path)
    }
}
