//! Objects exactly as a manifest has them, so that the API and not kdiy validates fields.

use serde_json::Value;

use crate::kubernetes::apply::yaml;
use crate::support::failure::{Failure, Result};

/// Kinds that others live in or are made of; within a file they come first.
const FIRST: [&str; 2] = ["Namespace", "CustomResourceDefinition"];

#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub namespace: Option<String>,
    pub value: Value,
}

/// All objects of a file, in the order in which they are applied.
#[derive(Debug, Default)]
pub struct Objects {
    pub objects: Vec<Object>,
    /// What is probably a mistake of the file.
    pub warnings: Vec<String>,
}

/// `file` is what the user can find.
pub fn parse(file: &str, text: &str) -> Result<Objects> {
    let documents = yaml::read(text).map_err(|error| {
        Failure::input(format!("{file} is not a valid manifest")).cause(error.to_string())
    })?;
    let mut objects = Vec::new();
    for value in documents.values {
        flatten(file, value, &mut objects)?;
    }
    let place = |kind: &str| FIRST.iter().position(|first| *first == kind).unwrap_or(FIRST.len());
    objects.sort_by_key(|object| place(&object.kind));
    let warnings = documents.warnings.iter().map(|warning| format!("{file}: {warning}"));
    Ok(Objects { objects, warnings: warnings.collect() })
}

/// What has `items` is a list of objects, whatever its kind; those of a `RoleBindingList` may go
/// without saying that they are each a `RoleBinding`.
fn flatten(file: &str, value: Value, objects: &mut Vec<Object>) -> Result<()> {
    let Value::Object(mut fields) = value else {
        return Err(Failure::input(format!("{file} is not a valid manifest"))
            .cause(format!("it has a document that is not an object: {}", shortened(&value))));
    };
    if let Some(items) = fields.remove("items") {
        let list = Value::Object(fields);
        let kind = text(&list["kind"]).trim_end_matches("List");
        let Value::Array(items) = items else {
            return if items.is_null() { Ok(()) } else { Err(no_list(file, &list)) };
        };
        for mut item in items {
            if item.is_object() && item["kind"].is_null() && item["apiVersion"].is_null() {
                item["kind"] = kind.into();
                item["apiVersion"] = list["apiVersion"].clone();
            }
            flatten(file, item, objects)?;
        }
        return Ok(());
    }
    objects.push(object(file, Value::Object(fields))?);
    Ok(())
}

fn no_list(file: &str, list: &Value) -> Failure {
    Failure::input(format!("{file}: `items` of a {} is not a list", text(&list["kind"])))
}

fn object(file: &str, value: Value) -> Result<Object> {
    for field in ["kind", "apiVersion"] {
        if text(&value[field]).is_empty() {
            return Err(Failure::input(format!("{file}: an object has no `{field}`"))
                .cause(format!("the object begins {}", shortened(&value))));
        }
    }
    let (kind, metadata) = (text(&value["kind"]).to_owned(), &value["metadata"]);
    let name = text(&metadata["name"]).to_owned();
    if name.is_empty() {
        return Err(match text(&metadata["generateName"]) {
            "" => Failure::input(format!("{file}: a {kind} has no `metadata.name`"))
                .hint("quote a name that looks like a number, or like yes or no"),
            prefix => Failure::input(format!(
                "{file}: a {kind} has `generateName: {prefix}` and no name, so it cannot be applied"
            ))
            .hint("set `metadata.name`: otherwise each run would create another one")
            .hint(format!("or create it once yourself: `kdiy kubectl -- create -f {file}`")),
        });
    }
    let namespace = text(&metadata["namespace"]);
    Ok(Object {
        api_version: text(&value["apiVersion"]).to_owned(),
        kind,
        name,
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        value,
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn shortened(value: &Value) -> String {
    const SHOWN: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl Object {
    /// `ConfigMap kube-system/coredns`.
    pub fn describe(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        parse("x", text).unwrap().objects.iter().map(Object::describe).collect()
    }

    #[test]
    fn documents_are_split_and_empty_ones_skipped() {
        let text = "---\napiVersion: v1\nkind: A\nmetadata: {name: a}\n---\n---\napiVersion: v1\n\
                    kind: B\nmetadata: {name: b, namespace: ns}\n";
        assert_eq!(names(text), ["A a", "B ns/b"]);
    }

    #[test]
    fn namespaces_and_definitions_come_first_and_the_rest_keeps_its_order() {
        let kinds = ["Deployment", "CustomResourceDefinition", "Service", "Namespace"];
        let document =
            |kind: &&str| format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: x}}\n");
        let text: Vec<String> = kinds.iter().map(document).collect();
        assert_eq!(
            names(&text.join("---\n")),
            ["Namespace x", "CustomResourceDefinition x", "Deployment x", "Service x"]
        );
    }

    #[test]
    fn lists_are_their_items_however_deep() {
        let text = "apiVersion: v1\nkind: List\nitems:\n\
                    - {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n\
                    - apiVersion: v1\n  kind: ConfigMapList\n  items: [{metadata: {name: b}}]\n";
        assert_eq!(names(text), ["ConfigMap a", "ConfigMap b"]);
        assert_eq!(names("{apiVersion: v1, kind: List, items: null}"), [""; 0]);
        assert!(parse("x", "{apiVersion: v1, kind: List, items: 5}").is_err());
    }

    #[test]
    fn an_invalid_object_is_named_with_its_file() {
        for (text, part) in [
            ("a: [", "line 1"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {generateName: job-}", "generateName"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: 007}", "quote a name"),
            ("apiVersion: v1\nmetadata: {name: a}", "`kind`"),
            ("just words", "not an object"),
        ] {
            let failure = parse("my.yaml", text).unwrap_err().to_string();
            assert!(failure.contains("my.yaml") && failure.contains(part), "{text}: {failure}");
        }
    }
}
