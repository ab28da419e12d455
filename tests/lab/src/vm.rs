//! The VM lab: real kernels, made by Vagrant's libvirt provider, and emulated where the CPU does
//! not help.

mod bake;
pub mod lane;
mod libvirt;

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::mirror::{self, Mirror};
use crate::{Ground, build_kdiy, host};

pub use libvirt::stop;

/// One virtual CPU a machine: an emulated one keeps a core of the host busy.
const CLUSTER_FILE: &str = "vm/cluster.yaml";

/// Emulated, a machine with a core of the host to itself was seen to run Go programs 13 to 31 times
/// slower; waits are for I/O as well, which is as fast as ever.
const SLOW_WHEN_EMULATED: usize = 12;

/// Debian packages by the program or file that shows that they are there.
const NEEDED: &[(&str, &str)] = &[
    ("/usr/share/doc/vagrant-libvirt", "vagrant-libvirt"),
    ("libvirtd", "libvirt-daemon"),
    ("virsh", "libvirt-clients"),
    ("/etc/libvirt/qemu.conf", "libvirt-daemon-system"),
    ("/usr/share/doc/libvirt-daemon-driver-qemu", "libvirt-daemon-driver-qemu"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("dnsmasq", "dnsmasq-base"),
    ("extlinux", "extlinux"),
    ("sfdisk", "fdisk"),
    ("mkfs.ext4", "e2fsprogs"),
    ("ip", "iproute2"),
];

/// Everything `kdiy up` needs for virtual machines.
pub struct Vms {
    kdiy: PathBuf,
    mirror: Mirror,
    home: PathBuf,
    vagrant_box: String,
}

impl Vms {
    pub fn make(cache: &Path) -> Result<Self> {
        host::prepare()?;
        let vagrant_box = vagrant_box(cache)?;
        libvirt::ensure(cache)?;
        Ok(Self {
            kdiy: build_kdiy(crate::Build::Debug)?,
            mirror: mirror::build(cache)?,
            home: home(cache),
            vagrant_box,
        })
    }

    /// `kdiy up` for virtual machines. What `arguments` say themselves is left to them.
    pub fn up_with(&self, arguments: &[String]) -> Command {
        let count = |flag, default| {
            value(arguments, flag).and_then(|it| it.parse().ok()).unwrap_or(default)
        };
        // What is not a number is kdiy's to refuse.
        let machines = count("--masters", 3) + count("--workers", 2);
        let mut up = self.verb("up", machines, arguments);
        up.arg("--yes").args(arguments);
        up
    }

    fn verb(&self, verb: &str, machines: usize, arguments: &[String]) -> Command {
        let mut kdiy = self.kdiy();
        kdiy.args([verb, "--provider", "libvirt", "--box", &self.vagrant_box]);
        self.mirror.set(&mut kdiy);
        let said = |flag| value(arguments, flag).is_some();
        if !said("--config") && !said("-c") {
            kdiy.arg("--config").arg(crate::package().join(CLUSTER_FILE));
        }
        let factor = slowness(machines);
        if factor > 1 && !said("--slow-machines") {
            kdiy.args(["--slow-machines", &factor.to_string()]);
        }
        kdiy
    }

    /// Vagrant, looking at the machines of the cluster whose state this is.
    pub fn vagrant(&self, state: &Path) -> Command {
        let directory = state.join("vagrant");
        let mut vagrant = Command::new("vagrant");
        vagrant
            .env("VAGRANT_HOME", &self.home)
            .env("VAGRANT_CWD", &directory)
            .env("VAGRANT_DOTFILE_PATH", directory.join(".vagrant"))
            .env("VAGRANT_CHECKPOINT_DISABLE", "1");
        vagrant
    }
}

impl Ground for Vms {
    fn kdiy(&self) -> Command {
        let mut kdiy = Command::new(&self.kdiy);
        kdiy.env("VAGRANT_HOME", &self.home);
        kdiy
    }

    fn wanted(&self, verb: &str, machines: usize) -> Command {
        self.verb(verb, machines, &[])
    }
}

/// The factor by which machines are slow, which share this computer's cores with each other.
fn slowness(machines: usize) -> u32 {
    if !is_emulated() {
        return 1;
    }
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let factor = (SLOW_WHEN_EMULATED * machines).div_ceil(cores).max(SLOW_WHEN_EMULATED);
    u32::try_from(factor).unwrap_or(u32::MAX)
}

/// What `arguments` say for `flag`, in either of the two ways to write it.
fn value<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    let is_it = |it: &String| it == flag || it.starts_with(&format!("{flag}="));
    let at = arguments.iter().position(is_it)?;
    let apart = || arguments.get(at + 1).map_or("", String::as_str);
    Some(arguments[at].split_once('=').map_or_else(apart, |(_, value)| value))
}

/// Builds the box where it is missing. Returns its name.
pub fn vagrant_box(cache: &Path) -> Result<String> {
    host::need(NEEDED)?;
    bake::ensure(cache, &home(cache))
}

/// Has kdiy use the lab's Vagrant.
pub fn set(cache: &Path, kdiy: &mut Command) {
    kdiy.env("VAGRANT_HOME", home(cache));
}

/// Vagrant's own directory of the lab, so that its boxes do not mix with the user's.
fn home(cache: &Path) -> PathBuf {
    cache.join("vagrant")
}

/// As kdiy sees it: only a CPU with these can run machines at its own speed. A /dev/kvm without
/// them belongs to a hypervisor in software, under which ordinary kernels do not boot.
fn is_emulated() -> bool {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    !Path::new("/dev/kvm").exists()
        || cfg!(target_arch = "x86_64")
            && !cpu.split_whitespace().any(|it| it == "vmx" || it == "svm")
}
