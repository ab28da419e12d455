//! Parses manifests as kubectl does: sigs.k8s.io/yaml, which is go-yaml v2, on the documents into
//! which apimachinery's YAMLOrJSONDecoder splits a file. That is YAML 1.1 with exceptions: `0400`
//! and `0o400` are 256, `yes`, `on` and `y` are true, `12e4567` and `2001-01-01` are strings.
//! Another parser would send something else to the API than the author tested.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};
use serde_json::{Map, Number, Value};

const SEPARATOR: &str = "---";
/// go-yaml's own limits for documents that grow through aliases; its `allowedAliasRatio`.
const ALIASES_FREE: usize = 100;
const NODES_FREE: usize = 1000;
const SMALL_DOCUMENT: f64 = 400_000.0;
const LARGE_DOCUMENT: f64 = 4_000_000.0;
/// From here on, and below its inverse, Go writes a float with an exponent: it is no integer then.
const LARGEST_PLAIN_FLOAT: f64 = 1e21;

/// What a file holds.
#[derive(Debug, Default, PartialEq)]
pub struct Documents {
    /// Without those that hold nothing.
    pub values: Vec<Value>,
    /// One line for each thing that is read without an error, and is probably a mistake.
    pub warnings: Vec<String>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {what}")]
pub struct ReadError {
    line: usize,
    what: String,
}

type Result<T> = std::result::Result<T, ReadError>;

/// The text of a file. kubectl takes UTF-16 with a byte order mark as well, which editors on
/// Windows write.
pub fn decode(bytes: &[u8]) -> Option<String> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let pairs = bytes.chunks(2).map(|pair| Some(unit([pair[0], *pair.get(1)?])));
        let units: Vec<u16> = pairs.collect::<Option<_>>()?;
        String::from_utf16(&units).ok()
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8(rest.to_vec()).ok(),
        _ => String::from_utf8(bytes.to_vec()).ok(),
    }
}

/// Reads all documents of a file.
pub fn read(text: &str) -> Result<Documents> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Documents::default();
    let rest =
        if text.trim_start().starts_with('{') { json(text, &mut documents.values) } else { text };
    let line = 1 + text[..text.len() - rest.len()].matches('\n').count();
    for (line, chunk) in chunks(rest, line)? {
        let (value, warnings) = Composer::document(&chunk, line)?;
        documents.values.extend(value);
        documents.warnings.extend(warnings);
    }
    documents.values.retain(|value| !value.is_null());
    Ok(documents)
}

/// Takes JSON objects off the beginning, and returns the rest. JSON that is followed by anything
/// else, and flow mappings that only look like JSON, are YAML.
fn json<'a>(text: &'a str, values: &mut Vec<Value>) -> &'a str {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut end = 0;
    while let Some(Ok(value)) = stream.next() {
        values.push(with_go_numbers(value));
        end = stream.byte_offset();
    }
    let rest = &text[end..];
    if rest.trim().is_empty() {
        return "";
    }
    // The end of the object's own line is no line of the next document.
    match rest.split_once('\n') {
        Some((blank, below)) if end > 0 && blank.trim().is_empty() => below,
        _ => rest,
    }
}

/// The documents, each with the number of its first line.
fn chunks(text: &str, first: usize) -> Result<Vec<(usize, String)>> {
    let mut chunks = Vec::new();
    let (mut chunk, mut began) = (String::new(), first);
    for (number, line) in (first..).zip(text.lines()) {
        if let Some(after) = line.strip_prefix(SEPARATOR) {
            let after = after.trim();
            if !(after.is_empty() || after.starts_with('#')) {
                let what = format!("only a comment may follow `---` on its line, not `{after}`");
                return Err(ReadError { line: number, what });
            }
            if !chunk.is_empty() {
                chunks.push((began, std::mem::take(&mut chunk)));
                began = number + 1;
                continue;
            }
        }
        chunk.push_str(line);
        chunk.push('\n');
    }
    chunks.push((began, chunk));
    Ok(chunks)
}

/// A value and how many nodes were read for it.
type Counted = (Value, usize);

