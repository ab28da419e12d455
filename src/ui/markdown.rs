//! Markdown on a terminal: headings, lists, tables and code, wrapped to its width.

use comfy_table::{ContentArrangement, Table, presets};
use owo_colors::OwoColorize;
use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// Wider lines are hard to read.
const WIDEST: usize = 100;

pub fn render(markdown: &str, width: usize) -> String {
    let mut writer = Writer { width: width.min(WIDEST), ..Writer::default() };
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        writer.take(event);
    }
    writer.text
}

#[derive(Default)]
struct Writer {
    text: String,
    width: usize,
    /// The paragraph, list item, heading or cell that is being read, styled.
    inline: String,
    bold: bool,
    /// For each list that is open, the number of its next item, if it has numbers.
    lists: Vec<Option<u64>>,
    quote: bool,
    code: bool,
    /// The table that is being read; a cell's text is not styled, because its width is counted.
    rows: Vec<Vec<String>>,
}

impl Writer {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.code => self.code_lines(&text),
            Event::Text(text) | Event::Code(text) if !self.rows.is_empty() => {
                self.inline.push_str(&text);
            }
            Event::Text(text) if self.bold => self.inline.push_str(&text.bold().to_string()),
            Event::Text(text) => self.inline.push_str(&text),
            Event::Code(text) => self.inline.push_str(&text.cyan().to_string()),
            Event::SoftBreak | Event::HardBreak => self.inline.push(' '),
            _ => {}
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Strong | Tag::Emphasis => self.bold = true,
            Tag::List(first) => {
                // An item may hold a list after its own words.
                self.flush();
                self.lists.push(first);
            }
            Tag::BlockQuote(_) => self.quote = true,
            Tag::CodeBlock(kind) => {
                self.code = true;
                if let CodeBlockKind::Fenced(info) = kind
                    && let Some((_, place)) = info.split_once(" on=")
                {
                    let place = place.replace(',', ", ");
                    self.line(&format!("on {place}:").magenta().to_string());
                }
            }
            Tag::TableRow | Tag::TableHead => self.rows.push(Vec::new()),
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Strong | TagEnd::Emphasis => self.bold = false,
            TagEnd::Heading(level) => {
                let heading = std::mem::take(&mut self.inline);
                let styled = match level {
                    HeadingLevel::H1 => heading.bold().underline().to_string(),
                    _ => heading.bold().to_string(),
                };
                self.line(&styled);
                self.blank();
            }
            TagEnd::Paragraph => {
                self.flush();
                self.blank();
            }
            TagEnd::Item => self.flush(),
            TagEnd::List(_) => {
                self.lists.pop();
                if self.lists.is_empty() {
                    self.blank();
                }
            }
            TagEnd::BlockQuote(_) => self.quote = false,
            TagEnd::CodeBlock => {
                self.code = false;
                self.blank();
            }
            TagEnd::TableCell => {
                let cell = std::mem::take(&mut self.inline);
                if let Some(row) = self.rows.last_mut() {
                    row.push(cell);
                }
            }
            TagEnd::Table => self.table(),
            _ => {}
        }
    }

    /// Writes what was read, behind the bullet of the list that it is in.
    fn flush(&mut self) {
        if self.inline.trim().is_empty() {
            return;
        }
        let inline = std::mem::take(&mut self.inline);
        let depth = self.lists.len();
        let bullet = match self.lists.last_mut() {
            None if self.quote => "│ ".to_owned(),
            None => String::new(),
            Some(None) => "• ".to_owned(),
            Some(Some(number)) => {
                *number += 1;
                format!("{}. ", *number - 1)
            }
        };
        let margin = "  ".repeat(depth.saturating_sub(1));
        let hang = if self.quote { bullet.clone() } else { " ".repeat(bullet.chars().count()) };
        let room = self.width.saturating_sub(margin.len() + hang.chars().count()).max(20);
        for (number, line) in wrapped(&inline, room).iter().enumerate() {
            let lead = if number == 0 { &bullet } else { &hang };
            self.line(&format!("{margin}{lead}{line}"));
        }
    }

    /// Code is not wrapped: a command that is broken in two is another command.
    fn code_lines(&mut self, text: &str) {
        for line in text.lines() {
            match line.is_empty() {
                true => self.line(""),
                false => self.line(&format!("    {line}").dimmed().to_string()),
            }
        }
    }

    fn table(&mut self) {
        let mut rows = std::mem::take(&mut self.rows).into_iter();
        let mut table = Table::new();
        table
            .load_style(presets::UTF8_BORDERS_ONLY)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(u16::try_from(self.width).unwrap_or(u16::MAX));
        if let Some(head) = rows.next() {
            table.set_header(head);
        }
        table.add_rows(rows);
        for line in table.to_string().lines() {
            self.line(line);
        }
        self.blank();
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn blank(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }
}

/// Lines of at most `room` columns; styles take none.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut used = 0;
    for word in text.split_whitespace() {
        let length = anstream::adapter::strip_str(word).to_string().chars().count();
        match lines.last_mut() {
            Some(line) if used + 1 + length <= room => {
                line.push(' ');
                line.push_str(word);
                used += 1 + length;
            }
            _ => {
                lines.push(word.to_owned());
                used = length;
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(markdown: &str, width: usize) -> String {
        anstream::adapter::strip_str(&render(markdown, width)).to_string()
    }

    #[test]
    fn paragraphs_and_lists_keep_within_the_width() {
        let text = "Some **words** of a `paragraph` that goes on.\n\n- one two three four five six\n\
                    - seven\n\n1. first\n2. second\n";
        assert_eq!(
            plain(text, 30),
            "Some words of a paragraph that\ngoes on.\n\n• one two three four five six\n• seven\n\n\
             1. first\n2. second\n\n"
        );
        assert!(plain(text, 24).lines().all(|line| line.chars().count() <= 24));
    }

    #[test]
    fn code_is_not_wrapped_and_names_its_machine() {
        let long = "x".repeat(60);
        let text = plain(&format!("```sh on=a,b\n{long}\n\ny\n```\n"), 30);
        assert_eq!(text, format!("on a, b:\n    {long}\n\n    y\n\n"));
    }

    #[test]
    fn a_table_fits() {
        let text = plain("| a | b |\n|---|---|\n| one | two words and more of them |\n", 24);
        assert!(
            text.contains("one") && text.lines().all(|line| line.chars().count() <= 24),
            "{text}"
        );
    }
}
