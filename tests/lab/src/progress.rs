//! What takes longer than a few seconds says what it is, how long it has taken, and about how long it
//! will take.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const FIRST_WORD_AFTER: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_secs(15);

/// Does it, and reports on standard error while it takes long. `usual` is how long it takes on two
/// cores.
pub fn slow<T>(what: &str, usual: Duration, work: impl FnOnce() -> T) -> T {
    watched(what, work, |elapsed| {
        format!("{} so far, usually about {}", spoken(elapsed), spoken(usual))
    })
}

/// Runs a command that writes a line to standard error for each of `all` parts that it finishes, as
/// `go build -v` does. What it wrote is shown when it fails.
pub fn parts(what: &str, all: usize, command: &mut Command) -> Result<()> {
    let done = AtomicUsize::new(0);
    let began = Instant::now();
    let (status, said) = watched(
        what,
        || -> Result<_> {
            let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = command.spawn().with_context(|| format!("cannot start {what}"))?;
            let stderr = child.stderr.take().context("no standard error")?;
            let mut said = Vec::new();
            for line in BufReader::new(stderr).lines() {
                said.push(line?);
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok((child.wait()?, said))
        },
        |elapsed| of_all(done.load(Ordering::Relaxed), all, elapsed),
    )?;
    if !status.success() {
        let last = said.len().saturating_sub(30);
        bail!(
            "{what} ended with {status} after {}:\n{}",
            spoken(began.elapsed()),
            said[last..].join("\n")
        );
    }
    Ok(())
}

fn watched<T>(
    what: &str,
    work: impl FnOnce() -> T,
    report: impl Fn(Duration) -> String + Send + Sync,
) -> T {
    let began = Instant::now();
    std::thread::scope(|scope| {
        let (done, ended) = mpsc::channel::<()>();
        scope.spawn(move || {
            let mut pause = FIRST_WORD_AFTER;
            while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                eprintln!("lab: {what}: {}", report(began.elapsed()));
                pause = EVERY;
            }
        });
        let result = work();
        // The thread ends with the sender.
        drop(done);
        result
    })
}

/// How much is left is said once some of it was done.
#[expect(clippy::cast_precision_loss, reason = "counts of packages are small numbers")]
fn of_all(done: usize, all: usize, elapsed: Duration) -> String {
    let text = format!("compiled {done} of at most {all} packages, {} so far", spoken(elapsed));
    if done * 20 < all {
        return text;
    }
    let left = elapsed.mul_f64(all.saturating_sub(done) as f64 / done as f64);
    format!("{text}, about {} more", spoken(left))
}

/// In seconds, or in minutes from two on.
fn spoken(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_once_it_can_be_known() {
        let minute = Duration::from_secs(60);
        assert_eq!(of_all(1, 100, minute), "compiled 1 of at most 100 packages, 60 s so far");
        assert_eq!(
            of_all(25, 100, minute),
            "compiled 25 of at most 100 packages, 60 s so far, about 3 min more"
        );
    }

    #[test]
    fn minutes_are_not_rounded_up() {
        let said = [59, 120, 125].map(|seconds| spoken(Duration::from_secs(seconds)));
        assert_eq!(said, ["59 s", "2 min", "2 min 5 s"]);
    }

    #[test]
    fn a_command_that_fails_says_what_it_wrote() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo pkg >&2; echo broken >&2; exit 3"]);
        let error = parts("building it", 2, &mut command).unwrap_err().to_string();
        assert!(error.contains("building it ended with exit status: 3"), "{error}");
        assert!(error.contains("broken"), "{error}");
        let mut command = Command::new("sh");
        parts("building it", 2, command.args(["-c", "echo pkg >&2"])).unwrap();
    }
}
