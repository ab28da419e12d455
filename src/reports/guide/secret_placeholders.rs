//! Placeholders: rendered in place of secrets, and replaced on the reader's computer by a shell.
//!
//! A placeholder is one word of letters and digits, so that YAML, base64 or a quoted string around
//! it is rendered as around the secret itself.

use crate::bundle::Secrets;
use crate::pki::identity::{self, Identity};
use crate::pki::{CLUSTER, Credentials, encryption_config, kubeconfig};
use crate::playbook::format::KUBELET_BOOTSTRAP;
use crate::support::failure::{Failure, Result};
use crate::topology::{Machine, Topology};

const BEGIN: &str = "KDIYSTANDIN";
const END: &str = "KDIYEND";

/// The directory of keys and certificates.
pub const PKI: &str = "pki";

/// What the shell command prints stands here.
fn stand_in(command: &str) -> String {
    format!("{BEGIN}{}{END}", hex::encode(command))
}

fn file(path: &str) -> String {
    stand_in(&format!("cat {path}"))
}

fn base64(path: &str) -> String {
    stand_in(&format!("base64 -w0 <{path}"))
}

/// `pki/etcd-server@kdiy-master-1`, to which `.crt` and `.key` are added.
pub fn pair(identity: &Identity, machine: Option<&Machine>) -> String {
    match machine.filter(|_| identity.per_machine) {
        Some(machine) => format!("{PKI}/{}@{}", identity.name, machine.name),
        None => format!("{PKI}/{}", identity.name),
    }
}

pub fn token(machine: &Machine) -> String {
    format!("{PKI}/token@{}", machine.name)
}

/// Keys and certificates as files of the reader's.
pub struct SecretPlaceholders;

impl SecretPlaceholders {
    fn pair(&self, name: &str, machine: Option<&Machine>) -> Result<String> {
        identity::identity(name)
            .map(|identity| pair(identity, machine))
            .ok_or_else(|| Failure::input(format!("the identity `{name}` does not exist")))
    }

    /// A kubeconfig for the reader, who is not on a machine.
    pub fn own_kubeconfig(&self, topology: &Topology, identity: &str) -> Result<String> {
        self.kubeconfig_as(&topology.cluster, identity, None, &topology.endpoint.url())
    }

    fn kubeconfig_as(
        &self,
        cluster: &str,
        identity: &str,
        machine: Option<&Machine>,
        server: &str,
    ) -> Result<String> {
        let authority = base64(&format!("{PKI}/kubernetes-ca.crt"));
        let credentials = match machine {
            Some(machine) if identity == KUBELET_BOOTSTRAP => {
                Credentials::Token(file(&token(machine)))
            }
            _ => {
                let pair = self.pair(identity, machine)?;
                Credentials::Certificate {
                    certificate: base64(&format!("{pair}.crt")),
                    key: base64(&format!("{pair}.key")),
                }
            }
        };
        kubeconfig(cluster, server, identity, &authority, &credentials)
    }
}

impl Secrets for SecretPlaceholders {
    fn certificate(&self, identity: &str, machine: &Machine) -> Result<String> {
        Ok(file(&format!("{}.crt", self.pair(identity, Some(machine))?)))
    }

    fn key(&self, identity: &str, machine: &Machine) -> Result<String> {
        Ok(file(&format!("{}.key", self.pair(identity, Some(machine))?)))
    }

    fn kubeconfig(&self, identity: &str, machine: &Machine, server: &str) -> Result<String> {
        self.kubeconfig_as(CLUSTER, identity, Some(machine), server)
    }

    fn authority(&self, name: &str) -> Result<String> {
        Ok(match name.rsplit_once('.') {
            _ if name == "encryption-config" => {
                encryption_config(&file(&format!("{PKI}/encryption-key")))
            }
            Some(("service-account", _)) => file(&format!("{PKI}/{name}")),
            Some((authority, ending)) => file(&format!("{PKI}/{authority}-ca.{ending}")),
            None => {
                return Err(Failure::input(format!("the authority file `{name}` does not exist")));
            }
        })
    }
}

/// The file that a text consists of, where it is nothing but a stand-in for one.
pub fn whole_file(text: &str) -> Option<String> {
    let encoded = text.trim_end().strip_prefix(BEGIN)?.strip_suffix(END)?;
    let command = String::from_utf8(hex::decode(encoded).ok()?).ok()?;
    command.strip_prefix("cat ").map(str::to_owned)
}

pub fn is_in(text: &str) -> bool {
    text.contains(BEGIN)
}

/// Every command that stands in a text.
pub fn commands(text: &str) -> Vec<String> {
    let after = text.split(BEGIN).skip(1);
    after.filter_map(|rest| decode(rest).map(|(command, _)| command)).collect()
}

/// The text for a here-document whose `$(…)` the shell replaces.
pub fn for_shell(text: &str) -> String {
    let mut parts = text.split(BEGIN);
    let mut shell = escaped(parts.next().unwrap_or_default());
    for part in parts {
        match decode(part) {
            Some((command, rest)) => {
                shell.push_str(&format!("$({command})"));
                shell.push_str(&escaped(rest));
            }
            None => shell.push_str(&escaped(part)),
        }
    }
    shell
}

fn decode(text: &str) -> Option<(String, &str)> {
    let (encoded, rest) = text.split_once(END)?;
    Some((String::from_utf8(hex::decode(encoded).ok()?).ok()?, rest))
}

/// What means something in an unquoted here-document (POSIX shell, 2.7.4).
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('$', "\\$").replace('`', "\\`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_replaces_the_placeholder_with_the_key() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join(PKI)).unwrap();
        std::fs::write(directory.path().join("pki/key"), "a/b+c=\n").unwrap();
        let text = format!("cost: $5 `x` \\n\nkey: {}\n", file("pki/key"));
        let script = format!("cat <<EOF\n{}EOF\n", for_shell(&text));
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .current_dir(directory.path())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, "cost: $5 `x` \\n\nkey: a/b+c=\n");
    }

    #[test]
    fn only_a_single_placeholder_is_a_whole_file() {
        assert_eq!(whole_file(&file("pki/a.crt")), Some("pki/a.crt".into()));
        assert_eq!(whole_file(&base64("pki/a.crt")), None);
        assert_eq!(whole_file(&format!("x{}", file("pki/a.crt"))), None);
        assert_eq!(commands(&format!("{} {}", file("a"), base64("b"))), ["cat a", "base64 -w0 <b"]);
    }
}