/// Makes one document of the parser's events.
struct Composer<'input> {
    parser: Parser<'input, granit_parser::StrInput<'input>>,
    /// By anchor; `None` while the node is being read.
    anchors: BTreeMap<usize, Option<Counted>>,
    nodes: usize,
    from_aliases: usize,
    first_line: usize,
    warnings: Vec<String>,
}

impl<'input> Composer<'input> {
    fn document(text: &'input str, first_line: usize) -> Result<(Option<Value>, Vec<String>)> {
        let options = granit_parser::options! {
            emit_comments: false,
            block_scalar_eof_without_line_feed: true,
        };
        let mut composer = Self {
            parser: Parser::new_from_str_with_options(text, options),
            anchors: BTreeMap::new(),
            nodes: 0,
            from_aliases: 0,
            first_line,
            warnings: Vec::new(),
        };
        let mut value = None;
        loop {
            let (event, span) = composer.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::StreamEnd => return Ok((value, composer.warnings)),
                Event::DocumentStart(..) if value.is_some() => {
                    // go-yaml would pass over the rest in silence.
                    return Err(composer.error(span, "start the next document with a line `---`"));
                }
                Event::DocumentStart(..) => {
                    let (event, span) = composer.next()?;
                    value = Some(composer.node(event, span)?.0);
                }
                _ => return Err(composer.error(span, "this is not a document")),
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'input>, Span)> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.scan_error(&error)),
            None => {
                Err(ReadError { line: self.first_line, what: "the document ends early".into() })
            }
        }
    }

    fn line(&self, line: usize) -> usize {
        self.first_line + line.saturating_sub(1)
    }

    fn scan_error(&self, error: &ScanError) -> ReadError {
        ReadError { line: self.line(error.marker().line()), what: error.info() }
    }

    fn error(&self, span: Span, what: impl Into<String>) -> ReadError {
        ReadError { line: self.line(span.start.line()), what: what.into() }
    }

    fn node(&mut self, event: Event<'input>, span: Span) -> Result<Counted> {
        let before = self.nodes;
        self.count(1, 0, span)?;
        let (value, anchor) = match event {
            Event::Alias(anchor) => return self.alias(anchor, span),
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = resolve(tag.as_deref(), style, &text);
                let scalar = scalar.map_err(|what| self.error(span, what))?;
                (scalar.value().map_err(|what| self.error(span, what))?, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.begin(anchor);
                (Value::Array(self.sequence()?), anchor)
            }
            Event::MappingStart(_, anchor, _) => {
                self.begin(anchor);
                (Value::Object(self.mapping()?), anchor)
            }
            _ => return Err(self.error(span, "a value is missing here")),
        };
        let counted = (value, self.nodes - before);
        if anchor != 0 {
            self.anchors.insert(anchor, Some(counted.clone()));
        }
        Ok(counted)
    }

