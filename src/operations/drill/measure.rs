//! Turns the observations of clients and watchers into measurements. Pure; all times count from the
//! start of the drill.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is measured of a failure, from the moment that it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Measure {
    /// The longest time that one client waited between two acknowledged writes.
    WriteGap,
    /// The last request that failed before the failure was undone.
    LastFailure,
    /// Another etcd member leads.
    EtcdLeader,
    /// Another machine has the virtual address.
    VirtualAddress,
    /// Another holder of kube-controller-manager's lease.
    ControllerManager,
    /// Another holder of kube-scheduler's lease.
    Scheduler,
    /// The pods of the lost node run elsewhere.
    Pods,
}

impl Measure {
    pub const ALL: [Self; 7] = [
        Self::WriteGap,
        Self::LastFailure,
        Self::EtcdLeader,
        Self::VirtualAddress,
        Self::ControllerManager,
        Self::Scheduler,
        Self::Pods,
    ];

    /// Whether it is something that happens once, and can be waited for.
    pub const fn is_event(self) -> bool {
        !matches!(self, Self::WriteGap | Self::LastFailure)
    }

    /// As a table has it, beside the time.
    pub const fn short(self) -> &'static str {
        match self {
            Self::WriteGap => "gap",
            Self::LastFailure => "last failure",
            Self::EtcdLeader => "etcd leader",
            Self::VirtualAddress => "address",
            Self::ControllerManager => "controller-manager",
            Self::Scheduler => "scheduler",
            Self::Pods => "pods",
        }
    }

    pub const fn title(self) -> &'static str {
        match self {
            Self::WriteGap => "longest time without a write",
            Self::LastFailure => "last failed request after",
            Self::EtcdLeader => "new etcd leader after",
            Self::VirtualAddress => "virtual address moved after",
            Self::ControllerManager => "new controller-manager after",
            Self::Scheduler => "new scheduler after",
            Self::Pods => "pods on another node after",
        }
    }
}

/// One request of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub client: usize,
    /// Of the object that was written, or read back.
    pub number: u64,
    pub write: bool,
    pub began: Duration,
    pub ended: Duration,
    pub answer: Answer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// Whether it was carried out all the same is not known.
    Failed(String),
    /// A write that had just been acknowledged was not there.
    Missing,
}

/// Who held something at some moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    pub of: Measure,
    pub at: Duration,
    /// Empty where nobody does.
    pub holder: String,
}

/// Everything that was seen during a drill.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub requests: Vec<Request>,
    pub sightings: Vec<Observation>,
}

/// From when the failure was made until it was undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub from: Duration,
    pub to: Duration,
}

impl History {
    fn acknowledged_writes(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter().filter(|request| request.write && request.answer == Answer::Done)
    }

    pub fn acknowledged(&self) -> BTreeSet<u64> {
        self.acknowledged_writes().map(|request| request.number).collect()
    }

    pub fn clients_that_wrote(&self) -> usize {
        self.acknowledged_writes().map(|write| write.client).collect::<BTreeSet<_>>().len()
    }

    pub fn failed(&self) -> usize {
        let failed = |request: &&Request| matches!(request.answer, Answer::Failed(_));
        self.requests.iter().filter(failed).count()
    }

    /// Writes that were missing right after they had been acknowledged.
    pub fn missing(&self) -> usize {
        self.requests.iter().filter(|request| request.answer == Answer::Missing).count()
    }

    /// Every client by itself: one may be cut off while the others do not notice. Waiting that
    /// goes on at the end counts.
    pub fn write_gap(&self, window: Window) -> Duration {
        let mut by_client: BTreeMap<usize, Vec<Duration>> = BTreeMap::new();
        for request in self.requests.iter().filter(|request| request.write) {
            let times = by_client.entry(request.client).or_default();
            if request.answer == Answer::Done {
                times.push(request.ended);
            }
        }
        by_client.into_values().map(|times| longest_wait(times, window)).max().unwrap_or_default()
    }

    /// As [`History::write_gap`], up to this moment, from when every client had begun to write.
    pub fn write_gap_before(&self, moment: Duration) -> Duration {
        let mut begun: BTreeMap<usize, Duration> = BTreeMap::new();
        for write in self.acknowledged_writes() {
            let first = begun.entry(write.client).or_insert(write.ended);
            *first = write.ended.min(*first);
        }
        let from = begun.into_values().max().unwrap_or(moment).min(moment);
        self.write_gap(Window { from, to: moment })
    }

    /// `None` when nothing failed.
    pub fn last_failure(&self, window: Window) -> Option<Duration> {
        self.requests
            .iter()
            .filter(|request| matches!(request.answer, Answer::Failed(_)))
            .map(|request| request.ended)
            .filter(|ended| (window.from..=window.to).contains(ended))
            .max()
            .map(|ended| ended - window.from)
    }

    /// Who held it last before this moment.
    pub fn holder(&self, of: Measure, before: Duration) -> Option<&str> {
        let sightings = self.sightings.iter().filter(|it| it.of == of && it.at <= before);
        sightings.max_by_key(|it| it.at).map(|it| it.holder.as_str())
    }

    /// When somebody else was first seen to hold it.
    pub fn moved(&self, of: Measure, from: Duration) -> Option<Duration> {
        let before = self.holder(of, from).unwrap_or_default();
        self.sightings
            .iter()
            .filter(|it| it.of == of && it.at > from)
            .filter(|it| !it.holder.is_empty() && it.holder != before)
            .map(|it| it.at - from)
            .min()
    }

