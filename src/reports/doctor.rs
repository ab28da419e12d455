//! Checks whether this computer can create clusters. Changes nothing.

mod leftovers;
pub mod packages;

use std::path::Path;
use std::process::Stdio;

use futures::future::{join, join_all};
use serde::Serialize;

use crate::config::{ClusterConfig, ProviderChoice};
use crate::providers::vagrant::check::{OLDEST_VAGRANT, version};
use crate::providers::{self, host, vagrant};
use crate::support::failure::Result;
use crate::topology::{Topology, architecture, check};
use crate::{state, support};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Fine,
    /// It works without, though not as well or not in every way.
    Advice,
    /// No cluster can be made like this.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    pub name: String,
    pub state: State,
    pub saw: String,
    /// The command or action that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
    /// What a package manager could install to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<packages::Package>,
}

impl Check {
    fn fine(name: &str, saw: impl Into<String>) -> Self {
        Self { name: name.into(), state: State::Fine, saw: saw.into(), mend: None, package: None }
    }

    fn advice(name: &str, saw: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { state: State::Advice, mend: Some(mend.into()), ..Self::fine(name, saw) }
    }

    fn missing(name: &str, saw: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { state: State::Missing, ..Self::advice(name, saw, mend) }
    }

    fn with(self, package: packages::Package) -> Self {
        Self { package: Some(package), ..self }
    }
}

/// Everything, in the order in which one would mend it.
pub async fn examine() -> Result<Vec<Check>> {
    let asked = host::PROVIDERS.map(|choice| async move { (choice, host::usable(choice).await) });
    let (vagrant, usable) = join(vagrant_check(), join_all(asked)).await;
    let mut taken =
        usable.iter().filter(|(choice, usable)| usable.is_ok() && !host::emulated(*choice));
    let provider = taken.next().map(|(choice, _)| *choice);
    let mut checks = vec![vagrant, provider_check(provider)];
    for (choice, usable) in usable {
        let name = format!("provider {}", vagrant::spelled(choice));
        checks.push(match usable {
            Ok(()) => Check::fine(&name, "ready"),
            Err(finding) => {
                let check = Check::advice(&name, finding.what, finding.mend);
                match packages::of_provider(choice) {
                    Some(package) => check.with(package),
                    None => check,
                }
            }
        });
    }
    checks.push(ssh().await);
    checks.push(virtualisation());
    checks.extend(provider.map(box_check));
    checks.push(memory(provider)?);
    checks.push(cores());
    checks.push(disk(&state::cache()?).await);
    checks.push(addresses().await);
    checks.push(kubectl());
    checks.extend(leftovers::look().await?);
    Ok(checks)
}

async fn vagrant_check() -> Check {
    let name = "vagrant";
    if !host::present("vagrant") {
        return Check::missing(
            name,
            "not installed",
            "install it: developer.hashicorp.com/vagrant",
        )
        .with(packages::Package::Vagrant);
    }
    match host::ask("vagrant", &["--version"]).await {
        Err(failure) => Check::missing(name, failure.what, "reinstall it"),
        Ok(text) => match version(&text) {
            Some(version) if version >= OLDEST_VAGRANT => Check::fine(name, version.to_string()),
            Some(version) => Check::advice(
                name,
                format!("{version} is older than {OLDEST_VAGRANT}"),
                "install a newer one: developer.hashicorp.com/vagrant",
            ),
            None => Check::advice(
                name,
                format!("says `{}`", text.trim()),
                "check that this program is Vagrant",
            ),
        },
    }
}

fn provider_check(provider: Option<ProviderChoice>) -> Check {
    match provider {
        Some(choice) => Check::fine("a provider", vagrant::spelled(choice)),
        None => Check::missing(
            "a provider",
            "no provider is usable",
            "set up one of those below, or use existing machines (provider: existing)",
        ),
    }
}

