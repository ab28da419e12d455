//! The reasons that the playbooks give, as Markdown.

use std::fmt::Write as _;

use crate::playbook::format::Step;

/// Of a step's files and of every flag of its units. The reasons of commands are comments of the
/// commands themselves.
pub fn of(step: &Step) -> String {
    let mut text = String::new();
    let files = step.files.iter().filter_map(|file| Some((&file.path, file.why.as_ref()?)));
    list(&mut text, "Why these files:", files);
    for unit in &step.units {
        let flags = unit.flags.iter().map(|flag| (&flag.flag, &flag.why));
        list(&mut text, &format!("Why `{}` is started with these flags:", unit.name), flags);
    }
    text
}

fn list<'a>(
    text: &mut String,
    title: &str,
    things: impl Iterator<Item = (&'a String, &'a String)>,
) {
    let mut things = things.peekable();
    if things.peek().is_none() {
        return;
    }
    let _ = write!(text, "{title}\n\n");
    for (thing, why) in things {
        let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(text, "- `{thing}`: {why}");
    }
    text.push('\n');
}
