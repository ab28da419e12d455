//! A user's kubeconfig, to which `kdiy kubeconfig --merge` adds, and from which `kdiy destroy`
//! takes it out again.

use std::path::Path;

use kdiy::commands::kubeconfig::{Entries, Merged, Names, merge, parse, take_out};
use serde_json::{Value, json};

/// Nothing panics: a file is refused with a reason that can be said, or what other tools wrote is
/// as it was when kdiy's own has come and gone.
pub fn holds(text: &str) -> Result<(), String> {
    let before = parse("config", text).map_err(|failure| failure.to_string())?;
    let mine = Entries::new(&json!({
        "clusters": [{"cluster": {"certificate-authority-data": "QUJD"}}],
        "users": [{"user": {"client-key-data": "REVG"}}],
    }));
    let merged = Merged::new(Path::new("config"), Names::of("kdiy"), &mine);
    let with = merge("config", text, &mine, &merged).map_err(|failure| failure.to_string())?;
    let (after, left) =
        take_out("config", &with, &merged).map_err(|failure| failure.to_string())?;
    assert_eq!(left, [""; 0], "taken out of\n{with}");
    assert_eq!(others(parse("config", &after).unwrap()), others(before), "by way of\n{with}");
    Ok(())
}

/// Without entries of kdiy's name, which the command looks for before it merges, and without what
/// merging makes where there was nothing.
fn others(mut document: Value) -> Value {
    for list in ["clusters", "users", "contexts"] {
        if let Some(entries) = document[list].as_array_mut() {
            entries.retain(|entry| entry["name"] != "kdiy" && entry["name"] != "admin@kdiy");
        }
    }
    if let Some(fields) = document.as_object_mut() {
        fields.remove("current-context");
        fields.retain(|_, value| !(value.is_null() || *value == json!([])));
    }
    document
}
