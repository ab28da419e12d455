//! Prints what `up` would do.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use owo_colors::OwoColorize;

use crate::bundle::observe::Verb;
use crate::reports::preview::current_state::Standing;
use crate::reports::preview::{Action, MachinePreview, Part, Preview};

/// `full` shows every machine on its own.
pub fn render(preview: &Preview, full: bool) -> String {
    let mut text = String::new();
    for machine in &preview.machines {
        text.push_str(&machine_line(machine));
    }
    for finding in &preview.findings {
        let _ = writeln!(text, "{} {finding}", "!".red());
    }
    for group in groups(&preview.parts, full) {
        text.push_str(&step(preview, &group));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&conclusion(preview));
    text
}

/// Parts that differ only in the machine.
fn groups(parts: &[Part], full: bool) -> Vec<Vec<&Part>> {
    let mut groups: Vec<Vec<&Part>> = Vec::new();
    for part in parts {
        let same = |group: &&mut Vec<&Part>| {
            group[0].step == part.step && group[0].actions == part.actions
        };
        match groups.iter_mut().rev().find(same).filter(|_| !full) {
            Some(group) => group.push(part),
            None => groups.push(vec![part]),
        }
    }
    groups
}

fn machine_line(machine: &MachinePreview) -> String {
    let MachinePreview { name, role, address, standing } = machine;
    let about = format!("{} at {address}", role.as_str());
    match standing {
        Standing::Answers => String::new(),
        Standing::ToBeMade => {
            format!("{} create {}  {}\n", "+".green(), name.bold(), about.dimmed())
        }
        Standing::Silent { reason } => format!(
            "{} {}  does not answer, so kdiy does not know what it needs: {reason}\n",
            "?".yellow(),
            name.bold()
        ),
    }
}

fn step(preview: &Preview, group: &[&Part]) -> String {
    let part = group[0];
    let machines: Vec<&str> = group.iter().filter_map(|part| part.machine.as_deref()).collect();
    let place = match machines.len() {
        0 => "through the API".to_owned(),
        count if count == preview.machines.len() && count > 1 => "on every machine".to_owned(),
        _ => format!("on {}", machines.join(", ")),
    };
    let mut text =
        format!("\n{}  {}\n", part.step.bold(), format!("{} {place}", part.title).dimmed());
    for action in &part.actions {
        text.push_str(&action_lines(action));
    }
    text
}

fn action_lines(action: &Action) -> String {
    let verb = format!("{:<8}", short(action.verb));
    let mark = match action.verb {
        Verb::Install | Verb::Create => format!("{} {}", "+".green(), verb.green()),
        Verb::Change | Verb::Settle => format!("{} {}", "~".yellow(), verb.yellow()),
        Verb::Restart | Verb::Reload => format!("{} {}", "↻".magenta(), verb.magenta()),
        Verb::Run | Verb::Enable | Verb::Start | Verb::Redo => format!("{} {verb}", "›".cyan()),
    };
    let mut text = format!("  {mark} {}", action.what);
    if action.secret && action.verb == Verb::Change {
        text.push_str("  (secret, differs)");
    }
    if let Some(why) = &action.why {
        let _ = write!(text, "  {}", why.trim().replace('\n', " ").dimmed());
    }
    text.push('\n');
    for line in action.diff.iter().flat_map(|diff| diff.lines()) {
        let _ = match line.as_bytes().first() {
            Some(b'+') => writeln!(text, "      {}", line.green()),
            Some(b'-') => writeln!(text, "      {}", line.red()),
            _ => writeln!(text, "      {}", line.dimmed()),
        };
    }
    text
}

const fn short(verb: Verb) -> &'static str {
    match verb {
        Verb::Settle => "chmod",
        Verb::Redo => "again",
        other => other.as_str(),
    }
}

fn conclusion(preview: &Preview) -> String {
    let silent = |machine: &&MachinePreview| matches!(machine.standing, Standing::Silent { .. });
    let silent = preview.machines.iter().filter(silent).count();
    if !preview.changes() {
        return format!("{} {} is as it should be\n", "✔".green(), preview.cluster.bold());
    }
    let actions = counted(preview.parts.iter().map(|part| part.actions.len()).sum(), "thing");
    let steps: BTreeSet<&str> = preview.parts.iter().map(|part| part.step.as_str()).collect();
    let steps = counted(steps.len(), "step");
    let mut text = match preview.begun {
        true => format!("{}: {actions} to do in {steps}", preview.cluster),
        false => {
            let machines = counted(preview.machines.len(), "machine");
            format!("{} would be created: {machines}, {actions} to do in {steps}", preview.cluster)
        }
    };
    if silent > 0 {
        let _ = write!(text, "; no answer from {}", counted(silent, "machine"));
    }
    let _ = write!(text, "\ngates afterwards: {}\n", preview.gates.join(", "));
    text.push_str("nothing was changed; `kdiy up` makes these changes\n");
    text
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Role;

    fn part(machine: &str, what: &str) -> Part {
        Part {
            step: "etcd".into(),
            title: "start the etcd member".into(),
            why: "because".into(),
            machine: Some(machine.into()),
            actions: vec![Action {
                verb: Verb::Change,
                what: what.into(),
                why: None,
                diff: None,
                secret: true,
            }],
        }
    }

    fn shown(preview: &Preview, full: bool) -> String {
        anstream::adapter::strip_str(&render(preview, full)).to_string()
    }

    fn preview(parts: Vec<Part>, standing: Standing) -> Preview {
        let machine = |name: &str| MachinePreview {
            name: name.into(),
            role: Role::Master,
            address: [192, 168, 56, 11].into(),
            standing: standing.clone(),
        };
        Preview {
            cluster: "c".into(),
            begun: true,
            machines: vec![machine("m1"), machine("m2"), machine("m3")],
            findings: Vec::new(),
            parts,
            gates: vec!["etcd".into()],
        }
    }

    #[test]
    fn machines_with_the_same_work_share_a_paragraph_unless_all_is_asked_for() {
        let parts = vec![part("m1", "/a"), part("m2", "/b"), part("m3", "/a")];
        let preview = preview(parts, Standing::Answers);
        let text = shown(&preview, false);
        assert!(text.contains("on m1, m3\n") && text.contains("on m2\n"), "{text}");
        assert!(text.contains("/a  (secret, differs)"), "{text}");
        assert!(shown(&preview, true).contains("on m3\n"));
    }

    #[test]
    fn an_unreachable_machine_is_not_reported_as_unchanged() {
        let reason = "no route to host".to_owned();
        let text = shown(&preview(Vec::new(), Standing::Silent { reason }), false);
        assert!(text.contains("no route to host") && !text.contains("as it should be"), "{text}");
        assert!(shown(&preview(Vec::new(), Standing::Answers), false).contains("as it should be"));
    }
}
