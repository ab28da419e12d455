//! Masks known secrets in everything that is shown, logged or recorded.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::support::failure::{Failure, Result};

/// Stands where a secret stood. Shorter than [`SHORTEST`], so that it cannot hold one itself.
const MASK: &str = "***";
/// In bytes. A shorter value is no secret, and masking it would tear ordinary words apart.
const SHORTEST: usize = 4;
/// Lines of a secret that are shorter, in bytes, say nothing on their own.
const SHORTEST_LINE: usize = 16;

/// Replaces the secrets that it was given, in plain form and in base64, and each line of those
/// that have several, because output arrives line by line. Cheap to clone.
#[derive(Clone, Default)]
pub struct Redactor(Option<Arc<AhoCorasick>>);

impl Redactor {
    /// Values of fewer than four bytes are passed over.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut patterns: Vec<String> = secrets.into_iter().flat_map(forms).collect();
        patterns.sort_unstable();
        patterns.dedup();
        if patterns.is_empty() {
            return Ok(Self(None));
        }
        AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(patterns)
            .map(|automaton| Self(Some(Arc::new(automaton))))
            // The cause could quote a pattern, which is a secret.
            .map_err(|_| Failure::bug("cannot search for the secrets of this cluster"))
    }

    /// `text` without any of the secrets.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let Some(automaton) = &self.0 else { return Cow::Borrowed(text) };
        let masked = mask(automaton, text);
        // What the masks leave side by side may make up a secret that was not there before.
        if matches!(masked, Cow::Owned(_)) && automaton.is_match(masked.as_ref()) {
            return Cow::Owned(MASK.into());
        }
        masked
    }

    /// In place, in every string of a document, keys of objects included. Says whether there was
    /// something to mask.
    pub fn json(&self, value: &mut Value) -> bool {
        match value {
            Value::String(text) => self.string(text),
            Value::Array(values) => {
                values.iter_mut().fold(false, |masked, value| self.json(value) | masked)
            }
            Value::Object(fields) => {
                let mut masked = false;
                *fields = std::mem::take(fields)
                    .into_iter()
                    .map(|(mut key, mut value)| {
                        masked |= self.string(&mut key) | self.json(&mut value);
                        (key, value)
                    })
                    .collect();
                masked
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    /// Every text in it that came from a machine or a program.
    pub fn failure(&self, mut failure: Failure) -> Failure {
        self.string(&mut failure.what);
        let texts = failure.cause.iter_mut().chain(&mut failure.tail).chain(&mut failure.hints);
        texts.for_each(|text| {
            self.string(text);
        });
        failure
    }

    fn string(&self, text: &mut String) -> bool {
        let Cow::Owned(masked) = self.text(text) else { return false };
        *text = masked;
        true
    }
}

/// Says nothing of what is searched for.
impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patterns = self.0.as_ref().map_or(0, |automaton| automaton.patterns_len());
        write!(f, "Redactor({patterns} patterns)")
    }
}

fn forms(secret: &str) -> Vec<String> {
    if secret.len() < SHORTEST {
        return Vec::new();
    }
    let mut forms = vec![secret.to_owned(), STANDARD.encode(secret)];
    let lines: Vec<&str> = secret.lines().map(str::trim).collect();
    if lines.len() > 1 {
        let telling = |line: &&str| line.len() >= SHORTEST_LINE && !line.starts_with("-----");
        forms.extend(lines.into_iter().filter(telling).map(str::to_owned));
    }
    forms
}

