//! One line a machine, one for the whole, gates as ticks above them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use owo_colors::OwoColorize;

use super::{Renderer, duration, plain};
use crate::event::{Event, Evidence, Outcome, Stamped, TaskId, TaskInfo, TaskKind};

/// Frames a second; more is only flicker over a slow connection.
const REFRESH: u8 = 10;

pub struct Bars {
    all: MultiProgress,
    whole: ProgressBar,
    lines: BTreeMap<String, Line>,
    tasks: BTreeMap<TaskId, TaskInfo>,
    learned: BTreeMap<TaskId, Duration>,
    finished: BTreeSet<TaskId>,
    proofs: BTreeMap<TaskId, Vec<Evidence>>,
    began: Instant,
    verbose: bool,
}

struct Line {
    bar: ProgressBar,
    running: BTreeMap<TaskId, String>,
    done: usize,
    total: usize,
}

impl Bars {
    pub fn new(verbose: bool, learned: BTreeMap<TaskId, Duration>) -> Self {
        Self::on(ProgressDrawTarget::stderr_with_hz(REFRESH), verbose, learned)
    }

    fn on(target: ProgressDrawTarget, verbose: bool, learned: BTreeMap<TaskId, Duration>) -> Self {
        let all = MultiProgress::with_draw_target(target);
        let whole = all.add(ProgressBar::new(0));
        whole.set_style(style("{bar:20.green/dim} {pos}/{len} {elapsed} {wide_msg}"));
        Self {
            all,
            whole,
            lines: BTreeMap::new(),
            tasks: BTreeMap::new(),
            learned,
            finished: BTreeSet::new(),
            proofs: BTreeMap::new(),
            began: Instant::now(),
            verbose,
        }
    }

    fn planned(&mut self, tasks: &[TaskInfo]) {
        self.began = Instant::now();
        self.whole.set_length(tasks.len() as u64);
        self.whole.enable_steady_tick(Duration::from_millis(200));
        let width = tasks.iter().filter_map(|task| task.machine.as_ref()).map(String::len).max();
        for task in tasks {
            let name = task.place();
            let line = self.lines.entry(name.clone()).or_insert_with(|| {
                let bar = self.all.insert_before(&self.whole, ProgressBar::new_spinner());
                bar.set_style(style("{spinner:.cyan} {prefix:.bold} {wide_msg}"));
                bar.set_prefix(format!("{name:width$}", width = width.unwrap_or(8)));
                Line { bar, running: BTreeMap::new(), done: 0, total: 0 }
            });
            line.total += 1;
            self.tasks.insert(task.id.clone(), task.clone());
        }
    }

    fn with_line(&mut self, task: &TaskId, change: impl FnOnce(&mut Line, &TaskInfo)) {
        let Some(info) = self.tasks.get(task) else { return };
        let Some(line) = self.lines.get_mut(&info.place()) else { return };
        change(line, info);
        let now: Vec<&str> = line.running.values().map(String::as_str).collect();
        if line.done == line.total {
            line.bar.finish_with_message("done".dimmed().to_string());
        } else {
            line.bar.set_message(now.join(" · "));
            line.bar.tick();
        }
    }

    /// The longest chain of what is left, by what each task took last time.
    fn remaining(&self) -> Option<Duration> {
        let mut longest: BTreeMap<&str, Duration> = BTreeMap::new();
        // Tasks were planned in an order in which needs come first only within the plan's list;
        // a few passes settle chains whatever the order.
        for _ in 0..self.tasks.len().min(40) {
            let mut settled = true;
            for (id, task) in &self.tasks {
                if self.finished.contains(id) {
                    continue;
                }
                let before = task.needs.iter().filter_map(|need| longest.get(need.as_str())).max();
                let own = self.learned.get(id).copied().unwrap_or_default();
                let sum = before.copied().unwrap_or_default() + own;
                settled &= longest.insert(id, sum) == Some(sum);
            }
            if settled {
                break;
            }
        }
        longest.into_values().max().filter(|left| !left.is_zero())
    }

    fn tick_whole(&self) {
        self.whole.set_position(self.finished.len() as u64);
        let message = match self.remaining() {
            Some(left) => format!("about {} left", duration(left)),
            None => String::new(),
        };
        self.whole.set_message(message.dimmed().to_string());
    }

    fn say(&self, text: impl AsRef<str>) {
        // A line that cannot be shown must not stop what it is about.
        let _ = self.all.println(text);
    }

