//! `playbooks/artifacts.yaml`: releases and images by name, version and architecture.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::config::{ClusterConfig, Pin};
use crate::playbook::load::Playbooks;
use crate::support::failure::{Failure, Result};

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
    /// `sha256:<hex>` of the index for all architectures, by version.
    #[serde(default)]
    digests: BTreeMap<String, String>,
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
    /// Versions that are pinned, for whoever has chosen one that is not.
    pub known: Vec<String>,
    /// As release names spell it.
    pub arch: String,
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
    /// Full references by image name, with tags: what a mirror's images are called.
    pub images: BTreeMap<String, String>,
    /// What registries call the images, by image name: `sha256:<hex>`, where that is known.
    pub image_digests: BTreeMap<String, String>,
    /// Digests that the user vouches for, by artifact or image name.
    pins: BTreeMap<String, Pin>,
}

impl Versions {
    /// What a machine pulls: whatever becomes of the tag, the digest is of one image.
    pub fn pulled(&self, name: &str) -> String {
        let reference = self.images.get(name).cloned().unwrap_or_default();
        match self.image_digests.get(name) {
            Some(digest) => format!("{reference}@{digest}"),
            None => reference,
        }
    }

    /// An error for an image that is to be pulled by nothing but a tag, which can be moved.
    pub fn check_pulled(&self, name: &str) -> Result<()> {
        if self.image_digests.contains_key(name) {
            return Ok(());
        }
        let version = self.by_name.get(name).map(String::as_str).unwrap_or_default();
        Err(Failure::input(format!(
            "versions: kdiy knows no digest for the image {name} {version}"
        ))
        .hint(format!(
            "set the digest that its registry shows, in the cluster file: artifacts: {{pins: \
                 {{{name}: {{version: \"{version}\", digest: \"sha256:…\"}}}}}}"
        )))
    }
}

