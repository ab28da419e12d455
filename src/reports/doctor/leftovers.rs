//! Leftovers of clusters whose state directory no longer exists, so that no `destroy` knows them.

use std::path::Path;

use crate::providers::{docker, host};
use crate::reports::doctor::Check;
use crate::state::StateDir;
use crate::support::failure::Result;

const NAME: &str = "leftovers";

pub async fn look() -> Result<Vec<Check>> {
    let mut checks = containers().await;
    checks.extend(networks().await?);
    if checks.is_empty() {
        checks.push(Check::fine(NAME, "none"));
    }
    Ok(checks)
}

/// Containers carry the path of their state directory.
async fn containers() -> Vec<Check> {
    let format = format!("{{{{.Names}}}}\t{{{{.Label \"{}\"}}}}", docker::LABEL);
    let filter = format!("label={}", docker::LABEL);
    let asked = ["ps", "-a", "--filter", &filter, "--format", &format];
    // No Docker, no containers.
    let listed = host::ask("docker", &asked).await.unwrap_or_default();
    orphans(&listed, |state| Path::new(state).exists())
        .into_iter()
        .map(|name| {
            let mend = format!("docker rm -f -v {name}");
            Check::advice(
                NAME,
                format!("the cluster of the container {name} no longer exists"),
                mend,
            )
        })
        .collect()
}

fn orphans(listed: &str, exists: impl Fn(&str) -> bool) -> Vec<&str> {
    listed
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(_, state)| !exists(state))
        .map(|(name, _)| name)
        .collect()
}

/// libvirt's networks are called after their cluster.
async fn networks() -> Result<Vec<Check>> {
    let listed = host::ask("virsh", &["-c", "qemu:///system", "net-list", "--all", "--name"]).await;
    let known = StateDir::clusters()?;
    Ok(listed
        .unwrap_or_default()
        .lines()
        .map(str::trim)
        .filter_map(|name| Some((name, name.strip_prefix("kdiy-")?)))
        .filter(|(_, cluster)| !known.iter().any(|known| known == cluster))
        .map(|(name, cluster)| {
            Check::advice(
                NAME,
                format!(
                    "libvirt has the network {name} of the cluster {cluster}, which no longer \
                    exists"
                ),
                format!("virsh net-destroy {name}; virsh net-undefine {name}"),
            )
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_without_their_state_directory_are_left_over() {
        let listed = "a-master-1\t/state/a\nb-master-1\t/state/b\n";
        assert_eq!(orphans(listed, |state| state == "/state/a"), ["b-master-1"]);
        assert!(orphans("", |_| false).is_empty());
    }
}
