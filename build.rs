//! Tells the program which commit it is built from: `kdiy --version` prints `KDIY_VERSION`.
//!
//! The commit comes from `KDIY_COMMIT`, from the file that `cargo package` adds, or from git; the date of
//! the commit from `SOURCE_DATE_EPOCH` or git. Nothing else of the computer enters, so the same commit
//! gives the same program. Without any of them the version stands alone. A debug build does not ask git:
//! each commit would compile the whole program and its tests again.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Digits of a commit that are shown.
const SHOWN: usize = 10;
/// What `cargo package` writes into a package.
const PACKAGED: &str = ".cargo_vcs_info.json";

struct Commit {
    id: String,
    /// Seconds since 1970.
    time: Option<u64>,
}

fn main() {
    for name in ["KDIY_COMMIT", "SOURCE_DATE_EPOCH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let time = variable("SOURCE_DATE_EPOCH").and_then(|seconds| seconds.parse().ok());
    let named = variable("KDIY_COMMIT").filter(|id| is_commit(id));
    let commit = match named {
        Some(id) => Some(Commit { id, time }),
        None => packaged().or_else(from_git).map(|it| Commit { time: time.or(it.time), ..it }),
    };
    let about = commit.map(|Commit { id, time }| {
        let day = time.map(|seconds| format!(" {}", date(seconds))).unwrap_or_default();
        format!(" ({}{day})", &id[..SHOWN])
    });
    println!("cargo:rustc-env=KDIY_VERSION={version}{}", about.unwrap_or_default());
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn is_commit(id: &str) -> bool {
    id.len() >= SHOWN && id.bytes().all(|it| it.is_ascii_hexdigit())
}

/// `{"git": {"sha1": "…"}, …}`
fn packaged() -> Option<Commit> {
    let text = fs::read_to_string(PACKAGED).ok()?;
    println!("cargo:rerun-if-changed={PACKAGED}");
    let id = text.split("\"sha1\"").nth(1)?.split('"').nth(1)?.to_owned();
    is_commit(&id).then_some(Commit { id, time: None })
}

fn from_git() -> Option<Commit> {
    if env::var("PROFILE").is_ok_and(|profile| profile == "debug") || !is_own_repository()? {
        return None;
    }
    // What changes with a commit or a checkout. Cargo takes a missing file for a changed one.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let line = git(&["log", "-1", "--format=%H %ct"])?;
    let (id, time) = line.split_once(' ')?;
    is_commit(id).then(|| Commit { id: id.to_owned(), time: time.parse().ok() })
}

/// Whether git's repository is kdiy's, not one that an unpacked archive lies in.
fn is_own_repository() -> Option<bool> {
    let top = fs::canonicalize(git(&["rev-parse", "--show-toplevel"])?).ok()?;
    Some(top == env::current_dir().ok()?.canonicalize().ok()?)
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The day of a time in UTC, as 2026-11-30 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms": `civil_from_days`, without its days before 1970).
fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}
