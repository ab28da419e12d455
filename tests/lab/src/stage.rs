//! Named checks, one after the other, and the count of what became of them.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Something that holds or does not. What it returns when it holds is its evidence: what was seen.
pub struct Check<'a> {
    name: &'static str,
    run: Box<dyn FnOnce() -> Result<String> + 'a>,
}

impl<'a> Check<'a> {
    pub fn new(name: &'static str, run: impl FnOnce() -> Result<String> + 'a) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// Checks that make something, checks on what was made, and checks that take it away again.
#[derive(Default)]
pub struct Stage<'a> {
    /// Each needs the one before it: after a failure the rest would only repeat it.
    pub setup: Vec<Check<'a>>,
    /// Independent of each other; run when all of `setup` passed.
    pub checks: Vec<Check<'a>>,
    /// Run whatever happened, unless a failure is to be looked at.
    pub teardown: Vec<Check<'a>>,
    /// Told the name of a check that failed, while what it was made on is still there; says where
    /// what is to be known of it was kept.
    pub keep: Option<Box<Keep<'a>>>,
}

type Keep<'a> = dyn Fn(&str) -> Result<PathBuf> + 'a;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    /// Could not be run because of a failure before them.
    pub skipped: usize,
    /// Whether what a stage made is left where something in it failed.
    keep: bool,
    /// Of the checks between setup and teardown only those with this in their name.
    matching: Option<String>,
}

impl Tally {
    pub fn keeping_what_failed(keep: bool) -> Self {
        Self { keep, ..Self::default() }
    }

    pub fn matching(mut self, part_of_name: Option<String>) -> Self {
        self.matching = part_of_name;
        self
    }

    pub fn is_green(&self) -> bool {
        self.failed == 0 && self.skipped == 0
    }

    pub fn run(&mut self, stage: Stage) {
        let matching = self.matching.clone();
        let is_wanted =
            |check: &Check| matching.as_ref().is_none_or(|part| check.name.contains(part.as_str()));
        // Nothing is made for checks of which none was asked for.
        if !stage.checks.is_empty() && !stage.checks.iter().any(is_wanted) {
            return;
        }
        let mut ready = true;
        let failed_before = self.failed;
        let keep = stage.keep.as_deref();
        for check in stage.setup {
            if ready {
                ready = self.check(check, keep);
            } else {
                self.skip(&check);
            }
        }
        for check in stage.checks.into_iter().filter(|check| is_wanted(check)) {
            if ready {
                self.check(check, keep);
            } else {
                self.skip(&check);
            }
        }
        let is_kept = self.keep && self.failed > failed_before;
        for check in stage.teardown {
            if is_kept {
                self.skip(&check);
            } else {
                self.check(check, None);
            }
        }
    }

    fn check(&mut self, check: Check, keep: Option<&Keep>) -> bool {
        println!("…    {}", check.name);
        let began = Instant::now();
        let result = (check.run)();
        let elapsed = seconds(began.elapsed());
        match result {
            Ok(evidence) => {
                self.passed += 1;
                println!("ok   {} ({elapsed}){}", check.name, after_colon(&evidence));
                true
            }
            Err(error) => {
                self.failed += 1;
                println!("FAIL {} ({elapsed}){}", check.name, after_colon(&format!("{error:#}")));
                match keep.map(|keep| keep(check.name)) {
                    Some(Ok(kept)) => println!("     what was said then: {}", kept.display()),
                    Some(Err(error)) => println!("     what was said then is lost: {error:#}"),
                    None => {}
                }
                false
            }
        }
    }

    fn skip(&mut self, check: &Check) {
        self.skipped += 1;
        println!("skip {}", check.name);
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} not run", self.skipped)?;
        }
        Ok(())
    }
}

fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}

fn after_colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use anyhow::bail;

    use super::*;

    #[test]
    fn a_failed_setup_skips_the_checks_but_not_the_teardown() {
        let ran = RefCell::new(Vec::new());
        let pass = |name: &'static str| {
            let ran = &ran;
            Check::new(name, move || {
                ran.borrow_mut().push(name);
                Ok(String::new())
            })
        };
        let mut tally = Tally::default();
        tally.run(Stage {
            setup: vec![pass("first"), Check::new("broken", || bail!("broken")), pass("never")],
            checks: vec![pass("neither")],
            teardown: vec![pass("last")],
            ..Stage::default()
        });
        assert_eq!(*ran.borrow(), ["first", "last"]);
        assert_eq!(tally, Tally { passed: 2, failed: 1, skipped: 2, ..Tally::default() });
        assert!(!tally.is_green());
        assert_eq!(tally.to_string(), "2 passed, 1 failed, 2 not run");
    }

    #[test]
    fn what_failed_can_be_kept_and_what_did_not_goes() {
        let mut tally = Tally::keeping_what_failed(true);
        let gone = RefCell::new(0);
        let teardown = || {
            vec![Check::new("away", || {
                *gone.borrow_mut() += 1;
                Ok(String::new())
            })]
        };
        let red = || Check::new("red", || bail!("red"));
        tally.run(Stage { checks: vec![red()], teardown: teardown(), ..Stage::default() });
        assert_eq!(*gone.borrow(), 0);
        tally.run(Stage { teardown: teardown(), ..Stage::default() });
        assert_eq!(*gone.borrow(), 1);
    }

    #[test]
    fn what_was_said_is_kept_of_what_failed_before_it_is_taken_away() {
        let told = RefCell::new(Vec::new());
        let tell = |name: &str| told.borrow_mut().push(name.to_owned());
        let gone = || {
            tell("gone");
            Ok(String::new())
        };
        Tally::default().run(Stage {
            checks: vec![
                Check::new("green", || Ok(String::new())),
                Check::new("red", || bail!("red")),
            ],
            teardown: vec![Check::new("away", gone)],
            keep: Some(Box::new(|name| {
                tell(name);
                Ok(PathBuf::new())
            })),
            ..Stage::default()
        });
        assert_eq!(*told.borrow(), ["red", "gone"]);
    }

    #[test]
    fn checks_can_be_chosen_by_name_but_not_what_they_stand_on() {
        let ran = RefCell::new(Vec::new());
        let note = |name: &'static str| {
            let ran = &ran;
            Check::new(name, move || {
                ran.borrow_mut().push(name);
                Ok(String::new())
            })
        };
        Tally::default().matching(Some("disk".into())).run(Stage {
            setup: vec![note("made")],
            checks: vec![note("a disk that is full"), note("a pod")],
            teardown: vec![note("gone")],
            ..Stage::default()
        });
        assert_eq!(*ran.borrow(), ["made", "a disk that is full", "gone"]);
    }

    #[test]
    fn a_failed_check_does_not_stop_the_others() {
        let mut tally = Tally::default();
        tally.run(Stage {
            checks: vec![
                Check::new("red", || bail!("red")),
                Check::new("green", || Ok("seen".into())),
            ],
            ..Stage::default()
        });
        assert_eq!(tally, Tally { passed: 1, failed: 1, skipped: 0, ..Tally::default() });
    }
}
