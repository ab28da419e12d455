//! `cargo lab fuzz`: texts that a fuzzer thinks up, for everything that reads what comes from
//! outside. What they reached is kept in the cache, so that each run begins where the last ended.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::tools::FUZZ;
use crate::{host, repository};

/// Where the targets are, below the repository.
const PACKAGE: &str = "tests/fuzz";
const TARGETS: [&str; 5] =
    ["cluster_file", "kubeconfig", "playbook", "remote_answer", "signing_request"];
const TOOLCHAIN: &str = "nightly";
/// In KiB: what a thread of tokio has, on which readers may run as well.
const STACK: &str = "2048";
/// Every reader takes milliseconds for a text; one that takes this many seconds hangs.
const HANGS_AFTER: &str = "20";
const MOST_MEMORY_MEBIBYTES: &str = "1024";
/// Long enough for every seed, and short enough for thousands of texts a second.
const LONGEST_BYTES: &str = "4096";

/// What became of one target. The fuzzer ends with the first crash.
struct Outcome {
    figures: Figures,
    crash: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Figures {
    inputs: u64,
    /// Ways through the code that were taken, as the compiler counts them.
    coverage: u64,
    /// Texts that are kept because each reached something new.
    corpus: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inputs, coverage, corpus } = self;
        write!(f, "{inputs} inputs tried, coverage {coverage}, {corpus} texts in the corpus")
    }
}

/// An error when any target finds a text that must not be, after all of them have had their time.
pub fn run(cache: &Path, seconds: u32) -> Result<()> {
    let rustc = host::ask(Command::new("rustup").args(["run", TOOLCHAIN, "rustc", "-vV"]));
    let rustc = rustc.context(
        "fuzzing needs a nightly Rust from rustup.rs; install it with: \
         rustup toolchain install nightly --profile minimal",
    )?;
    let triple = rustc.lines().find_map(|line| line.strip_prefix("host: "));
    let triple = triple.context("rustc does not say what it compiles for")?;
    host::need(&[("c++", "g++")])?;
    let place = cache.join("fuzz");
    let _lock = host::lock(cache, "fuzz")?;
    let programs = build(cache, &place, triple)?;
    let mut found = Vec::new();
    for target in TARGETS {
        eprintln!("lab: fuzzing {target} for {seconds} s");
        let Outcome { figures, crash } = fuzz(&programs.join(target), &place, target, seconds)?;
        let verdict = if crash.is_some() { "1 crash" } else { "no crash" };
        println!("{target}: {figures}, {verdict}");
        found.extend(crash);
    }
    if !found.is_empty() {
        bail!("{}", found.join("\n"));
    }
    Ok(())
}

/// Where the programs are. Without a sanitizer: they look for errors in unsafe code, which kdiy
/// forbids itself, and slow every run down.
fn build(cache: &Path, place: &Path, triple: &str) -> Result<PathBuf> {
    let fuzz = FUZZ.ensure(cache)?;
    let target = place.join("target");
    let mut build = Command::new("rustup");
    build.args(["run", TOOLCHAIN]).arg(fuzz).args(["build", "--sanitizer", "none"]);
    build.args(["--target", triple, "--fuzz-dir", PACKAGE, "--target-dir"]).arg(&target);
    // That of the toolchain that the lab is built with.
    host::show(build.current_dir(repository()).env_remove("CARGO"))?;
    Ok(target.join(triple).join("release"))
}

fn fuzz(program: &Path, place: &Path, target: &str, seconds: u32) -> Result<Outcome> {
    let corpus = place.join("corpus").join(target);
    let crashes = place.join("crashes").join(target);
    for directory in [&corpus, &crashes] {
        fs::create_dir_all(directory)?;
    }
    let log = place.join(format!("{target}.log"));
    let package = fs::canonicalize(repository().join(PACKAGE))?;
    let mut fuzzer = Command::new("sh");
    fuzzer.args(["-c", "ulimit -s \"$0\" && exec \"$@\"", STACK]).arg(program).args([
        format!("-max_total_time={seconds}"),
        format!("-timeout={HANGS_AFTER}"),
        format!("-rss_limit_mb={MOST_MEMORY_MEBIBYTES}"),
        format!("-max_len={LONGEST_BYTES}"),
        format!("-artifact_prefix={}/", crashes.display()),
        "-print_final_stats=1".into(),
    ]);
    // New texts go to the first directory. What was a crash once is tried again.
    fuzzer.args([&corpus, &crashes, &package.join("seeds").join(target)]);
    let status = fuzzer
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log)?)
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let figures = Figures::read(&said)
        .with_context(|| format!("the fuzzer gives no figures; see {}", log.display()))?;
    let crash = (!status.success()).then(|| {
        let kept = said.lines().find_map(|line| Some(line.split_once("unit written to ")?.1));
        let text = kept.map_or_else(String::new, |path| format!(" at the text in {path}"));
        format!("{target} ended with {status}{text}; see {}", log.display())
    });
    Ok(Outcome { figures, crash })
}

impl Figures {
    /// From what libFuzzer writes: a line now and then while it runs, and a sum at its end.
    fn read(text: &str) -> Option<Self> {
        let after = |mark: &str| {
            let rest = text.rsplit_once(mark)?.1.trim_start();
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse().ok()
        };
        Some(Self {
            inputs: after("stat::number_of_executed_units:")?,
            // A crash may come before the fuzzer first says these.
            coverage: after(" cov: ").unwrap_or_default(),
            corpus: after(" corp: ").unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_end() {
        // As libFuzzer of LLVM 22 writes it.
        let text = "#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 40Mb\n\
                    #512\tNEW    cov: 345 ft: 678 corp: 9/1024b lim: 8 exec/s: 0 rss: 41Mb\n\
                    Done 999 runs in 1 second(s)\nstat::number_of_executed_units: 999\n\
                    stat::average_exec_per_sec:     0\n";
        let figures = Figures { inputs: 999, coverage: 345, corpus: 9 };
        assert_eq!(Figures::read(text), Some(figures));
        let early = "==7== ERROR: libFuzzer: deadly signal\nstat::number_of_executed_units: 3\n";
        assert_eq!(Figures::read(early), Some(Figures { inputs: 3, coverage: 0, corpus: 0 }));
        assert_eq!(Figures::read("sh: 1: not found"), None);
    }
}
