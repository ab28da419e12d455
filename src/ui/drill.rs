//! The results of drills, as a table for the terminal and as a Markdown document.

use std::fmt::Write as _;

use comfy_table::presets::{ASCII_MARKDOWN, UTF8_HORIZONTAL_ONLY};
use comfy_table::{Cell, Color, ContentArrangement, Table};
use owo_colors::OwoColorize;

use crate::operations::drill::catalogue::{Catalogue, Drill};
use crate::operations::drill::measure::Measure;
use crate::operations::drill::report::{Measured, Outcome, Report, Verdict, seconds};

/// One line of a report a drill, then what was wrong and what was seen.
pub fn render(report: &Report) -> String {
    let mut table = table(report);
    table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    let mut text = format!("\n{table}\n");
    for outcome in &report.drills {
        for problem in &outcome.problems {
            let mark = match outcome.verdict {
                Verdict::NotPossible => "–".dimmed().to_string(),
                _ => "✘".red().to_string(),
            };
            let _ = writeln!(text, "{mark} {}: {problem}", outcome.drill);
        }
        for seen in &outcome.seen {
            let _ = writeln!(text, "  {}: {seen}", outcome.drill.dimmed());
        }
    }
    text
}

pub fn markdown(report: &Report) -> String {
    let mut table = table(report);
    table.load_style(ASCII_MARKDOWN);
    let mut text = format!(
        "# Drills of {}\n\n{:.0}, kdiy {}\n\n{table}\n",
        report.cluster,
        report.began,
        env!("CARGO_PKG_VERSION")
    );
    for outcome in report.drills.iter().filter(|it| !it.problems.is_empty() || !it.seen.is_empty())
    {
        let _ = writeln!(text, "\n## {}\n", outcome.drill);
        for line in outcome.problems.iter().chain(&outcome.seen) {
            let _ = writeln!(text, "- {line}");
        }
    }
    text
}

/// What can be drilled.
pub fn list(catalogue: &Catalogue) -> String {
    let mut text = String::new();
    for Drill { name, title, happens, survives, .. } in &catalogue.drills {
        let _ = writeln!(text, "{}: {title}\n  {happens}\n  {survives}", name.bold());
    }
    text
}

fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.set_header([
        "drill",
        "hit",
        "verdict",
        "no write for",
        "after",
        "written",
        "failed",
        "lost",
    ]);
    for outcome in &report.drills {
        table.add_row(row(outcome));
    }
    table
}

fn row(outcome: &Outcome) -> [Cell; 8] {
    let ran = outcome.verdict != Verdict::NotPossible;
    let or_dash = |text: String| Cell::new(if ran { text.as_str() } else { "–" });
    let gap = outcome.measured.iter().find(|it| it.measure == Measure::WriteGap).map(value);
    // What is long while nothing is broken is not the failure's.
    let before = outcome.gap_before_ms.map(|before| format!("{} before", seconds(before)));
    let gaps: Vec<String> = gap.into_iter().chain(before).collect();
    let others = outcome.measured.iter().filter(|it| it.measure != Measure::WriteGap);
    let others: Vec<String> =
        others.map(|it| format!("{} {}", it.measure.short(), value(it))).collect();
    [
        Cell::new(&outcome.drill),
        or_dash(outcome.machines.join(", ")),
        verdict(outcome.verdict),
        or_dash(gaps.join(", ")),
        or_dash(others.join(", ")),
        or_dash(outcome.acknowledged.to_string()),
        or_dash(outcome.failed.to_string()),
        or_dash(outcome.lost.map_or_else(|| "?".to_owned(), |lost| lost.to_string())),
    ]
}

/// `1.2 s (≤ 2.0 s)`.
fn value(measured: &Measured) -> String {
    let seen = measured.ms.map_or_else(|| "never".to_owned(), seconds);
    match measured.bound_ms {
        Some(bound) => format!("{seen} (≤ {})", seconds(bound)),
        None => seen,
    }
}

/// Coloured on a terminal only.
fn verdict(verdict: Verdict) -> Cell {
    let cell = Cell::new(verdict.as_str());
    match verdict {
        Verdict::Survived => cell.fg(Color::Green),
        Verdict::Failed => cell.fg(Color::Red),
        Verdict::NotPossible | Verdict::Interrupted => cell.fg(Color::DarkGrey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut survived = Outcome::begin("etcd-leader", "t", vec!["kdiy-master-2".into()]);
        survived.verdict = Verdict::Survived;
        survived.measured = vec![
            Measured { measure: Measure::WriteGap, ms: Some(1240), bound_ms: Some(2000) },
            Measured { measure: Measure::EtcdLeader, ms: Some(1100), bound_ms: None },
        ];
        (survived.acknowledged, survived.lost) = (321, Some(0));
        survived.gap_before_ms = Some(310);
        let reason = "a container has its host's clock".to_owned();
        Report {
            cluster: "kdiy".into(),
            began: "2026-11-25T12:00:00Z".parse().unwrap(),
            drills: vec![survived, Outcome::not_possible("clock", "t", reason)],
        }
    }

    #[test]
    fn the_markdown_has_a_row_for_each_drill_and_says_why_one_was_not_possible() {
        let text = markdown(&report());
        let row = text.lines().find(|line| line.contains("etcd-leader")).unwrap();
        let cells: Vec<&str> = row.split('|').map(str::trim).filter(|it| !it.is_empty()).collect();
        assert_eq!(
            cells,
            [
                "etcd-leader",
                "kdiy-master-2",
                "survived",
                "1.2 s (≤ 2.0 s), 0.3 s before",
                "etcd leader 1.1 s",
                "321",
                "0",
                "0"
            ]
        );
        assert!(text.contains("## clock\n\n- a container has its host's clock"), "{text}");
    }

    #[test]
    fn an_impossible_drill_claims_nothing() {
        let text = markdown(&report());
        let row = text.lines().find(|line| line.contains("| clock")).unwrap();
        assert!(row.contains("not possible here") && !row.contains('0'), "{row}");
    }
}
