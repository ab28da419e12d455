//! The docs: what is generated is up to date, every link leads somewhere, every page is listed.
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

/// Compares a generated page with the one that is checked in; or writes it, when told to.
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
        "# The command line\n\nAs each command's `--help` has it. Results go to standard output, \
         everything else to standard error.\n",
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
        "# The cluster file\n\nEvery key is optional; an empty file is 3 masters and 2 workers. \
         `kdiy init` asks and writes one, `kdiy config init` writes one with every key and a \
         comment to each, `kdiy config show` prints what is in force, and editors take the schema \
         of `kdiy config schema`.\n\n| key | is | default | |\n|---|---|---|---|\n",
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

/// The words that a value may be, where it is one of some.
fn choices(node: &Value) -> Vec<String> {
    let variants = node["oneOf"].as_array().into_iter().flatten();
    let words = variants.chain([node]).flat_map(|it| {
        let listed = it["enum"].as_array().into_iter().flatten();
        listed.chain([&it["const"]]).filter_map(Value::as_str)
    });
    words.map(|word| format!("`{word}`")).collect()
}

/// What a value may be.
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
    let in_root = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "STYLE.md", "CODE_OF_CONDUCT.md"];
    let mut pages: Vec<PathBuf> = in_root.map(|page| root().join(page)).into();
    for directory in ["docs", "examples"] {
        below(&root().join(directory), &mut pages);
    }
    pages
}

fn below(directory: &Path, pages: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            below(&path, pages);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
}

/// Targets of the links of a page, in prose only.
fn links(text: &str) -> Vec<String> {
    let mut fenced = false;
    let prose = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    prose
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_owned())
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        for link in links(&fs::read_to_string(&page).unwrap()) {
            let target = link.split('#').next().unwrap_or_default();
            let outside = target.is_empty() || target.contains("://");
            if !outside && !page.parent().unwrap().join(target).exists() {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let docs = root().join("docs");
    let listed = links(&fs::read_to_string(docs.join("SUMMARY.md")).unwrap());
    let mut missing = Vec::new();
    for page in pages() {
        let Ok(name) = page.strip_prefix(&docs) else { continue };
        let name = name.to_string_lossy().into_owned();
        if name != "SUMMARY.md" && !listed.contains(&name) {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "not in SUMMARY.md: {missing:?}");
}

/// A table of where to start is of use only while the places are there.
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
