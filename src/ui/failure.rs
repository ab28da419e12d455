//! Prints an error: what, where, why, the last lines of the machine, and what to do.

use owo_colors::OwoColorize;

use crate::support::failure::{Failure, Kind};
use crate::support::printable::printable;

pub fn render(failure: &Failure) -> String {
    let heading = match failure.kind {
        Kind::Interrupted => "stopped:".yellow().bold().to_string(),
        Kind::Bug => "bug in kdiy:".red().bold().to_string(),
        _ => "error:".red().bold().to_string(),
    };
    let mut text = format!("{heading} {}", printable(&failure.what));
    let place: Vec<&str> =
        [&failure.machine, &failure.step].into_iter().flatten().map(String::as_str).collect();
    if !place.is_empty() {
        text.push_str(&format!("\n  {} {}", "at".dimmed(), place.join(", ")));
    }
    if let Some(cause) = &failure.cause {
        text.push_str(&format!("\n  {} {}", "because".dimmed(), printable(cause)));
    }
    for line in &failure.tail {
        text.push_str(&format!("\n  {} {}", "│".dimmed(), printable(line)));
    }
    if let Some(log) = &failure.log {
        text.push_str(&format!("\n  {} {}", "log".dimmed(), log.display()));
    }
    for hint in &failure.hints {
        text.push_str(&format!("\n  {} {}", "hint:".cyan(), printable(hint)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_a_user_needs_is_there_in_order() {
        let failure = Failure::new(Kind::Step, "etcd did not start")
            .on("kdiy-master-1")
            .in_step("etcd")
            .cause("exit status 1")
            .tail(vec!["\u{1b}[2Jbind: address in use".into()])
            .log("/state/logs/kdiy-master-1.log")
            .hint("stop what uses the port");
        let text = anstream::adapter::strip_str(&render(&failure)).to_string();
        assert_eq!(
            text,
            "error: etcd did not start\n  at kdiy-master-1, etcd\n  because exit status 1\n  \
             │ bind: address in use\n  log /state/logs/kdiy-master-1.log\n  \
             hint: stop what uses the port"
        );
    }
}
