//! What a verification found: for people, for programs, and for those who collect test results.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Serialize;

use crate::operations::verify::{CheckError, CheckResult};
use crate::support::event::Evidence;
use crate::support::failure::{Failure, Kind};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    Gates,
    Smoke,
    Deep,
}

impl Part {
    pub const ALL: [Self; 3] = [Self::Gates, Self::Smoke, Self::Deep];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gates => "gates",
            Self::Smoke => "smoke",
            Self::Deep => "deep",
        }
    }

    const fn heading(self) -> &'static str {
        match self {
            Self::Gates => "The gates of the playbooks",
            Self::Smoke => "Smoke test",
            Self::Deep => "Features of Kubernetes",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict", content = "why")]
pub enum Verdict {
    Passed,
    /// Does not apply to this cluster, or could not be tried: why.
    Skipped(String),
    Failed(Failure),
}

impl Verdict {
    /// Green only when something was looked at and all of it was as expected. Without a failure of
    /// its own the first thing that was not is the failure.
    pub fn of(result: CheckResult, evidence: &[Evidence]) -> Self {
        match result {
            Err(CheckError::Skipped(why)) => Self::Skipped(why),
            Err(CheckError::Failed(failure)) => Self::Failed(failure),
            Ok(()) if evidence.is_empty() => Self::Failed(Failure::bug("nothing was checked")),
            Ok(()) => match evidence.iter().find(|it| !it.ok) {
                None => Self::Passed,
                Some(red) => Self::Failed(Failure::new(Kind::Gate, red.difference())),
            },
        }
    }
}

/// One gate or check.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub part: Part,
    pub name: String,
    pub title: String,
    pub verdict: Verdict,
    pub elapsed_ms: u64,
    pub evidence: Vec<Evidence>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub cluster: String,
    pub kubernetes: String,
    pub kdiy: String,
    pub at: Timestamp,
    pub elapsed_ms: u64,
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
    pub entries: Vec<Entry>,
}

impl Report {
    pub fn new(cluster: &str, kubernetes: &str, elapsed_ms: u64, entries: Vec<Entry>) -> Self {
        let count = |wanted: fn(&Verdict) -> bool| {
            entries.iter().filter(|entry| wanted(&entry.verdict)).count()
        };
        Self {
            cluster: cluster.to_owned(),
            kubernetes: kubernetes.to_owned(),
            kdiy: env!("CARGO_PKG_VERSION").into(),
            at: Timestamp::now(),
            elapsed_ms,
            passed: count(|verdict| *verdict == Verdict::Passed),
            failed: count(|verdict| matches!(verdict, Verdict::Failed(_))),
            skipped: count(|verdict| matches!(verdict, Verdict::Skipped(_))),
            entries,
        }
    }

    pub fn markdown(&self) -> String {
        let mut text = format!(
            "# {}: {} passed, {} failed, {} skipped\n\nKubernetes {}, kdiy {}, {}, {:.1} s.\n",
            self.cluster,
            self.passed,
            self.failed,
            self.skipped,
            self.kubernetes,
            self.kdiy,
            self.at,
            seconds(self.elapsed_ms),
        );
        for part in Part::ALL {
            let entries: Vec<&Entry> = self.of(part).collect();
            if !entries.is_empty() {
                let _ = writeln!(text, "\n## {}\n", part.heading());
                for entry in entries {
                    entry.markdown(&mut text);
                }
            }
        }
        text
    }

    /// The dialect that Jenkins, GitLab and GitHub's reporters read.
    pub fn junit(&self) -> String {
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"{}\" tests=\"{}\" \
             failures=\"{}\" skipped=\"{}\" time=\"{:.3}\">\n",
            escaped(&self.cluster),
            self.entries.len(),
            self.failed,
            self.skipped,
            seconds(self.elapsed_ms),
        );
        for part in Part::ALL {
            let entries: Vec<&Entry> = self.of(part).collect();
            let count = |wanted: fn(&Verdict) -> bool| {
                entries.iter().filter(|entry| wanted(&entry.verdict)).count()
            };
            let _ = writeln!(
                text,
                "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">",
                part.as_str(),
                entries.len(),
                count(|verdict| matches!(verdict, Verdict::Failed(_))),
                count(|verdict| matches!(verdict, Verdict::Skipped(_))),
            );
            for entry in entries {
                entry.junit(&mut text);
            }
            text.push_str("  </testsuite>\n");
        }
        text.push_str("</testsuites>\n");
        text
    }

    fn of(&self, part: Part) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.part == part)
    }
}

