//! The docs: generated pages are up to date, every link has a target, the table of contents lists
//! every page, and the pictures show what the playbooks install.
//!
//! `KDIY_BLESS=1 cargo test --test docs` writes the generated pages anew.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use kdiy::cli::Cli;
use kdiy::config::sample;
use serde_json::Value;

/// Columns of the help, whatever the terminal.
const WIDTH: usize = 96;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compares a generated page with the committed one, or writes it if KDIY_BLESS is set.
fn is_up_to_date(page: &str, wanted: &str) {
    let path = root().join("docs/reference").join(page);
    if std::env::var_os("KDIY_BLESS").is_some() {
        fs::write(&path, wanted).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == wanted, "{page} is old: KDIY_BLESS=1 cargo test --test docs");
}

#[test]
fn the_reference_of_the_command_line_is_up_to_date() {
    let mut cli = Cli::command().term_width(WIDTH);
    cli.build();
    let mut text = String::from(
        "# The command line\n\nThe `--help` of each command. Results go to standard output, everything \
         else to standard error.\n",
    );
    command(&cli, &mut text);
    is_up_to_date("cli.md", &text);
}

fn command(command: &Command, text: &mut String) {
    let help = command.clone().term_width(WIDTH).render_long_help().to_string();
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = write!(text, "\n## {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
    for sub in command.get_subcommands() {
        if !sub.is_hide_set() && sub.get_name() != "help" {
            self::command(sub, text);
        }
    }
}

#[test]
fn the_reference_of_the_cluster_file_is_up_to_date() {
    let schema = sample::schema();
    let mut text = String::from(
        "# The cluster file\n\nEvery key is optional; an empty file means 3 masters and 2 workers. \
         `kdiy init` interviews you and writes a file, `kdiy config init` writes one with every key \
         and a comment on each, `kdiy config show` prints the effective settings, and editors can \
         use the schema of `kdiy config schema`.\n\n| key | type | default | description |\n\
         |---|---|---|---|\n",
    );
    keys(&schema, &schema, "", &mut text);
    is_up_to_date("cluster-file.md", &text);
}

/// A row for each key below `node`, depth first.
fn keys(schema: &Value, node: &Value, prefix: &str, text: &mut String) {
    let node = resolved(schema, node);
    for (key, value) in node["properties"].as_object().into_iter().flatten() {
        let inner = resolved(schema, value);
        let key = format!("{prefix}{key}");
        if inner["properties"].is_object() {
            keys(schema, inner, &format!("{key}."), text);
            continue;
        }
        let about = value["description"].as_str().or(inner["description"].as_str());
        let default = match &value["default"] {
            Value::Null => String::new(),
            default => format!("`{}`", default.to_string().trim_matches('"')),
        };
        let about = about.unwrap_or_default().replace('\n', " ");
        let _ = writeln!(text, "| `{key}` | {} | {default} | {about} |", kind(schema, inner));
        if let Some(items) = inner.get("items").map(|items| resolved(schema, items)) {
            keys(schema, items, &format!("{key}[]."), text);
        }
    }
}

fn resolved<'a>(schema: &'a Value, node: &'a Value) -> &'a Value {
    let name = node["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/"));
    let optional = || node["anyOf"].as_array()?.iter().find(|it| it["$ref"].is_string());
    match (name, optional()) {
        (Some(name), _) => &schema["$defs"][name],
        (None, Some(inner)) => resolved(schema, inner),
        (None, None) => node,
    }
}

/// The allowed values of an enumeration.
fn choices(node: &Value) -> Vec<String> {
    let variants = node["oneOf"].as_array().into_iter().flatten();
    let words = variants.chain([node]).flat_map(|it| {
        let listed = it["enum"].as_array().into_iter().flatten();
        listed.chain([&it["const"]]).filter_map(Value::as_str)
    });
    words.map(|word| format!("`{word}`")).collect()
}

/// The type of a value, as the table shows it.
fn kind(schema: &Value, node: &Value) -> String {
    let choices = choices(node);
    if !choices.is_empty() {
        return choices.join(", ");
    }
    match &node["type"] {
        Value::String(name) if name == "array" => {
            format!("list of {}", kind(schema, resolved(schema, &node["items"])))
        }
        Value::String(name) => name.clone(),
        Value::Array(names) => {
            let names: Vec<&str> =
                names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect();
            names.join(" or ")
        }
        _ => "any".into(),
    }
}

fn pages() -> Vec<PathBuf> {
    let in_root = [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "STYLE.md",
        "CODE_OF_CONDUCT.md",
    ];
    let mut pages: Vec<PathBuf> = in_root.map(|page| root().join(page)).into();
    for directory in ["docs", "examples"] {
        below(&root().join(directory), &mut pages);
    }
    pages
}

fn below(directory: &Path, pages: &mut Vec<PathBuf>) {
    files_below(directory, &mut |path| {
        if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    });
}

