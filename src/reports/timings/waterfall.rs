//! A run as a picture: one HTML page that needs nothing else. Time runs to the right; each place
//! has a row, or several where its tasks overlap; the critical path stands out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::reports::timings::{Timed, Timings};
use crate::support::event::{Outcome, TaskKind};

const CSS: &str = include_str!("waterfall.css");

/// Of the picture, in its own units.
const WIDTH: f64 = 1200.0;
/// Room for the names of the places.
const MARGIN: f64 = 150.0;
const ROW: f64 = 18.0;
const HEAD: f64 = 22.0;
const GAP: f64 = 6.0;
/// About the width of a character of an 11 px font.
const CHARACTER: f64 = 5.8;
/// Most lines of the time axis.
const TICKS: u64 = 12;

pub fn html(timings: &Timings) -> String {
    let heading = format!("kdiy {}: {}", escape(&timings.command), escape(&timings.cluster));
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{heading}</title>\n\
         <style>\n{CSS}</style>\n</head>\n<body>\n<h1>{heading}</h1>\n"
    );
    let _ = writeln!(page, "<p>{}</p>\n<p>{}</p>", begun(timings), account(timings));
    page.push_str(&legend());
    let _ = writeln!(page, "<div class=\"chart\">\n{}</div>", picture(timings));
    page.push_str(&path_table(timings));
    page.push_str("</body>\n</html>\n");
    page
}

fn begun(timings: &Timings) -> String {
    let mut text =
        format!("{:.0}, <strong>{}</strong> in total", timings.began, seconds(timings.elapsed_ms));
    if let Some(reachable) = timings.reachable_ms {
        let rest = timings.done_ms().saturating_sub(reachable);
        let _ = write!(
            text,
            ": machines reachable after {}, done <strong>{}</strong> later",
            seconds(reachable),
            seconds(rest)
        );
    }
    text
}

fn account(timings: &Timings) -> String {
    let done = timings.done_ms();
    format!(
        "On the critical path: <strong>{}</strong> of work, <strong>{}</strong> ({} %) of \
        preparation and scheduling by kdiy",
        seconds(done.saturating_sub(timings.own_ms)),
        seconds(timings.own_ms),
        100 * timings.own_ms / done.max(1)
    )
}

fn legend() -> String {
    let entries = [
        ("machine", "creating machines"),
        ("fetch", "downloading files"),
        ("apply", "changing a machine"),
        ("cluster", "changing the cluster"),
        ("gate", "proving"),
        ("failed", "failed or interrupted"),
        ("own", "kdiy itself"),
    ];
    let spans: String = entries
        .iter()
        .map(|(class, text)| format!("<span><i class=\"{class}\"></i>{text}</span>"))
        .collect();
    format!("<p class=\"legend\">{spans}bright: the critical path</p>\n")
}

/// A row of a place: tasks that do not overlap, by their begin.
type Row<'a> = Vec<&'a Timed>;

fn rows<'a>(tasks: impl Iterator<Item = &'a Timed>) -> Vec<Row<'a>> {
    let mut rows: Vec<Row> = Vec::new();
    for timed in tasks {
        let free = |row: &&mut Row| {
            row.last().is_none_or(|last: &&Timed| last.finished_ms <= timed.started_ms)
        };
        match rows.iter_mut().find(free) {
            Some(row) => row.push(timed),
            None => rows.push(vec![timed]),
        }
    }
    rows
}

fn picture(timings: &Timings) -> String {
    let critical: BTreeSet<&str> =
        timings.critical_path.iter().map(|hop| hop.task.as_str()).collect();
    let mut places: BTreeMap<(bool, String), Vec<&Timed>> = BTreeMap::new();
    for timed in &timings.tasks {
        // Machines first; what belongs to none of them below.
        let key = (timed.task.machine.is_none(), timed.task.place());
        places.entry(key).or_default().push(timed);
    }
    let scale = Scale::of(timings);
    let mut y = HEAD;
    let mut body = String::new();
    y += own_row(timings, &scale, y, &mut body);
    for ((_, place), tasks) in &places {
        let rows = rows(tasks.iter().copied());
        let height = ROW * rows.len() as f64;
        let _ = writeln!(
            body,
            "<rect class=\"band\" x=\"0\" y=\"{y:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\"/>\
             <text class=\"place\" x=\"4\" y=\"{:.0}\">{}</text>",
            y + 13.0,
            escape(place)
        );
        for (number, row) in rows.iter().enumerate() {
            let top = y + ROW * number as f64;
            for (index, timed) in row.iter().enumerate() {
                let until = row.get(index + 1).map_or(timings.elapsed_ms, |next| next.started_ms);
                let is_critical = critical.contains(timed.task.id.as_str());
                body.push_str(&bar(timed, is_critical, &scale, top, until));
            }
        }
        y += height + GAP;
    }
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {y:.0}\" role=\"img\" aria-label=\"tasks over time\">\n{}{body}\
         </svg>\n",
        scale.axis(y)
    )
}

/// What of the critical path was nobody's task.
fn own_row(timings: &Timings, scale: &Scale, top: f64, body: &mut String) -> f64 {
    let _ =
        writeln!(body, "<text class=\"place\" x=\"4\" y=\"{:.0}\">kdiy itself</text>", top + 13.0);
    for hop in timings.critical_path.iter().filter(|hop| hop.waited_ms > 0) {
        let from = hop.started_ms.saturating_sub(hop.waited_ms);
        let _ = writeln!(
            body,
            "<rect class=\"own\" x=\"{:.1}\" y=\"{:.0}\" width=\"{:.1}\" height=\"{}\" rx=\"2\">\
             <title>{} before {}</title></rect>",
            scale.x(from),
            top + 2.0,
            scale.width(hop.waited_ms),
            ROW - 4.0,
            seconds(hop.waited_ms),
            escape(&hop.task)
        );
    }
    ROW + GAP
}

