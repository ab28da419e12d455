//! The critical path of a run, as a table.

use std::fmt::Write as _;
use std::time::Duration;

use owo_colors::OwoColorize;

use crate::reports::timings::Timings;
use crate::ui::duration;

pub fn render(timings: &Timings) -> String {
    let took = |ms| duration(Duration::from_millis(ms));
    let mut text = format!(
        "{} of {}, {:.0}: {}\n",
        format!("kdiy {}", timings.command).bold(),
        timings.cluster,
        timings.began,
        took(timings.elapsed_ms)
    );
    if let Some(reachable) = timings.reachable_ms {
        let rest = timings.done_ms().saturating_sub(reachable);
        let _ = writeln!(
            text,
            "machines reachable after {}, done {} later",
            took(reachable),
            took(rest)
        );
    }
    let _ =
        writeln!(text, "\n{}", "critical path\n      begin       took  wait before  task".dimmed());
    for hop in &timings.critical_path {
        let _ = writeln!(
            text,
            "{:>11}{:>11}{:>13}  {}",
            took(hop.started_ms),
            took(hop.took_ms),
            took(hop.waited_ms),
            hop.task
        );
    }
    let done = timings.done_ms().max(1);
    let _ = writeln!(
        text,
        "\npreparation and scheduling by kdiy: {} of {} ({} %)",
        took(timings.own_ms),
        took(done),
        100 * timings.own_ms / done
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::timings::tests::run;

    #[test]
    fn the_path_is_listed_with_its_waits_and_their_share() {
        let timings = Timings::of(&run(&[
            ("reach@a", 100, Some(1000), &[]),
            ("gate:last", 1900, Some(2000), &["reach@a"]),
        ]))
        .unwrap();
        let text = anstream::adapter::strip_str(&render(&timings)).to_string();
        for part in [
            "kdiy up of kdiy, 1970-01-01T00:00:00Z: 2.0 s",
            "machines reachable after 1.0 s, done 1.0 s later",
            "     1.9 s     100 ms       900 ms  gate:last",
            "1.0 s of 2.0 s (50 %)",
        ] {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
    }
}
