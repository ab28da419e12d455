//! libvirt's daemons, where no init system starts them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::host::{self, run};

const CONFIGURATION: &str = "/etc/libvirt/qemu.conf";
const STARTS_WITHIN: Duration = Duration::from_secs(30);
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// Without an init system there is nobody who keeps users, cgroups and namespaces in order for
/// QEMU; the lab's root runs it as what it is. Marked, so that it is added once.
const SETTINGS: &str = r#"
# kdiy lab: libvirtd runs without an init system
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
cgroup_controllers = []
"#;

/// Has libvirt answer: the one that is there, or one that the lab starts.
pub fn ensure(cache: &Path) -> Result<()> {
    let _lock = host::lock(cache, "libvirt")?;
    if answers() {
        return Ok(());
    }
    if Path::new("/run/systemd/system").exists() {
        bail!("libvirt does not answer; start it: sudo systemctl start libvirtd");
    }
    if !host::is_root() {
        bail!("libvirt does not answer, and only root can start it");
    }
    eprintln!("lab: starting libvirt");
    configure()?;
    let directory = cache.join("libvirt");
    fs::create_dir_all(&directory)?;
    for daemon in DAEMONS {
        run(Command::new(daemon).arg("--daemon").arg("--pid-file").arg(pid_file(cache, daemon)))?;
    }
    let began = Instant::now();
    while !answers() {
        if began.elapsed() > STARTS_WITHIN {
            bail!("libvirtd was started but does not answer; its log is /var/log/libvirt");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// In the order in which they start.
const DAEMONS: [&str; 2] = ["virtlogd", "libvirtd"];

/// Stops the daemons that the lab started; leaves any others alone.
pub fn stop(cache: &Path) -> Result<()> {
    for daemon in DAEMONS.iter().rev() {
        if host::stop(&pid_file(cache, daemon), daemon, STOPS_WITHIN)? {
            eprintln!("lab: stopped {daemon}");
        }
    }
    Ok(())
}

fn pid_file(cache: &Path, daemon: &str) -> PathBuf {
    cache.join("libvirt").join(format!("{daemon}.pid"))
}

fn answers() -> bool {
    run(Command::new("virsh").args(["-q", "-c", "qemu:///system", "uri"])).is_ok()
}

fn configure() -> Result<()> {
    let failed = || format!("cannot change {CONFIGURATION}");
    if fs::read_to_string(CONFIGURATION).with_context(failed)?.contains(SETTINGS) {
        return Ok(());
    }
    let mut file = fs::OpenOptions::new().append(true).open(CONFIGURATION).with_context(failed)?;
    file.write_all(SETTINGS.as_bytes()).with_context(failed)
}
