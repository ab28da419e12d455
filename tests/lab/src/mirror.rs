//! A mirror of the release servers, built from Go modules that go.sum pins, for places from
//! which the real ones cannot be reached.
//!
//! Laid out as kdiy's `--mirror` takes it: `<mirror>/<host>/<path>`, images under `images/`, and
//! a `SHA256SUMS` over everything, because what is rebuilt has other digests than what was
//! released.

mod image;
mod upstream;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::host::run;
use upstream::{Packed, UPSTREAMS, Upstream};

/// The time of every file in an archive, so that the same build gives the same bytes.
const EPOCH: u64 = 1_767_225_600;

pub struct Mirror {
    pub root: PathBuf,
}

impl Mirror {
    pub fn digests(&self) -> PathBuf {
        self.root.join("SHA256SUMS")
    }
}

/// Builds what is missing. What was built before is used as long as its recipe and its pinned
/// modules are the same.
pub fn build(cache: &Path) -> Result<Mirror> {
    let root = cache.join("mirror");
    let mut fresh = false;
    for upstream in UPSTREAMS {
        let key = key(upstream)?;
        let stamp = cache.join("built").join(upstream.name);
        if fs::read_to_string(&stamp).is_ok_and(|built| built == key) {
            continue;
        }
        println!("lab: building {} {} (once)", upstream.name, upstream.version);
        let binaries = compile(cache, upstream)?;
        pack(&root, upstream, &binaries)
            .with_context(|| format!("cannot pack {}", upstream.name))?;
        fs::create_dir_all(cache.join("built"))?;
        fs::write(&stamp, key)?;
        fresh = true;
    }
    let mirror = Mirror { root };
    if fresh || !mirror.digests().exists() {
        write_digests(&mirror)?;
    }
    Ok(mirror)
}

fn modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("mirror")
}

/// Everything that decides what comes out.
fn key(upstream: &Upstream) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(format!("{upstream:?}"));
    let directory = modules().join(upstream.name);
    if upstream.name != "busybox" {
        for file in ["go.mod", "go.sum", "main.go"] {
            // Not every module has all three.
            hash.update(fs::read(directory.join(file)).unwrap_or_default());
        }
    }
    Ok(hex::encode(hash.finalize()))
}

fn compile(cache: &Path, upstream: &Upstream) -> Result<PathBuf> {
    if upstream.name == "busybox" {
        return Ok(PathBuf::from("/usr/bin"));
    }
    let output = cache.join("build").join(upstream.name);
    fs::create_dir_all(&output)?;
    let mut go = Command::new("go");
    go.current_dir(modules().join(upstream.name))
        .env("CGO_ENABLED", if upstream.cgo { "1" } else { "0" })
        .env("GOFLAGS", "-mod=readonly -buildvcs=false")
        .args(["build", "-trimpath", "-tags", upstream.tags, "-ldflags", upstream.ldflags])
        .arg("-o")
        .arg(format!("{}/", output.display()))
        .arg(if upstream.name == "pause" { "." } else { "tool" });
    run(&mut go).with_context(|| format!("cannot build {}", upstream.name))?;
    Ok(output)
}

fn pack(root: &Path, upstream: &Upstream, binaries: &Path) -> Result<()> {
    for packed in upstream.packed {
        match packed {
            Packed::File { from, to } => {
                let to = root.join(to);
                write(&to, &fs::read(binaries.join(from))?)?;
            }
            Packed::Archive { to, members } => {
                let bytes = archive(binaries, members)?;
                write(&root.join(to), &bytes)?;
            }
            Packed::Image(recipe) => {
                let bytes = image::build(binaries, recipe)?;
                write(&root.join("images").join(recipe.file), &bytes)?;
            }
        }
    }
    Ok(())
}

fn archive(binaries: &Path, members: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (from, name) in members {
        append(&mut tar, name, &fs::read(binaries.join(from))?, 0o755)?;
    }
    Ok(tar.into_inner()?.finish()?)
}

fn append(
    tar: &mut tar::Builder<impl std::io::Write>,
    name: &str,
    bytes: &[u8],
    mode: u32,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_mtime(EPOCH);
    header.set_cksum();
    tar.append_data(&mut header, name, bytes)?;
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = path.parent().context("a path without a directory")?;
    fs::create_dir_all(directory)?;
    let temporary = directory.join(".part");
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, path)?;
    Ok(())
}

fn write_digests(mirror: &Mirror) -> Result<()> {
    let mut digests = BTreeMap::new();
    collect(&mirror.root, &mirror.root, &mut digests)?;
    if digests.is_empty() {
        bail!("the mirror {} is empty", mirror.root.display());
    }
    let lines: Vec<String> =
        digests.iter().map(|(path, digest)| format!("{digest}  {path}\n")).collect();
    write(&mirror.digests(), lines.concat().as_bytes())
}

fn collect(root: &Path, at: &Path, digests: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in fs::read_dir(at)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, digests)?;
        } else if path.file_name().is_some_and(|name| name != "SHA256SUMS") {
            let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
            digests.insert(name, hex::encode(Sha256::digest(fs::read(&path)?)));
        }
    }
    Ok(())
}
