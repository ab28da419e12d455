//! What every command that works on a cluster needs: its events go to the terminal and to the
//! journal, and it handles Ctrl-C.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::session::ClusterHandle;
use crate::state::journal::{self, Journal};
use crate::state::{self, durations};
use crate::support::event::{Event, Events, Stamped};
use crate::support::failure::Result;
use crate::ui::Ui;

/// The display ends with the last sender of events; one that hangs must not hold kdiy up.
const DISPLAY_ENDS_WITHIN: Duration = Duration::from_secs(2);

pub struct RunContext {
    pub events: Events,
    /// Cancelled by the first Ctrl-C.
    pub stop: CancellationToken,
    /// The journal's file.
    pub journal: PathBuf,
    shown: JoinHandle<()>,
    signals: JoinHandle<()>,
}

impl RunContext {
    /// Opens a journal for `command`. `see` is called with every event, before it is shown.
    pub fn begin(
        session: &ClusterHandle,
        command: &str,
        ui: Ui,
        see: impl FnMut(&Stamped) + Send + 'static,
    ) -> Result<Self> {
        Self::begin_with(session, command, &format!("`kdiy {command}` resumes"), ui, see)
    }

    /// `next` is what to do after the second Ctrl-C, where that is not the same command again.
    pub fn begin_with(
        session: &ClusterHandle,
        command: &str,
        next: &str,
        ui: Ui,
        mut see: impl FnMut(&Stamped) + Send + 'static,
    ) -> Result<Self> {
        let runs = session.state.runs();
        let mut journal = Journal::begin(&runs, command)?;
        let path = journal.path.clone();
        let (events, reader) = Events::redacted(session.redactor.clone());
        let learned = durations::read(&state::cache()?);
        let shown = ui.follow(reader, learned, move |stamped| {
            see(stamped);
            // A journal that cannot be written costs what is told of the run later, no more.
            let _ = journal.append(stamped);
        });
        events.send(Event::RunStarted {
            command: command.into(),
            cluster: session.topology().cluster.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
        });
        let stop = CancellationToken::new();
        let signals = tokio::spawn(listen(stop.clone(), events.clone(), next.to_owned()));
        Ok(Self { events, stop, journal: path, shown, signals })
    }

    /// Waits until everything was shown. Whoever else has a sender must have dropped it.
    pub async fn end(self) {
        self.signals.abort();
        // The listener has a sender, which goes with it.
        let _ = self.signals.await;
        drop(self.events);
        let _ = tokio::time::timeout(DISPLAY_ENDS_WITHIN, self.shown).await;
        // Without it the next estimate is poorer, no more.
        if let (Ok(events), Ok(cache)) = (journal::read(&self.journal), state::cache()) {
            let _ = durations::note(&cache, &events);
        }
    }
}

/// Ctrl-C once lets what is under way finish; twice ends at once. Both leave a state from which
/// can be gone on from.
async fn listen(stop: CancellationToken, events: Events, next: String) {
    if tokio::signal::ctrl_c().await.is_err() {
        return;
    }
    stop.cancel();
    events.note("letting running steps finish; press Ctrl-C again to stop at once");
    if tokio::signal::ctrl_c().await.is_ok() {
        events.note(format!("interrupted; {next}"));
        // The display has its own task; give it a moment to show the line.
        tokio::time::sleep(Duration::from_millis(200)).await;
        #[expect(clippy::exit, reason = "the second Ctrl-C stops at once, whatever is running")]
        std::process::exit(130);
    }
}
