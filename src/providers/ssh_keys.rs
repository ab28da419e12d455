//! The cluster's own SSH key and its settings for ssh.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use tokio::process::Command;

use crate::state::{StateDir, atomic};
use crate::support::failure::{Failure, Result};

/// Hundreds of megabytes travel. With AES instructions these cost a third of ssh's default, which is
/// ChaCha20; an emulated CPU has none, and does ChaCha20 eight times as fast (186 MB/s and 24 MB/s
/// were seen). Names are those of `ssh -Q cipher`.
const WITH_AES: &str = "  Ciphers ^aes128-gcm@openssh.com,aes256-gcm@openssh.com\n";
const WITHOUT_AES: &str = "  Ciphers ^chacha20-poly1305@openssh.com\n";
const SETTINGS: &str = "Host *\n  IdentitiesOnly yes\n  IdentityAgent none\n  GlobalKnownHostsFile /dev/null\n  \
    LogLevel ERROR\n";

pub fn private(state: &StateDir) -> PathBuf {
    state.ssh().join("id_ed25519")
}

/// One line, for `authorized_keys`.
pub fn authorized(state: &StateDir) -> PathBuf {
    state.ssh().join("id_ed25519.pub")
}

pub fn known_hosts(state: &StateDir) -> PathBuf {
    state.ssh().join("known_hosts")
}

pub fn settings(state: &StateDir) -> PathBuf {
    state.ssh().join("config")
}

/// Forgets the host keys of machines that are about to be made anew: theirs will be others, and
/// a changed key is refused.
pub async fn forget(state: &StateDir, addresses: &[Ipv4Addr]) -> Result<()> {
    let file = known_hosts(state);
    if !file.exists() {
        return Ok(());
    }
    for address in addresses {
        let output = Command::new("ssh-keygen")
            .args(["-q", "-R", &address.to_string(), "-f"])
            .arg(&file)
            .output()
            .await
            .map_err(|error| Failure::host("cannot run ssh-keygen").because(error))?;
        if !output.status.success() {
            return Err(Failure::host(format!("cannot remove the host key of {address}"))
                .cause(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
    }
    Ok(())
}

/// Makes the key and the settings where they are missing.
pub async fn ensure(state: &StateDir, emulated: bool) -> Result<()> {
    let ciphers = if emulated { WITHOUT_AES } else { WITH_AES };
    atomic::write(&settings(state), format!("{SETTINGS}{ciphers}").as_bytes(), 0o600)?;
    let key = private(state);
    if key.exists() {
        return Ok(());
    }
    let comment = format!("kdiy-{}", state.root().file_name().unwrap_or_default().display());
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", &comment, "-f"])
        .arg(&key)
        .output()
        .await
        .map_err(|error| {
            Failure::host("cannot run ssh-keygen")
                .because(error)
                .hint("install the OpenSSH client: apt-get install openssh-client")
        })?;
    if output.status.success() {
        Ok(())
    } else {
        Err(Failure::host("ssh-keygen created no key")
            .cause(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}
