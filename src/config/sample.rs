//! The cluster file to start from, and its schema.

use super::ClusterConfig;

const COMMENTED: &str = include_str!("sample.yaml");

/// A cluster file with every key at its default and a comment to each.
pub fn commented() -> &'static str {
    COMMENTED
}

/// JSON schema, draft 2020-12.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(ClusterConfig).to_value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn the_commented_file_says_what_the_defaults_are() {
        assert_eq!(parse::parse("sample", commented()).unwrap(), ClusterConfig::default());
    }

    #[test]
    fn every_key_of_the_schema_is_in_the_commented_file() {
        let schema = schema();
        let mut missing = Vec::new();
        keys(&schema, &mut |key| {
            if !commented().contains(&format!("{key}:")) {
                missing.push(key.to_owned());
            }
        });
        assert!(missing.is_empty(), "{missing:?}");
    }

    fn keys(value: &serde_json::Value, see: &mut impl FnMut(&str)) {
        if let Some(properties) = value.get("properties").and_then(|value| value.as_object()) {
            properties.keys().for_each(|key| see(key));
        }
        match value {
            serde_json::Value::Object(map) => map.values().for_each(|value| keys(value, see)),
            serde_json::Value::Array(list) => list.iter().for_each(|value| keys(value, see)),
            _ => {}
        }
    }
}