/// Masks the union of all matches, so that of two secrets that overlap nothing is left over.
fn mask<'a>(automaton: &AhoCorasick, text: &'a str) -> Cow<'a, str> {
    let mut ranges: Vec<_> = automaton.find_overlapping_iter(text).map(|m| m.range()).collect();
    if ranges.is_empty() {
        return Cow::Borrowed(text);
    }
    ranges.sort_unstable_by_key(|range| range.start);
    let mut masked = String::with_capacity(text.len());
    let mut end = 0;
    for range in ranges {
        if range.start >= end {
            masked.push_str(&text[end..range.start]);
            masked.push_str(MASK);
        }
        end = end.max(range.end);
    }
    masked.push_str(&text[end..]);
    Cow::Owned(masked)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
                       MIGHAgEAMBMGByqGSM49AgEGCCqGSM49\nAwEHBG0wawIBAQQg3Yy0\n\
                       -----END PRIVATE KEY-----\n";

    fn redactor(secrets: &[&str]) -> Redactor {
        Redactor::new(secrets.iter().copied()).unwrap()
    }

    #[test]
    fn a_secret_is_masked_and_its_context_stays() {
        let redactor = redactor(&["hunter22", "07401b.f395accd246ae52d"]);
        assert_eq!(
            redactor.text("--token=07401b.f395accd246ae52d --password hunter22!"),
            "--token=*** --password ***!"
        );
        assert!(matches!(redactor.text("nothing in here"), Cow::Borrowed(_)));
    }

    #[test]
    fn of_secrets_that_overlap_nothing_is_left() {
        assert_eq!(redactor(&["abcdef", "defghi"]).text("<abcdefghi>"), "<***>");
        assert_eq!(redactor(&["aaaa"]).text("<aaaaaa>"), "<***>");
    }

    #[test]
    fn each_line_of_a_key_is_a_secret_and_so_is_its_base64() {
        let redactor = redactor(&[KEY]);
        for line in KEY.lines().filter(|line| !line.starts_with("-----")) {
            assert_eq!(redactor.text(line), MASK);
        }
        let encoded = STANDARD.encode(KEY);
        assert_eq!(redactor.text(&format!("client-key-data: {encoded}")), "client-key-data: ***");
        assert_eq!(
            redactor.text("-----BEGIN PRIVATE KEY-----"),
            "-----BEGIN PRIVATE KEY-----",
            "armour says nothing"
        );
    }

    #[test]
    fn documents_are_searched_before_they_are_escaped() {
        let mut document = json!({"a": ["x hunter22"], "hunter22": KEY, "n": 1});
        assert!(redactor(&["hunter22", KEY]).json(&mut document));
        assert_eq!(document, json!({"a": ["x ***"], "***": "***", "n": 1}));
        assert!(!redactor(&["hunter22"]).json(&mut document), "there is nothing left to mask");
    }

    #[test]
    fn failures_and_debug_output_tell_no_secret() {
        let redactor = redactor(&["hunter22"]);
        let failure = Failure::host("bad hunter22")
            .cause("hunter22 again")
            .tail(vec!["-p hunter22".into()])
            .hint("not hunter22");
        assert!(!redactor.failure(failure).to_string().contains("hunter22"));
        assert_eq!(format!("{redactor:?}"), "Redactor(2 patterns)");
    }

    #[test]
    fn a_mask_that_completes_a_secret_does_not_let_it_through() {
        let mut text = "*SECRET".to_owned();
        let redactor = redactor(&["****", "SECRET"]);
        assert_eq!(redactor.text(&text), MASK);
        redactor.string(&mut text);
        assert_eq!(text, MASK);
    }

    proptest! {
        // Few letters, the mask's among them, so that secrets overlap, nest and abut the mask.
        #[test]
        fn no_secret_survives(
            secrets in vec("[ab*\n]{4,8}", 1..6),
            pieces in vec((any::<prop::sample::Index>(), "[ab*é]{0,3}"), 0..8),
        ) {
            let mut text = String::new();
            for (index, between) in &pieces {
                text.push_str(&secrets[index.index(secrets.len())]);
                text.push_str(between);
            }
            let redactor = Redactor::new(secrets.iter().map(String::as_str)).unwrap();
            let mut owned = text.clone();
            redactor.string(&mut owned);
            let shown = redactor.text(&text);
            for secret in &secrets {
                prop_assert!(!shown.contains(secret.as_str()), "{secret:?} in {shown:?}");
                prop_assert!(!owned.contains(secret.as_str()), "{secret:?} in {owned:?}");
            }
        }

        #[test]
        fn text_without_secrets_is_left_alone(text in "[a-z ]{0,40}") {
            let redactor = Redactor::new(["SECRET-1"]).unwrap();
            prop_assert_eq!(redactor.text(&text), text.as_str());
        }
    }
}
