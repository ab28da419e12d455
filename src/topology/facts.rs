//! Facts about a machine, read once when it first answers.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::support::failure::{Failure, Result};
use crate::topology::architecture;
use crate::topology::ownership::FILE as OWNER;

/// Facts that templates and steps depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// The machine's own name, which need not be what the cluster calls it.
    pub hostname: String,
    /// Interface that holds the machine's address on the cluster network.
    pub interface: String,
    /// 2 for the unified hierarchy, 1 for the older one.
    pub cgroup_version: u8,
    /// As release file names spell it: `amd64` or `arm64`.
    pub arch: String,
    /// `ID` of os-release(5).
    pub os: String,
    /// `VERSION_ID` of os-release(5).
    pub os_version: String,
    /// Name servers that pods can reach as well: those on a loopback address (systemd-resolved's
    /// stub, Docker's own) would make CoreDNS query itself (CoreDNS docs, "loop").
    pub nameservers: Vec<String>,
    /// Without CAP_SYS_RESOURCE no process may lower an oom_score_adj.
    pub oom_score_restricted: bool,
    pub modules_loadable: bool,
    /// In MiB; 0 where it is not known.
    #[serde(default)]
    pub memory: u32,
    /// Its kubelet has a certificate of the cluster's authority that has not ended.
    #[serde(default)]
    pub joined: bool,
}

impl Facts {
    /// Stand-ins for a machine that does not exist yet, so that a plan can be drawn.
    pub fn assumed(arch: &str) -> Self {
        Self {
            hostname: "machine".into(),
            interface: "eth1".into(),
            cgroup_version: 2,
            arch: arch.into(),
            os: "debian".into(),
            os_version: "12".into(),
            nameservers: fallback_nameservers(),
            oom_score_restricted: false,
            modules_loadable: true,
            memory: 2048,
            joined: false,
        }
    }
}

/// Where a machine's own name servers are out of its pods' reach: what Docker takes in the same
/// case (Docker docs, "DNS services").
fn fallback_nameservers() -> Vec<String> {
    vec!["8.8.8.8".into(), "8.8.4.4".into()]
}

fn nameservers(text: &str) -> Vec<String> {
    let listed: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    // resolv.conf(5): no more than three are used.
    if listed.is_empty() { fallback_nameservers() } else { listed.into_iter().take(3).collect() }
}

/// CAP_SYS_RESOURCE, capability number 24 (linux/capability.h).
const CAP_SYS_RESOURCE: u32 = 24;

/// Prints one `key=value` a line. `$1` is not used: the address is part of the text.
pub fn script(address: Ipv4Addr) -> String {
    format!(
        r#"address={address}
. /etc/os-release
echo "os=$ID"
echo "os_version=${{VERSION_ID:-rolling}}"
echo "arch=$(uname -m)"
echo "hostname=$(uname -n)"
echo "interface=$(ip -o -4 addr show | awk -v a="$address" '{{split($4, p, "/"); if (p[1] == a) {{print $2; exit}}}}')"
if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then echo cgroup_version=2; else echo cgroup_version=1; fi
cat /run/systemd/resolve/resolv.conf /etc/resolv.conf 2>/dev/null |
  awk '/^nameserver/ && $2 !~ /^127\./ && $2 ~ /^[0-9.]+$/ && !seen[$2]++ {{list = list " " $2}} END {{print "nameservers=" list}}'
echo "capabilities=$(awk '/^CapEff/ {{print $2}}' /proc/self/status)"
echo "memory=$(awk '/^MemTotal/ {{print int($2 / 1024)}}' /proc/meminfo)"
if [ -d "/lib/modules/$(uname -r)" ]; then echo modules=yes; else echo modules=no; fi
echo "owner=$(cat {OWNER} 2>/dev/null | tr '\n' ' ')"
if openssl verify -purpose sslclient -CAfile /etc/kubernetes/pki/ca.crt \
  /var/lib/kubelet/pki/kubelet-client-current.pem >/dev/null 2>&1; then echo joined=yes; fi
"#
    )
}

