//! Changes a kubeconfig as text: comments, order, quotes and entries of other tools stay as they
//! are, byte for byte. The caller parses the result again; if the layout is too unusual to be
//! changed in place, that parse finds it.

use std::ops::Range;

use granit_parser::{Event, Parser, Span, StructureStyle};
use serde_json::Value;

/// An anchor or an alias where entries are, a second document, a dash that does not stand alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its layout is too unusual to be changed in place")]
pub struct Unusual;

type Result<T> = std::result::Result<T, Unusual>;

/// What is wanted of one list of entries.
pub struct Change<'a> {
    pub list: &'a str,
    /// The name of the entry.
    pub name: &'a str,
    /// What it is to be; `None` removes it.
    pub entry: Option<&'a Value>,
}

/// Where things are in a text.
#[derive(Debug, Default)]
struct Layout {
    flow: bool,
    /// Behind the brace, where the top mapping is a flow mapping.
    open: usize,
    is_empty: bool,
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    name: String,
    /// The end of the key.
    key: usize,
    value: Range<usize>,
    shape: Shape,
}

#[derive(Debug, PartialEq, Eq)]
enum Shape {
    Scalar,
    Flow(Vec<Item>),
    Block(Vec<Item>),
    Other,
}

/// An entry of a list.
#[derive(Debug, Default, PartialEq, Eq)]
struct Item {
    name: Option<String>,
    at: Range<usize>,
}

/// The text with one entry set or removed.
pub fn entry(text: &str, change: &Change<'_>) -> Result<String> {
    let layout = layout(text)?;
    let field = layout.fields.iter().find(|field| field.name == change.list);
    let (range, new) = match (field, change.entry) {
        (None, None) => return Ok(text.to_owned()),
        (None, Some(entry)) => new_field(text, &layout, change.list, entry)?,
        (Some(field), wanted) => in_list(text, &layout, field, change.name, wanted)?,
    };
    Ok(replaced(text, range, &new))
}

/// The text with another `current-context`.
pub fn current_context(text: &str, name: &str) -> Result<String> {
    let layout = layout(text)?;
    let name = scalar(name)?;
    let field = layout.fields.iter().find(|field| field.name == "current-context");
    let (range, new) = match field {
        Some(field) if field.shape == Shape::Scalar => {
            (after_colon(text, field)?..field.value.end, format!(" {name}"))
        }
        Some(_) => return Err(Unusual),
        None if layout.flow => in_flow_mapping(&layout, &format!("\"current-context\": {name}")),
        None => at_end(text, &format!("current-context: {name}\n")),
    };
    Ok(replaced(text, range, &new))
}

fn replaced(text: &str, range: Range<usize>, new: &str) -> String {
    format!("{}{new}{}", &text[..range.start], &text[range.end..])
}

fn scalar(text: &str) -> Result<String> {
    let text = serde_saphyr::to_string(&text).map_err(|_| Unusual)?;
    Ok(text.trim_end().to_owned())
}

fn new_field(
    text: &str,
    layout: &Layout,
    list: &str,
    entry: &Value,
) -> Result<(Range<usize>, String)> {
    if layout.flow {
        return Ok(in_flow_mapping(layout, &format!("\"{list}\": [{entry}]")));
    }
    Ok(at_end(text, &format!("{list}:\n{}", block(entry, 0)?)))
}

fn in_flow_mapping(layout: &Layout, field: &str) -> (Range<usize>, String) {
    let comma = if layout.is_empty { "" } else { ", " };
    (layout.open..layout.open, format!("{field}{comma}"))
}

fn at_end(text: &str, lines: &str) -> (Range<usize>, String) {
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    (text.len()..text.len(), format!("{newline}{lines}"))
}

