//! The names of packages that kdiy needs, by package manager.

use serde::Serialize;

use crate::config::ProviderChoice;
use crate::providers::host;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Package {
    Vagrant,
    OpensshClient,
    Libvirt,
    Docker,
    Virtualbox,
}

/// Package managers that can be driven without questions of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    Apt,
    Dnf,
    Brew,
}

impl Manager {
    /// The first that this computer has.
    pub fn of_this_computer() -> Option<Self> {
        [(Self::Apt, "apt-get"), (Self::Dnf, "dnf"), (Self::Brew, "brew")]
            .into_iter()
            .find_map(|(manager, program)| host::present(program).then_some(manager))
    }

    /// The command that installs a package, or nothing where this manager has none.
    pub fn install(self, package: Package) -> Option<Vec<&'static str>> {
        let names: &[&str] = match (self, package) {
            (Self::Apt, Package::Vagrant) => &["vagrant"],
            (Self::Apt, Package::OpensshClient) => &["openssh-client"],
            (Self::Apt, Package::Libvirt) => {
                &["vagrant-libvirt", "libvirt-daemon-system", "libvirt-clients", "qemu-system-x86"]
            }
            (Self::Apt, Package::Docker) => &["docker.io"],
            (Self::Dnf, Package::Vagrant) => &["vagrant"],
            (Self::Dnf, Package::OpensshClient) => &["openssh-clients"],
            (Self::Dnf, Package::Libvirt) => &["vagrant-libvirt", "libvirt", "qemu-kvm"],
            (Self::Dnf, Package::Docker) => &["moby-engine"],
            (Self::Brew, Package::Vagrant) => &["--cask", "vagrant"],
            (Self::Brew, Package::Virtualbox) => &["--cask", "virtualbox"],
            _ => return None,
        };
        let manager: &[&str] = match self {
            Self::Apt => &["apt-get", "install", "-y"],
            Self::Dnf => &["dnf", "install", "-y"],
            // Refuses to run as root, and needs no rights.
            Self::Brew => &["brew", "install"],
        };
        Some([manager, names].concat())
    }

    pub const fn needs_root(self) -> bool {
        !matches!(self, Self::Brew)
    }
}

/// What makes a provider usable; the licences of the others are for their buyers to accept.
pub fn of_provider(choice: ProviderChoice) -> Option<Package> {
    match choice {
        ProviderChoice::Libvirt => Some(Package::Libvirt),
        ProviderChoice::Docker => Some(Package::Docker),
        ProviderChoice::Virtualbox => Some(Package::Virtualbox),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_essential_has_a_package_where_its_system_does_not_bring_it() {
        for manager in [Manager::Apt, Manager::Dnf, Manager::Brew] {
            assert!(manager.install(Package::Vagrant).unwrap().contains(&"vagrant"));
        }
        assert_eq!(
            Manager::Apt.install(Package::Docker).unwrap(),
            ["apt-get", "install", "-y", "docker.io"]
        );
        assert_eq!(Manager::Brew.install(Package::Libvirt), None);
    }
}
