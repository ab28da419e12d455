//! `docs/up.svg`: what a terminal shows while a cluster is made, as an animation that needs no script.

use std::fmt::Write as _;
use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use vt100::{Cell, Color, Parser, Screen};

use crate::{Ready, repository};

const ROWS: NonZero<u16> = NonZero::new(22).unwrap();
const COLUMNS: NonZero<u16> = NonZero::new(100).unwrap();
const FRAMES: usize = 24;
/// How long each frame is shown, and the last one.
const SHOWN: f64 = 0.9;
const LAST_SHOWN: f64 = 5.0;
/// In pixels, of a monospaced font of 14 px.
const CHARACTER: f64 = 8.4;
const LINE: f64 = 18.0;
const MARGIN: f64 = 16.0;

const COMMAND: &str = "kdiy up --masters 3 --workers 2";

/// Makes a cluster in a terminal, takes it away again, and writes the picture.
pub fn record(cache: &Path) -> Result<()> {
    let lab = Ready::make(cache)?;
    let directory = tempfile::tempdir()?;
    let (output, timing) = (directory.path().join("output"), directory.path().join("timing"));
    let mut up = lab.up();
    up.args(["--masters", "3", "--workers", "2"]);
    let words = std::iter::once(up.get_program()).chain(up.get_args());
    let words: Vec<String> = words.map(|word| quoted(&word.to_string_lossy())).collect();
    let inside = format!("stty rows {ROWS} cols {COLUMNS}; exec {}", words.join(" "));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &inside]);
    script.arg("--log-out").arg(&output).arg("--log-timing").arg(&timing);
    script.args(["--logging-format", "classic"]).env("TERM", "xterm-256color");
    script.env("KDIY_STATE", directory.path().join("state"));
    for (name, value) in up.get_envs() {
        if let Some(value) = value {
            script.env(name, value);
        }
    }
    let status = script.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.context("cannot start script (Debian: bsdutils)")?;
    let mut destroy = crate::Ground::kdiy(&lab);
    destroy.args(["destroy", "--yes"]).env("KDIY_STATE", directory.path().join("state"));
    crate::host::run(&mut destroy)?;
    ensure!(status.success(), "kdiy up ended with {status}");
    let picture = drawn(&frames(&fs::read(&output)?, &fs::read_to_string(&timing)?)?);
    // Where everybody else's is.
    let state = directory.path().join("state").display().to_string();
    fs::write(repository().join("docs/up.svg"), picture.replace(&state, "~/.local/state/kdiy"))?;
    println!("wrote docs/up.svg");
    Ok(())
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Screens at equal intervals, the last one at the end. `timing` has lines of a delay in seconds and a
/// number of bytes, as script(1) writes them; `output` begins with a line of its own.
fn frames(output: &[u8], timing: &str) -> Result<Vec<Screen>> {
    let header = output.iter().position(|byte| *byte == b'\n').context("an empty recording")? + 1;
    let mut rest = &output[header..];
    let steps = timing.lines().map(|line| {
        let (delay, bytes) = line.split_once(' ').context("a line without a number of bytes")?;
        Ok((delay.parse::<f64>()?, bytes.trim().parse::<usize>()?))
    });
    let steps: Vec<(f64, usize)> = steps.collect::<Result<_>>()?;
    let all: f64 = steps.iter().map(|(delay, _)| delay).sum();
    #[expect(clippy::cast_precision_loss, reason = "two dozen frames")]
    let every = all / FRAMES as f64;
    let mut terminal = Parser::new(ROWS, COLUMNS, 0);
    let (mut now, mut frames) = (0.0, Vec::new());
    #[expect(clippy::cast_precision_loss, reason = "two dozen frames")]
    for (delay, bytes) in steps {
        now += delay;
        while now > every * (frames.len() + 1) as f64 && frames.len() + 1 < FRAMES {
            frames.push(terminal.screen().clone());
        }
        let Some((these, later)) = rest.split_at_checked(bytes) else {
            bail!("the recording ends before its timing")
        };
        terminal.process(these);
        rest = later;
    }
    frames.push(terminal.screen().clone());
    Ok(frames)
}

