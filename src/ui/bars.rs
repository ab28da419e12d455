//! One line for each machine and one for the run, with passed gates above them. If the screen has
//! fewer lines than machines, it shows those that work.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use owo_colors::OwoColorize;

use crate::state::durations::Learned;
use crate::support::event::{Event, Evidence, Outcome, Stamped, TaskId, TaskInfo, TaskKind};
use crate::ui::estimate::Estimate;
use crate::ui::{Renderer, duration, plain};

/// Frames a second; more is only flicker over a slow connection.
const REFRESH: u8 = 10;
/// Lines of the screen that are not for machines: the whole, and where the cursor rests.
const RESERVED: usize = 2;
const WORKING: &str = "{spinner:.cyan} {prefix:.bold} {wide_msg}";
const RESTING: &str = "{prefix:.dim} {wide_msg:.dim}";

pub struct Bars {
    all: MultiProgress,
    whole: ProgressBar,
    /// Lines of the screen, as many as there are places or room.
    slots: Vec<Slot>,
    room: usize,
    /// In the order of the plan.
    places: Vec<Place>,
    tasks: BTreeMap<TaskId, (usize, TaskInfo)>,
    estimate: Estimate,
    proofs: BTreeMap<TaskId, Vec<Evidence>>,
    began: Option<Timestamp>,
    verbose: bool,
    colour: bool,
}

/// A machine, or what belongs to none.
struct Place {
    name: String,
    running: BTreeMap<TaskId, String>,
    done: usize,
    total: usize,
    failed: bool,
}

impl Place {
    fn is_done(&self) -> bool {
        self.done == self.total
    }

    /// What works comes before what waits, and that before what is done.
    fn rank(&self) -> u8 {
        match (self.is_done() || self.failed, self.running.is_empty()) {
            (false, false) => 0,
            (false, true) => 1,
            (true, _) => 2,
        }
    }
}

struct Slot {
    bar: ProgressBar,
    shown: (bool, String, String),
}

impl Slot {
    fn show(&mut self, working: bool, prefix: String, message: String) {
        let wanted = (working, prefix, message);
        if self.shown == wanted {
            return;
        }
        if self.shown.0 != working {
            self.bar.set_style(style(if working { WORKING } else { RESTING }));
        }
        self.bar.set_prefix(wanted.1.clone());
        self.bar.set_message(wanted.2.clone());
        self.shown = wanted;
        self.bar.tick();
    }
}

impl Bars {
    /// `height` is that of the screen, in lines.
    pub fn new(verbose: bool, learned: Learned, height: usize, colour: bool) -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(REFRESH);
        Self::on(target, verbose, learned, height, colour)
    }

    fn on(
        target: ProgressDrawTarget,
        verbose: bool,
        learned: Learned,
        height: usize,
        colour: bool,
    ) -> Self {
        let all = MultiProgress::with_draw_target(target);
        let whole = all.add(ProgressBar::new(0));
        whole.set_style(style("{bar:20.green/dim} {pos}/{len} · {wide_msg}"));
        Self {
            all,
            whole,
            slots: Vec::new(),
            room: height.saturating_sub(RESERVED).max(1),
            places: Vec::new(),
            tasks: BTreeMap::new(),
            estimate: Estimate::new(learned),
            proofs: BTreeMap::new(),
            began: None,
            verbose,
            colour,
        }
    }

    fn planned(&mut self, tasks: &[TaskInfo]) {
        self.estimate.planned(tasks);
        self.whole.set_length(self.estimate.total() as u64);
        let mut by_name: BTreeMap<String, usize> = BTreeMap::new();
        for task in tasks {
            let index = *by_name.entry(task.place()).or_insert_with_key(|name| {
                let running = BTreeMap::new();
                self.places.push(Place {
                    name: name.clone(),
                    running,
                    done: 0,
                    total: 0,
                    failed: false,
                });
                self.places.len() - 1
            });
            self.places[index].total += 1;
            self.tasks.insert(task.id.clone(), (index, task.clone()));
        }
        while self.slots.len() < self.places.len().min(self.room) {
            let bar = self.all.insert_before(&self.whole, ProgressBar::new_spinner());
            bar.set_style(style(RESTING));
            self.slots.push(Slot { bar, shown: (false, String::new(), String::new()) });
        }
    }

    fn at_place(&mut self, task: &str, change: impl FnOnce(&mut Place, &TaskInfo)) {
        if let Some((place, info)) = self.tasks.get(task) {
            change(&mut self.places[*place], info);
        }
    }

    /// Brings the lines in line with what is known.
    fn refresh(&mut self, now: Timestamp) {
        let chosen = chosen(&self.places, self.slots.len());
        let width = self.places.iter().map(|place| place.name.chars().count()).max().unwrap_or(0);
        for (slot, index) in self.slots.iter_mut().zip(&chosen) {
            let place = &self.places[*index];
            let name = format!("{:width$}", place.name);
            if place.failed {
                slot.show(false, format!("✘ {name}"), "failed".into());
            } else if place.is_done() {
                slot.show(false, format!("✔ {name}"), "done".into());
            } else if place.running.is_empty() {
                slot.show(false, format!("  {name}"), "waits".into());
            } else {
                let now: Vec<&str> = place.running.values().map(String::as_str).collect();
                slot.show(true, name, now.join(" · "));
            }
        }
        if chosen.len() < self.slots.len()
            && let Some(slot) = self.slots.last_mut()
        {
            slot.show(false, "  …".into(), others(&self.places, &chosen));
        }
        self.whole.set_position(self.estimate.finished as u64);
        self.whole.set_message(self.clock(now));
    }

    /// How long it has taken and, where that is known, still takes.
    fn clock(&self, now: Timestamp) -> String {
        let began = self.began.unwrap_or(now);
        let spent = Duration::try_from(now.duration_since(began)).unwrap_or_default();
        let spent = Duration::from_secs(spent.as_secs());
        match self.estimate.left(now) {
            Some(left) => format!("{}, about {} left", whole(spent), whole(left)),
            None => whole(spent),
        }
    }

    fn say(&self, text: &str) {
        // A line that cannot be shown must not stop what it is about.
        let _ = match self.colour {
            true => self.all.println(text),
            false => self.all.println(anstream::adapter::strip_str(text).to_string()),
        };
    }

    fn finished(&mut self, task: &TaskId, outcome: Outcome, elapsed_ms: u64) {
        self.estimate.finished(task);
        self.at_place(task, |place, _| {
            place.running.remove(task);
            place.done += 1;
            place.failed |= outcome == Outcome::Failed;
        });
        let took = duration(Duration::from_millis(elapsed_ms));
        let Some((_, info)) = self.tasks.get(task) else { return };
        match (info.kind, outcome) {
            (_, Outcome::Failed) => {
                let place = info.place();
                self.say(&format!("{} {place}: {} failed after {took}", "✘".red(), info.title));
            }
            (TaskKind::Gate, _) => {
                if let Some(evidence) = self.proofs.remove(task) {
                    let proof = format!("{} · {took}", plain::proof(&evidence));
                    self.say(&format!("{} {} {}", "✔".green(), info.step.bold(), proof.dimmed()));
                }
            }
            _ => {}
        }
    }
}

