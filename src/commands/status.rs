//! `kdiy status`: shows the health of the cluster, once or continuously.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::cli;
use crate::reports::status::Health;
use crate::reports::status::collect::Probe;
use crate::session::ClusterHandle;
use crate::support::failure::Result;
use crate::ui::{Ui, status, watch};

pub async fn run(arguments: cli::Status, overlay: Option<&Path>, ui: Ui) -> Result<u8> {
    let session = Arc::new(ClusterHandle::open(&arguments.which.name, overlay).await?);
    let probe = Probe::new(session.clone());
    let every = Duration::from_secs(arguments.every);
    let health = match (arguments.watch, ui.has_screen()) {
        (true, true) => watch::run(probe, every).await?,
        (true, false) => repeat(&probe, every, ui).await,
        (false, _) => once(&probe, ui).await,
    };
    session.close().await;
    Ok(health.exit_code())
}

async fn once(probe: &Arc<Probe>, ui: Ui) -> Health {
    let status = probe.look().await;
    ui.result(&status::text(&status, ui.columns()), &status);
    status.health
}

/// Until Ctrl-C.
async fn repeat(probe: &Arc<Probe>, every: Duration, ui: Ui) -> Health {
    let mut last = Health::Healthy;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return last,
            health = async { ticks.tick().await; once(probe, ui).await } => last = health,
        }
    }
}
