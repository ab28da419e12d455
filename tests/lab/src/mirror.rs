//! A mirror of the release servers: released files where the real ones answer, and else what is built
//! from Go modules that go.sum pins.
//!
//! Laid out as kdiy's `--mirror` takes it: `<mirror>/<host>/<path>`, images under
//! `images/<architecture>/`, and a `SHA256SUMS` over everything, because what is rebuilt has other
//! digests than what was released.

mod busybox;
mod download;
mod image;
mod pack;
mod record;
mod upstream;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::host;
use crate::progress::{parts, slow};
use download::Origin;
use pack::Shelf;
use record::Record;
use upstream::{OLDER, Source, UPSTREAMS, Upstream};

/// Of the largest, on a line of 50 Mbit/s.
const MODULES: Duration = Duration::from_secs(60);

pub struct Mirror {
    pub root: PathBuf,
    /// Name of the list of digests.
    list: &'static str,
}

impl Mirror {
    pub fn digests(&self) -> PathBuf {
        self.root.join(self.list)
    }

    /// Has kdiy take its release files from here.
    pub fn set(&self, kdiy: &mut Command) {
        kdiy.arg("--mirror").arg(&self.root).arg("--digests").arg(self.digests());
    }
}

/// Builds what is missing. What was built before is used as long as its recipe and its pinned
/// modules are the same; a build that was interrupted goes on where it was.
pub fn build(cache: &Path) -> Result<Mirror> {
    assemble(cache, UPSTREAMS, "SHA256SUMS")
}

/// The same, with a version of Kubernetes that can be upgraded from; it has a list of its own, as
/// whoever builds the mirror without it writes the other.
pub fn with_older(cache: &Path) -> Result<Mirror> {
    assemble(cache, &[UPSTREAMS, OLDER].concat(), "SHA256SUMS-with-older")
}

fn assemble(cache: &Path, upstreams: &[Upstream], list: &'static str) -> Result<Mirror> {
    let _lock = host::lock(cache, "mirror")?;
    let mirror = Mirror { root: cache.join("mirror"), list };
    let shelf = Shelf::open(&mirror.root, &cache.join("partial"))?;
    let origin = Origin::new(cache, &mirror.root)?;
    let records = cache.join("built");
    fs::create_dir_all(&records)?;
    let mut digests = BTreeMap::new();
    for upstream in upstreams {
        let path = records.join(upstream.name);
        let key = key(upstream)?;
        let before = Record::read(&path);
        let record = match before {
            Some(record) if record.key == key && record.complete(&mirror.root) => record,
            before => {
                let files = match origin.fetch(&shelf, upstream)? {
                    Some(files) => files,
                    None => make(&shelf, upstream)?,
                };
                let record = Record { key, files };
                record.write(&path, &shelf)?;
                if let Some(before) = before {
                    before.remove_what_is_not_in(&record, &mirror.root)?;
                }
                record
            }
        };
        digests.extend(record.files);
    }
    // From the records, not from what lies around: a list that an interruption left behind is
    // put right here.
    shelf.write(&mirror.digests(), record::lines(&digests).as_bytes())?;
    Ok(mirror)
}

/// Builds one upstream and publishes its files. Returns their digests by path below the root.
fn make(shelf: &Shelf, upstream: &Upstream) -> Result<BTreeMap<String, String>> {
    eprintln!("lab: building {} {} (once)", upstream.name, upstream.version);
    let began = Instant::now();
    let output = shelf.scratch()?;
    match &upstream.source {
        Source::Go { cgo, tags, ldflags, package } => {
            let go = || {
                let mut go = Command::new("go");
                go.current_dir(modules().join(upstream.module()))
                    .env("CGO_ENABLED", if *cgo { "1" } else { "0" })
                    .env("GOFLAGS", "-mod=readonly -buildvcs=false");
                go
            };
            let what = format!("getting the modules of {}", upstream.name);
            let list = slow(&what, MODULES, || {
                host::ask(go().args(["list", "-deps", "-tags", tags, package]))
            })?;
            let mut build = go();
            build
                .args(["build", "-v", "-trimpath", "-tags", tags, "-ldflags", ldflags])
                .arg("-o")
                .arg(format!("{}/", output.path().display()))
                .arg(package);
            let what = format!("building {} {}", upstream.name, upstream.version);
            parts(&what, list.lines().count(), &mut build)
                .with_context(|| format!("cannot build {}", upstream.name))?;
        }
        Source::DebianBusybox => busybox::fetch(output.path())?,
    }
    let files = pack::publish(shelf, upstream, output.path())
        .with_context(|| format!("cannot pack {}", upstream.name))?;
    eprintln!("lab: built {} in {:.0} s", upstream.name, began.elapsed().as_secs_f64());
    Ok(files)
}

fn modules() -> PathBuf {
    crate::package().join("mirror")
}

/// Everything that decides what comes out: the recipe, the pinned modules and how they are packed.
fn key(upstream: &Upstream) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(format!("{upstream:?}"));
    for code in [include_str!("mirror/pack.rs"), include_str!("mirror/image.rs")] {
        hash.update(code);
    }
    if matches!(upstream.source, Source::Go { .. }) {
        let directory = modules().join(upstream.module());
        let mut names: Vec<_> = fs::read_dir(&directory)
            .with_context(|| format!("cannot read {}", directory.display()))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        names.sort();
        for path in names {
            hash.update(fs::read(path)?);
        }
    }
    Ok(hex::encode(hash.finalize()))
}
