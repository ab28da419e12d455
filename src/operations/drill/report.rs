//! The results of a drill, and whether the cluster stayed within the bounds.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::operations::drill::catalogue::Writes;
use crate::operations::drill::measure::{History, Measure, Window};
use crate::support::event::Evidence;
use crate::support::printable::counted;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub cluster: String,
    pub began: Timestamp,
    pub drills: Vec<Outcome>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub drill: String,
    pub title: String,
    /// Whom it hit.
    pub machines: Vec<String>,
    pub verdict: Verdict,
    /// What was wrong, or why it was not possible.
    pub problems: Vec<String>,
    pub acknowledged: usize,
    /// Requests that failed, in the whole drill.
    pub failed: usize,
    /// Acknowledged writes that are gone. `None` where they could not be read back.
    pub lost: Option<usize>,
    /// The longest that one client waited between two writes while nothing was broken yet: what is up
    /// to the machines and to what else they do.
    pub gap_before_ms: Option<u64>,
    pub measured: Vec<Measured>,
    /// What was seen while the fault lasted.
    pub seen: Vec<String>,
    pub lasted_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything went as promised.
    Survived,
    Failed,
    /// This cluster or these machines cannot be broken in this way.
    NotPossible,
    /// By Ctrl-C; what was broken is mended.
    Interrupted,
}

impl Verdict {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Survived => "survived",
            Self::Failed => "failed",
            Self::NotPossible => "not possible here",
            Self::Interrupted => "interrupted",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    pub measure: Measure,
    /// `None` when it was not seen at all.
    pub ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_ms: Option<u64>,
}

impl Measured {
    pub fn is_within(&self) -> bool {
        self.bound_ms.is_none_or(|bound| self.ms.is_some_and(|ms| ms <= bound))
    }
}

/// What a drill promised.
#[derive(Debug, Clone)]
pub struct Promise {
    pub writes: Writes,
    pub bounds: BTreeMap<Measure, Duration>,
}

impl Outcome {
    pub fn begin(drill: &str, title: &str, machines: Vec<String>) -> Self {
        Self {
            drill: drill.to_owned(),
            title: title.to_owned(),
            machines,
            verdict: Verdict::Interrupted,
            problems: Vec::new(),
            acknowledged: 0,
            failed: 0,
            lost: None,
            gap_before_ms: None,
            measured: Vec::new(),
            seen: Vec::new(),
            lasted_ms: 0,
        }
    }

    pub fn not_possible(drill: &str, title: &str, reason: String) -> Self {
        let mut outcome = Self::begin(drill, title, Vec::new());
        outcome.verdict = Verdict::NotPossible;
        outcome.problems.push(reason);
        outcome
    }

    /// Measures, and holds what was seen against what was promised. `fault` lasts until it was
    /// undone, `whole` until the cluster had recovered.
    pub fn measure(&mut self, history: &History, promise: &Promise, fault: Window, whole: Window) {
        self.acknowledged = history.acknowledged().len();
        self.failed = history.failed();
        self.lasted_ms = milliseconds(fault.to - fault.from);
        self.gap_before_ms = Some(milliseconds(history.write_gap_before(fault.from)));
        self.measured = Measure::ALL
            .into_iter()
            .filter_map(|measure| measured(history, promise, measure, fault, whole))
            .collect();
        let mut problems: Vec<String> =
            self.measured.iter().filter(|it| !it.is_within()).map(out_of_bounds).collect();
        if history.missing() > 0 {
            problems
                .push(format!("missing when read back: {}", counted(history.missing(), "write")));
        }
        if promise.writes == Writes::Refused {
            problems.extend(served(history, fault));
        }
        let reasons = history.reasons(whole).into_iter().take(REASONS);
        self.seen.extend(
            reasons
                .map(|(reason, count)| format!("{} failed: {reason}", counted(count, "request"))),
        );
        self.problems.extend(problems);
    }

    pub fn is_fine(&self) -> bool {
        matches!(self.verdict, Verdict::Survived | Verdict::NotPossible)
    }

    pub fn take_evidence(&mut self, evidence: Vec<Evidence>) {
        for Evidence { machine, asked, expected, saw, ok } in evidence {
            let place = machine.as_deref().unwrap_or("cluster");
            match ok {
                true => self.seen.push(format!("{place}: {asked}: {saw}")),
                false => self
                    .problems
                    .push(format!("{place}: {asked}: expected {expected}, observed {saw}")),
            }
        }
    }

    /// The verdict of a drill that went to its end.
    pub fn judge(&mut self) {
        match self.lost {
            Some(0) => {}
            Some(lost) => self.problems.push(format!("{lost} acknowledged writes were lost")),
            None => self.problems.push("kdiy could not read back the acknowledged writes".into()),
        }
        let fine = self.problems.is_empty();
        self.verdict = if fine { Verdict::Survived } else { Verdict::Failed };
    }
}