    pub fn measured(&self, measure: Measure, window: Window) -> Option<Duration> {
        match measure {
            Measure::WriteGap => Some(self.write_gap(window)),
            Measure::LastFailure => Some(self.last_failure(window).unwrap_or_default()),
            _ => self.moved(measure, window.from),
        }
    }

    /// Writes that were begun and acknowledged while all of them should have been refused.
    pub fn acknowledged_within(&self, window: Window) -> usize {
        self.acknowledged_writes()
            .filter(|write| write.began >= window.from && write.ended <= window.to)
            .count()
    }

    /// Why writes were refused, most frequent first.
    pub fn reasons(&self, window: Window) -> Vec<(String, usize)> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for request in &self.requests {
            if let Answer::Failed(reason) = &request.answer
                && (window.from..=window.to).contains(&request.ended)
            {
                *counts.entry(reason).or_default() += 1;
            }
        }
        let mut reasons: Vec<_> =
            counts.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        reasons
    }
}

/// The longest wait that ends within the window or is not over at its end. It may have begun
/// before: a client waits from its last write, not from the moment of the failure.
fn longest_wait(mut times: Vec<Duration>, window: Window) -> Duration {
    times.sort_unstable();
    let before = times.iter().rev().find(|time| **time <= window.from).copied();
    let mut last = before.unwrap_or(window.from);
    let mut longest = Duration::ZERO;
    let within = times.into_iter().filter(|time| *time > window.from && *time < window.to);
    for time in within.chain([window.to]) {
        longest = longest.max(time - last);
        last = time;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    const WINDOW: Window =
        Window { from: Duration::from_millis(1000), to: Duration::from_millis(5000) };

    fn write(client: usize, ended: u64, answer: Answer) -> Request {
        let ended = ms(ended);
        Request { client, number: 0, write: true, began: ended - ms(10), ended, answer }
    }

    fn history(requests: Vec<Request>) -> History {
        History { requests, ..History::default() }
    }

    #[test]
    fn a_gap_is_what_one_client_waits_even_when_the_others_do_not() {
        let steady = (0..60).map(|n| write(0, 100 + n * 100, Answer::Done));
        let cut_off = [900, 3100, 3200].map(|at| write(1, at, Answer::Done));
        let mut requests: Vec<_> = steady.chain(cut_off).collect();
        requests.push(write(1, 2000, Answer::Failed("refused".into())));
        requests.extend((33..51).map(|n| write(1, n * 100, Answer::Done)));
        assert_eq!(history(requests).write_gap(WINDOW), ms(2200));
    }

    #[test]
    fn a_wait_that_never_ended_and_a_client_that_never_wrote_count_in_full() {
        let stuck = history(vec![write(0, 800, Answer::Done), write(0, 1500, Answer::Done)]);
        assert_eq!(stuck.write_gap(WINDOW), ms(3500));
        let never = history(vec![write(0, 2000, Answer::Failed("x".into()))]);
        assert_eq!(never.write_gap(WINDOW), ms(4000));
    }

    #[test]
    fn events_outside_the_window_are_no_gap() {
        let mut times = vec![100, 950];
        times.extend((10..=50).map(|n| n * 100));
        let requests = times.into_iter().map(|at| write(0, at, Answer::Done)).collect();
        assert_eq!(history(requests).write_gap(WINDOW), ms(100));
    }

    #[test]
    fn the_last_failure_counts_from_the_moment_of_the_fault() {
        let failed = |at| write(0, at, Answer::Failed("x".into()));
        let seen = history(vec![failed(500), failed(1200), failed(1800), failed(6000)]);
        assert_eq!(seen.last_failure(WINDOW), Some(ms(800)));
        assert_eq!(history(vec![write(0, 1200, Answer::Done)]).last_failure(WINDOW), None);
    }

    #[test]
    fn a_holder_has_moved_when_another_one_is_seen() {
        let sighting = |at, holder: &str| Observation {
            of: Measure::EtcdLeader,
            at: ms(at),
            holder: holder.into(),
        };
        let sightings = vec![
            sighting(900, "a"),
            sighting(1100, "a"),
            sighting(1300, ""),
            sighting(1900, "b"),
            sighting(2100, "a"),
        ];
        let seen = History { sightings, ..History::default() };
        assert_eq!(seen.holder(Measure::EtcdLeader, WINDOW.from), Some("a"));
        assert_eq!(seen.moved(Measure::EtcdLeader, WINDOW.from), Some(ms(900)));
        assert_eq!(seen.moved(Measure::Scheduler, WINDOW.from), None);
    }

    #[test]
    fn only_acknowledged_writes_must_be_kept_and_refusals_are_counted_by_reason() {
        let mut requests = vec![write(0, 1200, Answer::Done), write(0, 900, Answer::Done)];
        requests[0].number = 7;
        requests[1].number = 3;
        for at in [1500, 1600] {
            requests.push(write(0, at, Answer::Failed("no leader".into())));
        }
        requests.push(write(0, 1700, Answer::Failed("timed out".into())));
        let seen = history(requests);
        assert_eq!(seen.acknowledged(), BTreeSet::from([3, 7]));
        assert_eq!(seen.acknowledged_within(WINDOW), 1);
        assert_eq!(
            seen.reasons(WINDOW),
            [("no leader".to_owned(), 2), ("timed out".to_owned(), 1)]
        );
    }
}
