//! How this computer itself was while kdiy was held to a bound of time.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const LOOKED_AT_EVERY: Duration = Duration::from_secs(1);
/// In looks. In so many seconds etcd elects a leader, and haproxy takes a server out and in again.
const WINDOW: usize = 5;
/// Of the processors' time in a window. In eleven minutes of green lanes it was at most 0.34.
const MUCH_TAKEN_AWAY: f64 = 0.5;
/// Of the processors' time in a window.
const ALL_IN_USE: f64 = 0.95;
/// etcd's followers have waited for their leader in vain by then. In the same minutes a write took
/// at most 1.0 s, while images were unpacked.
const STOOD_STILL: Duration = Duration::from_secs(2);

/// What came from outside of it.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Computer {
    /// The largest share of the processors' time in a window that went to other computers on the
    /// same hardware.
    taken_away: f64,
    /// The largest share of the processors' time in a window that was used by anybody.
    busy: f64,
    /// The longest that a thread was late which sleeps and writes four KiB.
    late: Duration,
}

impl Computer {
    /// Looks at it until told that it is `done`; `directory` is on the disk that machines have theirs
    /// on.
    fn watched(done: &AtomicBool, directory: &Path) -> Result<Self> {
        let mut disk = tempfile::tempfile_in(directory)?;
        let mut seen = Self::default();
        let mut looks = VecDeque::from([Processors::now()?]);
        while !done.load(Ordering::Relaxed) {
            let began = Instant::now();
            std::thread::sleep(LOOKED_AT_EVERY);
            write(&mut disk)?;
            seen.late = seen.late.max(began.elapsed().saturating_sub(LOOKED_AT_EVERY));
            let now = Processors::now()?;
            seen.taken_away = seen.taken_away.max(now.taken_away_since(looks[0]));
            if looks.len() == WINDOW {
                seen.busy = seen.busy.max(now.busy_since(looks[0]));
            }
            looks.push_back(now);
            if looks.len() > WINDOW {
                looks.pop_front();
            }
        }
        Ok(seen)
    }

    /// How it was while something was done.
    pub fn during<T>(directory: &Path, work: impl FnOnce() -> T) -> Result<(T, Self)> {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let computer = scope.spawn(|| Self::watched(&done, directory));
            let result = work();
            done.store(true, Ordering::Relaxed);
            let computer = computer.join().ok().context("whoever watches the computer crashed")?;
            Ok((result, computer?))
        })
    }

    #[cfg(test)]
    pub const fn robbed() -> Self {
        Self { taken_away: 1.0, busy: 1.0, late: Duration::ZERO }
    }

    /// Whether other work on the same hardware explains that something was late.
    pub fn was_robbed(&self) -> bool {
        self.taken_away >= MUCH_TAKEN_AWAY || self.late >= STOOD_STILL
    }

    /// Whether there was no time of its processors left: then how long something took says how
    /// much there was to compute, and nothing about who waited for whom.
    pub fn was_saturated(&self) -> bool {
        self.was_robbed() || self.busy >= ALL_IN_USE
    }
}

impl fmt::Display for Computer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (share, late) = (100.0 * self.taken_away, self.late.as_secs_f64());
        write!(
            f,
            "its processors were up to {:.0} % busy, other computers took up to {share:.0} %, and it \
             was up to {late:.1} s late",
            100.0 * self.busy
        )
    }
}

fn write(disk: &mut File) -> Result<()> {
    disk.write_all(&[0; 4096])?;
    Ok(disk.sync_data()?)
}

/// In ticks since it was switched on.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Processors {
    taken_away: u64,
    /// Waiting for a disk included, as the kernel counts it.
    idle: u64,
    all: u64,
}

impl Processors {
    fn now() -> Result<Self> {
        Self::parse(&fs::read_to_string("/proc/stat")?).context("/proc/stat says nothing of `cpu`")
    }

    /// `user nice system idle iowait irq softirq steal`, and two that are part of the first two
    /// (proc_stat(5)).
    fn parse(stat: &str) -> Option<Self> {
        let ticks = stat.strip_prefix("cpu ")?.lines().next()?.split_whitespace().take(8);
        let ticks: Vec<u64> = ticks.map(str::parse).collect::<Result<_, _>>().ok()?;
        let idle = ticks.get(3)? + ticks.get(4)?;
        Some(Self { taken_away: *ticks.get(7)?, idle, all: ticks.iter().sum() })
    }

    /// As a share of 1.
    #[expect(clippy::cast_precision_loss, reason = "seconds of ticks are small numbers")]
    fn busy_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        1.0 - self.idle.saturating_sub(before.idle) as f64 / all as f64
    }

    /// As a share of 1.
    #[expect(clippy::cast_precision_loss, reason = "seconds of ticks are small numbers")]
    fn taken_away_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        self.taken_away.saturating_sub(before.taken_away) as f64 / all as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_away_is_a_share_of_all() {
        let stat = |line: &str| Processors::parse(&format!("{line}\ncpu0 1 2\n")).unwrap();
        let before = stat("cpu  100 0 50 800 10 0 5 35 0 0");
        let after = stat("cpu  150 0 100 850 10 0 5 85 7 0");
        assert_eq!(before, Processors { taken_away: 35, idle: 810, all: 1000 });
        assert!((after.taken_away_since(before) - 0.25).abs() < f64::EPSILON);
        assert!((after.busy_since(before) - 0.75).abs() < f64::EPSILON);
        assert_eq!(Processors::parse("cpu 1 2 3"), None);
    }

    #[test]
    fn a_little_explains_nothing() {
        let computer =
            |taken_away, ms| Computer { taken_away, busy: 0.5, late: Duration::from_millis(ms) };
        assert!(!computer(0.34, 1036).was_robbed());
        assert!(computer(0.5, 0).was_robbed());
        assert!(computer(0.0, 2000).was_robbed());
        assert!(!computer(0.0, 0).was_saturated());
        assert!(Computer { busy: 0.96, ..computer(0.0, 0) }.was_saturated());
    }

    #[test]
    fn it_is_looked_at_until_all_is_done() {
        let done = AtomicBool::new(true);
        let nothing = Computer::watched(&done, &std::env::temp_dir()).unwrap();
        assert_eq!(nothing, Computer::default());
    }
}