/// Which places are shown in so many lines. Where there are more, the last line is for the rest.
fn chosen(places: &[Place], lines: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..places.len()).collect();
    if order.len() > lines {
        order.sort_by_key(|index| places[*index].rank());
        order.truncate(lines.saturating_sub(1));
        order.sort_unstable();
    }
    order
}

/// `131 more: 12 work, 7 wait, 112 done`.
fn others(places: &[Place], shown: &[usize]) -> String {
    let mut count = [0; 3];
    for (index, place) in places.iter().enumerate() {
        if shown.binary_search(&index).is_err() {
            count[usize::from(place.rank())] += 1;
        }
    }
    let [work, wait, done] = count;
    format!("{} more: {work} working, {wait} waiting, {done} done", work + wait + done)
}

/// Without fractions, which only flicker.
fn whole(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds < 60 => format!("{seconds} s"),
        _ => duration(time),
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Renderer for Bars {
    fn show(&mut self, stamped: &Stamped) {
        self.began.get_or_insert(stamped.at);
        match &stamped.event {
            Event::Planned { tasks } => self.planned(tasks),
            Event::TaskStarted { task, .. } => {
                self.estimate.started(task, stamped.at);
                self.at_place(task, |place, info| {
                    place.running.insert(task.clone(), info.title.clone());
                });
            }
            Event::TaskProgress { task, message, done, total } => {
                let bytes = match (done, total) {
                    (Some(done), Some(total)) if *total > 0 => format!(" {} %", done * 100 / total),
                    _ => String::new(),
                };
                self.at_place(task, |place, info| {
                    let text = format!("{}: {message}{bytes}", info.title);
                    place.running.insert(task.clone(), text);
                });
            }
            Event::TaskFinished { task, outcome, elapsed_ms, .. } => {
                self.finished(task, *outcome, *elapsed_ms);
            }
            Event::GateEvidence { task, evidence, passed: true } => {
                self.proofs.insert(task.clone(), evidence.clone());
            }
            Event::Output { machine, line, .. } if self.verbose => {
                self.say(&format!("{} {line}", format!("{machine} |").dimmed()));
            }
            Event::Warning { message } => {
                self.say(&format!("{} {message}", "warning:".yellow()));
            }
            Event::Note { message } => self.say(message),
            _ => {}
        }
        self.refresh(stamped.at);
    }

    fn tick(&mut self, now: Timestamp) {
        for slot in self.slots.iter().filter(|slot| slot.shown.0) {
            slot.bar.tick();
        }
        if self.began.is_some() {
            self.refresh(now);
        }
    }

    fn finish(&mut self) {
        for slot in &self.slots {
            slot.bar.finish_and_clear();
        }
        self.whole.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use indicatif::InMemoryTerm;
    use jiff::ToSpan;

    use super::*;

    fn task(id: &str, kind: TaskKind, machine: Option<&str>) -> TaskInfo {
        TaskInfo {
            id: id.into(),
            title: format!("title of {id}"),
            step: id.into(),
            machine: machine.map(str::to_owned),
            kind,
            needs: Vec::new(),
        }
    }

    fn started(task: &str) -> Event {
        Event::TaskStarted { task: task.into(), attempt: 1 }
    }

    fn finished(task: &str, outcome: Outcome) -> Event {
        let elapsed_ms = 1500;
        Event::TaskFinished { task: task.into(), attempt: 1, outcome, changes: vec![], elapsed_ms }
    }

    /// What is on a screen of that size when a second lies between the events.
    fn screen(lines: u16, columns: u16, learned: &[(&str, u64)], events: Vec<Event>) -> String {
        let term = InMemoryTerm::new(lines, columns);
        let target = ProgressDrawTarget::term_like(Box::new(term.clone()));
        let learned = learned
            .iter()
            .map(|(name, seconds)| ((*name).to_owned(), Duration::from_secs(*seconds)))
            .collect();
        let mut bars = Bars::on(target, true, learned, lines.into(), false);
        for (second, event) in events.into_iter().enumerate() {
            let at = Timestamp::UNIX_EPOCH + i64::try_from(second).unwrap().seconds();
            bars.show(&Stamped { at, event });
        }
        term.contents()
    }

    fn small_run() -> Vec<Event> {
        let evidence = Evidence {
            machine: None,
            asked: "leader".into(),
            expected: "one".into(),
            saw: "kdiy-master-1".into(),
            ok: true,
        };
        let tasks = vec![
            task("make", TaskKind::Machine, None),
            task("etcd@kdiy-master-1", TaskKind::Apply, Some("kdiy-master-1")),
            task("etcd@kdiy-master-2", TaskKind::Apply, Some("kdiy-master-2")),
            task("gate", TaskKind::Gate, None),
        ];
        vec![
            Event::Planned { tasks },
            started("make"),
            finished("make", Outcome::Changed),
            started("gate"),
            started("etcd@kdiy-master-1"),
            Event::Warning { message: "mind the gap".into() },
            Event::Output {
                machine: "kdiy-master-1".into(),
                task: "etcd@kdiy-master-1".into(),
                line: "a line of its own".into(),
            },
            Event::TaskProgress {
                task: "etcd@kdiy-master-1".into(),
                message: "sending".into(),
                done: Some(1),
                total: Some(4),
            },
            Event::GateEvidence { task: "gate".into(), passed: true, evidence: vec![evidence] },
            finished("gate", Outcome::Unchanged),
        ]
    }

    #[test]
    fn display_shows_machines_gates_and_warnings_on_a_terminal() {
        let screen = screen(24, 80, &[("etcd", 20)], small_run());
        let lines: Vec<&str> = screen.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "warning: mind the gap",
                "kdiy-master-1 | a line of its own",
                "✔ gate leader kdiy-master-1, 1 check passed · 1.5 s",
                "✔ machines      done",
                "⠙ kdiy-master-1 title of etcd@kdiy-master-1: sending 25 %",
                "  kdiy-master-2 waits",
                "✔ gates         done",
                "██████████░░░░░░░░░░ 2/4 · 9 s, about 20 s left",
            ]
        );
    }

    #[test]
    fn nothing_is_wider_than_the_screen() {
        for columns in [20, 40, 200] {
            let screen = screen(24, columns, &[], small_run());
            assert!(screen.contains("kdiy-master-2"), "{columns}:\n{screen}");
            assert!(screen.lines().all(|line| line.chars().count() <= columns.into()), "{screen}");
        }
    }

    #[test]
    fn machines_that_do_not_fit_share_one_line() {
        let names: Vec<String> = (0..150).map(|number| format!("worker-{number}")).collect();
        let tasks = names
            .iter()
            .map(|name| task(&format!("s@{name}"), TaskKind::Apply, Some(name)))
            .collect();
        let mut events = vec![Event::Planned { tasks }];
        events.extend(["worker-0", "worker-1"].map(|name| started(&format!("s@{name}"))));
        events.push(finished("s@worker-0", Outcome::Changed));
        events.push(started("s@worker-149"));
        let screen = screen(8, 60, &[], events);
        let lines: Vec<&str> = screen.lines().map(str::trim_end).collect();
        assert_eq!(lines.len(), 7, "{screen}");
        assert!(lines[0].contains("worker-1 ") && lines[4].contains("worker-149"), "{screen}");
        assert_eq!(lines[5], "  … 145 more: 0 working, 144 waiting, 1 done");
        assert!(lines[6].contains("1/150"), "{screen}");
    }

    #[test]
    fn a_failure_stays_above_the_lines() {
        let mut events = small_run();
        events.push(finished("etcd@kdiy-master-1", Outcome::Failed));
        let screen = screen(24, 80, &[], events);
        for line in [
            "✘ kdiy-master-1: title of etcd@kdiy-master-1 failed after 1.5 s",
            "✘ kdiy-master-1 failed",
        ] {
            assert!(screen.contains(line), "{screen}");
        }
    }
}
