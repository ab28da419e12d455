//! Commands for a person to run, and the machine to run them on.

use std::fmt::Write as _;

use crate::bundle::script::quote;
use crate::bundle::{Bundle, BundleFile};
use crate::reports::guide::delivery::{install, installing};
use crate::reports::guide::releases::Releases;
use crate::reports::guide::secret_placeholders;

/// Ends here-documents; no file holds a line of this.
const END: &str = "END-OF-FILE";

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The reader's computer.
    Here,
    /// A machine, as root.
    Machine(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub on: Place,
    pub text: String,
}

impl Block {
    /// In the reader's working directory, with its settings.
    pub fn here(text: impl Into<String>) -> Self {
        Self { on: Place::Here, text: text.into() }
    }

    pub fn on(machine: &str, text: String) -> Self {
        Self { on: Place::Machine(machine.to_owned()), text }
    }
}

/// As fenced blocks whose info string says where. Machines that are to do the same share one.
pub fn markdown(blocks: &[Block]) -> String {
    let mut groups: Vec<(Vec<&str>, &str)> = Vec::new();
    for block in blocks {
        let place = match &block.on {
            Place::Here => "here",
            Place::Machine(name) => name,
        };
        match groups.iter_mut().find(|(_, text)| *text == block.text) {
            Some((places, _)) => places.push(place),
            None => groups.push((vec![place], &block.text)),
        }
    }
    groups.iter().fold(String::new(), |mut text, (places, commands)| {
        let _ = writeln!(text, "```sh on={}\n{}\n```\n", places.join(","), commands.trim_end());
        text
    })
}

/// Everything that a step does on its machine up to starting its units, which are not waited
/// for: some are ready only once those of other machines are.
pub fn doing(bundle: &Bundle, releases: &Releases) -> Option<Block> {
    let mut lines = Vec::new();
    for package in &bundle.packages {
        let (provides, name) = (quote(&package.provides), quote(&package.apt));
        lines.push(format!(
            "command -v {provides} || apt-get install -y --no-install-recommends {name}"
        ));
    }
    for name in bundle.artifacts.iter().chain(&bundle.images) {
        lines.extend(releases.installing(name));
    }
    for user in &bundle.users {
        let (name, home) = (quote(&user.name), quote(&user.home));
        lines.push(format!(
            "id -u {name} || useradd --system --user-group --home-dir {home} --no-create-home \\\n  \
             --shell /usr/sbin/nologin {name}"
        ));
    }
    for directory in &bundle.directories {
        lines.push(install(&directory.mode, &directory.owner, "-d", &directory.path));
    }
    lines.extend(bundle.files.iter().map(|file| writing(file, &bundle.machine)));
    if bundle.units.iter().any(|unit| bundle.writes_unit(&unit.name)) {
        lines.push("systemctl daemon-reload".into());
    }
    for command in &bundle.commands {
        let comment: Vec<String> = command.why.lines().map(|line| format!("# {line}")).collect();
        let run = running(&command.run, command.unless.as_deref());
        lines.push(format!("{}\n{run}", comment.join("\n")));
    }
    for unit in &bundle.units {
        let name = quote(&unit.name);
        lines.push(format!("systemctl enable {name}\nsystemctl restart --no-block {name}"));
    }
    (!lines.is_empty()).then(|| Block::on(&bundle.machine, lines.join("\n")))
}

/// Waiting until what a step has started is ready.
pub fn waiting(bundle: &Bundle) -> Option<Block> {
    let ready = bundle.ready.as_ref()?;
    let units: Vec<&str> = bundle.units.iter().map(|unit| unit.name.as_str()).collect();
    let look = match units.as_slice() {
        [] => String::new(),
        units => format!(": journalctl -n 50 -u {}", units.join(" -u ")),
    };
    let text = format!(
        "# Wait for {}; if it takes more than {} s, find out why{look}\nuntil\n{}\ndo sleep 1; done",
        ready.what,
        ready.seconds,
        indented(ready.run.trim_end())
    );
    Some(Block::on(&bundle.machine, text))
}

/// Where a file that only the reader's computer can put together lies there, and below
/// [`DELIVERED`](crate::reports::guide::delivery::DELIVERED).
pub fn made_here(file: &BundleFile, machine: &str) -> String {
    format!("files/{machine}{}", file.path)
}

/// What has to be delivered for a file, if it is not written on the machine.
pub fn delivered(file: &BundleFile, machine: &str) -> Option<String> {
    let text = String::from_utf8_lossy(&file.bytes);
    let whole = secret_placeholders::whole_file(&text);
    whole.or_else(|| secret_placeholders::is_in(&text).then(|| made_here(file, machine)))
}

/// A here-document, whose last line must end before the word that ends it all.
fn here_document(path: &str, end: &str, text: &str) -> String {
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    format!("cat >{path} <<{end}\n{text}{newline}{END}")
}

fn writing(file: &BundleFile, machine: &str) -> String {
    if let Some(source) = delivered(file, machine) {
        return installing(&file.mode, &file.owner, &source, &file.path);
    }
    let path = quote(&file.path);
    let directory = quote(file.path.rsplit_once('/').map_or("/", |(directory, _)| directory));
    let text = here_document(&path, &format!("'{END}'"), &String::from_utf8_lossy(&file.bytes));
    let (owner, mode) = (quote(&file.owner), &file.mode);
    format!("mkdir -p {directory}\n{text}\nchown {owner} {path}\nchmod {mode} {path}")
}

/// A file that the reader's shell puts together from what the reader has made.
pub fn putting_together(path: &str, text: &str) -> String {
    here_document(&quote(path), END, &secret_placeholders::for_shell(text))
}

/// In a shell of its own, so that its `cd` and `exit` stay its own.
fn running(run: &str, unless: Option<&str>) -> String {
    let shell = |text: &str| format!("(\n{}\n)", indented(text.trim_end()));
    match unless {
        None => shell(run),
        Some(unless) => format!("{} || {}", shell(unless), shell(run)),
    }
}

fn indented(text: &str) -> String {
    let line = |line: &str| if line.is_empty() { String::new() } else { format!("  {line}") };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_that_do_the_same_share_a_block() {
        let block = |machine: &str, text: &str| Block::on(machine, text.into());
        let text = markdown(&[block("a", "x"), block("b", "y"), block("c", "x"), Block::here("x")]);
        assert_eq!(text, "```sh on=a,c,here\nx\n```\n\n```sh on=b\ny\n```\n\n");
    }

    #[test]
    fn a_command_is_skipped_when_there_is_nothing_to_do_and_stops_where_it_fails() {
        let sh = |script: &str| {
            let arguments = ["-euc", script];
            std::process::Command::new("sh").args(arguments).output().unwrap().status.success()
        };
        assert!(sh(&running("false", Some("true"))));
        assert!(sh(&running("true", Some("false"))));
        assert!(!sh(&running("false\ntrue", Some("false"))), "what follows hid the failure");
        assert!(!sh(&running("false\ntrue", None)));
    }
}