/// `until` is when the next bar of its row begins, or the run's end.
fn bar(timed: &Timed, critical: bool, scale: &Scale, top: f64, until: u64) -> String {
    let class = match (timed.outcome, timed.task.kind) {
        (None | Some(Outcome::Failed), _) => "failed",
        (_, TaskKind::Machine) => "machine",
        (_, TaskKind::Fetch) => "fetch",
        (_, TaskKind::Apply) => "apply",
        (_, TaskKind::Cluster) => "cluster",
        (_, TaskKind::Gate) => "gate",
    };
    let marked = if critical { " critical" } else { "" };
    let (x, width) = (scale.x(timed.started_ms), scale.width(timed.took_ms()));
    let mut text = format!(
        "<rect class=\"task {class}{marked}\" x=\"{x:.1}\" y=\"{:.0}\" width=\"{width:.1}\" \
         height=\"{}\" rx=\"2\"><title>{}: {} ({}, from {})</title></rect>\n",
        top + 2.0,
        ROW - 4.0,
        escape(&timed.task.id),
        escape(&timed.task.title),
        seconds(timed.took_ms()),
        seconds(timed.started_ms)
    );
    // A fetch is called by what it fetches.
    let name = timed.task.id.strip_prefix("fetch:").unwrap_or(&timed.task.step);
    let needed = CHARACTER * name.chars().count() as f64 + 6.0;
    let (class, at) = if needed <= width && critical {
        ("inside", x + 4.0)
    } else if needed <= width {
        ("own-name", x + 4.0)
    } else if x + width + needed <= scale.x(until) {
        ("beside", x + width + 3.0)
    } else {
        return text;
    };
    let _ = writeln!(
        text,
        "<text class=\"{class}\" x=\"{at:.1}\" y=\"{:.0}\">{}</text>",
        top + 13.0,
        escape(name)
    );
    text
}

struct Scale {
    elapsed_ms: u64,
}

impl Scale {
    fn of(timings: &Timings) -> Self {
        Self { elapsed_ms: timings.elapsed_ms.max(1) }
    }

    fn x(&self, ms: u64) -> f64 {
        MARGIN + (WIDTH - MARGIN - 10.0) * ms as f64 / self.elapsed_ms as f64
    }

    /// What happened is seen, however short it was.
    fn width(&self, ms: u64) -> f64 {
        (self.x(ms) - MARGIN).max(1.5)
    }

    fn axis(&self, height: f64) -> String {
        let steps = [100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 60_000, 300_000];
        let fits = |step: &&u64| self.elapsed_ms / **step <= TICKS;
        let step = steps.iter().find(fits).copied().unwrap_or(1_800_000);
        (0..=self.elapsed_ms / step)
            .map(|number| {
                let x = self.x(number * step);
                format!(
                    "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{HEAD}\" \
                     y2=\"{height:.0}\"/><text class=\"tick\" x=\"{x:.1}\" y=\"14\">{} s</text>\n",
                    (number * step) as f64 / 1000.0
                )
            })
            .collect()
    }
}

fn path_table(timings: &Timings) -> String {
    let mut table = String::from(
        "<h2>The critical path</h2>\n<p>Each task waited for the one above it; shortening any \
         other makes nothing faster.</p>\n<table>\n<tr><th class=\"number\">begin</th>\
         <th class=\"number\">took</th><th class=\"number\">wait before</th><th>task</th></tr>\n",
    );
    for hop in &timings.critical_path {
        let _ = writeln!(
            table,
            "<tr><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td class=\"number\">{}</td><td>{}</td></tr>",
            seconds(hop.started_ms),
            seconds(hop.took_ms),
            seconds(hop.waited_ms),
            escape(&hop.task)
        );
    }
    table.push_str("</table>\n");
    table
}

fn seconds(ms: u64) -> String {
    format!("{:.2} s", ms as f64 / 1000.0)
}

/// Names and titles come from playbooks, which users write.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::timings::tests::run;

    #[test]
    fn a_page_shows_every_task_escapes_its_text_and_asks_for_nothing_else() {
        let timings = Timings::of(&run(&[
            ("reach@a", 0, Some(1000), &[]),
            ("etcd@a", 1000, Some(4000), &["reach@a"]),
            ("fast@a", 1000, Some(2000), &["reach@a"]),
            ("gate:etcd", 4100, None, &["etcd@a"]),
        ]))
        .unwrap();
        let page = html(&timings);
        assert_eq!(page.matches("class=\"task ").count(), 4);
        assert_eq!(page.matches(" critical\"").count(), 3);
        assert!(page.contains("title of &lt;etcd@a&gt;") && !page.contains("<etcd@a>"), "{page}");
        for outside in ["http://", "https://", "<script", "url(", "@import"] {
            assert!(!page.contains(outside), "the page asks for something: {outside}");
        }
    }

    #[test]
    fn tasks_that_overlap_have_rows_of_their_own() {
        let events = run(&[
            ("a@m", 0, Some(10), &[]),
            ("b@m", 5, Some(15), &[]),
            ("c@m", 10, Some(20), &[]),
        ]);
        let timings = Timings::of(&events).unwrap();
        let ids: Vec<Vec<&str>> = rows(timings.tasks.iter())
            .iter()
            .map(|row| row.iter().map(|timed| timed.task.id.as_str()).collect())
            .collect();
        assert_eq!(ids, [vec!["a@m", "c@m"], vec!["b@m"]]);
    }
}
