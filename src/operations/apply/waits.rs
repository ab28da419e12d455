//! Deadlines that several tasks of a run share.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

#[derive(Default)]
pub struct Waits {
    over: CancellationToken,
    making: Mutex<Making>,
}

/// Whether machines are being made or started.
#[derive(Debug, Clone, Copy, Default)]
enum Making {
    #[default]
    NotBegun,
    UnderWay,
    Ended(Instant),
}

impl Waits {
    /// Something failed, and what is waited for is of no use any more.
    pub fn give_up(&self) {
        self.over.cancel();
    }

    /// Returns once something failed.
    pub async fn are_over(&self) {
        self.over.cancelled().await;
    }

    pub fn making(&self) {
        self.note(Making::UnderWay);
    }

    pub fn made(&self) {
        self.note(Making::Ended(Instant::now()));
    }

    fn note(&self, making: Making) {
        *self.making.lock().unwrap_or_else(PoisonError::into_inner) = making;
    }

    /// Whether a machine may not have been there yet at some time after `since`. The patience with
    /// one that does not answer begins when it is made, not with the run.
    pub fn was_making(&self, since: Instant) -> bool {
        match *self.making.lock().unwrap_or_else(PoisonError::into_inner) {
            Making::NotBegun => false,
            Making::UnderWay => true,
            Making::Ended(at) => at > since,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_start_when_machines_are_created() {
        let (waits, began) = (Waits::default(), Instant::now());
        assert!(!waits.was_making(began));
        waits.making();
        assert!(waits.was_making(Instant::now()));
        waits.made();
        assert!(waits.was_making(began));
        assert!(!waits.was_making(Instant::now()));
    }
}
