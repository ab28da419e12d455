//! The box of the lab's virtual machines, built once per definition.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::host::{self, run};
use crate::repository;

const DEFINITION: &str = "vagrant/lab-box";

/// Builds the box where it is missing, and makes the Vagrant in `home` know it. Returns its name.
pub fn ensure(cache: &Path, home: &Path) -> Result<String> {
    let _lock = host::lock(cache, "box")?;
    let definition = repository().join(DEFINITION);
    let digest = digest(&definition)?;
    let name = format!("kdiy-lab/debian-12-{digest}");
    let file = cache.join(format!("box-{digest}.box"));
    if !file.exists() {
        if !host::is_root() {
            bail!("only root can build the box, on a loop device; run: sudo cargo lab box");
        }
        eprintln!("lab: building the box {name}");
        run(Command::new(definition.join("build")).arg(&file))?;
    }
    fs::create_dir_all(home)?;
    let vagrant = || {
        let mut vagrant = Command::new("vagrant");
        vagrant.env("VAGRANT_HOME", home).env("VAGRANT_CHECKPOINT_DISABLE", "1").arg("box");
        vagrant
    };
    let known = host::ask(vagrant().arg("list"))?;
    if !known.split_whitespace().any(|word| word == name) {
        run(vagrant().args(["add", "--name", &name]).arg(&file))?;
    }
    Ok(name)
}

/// Of the names and contents of all files of the definition.
fn digest(definition: &Path) -> Result<String> {
    let mut files = Vec::new();
    collect(definition, &mut files)?;
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        hash.update(file.strip_prefix(definition)?.to_string_lossy().as_bytes());
        hash.update(Sha256::digest(content));
    }
    Ok(hex::encode(hash.finalize())[..12].to_owned())
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_definition_is_another_box() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("files")).unwrap();
        fs::write(at("build"), "a").unwrap();
        fs::write(at("files/x"), "b").unwrap();
        let first = digest(directory.path()).unwrap();
        assert_eq!(digest(directory.path()).unwrap(), first);
        fs::write(at("files/x"), "c").unwrap();
        let second = digest(directory.path()).unwrap();
        assert_ne!(second, first);
        fs::rename(at("files/x"), at("files/y")).unwrap();
        assert_ne!(digest(directory.path()).unwrap(), second);
    }
}
