//! `kdiy cis`: checks the running cluster against the CIS Kubernetes Benchmark.

use std::path::Path;

use crate::cli::Cis;
use crate::reports::cis::{self, Benchmark, Status};
use crate::session::ClusterHandle;
use crate::support::failure::Result;
use crate::support::time_scale::Unscaled;
use crate::ui::Ui;
use crate::ui::cis::render;

/// Machines that are up answer much faster.
const REACHED_WITHIN: Unscaled = Unscaled::from_secs(10);

pub async fn run(arguments: Cis, overlay: Option<&Path>, ui: Ui) -> Result<u8> {
    let session = ClusterHandle::open(&arguments.which.name, overlay).await?;
    let benchmark = Benchmark::load(&session.rendered.playbooks)?;
    // What keeps a machine from answering is in the report.
    session.connect(REACHED_WITHIN).await;
    let report = cis::examine(&benchmark, &session).await;
    session.close().await;
    ui.result(&render(&report, arguments.all), &report);
    Ok(u8::from(report.count(Status::Fail) > 0))
}