fn in_list(
    text: &str,
    layout: &Layout,
    field: &Field,
    name: &str,
    wanted: Option<&Value>,
) -> Result<(Range<usize>, String)> {
    let start = after_colon(text, field)?;
    let items = match &field.shape {
        Shape::Other => return Err(Unusual),
        Shape::Scalar => &[][..],
        Shape::Flow(items) | Shape::Block(items) => items.as_slice(),
    };
    let found = items.iter().find(|item| item.name.as_deref() == Some(name));
    let (Some(last), flow) = (items.last(), matches!(field.shape, Shape::Flow(_))) else {
        // The list is empty, or nothing at all.
        let end = if field.value.is_empty() { start } else { field.value.end.max(start) };
        return match wanted {
            None => Ok((0..0, String::new())),
            Some(entry) if layout.flow => Ok((start..end, format!(" [{entry}]"))),
            Some(entry) => {
                let line = line_end(text, end);
                let comment = text[end..line].trim_end();
                Ok((start..line, format!("{comment}\n{}", block(entry, 0)?)))
            }
        };
    };
    match (found, wanted) {
        (None, None) => Ok((0..0, String::new())),
        (Some(item), Some(entry)) if flow => Ok((item.at.clone(), entry.to_string())),
        (Some(item), None) if flow => Ok((with_comma(text, item), String::new())),
        (None, Some(entry)) if flow => {
            let close = field.value.end - 1;
            let comma = if text[..close].trim_end().ends_with(',') { "" } else { ", " };
            Ok((close..close, format!("{comma}{entry}")))
        }
        (Some(item), Some(entry)) => Ok((lines(text, item)?, block(entry, column(text, item)?)?)),
        (None, Some(entry)) => {
            let end = line_end(text, last.at.end);
            let newline = if text[..end].ends_with('\n') { "" } else { "\n" };
            Ok((end..end, format!("{newline}{}", block(entry, column(text, last)?)?)))
        }
        // A list whose last entry goes is an empty one, not nothing.
        (Some(item), None) if items.len() == 1 => {
            let range = lines(text, item)?;
            Ok((start..range.end, format!(" []{}", &text[start..range.start])))
        }
        (Some(item), None) => Ok((lines(text, item)?, String::new())),
    }
}

/// `- name: …`, with its lines below.
fn block(entry: &Value, column: usize) -> Result<String> {
    let yaml = serde_saphyr::to_string(entry).map_err(|_| Unusual)?;
    let indent = " ".repeat(column);
    let line = |(number, line): (usize, &str)| {
        format!("{indent}{} {line}\n", if number == 0 { '-' } else { ' ' })
    };
    Ok(yaml.lines().enumerate().map(line).collect())
}

