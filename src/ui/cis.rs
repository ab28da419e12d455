//! The result of the CIS benchmark, as a table.

use std::fmt::Write as _;

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};

use crate::reports::cis::{Finding, Report, Status};

/// Where there is no terminal to be as wide as.
const UNSEEN_WIDTH: u16 = 100;

/// `all` shows what passes as well.
pub fn render(report: &Report, all: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if table.width().is_none() {
        table.set_width(UNSEEN_WIDTH);
    }
    for finding in &report.findings {
        if all || finding.status != Status::Pass {
            table.add_row([mark(finding.status), Cell::new(&finding.id), Cell::new(text(finding))]);
        }
    }
    let mut text = String::new();
    if !table.is_empty() {
        let _ = writeln!(text, "{}\n", table.trim_fmt());
    }
    for (machine, reason) in &report.unseen {
        let _ = writeln!(text, "{machine} does not answer: {reason}\n");
    }
    let _ = write!(
        text,
        "{} {} on {}: {} passed, {} waived, {} to check by hand, {} failed",
        report.benchmark,
        report.version,
        report.cluster,
        report.count(Status::Pass),
        report.count(Status::Waived),
        report.count(Status::Manual),
        report.count(Status::Fail),
    );
    text
}

fn mark(status: Status) -> Cell {
    match status {
        Status::Pass => Cell::new("pass").fg(Color::Green),
        Status::Waived => Cell::new("waived").fg(Color::Yellow),
        Status::Manual => Cell::new("yours").fg(Color::Cyan),
        Status::Fail => Cell::new("FAIL").fg(Color::Red).add_attribute(Attribute::Bold),
    }
}

fn text(finding: &Finding) -> String {
    let mut text = finding.title.clone();
    if finding.status == Status::Fail {
        for problem in &finding.problems {
            let _ = write!(text, "\n{problem}");
        }
    }
    if let Some(reason) = &finding.reason {
        let _ = write!(text, "\n{reason}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(id: &str, status: Status, problem: &str, reason: Option<&str>) -> Finding {
        Finding {
            id: id.into(),
            title: format!("title {id}"),
            status,
            looked_at: 1,
            problems: vec![problem.into()],
            reason: reason.map(str::to_owned),
        }
    }

    #[test]
    fn failures_name_the_machine_and_waivers_the_reason() {
        let report = Report {
            benchmark: "CIS".into(),
            version: "2.0".into(),
            cluster: "kdiy".into(),
            unseen: [("worker-1".to_owned(), "no route".to_owned())].into(),
            findings: vec![
                finding("1.1", Status::Pass, "", None),
                finding("1.2", Status::Fail, "master-1: --x is not given", None),
                finding("1.3", Status::Waived, "elsewhere", Some("because")),
            ],
        };
        let text = anstream::adapter::strip_str(&render(&report, false)).to_string();
        for part in
            ["FAIL", "1.2", "master-1: --x", "waived", "because", "1 passed, 1 waived", "no route"]
        {
            assert!(text.contains(part), "no {part} in {text}");
        }
        assert!(!text.contains("title 1.1") && !text.contains("elsewhere"), "{text}");
        assert!(render(&report, true).contains("title 1.1"));
    }
}
