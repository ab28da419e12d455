//! The terminal: the only place that prints. It knows events and results, and decides nothing.
//!
//! Results go to standard output, so that they can be piped; everything else to standard error.

mod ask;
mod bars;
pub mod cis;
pub mod drill;
mod estimate;
mod failure;
mod markdown;
mod plain;
pub mod preflight;
pub mod preview;
pub mod status;
pub mod summary;
pub mod timings;
pub mod verify;
pub mod watch;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use crate::state::durations::Learned;
use crate::support::event::Stamped;
use crate::support::failure::{Failure, Result};
use crate::support::printable::printable_with_colours;

/// How often a display is brought up to date while nothing happens.
const TICK: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Progress for people; plain lines where there is no terminal
    #[default]
    Human,
    /// One JSON document a line
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Bars,
    Plain,
    Json,
}

#[derive(Debug, Clone, Copy)]
pub struct Ui {
    mode: Mode,
    verbose: bool,
}

impl Ui {
    pub fn new(format: Format, verbose: bool) -> Self {
        let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb")
            || std::env::var_os("CI").is_some();
        let mode = match format {
            Format::Json => Mode::Json,
            Format::Human if std::io::stderr().is_terminal() && !dumb => Mode::Bars,
            Format::Human => Mode::Plain,
        };
        Self { mode, verbose }
    }

    /// Shows events until there are no more senders. `record` sees each of them first.
    pub fn follow(
        self,
        mut events: UnboundedReceiver<Stamped>,
        learned: Learned,
        mut record: impl FnMut(&Stamped) + Send + 'static,
    ) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut renderer: Box<dyn Renderer> = match self.mode {
                Mode::Json => Box::new(Json),
                Mode::Plain => Box::new(plain::Plain::new(self.verbose)),
                Mode::Bars => {
                    let (height, _) = console::Term::stderr().size();
                    Box::new(bars::Bars::new(self.verbose, learned, height.into(), colour()))
                }
            };
            let mut clock = tokio::time::interval(TICK);
            loop {
                tokio::select! {
                    event = events.recv() => {
                        let Some(event) = event else { break };
                        record(&event);
                        renderer.show(&event);
                    }
                    _ = clock.tick() => renderer.tick(Timestamp::now()),
                }
            }
            renderer.finish();
        })
    }

    /// A result for people, or the same as JSON.
    pub fn result(self, text: &str, value: &impl Serialize) {
        match self.mode {
            Mode::Json => print_json(value),
            _ => out(text.trim_end()),
        }
    }

    /// What a line of a result has room for; without a terminal as much as it likes.
    pub fn columns(self) -> usize {
        if !std::io::stdout().is_terminal() {
            return usize::MAX;
        }
        ratatui::crossterm::terminal::size().map_or(80, |(columns, _)| columns.into())
    }

    /// Whether somebody looks at a screen that can be drawn on.
    pub fn has_screen(self) -> bool {
        self.mode == Mode::Bars && std::io::stdout().is_terminal()
    }

    /// Markdown, rendered where there is a terminal to look at it; `raw` leaves it as it is.
    pub fn document(self, markdown: &str, raw: bool, value: &impl Serialize) {
        let terminal = std::io::stdout().is_terminal() && !raw;
        match terminal {
            true => self.result(&markdown::render(markdown, self.columns()), value),
            false => self.result(markdown, value),
        }
    }

    pub fn note(self, text: &str) {
        if self.mode != Mode::Json {
            err(text);
        }
    }

    pub fn failure(self, failure: &Failure) {
        match self.mode {
            Mode::Json => print_json(&serde_json::json!({"error": failure})),
            _ => err(&failure::render(failure)),
        }
    }

    /// Asks for a yes. Without somebody to ask, only `--yes` is one.
    pub fn confirm(self, question: &str, yes: bool) -> Result<()> {
        if yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() || self.mode == Mode::Json {
            return Err(Failure::input("kdiy has no terminal to ask for confirmation")
                .cause(question.to_owned())
                .hint("use --yes to continue without confirmation"));
        }
        let _ = write!(anstream::stderr(), "{question} [y/N] ");
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        if read.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
            Ok(())
        } else {
            Err(Failure::new(crate::support::failure::Kind::Interrupted, "nothing was changed"))
        }
    }
}

/// Asks for something that must not be seen. `None` where there is no terminal, or no answer.
pub fn ask_password(question: &str) -> Option<String> {
    let terminal = console::Term::stderr();
    if !std::io::stdin().is_terminal() || !terminal.is_term() {
        return None;
    }
    let _ = write!(anstream::stderr(), "{question}");
    terminal.read_secure_line().ok().filter(|answer| !answer.is_empty())
}

/// Turns events into something to look at.
trait Renderer: Send {
    fn show(&mut self, event: &Stamped);
    /// Called several times a second, whether something happens or not.
    fn tick(&mut self, now: Timestamp);
    fn finish(&mut self);
}

struct Json;

impl Renderer for Json {
    fn show(&mut self, event: &Stamped) {
        print_json(event);
    }

    fn tick(&mut self, _: Timestamp) {}

    fn finish(&mut self) {}
}

/// Columns under their names, as wide as the terminal allows.
pub fn table<const N: usize>(
    names: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(names.map(|name| Cell::new(name).add_attribute(Attribute::Dim)))
        .add_rows(rows);
    table.trim_fmt()
}

/// As the terminal and NO_COLOR say.
fn colour() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}

fn print_json(value: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(value) {
        out(&text);
    }
}

/// A reader that went away is no reason to stop.
fn out(text: &str) {
    let _ = writeln!(anstream::stdout(), "{}", printable_with_colours(text));
}

fn err(text: &str) {
    let _ = writeln!(anstream::stderr(), "{}", printable_with_colours(text));
}

/// `850 ms`, `3.2 s`, `1 min 04 s`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 {
        format!("{} ms", duration.as_millis())
    } else if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:02} s", duration.as_secs() / 60, duration.as_secs() % 60)
    }
}