fn files_below(directory: &Path, each: &mut dyn FnMut(PathBuf)) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, each);
        } else {
            each(path);
        }
    }
}

/// The lines of a page outside of code blocks. A block ends with a fence as long as its first.
fn prose(text: &str) -> Vec<&str> {
    let mut fence = 0;
    let mut lines = Vec::new();
    for line in text.lines() {
        let backticks = line.trim_start().bytes().take_while(|byte| *byte == b'`').count();
        match (fence, backticks) {
            (0, 3..) => fence = backticks,
            (0, _) => lines.push(line),
            (_, _) if backticks >= fence => fence = 0,
            _ => {}
        }
    }
    lines
}

/// Targets of the links of a page, in prose only.
fn links(text: &str) -> Vec<String> {
    prose(text)
        .into_iter()
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_owned())
        .collect()
}

/// The anchors of a page's headings, as GitHub and mdBook both make them.
fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text).into_iter().filter_map(|line| {
        let title = line.trim_start_matches('#');
        (title.len() < line.len()).then(|| title.strip_prefix(' ')).flatten()
    });
    let mut anchors: Vec<String> = Vec::new();
    for heading in headings {
        let kept = heading.trim().chars().filter_map(|letter| match letter {
            ' ' => Some('-'),
            '-' | '_' => Some(letter),
            _ => letter.is_alphanumeric().then(|| letter.to_ascii_lowercase()),
        });
        let anchor: String = kept.collect();
        let earlier = anchors.iter().filter(|it| **it == anchor).count();
        anchors.push(if earlier == 0 { anchor } else { format!("{anchor}-{earlier}") });
    }
    anchors
}

/// Where files of the repository are on the web; pages of the book have no other way to them.
const REPOSITORY: &str = "https://github.com/kdiy/kdiy/";

/// The file or directory that a link on a page leads to, if it is one of the repository.
fn target(page: &Path, link: &str) -> Option<PathBuf> {
    let file = link.split('#').next().unwrap_or_default();
    if let Some(rest) = file.strip_prefix(REPOSITORY) {
        let path = rest.strip_prefix("blob/main/").or_else(|| rest.strip_prefix("tree/main/"));
        return path.map(|path| root().join(path));
    }
    if file.contains("://") {
        return None;
    }
    Some(if file.is_empty() { page.to_owned() } else { page.parent().unwrap().join(file) })
}

