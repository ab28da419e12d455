//! The summary of `verify`: the count, and everything that did not pass.

use std::fmt::Write as _;
use std::time::Duration;

use owo_colors::OwoColorize;

use crate::operations::verify::report::{Report, Verdict};
use crate::support::printable::counted;
use crate::ui::duration;

/// `stopped`: the user did not let it come to its end.
pub fn text(report: &Report, stopped: bool) -> String {
    let mut text = String::new();
    for entry in &report.entries {
        let (sign, why) = match &entry.verdict {
            Verdict::Passed => continue,
            Verdict::Skipped(why) => ("–".dimmed().to_string(), why.clone()),
            Verdict::Failed(failure) => ("✘".red().to_string(), failure.to_string()),
        };
        let _ = writeln!(text, "{sign} {}: {why}", entry.name.bold());
    }
    let things: usize = report.entries.iter().map(|entry| entry.evidence.len()).sum();
    let counts = format!(
        "{} passed, {} failed, {} skipped; {} checked",
        report.passed,
        report.failed,
        report.skipped,
        counted(things, "thing")
    );
    let (sign, stopped) = match (report.failed, stopped) {
        (0, false) => ("✔".green().to_string(), ""),
        (0, true) => ("–".dimmed().to_string(), "stopped: "),
        _ => ("✘".red().to_string(), ""),
    };
    let took = duration(Duration::from_millis(report.elapsed_ms));
    let _ = writeln!(text, "{sign} {} {stopped}{counts} {}", report.cluster.bold(), took.dimmed());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_run_is_not_reported_as_passed() {
        let report = Report::new("home", "1.36.4", 900, Vec::new());
        let told = |stopped| anstream::adapter::strip_str(&text(&report, stopped)).to_string();
        assert!(told(false).starts_with("✔ home 0 passed"), "{}", told(false));
        assert!(told(true).starts_with("– home stopped: 0 passed"), "{}", told(true));
    }
}
