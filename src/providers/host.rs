//! Checks this computer before kdiy downloads or creates anything.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::config::ProviderChoice;
use crate::providers::Finding;
use crate::support::failure::{Failure, Result};

/// Long enough for Vagrant, which is slow to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// For a greeting by SSH; an emulated machine takes a second for a whole login.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Those that make machines, in the order in which `auto` tries them.
pub const PROVIDERS: [ProviderChoice; 5] = [
    ProviderChoice::Libvirt,
    ProviderChoice::Virtualbox,
    ProviderChoice::VmwareDesktop,
    ProviderChoice::Parallels,
    ProviderChoice::Docker,
];

/// Runs a program and gives its standard output; an error when it is missing, fails or hangs.
pub async fn ask(program: &str, arguments: &[&str]) -> Result<String> {
    let child = Command::new(program)
        .args(arguments)
        // What they say is read here, and some of them say it in the user's language.
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, child)
        .await
        .map_err(|_| Failure::host(format!("{program} does not answer")))?
        .map_err(|error| Failure::host(format!("cannot run {program}")).because(error))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        Err(Failure::host(format!("{program} {} failed", arguments.join(" ")))
            .tail(lines[lines.len().saturating_sub(10)..].to_vec()))
    }
}

/// Whether a program is in the search path.
pub fn present(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Every machine is reached with it, and its keys are made with it.
pub fn ssh_client() -> Option<Finding> {
    (!present("ssh") || !present("ssh-keygen")).then(|| Finding {
        what: "the OpenSSH client is not installed".into(),
        mend: "apt-get install openssh-client".into(),
    })
}

/// Whether a provider can be used at all on this computer.
pub async fn usable(choice: ProviderChoice) -> std::result::Result<(), Finding> {
    if !present("vagrant") {
        return Err(Finding {
            what: "Vagrant is not installed".into(),
            mend:
                "apt-get install vagrant, brew install vagrant, or developer.hashicorp.com/vagrant"
                    .into(),
        });
    }
    let (program, mend): (&str, &str) = match choice {
        ProviderChoice::Docker => ("docker", "install Docker: docs.docker.com/engine/install"),
        ProviderChoice::Libvirt => {
            ("virsh", "apt-get install libvirt-daemon-system libvirt-clients vagrant-libvirt")
        }
        ProviderChoice::Virtualbox => ("VBoxManage", "install VirtualBox 7: virtualbox.org"),
        ProviderChoice::VmwareDesktop => {
            ("vmrun", "install VMware Desktop and the vagrant-vmware-desktop plugin")
        }
        ProviderChoice::Parallels => {
            ("prlctl", "install Parallels Desktop and the vagrant-parallels plugin")
        }
        ProviderChoice::Auto | ProviderChoice::Existing => return Ok(()),
    };
    if !present(program) {
        return Err(Finding { what: format!("{program} is not installed"), mend: mend.into() });
    }
    let check: (&[&str], &str) = match choice {
        ProviderChoice::Docker => {
            (&["info", "--format", "{{.ServerVersion}}"], "start the Docker engine")
        }
        ProviderChoice::Libvirt => (&["-c", "qemu:///system", "uri"], "start libvirtd"),
        _ => return plugin(choice).await,
    };
    match ask(program, check.0).await {
        Ok(_) => plugin(choice).await,
        Err(failure) => Err(Finding {
            what: format!(
                "{program} does not reach its service{}",
                failure.tail.last().map(|line| format!(": {line}")).unwrap_or_default()
            ),
            mend: check.1.into(),
        }),
    }
}

/// VirtualBox and Docker come with Vagrant; the others are plugins.
async fn plugin(choice: ProviderChoice) -> std::result::Result<(), Finding> {
    let plugin = match choice {
        ProviderChoice::Libvirt => "vagrant-libvirt",
        ProviderChoice::VmwareDesktop => "vagrant-vmware-desktop",
        ProviderChoice::Parallels => "vagrant-parallels",
        _ => return Ok(()),
    };
    let listed = ask("vagrant", &["plugin", "list"]).await.unwrap_or_default();
    if listed.contains(plugin) {
        Ok(())
    } else {
        Err(Finding {
            what: format!("Vagrant's plugin {plugin} is not installed"),
            mend: format!("vagrant plugin install {plugin}"),
        })
    }
}

/// Whether libvirt's machines would be emulated here, instruction by instruction.
pub fn emulates() -> bool {
    let kvm = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    kvm.is_err() || !virtualises(&cpu)
}

/// Whether this provider's machines would be. `auto` takes no such provider: containers are as
/// fast as the computer, and whoever wants emulated machines can say so.
pub fn emulated(choice: ProviderChoice) -> bool {
    choice == ProviderChoice::Libvirt && emulates()
}

/// Whether the CPU itself can run machines (`vmx` is Intel's flag, `svm` AMD's; ARM lists none).
/// A /dev/kvm without it belongs to a hypervisor in software, such as PVM, under which a
/// distribution's kernel does not boot.
fn virtualises(cpuinfo: &str) -> bool {
    let mut flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags
        .next()
        .is_none_or(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

/// Memory that programs can still have, in MiB; `None` where the system does not report it.
pub fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kibibytes| kibibytes / 1024)
}

/// About what a cluster of so many machines takes of this computer's disk, in MiB: the releases
/// once, and on each machine the sum of what a master installs (about 620 of programs and twice
/// 120 of images), with room for etcd and the first pods.
pub const fn disk_for(machines: usize) -> u64 {
    1500 + 1200 * machines as u64
}

/// Space left for ordinary users where `path` is or will be, in MiB.
pub async fn available_disk(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
    let text = ask("df", &["-Pk", &existing.to_string_lossy()]).await.ok()?;
    let kibibytes: u64 = text.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    Some(kibibytes / 1024)
}

/// Networks that this computer has routes to, with the interface of each.
pub async fn networks() -> Vec<(Ipv4Net, String)> {
    let Ok(text) = ask("ip", &["-o", "-4", "route", "show"]).await else { return Vec::new() };
    parse_routes(&text)
}

fn parse_routes(text: &str) -> Vec<(Ipv4Net, String)> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let network = words.next()?.parse().ok()?;
            let interface = words.skip_while(|word| *word != "dev").nth(1)?;
            Some((network, interface.to_owned()))
        })
        .collect()
}