/// The fault of a link, if it has one.
fn fault(page: &Path, link: &str) -> Option<&'static str> {
    let target = target(page, link)?;
    if !target.exists() {
        return Some("no such file");
    }
    let anchor = link.split_once('#').map(|(_, anchor)| anchor.to_owned())?;
    let known = anchors(&fs::read_to_string(target).unwrap()).contains(&anchor);
    (!known).then_some("no such heading")
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        for link in links(&fs::read_to_string(&page).unwrap()) {
            if let Some(fault) = fault(&page, &link) {
                broken.push(format!("{}: {link}: {fault}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn dead_links_and_anchors_are_found() {
    let page = root().join("docs/security.md");
    assert_eq!(fault(&page, "reliability.md#quorum"), None);
    assert_eq!(fault(&page, "#downloads"), None);
    assert_eq!(fault(&page, "https://example.org/none"), None);
    assert_eq!(fault(&page, &format!("{REPOSITORY}blob/main/playbooks/cis.yaml")), None);
    assert_eq!(fault(&page, "none.md"), Some("no such file"));
    assert_eq!(fault(&page, "reliability.md#none"), Some("no such heading"));
    let gone = format!("{REPOSITORY}blob/main/playbooks/none.yaml");
    assert_eq!(fault(&page, &gone), Some("no such file"));
    let text = "# A\n````markdown\n```sh\n# B\n```\n````\n## `C`: d, e\n## A\n";
    assert_eq!(anchors(text), ["a", "c-d-e", "a-1"]);
}

/// The book holds docs/ only, and calls a README index.html: other links are dead there.
#[test]
fn pages_of_the_book_link_to_pages_of_the_book() {
    let docs = root().join("docs");
    let mut dead = Vec::new();
    for page in pages().into_iter().filter(|page| page.starts_with(&docs)) {
        let depth = page.strip_prefix(&docs).unwrap().components().count() - 1;
        for link in links(&fs::read_to_string(&page).unwrap()) {
            let readme = link.ends_with("README.md") && !page.ends_with("SUMMARY.md");
            if !link.contains("://") && (readme || link.matches("../").count() > depth) {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "link to a page, or to {REPOSITORY}blob/main/…: {dead:#?}");
}

/// In both directions, and once each: a page that is not listed is not in the book.
#[test]
fn the_table_of_contents_lists_exactly_the_pages() {
    let docs = root().join("docs");
    let mut listed = links(&fs::read_to_string(docs.join("SUMMARY.md")).unwrap());
    let relative = |page: PathBuf| {
        page.strip_prefix(&docs).ok().map(|name| name.to_string_lossy().into_owned())
    };
    let mut pages: Vec<String> =
        pages().into_iter().filter_map(relative).filter(|name| name != "SUMMARY.md").collect();
    listed.sort();
    pages.sort();
    assert_eq!(listed, pages, "docs/SUMMARY.md (left) and the pages of docs/ (right)");
}

/// A figure is of use to who can repeat it, and knows on what it was measured.
#[test]
fn measurements_name_their_command_and_computer() {
    let directory = root().join("docs/measured");
    let mut pages = Vec::new();
    below(&directory, &mut pages);
    assert!(pages.len() > 5, "{pages:?}");
    for page in pages.iter().filter(|page| !page.ends_with("index.md")) {
        let text = fs::read_to_string(page).unwrap();
        for row in ["| command | `", "| computer | two cores"] {
            assert!(text.contains(row), "{}: no row begins with {row}", page.display());
        }
    }
}

/// Two screens; what is longer is two pages, or holds measurements.
#[test]
fn how_tos_are_short() {
    let docs = root().join("docs");
    let mut pages = vec![docs.join("plan.md"), docs.join("drills.md"), docs.join("speed.md")];
    pages.extend([docs.join("on-my-laptop.md"), docs.join("on-my-homelab.md")]);
    below(&docs.join("how-to"), &mut pages);
    for page in pages {
        let lines = fs::read_to_string(&page).unwrap().lines().count();
        assert!(lines <= 120, "{}: {lines} lines", page.display());
    }
}

/// The texts of a picture's elements of a class.
fn marked(picture: &str, class: &str) -> Vec<String> {
    let elements = picture.split("<text ").skip(1).filter_map(|rest| rest.split_once('>'));
    let of_class = elements.filter(|(attributes, _)| {
        let classes = attributes.split("class=\"").nth(1).and_then(|it| it.split('"').next());
        classes.is_some_and(|classes| classes.split(' ').any(|it| it == class))
    });
    of_class.filter_map(|(_, rest)| rest.split('<').next()).map(str::to_owned).collect()
}

fn text_below(directory: &str) -> String {
    let mut text = String::new();
    files_below(&root().join(directory), &mut |path| {
        text += &fs::read_to_string(path).unwrap();
        text.push('\n');
    });
    text
}

fn has_number(text: &str, number: &str) -> bool {
    text.split(|letter: char| !letter.is_ascii_digit()).any(|it| it == number)
}

/// Ports that the playbooks leave to a default: of the cluster file, and of the kubelet.
const DEFAULT_PORTS: [&str; 2] = ["8443", "10250"];

#[test]
fn the_picture_of_connections_shows_ports_that_are_used() {
    let picture = fs::read_to_string(root().join("docs/pictures/connections.svg")).unwrap();
    let (playbooks, source) = (text_below("playbooks"), text_below("src"));
    let ports = marked(&picture, "port");
    assert!(ports.len() > 8, "{ports:?}");
    for port in ports {
        let number = port.strip_prefix(':').unwrap();
        let text = if DEFAULT_PORTS.contains(&number) { &source } else { &playbooks };
        assert!(has_number(text, number), "nothing uses port {number}");
    }
}

#[test]
fn the_picture_of_connections_shows_every_certificate_and_no_other() {
    let picture = fs::read_to_string(root().join("docs/pictures/connections.svg")).unwrap();
    let mut installed: Vec<String> = Vec::new();
    for line in text_below("playbooks").lines() {
        for key in ["certificate: ", "kubeconfig: {identity: "] {
            let value = line.split_once(key).map(|(_, rest)| rest);
            let name = value.and_then(|rest| rest.split([',', '}']).next());
            installed.extend(name.map(str::to_owned).filter(|name| known_identity(name)));
        }
    }
    // It stays on the user's computer, so no playbook installs it.
    installed.push("admin".into());
    let mut shown = marked(&picture, "certificate");
    for names in [&mut installed, &mut shown] {
        names.sort();
        names.dedup();
    }
    assert_eq!(shown, installed, "the picture (left) and the playbooks (right)");
}

/// By the table in docs/security.md, which a unit test compares with the code.
fn known_identity(name: &str) -> bool {
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let table = page.lines().skip_while(|line| !line.starts_with("| identity |"));
    table
        .take_while(|line| line.starts_with('|'))
        .any(|line| line.starts_with(&format!("| {name} |")))
}

/// Contributors start in these places, so they have to exist.
#[test]
fn the_places_that_contributors_are_sent_to_exist() {
    let text = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 5, "{rows:?}");
    for row in rows {
        for place in row.split('`').skip(1).step_by(2) {
            // `NN-name` stands for each of the playbooks.
            let place = place.replace("NN-name", "20-etcd");
            assert!(root().join(&place).exists(), "{place} does not exist");
        }
    }
}
