//! Flags of `kdiy up` that change the cluster file's values.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::config::{
    ClusterConfig, EtcdTopology, HostRole, LOCAL_PATH, LoadBalancerMode, ProviderChoice,
};
use crate::support::failure::{Failure, Result};

/// What to build, where it differs from the cluster file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct UpFlags {
    /// The cluster file [default: ./cluster.yaml if it exists, else the settings that the cluster
    /// was created with]
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of the cluster [default: kdiy]
    #[arg(long)]
    pub name: Option<String>,
    /// Number of masters: 1, 3, 5 or 7 [default: 3]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub masters: Option<i64>,
    /// Number of workers [default: 2]
    #[arg(long, value_name = "M", allow_negative_numbers = true)]
    pub workers: Option<i64>,
    /// What creates the machines [default: auto]
    #[arg(long, value_enum)]
    pub provider: Option<ProviderChoice>,
    /// etcd on the masters or on separate machines: stacked, external or external:N
    #[arg(long, value_name = "TOPOLOGY")]
    pub etcd: Option<EtcdFlag>,
    /// Load balancer of the API: stacked, dedicated, dedicated:N, external:HOST:PORT or none
    #[arg(long, value_name = "MODE")]
    pub lb: Option<LbFlag>,
    /// Kubernetes version, such as 1.36.4
    #[arg(long, value_name = "VERSION")]
    pub kubernetes: Option<String>,
    /// Directory or URL with the release files: <mirror>/<host>/<path>
    #[arg(long, value_name = "URL|DIR")]
    pub mirror: Option<String>,
    /// List in the format of sha256sum that replaces the pinned digests, for rebuilt files
    #[arg(long, value_name = "FILE")]
    pub digests: Option<PathBuf>,
    /// Image of the machines, for the docker provider
    #[arg(long)]
    pub image: Option<String>,
    /// Vagrant box of the machines, for the other providers
    #[arg(long)]
    pub r#box: Option<String>,
    /// Multiply every deadline, for emulated or very old machines
    #[arg(long, value_name = "FACTOR")]
    pub slow_machines: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdFlag(EtcdTopology, Option<u32>);

impl FromStr for EtcdFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "stacked" => Ok(Self(EtcdTopology::Stacked, None)),
            None if text == "external" => Ok(Self(EtcdTopology::External, None)),
            Some(("external", count)) => count
                .parse()
                .map(|count| Self(EtcdTopology::External, Some(count)))
                .map_err(|_| format!("`{count}` is not a number of members")),
            _ => Err("write stacked, external or external:N".into()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LbFlag {
    mode: LoadBalancerMode,
    machines: Option<u32>,
    address: Option<String>,
}

impl FromStr for LbFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |mode| Ok(Self { mode, machines: None, address: None });
        match text.split_once(':') {
            None => match text {
                "stacked" => plain(LoadBalancerMode::Stacked),
                "dedicated" => plain(LoadBalancerMode::Dedicated),
                "none" => plain(LoadBalancerMode::None),
                "external" => Err("external needs an address: external:HOST:PORT".into()),
                _ => {
                    Err("write stacked, dedicated, dedicated:N, external:HOST:PORT or none".into())
                }
            },
            Some(("dedicated", count)) => count
                .parse()
                .map(|count| Self {
                    mode: LoadBalancerMode::Dedicated,
                    machines: Some(count),
                    address: None,
                })
                .map_err(|_| format!("`{count}` is not a number of machines")),
            Some(("external", address)) => Ok(Self {
                mode: LoadBalancerMode::External,
                machines: None,
                address: Some(address.to_owned()),
            }),
            _ => Err("write stacked, dedicated, dedicated:N, external:HOST:PORT or none".into()),
        }
    }
}

/// `[user@]address` of a machine that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAddress {
    pub user: Option<String>,
    pub address: IpAddr,
}

impl FromStr for HostAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (user, address) = match text.split_once('@') {
            Some((user, address)) => (Some(user.to_owned()), address),
            None => (None, text),
        };
        address.parse().map(|address| Self { user, address }).map_err(|_| {
            format!("`{address}` is not an IP address; write [user@]address, such as me@10.0.0.11")
        })
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "{user}@{}", self.address),
            None => self.address.fmt(f),
        }
    }
}

/// `role:[user@]address`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFlag {
    pub role: HostRole,
    pub at: HostAddress,
}

impl FromStr for HostFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (role, at) = text.split_once(':').unwrap_or((text, ""));
        let role = match role {
            "master" => HostRole::Master,
            "worker" => HostRole::Worker,
            "etcd" => HostRole::Etcd,
            "load-balancer" => HostRole::LoadBalancer,
            _ => return Err("it must begin with master:, worker:, etcd: or load-balancer:".into()),
        };
        Ok(Self { role, at: at.parse()? })
    }
}

