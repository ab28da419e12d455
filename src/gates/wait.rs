//! Waits until a gate passes and stays stable.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::bundle::script::quote;
use crate::cluster_context::ClusterContext;
use crate::gates::{Gate, Verdict, diagnosis};
use crate::support::event::{Event, Events, Evidence};
use crate::support::failure::{Failure, Kind, Result};
use crate::support::time_scale::Unscaled;

/// A unit that crashes on start is active for moments at a time; one that has been for this long
/// is not in such a loop (systemd restarts ours after a second).
const SETTLED: Duration = Duration::from_secs(3);
/// No wait becomes longer than this many times its own length by itself.
const MOST_SLOW: u32 = 6;
/// As in apply.sh: the mean of a few moments, since a machine that shares a processor stands still
/// now and then. On ordinary hardware it takes four million nanoseconds, with room for less.
const LITTLE_WORK: &str = "total=0; for look in 1 2 3 4 5; do began=$(date +%s%N); count=0; \
    while [ $count -lt 500 ]; do count=$((count + 1)); done; \
    total=$((total + $(date +%s%N) - began)); sleep 0.1; done; echo $((total / 5 / 4000000))";
/// Multiplied by `slowMachines`: to be asked is work, too.
const PAUSE: Unscaled = Unscaled::from_millis(500);

/// Probes until the gate is green and what it watches has been running without a restart for a
/// while, or the deadline passes; then names the machine that is at fault.
pub async fn hold(
    gate: &dyn Gate,
    context: &ClusterContext,
    deadline: Duration,
    events: &Events,
    task: &str,
    stop: &CancellationToken,
) -> Result<Verdict> {
    let began = Instant::now();
    let usual = deadline / context.config.slow_machines;
    let mut deadline = deadline;
    let mut last;
    loop {
        let verdict = gate.probe(context).await;
        let unsettled = if verdict.passed() { unsettled(gate, context).await } else { None };
        last = verdict;
        match unsettled {
            None if last.passed() => {
                events.send(Event::GateEvidence {
                    task: task.to_owned(),
                    passed: true,
                    evidence: last.evidence.clone(),
                });
                return Ok(last);
            }
            Some(Unsettled { wait, .. }) if began.elapsed() + wait < deadline => {
                events.progress(task, "passed; checking that it stays stable");
                tokio::time::sleep(wait).await;
            }
            Some(unsettled) => last.evidence.push(unsettled.evidence()),
            None => {
                events.progress(task, standing(&last));
                tokio::time::sleep(PAUSE * context.config.slow_machines).await;
            }
        }
        if stop.is_cancelled() {
            break;
        }
        if began.elapsed() >= deadline {
            let slow = slowness(gate, context).await;
            if usual * slow <= deadline {
                break;
            }
            deadline = usual * slow;
            events.progress(
                task,
                format!(
                    "the machines are {slow} times slower than usual: waiting up to {} s",
                    deadline.as_secs()
                ),
            );
        }
    }
    events.send(Event::GateEvidence {
        task: task.to_owned(),
        passed: false,
        evidence: last.evidence.clone(),
    });
    if stop.is_cancelled() && began.elapsed() < deadline {
        return Err(Failure::new(
            Kind::Interrupted,
            format!("stopped waiting for {}", gate.name()),
        ));
    }
    Err(failure(gate, context, &last, deadline).await)
}

/// How many times as long as on ordinary hardware a little work takes now on the slowest machine
/// that the gate watches; [`MOST_SLOW`] at most. What takes long there is not broken for that.
async fn slowness(gate: &dyn Gate, context: &ClusterContext) -> u32 {
    let answers = context.ask(gate.watches().0, |_| LITTLE_WORK.to_owned()).await;
    let factors =
        answers.into_iter().filter_map(|(_, answer)| answer.ok()?.trim().parse::<u32>().ok());
    factors.max().unwrap_or(1).min(MOST_SLOW)
}

/// How much is proven, and the first thing that is not.
fn standing(verdict: &Verdict) -> String {
    let red: Vec<&Evidence> = verdict.evidence.iter().filter(|evidence| !evidence.ok).collect();
    let (all, proven) = (verdict.evidence.len(), verdict.evidence.len() - red.len());
    match red.first() {
        Some(first) => {
            format!("{proven} of {all} checks passed; not yet {}", first.difference_there())
        }
        None => format!("{proven} of {all} checks passed"),
    }
}

