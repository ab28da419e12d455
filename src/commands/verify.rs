//! `kdiy verify`: runs every gate again, and tests what users do with a cluster.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::cli;
use crate::commands::run_context::RunContext;
use crate::operations::verify::report::Report;
use crate::operations::verify::{self, Verification};
use crate::session::ClusterHandle;
use crate::state::lock::Lock;
use crate::support::event::{Event, Outcome};
use crate::support::failure::{Failure, Result};
use crate::support::time_scale::Unscaled;
use crate::ui::{Ui, verify as screen};

/// Machines that run answer much sooner. Those that do not are found by the gates.
const CONNECT_WITHIN: Unscaled = Unscaled::from_secs(10);

pub async fn run(arguments: cli::Verify, overlay: Option<&Path>, ui: Ui) -> Result<u8> {
    let session = ClusterHandle::open(&arguments.which.name, overlay).await?;
    let targets = arguments.report.as_deref().map(Targets::prepare).transpose()?;
    // Two at once would remove each other's namespaces.
    let _lock = Lock::take(&session.state.lock_file(), "verify")?;
    let began = Instant::now();
    let recording = RunContext::begin(&session, "verify", ui, |_| {})?;
    session.connect(CONNECT_WITHIN).await;
    let verification = Verification {
        context: Arc::new(session.cluster_context()),
        events: recording.events.clone(),
        stop: recording.stop.clone(),
    };
    let proofs = verify::proofs(&session.rendered.playbooks, &session.rendered.template_context);
    let entries = verification.run(&proofs, &verify::checks(arguments.deep)).await;
    let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let kubernetes = session.rendered.template_context.config.kubernetes.to_string();
    let report = Report::new(&session.topology().cluster, &kubernetes, elapsed_ms, entries);
    let stopped = verification.stop.is_cancelled();
    recording.events.send(Event::RunFinished {
        outcome: if report.failed > 0 { Outcome::Failed } else { Outcome::Unchanged },
        changed: 0,
        elapsed_ms,
    });
    drop(verification);
    recording.end().await;
    session.close().await;
    if let Some(targets) = targets {
        targets.write(&report)?;
    }
    ui.result(&screen::text(&report, stopped), &report);
    Ok(match (report.failed, stopped) {
        (_, true) => 130,
        (0, false) => 0,
        (_, false) => 1,
    })
}

/// Where a report goes.
struct Targets(Vec<PathBuf>);

impl Targets {
    /// Makes sure, before anything is tried, that there is a place for the report.
    fn prepare(path: &Path) -> Result<Self> {
        let (directory, files) = match path.extension().and_then(|extension| extension.to_str()) {
            Some("md" | "json" | "xml") => {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                (parent.unwrap_or(Path::new(".")), vec![path.to_owned()])
            }
            Some(other) => {
                return Err(Failure::input(format!("--report: kdiy writes no .{other} reports"))
                    .hint("give a directory, or a file that ends in .md, .json or .xml"));
            }
            None => {
                let names = ["report.md", "report.json", "junit.xml"];
                (path, names.map(|name| path.join(name)).to_vec())
            }
        };
        std::fs::create_dir_all(directory).map_err(|error| {
            Failure::input(format!("--report: cannot create {}", directory.display()))
                .because(error)
        })?;
        tempfile::tempfile_in(directory).map_err(|error| {
            Failure::input(format!("--report: cannot write into {}", directory.display()))
                .because(error)
        })?;
        Ok(Self(files))
    }

    fn write(&self, report: &Report) -> Result<()> {
        for path in &self.0 {
            let text = match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => serde_json::to_string_pretty(report)
                    .map_err(|error| Failure::bug("a report").because(error))?,
                Some("xml") => report.junit(),
                _ => report.markdown(),
            };
            std::fs::write(path, text).map_err(|error| {
                Failure::host(format!("cannot write {}", path.display())).because(error)
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gets_every_form_and_a_file_its_own() {
        let place = tempfile::tempdir().unwrap();
        let report = Report::new("kdiy", "1.36.4", 1, Vec::new());
        Targets::prepare(&place.path().join("a/b")).unwrap().write(&report).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(place.path().join("a/b"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["junit.xml", "report.json", "report.md"]);
        let file = place.path().join("one.xml");
        Targets::prepare(&file).unwrap().write(&report).unwrap();
        assert!(std::fs::read_to_string(file).unwrap().starts_with("<?xml"));
    }

    #[test]
    fn an_unknown_report_format_is_refused_before_the_checks() {
        let refused = Targets::prepare(Path::new("report.pdf")).err().unwrap().to_string();
        assert!(refused.contains(".pdf") && refused.contains(".json"), "{refused}");
    }
}
