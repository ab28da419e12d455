//! The skew between machines' clocks, measured over their connections.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Leases and certificates stand this much, in seconds; etcd warns at one (`rafthttp`).
pub const MOST_SKEW: f64 = 2.0;

/// What a machine runs to say what time it is, as a line for [`Clock::hear`].
pub const SAY_TIME: &str = "echo \"time=$(date +%s.%N)\"";

/// A machine's clock, compared with this computer's.
#[derive(Default)]
pub struct Clock(Mutex<Option<f64>>);

impl Clock {
    /// Judges by when the line arrives: how long a machine took to begin tells nothing. A line that
    /// is late makes a clock look behind, so of several the one that makes it look furthest ahead
    /// counts.
    pub fn hear(&self, line: &str) {
        let Some(time) = line.strip_prefix("time=").and_then(|time| time.parse::<f64>().ok())
        else {
            return;
        };
        let ahead = time - now();
        let mut offset = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *offset = Some(offset.map_or(ahead, |known| known.max(ahead)));
    }

    /// Seconds by which it is ahead of this computer's.
    pub fn offset(&self) -> Option<f64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of some clocks, the one that most others agree with.
pub fn median(offsets: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = offsets.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_answers_and_other_lines_do_not_count_as_time() {
        let clock = Clock::default();
        clock.hear("hostname=a");
        clock.hear("time=soon");
        assert_eq!(clock.offset(), None);
        for behind in [9.0, 0.5, 3.0] {
            clock.hear(&format!("time={}", now() - behind));
        }
        let offset = clock.offset().unwrap();
        assert!((-0.7..=-0.5).contains(&offset), "{offset}");
    }

    #[test]
    fn one_wrong_clock_does_not_make_the_others_wrong() {
        assert_eq!(median([0.1, 3600.0, 0.0].into_iter()), Some(0.1));
        assert_eq!(median([].into_iter()), None);
    }
}