impl Entry {
    fn markdown(&self, text: &mut String) {
        let took = seconds(self.elapsed_ms);
        let (sign, why) = match &self.verdict {
            Verdict::Passed => ("✔", String::new()),
            Verdict::Skipped(why) => ("–", format!(" {why}")),
            Verdict::Failed(failure) => ("✘", format!(" {failure}")),
        };
        let _ = writeln!(
            text,
            "- {sign} **{}**, {} ({took:.1} s){}",
            self.name,
            self.title,
            if why.is_empty() { String::new() } else { format!(":{}", why.replace('\n', "\n  ")) }
        );
        for evidence in &self.evidence {
            let place = evidence.machine.as_ref().map(|it| format!("{it}: ")).unwrap_or_default();
            let _ = if evidence.ok {
                writeln!(text, "  - {place}{}: {}", evidence.asked, evidence.saw)
            } else {
                writeln!(text, "  - ✘ {place}{}", evidence.difference())
            };
        }
    }

    fn junit(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "    <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\">",
            self.part.as_str(),
            escaped(&format!("{}: {}", self.name, self.title)),
            seconds(self.elapsed_ms),
        );
        let _ = match &self.verdict {
            Verdict::Passed => Ok(()),
            Verdict::Skipped(why) => {
                writeln!(text, "      <skipped message=\"{}\"/>", escaped(why))
            }
            Verdict::Failed(failure) => writeln!(
                text,
                "      <failure message=\"{}\">{}</failure>",
                escaped(&failure.what),
                escaped(&failure.to_string()),
            ),
        };
        text.push_str("    </testcase>\n");
    }
}

fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}

/// For XML's text and attributes. Control characters, which XML 1.0 has no way to write, become
/// spaces.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            other if other.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(ok: bool) -> Evidence {
        Evidence {
            machine: Some("m".into()),
            asked: "pods".into(),
            expected: "2".into(),
            saw: if ok { "2" } else { "1" }.into(),
            ok,
        }
    }

    fn report() -> Report {
        let entry = |name: &str, verdict| Entry {
            part: Part::Smoke,
            name: name.into(),
            title: "a <title>".into(),
            verdict,
            elapsed_ms: 1500,
            evidence: vec![evidence(true)],
        };
        let failure = Failure::new(Kind::Gate, "a & b").tail(vec!["\u{1b}[1m\"x\"".into()]);
        Report::new(
            "kdiy",
            "1.36.4",
            3000,
            vec![
                entry("good", Verdict::Passed),
                entry("bad", Verdict::Failed(failure)),
                entry("none", Verdict::Skipped("no storage".into())),
            ],
        )
    }

    #[test]
    fn a_check_passes_only_if_all_evidence_does() {
        assert_eq!(Verdict::of(Ok(()), &[evidence(true)]), Verdict::Passed);
        assert!(matches!(Verdict::of(Ok(()), &[]), Verdict::Failed(_)));
        let Verdict::Failed(failure) = Verdict::of(Ok(()), &[evidence(true), evidence(false)])
        else {
            panic!("passed");
        };
        assert_eq!(failure.what, "pods: expected 2, observed 1");
        let stopped = Failure::new(Kind::Interrupted, "stopped");
        assert_eq!(Verdict::of(Err(stopped.into()), &[]), Verdict::Skipped("stopped".into()));
    }

    #[test]
    fn junit_counts_and_escapes() {
        let text = report().junit();
        assert!(text.contains("tests=\"3\" failures=\"1\" skipped=\"1\" time=\"3.000\""), "{text}");
        assert!(text.contains("good: a &lt;title&gt;\" time=\"1.500\""), "{text}");
        assert!(text.contains("<failure message=\"a &amp; b\">a &amp; b&#10;"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        assert_eq!(text.matches("<testcase").count(), text.matches("</testcase>").count());
    }

    #[test]
    fn markdown_has_every_entry_with_its_evidence() {
        let text = report().markdown();
        for part in
            ["1 passed, 1 failed, 1 skipped", "✔ **good**", "✘ **bad**", "– **none**", "m: pods: 2"]
        {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(!text.contains("The gates"), "a part without entries has no heading\n{text}");
    }
}
