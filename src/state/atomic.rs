//! Files that are always either the old or the new version.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::state::lock;
use crate::support::failure::{Failure, Result};

/// The longest that another process may hold a document that [`update_json`] wants.
const UPDATED_WITHIN: Duration = Duration::from_secs(10);

/// Links that are followed; the kernel's own limit (`path_resolution(7)`).
const LINKS: usize = 40;

/// Writes a file with the given mode by way of a temporary one beside it, and has it on disk
/// before it returns. Where the path is a link, the file that it leads to is written: a link is
/// how people keep a file in another place.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let path = &behind_links(path);
    let failed = |error: std::io::Error| {
        Failure::host(format!("cannot write {}", path.display()))
            .because(error)
            .hint("check whether the disk is full or the directory is read-only")
    };
    // Of a bare file name the parent is there, and empty.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(directory)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

/// Where a path leads, whether something is there or not.
fn behind_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let Ok(target) = fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    path
}

/// As indented JSON, for the owner only.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| Failure::bug(format!("{}", path.display())).because(error))?;
    bytes.push(b'\n');
    write(path, &bytes, 0o600)
}

/// What [`write_json`] wrote; the default where there is no such file.
pub fn read_json<T: DeserializeOwned + Default>(path: &Path) -> Result<T> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            Failure::host(format!("{} is damaged: kdiy cannot parse it", path.display()))
                .because(error)
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(Failure::host(format!("cannot read {}", path.display())).because(error)),
    }
}

/// Reads, changes and writes a document while no other process can do the same. Where `change`
/// fails, or leaves everything as it was, nothing is written.
pub fn update_json<T>(path: &Path, change: impl FnOnce(&mut T) -> Result<()>) -> Result<T>
where
    T: Serialize + DeserializeOwned + Default + PartialEq + Clone,
{
    let failed = |error: std::io::Error| {
        Failure::host(format!("cannot change {}", path.display())).because(error)
    };
    let guard = lock::open(&beside(path, "lock")).map_err(failed)?;
    lock::wait_for(&guard, UPDATED_WITHIN).map_err(failed)?;
    let before: T = read_json(path)?;
    let mut after = before.clone();
    change(&mut after)?;
    if after != before {
        write_json(path, &after)?;
    }
    Ok(after)
}

/// `name.ext` becomes `name.ext.suffix`; unlike `with_extension`, which makes one of `runc.amd64`
/// and `runc.arm64`.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Makes a directory, and those above it, that only the owner can look into.
pub fn private_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        Failure::host(format!("cannot create the directory {}", path.display())).because(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_mode_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        write(&path, b"one", 0o600).unwrap();
        write(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_symbolic_link_stays_and_points_to_the_new_file() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("dotfiles")).unwrap();
        std::os::unix::fs::symlink("dotfiles/config", at("first")).unwrap();
        std::os::unix::fs::symlink(at("first"), at("second")).unwrap();
        for text in ["into nothing", "over it"] {
            write(&at("second"), text.as_bytes(), 0o600).unwrap();
            assert_eq!(fs::read_to_string(at("dotfiles/config")).unwrap(), text);
            assert!(fs::symlink_metadata(at("first")).unwrap().is_symlink());
        }
        assert_eq!(fs::read_dir(at("dotfiles")).unwrap().count(), 1);
    }

    #[test]
    fn changes_from_all_sides_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("numbers.json");
        std::thread::scope(|scope| {
            for n in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    update_json(path, |numbers: &mut Vec<u32>| {
                        numbers.push(n);
                        Ok(())
                    })
                    .unwrap();
                });
            }
        });
        let mut numbers: Vec<u32> = read_json(&path).unwrap();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn a_change_that_fails_leaves_the_document_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("numbers.json");
        write_json(&path, &vec![1]).unwrap();
        let refused = update_json(&path, |numbers: &mut Vec<u32>| {
            numbers.clear();
            Err(Failure::bug("no"))
        });
        assert!(refused.is_err());
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), [1]);
    }

    #[test]
    fn a_directory_that_is_missing_is_an_error_that_names_the_file() {
        let failure = write(Path::new("/nonexistent/file"), b"", 0o600).unwrap_err();
        assert!(failure.to_string().contains("/nonexistent/file"), "{failure}");
    }
}