    fn begin(&mut self, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, None);
        }
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<Counted> {
        match self.anchors.get(&anchor) {
            Some(Some(counted)) => {
                let counted = counted.clone();
                self.count(counted.1, counted.1, span)?;
                Ok(counted)
            }
            Some(None) => Err(self.error(span, "this alias is inside its own anchor")),
            None => Err(self.error(span, "no anchor has this name")),
        }
    }

    /// A few lines can stand for millions of nodes; those are refused as go-yaml does.
    fn count(&mut self, nodes: usize, from_aliases: usize, span: Span) -> Result<()> {
        self.nodes += nodes;
        self.from_aliases += from_aliases;
        let nodes = self.nodes as f64;
        let larger = (nodes - SMALL_DOCUMENT) / (LARGE_DOCUMENT - SMALL_DOCUMENT);
        let allowed = 0.99 - 0.89 * larger.clamp(0.0, 1.0);
        let is_excessive = self.from_aliases > ALIASES_FREE
            && self.nodes > NODES_FREE
            && self.from_aliases as f64 / nodes > allowed;
        if is_excessive {
            return Err(self.error(span, "aliases make this document too large"));
        }
        Ok(())
    }

    fn sequence(&mut self) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span)?.0),
            }
        }
    }

    fn mapping(&mut self) -> Result<Map<String, Value>> {
        let mut fields = Map::new();
        // Fields that came through a merge may be given again, that is what merges are for.
        let mut given = std::collections::BTreeSet::new();
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(fields),
                Event::Scalar(text, style, _, tag) if is_merge(tag.as_deref(), style, &text) => {
                    self.count(1, 0, span)?;
                    self.merge(&mut fields)?;
                    continue;
                }
                event => self.key(event, span)?,
            };
            let (event, value_span) = self.next()?;
            let value = self.node(event, value_span)?.0;
            if !given.insert(key.clone()) {
                let line = self.line(span.start.line());
                self.warnings.push(format!(
                    "line {line}: `{key}` appears twice in one mapping; the last one counts, as \
                    with kubectl"
                ));
            }
            fields.insert(key, value);
        }
    }

    fn key(&mut self, event: Event<'input>, span: Span) -> Result<String> {
        let scalar = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, 0, span)?;
                let scalar = resolve(tag.as_deref(), style, &text);
                let scalar = scalar.map_err(|what| self.error(span, what))?;
                if anchor != 0 {
                    let value = scalar.value().map_err(|what| self.error(span, what))?;
                    self.anchors.insert(anchor, Some((value, 1)));
                }
                scalar
            }
            Event::Alias(anchor) => match self.alias(anchor, span)?.0 {
                Value::String(text) => Scalar::Text(text),
                Value::Bool(value) => Scalar::Bool(value),
                Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                    (Some(number), _) => Scalar::Signed(number),
                    (None, number) => Scalar::Float(number.unwrap_or_default()),
                },
                _ => return Err(self.error(span, "a key must be a plain value")),
            },
            _ => return Err(self.error(span, "a key must be a plain value")),
        };
        scalar.key().ok_or_else(|| self.error(span, "this cannot be a key; put it in quotes"))
    }

    /// `<<`: other than YAML says, go-yaml lets it replace what stands before it.
    fn merge(&mut self, fields: &mut Map<String, Value>) -> Result<()> {
        let (event, span) = self.next()?;
        let is_sequence = matches!(event, Event::SequenceStart(..));
        let wanted = "`<<` needs a mapping, an alias of one, or a list of those";
        match self.node(event, span)?.0 {
            Value::Object(merged) => fields.extend(merged),
            // Those that come first win.
            Value::Array(items) if is_sequence => {
                for item in items.into_iter().rev() {
                    let Value::Object(merged) = item else {
                        return Err(self.error(span, wanted));
                    };
                    fields.extend(merged);
                }
            }
            _ => return Err(self.error(span, wanted)),
        }
        Ok(())
    }
}

/// What go-yaml makes of a scalar.
#[derive(Debug, Clone, PartialEq)]
enum Scalar {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
}

impl Scalar {
    fn value(&self) -> std::result::Result<Value, String> {
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Signed(number) => Value::from(*number),
            Self::Unsigned(number) => Value::from(*number),
            Self::Float(number) => {
                go_number(*number).ok_or_else(|| format!("{number} is not a number in JSON"))?
            }
            Self::Text(text) => Value::String(text.clone()),
        })
    }

    /// As sigs.k8s.io/yaml writes keys that are no strings.
    fn key(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bool(value) => Some(value.to_string()),
            Self::Signed(number) => Some(number.to_string()),
            Self::Float(number) => Some(short_float(number)),
            Self::Unsigned(_) | Self::Null => None,
        }
    }
}

/// JSON has no integers; Go writes a float without a fraction like one and reads it as one.
fn go_number(number: f64) -> Option<Value> {
    if number.fract() == 0.0 && number.abs() < LARGEST_PLAIN_FLOAT {
        // Exact: it is in range, and has no fraction.
        let whole = number as i128;
        if let Ok(whole) = i64::try_from(whole) {
            return Some(Value::from(whole));
        }
    }
    Number::from_f64(number).map(Value::Number)
}

fn with_go_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            number.as_f64().and_then(go_number).unwrap_or(Value::Number(number))
        }
        Value::Array(items) => items.into_iter().map(with_go_numbers).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(key, value)| (key, with_go_numbers(value))).collect()
        }
        value => value,
    }
}

