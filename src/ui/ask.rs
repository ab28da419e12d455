//! Questions to the user, asked only on a terminal.

use std::fmt::Display;
use std::io::IsTerminal;
use std::str::FromStr;

use dialoguer::theme::{ColorfulTheme, SimpleTheme, Theme};
use dialoguer::{Input, Select};

use crate::support::failure::{Failure, Kind, Result};
use crate::ui::{Mode, Ui, colour};

impl Ui {
    pub fn can_ask(self) -> bool {
        self.mode != Mode::Json && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }

    /// Which of the choices; `default` is where the cursor stands.
    pub fn choose(self, question: &str, choices: &[String], default: usize) -> Result<usize> {
        Select::with_theme(&*theme())
            .with_prompt(question)
            .items(choices)
            .default(default)
            .interact()
            .map_err(unanswered)
    }

    /// A value of its own kind; asks again until there is one.
    pub fn enter<T>(self, question: &str, default: Option<T>) -> Result<T>
    where
        T: Clone + Display + FromStr<Err: Display>,
    {
        let theme = theme();
        let mut input = Input::with_theme(&*theme).with_prompt(question);
        if let Some(default) = default {
            input = input.default(default);
        }
        input.interact_text().map_err(unanswered)
    }
}

fn theme() -> Box<dyn Theme> {
    match colour() {
        true => Box::new(ColorfulTheme::default()),
        false => Box::new(SimpleTheme),
    }
}

fn unanswered(error: dialoguer::Error) -> Failure {
    Failure::new(Kind::Interrupted, "no answer; kdiy wrote nothing").because(error)
}