fn drawn(frames: &[Screen]) -> String {
    let (width, height) = (
        2.0 * MARGIN + CHARACTER * f64::from(COLUMNS.get()),
        2.0 * MARGIN + LINE * f64::from(ROWS.get() + 1),
    );
    let last = frames.len().saturating_sub(1);
    #[expect(clippy::cast_precision_loss, reason = "two dozen frames")]
    let all = SHOWN * last as f64 + LAST_SHOWN;
    let mut style = format!(
        "text{{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#cdd9e5}}\
         .f{{visibility:hidden;animation:{all:.1}s step-end infinite}}"
    );
    let mut groups = String::new();
    for (number, screen) in frames.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "two dozen frames")]
        let at = |frame: usize| 100.0 * SHOWN * frame as f64 / all;
        let _ = write!(style, "@keyframes f{number}{{");
        if number > 0 {
            style.push_str("0%{visibility:hidden}");
        }
        let _ = write!(style, "{:.2}%{{visibility:visible}}", at(number));
        if number < last {
            let _ = write!(style, "{:.2}%{{visibility:hidden}}", at(number + 1));
        }
        let _ = write!(style, "}}#f{number}{{animation-name:f{number}}}");
        let _ = writeln!(groups, "<g class=\"f\" id=\"f{number}\">{}</g>", text(screen));
    }
    // Who wants nothing to move, or prints it, sees the end.
    let _ = write!(
        style,
        "#f{last}{{visibility:visible}}\
         @media (prefers-reduced-motion:reduce){{.f{{animation:none}}#f{last}{{visibility:visible}}}}"
    );
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" \
         aria-label=\"kdiy up, from nothing to a cluster\">\n<style>{style}</style>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#1c2128\"/>\n{groups}</svg>\n"
    )
}

fn text(screen: &Screen) -> String {
    let mut text = line(
        0,
        &format!("<tspan opacity=\".6\">$ </tspan><tspan font-weight=\"bold\">{COMMAND}</tspan>"),
    );
    let (rows, columns) = screen.size();
    for row in 0..rows.get() {
        let mut spans: Vec<(String, String)> = Vec::new();
        for column in 0..columns.get() {
            let Some(cell) = screen.cell(row, column).filter(|cell| !cell.is_wide_continuation())
            else {
                continue;
            };
            let contents = if cell.has_contents() { cell.contents() } else { " " };
            let look = look(cell);
            match spans.last_mut() {
                Some((before, text)) if *before == look => text.push_str(contents),
                _ => spans.push((look, contents.to_owned())),
            }
        }
        while spans.last().is_some_and(|(_, text)| text.trim().is_empty()) {
            spans.pop();
        }
        if spans.is_empty() {
            continue;
        }
        let spans = spans.iter().fold(String::new(), |mut all, (look, text)| {
            let _ = write!(all, "<tspan{look}>{}</tspan>", escaped(text));
            all
        });
        text.push_str(&line(row + 1, &spans));
    }
    text
}

fn line(row: u16, spans: &str) -> String {
    let y = MARGIN + LINE * (f64::from(row) + 0.8);
    format!("<text x=\"{MARGIN}\" y=\"{y:.0}\" xml:space=\"preserve\">{spans}</text>\n")
}

fn look(cell: &Cell) -> String {
    let mut look = String::new();
    let colour = match cell.fgcolor() {
        Color::Idx(1 | 9) => Some("#f47067"),
        Color::Idx(2 | 10) => Some("#57ab5a"),
        Color::Idx(3 | 11) => Some("#c69026"),
        Color::Idx(4 | 12) => Some("#539bf5"),
        Color::Idx(5 | 13) => Some("#b083f0"),
        Color::Idx(6 | 14) => Some("#39c5cf"),
        _ => None,
    };
    if let Some(colour) = colour {
        let _ = write!(look, " fill=\"{colour}\"");
    }
    if cell.bold() {
        look.push_str(" font-weight=\"bold\"");
    }
    if cell.dim() {
        look.push_str(" opacity=\".6\"");
    }
    look
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_becomes_frames_of_what_was_to_be_seen() {
        let output = b"Script started\n\x1b[32mone\x1b[0m\r\x1b[2K\x1b[1mtwo <3\x1b[0m";
        // Seven and four bytes: `one`, green; then the line is emptied and written anew.
        let first = b"\x1b[32mone\x1b[0m".len();
        let timing = format!("0.5 {first}\n10.0 {}\n", output.len() - 15 - first);
        let frames = frames(output, &timing).unwrap();
        assert_eq!(frames.len(), FRAMES);
        assert_eq!(frames[FRAMES / 2].contents(), "one");
        assert_eq!(frames[FRAMES - 1].contents(), "two <3");
        let picture = drawn(&frames);
        assert!(picture.contains("<tspan fill=\"#57ab5a\">one</tspan>"), "{picture}");
        assert!(picture.contains("<tspan font-weight=\"bold\">two &lt;3</tspan>"), "{picture}");
    }
}