/// Behind the colon that ends the key.
fn after_colon(text: &str, field: &Field) -> Result<usize> {
    let between = &text[field.key..];
    let skipped = between.len() - between.trim_start_matches([' ', '\t', '"', '\'']).len();
    between[skipped..].starts_with(':').then_some(field.key + skipped + 1).ok_or(Unusual)
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Behind the line's end. A block scalar ends behind the end of its last line already.
fn line_end(text: &str, at: usize) -> usize {
    let at = text[..at].strip_suffix('\n').map_or(at, str::len);
    text[at..].find('\n').map_or(text.len(), |newline| at + newline + 1)
}

/// The dash of an entry, which stands alone before it on its line.
fn dash(text: &str, item: &Item) -> Result<usize> {
    let before = text[..item.at.start].trim_end();
    let dash = before.strip_suffix('-').ok_or(Unusual)?.len();
    let is_first = text[line_start(text, dash)..dash].bytes().all(|byte| byte == b' ');
    is_first.then_some(dash).ok_or(Unusual)
}

fn column(text: &str, item: &Item) -> Result<usize> {
    dash(text, item).map(|dash| dash - line_start(text, dash))
}

fn lines(text: &str, item: &Item) -> Result<Range<usize>> {
    Ok(line_start(text, dash(text, item)?)..line_end(text, item.at.end))
}

/// An entry of a flow sequence with the comma that parts it from its neighbour.
fn with_comma(text: &str, item: &Item) -> Range<usize> {
    let after = &text[item.at.end..];
    if let Some(rest) = after.trim_start().strip_prefix(',') {
        let rest = rest.trim_start_matches(' ');
        return item.at.start..text.len() - rest.len();
    }
    let before = text[..item.at.start].trim_end();
    let start = before.strip_suffix(',').map_or(item.at.start, |before| before.trim_end().len());
    start..item.at.end
}

/// Reads events and keeps what is on the way to the entries' names.
struct Reader<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Range<usize>)> {
        let (event, span) = self.parser.next_event().ok_or(Unusual)?.map_err(|_| Unusual)?;
        Ok((event, bytes(span)?))
    }

    /// Reads the rest of a node that has begun, and returns where it ends: at its last scalar or
    /// bracket.
    fn skip(&mut self, event: &Event<'a>, at: Range<usize>) -> Result<Range<usize>> {
        let mut whole = at;
        let mut open = match event {
            Event::SequenceStart(style, ..) | Event::MappingStart(style, ..) => vec![*style],
            _ => return Ok(whole),
        };
        while !open.is_empty() {
            let (event, at) = self.next()?;
            let ends = match event {
                Event::SequenceStart(style, ..) | Event::MappingStart(style, ..) => {
                    open.push(style);
                    false
                }
                Event::SequenceEnd | Event::MappingEnd => open.pop() == Some(StructureStyle::Flow),
                _ => true,
            };
            if ends && !at.is_empty() {
                whole.end = whole.end.max(at.end);
            }
        }
        Ok(whole)
    }

    fn items(&mut self, style: StructureStyle, at: Range<usize>) -> Result<(Vec<Item>, usize)> {
        let (mut items, mut end): (Vec<Item>, usize) = (Vec::new(), at.end);
        loop {
            let (event, at) = self.next()?;
            match event {
                Event::SequenceEnd => {
                    if style == StructureStyle::Flow {
                        end = at.end;
                    }
                    return Ok((items, end));
                }
                Event::MappingStart(style, ..) => items.push(self.item(style, at)?),
                event => {
                    let at = self.skip(&event, at)?;
                    items.push(Item { name: None, at });
                }
            }
            end = end.max(items.last().map_or(0, |item| item.at.end));
        }
    }

    /// An entry that is a mapping, which has begun.
    fn item(&mut self, style: StructureStyle, at: Range<usize>) -> Result<Item> {
        let mut item = Item { name: None, at };
        loop {
            let (event, at) = self.next()?;
            let key = match event {
                Event::MappingEnd => {
                    if style == StructureStyle::Flow {
                        item.at.end = at.end;
                    }
                    return Ok(item);
                }
                Event::Scalar(text, ..) => text.into_owned(),
                event => {
                    self.skip(&event, at)?;
                    return Err(Unusual);
                }
            };
            item.at.end = item.at.end.max(at.end);
            let (event, at) = self.next()?;
            if let (Event::Scalar(text, ..), "name") = (&event, key.as_str()) {
                item.name = Some(text.to_string());
            }
            let at = self.skip(&event, at)?;
            if !at.is_empty() {
                item.at.end = item.at.end.max(at.end);
            }
        }
    }
}

fn bytes(span: Span) -> Result<Range<usize>> {
    span.byte_range().ok_or(Unusual)
}

fn layout(text: &str) -> Result<Layout> {
    let options = granit_parser::options! { emit_comments: false };
    let mut reader = Reader { parser: Parser::new_from_str_with_options(text, options) };
    let mut layout = Layout::default();
    loop {
        let (event, at) = reader.next()?;
        match event {
            Event::StreamStart | Event::DocumentStart(..) => {}
            Event::StreamEnd => return Ok(layout),
            Event::MappingStart(style, 0, None) => {
                layout.flow = style == StructureStyle::Flow;
                layout.open = at.start + usize::from(layout.flow);
                break;
            }
            _ => return Err(Unusual),
        }
    }
    loop {
        let (event, at) = reader.next()?;
        let (name, key) = match event {
            Event::MappingEnd => break,
            Event::Scalar(name, ..) => (name.into_owned(), at.end),
            _ => return Err(Unusual),
        };
        let (event, at) = reader.next()?;
        let (value, shape) = match event {
            Event::Scalar(..) => (at, Shape::Scalar),
            Event::SequenceStart(style, 0, None) => {
                let start = at.start;
                let (items, end) = reader.items(style, at)?;
                let flow = style == StructureStyle::Flow;
                (start..end, if flow { Shape::Flow(items) } else { Shape::Block(items) })
            }
            event => (reader.skip(&event, at)?, Shape::Other),
        };
        layout.fields.push(Field { name, key, value, shape });
    }
    layout.is_empty = layout.fields.is_empty();
    // What follows is another document, or a mistake.
    loop {
        match reader.next()?.0 {
            Event::StreamEnd => return Ok(layout),
            Event::DocumentEnd => {}
            _ => return Err(Unusual),
        }
    }
}