async fn failure(
    gate: &dyn Gate,
    context: &ClusterContext,
    verdict: &Verdict,
    deadline: Duration,
) -> Failure {
    let red: Vec<&Evidence> = verdict.evidence.iter().filter(|evidence| !evidence.ok).collect();
    let culprit = diagnosis::culprit(gate, context, verdict).await;
    let mut failure = Failure::new(
        Kind::Gate,
        format!("the gate `{}` did not pass within {} s", gate.name(), deadline.as_secs()),
    );
    if let Some(first) = red.first() {
        failure = failure.cause(first.difference());
    }
    let mut tail: Vec<String> =
        red.iter().take(8).map(|evidence| evidence.difference_there()).collect();
    for fix in gate.fixes(verdict) {
        failure = failure.hint(fix);
    }
    if let Some(culprit) = culprit {
        tail.extend(journal(gate, context, &culprit.machine).await);
        failure = failure.on(&culprit.machine).hint(culprit.why);
        for unit in gate.watches().1 {
            failure = failure
                .hint(format!("kdiy ssh {} -- sudo journalctl -u {unit} -n 50", culprit.machine));
        }
    }
    failure.tail(tail)
}

struct Unsettled {
    machine: String,
    unit: String,
    active: Duration,
    wait: Duration,
}

impl Unsettled {
    fn evidence(self) -> Evidence {
        Evidence {
            machine: Some(self.machine),
            asked: format!("uptime of {}", self.unit),
            expected: format!("{} s without a restart", SETTLED.as_secs()),
            saw: format!("{:.1} s", self.active.as_secs_f32()),
            ok: false,
        }
    }
}

/// The watched unit that has been running for the shortest time, when that is too short.
async fn unsettled(gate: &dyn Gate, context: &ClusterContext) -> Option<Unsettled> {
    let (group, units) = gate.watches();
    if units.is_empty() {
        return None;
    }
    let names: Vec<String> = units.iter().map(|unit| quote(unit)).collect();
    let script = format!(
        "cut -d' ' -f1 /proc/uptime; systemctl show -p Id,ActiveState,ActiveEnterTimestampMonotonic {}",
        names.join(" ")
    );
    let answers = context.ask(group, |_| script.clone()).await;
    answers
        .into_iter()
        .filter_map(|(machine, answer)| Some((machine, answer.ok()?)))
        .flat_map(|(machine, text)| {
            running_times(&text).into_iter().map(move |(unit, active)| (machine, unit, active))
        })
        .filter(|(machine, _, active)| *active < SETTLED && !context.is_to_come(&machine.name))
        .min_by_key(|(_, _, active)| *active)
        .map(|(machine, unit, active)| Unsettled {
            machine: machine.name.clone(),
            unit,
            active,
            wait: SETTLED - active,
        })
}

/// How long each unit has been active, from the machine's uptime and `systemctl show`.
pub fn running_times(text: &str) -> Vec<(String, Duration)> {
    let mut lines = text.lines();
    let uptime: f64 = lines.next().and_then(|line| line.trim().parse().ok()).unwrap_or_default();
    let mut times = Vec::new();
    let (mut unit, mut active, mut since) = (String::new(), false, 0.0);
    for line in lines.chain([""]) {
        match line.split_once('=') {
            Some(("Id", id)) => unit = id.to_owned(),
            Some(("ActiveState", state)) => active = state == "active",
            Some(("ActiveEnterTimestampMonotonic", at)) => {
                since = at.parse::<f64>().unwrap_or_default() / 1e6;
            }
            _ => {
                if !unit.is_empty() {
                    let running = if active { (uptime - since).max(0.0) } else { 0.0 };
                    // No duration is what infinity makes.
                    let running = Duration::try_from_secs_f64(running).unwrap_or_default();
                    times.push((std::mem::take(&mut unit), running));
                }
            }
        }
    }
    times
}

async fn journal(gate: &dyn Gate, context: &ClusterContext, machine: &str) -> Vec<String> {
    let (group, units) = gate.watches();
    let wanted: Vec<String> = units.iter().map(|unit| format!("-u {}", quote(unit))).collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let script = format!("journalctl {} -n 8 --no-pager -o short", wanted.join(" "));
    let answers = context.ask(group, |_| script.clone()).await;
    answers
        .into_iter()
        .find(|(asked, _)| asked.name == machine)
        .and_then(|(_, answer)| answer.ok())
        .map(|text| text.lines().map(str::to_owned).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_times_are_read() {
        let text = "100.50\nId=etcd.service\nActiveState=active\n\
                    ActiveEnterTimestampMonotonic=98500000\n\nId=b.service\nActiveState=failed\n\
                    ActiveEnterTimestampMonotonic=0\n";
        assert_eq!(
            running_times(text),
            [
                ("etcd.service".to_owned(), Duration::from_secs(2)),
                ("b.service".to_owned(), Duration::ZERO)
            ]
        );
    }

    #[test]
    fn an_uptime_that_is_no_time_proves_nothing() {
        for uptime in ["inf", "1e300", "NaN", ""] {
            let text = format!("{uptime}\nId=etcd.service\nActiveState=active\n");
            assert_eq!(running_times(&text), [("etcd.service".to_owned(), Duration::ZERO)]);
        }
    }
}
