//! Deadlines of ordinary hardware, which `slowMachines` multiplies.

use std::ops::Mul;
use std::time::Duration;

/// How long something may take on ordinary hardware. Nothing can wait for it as it is: multiplied by
/// `slowMachines` it becomes a [`Duration`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unscaled(Duration);

impl Unscaled {
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// Of a value that is not a constant, say of a playbook.
    pub const fn of(ordinary: Duration) -> Self {
        Self(ordinary)
    }
}

impl Mul<u32> for Unscaled {
    type Output = Duration;

    fn mul(self, slow_machines: u32) -> Duration {
        self.0 * slow_machines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_machines_are_given_as_much_longer() {
        assert_eq!(Unscaled::from_secs(3) * 10, Duration::from_secs(30));
        assert_eq!(Unscaled::of(Duration::from_millis(5)) * 1, Duration::from_millis(5));
    }
}
