//! Where release files come from: their origin, or a mirror laid out like it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::artifacts::catalogue::Item;
use crate::config::ClusterConfig;
use crate::support::failure::{Failure, Result};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    File(PathBuf),
    Url(String),
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Url(url) => f.write_str(url),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    mirror: Option<Location>,
    /// Digests that replace the pinned ones, by path below the mirror's root.
    digests: Option<BTreeMap<String, String>>,
}

impl Source {
    pub fn from_config(config: &ClusterConfig) -> Result<Self> {
        let mirror = config.artifacts.mirror.as_deref().map(mirror).transpose()?;
        let digests = config.artifacts.digests.as_deref().map(read_digests).transpose()?;
        if digests.is_some() && mirror.is_none() {
            return Err(Failure::input("artifacts.digests: it needs a mirror")
                .hint("set artifacts.mirror (--mirror) as well"));
        }
        Ok(Self { mirror, digests })
    }

    /// Where to get what the origin has at `url`.
    pub fn locate(&self, url: &str) -> Location {
        match &self.mirror {
            None => Location::Url(url.to_owned()),
            Some(_) => self.below(path_of(url)),
        }
    }

    /// Where the mirror has a path; `None` without a mirror.
    pub fn in_mirror(&self, path: &str) -> Option<Location> {
        self.mirror.as_ref().map(|_| self.below(path))
    }

    fn below(&self, path: &str) -> Location {
        match &self.mirror {
            Some(Location::File(root)) => Location::File(root.join(path)),
            Some(Location::Url(root)) => Location::Url(format!("{root}/{path}")),
            None => Location::Url(format!("https://{path}")),
        }
    }

    /// An error that names every file that a local mirror lacks, and every one that the user's
    /// own list of digests does not speak of, so that all are known before anything is done.
    pub fn check(&self, items: &[Item]) -> Result<()> {
        for item in items {
            let replaced = self.replaced_digest(&item.url)?;
            if replaced.or(item.pinned.as_deref()).or(item.published.as_deref()).is_none() {
                return Err(item.undigested());
            }
        }
        let missing: Vec<String> = items
            .iter()
            .filter_map(|item| match self.locate(&item.url) {
                Location::File(path) if !path.is_file() => Some(path.display().to_string()),
                _ => None,
            })
            .collect();
        match missing.len() {
            0 => Ok(()),
            count => Err(Failure::input(format!("artifacts.mirror: it lacks {count} files"))
                .tail(missing)
                .hint("complete the mirror, or leave it out to download from the origins")),
        }
    }

    /// The digest that the user's own list gives to what the origin has at `url`. `Err` where
    /// there is a list that lacks it.
    pub fn replaced_digest(&self, path_or_url: &str) -> Result<Option<&str>> {
        let Some(digests) = &self.digests else { return Ok(None) };
        let path = path_of(path_or_url);
        digests.get(path).map(|digest| Some(digest.as_str())).ok_or_else(|| {
            Failure::input(format!("artifacts.digests: the list has no line for {path}")).hint(
                "create the list with `sha256sum` in the mirror's root, or use another version",
            )
        })
    }

    /// Whether the user's own list speaks of a path.
    pub fn lists(&self, path: &str) -> bool {
        self.digests.as_ref().is_some_and(|digests| digests.contains_key(path))
    }
}

fn path_of(url: &str) -> &str {
    url.trim_start_matches("https://")
}

fn mirror(text: &str) -> Result<Location> {
    if text.starts_with("https://") || text.starts_with("http://") {
        return Ok(Location::Url(text.trim_end_matches('/').to_owned()));
    }
    let path = std::path::absolute(text).unwrap_or_else(|_| PathBuf::from(text));
    if path.is_dir() {
        Ok(Location::File(path))
    } else {
        Err(Failure::input(format!("artifacts.mirror: {text} is not a directory"))
            .hint("set a directory or an http(s) URL with the files at <mirror>/<host>/<path>"))
    }
}

fn read_digests(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::input(format!("artifacts.digests: cannot read {}", path.display())).because(error)
    })?;
    let mut digests = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let parsed = line
            .split_once(char::is_whitespace)
            .map(|(digest, name)| (digest, name.trim_start_matches([' ', '*'])))
            .filter(|(digest, _)| {
                digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit())
            });
        let Some((digest, name)) = parsed else {
            return Err(Failure::input(format!(
                "artifacts.digests: line {} of {} is not `<sha256>  <path>`",
                number + 1,
                path.display()
            )));
        };
        let name = name.trim_start_matches("./").to_owned();
        digests.insert(name, digest.to_ascii_lowercase());
    }
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_laid_out_like_the_origin() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = ClusterConfig::default();
        config.artifacts.mirror = Some(directory.path().to_string_lossy().into_owned());
        let source = Source::from_config(&config).unwrap();
        assert_eq!(
            source.locate("https://dl.k8s.io/release/x"),
            Location::File(directory.path().join("dl.k8s.io/release/x"))
        );
        assert_eq!(
            Source::default().locate("https://dl.k8s.io/x"),
            Location::Url("https://dl.k8s.io/x".into())
        );
    }

    #[test]
    fn all_that_a_mirror_lacks_is_named_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = ClusterConfig::default();
        config.artifacts.mirror = Some(directory.path().to_string_lossy().into_owned());
        let source = Source::from_config(&config).unwrap();
        let item = |name: &str| Item {
            name: name.into(),
            version: "1".into(),
            url: format!("https://dl.k8s.io/{name}"),
            pinned: Some("0".repeat(64)),
            known: Vec::new(),
            arch: "amd64".into(),
            published: None,
            install: Vec::new(),
        };
        let text = source.check(&[item("one"), item("two")]).unwrap_err().to_string();
        assert!(text.contains("2 files") && text.contains("one") && text.contains("two"), "{text}");
    }

    #[test]
    fn a_list_of_digests_must_be_complete_and_readable() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("SHA256SUMS");
        std::fs::write(&list, format!("{}  ./dl.k8s.io/a\n", "0".repeat(64))).unwrap();
        let mut config = ClusterConfig::default();
        config.artifacts.digests = Some(list.clone());
        assert!(Source::from_config(&config).is_err(), "digests without a mirror");
        config.artifacts.mirror = Some(directory.path().to_string_lossy().into_owned());
        let source = Source::from_config(&config).unwrap();
        assert!(source.replaced_digest("https://dl.k8s.io/a").unwrap().is_some());
        assert!(source.replaced_digest("https://dl.k8s.io/b").is_err());
        std::fs::write(&list, "nonsense").unwrap();
        assert!(Source::from_config(&config).unwrap_err().to_string().contains("line 1"));
    }
}
