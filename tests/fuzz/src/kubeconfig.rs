//! A user's kubeconfig, to which `kdiy kubeconfig --merge` adds, and from which `kdiy destroy`
//! takes it out again.

use kdiy::commands::kubeconfig::{merge, parse, take_out};
use serde_json::{Value, json};

/// Nothing panics: a file is refused with a reason that can be said, or what is written reads back,
/// and what other tools wrote is as it was, but for entries that had kdiy's name.
pub fn holds(text: &str) -> Result<(), String> {
    let before = parse("config", text).map_err(|failure| failure.to_string())?;
    let mine = json!({
        "clusters": [{"name": "kdiy"}],
        "users": [{"name": "admin@kdiy"}],
        "contexts": [{"name": "admin@kdiy"}],
        "current-context": "admin@kdiy",
    });
    let mut document = before.clone();
    merge(&mut document, &mine);
    let mut document = reread(&document);
    take_out(&mut document, "admin@kdiy");
    assert_eq!(others(reread(&document)), others(before));
    Ok(())
}

fn reread(document: &Value) -> Value {
    let text = serde_saphyr::to_string(document).unwrap();
    let read = parse("config", &text).unwrap_or_else(|failure| panic!("{failure}\nin\n{text}"));
    assert_eq!(read, *document, "as read from\n{text}");
    read
}

/// Without entries of kdiy's name, and without what merging makes where there was nothing.
fn others(mut document: Value) -> Value {
    take_out(&mut document, "admin@kdiy");
    if let Some(fields) = document.as_object_mut() {
        fields.remove("current-context");
        fields.retain(|_, value| !(value.is_null() || *value == json!([])));
    }
    document
}
