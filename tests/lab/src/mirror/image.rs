//! Container images of one layer, as OCI archives.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::pack::{EPOCH, append};

const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

#[derive(Debug)]
pub struct Recipe {
    /// File name below `images/<architecture>/`.
    pub file: &'static str,
    /// The full reference that pods use.
    pub reference: &'static str,
    /// (binary, path in the image).
    pub files: &'static [(&'static str, &'static str)],
    pub entrypoint: &'static [&'static str],
    pub command: &'static [&'static str],
    /// Links for every applet of busybox.
    pub applets: bool,
}

impl Recipe {
    /// Below the mirror's root.
    pub fn path(&self) -> String {
        format!("images/{ARCHITECTURE}/{}", self.file)
    }
}

pub fn build(binaries: &Path, recipe: &Recipe) -> Result<Vec<u8>> {
    let layer = layer(binaries, recipe)?;
    let layer_digest = digest(&layer);
    let config = serde_json::to_vec(&json!({
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Entrypoint": recipe.entrypoint,
            "Cmd": recipe.command,
        },
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&config),
            "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer_digest,
            "size": layer.len(),
        }],
    }))?;
    let tag = recipe.reference.rsplit(':').next().context("a reference without a tag")?;
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&manifest),
            "size": manifest.len(),
            "annotations": {
                "io.containerd.image.name": recipe.reference,
                "org.opencontainers.image.ref.name": tag,
            },
        }],
    }))?;
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    append(&mut tar, "index.json", &index, 0o644)?;
    for blob in [&manifest, &config, &layer] {
        let name = digest(blob).replace(':', "/");
        append(&mut tar, &format!("blobs/{name}"), blob, 0o644)?;
    }
    Ok(tar.into_inner()?)
}

fn layer(binaries: &Path, recipe: &Recipe) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (from, to) in recipe.files {
        append(&mut tar, to, &fs::read(binaries.join(from))?, 0o755)?;
    }
    if recipe.applets {
        let list = Command::new(binaries.join("busybox")).arg("--list").output()?;
        for applet in String::from_utf8(list.stdout)?.lines().filter(|name| *name != "busybox") {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            header.set_mode(0o777);
            header.set_mtime(EPOCH);
            tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
        }
        append(&mut tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644)?;
        append(&mut tar, "etc/group", b"root:x:0:\n", 0o644)?;
    }
    // Where temporary files are expected; the local-path helper and httpd want one.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(0o1777);
    header.set_mtime(EPOCH);
    tar.append_data(&mut header, "tmp/", std::io::empty())?;
    Ok(tar.into_inner()?)
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
