//! The owner of a machine, as the machine records it: the name and the id of a cluster, in a file
//! that the first playbook writes. A name alone proves nothing: two computers may each have a
//! `kdiy`.

use crate::support::failure::{Failure, Kind};

/// Where a machine says whose it is.
pub const FILE: &str = "/var/lib/kdiy/cluster";

/// What a machine's word means to one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ownership {
    Ours,
    /// The name is right and there is no id: an older kdiy wrote it.
    OursByName,
    /// Another cluster's.
    Other {
        name: String,
        id: Option<String>,
    },
}

impl Ownership {
    /// `said` is what [`FILE`] holds, on one line or several; `None` when it holds nothing.
    pub fn judge(cluster: &str, id: &str, said: &str) -> Option<Self> {
        let mut words = said.split_whitespace();
        let name = words.next()?;
        Some(match words.next() {
            None if name == cluster => Self::OursByName,
            Some(other) if name == cluster && other == id => Self::Ours,
            other => Self::Other { name: name.to_owned(), id: other.map(str::to_owned) },
        })
    }

    /// Why this machine may not be touched, and what to do; `None` where it may.
    pub fn objection(&self, cluster: &str) -> Option<(String, String)> {
        let Self::Other { name, id } = self else { return None };
        let found = match id {
            Some(id) => format!("it belongs to the cluster {name} with the id {id}"),
            None => format!("it belongs to the cluster {name}"),
        };
        Some(match id {
            Some(id) if name == cluster => (
                format!("{found}, not to this cluster {cluster}"),
                format!(
                    "destroy that cluster on the computer that created it; if it is this cluster, \
                    and its cluster.json was lost or is an old copy, set \"id\": \"{id}\" in \
                    cluster.json"
                ),
            ),
            _ => (found, format!("kdiy destroy --name {name}, on the computer that created it")),
        })
    }

    /// [`Ownership::objection`] as the end of a command.
    pub fn check(&self, cluster: &str, machine: &str) -> Result<(), Failure> {
        self.objection(cluster).map_or(Ok(()), |(found, fix)| {
            Err(Failure::new(Kind::Input, found).on(machine).hint(fix))
        })
    }
}

/// A new cluster's id: 128 random bits in hex.
pub fn new_id() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(said: &str) -> Option<Ownership> {
        Ownership::judge("kdiy", "1f", said)
    }

    #[test]
    fn a_cluster_of_the_same_name_is_another_when_its_id_is() {
        assert_eq!(judge(""), None);
        assert_eq!(judge("kdiy\n1f\n"), Some(Ownership::Ours));
        assert_eq!(judge("kdiy\n"), Some(Ownership::OursByName));
        let other = judge("kdiy 2e ").unwrap();
        let refused = other.check("kdiy", "a").unwrap_err().to_string();
        assert!(refused.contains("the id 2e") && refused.contains("\"id\": \"2e\""), "{refused}");
        let refused = judge("green 1f").unwrap().check("kdiy", "a").unwrap_err().to_string();
        assert!(refused.contains("kdiy destroy --name green"), "{refused}");
        assert!(judge("green").unwrap().check("kdiy", "a").is_err());
    }

    #[test]
    fn a_record_without_an_id_does_not_own_a_machine_that_has_one() {
        assert!(matches!(Ownership::judge("kdiy", "", "kdiy 2e"), Some(Ownership::Other { .. })));
    }

    #[test]
    fn ids_differ() {
        assert_ne!(new_id(), new_id());
        assert_eq!(new_id().len(), 32);
    }
}
