//! Bounds of the effects of a failure.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::config::{ClusterConfig, Span};

/// client-go waits between one retry period and this many of them before it tries for a lease
/// again (client-go, leaderelection.go: JitterFactor 1.2, which wait.Jitter adds to 1).
const JITTER: f64 = 2.2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// On ordinary hardware.
    Within(Span),
    /// Until a standby must have taken a lease that is no longer renewed.
    Takeover,
}

impl Bound {
    /// The bound on this cluster's machines, with its settings.
    pub fn of(self, config: &ClusterConfig) -> Duration {
        let usual = match self {
            Self::Within(span) => span.get(),
            Self::Takeover => takeover(config),
        };
        usual * config.slow_machines
    }
}

/// A standby counts the lease from when *it* saw the last renewal, which may be a whole jittered
/// period after it was made; once the lease has run out by its count, its next look is at most
/// another one away.
fn takeover(config: &ClusterConfig) -> Duration {
    let election = &config.control_plane.leader_election;
    election.lease_duration.get() + 2 * election.retry_period.get().mul_f64(JITTER)
}

impl FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "takeover" => Ok(Self::Takeover),
            _ => text.parse().map(Self::Within),
        }
    }
}

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_takeover_follows_from_the_settings() {
        let mut config = ClusterConfig::default();
        assert_eq!(Bound::Takeover.of(&config), Duration::from_millis(23_800));
        config.control_plane.leader_election.lease_duration = Span::from_secs(30);
        config.slow_machines = 2;
        assert_eq!(Bound::Takeover.of(&config), Duration::from_millis(77_600));
        assert_eq!("2s".parse::<Bound>().unwrap().of(&config), Duration::from_secs(4));
        assert!("soon".parse::<Bound>().is_err());
    }
}
