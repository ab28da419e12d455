//! Problems that prevent virtual machines on this computer, found before kdiy downloads anything.

use std::path::Path;

use semver::Version;

use crate::config::ProviderChoice;
use crate::providers::vagrant::{Virtual, lists, virsh};
use crate::providers::{Finding, Provider as _, Resource, host};
use crate::state::ledger::Ledger;
use crate::support;
use crate::topology::{Topology, architecture};

/// The oldest that the Vagrantfile was tried with: Debian 12's.
pub const OLDEST_VAGRANT: Version = Version::new(2, 3, 4);
/// The first that chooses between the architectures of a box; an older one takes any
/// (alchemy-solutions/vagrant-cloud-images#5).
const KNOWS_ARCHITECTURES: Version = Version::new(2, 4, 0);
/// The first VirtualBox for ARM hosts that runs ARM guests.
const VIRTUALBOX_ON_ARM: Version = Version::new(7, 1, 0);
/// VirtualBox from a version on, and the first Vagrant that drives it: it refuses those that it
/// does not know (hashicorp/vagrant#13513, #13709).
static DRIVEN_BY: [(Version, Version); 2] = [
    (Version::new(7, 1, 0), Version::new(2, 4, 2)),
    (Version::new(7, 2, 0), Version::new(2, 4, 9)),
];
/// An emulated CPU was seen to be 13 to 31 times slower. Five on two cores were not to be had with
/// 12, and came up with 30.
const SLOW_WHEN_EMULATED: usize = 10;

impl Virtual {
    pub(super) async fn findings(&self, topology: &Topology) -> Vec<Finding> {
        if let Err(finding) = host::usable(self.choice).await {
            return vec![finding];
        }
        let mut findings = Vec::new();
        if let Err(failure) = self.vagrant_box() {
            findings.push(Finding { what: failure.what, mend: failure.hints.join("; ") });
        }
        findings.extend(self.versions().await);
        findings.extend(self.emulation(topology.machines.len()));
        findings.extend(self.memory(topology));
        findings.extend(self.strangers(topology).await);
        findings
    }

    async fn versions(&self) -> Vec<Finding> {
        let said = host::ask("vagrant", &["--version"]).await.unwrap_or_default();
        let Some(vagrant) = version(&said) else { return Vec::new() };
        let virtualbox = match self.choice {
            ProviderChoice::Virtualbox => {
                version(&host::ask("VBoxManage", &["--version"]).await.unwrap_or_default())
            }
            _ => None,
        };
        // Debian's own box, which libvirt gets on amd64, is for amd64 only.
        let one_architecture =
            self.choice == ProviderChoice::Libvirt && architecture::HERE == "amd64";
        let must_choose = self.config.machines.r#box.is_none() && !one_architecture;
        judge_versions(&vagrant, virtualbox.as_ref(), must_choose, architecture::HERE)
    }

    fn emulation(&self, machines: usize) -> Option<Finding> {
        let needed = slow_when_emulated(machines, support::cores());
        let given = usize::try_from(self.config.slow_machines).unwrap_or(usize::MAX);
        (host::emulated(self.choice) && given < needed).then(|| Finding {
            what: "this computer cannot use hardware virtualization (no usable KVM); emulated \
                machines are 13 to 31 times slower"
                .into(),
            mend: format!(
                "turn on virtualization in its firmware, use --provider docker, or multiply every \
                deadline: --slow-machines {needed}"
            ),
        })
    }

    fn memory(&self, topology: &Topology) -> Option<Finding> {
        let needed: u64 = topology.machines.iter().map(|m| u64::from(m.memory_mebibytes)).sum();
        let free = host::available_memory()?;
        (free < needed).then(|| Finding {
            what: format!("the machines need {needed} MiB of memory; {free} MiB are free"),
            mend: "use fewer or smaller machines (machines.*.memoryMebibytes)".into(),
        })
    }

    /// What has a name of ours and is not ours: left by an earlier run, or somebody else's.
    /// Vagrant would stop at it halfway (hashicorp/vagrant#13597, #12765).
    async fn strangers(&self, topology: &Topology) -> Vec<Finding> {
        let Ok(listed) = self.listed().await else { return Vec::new() };
        let ledger = Ledger::open(self.state.root()).map(|ledger| ledger.entries().to_vec());
        let ledger = ledger.unwrap_or_default();
        let is_ours = |owned: &Resource| {
            ledger.iter().any(|entry| (entry.what, &entry.id) == (owned.what, &owned.id))
        };
        let mut findings: Vec<Finding> = self
            .makes(topology)
            .into_iter()
            .filter(|owned| listed.has(owned.what, &owned.id) && !is_ours(owned))
            .map(|owned| Finding {
                what: format!("{} already has {}", self.name(), owned.id),
                mend: format!("remove it{}", self.how_to_remove(&owned)),
            })
            .collect();
        for machine in &topology.machines {
            findings.extend(self.leftover_files(&machine.name).await);
        }
        findings
    }

    /// `: COMMAND; COMMAND`, where there are any.
    fn how_to_remove(&self, owned: &Resource) -> String {
        let commands = self.removal(&owned.id, owned.what);
        let lines: Vec<String> = commands.iter().map(|command| command.join(" ")).collect();
        if lines.is_empty() { String::new() } else { format!(": {}", lines.join("; ")) }
    }

