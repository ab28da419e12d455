//! The cluster file to start from, and its schema.

use serde_json::Value;

use crate::config::ClusterConfig;
use crate::support::failure::{Failure, Result};

const COMMENTED: &str = include_str!("sample.yaml");
/// Of a level of the file, in blanks.
const INDENT: usize = 2;

/// A cluster file with every key at its default and a comment to each.
pub fn commented() -> &'static str {
    COMMENTED
}

/// The commented file with the values of a configuration in it.
pub fn filled(config: &ClusterConfig) -> Result<String> {
    let encode = |config: &ClusterConfig| {
        serde_json::to_value(config).map_err(|error| Failure::bug("a cluster file").because(error))
    };
    let (wanted, default) = (encode(config)?, encode(&ClusterConfig::default())?);
    let mut path: Vec<&str> = Vec::new();
    let lines = COMMENTED.lines().map(|line| {
        let Some((key, given)) = entry(line) else { return line.to_owned() };
        let depth = (line.len() - line.trim_start().len()) / INDENT;
        path.truncate(depth);
        path.push(key);
        let pointer = format!("/{}", path.join("/"));
        let value = wanted.pointer(&pointer).unwrap_or(&Value::Null);
        if given.is_empty() || Some(value) == default.pointer(&pointer) {
            return line.to_owned();
        }
        let indent = " ".repeat(depth * INDENT);
        match value {
            Value::Array(list) if list.iter().any(Value::is_object) => {
                let items = list.iter().map(|item| format!("\n{indent}  - {}", flow(item)));
                format!("{indent}{key}:{}", items.collect::<String>())
            }
            value => format!("{indent}{key}: {}", flow(value)),
        }
    });
    Ok(lines.map(|line| line + "\n").collect())
}

/// Key and value of a line that has a key.
fn entry(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let key = key.trim_start();
    let is_key = !key.is_empty() && key.chars().all(char::is_alphanumeric);
    is_key.then(|| (key, value.trim()))
}

/// On one line. Words that YAML cannot take for anything else stand without quotes.
fn flow(value: &Value) -> String {
    let plain = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
            && !["null", "true", "false", "yes", "no", "on", "off", "y", "n"].contains(&text)
    };
    match value {
        Value::String(text) if plain(text) => text.clone(),
        Value::Array(list) => {
            format!("[{}]", list.iter().map(flow).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let given = map.iter().filter(|(_, value)| !is_empty(value));
            let entries: Vec<String> =
                given.map(|(key, value)| format!("{key}: {}", flow(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

/// What says nothing: an optional value that is not there, or only such.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => !map.is_empty() && map.values().all(is_empty),
        _ => false,
    }
}

/// JSON schema, draft 2020-12.
pub fn schema() -> Value {
    schemars::schema_for!(ClusterConfig).to_value()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{
        Cni, EtcdTopology, Host, HostRole, LoadBalancerMode, ProviderChoice, parse,
    };

    #[test]
    fn the_commented_file_says_what_the_defaults_are() {
        assert_eq!(parse::parse("sample", commented()).unwrap(), ClusterConfig::default());
        assert_eq!(filled(&ClusterConfig::default()).unwrap(), commented());
    }

    #[test]
    fn a_filled_file_keeps_the_comments_and_changes_only_what_differs() {
        let mut config = ClusterConfig { masters: 5, ..ClusterConfig::default() };
        config.etcd.topology = EtcdTopology::External;
        config.load_balancer.mode = LoadBalancerMode::External;
        config.load_balancer.address = Some("10.0.0.5:6443".into());
        config.network.cni = Cni::Flannel;
        config.addons = vec!["local-path".into(), "https://a.b/c.yaml".into()];
        let text = filled(&config).unwrap();
        assert_eq!(parse::parse("x", &text).unwrap(), config);
        let changed: Vec<&str> = text.lines().filter(|line| !commented().contains(line)).collect();
        assert_eq!(
            changed,
            [
                "masters: 5",
                "  topology: external",
                "  mode: external",
                "  address: \"10.0.0.5:6443\"",
                "  cni: flannel",
                "addons: [local-path, \"https://a.b/c.yaml\"]",
            ]
        );
        assert_eq!(text.lines().count(), commented().lines().count());
    }

    #[test]
    fn hosts_are_a_line_each() {
        let host = |role, address: &str| Host {
            role,
            address: address.parse().unwrap(),
            name: None,
            ssh: crate::config::HostSsh { user: Some("me".into()), ..Default::default() },
        };
        let config = ClusterConfig {
            provider: ProviderChoice::Existing,
            masters: 1,
            workers: 1,
            hosts: vec![host(HostRole::Master, "10.0.0.1"), host(HostRole::Worker, "10.0.0.2")],
            ..ClusterConfig::default()
        };
        let text = filled(&config).unwrap();
        assert_eq!(parse::parse("x", &text).unwrap(), config);
        let line = "\n  - {role: worker, address: \"10.0.0.2\", ssh: {user: me}}\n";
        assert!(text.contains(line), "{text}");
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

    fn keys(value: &Value, see: &mut impl FnMut(&str)) {
        if let Some(properties) = value.get("properties").and_then(|value| value.as_object()) {
            properties.keys().for_each(|key| see(key));
        }
        match value {
            Value::Object(map) => map.values().for_each(|value| keys(value, see)),
            Value::Array(list) => list.iter().for_each(|value| keys(value, see)),
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn every_filled_value_parses_to_the_same_value(
            name in "[a-z0-9][a-z0-9.:# -]{0,12}", masters in 0_u32..9, image in "\\PC{0,20}",
        ) {
            let mut config = ClusterConfig { name, masters, ..ClusterConfig::default() };
            config.machines.image = Some(image);
            let text = filled(&config).unwrap();
            prop_assert_eq!(parse::parse("x", &text).unwrap(), config);
        }
    }
}
