//! `playbooks/artifacts.yaml`: releases and images by name, version and architecture.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::config::ClusterConfig;
use crate::failure::{Failure, Result};
use crate::playbook::load::Playbooks;

/// File of the catalogue below the playbook directory.
const FILE: &str = "artifacts.yaml";

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Component versions by Kubernetes minor (`1.36`).
    matrix: BTreeMap<String, BTreeMap<String, String>>,
    images: BTreeMap<String, Image>,
    artifacts: BTreeMap<String, Artifact>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    reference: String,
    file: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Artifact {
    url: String,
    /// Whose version it has, when it is not its own name.
    #[serde(default)]
    version: Option<String>,
    /// Where the origin publishes the digest.
    #[serde(default)]
    published: Option<String>,
    install: Vec<Install>,
    /// `sha256:<hex>` by version and architecture.
    #[serde(default)]
    digests: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Install {
    /// Member of the archive; absent where the file itself is installed.
    #[serde(default)]
    from: Option<String>,
    to: String,
    #[serde(default = "executable")]
    mode: String,
}

fn executable() -> String {
    "0755".into()
}

/// One file to fetch, with everything resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub name: String,
    pub version: String,
    pub url: String,
    /// Hex, where it is pinned.
    pub pinned: Option<String>,
    /// URL of the digest that the origin publishes.
    pub published: Option<String>,
    /// (member of the archive, path on the machine, mode).
    pub install: Vec<(Option<String>, String, String)>,
}

/// Which versions a cluster is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    /// By artifact or image name; `kubernetes` among them.
    pub by_name: BTreeMap<String, String>,
    /// Full references by image name.
    pub images: BTreeMap<String, String>,
}

impl Catalogue {
    pub fn load(playbooks: &Playbooks) -> Result<Self> {
        let text = playbooks
            .file(FILE)
            .ok_or_else(|| Failure::input(format!("playbooks/{FILE} does not exist")))?;
        serde_saphyr::from_str(text)
            .map_err(|error| Failure::input(format!("playbooks/{FILE}")).because(error))
    }

    /// Kubernetes minors that there is a tested matrix for, oldest first.
    pub fn minors(&self) -> Vec<&str> {
        self.matrix.keys().map(String::as_str).collect()
    }

    pub fn versions(&self, config: &ClusterConfig) -> Result<Versions> {
        let minor = config.kubernetes.rsplit_once('.').map_or("", |(minor, _)| minor);
        let matrix = self.matrix.get(minor).ok_or_else(|| {
            Failure::input(format!("kubernetes: {} is not supported", config.kubernetes))
                .hint(format!("supported are {}", self.minors().join(", ")))
        })?;
        let mut by_name = matrix.clone();
        by_name.insert("kubernetes".into(), config.kubernetes.clone());
        for (name, version) in &config.versions {
            if by_name.insert(name.clone(), version.clone()).is_none() {
                let known: Vec<&str> = matrix.keys().map(String::as_str).collect();
                return Err(Failure::input(format!("versions: there is no component `{name}`"))
                    .hint(format!("known are {}", known.join(", "))));
            }
        }
        let mut images = BTreeMap::new();
        for (name, image) in &self.images {
            let version = version_of(&by_name, name)?;
            images.insert(name.clone(), image.reference.replace("{version}", version));
        }
        Ok(Versions { by_name, images })
    }

    pub fn image_names(&self) -> impl Iterator<Item = &str> {
        self.images.keys().map(String::as_str)
    }

    /// Where a mirror would carry an image: path below its root. `None` for what is no image.
    pub fn image_file(&self, name: &str, arch: &str) -> Option<String> {
        self.images.get(name).map(|image| image.file.replace("{arch}", arch))
    }

    /// `arch` as release names spell it.
    pub fn item(&self, name: &str, versions: &Versions, arch: &str) -> Result<Item> {
        let artifact = self.artifacts.get(name).ok_or_else(|| {
            Failure::input(format!("playbooks/{FILE}: there is no artifact `{name}`"))
        })?;
        let version_name = artifact.version.as_deref().unwrap_or(name);
        let version = version_of(&versions.by_name, version_name)?;
        let fill = |text: &str| text.replace("{version}", version).replace("{arch}", arch);
        let url = fill(&artifact.url);
        let pinned = artifact
            .digests
            .get(version)
            .and_then(|by_arch| by_arch.get(arch))
            .map(|digest| digest.trim_start_matches("sha256:").to_owned());
        if pinned.is_none() && artifact.published.is_none() {
            let known: Vec<&str> = artifact.digests.keys().map(String::as_str).collect();
            return Err(Failure::input(format!(
                "versions: no digest is known for {name} {version} on {arch}"
            ))
            .hint(format!("known are {}", known.join(", ")))
            .hint(format!("or add its digest to playbooks/{FILE}")));
        }
        Ok(Item {
            name: name.to_owned(),
            version: version.to_owned(),
            published: artifact.published.as_ref().map(|text| fill(&text.replace("{url}", &url))),
            pinned,
            install: artifact
                .install
                .iter()
                .map(|install| {
                    (install.from.as_deref().map(fill), install.to.clone(), install.mode.clone())
                })
                .collect(),
            url,
        })
    }
}

fn version_of<'a>(versions: &'a BTreeMap<String, String>, name: &str) -> Result<&'a str> {
    versions
        .get(name)
        .map(String::as_str)
        .ok_or_else(|| Failure::input(format!("playbooks/{FILE}: `{name}` has no version")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue() -> Catalogue {
        Catalogue::load(&Playbooks::load(None).unwrap()).unwrap()
    }

    #[test]
    fn the_default_versions_resolve_on_both_architectures() {
        let catalogue = catalogue();
        let versions = catalogue.versions(&ClusterConfig::default()).unwrap();
        for name in catalogue.artifacts.keys() {
            for arch in ["amd64", "arm64"] {
                let item = catalogue.item(name, &versions, arch).unwrap();
                assert!(item.url.starts_with("https://") && !item.url.contains('{'), "{item:?}");
                assert!(item.pinned.as_ref().is_none_or(|digest| digest.len() == 64), "{item:?}");
            }
        }
        assert_eq!(versions.images["pause"], "registry.k8s.io/pause:3.10.2");
    }

    #[test]
    fn a_version_without_a_digest_is_refused() {
        let catalogue = catalogue();
        let mut config = ClusterConfig::default();
        config.versions.insert("etcd".into(), "9.9.9".into());
        let versions = catalogue.versions(&config).unwrap();
        let failure = catalogue.item("etcd", &versions, "amd64").unwrap_err().to_string();
        assert!(failure.contains("etcd 9.9.9") && failure.contains("3.6.14"), "{failure}");
    }

    #[test]
    fn an_unknown_minor_or_component_lists_the_known_ones() {
        let catalogue = catalogue();
        let old = ClusterConfig { kubernetes: "1.20.0".into(), ..Default::default() };
        assert!(catalogue.versions(&old).unwrap_err().to_string().contains("1.36"));
        let mut odd = ClusterConfig::default();
        odd.versions.insert("ectd".into(), "3.6.14".into());
        assert!(catalogue.versions(&odd).unwrap_err().to_string().contains("etcd"));
    }
}
