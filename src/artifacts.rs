//! Release files: the catalogue of them, their sources, download and verification.

pub mod advisories;
pub mod catalogue;
pub mod digest;
pub mod fetch;
pub mod source;
pub mod version_skew;

use std::path::PathBuf;

pub use catalogue::Catalogue;
pub use fetch::Store;
pub use source::Source;

/// A file that is to be on machines, ready on this computer with its digest checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installable {
    /// Name in the catalogue.
    pub artifact: String,
    /// Absolute path on the machine.
    pub to: String,
    pub local: PathBuf,
    /// Of this very file, hex.
    pub sha256: String,
    pub bytes: u64,
    /// Four octal digits.
    pub mode: String,
}

/// Where a machine keeps the file of a container image.
pub fn image_path(name: &str) -> String {
    format!("/var/lib/kdiy/images/{name}.tar")
}