    fn finished(&mut self, task: &TaskId, outcome: Outcome, elapsed_ms: u64) {
        self.finished.insert(task.clone());
        self.with_line(task, |line, _| {
            line.running.remove(task);
            line.done += 1;
        });
        let took = duration(Duration::from_millis(elapsed_ms));
        let Some(info) = self.tasks.get(task) else { return };
        match (info.kind, outcome) {
            (_, Outcome::Failed) => {
                self.say(format!(
                    "{} {}: {} failed after {took}",
                    "✘".red(),
                    info.place(),
                    info.title
                ));
            }
            (TaskKind::Gate, _) => {
                if let Some(evidence) = self.proofs.get(task) {
                    self.say(format!(
                        "{} {} {}",
                        "✔".green(),
                        info.step.bold(),
                        format!("{} · {took}", plain::proof(evidence)).dimmed()
                    ));
                }
            }
            _ => {}
        }
        self.tick_whole();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Renderer for Bars {
    fn show(&mut self, stamped: &Stamped) {
        match &stamped.event {
            Event::Planned { tasks } => self.planned(tasks),
            Event::TaskStarted { task, .. } => self.with_line(task, |line, info| {
                line.running.insert(task.clone(), info.title.clone());
            }),
            Event::TaskProgress { task, message, done, total } => {
                let bytes = match (done, total) {
                    (Some(done), Some(total)) if *total > 0 => format!(" {} %", done * 100 / total),
                    _ => String::new(),
                };
                self.with_line(task, |line, info| {
                    line.running.insert(task.clone(), format!("{}: {message}{bytes}", info.title));
                });
            }
            Event::TaskFinished { task, outcome, elapsed_ms, .. } => {
                self.finished(task, *outcome, *elapsed_ms);
            }
            Event::GateEvidence { task, evidence, passed: true } => {
                self.proofs.insert(task.clone(), evidence.clone());
            }
            Event::Output { machine, line, .. } if self.verbose => {
                self.say(format!("{} {line}", format!("{machine} |").dimmed()));
            }
            Event::Warning { message } => self.say(format!("{} {message}", "warning:".yellow())),
            Event::Note { message } => self.say(message),
            _ => {}
        }
    }

    fn finish(&mut self) {
        for line in self.lines.values() {
            line.bar.finish_and_clear();
        }
        self.whole.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use indicatif::InMemoryTerm;
    use jiff::Timestamp;

    use super::*;

    fn screen(columns: u16) -> String {
        let term = InMemoryTerm::new(12, columns);
        let target = ProgressDrawTarget::term_like(Box::new(term.clone()));
        let mut bars = Bars::on(target, false, BTreeMap::new());
        let task = |id: &str, kind, machine: Option<&str>| TaskInfo {
            id: id.into(),
            title: format!("title of {id}"),
            step: id.into(),
            machine: machine.map(str::to_owned),
            kind,
            needs: Vec::new(),
        };
        let events = [
            Event::Planned {
                tasks: vec![
                    task("a", TaskKind::Apply, Some("kdiy-master-1")),
                    task("g", TaskKind::Gate, None),
                ],
            },
            Event::TaskStarted { task: "a".into(), attempt: 1 },
            Event::TaskStarted { task: "g".into(), attempt: 1 },
            Event::Warning { message: "mind the gap".into() },
            Event::GateEvidence {
                task: "g".into(),
                passed: true,
                evidence: vec![Evidence {
                    machine: None,
                    asked: "leader".into(),
                    expected: "one".into(),
                    saw: "kdiy-master-1".into(),
                    ok: true,
                }],
            },
            Event::TaskFinished {
                task: "g".into(),
                attempt: 1,
                outcome: Outcome::Unchanged,
                changes: Vec::new(),
                elapsed_ms: 1500,
            },
        ];
        for event in events {
            bars.show(&Stamped { at: Timestamp::now(), event });
        }
        term.contents()
    }

    #[test]
    fn machines_gates_and_warnings_are_seen_at_any_width() {
        for columns in [40, 80, 200] {
            let screen = screen(columns);
            for part in
                ["kdiy-master-1", "title of a", "warning: mind the gap", "✔ g leader kdiy-master-1"]
            {
                assert!(screen.contains(part), "{columns}: {part} is missing in\n{screen}");
            }
            assert!(screen.lines().all(|line| line.chars().count() <= columns.into()), "{screen}");
        }
    }
}
