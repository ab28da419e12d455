//! Files that are either the old ones or the new ones, whatever happens.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use serde::Serialize;

use crate::failure::{Failure, Result};

/// Writes a file with the given mode by way of a temporary one beside it, and has it on disk
/// before it returns.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let failed = |error: std::io::Error| {
        Failure::host(format!("cannot write {}", path.display()))
            .because(error)
            .hint("is the disk full, or the directory read-only?")
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(directory)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

/// As indented JSON, for the owner only.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| Failure::bug(format!("{}", path.display())).because(error))?;
    bytes.push(b'\n');
    write(path, &bytes, 0o600)
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
    fn a_directory_that_is_missing_is_an_error_that_names_the_file() {
        let failure = write(Path::new("/nonexistent/file"), b"", 0o600).unwrap_err();
        assert!(failure.to_string().contains("/nonexistent/file"), "{failure}");
    }
}
