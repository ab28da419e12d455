//! How `verify` ends: the count, and everything that is not proven.

use std::fmt::Write as _;
use std::time::Duration;

use owo_colors::OwoColorize;

use super::duration;
use crate::verify::report::{Report, Verdict};

pub fn text(report: &Report) -> String {
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
        "{} passed, {} failed, {} skipped; {things} things looked at",
        report.passed, report.failed, report.skipped
    );
    let sign = match report.failed {
        0 => "✔".green().to_string(),
        _ => "✘".red().to_string(),
    };
    let took = duration(Duration::from_millis(report.elapsed_ms));
    let _ = writeln!(text, "{sign} {} {counts} {}", report.cluster.bold(), took.dimmed());
    text
}