/// Whose the machine says that it is, in what [`script`] printed.
pub fn owner(text: &str) -> &str {
    text.lines().find_map(|line| line.trim().strip_prefix("owner=")).unwrap_or_default()
}

/// Reads what [`script`] printed.
pub fn parse(machine: &str, address: Ipv4Addr, text: &str) -> Result<Facts> {
    let fields: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.trim().split_once('=')).collect();
    let field = |name: &str| {
        fields.get(name).copied().filter(|value| !value.is_empty()).ok_or_else(|| {
            Failure::machine(format!("the machine did not report its {name}"))
                .on(machine)
                .tail(text.lines().map(str::to_owned).collect())
        })
    };
    let interface = fields.get("interface").copied().unwrap_or_default();
    if interface.is_empty() {
        return Err(Failure::machine(format!("no network interface has the address {address}"))
            .on(machine)
            .hint(
                "check the address in the cluster file and the network configuration of the \
                machine",
            ));
    }
    let cpu = field("arch")?;
    let arch = architecture::named(cpu).ok_or_else(|| {
        Failure::machine(format!("the CPU architecture {cpu} is not supported"))
            .on(machine)
            .hint("Kubernetes publishes what kdiy installs for amd64 and arm64")
    })?;
    let capabilities = u64::from_str_radix(field("capabilities")?, 16).unwrap_or(u64::MAX);
    Ok(Facts {
        hostname: field("hostname")?.into(),
        interface: interface.into(),
        cgroup_version: if field("cgroup_version")? == "2" { 2 } else { 1 },
        arch: arch.into(),
        os: field("os")?.into(),
        os_version: field("os_version")?.into(),
        nameservers: nameservers(fields.get("nameservers").copied().unwrap_or_default()),
        oom_score_restricted: capabilities & (1 << CAP_SYS_RESOURCE) == 0,
        modules_loadable: field("modules")? == "yes",
        memory: fields.get("memory").and_then(|text| text.parse().ok()).unwrap_or_default(),
        joined: fields.get("joined") == Some(&"yes"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "os=debian\nos_version=12\narch=x86_64\nhostname=m\ninterface=eth1\n\
        cgroup_version=1\nnameservers= 10.0.0.2\ncapabilities=000001fffeffffff\nmodules=no\n";

    fn read(text: &str) -> Result<Facts> {
        parse("m", Ipv4Addr::new(192, 168, 56, 11), text)
    }

    #[test]
    fn a_container_without_sys_resource_is_seen_as_such() {
        let facts = read(ANSWER).unwrap();
        assert_eq!((facts.arch.as_str(), facts.cgroup_version), ("amd64", 1));
        assert!(facts.oom_score_restricted && !facts.modules_loadable);
    }

    #[test]
    fn loopback_name_servers_are_replaced() {
        assert_eq!(read(ANSWER).unwrap().nameservers, ["10.0.0.2"]);
        let none = ANSWER.replace("nameservers= 10.0.0.2", "nameservers=");
        assert_eq!(read(&none).unwrap().nameservers, fallback_nameservers());
    }

    #[test]
    fn an_address_that_no_interface_has_is_named() {
        let failure = read(&ANSWER.replace("interface=eth1", "interface=")).unwrap_err();
        assert!(failure.to_string().contains("192.168.56.11"), "{failure}");
    }

    #[test]
    fn an_unknown_architecture_is_refused() {
        assert!(read(&ANSWER.replace("x86_64", "riscv64")).is_err());
    }

    #[test]
    fn the_script_runs_here() {
        let output = std::process::Command::new("sh")
            .args(["-c", &script(Ipv4Addr::LOCALHOST)])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let facts = parse("here", Ipv4Addr::LOCALHOST, &text).unwrap();
        assert_eq!(facts.interface, "lo");
        assert!(!facts.nameservers.iter().any(|server| server.starts_with("127.")), "{facts:?}");
    }
}
