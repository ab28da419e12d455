//! Durations as people and Kubernetes write them: `15s`, `100ms`, `1h30m`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use jiff::fmt::friendly::{Designator, Spacing, SpanParser, SpanPrinter};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A year. Nothing here takes that long, and no factor makes more of it than can be counted.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A non-negative duration, written like `15s`. Displays in the form that Go's
/// `time.ParseDuration` reads, so it can go into a Kubernetes or etcd flag as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

impl Span {
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    pub const fn get(self) -> Duration {
        self.0
    }

    pub fn times(self, factor: u32) -> Self {
        Self(self.0 * factor)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed: SignedDuration = SpanParser::new().parse_duration(text).map_err(|_| {
            format!(
                "`{text}` is not a duration; write a number and a unit, such as 15s, 100ms or 1h"
            )
        })?;
        let duration = Duration::try_from(parsed)
            .map_err(|_| format!("`{text}` is negative; a duration must be positive"))?;
        if duration > LONGEST {
            return Err(format!("`{text}` is more than a year"));
        }
        Ok(Self(duration))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let printer = SpanPrinter::new().designator(Designator::Compact).spacing(Spacing::None);
        f.write_str(&printer.unsigned_duration_to_string(&self.0))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A duration such as 15s, 100ms or 1h",
            "examples": ["15s", "100ms"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_back_as_they_are_written() {
        for text in ["15s", "100ms", "1h", "1m30s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn nonsense_and_negative_spans_are_refused() {
        for text in ["", "15", "soon", "-3s", "8761h", "9223372036854775807s"] {
            assert!(text.parse::<Span>().is_err(), "{text:?} was taken");
        }
    }
}
