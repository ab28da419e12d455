//! The live view: draws each new [`Status`].

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Style, Stylize as _};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::Paragraph;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::reports::status::collect::Probe;
use crate::reports::status::{Health, Status};
use crate::support::failure::{Failure, Result};
use crate::ui::status::{self, Tone};

/// How soon the reader of keys notices that nobody wants keys any more.
const POLL: Duration = Duration::from_millis(100);

/// Shows the cluster until `q`, Escape, Ctrl-C or SIGTERM. Returns how it was last.
pub async fn run(probe: Arc<Probe>, every: Duration) -> Result<Health> {
    let failed =
        |error: std::io::Error| Failure::host("cannot draw on this terminal").because(error);
    let mut ended = signal(SignalKind::terminate()).map_err(failed)?;
    // Also sees to it that a panic finds the terminal as it was.
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let _restored = Restored;
    let (looks, mut status) = watch::channel(None);
    let looking = AbortOnDrop(tokio::spawn(look(probe, every, looks)));
    let (sender, mut events) = mpsc::channel(16);
    std::thread::spawn(move || read_events(&sender));
    let mut top: u16 = 0;
    loop {
        let current: Option<Status> = status.borrow_and_update().clone();
        draw(&mut terminal, current.as_ref(), every, &mut top).map_err(failed)?;
        let event = tokio::select! {
            changed = status.changed() => {
                if changed.is_err() { return Err(Failure::bug("the display was closed")) }
                continue;
            }
            _ = ended.recv() => break,
            event = events.recv() => event,
        };
        match event {
            Some(event::Event::Key(key)) if key.kind == KeyEventKind::Press => match action(key) {
                Action::Quit => break,
                Action::Scroll(lines) => top = top.saturating_add_signed(lines),
                Action::None => {}
            },
            // A resize draws anew.
            Some(_) => {}
            None => break,
        }
    }
    drop(looking);
    let last = status.borrow().as_ref().map(|status| status.health);
    Ok(last.unwrap_or(Health::Healthy))
}

/// Gives the terminal back, however the view ends.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn look(probe: Arc<Probe>, every: Duration, looks: watch::Sender<Option<Status>>) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if looks.send(Some(probe.look().await)).is_err() {
            return;
        }
    }
}

/// Reading a terminal blocks, so it has a thread, which ends with the receiver.
fn read_events(sender: &mpsc::Sender<event::Event>) {
    while !sender.is_closed() {
        match event::poll(POLL) {
            Ok(false) => {}
            Ok(true) => {
                let Ok(event) = event::read() else { return };
                if sender.blocking_send(event).is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

enum Action {
    Quit,
    Scroll(i16),
    None,
}

fn action(key: KeyEvent) -> Action {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Action::Quit,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Action::Quit,
        KeyCode::Up | KeyCode::Char('k') => Action::Scroll(-1),
        KeyCode::Down | KeyCode::Char('j') => Action::Scroll(1),
        KeyCode::PageUp => Action::Scroll(-10),
        KeyCode::PageDown => Action::Scroll(10),
        _ => Action::None,
    }
}

/// `top` is the first line that is seen; it is kept within the text.
fn draw(
    terminal: &mut DefaultTerminal,
    status: Option<&Status>,
    every: Duration,
    top: &mut u16,
) -> std::io::Result<()> {
    terminal.draw(|frame| {
        let [body, foot] =
            Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
        let Some(status) = status else {
            frame.render_widget("looking …", body);
            return;
        };
        let lines = status::lines(status, body.width.into());
        let hidden = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_sub(body.height);
        *top = (*top).min(hidden);
        let text: Text = lines.into_iter().map(painted).collect();
        frame.render_widget(Paragraph::new(text).scroll((*top, 0)), body);
        let at = status.at.to_zoned_datetime(TimeZone::system()).strftime("%H:%M:%S").to_string();
        let more = if hidden > *top {
            format!(" · ↓ {} more lines", hidden - *top)
        } else {
            String::new()
        };
        let foot_text = format!("{at}, every {} s · q quits{more}", every.as_secs());
        frame.render_widget(Line::from(foot_text).dim(), foot);
    })?;
    Ok(())
}

fn painted(line: status::Line) -> Line<'static> {
    let spans = line.into_iter().map(|span| {
        let style = match span.tone {
            Tone::Plain => Style::new(),
            Tone::Dim => Style::new().dim(),
            Tone::Bold => Style::new().bold(),
            Tone::Good => Style::new().green(),
            Tone::Doubtful => Style::new().yellow(),
            Tone::Bad => Style::new().red(),
        };
        Span::styled(span.text, style)
    });
    spans.collect()
}