impl UpFlags {
    /// The file's values with the flags laid over them; not yet checked.
    pub fn over(&self, mut config: ClusterConfig) -> Result<ClusterConfig> {
        if let Some(name) = &self.name {
            config.name.clone_from(name);
        }
        if let Some(masters) = self.masters {
            config.masters = count("--masters", masters)?;
        }
        if let Some(workers) = self.workers {
            config.workers = count("--workers", workers)?;
        }
        if let Some(provider) = self.provider {
            config.provider = provider;
        }
        if let Some(EtcdFlag(topology, members)) = &self.etcd {
            config.etcd.topology = *topology;
            config.etcd.members = members.unwrap_or(config.etcd.members);
        }
        if let Some(flag) = &self.lb {
            config.load_balancer.mode = flag.mode;
            config.load_balancer.machines = flag.machines.unwrap_or(config.load_balancer.machines);
            config.load_balancer.address.clone_from(&flag.address);
        }
        if let Some(version) = &self.kubernetes {
            version.clone_into(&mut config.kubernetes);
        }
        if let Some(mirror) = &self.mirror {
            config.artifacts.mirror = Some(mirror.clone());
        }
        if let Some(digests) = &self.digests {
            config.artifacts.digests = Some(digests.clone());
        }
        if let Some(image) = &self.image {
            config.machines.image = Some(image.clone());
        }
        if let Some(name) = &self.r#box {
            config.machines.r#box = Some(name.clone());
        }
        if let Some(factor) = self.slow_machines {
            config.slow_machines = factor;
        }
        hold_paths(&mut config)?;
        if config.provider == ProviderChoice::Existing {
            count_hosts(&mut config);
            for (flag, given, counted) in [
                ("--masters", self.masters, config.masters),
                ("--workers", self.workers, config.workers),
            ] {
                if given.is_some_and(|given| given != i64::from(counted)) {
                    return Err(Failure::input(format!(
                        "{flag}: hosts in the cluster file has {counted} of that role"
                    ))
                    .hint("with provider: existing, add or remove hosts in the cluster file"));
                }
            }
        }
        Ok(config)
    }
}

/// The list of hosts says how many machines of each role there are.
fn count_hosts(config: &mut ClusterConfig) {
    let of = |role| {
        let count = config.hosts.iter().filter(|host| host.role == role).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    };
    (config.masters, config.workers) = (of(HostRole::Master), of(HostRole::Worker));
    if config.etcd.topology == EtcdTopology::External {
        config.etcd.members = of(HostRole::Etcd);
    }
    if config.load_balancer.mode == LoadBalancerMode::Dedicated {
        config.load_balancer.machines = of(HostRole::LoadBalancer);
    }
}

/// Later commands may run in another directory. ssh expands `~`.
fn hold_paths(config: &mut ClusterConfig) -> Result<()> {
    for ssh in config.hosts.iter_mut().map(|host| &mut host.ssh) {
        let paths = [&mut ssh.key, &mut ssh.config].into_iter().flatten();
        for path in paths.filter(|path| !path.starts_with("~")) {
            *path = absolute("hosts", path)?;
        }
    }
    if let Some(digests) = &mut config.artifacts.digests {
        *digests = absolute("artifacts.digests", digests)?;
    }
    // A path that does not exist is a URL or a mistake; the error shows it as it was written.
    let addons = config.addons.iter_mut().filter(|addon| *addon != LOCAL_PATH);
    let places = config.artifacts.mirror.iter_mut().chain(addons);
    for place in places.filter(|place| Path::new(place).exists()) {
        *place = absolute("artifacts.mirror, addons", Path::new(place))?.display().to_string();
    }
    Ok(())
}

fn absolute(key: &str, path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| {
        Failure::input(format!("{key}: {} is not a path", path.display())).because(error)
    })
}

fn count(flag: &str, value: i64) -> Result<u32> {
    u32::try_from(value).map_err(|_| {
        Failure::input(format!("{flag}: {value} is not a number of machines"))
            .hint(format!("for example {flag} 3"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_with_a_colon_are_parsed() {
        assert_eq!("external:5".parse(), Ok(EtcdFlag(EtcdTopology::External, Some(5))));
        let lb: LbFlag = "external:10.0.0.1:6443".parse().unwrap();
        assert_eq!(lb.address.as_deref(), Some("10.0.0.1:6443"));
        for nonsense in ["externl", "external:x", "stacked:2"] {
            assert!(nonsense.parse::<EtcdFlag>().is_err(), "{nonsense}");
        }
        assert!("external".parse::<LbFlag>().is_err());
    }

    #[test]
    fn hosts_are_parsed_with_role_and_user() {
        let host: HostFlag = "master:me@10.0.0.11".parse().unwrap();
        assert_eq!((host.role, host.at.to_string().as_str()), (HostRole::Master, "me@10.0.0.11"));
        assert_eq!("worker:fd00::1".parse::<HostFlag>().unwrap().at.user, None);
        for nonsense in ["10.0.0.1", "boss:10.0.0.1", "master:", "master:atlas"] {
            assert!(nonsense.parse::<HostFlag>().is_err(), "{nonsense}");
        }
    }

    #[test]
    fn counts_of_existing_machines_come_from_the_list_of_hosts() {
        let text = "provider: existing\nhosts:\n- {role: master, address: 10.0.0.1}\n";
        let file = crate::config::parse::parse("test", text).unwrap();
        let config = UpFlags::default().over(file.clone()).unwrap();
        assert_eq!((config.masters, config.workers), (1, 0));
        let flags = UpFlags { workers: Some(2), ..UpFlags::default() };
        let failure = flags.over(file).unwrap_err().to_string();
        assert!(failure.contains("--workers") && failure.contains("hosts"), "{failure}");
    }

    #[test]
    fn flags_override_the_file_and_negative_counts_are_refused() {
        let flags = UpFlags { masters: Some(5), ..UpFlags::default() };
        let config = flags.over(ClusterConfig::default()).unwrap();
        assert_eq!((config.masters, config.workers), (5, 2));
        let flags = UpFlags { workers: Some(-1), ..UpFlags::default() };
        let failure = flags.over(ClusterConfig::default()).unwrap_err().to_string();
        assert!(failure.contains("--workers"), "{failure}");
    }
}