impl Item {
    /// Why a file of which nobody has said what it must be is not fetched.
    pub fn undigested(&self) -> Failure {
        let Self { name, version, arch, .. } = self;
        let failure = Failure::input(format!(
            "versions: kdiy knows no digest for {name} {version} on {arch}"
        ));
        let failure = if self.known.is_empty() {
            failure
        } else {
            failure.hint(format!("known are {}", self.known.join(", ")))
        };
        failure.hint(format!(
            "or set the digest that its release publishes, in the cluster file: artifacts: \
             {{pins: {{{name}: {{version: \"{version}\", sha256: {{{arch}: <64 hex digits>}}}}}}}}"
        ))
    }
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
                return Err(Failure::input(format!(
                    "versions: the component `{name}` does not exist"
                ))
                .hint(format!("known are {}", known.join(", "))));
            }
        }
        let pins = &config.artifacts.pins;
        for (name, pin) in pins {
            self.pin(name, pin, &mut by_name)?;
        }
        let (mut images, mut image_digests) = (BTreeMap::new(), BTreeMap::new());
        for (name, image) in &self.images {
            let version = version_of(&by_name, name)?;
            images.insert(name.clone(), image.reference.replace("{version}", version));
            let vouched = pins.get(name).and_then(|pin| pin.digest.as_ref());
            if let Some(digest) = image.digests.get(version).or(vouched) {
                image_digests.insert(name.clone(), digest.clone());
            }
        }
        Ok(Versions { by_name, images, image_digests, pins: pins.clone() })
    }

    /// Takes the version of a pin that fits what is known of its release.
    fn pin(&self, name: &str, pin: &Pin, versions: &mut BTreeMap<String, String>) -> Result<()> {
        let field = format!("artifacts.pins.{name}");
        let contradicts = |what: &str| {
            Err(Failure::input(format!(
                "{field}: {name} {} has another digest{what} in playbooks/{FILE}",
                pin.version
            ))
            .hint("remove the pin, or find out which of the two is wrong"))
        };
        match (self.artifacts.get(name), self.images.get(name)) {
            (Some(artifact), _) => {
                if pin.sha256.is_empty() {
                    return Err(Failure::input(format!("{field}: a release file needs sha256:"))
                        .hint("for example sha256: {amd64: <64 hex digits>}"));
                }
                for (arch, digest) in &pin.sha256 {
                    if artifact.pinned(&pin.version, arch).is_some_and(|known| known != *digest) {
                        return contradicts(&format!(" on {arch}"));
                    }
                }
                let owner = artifact.version.as_deref().unwrap_or(name);
                let version = version_of(versions, owner)?;
                if owner != name && version != pin.version {
                    return Err(Failure::input(format!(
                        "{field}: the version is {}, but that of the cluster is {version}",
                        pin.version
                    ))
                    .hint(format!("{name} always has the version of `{owner}:`")));
                }
                versions.insert(owner.to_owned(), pin.version.clone());
            }
            (None, Some(image)) => {
                let Some(digest) = &pin.digest else {
                    return Err(Failure::input(format!("{field}: an image needs digest:"))
                        .hint("for example digest: \"sha256:<64 hex digits>\""));
                };
                if image.digests.get(&pin.version).is_some_and(|known| known != digest) {
                    return contradicts("");
                }
                versions.insert(name.to_owned(), pin.version.clone());
            }
            (None, None) => {
                let known: Vec<&str> =
                    self.artifacts.keys().chain(self.images.keys()).map(String::as_str).collect();
                return Err(Failure::input(format!("{field}: this release does not exist"))
                    .hint(format!("known are {}", known.join(", "))));
            }
        }
        Ok(())
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
            Failure::input(format!("playbooks/{FILE}: the artifact `{name}` does not exist"))
        })?;
        let version_name = artifact.version.as_deref().unwrap_or(name);
        let version = version_of(&versions.by_name, version_name)?;
        let fill = |text: &str| text.replace("{version}", version).replace("{arch}", arch);
        let url = fill(&artifact.url);
        let vouched = || {
            let pin = versions.pins.get(name).filter(|pin| pin.version == version)?;
            pin.sha256.get(arch).map(|digest| digest.to_ascii_lowercase())
        };
        let pinned = artifact.pinned(version, arch).or_else(vouched);
        Ok(Item {
            name: name.to_owned(),
            version: version.to_owned(),
            known: artifact.digests.keys().cloned().collect(),
            arch: arch.to_owned(),
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

impl Artifact {
    /// Hex.
    fn pinned(&self, version: &str, arch: &str) -> Option<String> {
        let digest = self.digests.get(version)?.get(arch)?;
        Some(digest.trim_start_matches("sha256:").to_owned())
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
    use crate::artifacts::Source;

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
    fn a_version_without_a_digest_is_refused_until_the_user_gives_it() {
        let catalogue = catalogue();
        let mut config = ClusterConfig::default();
        config.versions.insert("etcd".into(), "9.9.9".into());
        let versions = catalogue.versions(&config).unwrap();
        let item = catalogue.item("etcd", &versions, "amd64").unwrap();
        let failure = Source::default().check(std::slice::from_ref(&item)).unwrap_err().to_string();
        for part in ["etcd 9.9.9", "3.6.14", "pins: {etcd: {version: \"9.9.9\", sha256: {amd64:"] {
            assert!(failure.contains(part), "{part}: {failure}");
        }
        let sha256 = [("amd64".to_owned(), "A".repeat(64))].into();
        let pin = Pin { version: "9.9.9".into(), sha256, digest: None };
        config.artifacts.pins.insert("etcd".into(), pin);
        let versions = catalogue.versions(&config).unwrap();
        let item = catalogue.item("etcd", &versions, "amd64").unwrap();
        assert_eq!(item.pinned, Some("a".repeat(64)));
        Source::default().check(&[item]).unwrap();
        let other = catalogue.item("etcd", &versions, "arm64").unwrap();
        assert!(Source::default().check(&[other]).is_err(), "a digest is of one architecture");
    }

    #[test]
    fn a_pin_that_contradicts_a_shipped_digest_or_the_cluster_is_refused() {
        let catalogue = catalogue();
        let refused = |name: &str, version: &str, digest: Option<&str>| {
            let mut config = ClusterConfig::default();
            let sha256 = match digest {
                None => [("amd64".to_owned(), "0".repeat(64))].into(),
                Some(_) => BTreeMap::new(),
            };
            let pin = Pin { version: version.into(), sha256, digest: digest.map(str::to_owned) };
            config.artifacts.pins.insert(name.into(), pin);
            catalogue.versions(&config).unwrap_err().to_string()
        };
        let zero = format!("sha256:{}", "0".repeat(64));
        for (text, expected) in [
            (refused("etcd", "3.6.14", None), "etcd 3.6.14 has another digest on amd64"),
            (refused("pause", "3.10.2", Some(&zero)), "pause 3.10.2 has another digest"),
            (refused("kube-proxy", "1.36.9", None), "that of the cluster is 1.36."),
            (refused("ectd", "3.6.14", None), "this release does not exist"),
            (refused("coredns", "9.9.9", None), "an image needs digest:"),
            (refused("etcd", "9.9.9", Some(&zero)), "needs sha256:"),
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn images_are_pulled_by_digest() {
        let catalogue = catalogue();
        for minor in catalogue.minors() {
            let config = ClusterConfig { kubernetes: format!("{minor}.0"), ..Default::default() };
            let versions = catalogue.versions(&config).unwrap();
            for name in catalogue.image_names() {
                versions.check_pulled(name).unwrap();
                let (tagged, digest) = versions.pulled(name).split_once('@').map_or_else(
                    || panic!("{name} has no digest"),
                    |(tagged, digest)| (tagged.to_owned(), digest.to_owned()),
                );
                assert!(tagged.ends_with(&versions.by_name[name]), "{tagged}");
                assert_eq!(digest.len(), "sha256:".len() + 64, "{name}: {digest}");
            }
        }
        let mut config = ClusterConfig::default();
        config.versions.insert("coredns".into(), "9.9.9".into());
        let versions = catalogue.versions(&config).unwrap();
        let failure = versions.check_pulled("coredns").unwrap_err().to_string();
        assert!(failure.contains("pins: {coredns: {version: \"9.9.9\", digest:"), "{failure}");
        let digest = Some(format!("sha256:{}", "1".repeat(64)));
        let pin = Pin { version: "9.9.9".into(), sha256: BTreeMap::new(), digest };
        config.artifacts.pins.insert("coredns".into(), pin);
        let versions = catalogue.versions(&config).unwrap();
        assert!(versions.pulled("coredns").contains(":v9.9.9@sha256:1111"));
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