/// Whether something answers at an address: SSH, or a ping where there is one to ask with. A
/// connection alone is no answer, taken or refused: routers and proxies do either on behalf of
/// what is not there.
pub async fn answers(address: Ipv4Addr) -> bool {
    let greeting = async {
        let mut greeting = [0; 4];
        let mut connection = TcpStream::connect((address, 22)).await?;
        connection.read_exact(&mut greeting).await?;
        std::io::Result::Ok(greeting == *b"SSH-")
    };
    if let Ok(Ok(true)) = tokio::time::timeout(ANSWERS_WITHIN, greeting).await {
        return true;
    }
    ask("ping", &["-c", "1", "-W", "1", &address.to_string()]).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read() {
        let text =
            "default via 10.0.0.1 dev eth0\n192.168.56.0/24 dev br-1 proto kernel scope link\n";
        assert_eq!(parse_routes(text), [("192.168.56.0/24".parse().unwrap(), "br-1".to_owned())]);
    }

    #[test]
    fn a_cpu_says_whether_it_can_run_machines() {
        assert!(virtualises("model name : x\nflags\t\t: fpu vmx sse\n"));
        assert!(!virtualises("model name : x\nflags\t\t: fpu sse hypervisor\n"));
        assert!(virtualises("Features : fp asimd\n"));
    }

    #[tokio::test]
    async fn a_program_that_is_missing_is_named() {
        let failure = ask("no-such-program", &[]).await.unwrap_err().to_string();
        assert!(failure.contains("no-such-program"), "{failure}");
    }
}
