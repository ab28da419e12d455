//! `cargo lab`: everything that kdiy needs to be tried on one computer without the internet.

mod audit;
mod bench;
mod chance;
mod docker;
mod e2e;
mod fuzz;
mod host;
mod mirror;
mod progress;
mod recording;
mod stage;
mod suite;
mod tools;
mod vm;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use docker::{Debian, Engine};
use mirror::Mirror;
use progress::slow;
use vm::Vms;

/// Of kdiy with all that it uses, on two cores.
const COMPILED: Duration = Duration::from_secs(240);

/// The lab: real machines, a real cluster, no internet.
#[derive(Parser)]
#[command(bin_name = "cargo lab")]
struct Arguments {
    #[command(subcommand)]
    command: Lab,
}

#[derive(Subcommand)]
enum Lab {
    /// Install what is missing, start a Docker engine where none answers, build the machine image
    Prepare,
    /// Build the mirror of the release servers and print where it is
    Mirror,
    /// Build the image of the lab's machines and print its tag
    Image,
    /// Build the box of the lab's virtual machines and print its name
    Box,
    /// Prepare everything, then run `kdiy up` with these arguments; in system containers, or with
    /// `--provider libvirt` in virtual machines
    Up {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run kdiy in the lab's environment
    Kdiy {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Destroy the default cluster and stop what the lab started
    Down,
    /// Formatting, lints, unit and command tests, then whole clusters from nothing to nothing
    Test {
        /// Only these parts; may be given several times
        #[arg(long, value_enum)]
        lane: Vec<suite::Lane>,
        /// Without a lane: the usual ones, and more as far as they are expected to end within so many
        /// minutes from now
        #[arg(long, value_name = "MINUTES", conflicts_with = "lane")]
        within: Option<u64>,
        /// Repeats what an earlier run left to chance; every run prints its own
        #[arg(long)]
        seed: Option<u64>,
        /// Leave what a failed lane made, to be looked at; the next run of the lane takes it away
        #[arg(long)]
        keep: bool,
        /// Only checks with this in their name, and what they stand on
        #[arg(long, value_name = "PART OF NAME", requires = "lane")]
        matching: Option<String>,
    },
    /// Measure how long a 3+2 cluster takes, and what it waits for
    Bench,
    /// Make a 3+2 cluster in a terminal, and write what it shows to docs/up.svg
    Record,
    /// Let a fuzzer think up texts for everything that reads what comes from outside; needs a
    /// nightly Rust
    Fuzz {
        /// For each target
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
        seconds: u32,
    },
}

fn main() -> ExitCode {
    match carry_out(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Lab) -> Result<()> {
    let cache = host::cache()?;
    match command {
        Lab::Prepare => {
            host::prepare()?;
            let engine = Engine::ensure(&cache)?;
            let image = engine.image(&cache, Debian::Bookworm)?;
            let at = engine.host.as_deref().unwrap_or("the default address");
            println!("Docker at {at}, machines from {image}");
            Ok(())
        }
        Lab::Mirror => {
            host::prepare()?;
            println!("{}", mirror::build(&cache)?.root.display());
            Ok(())
        }
        Lab::Image => {
            host::prepare()?;
            println!("{}", Engine::ensure(&cache)?.image(&cache, Debian::Bookworm)?);
            Ok(())
        }
        Lab::Box => {
            host::prepare()?;
            println!("{}", vm::vagrant_box(&cache)?);
            Ok(())
        }
        Lab::Up { mut arguments } => match take_provider(&mut arguments)?.as_str() {
            "libvirt" => host::show(&mut Vms::make(&cache)?.up_with(&arguments)),
            _ => host::show(Ready::make(&cache)?.up().args(arguments)),
        },
        Lab::Kdiy { arguments } => {
            let engine = Engine::ensure(&cache)?;
            let mut kdiy = Command::new(build_kdiy(Build::Debug)?);
            engine.set(&mut kdiy);
            vm::set(&cache, &mut kdiy);
            host::show(kdiy.args(arguments))
        }
        Lab::Down => {
            let engine = Engine::ensure(&cache)?;
            let mut kdiy = Command::new(build_kdiy(Build::Debug)?);
            engine.set(&mut kdiy);
            vm::set(&cache, &mut kdiy);
            host::show(kdiy.args(["destroy", "--yes"]))?;
            docker::stop(&cache)?;
            vm::stop(&cache)
        }
        Lab::Test { lane, within, seed, keep, matching } => {
            let within = within.map(|minutes| Duration::from_secs(60 * minutes));
            suite::run(&cache, &lane, within, seed.unwrap_or_else(chance::seed), keep, matching)
        }
        Lab::Bench => bench::run(&cache),
        Lab::Record => recording::record(&cache),
        Lab::Fuzz { seconds } => fuzz::run(&cache, seconds),
    }
}

/// Takes `--provider` out of the arguments of `kdiy up`: it decides what the lab prepares.
fn take_provider(arguments: &mut Vec<String>) -> Result<String> {
    let is_it = |it: &String| it == "--provider" || it.starts_with("--provider=");
    let Some(at) = arguments.iter().position(is_it) else { return Ok("docker".into()) };
    let flag = arguments.remove(at);
    let provider = match flag.split_once('=') {
        Some((_, provider)) => provider.to_owned(),
        None if at < arguments.len() => arguments.remove(at),
        None => String::new(),
    };
    if !["docker", "libvirt"].contains(&provider.as_str()) {
        bail!("--provider: the lab has docker and libvirt, not `{provider}`");
    }
    Ok(provider)
}

/// What a cluster of the lab stands on.
trait Ground {
    /// kdiy in the ground's environment.
    fn kdiy(&self) -> Command;

    /// A verb that takes the flags of `up`, with those that say where everything is and how much
    /// time so many machines need.
    fn wanted(&self, verb: &str, machines: usize) -> Command;
}

/// Everything `kdiy up` needs for system containers.
struct Ready {
    kdiy: PathBuf,
    engine: Engine,
    image: String,
    mirror: Mirror,
}

impl Ready {
    fn make(cache: &Path) -> Result<Self> {
        host::prepare()?;
        let kdiy = build_kdiy(Build::Debug)?;
        let engine = Engine::ensure(cache)?;
        let image = engine.image(cache, Debian::Bookworm)?;
        let mirror = mirror::build(cache)?;
        Ok(Self { kdiy, engine, image, mirror })
    }

    /// With a version of Kubernetes that can be upgraded from.
    fn with_older(&self, cache: &Path) -> Result<Self> {
        let (kdiy, image) = (self.kdiy.clone(), self.image.clone());
        let engine = Engine { host: self.engine.host.clone() };
        Ok(Self { kdiy, engine, image, mirror: mirror::with_older(cache)? })
    }

    fn up(&self) -> Command {
        let mut up = self.verb("up");
        up.arg("--yes");
        up
    }

    fn verb(&self, verb: &str) -> Command {
        let mut kdiy = self.kdiy();
        kdiy.args([verb, "--provider", "docker", "--image", &self.image]);
        self.mirror.set(&mut kdiy);
        kdiy
    }
}

impl Ground for Ready {
    fn kdiy(&self) -> Command {
        let mut kdiy = Command::new(&self.kdiy);
        self.engine.set(&mut kdiy);
        kdiy
    }

    fn wanted(&self, verb: &str, _: usize) -> Command {
        self.verb(verb)
    }
}

/// Where this package is now: a program that another checkout left in a shared target directory
/// was compiled with the other's path.
fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn repository() -> PathBuf {
    package().join("../..")
}

/// The cargo that runs this.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

#[derive(Clone, Copy)]
enum Build {
    /// For tests: a release takes ten times as long to make and saves seconds.
    Debug,
    Release,
}

fn build_kdiy(build: Build) -> Result<PathBuf> {
    let root = repository();
    let (program, flags): (_, &[&str]) = match build {
        Build::Debug => ("debug/kdiy", &[]),
        Build::Release => ("release/kdiy", &["--release"]),
    };
    let arguments = ["build", "--quiet", "--package", "kdiy"];
    slow("compiling kdiy", COMPILED, || {
        host::show(cargo().current_dir(&root).args(arguments).args(flags))
    })?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(std::path::absolute(target.join(program))?)
}