/// What has no bound and was not seen is not worth a line.
fn measured(
    history: &History,
    promise: &Promise,
    measure: Measure,
    fault: Window,
    whole: Window,
) -> Option<Measured> {
    let bound = promise.bounds.get(&measure);
    // Mending can hurt clients as well, so their waiting is counted until all is well again.
    let window = if measure == Measure::WriteGap { whole } else { fault };
    let value = history.measured(measure, window);
    if bound.is_none() && value.is_none_or(|value| value.is_zero()) {
        return None;
    }
    let ms = value.map(milliseconds);
    Some(Measured { measure, ms, bound_ms: bound.copied().map(milliseconds) })
}

fn out_of_bounds(measured: &Measured) -> String {
    let bound = seconds(measured.bound_ms.unwrap_or_default());
    match measured.ms {
        Some(ms) => {
            format!("{}: {}, expected at most {bound}", measured.measure.title(), seconds(ms))
        }
        None => format!("{}: not within {bound}", measured.measure.title()),
    }
}

/// Of many reasons why requests failed these say the most.
const REASONS: usize = 3;
/// Requests that were on their way when the fault was made may still be answered for a moment.
const IN_FLIGHT: Duration = Duration::from_millis(500);

fn served(history: &History, fault: Window) -> Option<String> {
    let strict = Window { from: fault.from + IN_FLIGHT, ..fault };
    let served = history.acknowledged_within(strict);
    if served > 0 {
        let writes = counted(served, "write");
        return Some(format!("acknowledged, although they had to be refused: {writes}"));
    }
    history.reasons(fault).is_empty().then(|| "no client tried to write during the fault".into())
}

/// Milliseconds as people read them, always in seconds, so that a column of them compares.
pub fn seconds(milliseconds: u64) -> String {
    format!("{:.1} s", Duration::from_millis(milliseconds).as_secs_f64())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::drill::measure::{Answer, Observation, Request};

    const FAULT: Window = Window { from: Duration::from_secs(1), to: Duration::from_secs(5) };
    const WHOLE: Window = Window { from: Duration::from_secs(1), to: Duration::from_secs(6) };

    /// One client that writes each 100 ms but for `gap`, in ms.
    fn history(gap: std::ops::Range<u64>) -> History {
        let requests = (0..65)
            .map(|n| (n, n * 100 + 50))
            .map(|(number, at)| {
                let answer =
                    if gap.contains(&at) { Answer::Failed("refused".into()) } else { Answer::Done };
                let ended = Duration::from_millis(at);
                Request { client: 0, number, write: true, began: ended, ended, answer }
            })
            .collect();
        History { requests, ..History::default() }
    }

    fn outcome(history: &History, writes: Writes, bounds: &[(Measure, u64)]) -> Outcome {
        let bounds =
            bounds.iter().map(|(measure, ms)| (*measure, Duration::from_millis(*ms))).collect();
        let mut outcome = Outcome::begin("d", "t", vec!["m".into()]);
        outcome.measure(history, &Promise { writes, bounds }, FAULT, WHOLE);
        outcome.lost = Some(0);
        outcome.judge();
        outcome
    }

    #[test]
    fn a_drill_within_its_bounds_is_survived() {
        let outcome = outcome(&history(1000..2000), Writes::Served, &[(Measure::WriteGap, 1500)]);
        assert_eq!(outcome.verdict, Verdict::Survived, "{:?}", outcome.problems);
        assert_eq!(outcome.measured[0].ms, Some(1100));
        assert_eq!((outcome.failed, outcome.acknowledged), (10, 55));
        assert_eq!(outcome.gap_before_ms, Some(100));
    }

    #[test]
    fn a_bound_that_is_passed_and_a_takeover_that_never_came_are_failures() {
        let bounds = [(Measure::WriteGap, 1000), (Measure::EtcdLeader, 2000)];
        let mut seen = history(1000..2000);
        let of = Measure::EtcdLeader;
        seen.sightings.push(Observation { of, at: Duration::ZERO, holder: "a".into() });
        let outcome = outcome(&seen, Writes::Served, &bounds);
        assert_eq!(outcome.verdict, Verdict::Failed);
        assert_eq!(
            outcome.problems,
            [
                "longest time without a write: 1.1 s, expected at most 1.0 s",
                "new etcd leader after: not within 2.0 s",
            ]
        );
    }

    #[test]
    fn a_lost_write_fails_whatever_else_went_well() {
        let mut outcome = outcome(&history(0..0), Writes::Served, &[]);
        for lost in [Some(1), None] {
            outcome.problems.clear();
            outcome.lost = lost;
            outcome.judge();
            assert_eq!(outcome.verdict, Verdict::Failed);
        }
    }

    #[test]
    fn where_writes_must_be_refused_one_that_is_served_is_a_failure() {
        let refused = outcome(&history(1000..5000), Writes::Refused, &[]);
        assert_eq!(refused.verdict, Verdict::Survived, "{:?}", refused.problems);
        assert_eq!(refused.seen, ["40 requests failed: refused"]);
        let served = outcome(&history(1000..4000), Writes::Refused, &[]);
        assert!(served.problems[0].contains("had to be refused"), "{:?}", served.problems);
        let silent = outcome(&History::default(), Writes::Refused, &[]);
        assert!(silent.problems[0].contains("no client tried to write"), "{:?}", silent.problems);
    }
}