    async fn leftover_files(&self, machine: &str) -> Option<Finding> {
        match self.choice {
            ProviderChoice::Virtualbox => {
                let properties =
                    host::ask("VBoxManage", &["list", "systemproperties"]).await.ok()?;
                let folder = Path::new(machine_folder(&properties)?).join(machine);
                folder.exists().then(|| Finding {
                    what: format!("{} is left over from an earlier machine", folder.display()),
                    mend: format!("rm -r '{}'", folder.display()),
                })
            }
            ProviderChoice::Libvirt => {
                // No pool yet is no volume either.
                let volumes = virsh(&["vol-list", "default"]).await.ok()?;
                let volume = format!("{machine}.img");
                lists(&volumes, &volume).then(|| Finding {
                    what: format!("libvirt's volume {volume} is left over from an earlier machine"),
                    mend: format!("virsh -c qemu:///system vol-delete {volume} default"),
                })
            }
            _ => None,
        }
    }
}

/// The first version in what a program says, such as `Vagrant 2.3.4` or `7.0.18r162988`.
pub fn version(said: &str) -> Option<Version> {
    said.split_whitespace().find_map(|word| {
        let end = word.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
        Version::parse(&word[..end.unwrap_or(word.len())]).ok()
    })
}

/// Machines that have to share cores are slower by as much.
fn slow_when_emulated(machines: usize, cores: usize) -> usize {
    (SLOW_WHEN_EMULATED * machines).div_ceil(cores).max(SLOW_WHEN_EMULATED)
}

fn judge_versions(
    vagrant: &Version,
    virtualbox: Option<&Version>,
    must_choose: bool,
    arch: &str,
) -> Vec<Finding> {
    let newer = |version: &Version| format!("install Vagrant {version} or newer");
    let mut findings = Vec::new();
    if *vagrant < OLDEST_VAGRANT {
        findings.push(Finding {
            what: format!("Vagrant {vagrant} is too old"),
            mend: newer(&OLDEST_VAGRANT),
        });
    }
    if must_choose && *vagrant < KNOWS_ARCHITECTURES {
        findings.push(Finding {
            what: format!("Vagrant {vagrant} cannot select the box's files for {arch}"),
            mend: format!(
                "{}, or set a box that has only this architecture: --box",
                newer(&KNOWS_ARCHITECTURES)
            ),
        });
    }
    let Some(virtualbox) = virtualbox else { return findings };
    if arch == "arm64" && *virtualbox < VIRTUALBOX_ON_ARM {
        findings.push(Finding {
            what: format!("VirtualBox {virtualbox} runs no machines on {arch}"),
            mend: format!("install VirtualBox {VIRTUALBOX_ON_ARM} or newer"),
        });
    }
    let needed = DRIVEN_BY.iter().rev().find(|(from, _)| virtualbox >= from);
    if let Some((_, needed)) = needed.filter(|(_, needed)| vagrant < needed) {
        findings.push(Finding {
            what: format!("Vagrant {vagrant} does not know VirtualBox {virtualbox}"),
            mend: newer(needed),
        });
    }
    findings
}

/// Where VirtualBox puts machines, from `VBoxManage list systemproperties`.
fn machine_folder(properties: &str) -> Option<&str> {
    let line = properties.lines().find_map(|line| line.strip_prefix("Default machine folder:"));
    line.map(str::trim).filter(|folder| !folder.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(vagrant: &str, virtualbox: &str, must_choose: bool, arch: &str) -> Vec<String> {
        let vagrant = version(vagrant).unwrap();
        let findings = judge_versions(&vagrant, version(virtualbox).as_ref(), must_choose, arch);
        findings.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn emulated_machines_need_as_much_time_as_they_share_cores() {
        let asked =
            [(2, 2), (5, 2), (5, 8)].map(|(machines, cores)| slow_when_emulated(machines, cores));
        assert_eq!(asked, [10, 25, 10]);
    }

    #[test]
    fn versions_are_parsed_as_programs_print_them() {
        assert_eq!(version("Vagrant 2.3.4\n"), Some(Version::new(2, 3, 4)));
        assert_eq!(version("7.0.18r162988\n"), Some(Version::new(7, 0, 18)));
        assert_eq!(version("WARNING: kernel module\n7.2.0_Debian"), Some(Version::new(7, 2, 0)));
        assert_eq!(version("no idea"), None);
    }

    #[test]
    fn compatible_versions_are_accepted() {
        assert_eq!(judged("Vagrant 2.3.4", "", false, "amd64"), [""; 0]);
        assert_eq!(judged("Vagrant 2.4.9", "7.2.4", true, "arm64"), [""; 0]);
        assert_eq!(judged("Vagrant 2.4.1", "7.0.18", true, "amd64"), [""; 0]);
    }

    #[test]
    fn versions_that_do_not_are_named() {
        let said = |vagrant, virtualbox, arch| judged(vagrant, virtualbox, true, arch).join("\n");
        assert!(said("Vagrant 2.4.1", "7.1.2", "amd64").contains("does not know VirtualBox 7.1.2"));
        assert!(said("Vagrant 2.4.8", "7.2.0", "amd64").contains("does not know VirtualBox 7.2.0"));
        assert!(said("Vagrant 2.3.7", "", "arm64").contains("cannot select"));
        assert!(said("Vagrant 2.2.19", "", "amd64").contains("too old"));
        assert!(said("Vagrant 2.4.9", "7.0.20", "arm64").contains("runs no machines on arm64"));
    }

    #[test]
    fn the_folder_of_virtualbox_is_found() {
        let said = "API version:   7_0\nDefault machine folder:   /home/u/VirtualBox VMs\n";
        assert_eq!(machine_folder(said), Some("/home/u/VirtualBox VMs"));
        assert_eq!(machine_folder("API version: 7_0\n"), None);
    }
}
