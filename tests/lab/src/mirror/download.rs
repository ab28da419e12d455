//! Released files, where the release servers can be reached: that is faster than building them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::pack::Shelf;
use super::upstream::{Packed, Upstream};
use crate::host;
use crate::progress::slow;

/// Where the files are, below which paths begin with a host.
const ORIGIN: &str = "https://";
/// Of the largest files at 5 MB a second.
const USUAL: Duration = Duration::from_secs(60);

/// How files are fetched and what is believed of them.
pub struct Origin {
    origin: String,
    /// Text that has the digests which released files must have.
    pins: String,
    /// Downloads that were interrupted go on from here. On the file system of `root`.
    directory: PathBuf,
    /// Of the mirror.
    root: PathBuf,
}

impl Origin {
    pub fn new(cache: &Path, root: &Path) -> Result<Self> {
        let pins = crate::repository().join("playbooks/artifacts.yaml");
        let pins = fs::read_to_string(&pins).with_context(|| pins.display().to_string())?;
        let directory = cache.join("downloads");
        Ok(Self { origin: ORIGIN.into(), pins, directory, root: root.to_owned() })
    }

    /// Puts the released files of an upstream into the mirror, and returns their digests; `None`
    /// where it has to be built: the server does not answer, or it has images, which it has in
    /// another form.
    pub fn fetch(
        &self,
        shelf: &Shelf,
        upstream: &Upstream,
    ) -> Result<Option<BTreeMap<String, String>>> {
        let Some(paths) = released(upstream) else { return Ok(None) };
        let Some((first, _)) = paths.first() else { return Ok(None) };
        if !self.answers(first) {
            return Ok(None);
        }
        let what = format!("downloading {} {}", upstream.name, upstream.version);
        let fetched = slow(&what, USUAL, || self.all(shelf, &paths));
        match fetched {
            Ok(digests) => Ok(Some(digests)),
            Err(error) => {
                eprintln!("lab: {what} failed, so it is built: {error:#}");
                Ok(None)
            }
        }
    }

    fn all(&self, shelf: &Shelf, paths: &[(&str, bool)]) -> Result<BTreeMap<String, String>> {
        fs::create_dir_all(&self.directory)?;
        let mut digests = BTreeMap::new();
        for (path, published) in paths {
            let part = self.directory.join(path.replace('/', "_"));
            host::run(
                Command::new("curl")
                    .args(["--fail", "--location", "--silent", "--show-error"])
                    .args(["--connect-timeout", "10", "--retry", "3", "--continue-at", "-"])
                    .arg("--output")
                    .arg(&part)
                    .arg(format!("{}{path}", self.origin)),
            )?;
            let digest = digest(&part)?;
            let beside = published.then(|| self.published(path)).transpose()?;
            let is_right = self.pins.contains(&digest) || beside.as_deref() == Some(&digest);
            if !is_right {
                // Else the next run would go on from it.
                fs::remove_file(&part)?;
            }
            ensure!(is_right, "{path} has the digest {digest}, which nobody has published");
            self.take(&part, path)?;
            if *published {
                let name = format!("{path}.sha256");
                shelf.write(&self.root.join(&name), digest.as_bytes())?;
                digests.insert(name, hex::encode(Sha256::digest(&digest)));
            }
            digests.insert((*path).to_owned(), digest);
        }
        Ok(digests)
    }

    fn take(&self, file: &Path, name: &str) -> Result<()> {
        let path = self.root.join(name);
        fs::create_dir_all(path.parent().context("a path without a directory")?)?;
        File::open(file)?.sync_all()?;
        Ok(fs::rename(file, path)?)
    }

    fn answers(&self, path: &str) -> bool {
        let mut curl = Command::new("curl");
        curl.args(["--fail", "--location", "--silent", "--head", "--output", "/dev/null"]);
        curl.args(["--connect-timeout", "3", "--max-time", "10"]);
        host::run(curl.arg(format!("{}{path}", self.origin))).is_ok()
    }

    /// The digest that the origin has beside a file.
    fn published(&self, path: &str) -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args(["--fail", "--location", "--silent", "--show-error", "--max-time", "30"]);
        let text = host::ask(curl.arg(format!("{}{path}.sha256", self.origin)))?;
        Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
    }
}

/// Paths of released files, and whether a digest is published beside each; `None` where there are
/// images among them.
fn released(upstream: &Upstream) -> Option<Vec<(&'static str, bool)>> {
    let path = |packed: &Packed| match packed {
        Packed::File { to, published, .. } => Some((*to, *published)),
        Packed::Archive { to, .. } => Some((*to, false)),
        Packed::Image(_) => None,
    };
    upstream.packed.iter().map(path).collect()
}

fn digest(path: &Path) -> Result<String> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hex::encode(hash.finalize())),
            length => hash.update(&chunk[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;
    use crate::mirror::upstream::Source;

    const SAMPLE: Upstream = Upstream {
        name: "sample",
        version: "1",
        source: Source::Go { cgo: false, tags: "", ldflags: "", package: "tool" },
        packed: &[Packed::Archive { to: "host/tool.tgz", members: &[] }],
    };

    /// A server that has one file, and forgets nobody.
    fn serve(text: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 2048];
                let length = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..length]).to_lowercase();
                let from = request
                    .split_once("range: bytes=")
                    .and_then(|(_, rest)| rest.split('-').next()?.parse().ok())
                    .unwrap_or(0);
                let (status, body) = match from {
                    0 => ("200 OK", text),
                    from => ("206 Partial Content", &text[from..]),
                };
                let range =
                    format!("content-range: bytes {from}-{}/{}", text.len() - 1, text.len());
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{range}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all(head.as_bytes()).unwrap();
                if !request.starts_with("head") {
                    stream.write_all(body.as_bytes()).unwrap();
                }
            }
        });
        format!("http://{address}/")
    }

    fn fetched(origin: &Origin, root: &Path) -> Option<BTreeMap<String, String>> {
        let shelf = Shelf::open(&root.join("root"), &root.join("partial")).unwrap();
        origin.fetch(&shelf, &SAMPLE).unwrap()
    }

    #[test]
    fn a_released_file_is_taken_when_its_digest_is_known() {
        let root = tempfile::tempdir().unwrap();
        let digest = hex::encode(Sha256::digest("released"));
        let directory = root.path().join("downloads");
        let known = Origin {
            origin: serve("released"),
            pins: format!("a: {digest}"),
            directory,
            root: root.path().join("root"),
        };
        // One that was interrupted goes on.
        fs::create_dir_all(&known.directory).unwrap();
        fs::write(known.directory.join("host_tool.tgz"), "rele").unwrap();
        let files = fetched(&known, root.path()).unwrap();
        assert_eq!(files["host/tool.tgz"], digest);
        assert_eq!(fs::read_to_string(root.path().join("root/host/tool.tgz")).unwrap(), "released");

        let unknown = Origin { pins: "a: b".into(), ..known };
        assert_eq!(fetched(&unknown, root.path()), None);
        assert!(!unknown.directory.join("host_tool.tgz").exists());
    }

    #[test]
    fn what_cannot_be_reached_is_built() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("downloads");
        let (origin, pins) = ("http://127.0.0.1:1/".into(), String::new());
        let origin = Origin { origin, pins, directory, root: root.path().join("root") };
        assert_eq!(fetched(&origin, root.path()), None);
    }
}
