//! The container lab's engine and its machine image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::host::{self, run};
use crate::progress::slow;

/// On two cores and a line of 50 Mbit/s, as the other.
const PACKAGES: Duration = Duration::from_secs(60);
const IMAGE: Duration = Duration::from_secs(30);
const STARTS_WITHIN: Duration = Duration::from_secs(30);
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// What machines run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Debian {
    Bullseye,
    Bookworm,
    Trixie,
}

impl std::fmt::Display for Debian {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bullseye => "bullseye",
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        })
    }
}

/// A Docker engine, and the address to give to clients where it is not the default one.
pub struct Engine {
    pub host: Option<String>,
}

impl Engine {
    /// The engine that answers already, or one of the lab's own.
    pub fn ensure(cache: &Path) -> Result<Self> {
        let _lock = host::lock(cache, "engine")?;
        let default = Self { host: None };
        if default.answers() {
            return Ok(default);
        }
        let own = Own::of(cache);
        let engine = Self { host: Some(own.address()) };
        if !engine.answers() {
            if !host::is_root() {
                bail!(
                    "no Docker engine answers, and only root can start one: \
                     start Docker and let this user talk to it, or run the lab as root"
                );
            }
            eprintln!("lab: starting a Docker engine");
            own.start()?;
            let began = Instant::now();
            while !engine.answers() {
                if began.elapsed() > STARTS_WITHIN {
                    let said = host::tail(&fs::read(own.log()).unwrap_or_default(), 10);
                    bail!("dockerd did not start; the end of {}:\n{said}", own.log().display());
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        Ok(engine)
    }

    pub fn command(&self) -> Command {
        let mut docker = Command::new("docker");
        self.set(&mut docker);
        docker
    }

    pub fn set(&self, command: &mut Command) {
        if let Some(host) = &self.host {
            command.env("DOCKER_HOST", host);
        }
    }

    fn answers(&self) -> bool {
        self.command()
            .arg("info")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// The image of machines of this Debian, built once per definition. Returns its tag.
    pub fn image(&self, cache: &Path, debian: Debian) -> Result<String> {
        let _lock = host::lock(cache, "image")?;
        let definition = crate::repository().join("vagrant/docker");
        let mut hash = Sha256::new();
        for file in ["Dockerfile", "entrypoint.sh", "packages"] {
            hash.update(fs::read(definition.join(file))?);
        }
        let tag = format!("kdiy-lab/{debian}:{}", &hex::encode(hash.finalize())[..12]);
        let known = self.command().args(["image", "inspect", &tag]).output()?;
        if known.status.success() {
            return Ok(tag);
        }
        eprintln!("lab: building the machine image {tag} (once)");
        let base = slow("installing the packages of machines", PACKAGES, || {
            self.base(cache, &definition, debian)
        })?;
        let mut build = self.command();
        build
            .env("DOCKER_BUILDKIT", "0")
            .args(["build", "--build-arg", &format!("BASE={base}"), "--tag", &tag])
            .arg(&definition);
        slow("building the machine image", IMAGE, || run(&mut build))?;
        Ok(tag)
    }

    /// A root file system with every package, so that the build itself needs no network.
    fn base(&self, cache: &Path, definition: &Path, debian: Debian) -> Result<String> {
        let packages = fs::read_to_string(definition.join("packages"))?;
        let list = packages.split_whitespace().collect::<Vec<_>>().join(",");
        let digest = hex::encode(Sha256::digest(&list));
        let tarball = cache.join(format!("{debian}-{}.tar", &digest[..12]));
        if !tarball.exists() {
            let temporary = tarball.with_extension("part");
            run(Command::new("mmdebstrap")
                .args(["--format=tar", "--variant=minbase"])
                .arg(format!("--include={list}"))
                .arg(debian.to_string())
                .arg(&temporary))?;
            fs::rename(&temporary, &tarball)?;
        }
        let tag = format!("kdiy-lab/{debian}-base:{}", &digest[..12]);
        run(self.command().arg("import").arg(&tarball).arg(&tag))?;
        Ok(tag)
    }
}

/// Stops the engine that the lab started; leaves any other alone.
pub fn stop(cache: &Path) -> Result<()> {
    if host::stop(&Own::of(cache).pid(), "dockerd", STOPS_WITHIN)? {
        eprintln!("lab: stopped the Docker engine");
    }
    Ok(())
}

struct Own {
    root: PathBuf,
}

impl Own {
    fn of(cache: &Path) -> Self {
        Self { root: cache.join("docker") }
    }

    fn address(&self) -> String {
        format!("unix://{}", self.root.join("docker.sock").display())
    }

    fn pid(&self) -> PathBuf {
        self.root.join("docker.pid")
    }

    fn log(&self) -> PathBuf {
        self.root.join("dockerd.log")
    }

    fn start(&self) -> Result<()> {
        fs::create_dir_all(&self.root)?;
        let log = fs::File::create(self.log())?;
        // It outlives the lab, so it must not inherit what the lab's caller has open: under
        // `flock FILE cargo lab …` it would hold the lock for as long as it runs.
        Command::new("setsid")
            .args(["sh", "-c", r#"exec dockerd "$@" 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-"#, "sh"])
            .arg("--data-root")
            .arg(self.root.join("data"))
            .arg("--exec-root")
            .arg(self.root.join("exec"))
            .arg("--pidfile")
            .arg(self.pid())
            .args(["--host", &self.address()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start dockerd")?;
        Ok(())
    }
}