async fn ssh() -> Check {
    if let Some(finding) = host::ssh_client() {
        return Check::missing("ssh", finding.what, finding.mend)
            .with(packages::Package::OpensshClient);
    }
    // It says its version on the channel for errors.
    let output = tokio::process::Command::new("ssh")
        .arg("-V")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .await;
    let said = output.map(|output| String::from_utf8_lossy(&output.stderr).trim().to_owned());
    Check::fine("ssh", said.unwrap_or_default())
}

fn virtualisation() -> Check {
    let name = "virtualisation";
    if !host::emulates() {
        return Check::fine(name, "virtual machines run with hardware virtualization");
    }
    let hardware = "turn on virtualization in the firmware (in a virtual machine: nested \
        virtualization on its host), use provider docker, or emulate with --slow-machines 10";
    let kvm = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    let (saw, mend) = match kvm.map_err(|error| error.kind()) {
        Err(std::io::ErrorKind::PermissionDenied) => {
            ("this user may not use /dev/kvm", "usermod -aG kvm $USER, then log in again")
        }
        _ => ("virtual machines would be emulated, 13 to 31 times slower", hardware),
    };
    Check::advice(name, saw, mend)
}

fn box_check(provider: ProviderChoice) -> Check {
    let name = "box";
    if provider == ProviderChoice::Docker {
        return Check::fine(name, "not needed; kdiy builds its own image");
    }
    match vagrant::default_box(vagrant::spelled(provider), architecture::HERE) {
        Ok(known) => Check::fine(name, format!("{known} ({})", architecture::HERE)),
        Err(failure) => Check::advice(name, failure.what, failure.hints.join("; ")),
    }
}

/// Against the cluster that `up` makes without being told otherwise.
fn memory(provider: Option<ProviderChoice>) -> Result<Check> {
    let name = "memory";
    let Some(free) = host::available_memory() else {
        return Ok(Check::fine(name, "unknown: the system does not report it"));
    };
    let needs = |config: &ClusterConfig| -> Result<u64> {
        let topology = Topology::build(config, check::placeholder())?;
        Ok(providers::memory(provider, &topology))
    };
    let usual = needs(&ClusterConfig::default())?;
    let small = needs(&ClusterConfig { masters: 1, workers: 1, ..ClusterConfig::default() })?;
    let saw = format!("{free} MiB free; 3 masters and 2 workers need {usual}");
    Ok(match free {
        free if free >= usual => Check::fine(name, saw),
        free if free >= small => {
            Check::advice(name, saw, "close other programs, or: kdiy up --masters 1 --workers 1")
        }
        _ => Check::missing(name, saw, format!("the smallest cluster needs {small} MiB")),
    })
}

fn cores() -> Check {
    match support::cores() {
        1 => Check::advice("cores", "1", "a cluster works, but is slow"),
        cores => Check::fine("cores", cores.to_string()),
    }
}

async fn disk(cache: &Path) -> Check {
    let name = "disk";
    let needed = host::disk_for(5);
    match host::available_disk(cache).await {
        None => Check::fine(name, "unknown: the system does not report it"),
        Some(free) if free >= needed => Check::fine(name, format!("{free} MiB free")),
        Some(free) => Check::advice(
            name,
            format!("{free} MiB free; 3 masters and 2 workers need about {needed}"),
            "free disk space",
        ),
    }
}

async fn addresses() -> Check {
    let name = "addresses";
    let routes = host::networks().await;
    let used: Vec<_> = routes.iter().map(|(network, _)| *network).collect();
    match check::choose_machine_network(&used) {
        Ok(network) => Check::fine(name, format!("{network} is free for machines")),
        Err(failure) => Check::missing(name, failure.what, failure.hints.join("; ")),
    }
}

fn kubectl() -> Check {
    match host::present("kubectl") {
        true => Check::fine(
            "kubectl",
            "installed; `kdiy kubeconfig --merge` adds the cluster to its configuration",
        ),
        false => {
            Check::fine("kubectl", "not installed, and not needed: `kdiy kubectl` installs its own")
        }
    }
}
