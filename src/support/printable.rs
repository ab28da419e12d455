//! Text from machines, files and servers on its way to a terminal. Escape sequences in it could
//! move the cursor over what kdiy said, set the window's title or answer for the user.

use std::borrow::Cow;

use serde_json::Value;

/// Without anything that a terminal acts upon.
pub fn printable(text: &str) -> Cow<'_, str> {
    filtered(text, false)
}

/// The same, but for colours: what kdiy has coloured itself is printed by way of this.
pub fn printable_with_colours(text: &str) -> Cow<'_, str> {
    filtered(text, true)
}

/// `1 master`, `3 masters`.
pub fn counted(count: impl std::fmt::Display, noun: &str) -> String {
    let count = count.to_string();
    let plural = if count == "1" { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// All texts in a document; says whether anything was taken out.
pub fn make_printable(document: &mut Value) -> bool {
    match document {
        Value::String(text) => match printable(text) {
            Cow::Borrowed(_) => false,
            Cow::Owned(clean) => {
                *text = clean;
                true
            }
        },
        Value::Array(items) => items.iter_mut().filter_map(cleaned).count() > 0,
        Value::Object(fields) => fields.values_mut().filter_map(cleaned).count() > 0,
        _ => false,
    }
}

fn cleaned(value: &mut Value) -> Option<()> {
    make_printable(value).then_some(())
}

/// Controls, and characters that turn the direction of reading around.
fn is_acted_upon(letter: char) -> bool {
    (letter.is_control() && !matches!(letter, '\n' | '\t'))
        || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn filtered(text: &str, colours: bool) -> Cow<'_, str> {
    if !text.contains(is_acted_upon) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(is_acted_upon) {
        clean.push_str(&rest[..at]);
        let length = sequence(&rest[at..]);
        let (sequence, after) = rest[at..].split_at(length);
        if colours && is_colour(sequence) {
            clean.push_str(sequence);
        }
        rest = after;
    }
    clean.push_str(rest);
    Cow::Owned(clean)
}

/// How long the sequence is that a text begins with (ECMA-48, 5.4 and 5.6).
fn sequence(text: &str) -> usize {
    let first = text.chars().next().map_or(0, char::len_utf8);
    let Some(rest) = text.strip_prefix('\u{1b}') else { return first };
    match rest.chars().next() {
        Some('[') => {
            let is_inner = |letter: char| matches!(letter, ' '..='?');
            let parameters = rest[1..].len() - rest[1..].trim_start_matches(is_inner).len();
            let last = rest[1 + parameters..].chars().next();
            let ends = last.filter(|letter| matches!(letter, '@'..='~')).is_some();
            2 + parameters + usize::from(ends)
        }
        // Strings, such as a title or a link, end with BEL or ST, at the latest with their line.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            let end = rest.find(['\u{7}', '\u{1b}', '\n']).unwrap_or(rest.len());
            match &rest[end..] {
                tail if tail.starts_with("\u{1b}\\") => 1 + end + 2,
                tail if tail.starts_with('\u{7}') => 1 + end + 1,
                _ => 1 + end,
            }
        }
        _ => first,
    }
}

fn is_colour(sequence: &str) -> bool {
    let inner = sequence.strip_prefix("\u{1b}[").and_then(|rest| rest.strip_suffix('m'));
    inner.is_some_and(|inner| inner.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b';' | b':')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_that_a_terminal_acts_upon_is_left() {
        for (text, clean) in [
            ("plain\ttext\nwith Ümlaut", "plain\ttext\nwith Ümlaut"),
            ("\u{1b}[2J\u{1b}[1;1Hgone", "gone"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;a title\u{7}after", "after"),
            ("\u{1b}]8;;https://evil.example\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{1b}]52;c;never ended\nnext line", "\nnext line"),
            ("\u{1b}P+q\u{1b}\\x\u{9b}2Jy\u{7}\u{8}\rz", "x2Jyz"),
            ("abc\u{202e}fed", "abcfed"),
            ("\u{1b}[", ""),
            ("\u{1b}", ""),
        ] {
            assert_eq!(printable(text), clean, "{text:?}");
        }
        assert_eq!(
            printable_with_colours("\u{1b}[1;31mred\u{1b}[0m\u{1b}[2Kx"),
            "\u{1b}[1;31mred\u{1b}[0mx"
        );
    }

    proptest! {
        #[test]
        fn no_text_gets_through(text in "(?s)[\u{1b}\u{9b}\u{7}\\[\\]P0-9;m\\\\a\n]{0,40}") {
            prop_assert!(!printable(&text).contains(is_acted_upon));
            let coloured = printable_with_colours(&text).into_owned();
            prop_assert_eq!(printable(&coloured), printable(&text));
        }
    }
}