/// `strconv.FormatFloat(number, 'g', -1, 32)`.
fn short_float(number: f64) -> String {
    let number = number as f32;
    if number.is_nan() {
        return ".nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { ".inf" } else { "-.inf" }.into();
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{number}"),
    }
}

fn is_implicit(tag: Option<&Tag>, style: ScalarStyle) -> bool {
    tag.is_none() && style == ScalarStyle::Plain
}

fn name(tag: &Tag) -> String {
    format!("{}{}", tag.handle(), tag.suffix())
}

fn is_merge(tag: Option<&Tag>, style: ScalarStyle, text: &str) -> bool {
    let is_tagged = tag.is_some_and(|tag| name(tag) == "tag:yaml.org,2002:merge");
    text == "<<" && (is_tagged || is_implicit(tag, style))
}

/// go-yaml's `resolve`.
fn resolve(
    tag: Option<&Tag>,
    style: ScalarStyle,
    text: &str,
) -> std::result::Result<Scalar, String> {
    if is_implicit(tag, style) {
        return Ok(implicit(text));
    }
    let Some(tag) = tag else { return Ok(Scalar::Text(text.into())) };
    let name = name(tag);
    let Some(kind) = name.strip_prefix("tag:yaml.org,2002:") else {
        return Ok(Scalar::Text(text.into()));
    };
    let refused = || format!("`{text}` is not a {kind}");
    match (kind, implicit(text)) {
        ("binary", _) => binary(text).map(Scalar::Text).ok_or_else(refused),
        ("bool", scalar @ Scalar::Bool(_))
        | ("int", scalar @ (Scalar::Signed(_) | Scalar::Unsigned(_)))
        | ("float", scalar @ Scalar::Float(_))
        | ("null", scalar @ Scalar::Null) => Ok(scalar),
        // Go keeps integers in a float where they fit one.
        ("float", Scalar::Signed(number)) => Ok(Scalar::Float(number as f64)),
        ("bool" | "int" | "float" | "null", _) => Err(refused()),
        _ => Ok(Scalar::Text(text.into())),
    }
}

fn binary(text: &str) -> Option<String> {
    use base64::Engine as _;
    // Go's decoder passes over line breaks.
    let text: String = text.chars().filter(|letter| !matches!(letter, '\r' | '\n')).collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    String::from_utf8(bytes).ok()
}

fn implicit(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Scalar::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Scalar::Bool(false)
        }
        ".nan" | ".NaN" | ".NAN" => Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Scalar::Float(f64::NEG_INFINITY),
        _ => number(text).unwrap_or_else(|| Scalar::Text(text.into())),
    }
}

fn number(text: &str) -> Option<Scalar> {
    match text.as_bytes()[0] {
        b'.' => float(text),
        b'0'..=b'9' | b'+' | b'-' => {
            let plain = text.replace('_', "");
            integer(&plain).or_else(|| float(&plain)).or_else(|| {
                let digits = plain.strip_prefix("0b")?;
                i64::from_str_radix(digits, 2).ok().map(Scalar::Signed)
            })
        }
        _ => None,
    }
}

/// `strconv.ParseInt(text, 0, 64)` and, for what is too large for it, `ParseUint`.
fn integer(text: &str) -> Option<Scalar> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let signed = digits.len() != text.len();
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', _, ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', _, ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // Rust would take another sign here.
    if !digits.starts_with(|digit: char| digit.is_ascii_alphanumeric()) {
        return None;
    }
    let number = i128::from(u64::from_str_radix(digits, radix).ok()?);
    let number = if negative { -number } else { number };
    match (i64::try_from(number), u64::try_from(number)) {
        (Ok(number), _) => Some(Scalar::Signed(number)),
        (_, Ok(number)) if !signed => Some(Scalar::Unsigned(number)),
        _ => None,
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`, unless it is too large.
fn float(text: &str) -> Option<Scalar> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_digits = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit());
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_holds = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !digits.is_empty() && is_digits(digits)
    });
    let holds = is_digits(whole)
        && is_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent_holds;
    let number: f64 = holds.then(|| text.parse().ok()).flatten()?;
    number.is_finite().then_some(Scalar::Float(number))
}
