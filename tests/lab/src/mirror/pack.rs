//! Files, archives and images as the release servers have them; the same input gives the same
//! bytes.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir};

use super::image;
use super::upstream::{Packed, Upstream};

/// The time of every file in an archive.
pub const EPOCH: u64 = 1_767_225_600;

/// The mirror's files, and a place on the same file system where new ones are made, so that a
/// file is either whole or not there.
pub struct Shelf {
    root: PathBuf,
    partial: PathBuf,
}

impl Shelf {
    /// Throws away what an interrupted build left; the caller holds the mirror's lock.
    pub fn open(root: &Path, partial: &Path) -> Result<Self> {
        if partial.exists() {
            fs::remove_dir_all(partial)?;
        }
        fs::create_dir_all(partial)?;
        fs::create_dir_all(root)?;
        Ok(Self { root: root.to_owned(), partial: partial.to_owned() })
    }

    pub fn scratch(&self) -> Result<TempDir> {
        Ok(tempfile::tempdir_in(&self.partial)?)
    }

    pub fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        fs::create_dir_all(path.parent().context("a path without a directory")?)?;
        let mut file = NamedTempFile::new_in(&self.partial)?;
        file.write_all(bytes)?;
        file.as_file().set_permissions(Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }
}

/// Puts everything an upstream has to offer into the mirror. Returns the digests.
pub fn publish(
    shelf: &Shelf,
    upstream: &Upstream,
    binaries: &Path,
) -> Result<BTreeMap<String, String>> {
    let mut digests = BTreeMap::new();
    let mut put = |name: String, bytes: &[u8]| -> Result<String> {
        shelf.write(&shelf.root.join(&name), bytes)?;
        let digest = hex::encode(Sha256::digest(bytes));
        digests.insert(name, digest.clone());
        Ok(digest)
    };
    for packed in upstream.packed {
        match packed {
            Packed::File { from, to, published } => {
                let digest = put((*to).to_owned(), &fs::read(binaries.join(from))?)?;
                if *published {
                    // The bare digest, as dl.k8s.io has it.
                    put(format!("{to}.sha256"), digest.as_bytes())?;
                }
            }
            Packed::Archive { to, members } => {
                put((*to).to_owned(), &archive(binaries, members)?)?;
            }
            Packed::Image(recipe) => {
                put(recipe.path(), &image::build(binaries, recipe)?)?;
            }
        }
    }
    Ok(digests)
}

fn archive(binaries: &Path, members: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (from, name) in members {
        append(&mut tar, name, &fs::read(binaries.join(from))?, 0o755)?;
    }
    Ok(tar.into_inner()?.finish()?)
}

pub fn append(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    bytes: &[u8],
    mode: u32,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    // Not with `set_path`, which takes the `./` away that some releases have.
    let field = &mut header.as_old_mut().name;
    field
        .get_mut(..name.len())
        .with_context(|| format!("{name} is too long for an archive"))?
        .copy_from_slice(name.as_bytes());
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_mtime(EPOCH);
    header.set_cksum();
    tar.append(&header, bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::mirror::upstream::{Source, UPSTREAMS};

    const SAMPLE: Upstream = Upstream {
        name: "sample",
        version: "1",
        source: Source::Go { cgo: false, tags: "", ldflags: "", package: "tool" },
        packed: &[
            Packed::File { from: "tool", to: "host/path/tool", published: true },
            Packed::Archive { to: "host/tool.tgz", members: &[("tool", "./bin/tool")] },
        ],
    };

    #[test]
    fn the_same_binaries_give_the_same_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let shelf =
            Shelf::open(&directory.path().join("root"), &directory.path().join("partial")).unwrap();
        let binaries = shelf.scratch().unwrap();
        fs::write(binaries.path().join("tool"), "binary").unwrap();
        let first = publish(&shelf, &SAMPLE, binaries.path()).unwrap();
        // Another time and another mode of the input change nothing.
        fs::write(binaries.path().join("tool"), "binary").unwrap();
        fs::set_permissions(binaries.path().join("tool"), Permissions::from_mode(0o700)).unwrap();
        assert_eq!(publish(&shelf, &SAMPLE, binaries.path()).unwrap(), first);

        let root = directory.path().join("root");
        let published = fs::read_to_string(root.join("host/path/tool.sha256")).unwrap();
        assert_eq!(published, first["host/path/tool"]);
        let packed = fs::File::open(root.join("host/tool.tgz")).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(packed));
        let mut entries = archive.entries().unwrap();
        let entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.path_bytes().as_ref(), b"./bin/tool");
        assert_eq!(entry.header().mode().unwrap(), 0o755);
        assert!(entries.next().is_none());
    }

    #[test]
    fn a_missing_binary_publishes_no_empty_file() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        let shelf = Shelf::open(&root, &directory.path().join("partial")).unwrap();
        let empty = shelf.scratch().unwrap();
        assert!(publish(&shelf, &SAMPLE, empty.path()).is_err());
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    }

    #[test]
    fn no_two_upstreams_claim_one_file() {
        let mut seen = BTreeSet::new();
        for packed in UPSTREAMS.iter().flat_map(|upstream| upstream.packed) {
            let path = match packed {
                Packed::File { to, .. } | Packed::Archive { to, .. } => (*to).to_owned(),
                Packed::Image(recipe) => recipe.path(),
            };
            assert!(seen.insert(path.clone()), "{path} is there twice");
        }
    }
}
