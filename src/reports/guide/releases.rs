//! Release files by hand: fetching, checking and installing them.

use std::collections::BTreeMap;

use crate::artifacts::catalogue::{Item, Versions};
use crate::artifacts::source::Location;
use crate::artifacts::{Catalogue, Source, image_path};
use crate::bundle::script::quote;
use crate::playbook::context::TemplateContext;
use crate::reports::guide::delivery::{DELIVERED, installing};
use crate::support::failure::{Failure, Result};

/// Where they lie on the reader's computer.
const DOWNLOADS: &str = "downloads";
/// The reader's own kubectl.
pub const KUBECTL: &str = "kubectl";

/// Everything that is fetched, by artifact or image name.
pub struct Releases {
    by_name: BTreeMap<String, Release>,
}

struct Release {
    /// Below the reader's working directory.
    file: String,
    location: Location,
    digest: Digest,
    /// (member of the archive, path on the machine, mode).
    install: Vec<(Option<String>, String, String)>,
}

enum Digest {
    Known(String),
    /// The origin has it here.
    Published(String),
    /// An image of a mirror without a list of digests.
    Unknown,
}

impl Releases {
    /// `names` are of artifacts and images; kubectl comes along.
    pub fn of<'a>(
        names: impl Iterator<Item = &'a String>,
        template_context: &TemplateContext,
        catalogue: &Catalogue,
        versions: &Versions,
        source: &Source,
        arch: &str,
    ) -> Result<Self> {
        let mut by_name = BTreeMap::new();
        for name in names.map(String::as_str).chain([KUBECTL]) {
            let release = match catalogue.image_file(name, arch) {
                Some(file)
                    if template_context.mirrored_images.iter().any(|image| image == name) =>
                {
                    image(name, &file, source)?
                }
                _ => artifact(catalogue.item(name, versions, arch)?, source)?,
            };
            by_name.insert(name.to_owned(), release);
        }
        Ok(Self { by_name })
    }

    pub fn file(&self, name: &str) -> Option<&str> {
        self.by_name.get(name).map(|release| release.file.as_str())
    }

    /// Commands for the reader's computer that fetch and check them all.
    pub fn fetching(&self) -> String {
        let mut lines = vec![format!("mkdir -p {DOWNLOADS} bin")];
        lines.extend(self.by_name.values().map(Release::fetching));
        if let Some(kubectl) = self.file(KUBECTL) {
            lines.push(format!("install -m 0755 {kubectl} bin/kubectl"));
        }
        lines.join("\n")
    }

    /// Commands for a machine that has been sent the file.
    pub fn installing(&self, name: &str) -> Vec<String> {
        let Some(release) = self.by_name.get(name) else { return Vec::new() };
        let mut lines = Vec::new();
        let unpacked = format!("unpacked/{name}");
        if release.install.iter().any(|(member, ..)| member.is_some()) {
            let (from, to) = (quote(&release.file), quote(&unpacked));
            lines.push(format!(
                "mkdir -p {DELIVERED}/{to}\ntar -xzf {DELIVERED}/{from} -C {DELIVERED}/{to}"
            ));
        }
        lines.extend(release.install.iter().map(|(member, to, mode)| match member {
            None => installing(mode, "root:root", &release.file, to),
            Some(member) => installing(mode, "root:root", &format!("{unpacked}/{member}"), to),
        }));
        lines
    }
}

impl Release {
    fn fetching(&self) -> String {
        let file = quote(&self.file);
        let fetch = match &self.location {
            Location::File(path) => format!("cp {} {file}", quote(&path.to_string_lossy())),
            Location::Url(url) => format!("curl -fsSL -o {file} {}", quote(url)),
        };
        match &self.digest {
            Digest::Known(digest) => {
                format!("{fetch}\necho \"{digest}  {}\" | sha256sum -c", self.file)
            }
            Digest::Published(url) => format!(
                "{fetch}\necho \"$(curl -fsSL {} | cut -c1-64)  {}\" | sha256sum -c",
                quote(url),
                self.file
            ),
            Digest::Unknown => fetch,
        }
    }
}

fn artifact(item: Item, source: &Source) -> Result<Release> {
    let known = source.replaced_digest(&item.url)?.map(str::to_owned).or(item.pinned);
    let digest = match (known, item.published) {
        (Some(digest), _) => Digest::Known(digest),
        (None, Some(url)) => Digest::Published(url),
        (None, None) => return Err(Failure::bug(format!("no digest for {}", item.name))),
    };
    let name = item.url.rsplit('/').next().unwrap_or(&item.name);
    Ok(Release {
        file: format!("{DOWNLOADS}/{name}"),
        location: source.locate(&item.url),
        digest,
        install: item.install,
    })
}

fn image(name: &str, file: &str, source: &Source) -> Result<Release> {
    let location = source
        .in_mirror(file)
        .ok_or_else(|| Failure::bug(format!("no mirror has the image {name}")))?;
    let digest = match source.replaced_digest(file)? {
        Some(digest) => Digest::Known(digest.to_owned()),
        None => Digest::Unknown,
    };
    let to = image_path(name);
    Ok(Release {
        file: format!("{DOWNLOADS}/{name}.tar"),
        location,
        digest,
        install: vec![(None, to, "0644".into())],
    })
}
