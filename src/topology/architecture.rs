//! Which CPUs the machines have.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// This computer's, as release names spell it.
pub const HERE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// What a machine says of itself (`uname -m`), as release names spell it; `None` for what
/// Kubernetes is not published for.
pub fn named(machine: &str) -> Option<&'static str> {
    match machine {
        "x86_64" | "amd64" => Some("amd64"),
        "aarch64" | "arm64" => Some("arm64"),
        _ => None,
    }
}

/// By machine, as release names spell them. A machine that is not in here has this computer's, as
/// those that kdiy makes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Architectures(BTreeMap<String, String>);

impl Architectures {
    pub fn of(&self, machine: &str) -> &str {
        self.0.get(machine).map_or(HERE, String::as_str)
    }

    /// What machines were found to be, over what was known of them.
    pub fn learn(&mut self, found: Self) {
        self.0.extend(found.0);
    }

    pub fn forget(&mut self, machine: &str) {
        self.0.remove(machine);
    }
}

impl FromIterator<(String, String)> for Architectures {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(machines: I) -> Self {
        Self(machines.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_architecture_defaults_to_this_computers() {
        assert_eq!(Architectures::default().of("kdiy-master-1"), HERE);
    }
}
