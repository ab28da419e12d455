//! The password that sudo requires on existing machines. It stays in memory only.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::config::ClusterConfig;
use crate::support::failure::{Failure, Result};
use crate::transport::target::Password;

const VARIABLE: &str = "KDIY_SUDO_PASSWORD";
const FILE_VARIABLE: &str = "KDIY_SUDO_PASSWORD_FILE";

/// One password for all machines, and for the whole life of this process: whoever runs kdiy is
/// asked once, however often it connects.
static PASSWORD: OnceLock<Option<Password>> = OnceLock::new();

/// Asks a person; `None` where there is nobody.
pub type Ask = fn(question: &str) -> Option<String>;

static ASK: OnceLock<Ask> = OnceLock::new();

/// How to ask, which is the terminal's business.
pub fn ask_with(ask: Ask) {
    // A second way to ask changes nothing: the first is as good.
    let _ = ASK.set(ask);
}

/// Where [`hide`] has left the password for the process that kdiy goes on as.
const HIDDEN_VARIABLE: &str = "KDIY_HIDDEN_SUDO_PASSWORD";

/// Takes a password out of the environment, where every program that kdiy starts, and whoever may
/// look at those, would find it. A process cannot do that to itself while others may read its
/// environment, so kdiy begins again without it, and reads it from a file that only its owner can
/// read and that is gone a moment later.
pub fn hide() -> Result<()> {
    if let Some(path) = std::env::var_os(HIDDEN_VARIABLE) {
        let path = Path::new(&path);
        // Not there in a kdiy that this one has started: it has no password to find.
        if let Ok(password) = read(path) {
            let _ = PASSWORD.set(Some(Password::new(password)));
            let _ = fs::remove_file(path);
        }
        return Ok(());
    }
    let Ok(password) = std::env::var(VARIABLE) else { return Ok(()) };
    let failed = |error: std::io::Error| {
        Failure::host(format!("cannot hide ${VARIABLE} from other programs")).because(error).hint(format!(
            "use ${FILE_VARIABLE}, or let kdiy ask for the password: `hosts[].ssh.sudoPassword: \
            true`"
        ))
    };
    let file = hidden_file(&password).map_err(failed)?;
    let program = std::env::current_exe().map_err(failed)?;
    let error = std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .env_remove(VARIABLE)
        .env(HIDDEN_VARIABLE, &file)
        .exec();
    let _ = fs::remove_file(&file);
    Err(failed(error))
}

/// Mode 0600, in memory where the system has a place for that.
fn hidden_file(password: &str) -> std::io::Result<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let places = [runtime, Some("/dev/shm".into()), Some(std::env::temp_dir())];
    let place = places.into_iter().flatten().find(|place| place.is_dir()).unwrap_or_default();
    let mut file = tempfile::NamedTempFile::new_in(place)?;
    file.write_all(password.as_bytes())?;
    file.into_temp_path().keep().map_err(|error| error.error)
}

/// Gets hold of the password before the first connection: from the environment, from a file, or,
/// when a host says that it needs one, from whoever sits at the terminal.
pub fn obtain(config: &ClusterConfig) -> Result<()> {
    if PASSWORD.get().is_some() {
        return Ok(());
    }
    let wanted = config.hosts.iter().any(|host| host.ssh.sudo_password);
    let password = match given()? {
        Some(password) => Some(password),
        None if wanted => {
            let asked = ASK.get().and_then(|ask| ask("sudo password of the machines: "));
            Some(asked.ok_or_else(|| {
                Failure::input(
                    "hosts: sudo wants a password, and kdiy has no terminal to ask for it",
                )
                .hint(format!("set ${VARIABLE}, or ${FILE_VARIABLE} to a file with mode 0600"))
            })?)
        }
        None => None,
    };
    let _ = PASSWORD.set(password.map(Password::new));
    Ok(())
}

/// What [`obtain`] got.
pub fn password() -> Option<Password> {
    PASSWORD.get().cloned().flatten()
}

fn given() -> Result<Option<String>> {
    match std::env::var_os(FILE_VARIABLE) {
        Some(path) => read(Path::new(&path)).map(Some),
        None => Ok(None),
    }
}

fn read(path: &Path) -> Result<String> {
    let failed =
        |what: &str| Failure::input(format!("${FILE_VARIABLE}: {what} {}", path.display()));
    let metadata = fs::metadata(path).map_err(|error| failed("cannot read").because(error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(failed(&format!("others may read it (mode {mode:04o})"))
            .hint(format!("chmod 600 {}", path.display())));
    }
    let text = fs::read_to_string(path).map_err(|error| failed("cannot read").because(error))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_that_others_may_read_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "hunter22\n").unwrap();
        assert_eq!(read(file.path()).unwrap(), "hunter22");
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
        let failure = read(file.path()).unwrap_err().to_string();
        assert!(failure.contains("0640") && failure.contains("chmod 600"), "{failure}");
        assert!(!failure.contains("hunter22"), "{failure}");
    }
}
