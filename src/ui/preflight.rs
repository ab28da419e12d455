//! The problems that preflight found, as a table.

use comfy_table::{ContentArrangement, Table, presets};
use owo_colors::OwoColorize;

use crate::reports::preflight::{Report, Severity};
use crate::support::printable::counted;

/// Wide enough for a sentence where there is no terminal to ask.
const WIDTH: u16 = 120;
const MARGIN: u16 = 4;

pub fn render(report: &Report, hosts: usize) -> String {
    let stops = report.problems.iter().filter(|it| it.weight == Severity::Stops).count();
    let warns = report.problems.len() - stops;
    let verdict = match (stops, warns) {
        (0, 0) => {
            let hosts = counted(hosts, "machine");
            format!("{} no problems; checked {hosts}", "✔".green())
        }
        (0, _) => format!("{} no problems; warnings: {warns}", "✔".green()),
        _ => format!("{} problems: {stops}; warnings: {warns}", "✘".red()),
    };
    if report.problems.is_empty() {
        return verdict;
    }
    format!("{}\n{verdict}", lines(report).join("\n"))
}

/// The table alone, line by line.
pub fn lines(report: &Report) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    // As part of an error the lines are set in.
    table.use_stderr();
    table.set_width(table.width().map_or(WIDTH, |width| width.saturating_sub(MARGIN)));
    table.set_header(["", "machine", "found", "fix"]);
    for problem in &report.problems {
        let mark = match problem.weight {
            Severity::Stops => "✘",
            Severity::Warns => "!",
        };
        table.add_row([mark, &problem.machine, &problem.what, &problem.mend]);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::preflight::Problem;

    #[test]
    fn every_problem_is_in_the_table_with_its_fix() {
        let problem = |weight, what: &str| Problem {
            machine: "nuc".into(),
            weight,
            what: what.into(),
            mend: format!("mend {what}"),
        };
        let report = Report {
            problems: vec![problem(Severity::Stops, "one"), problem(Severity::Warns, "two")],
            ..Report::default()
        };
        let text = anstream::adapter::strip_str(&render(&report, 1)).to_string();
        for part in ["✘", "nuc", "mend one", "mend two", "problems: 1; warnings: 1"] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        assert!(render(&Report::default(), 3).contains("3 machines"));
    }
}
