//! The guide as one self-contained HTML page.

use std::fmt::Write as _;

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

const STYLE: &str = include_str!("guide.css");

pub fn page(title: &str, markdown: &str) -> String {
    let mut headings: Vec<String> = Vec::new();
    let mut body = String::new();
    let mut events: Vec<Event<'_>> = Vec::new();
    let mut inside = false;
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        match &event {
            Event::Start(Tag::Heading { level: HeadingLevel::H2, .. }) => {
                inside = true;
                headings.push(String::new());
                events.push(Event::Html(format!("<h2 id=\"s{}\">", headings.len()).into()));
                continue;
            }
            Event::End(TagEnd::Heading(HeadingLevel::H2)) => {
                inside = false;
                events.push(Event::Html("</h2>\n".into()));
                continue;
            }
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                events.push(Event::Html(label(info).into()));
            }
            Event::Text(text) | Event::Code(text) if inside => {
                if let Some(heading) = headings.last_mut() {
                    heading.push_str(text);
                }
            }
            _ => {}
        }
        events.push(event);
    }
    html::push_html(&mut body, events.into_iter());
    let mut contents = String::new();
    for (number, heading) in headings.iter().enumerate() {
        let _ =
            writeln!(contents, "<li><a href=\"#s{}\">{}</a></li>", number + 1, escaped(heading));
    }
    let title = escaped(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <nav><ol>\n{contents}</ol></nav>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// `on kdiy-master-1, kdiy-master-2`, above a block of commands.
fn label(info: &str) -> String {
    match info.split_once(" on=") {
        None => String::new(),
        Some((_, "here")) => "<p class=\"on here\">on your computer</p>\n".into(),
        Some((_, machines)) => {
            format!("<p class=\"on\">on {}</p>\n", escaped(&machines.replace(',', ", ")))
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_names_its_machine_and_headings_are_in_the_contents() {
        let page = page("a <b>", "## One & `two`\n\n```sh on=m1,m2\necho <x>\n```\n");
        assert!(page.contains("<title>a &lt;b&gt;</title>"), "{page}");
        assert!(page.contains("<a href=\"#s1\">One &amp; two</a>"), "{page}");
        assert!(page.contains("<h2 id=\"s1\">One &amp; <code>two</code></h2>"), "{page}");
        assert!(page.contains("<p class=\"on\">on m1, m2</p>"), "{page}");
        assert!(page.contains("echo &lt;x&gt;"), "{page}");
    }

    #[test]
    fn a_page_needs_nothing_else() {
        let page = page("t", "text");
        for outside in ["src=", "@import", "url(", "<script", "<link"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
