//! Reading a cluster file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::config::{ClusterConfig, LOCAL_PATH};
use crate::support::failure::{Failure, Result, closest};

/// A cluster file is a page; what is larger is something else.
const LARGEST: u64 = 1024 * 1024;

/// The file, and its keys at the top.
pub fn read_with_keys(path: &Path) -> Result<(ClusterConfig, BTreeSet<String>)> {
    let text = text(path)?;
    let mut config = parse(&path.display().to_string(), &text)?;
    // What comes through a pipe lies nowhere: its paths are those of whoever writes into it.
    if path.is_file() {
        from(path.parent().unwrap_or(Path::new("")), &mut config);
    }
    Ok((config, keys(&text)))
}

/// Keys at the top of a text that is a cluster file.
fn keys(text: &str) -> BTreeSet<String> {
    let keys: Option<BTreeMap<String, serde_json::Value>> = serde_saphyr::from_str(text).ok();
    keys.unwrap_or_default().into_keys().collect()
}

pub fn read(path: &Path) -> Result<ClusterConfig> {
    Ok(read_with_keys(path)?.0)
}

fn text(path: &Path) -> Result<String> {
    let unreadable = |error: std::io::Error| {
        Failure::input(format!("cannot read the cluster file {}", path.display()))
            .because(error)
            .hint("`kdiy config init` writes one")
    };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > LARGEST {
        return Err(Failure::input(format!("{} has {size} bytes", path.display()))
            .hint("a cluster file is about a page long; check that this is the right file"));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

/// Paths in a cluster file are relative to it, wherever kdiy is run.
fn from(directory: &Path, config: &mut ClusterConfig) {
    let is_path = |place: &str| !place.contains("://") && place != LOCAL_PATH;
    let places = config.addons.iter_mut().chain(&mut config.artifacts.mirror);
    for place in places.filter(|place| is_path(place)) {
        *place = directory.join(&*place).display().to_string();
    }
    let ssh = config.hosts.iter_mut().map(|host| &mut host.ssh);
    let files = ssh.flat_map(|ssh| [&mut ssh.key, &mut ssh.config]).flatten();
    let files = files.chain(&mut config.artifacts.digests).filter(|path| !path.starts_with("~"));
    for file in files {
        *file = directory.join(&*file);
    }
}

pub fn parse(name: &str, text: &str) -> Result<ClusterConfig> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(ClusterConfig::default());
    }
    serde_saphyr::from_str(text).map_err(|error| {
        let message = crate::support::failure::yaml(&error);
        let failure = Failure::input(format!("{name} is not a cluster file"));
        let failure = match suggestion(&message) {
            Some(suggestion) => failure.hint(format!("did you mean `{suggestion}`?")),
            None => failure.hint("`kdiy config schema` prints the fields that it may have"),
        };
        failure.tail(message.lines().map(str::to_owned).collect())
    })
}

/// From "unknown field `x`, expected one of y, z" the one most like it.
fn suggestion(message: &str) -> Option<String> {
    let (_, rest) = message
        .split_once("unknown field `")
        .or_else(|| message.split_once("unknown variant `"))?;
    let (unknown, rest) = rest.split_once('`')?;
    let (_, known) = rest.lines().next()?.split_once("expected one of ")?;
    let known = known.split(", ").map(|known| known.trim_matches('`'));
    closest(unknown, known).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(parse("x", "# nothing\n").unwrap(), ClusterConfig::default());
    }

    #[test]
    fn the_keys_are_those_at_the_top() {
        assert_eq!(keys("kubernetes: 1.36.3\netcd: {members: 3}\n").len(), 2);
        assert!(keys("# nothing\n").is_empty());
    }

    #[test]
    fn a_written_file_parses_to_the_same_values() {
        let config = ClusterConfig { masters: 5, ..ClusterConfig::default() };
        let text = serde_saphyr::to_string(&config).unwrap();
        assert_eq!(parse("x", &text).unwrap(), config);
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("cluster.yaml");
        let text = "addons: [local-path, m/cni.yaml, https://a.b/c.yaml, /d.yaml]\n\
                    artifacts: {mirror: mirror, digests: SHA256SUMS}\n\
                    hosts: [{role: master, address: 10.0.0.1, ssh: {key: id, config: ~/ssh}}]\n";
        std::fs::write(&file, text).unwrap();
        let config = read(&file).unwrap();
        let at = |name: &str| directory.path().join(name);
        let cni = at("m/cni.yaml").display().to_string();
        assert_eq!(config.addons, ["local-path", &cni, "https://a.b/c.yaml", "/d.yaml"]);
        assert_eq!(config.artifacts.mirror, Some(at("mirror").display().to_string()));
        assert_eq!(config.artifacts.digests, Some(at("SHA256SUMS")));
        assert_eq!(config.hosts[0].ssh.key, Some(at("id")));
        assert_eq!(config.hosts[0].ssh.config, Some("~/ssh".into()));
    }

    #[test]
    fn a_misspelt_key_is_recognised() {
        let text =
            parse("my.yaml", "masters: 3\nnetwork:\n  cin: bridge\n").unwrap_err().to_string();
        assert!(text.contains("my.yaml") && text.contains("did you mean `cni`"), "{text}");
    }

    #[test]
    fn a_key_given_twice_and_a_wrong_type_are_refused_with_their_line() {
        let twice = parse("x", "masters: 3\nmasters: 5\n").unwrap_err().to_string();
        assert!(twice.contains("masters") && twice.contains('2'), "{twice}");
        let wrong = parse("x", "masters: three\n").unwrap_err().to_string();
        assert!(wrong.contains("1"), "{wrong}");
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "(?s).{0,200}") {
            let _ = parse("x", &text);
        }
    }
}
