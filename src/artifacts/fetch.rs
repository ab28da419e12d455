//! Downloads release files once, resumes interrupted downloads, and never uses a file before its
//! digest was verified.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use flate2::read::GzDecoder;
use futures::StreamExt;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{StatusCode, redirect};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::artifacts::catalogue::Item;
use crate::artifacts::digest::{self, Digests};
use crate::artifacts::source::{Location, Source};
use crate::artifacts::{Installable, image_path};
use crate::state::atomic;
use crate::support::event::Events;
use crate::support::failure::{Failure, Result};

/// Without a byte for this long a download has stalled, and is resumed.
const STALL: Duration = Duration::from_secs(30);
const ATTEMPTS: usize = 5;
const MOST_REDIRECTS: usize = 10;
/// What an unpacked archive holds, beside its files. Written last, so a directory without it, or
/// with files that are not as it says, was not unpacked to its end.
const UNPACKED: &str = "unpacked.json";
/// How often a download says how far it is, in bytes.
const TELL_EVERY: u64 = 2 * 1024 * 1024;

pub struct Store {
    cache: PathBuf,
    source: Source,
    digests: Digests,
    /// Digests that an origin published when its file was first used, by URL.
    pins: PathBuf,
    client: reqwest::Client,
}

impl Store {
    /// `cache` is shared by all clusters; `state` is the cluster's own.
    pub fn open(cache: &Path, state: &Path, source: Source) -> Result<Self> {
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(STALL)
            .redirect(redirect::Policy::custom(follow))
            .user_agent(concat!("kdiy/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Failure::host("cannot set up HTTPS").because(error))?;
        Ok(Self {
            cache: cache.to_owned(),
            source,
            digests: Digests::open(cache.join("digests.json")),
            pins: state.join("artifacts.lock.json"),
            client,
        })
    }

    /// An error for a file of a local mirror that is not what was released, before anything is
    /// made for it. What is to be downloaded is checked when it is there.
    pub fn check_local(&self, items: &[Item]) -> Result<()> {
        for item in items {
            let Location::File(path) = self.source.locate(&item.url) else { continue };
            let replaced = self.source.replaced_digest(&item.url)?;
            let Some(expected) = replaced.or(item.pinned.as_deref()) else { continue };
            let digest = self.digest(&path)?;
            if digest != expected {
                return Err(wrong_digest(&Location::File(path), expected, &digest));
            }
        }
        Ok(())
    }

    /// The item's files, ready to be installed.
    pub async fn ensure(
        &self,
        item: &Item,
        events: &Events,
        task: &str,
    ) -> Result<Vec<Installable>> {
        let location = self.source.locate(&item.url);
        let expected = self.expected_digest(item).await?;
        let file = self.have(&item.url, &location, &expected, events, task).await?;
        let unpacked = self.unpacked(item, &file, &expected).await?;
        let mut installables = Vec::new();
        for (member, to, mode) in &item.install {
            let local = match member {
                None => file.clone(),
                Some(member) => extraction(&self.cache, &expected).join(plain(Path::new(member))),
            };
            let sha256 = match member.as_ref().and_then(|member| unpacked.get(member)) {
                Some(stamp) => stamp.sha256.clone(),
                None => self.digest(&local)?,
            };
            let bytes = fs::metadata(&local).map_err(|error| unreadable(&local, error))?.len();
            let (artifact, to, mode) = (item.name.clone(), to.clone(), mode.clone());
            installables.push(Installable { artifact, to, local, sha256, bytes, mode });
        }
        Ok(installables)
    }

    /// Unpacks the members that are installed, once per archive, into a directory named by the
    /// archive's digest. What was unpacked before is used when it is still what it was.
    async fn unpacked(&self, item: &Item, file: &Path, digest: &str) -> Result<Members> {
        let members: Vec<String> =
            item.install.iter().filter_map(|(from, ..)| from.clone()).collect();
        if members.is_empty() {
            return Ok(Members::new());
        }
        let directory = extraction(&self.cache, digest);
        if let Some(stamped) = stamped(&directory)
            && members.iter().all(|member| stamped.contains_key(member))
            && stamped.iter().all(|(member, stamp)| self.is_as_stamped(&directory, member, stamp))
        {
            return Ok(stamped);
        }
        let (archive, wanted) = (file.to_owned(), members.clone());
        let unpacked = blocking(move || unpack(&directory, &archive, &wanted)).await?;
        let unpacked = unpacked.map_err(|error| {
            Failure::host(format!("cannot unpack {}", file.display()))
                .because(error)
                .hint("check whether the disk is full")
        })?;
        match members.iter().find(|member| !unpacked.contains_key(*member)) {
            Some(member) => {
                Err(Failure::host(format!("{} has no member {member}", file.display()))
                    .hint("playbooks/artifacts.yaml lists the members that kdiy installs"))
            }
            None => Ok(unpacked),
        }
    }

    fn is_as_stamped(&self, directory: &Path, member: &str, stamp: &Member) -> bool {
        let path = directory.join(plain(Path::new(member)));
        let bytes = fs::metadata(&path).map(|metadata| metadata.len()).ok();
        bytes == Some(stamp.bytes) && self.digest(&path).is_ok_and(|sha256| sha256 == stamp.sha256)
    }

    /// An image file that the mirror carries.
    pub async fn ensure_image(
        &self,
        name: &str,
        file: &str,
        events: &Events,
        task: &str,
    ) -> Result<Installable> {
        let location = self.source.in_mirror(file).ok_or_else(|| {
            Failure::bug(format!("the mirror of the image {name} does not exist"))
        })?;
        let expected = self.source.replaced_digest(file)?.unwrap_or_default().to_owned();
        let local = self.have(file, &location, &expected, events, task).await?;
        let sha256 = self.digest(&local)?;
        let bytes = fs::metadata(&local).map_err(|error| unreadable(&local, error))?.len();
        Ok(Installable {
            artifact: name.to_owned(),
            to: image_path(name),
            local,
            sha256,
            bytes,
            mode: "0644".into(),
        })
    }

    /// A manifest that the user named: a file, or an https URL with its digest.
    pub async fn read_manifest(&self, place: &str) -> Result<Vec<u8>> {
        if !place.starts_with("https://") {
            let path = Path::new(place);
            return fs::read(path).map_err(|error| unreadable(path, error));
        }
        let (url, expected) = with_digest(place);
        let bytes = self.bytes(url).await?;
        let found = hex::encode(Sha256::digest(&bytes));
        vouched(url, expected, &found)?;
        Ok(bytes)
    }

    /// An error for an add-on that cannot be fetched, or is not what the user vouches for, before
    /// anything is made for it.
    pub async fn check_manifests(&self, places: impl Iterator<Item = &String>) -> Result<()> {
        for place in places.filter(|place| place.starts_with("https://")) {
            self.read_manifest(place).await?;
        }
        Ok(())
    }

    /// What [`Self::ensure`] will put where, without fetching or unpacking anything: each path on
    /// the machine with the file's digest, where that can be told from what is here.
    pub fn foresee(&self, item: &Item) -> Result<Vec<(String, Option<String>)>> {
        let expected = self.known_digest(item)?;
        let mut foreseen = Vec::new();
        for (member, to, _) in &item.install {
            let digest = match (member, &expected) {
                (_, None) => None,
                (None, Some(digest)) => Some(digest.clone()),
                (Some(member), Some(digest)) => stamped(&extraction(&self.cache, digest))
                    .and_then(|mut members| members.remove(member))
                    .map(|stamp| stamp.sha256),
            };
            foreseen.push((to.clone(), digest));
        }
        Ok(foreseen)
    }

    /// The same for [`Self::ensure_image`].
    pub fn foresee_image(&self, file: &str) -> Result<Option<String>> {
        Ok(self.source.replaced_digest(file)?.map(str::to_owned))
    }

    /// The digest that a file must have, as far as it is known on this computer.
    fn known_digest(&self, item: &Item) -> Result<Option<String>> {
        if let Some(digest) = self.source.replaced_digest(&item.url)? {
            return Ok(Some(digest.to_owned()));
        }
        if let Some(pinned) = &item.pinned {
            return Ok(Some(pinned.clone()));
        }
        Ok(self.pins()?.remove(&item.url))
    }

    async fn expected_digest(&self, item: &Item) -> Result<String> {
        if let Some(digest) = self.known_digest(item)? {
            return Ok(digest);
        }
        let url = item.published.as_deref().ok_or_else(|| item.undigested())?;
        let text = self.text(&Location::Url(url.to_owned())).await?;
        let digest = text
            .split_whitespace()
            .find(|word| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit()))
            .ok_or_else(|| Failure::host(format!("{url} has no SHA-256 digest")))?
            .to_ascii_lowercase();
        let mut pins = self.pins()?;
        pins.insert(item.url.clone(), digest.clone());
        atomic::write_json(&self.pins, &pins)?;
        Ok(digest)
    }

    fn pins(&self) -> Result<BTreeMap<String, String>> {
        match fs::read(&self.pins) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Failure::host(format!("{} is damaged", self.pins.display())).because(error)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(unreadable(&self.pins, error)),
        }
    }

    /// The file at `location`, with the digest that it must have; empty takes any, which only
    /// images of a mirror without a list of digests are given.
    async fn have(
        &self,
        name: &str,
        location: &Location,
        expected: &str,
        events: &Events,
        task: &str,
    ) -> Result<PathBuf> {
        atomic::private_directory(&self.cache)?;
        let path = match location {
            Location::File(path) if path.is_file() => path.clone(),
            Location::File(path) => {
                return Err(Failure::input(format!(
                    "artifacts.mirror: it lacks {}",
                    path.display()
                ))
                .hint("complete the mirror, or leave it out to download from the origin"));
            }
            Location::Url(url) => {
                let path = self.cache.join("files").join(name.trim_start_matches("https://"));
                if !path.is_file() || self.digest(&path)? != expected {
                    self.download(url, &path, events, task).await?;
                }
                path
            }
        };
        let digest = self.digest(&path)?;
        if !expected.is_empty() && digest != expected {
            if matches!(location, Location::Url(_)) {
                // A bad file in the cache would fail every later run as well.
                let _ = fs::remove_file(&path);
            }
            return Err(wrong_digest(location, expected, &digest));
        }
        Ok(path)
    }

    fn digest(&self, path: &Path) -> Result<String> {
        // Known files cost a stat; only fresh ones are worth a thread.
        tokio::task::block_in_place(|| {
            self.digests.of(path).map_err(|error| unreadable(path, error))
        })
    }

    async fn text(&self, location: &Location) -> Result<String> {
        match location {
            Location::File(path) => {
                fs::read_to_string(path).map_err(|error| unreadable(path, error))
            }
            Location::Url(url) => {
                let bytes = self.bytes(url).await?;
                String::from_utf8(bytes).map_err(|error| {
                    Failure::host(format!("{url} is not a text file")).because(error)
                })
            }
        }
    }

    async fn bytes(&self, url: &str) -> Result<Vec<u8>> {
        let get = || async { self.client.get(url).send().await?.error_for_status()?.bytes().await };
        let bytes = get.retry(backoff()).when(is_transient).await;
        bytes.map(Vec::from).map_err(|error| unfetched(url, error))
    }

    async fn download(&self, url: &str, to: &Path, events: &Events, task: &str) -> Result<()> {
        let directory = to.parent().unwrap_or(&self.cache);
        atomic::private_directory(directory)?;
        // One process one part: two kdiys on one cache do not write into each other's file.
        let part = to.with_extension(format!("part-{}", std::process::id()));
        let adopted = adopt_part(to, &part);
        tracing::debug!(url, adopted, "download");
        let attempt = || self.download_once(url, &part, events, task);
        attempt
            .retry(backoff())
            .when(|error| matches!(error, DownloadError::Http(error) if is_transient(error)))
            .await
            .map_err(|error| match error {
                DownloadError::Http(error) => unfetched(url, error),
                DownloadError::File(error) => {
                    Failure::host(format!("cannot write {}", part.display()))
                        .because(error)
                        .hint("check whether the disk is full")
                }
            })?;
        fs::rename(&part, to)
            .map_err(|error| Failure::host(format!("cannot write {}", to.display())).because(error))
    }

    async fn download_once(
        &self,
        url: &str,
        part: &Path,
        events: &Events,
        task: &str,
    ) -> Result<(), DownloadError> {
        let mut file = tokio::fs::OpenOptions::new().create(true).append(true).open(part).await?;
        let mut have = file.metadata().await?.len();
        let mut request = self.client.get(url);
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        let response = request.send().await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            // All of it is here already, or it is not the same file any more; the digest tells.
            return Ok(());
        }
        let response = response.error_for_status()?;
        if have > 0 && response.headers().get(CONTENT_RANGE).is_none() {
            file.set_len(0).await?;
            have = 0;
        }
        let total = have + response.content_length().unwrap_or(0);
        let mut told = 0;
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            file.write_all(&chunk).await?;
            have += chunk.len() as u64;
            if have - told >= TELL_EVERY {
                events.bytes(task, "downloading", have, total);
                told = have;
            }
        }
        file.sync_all().await?;
        Ok(())
    }
}

/// Release servers send on to where their files are, never from https to anything else.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let from = attempt.previous().last().map_or("", |url| url.scheme());
    if is_downgrade(from, attempt.url().scheme()) {
        return attempt.error("it redirects from https to http, where anybody could answer");
    }
    if attempt.previous().len() > MOST_REDIRECTS {
        return attempt.error("it redirects too often");
    }
    attempt.follow()
}

fn is_downgrade(from: &str, to: &str) -> bool {
    from == "https" && to != "https"
}

/// The parts of `https://…#sha256=<hex>`.
fn with_digest(place: &str) -> (&str, Option<&str>) {
    match place.split_once('#') {
        Some((url, fragment)) => (url, Some(fragment.strip_prefix("sha256=").unwrap_or(fragment))),
        None => (place, None),
    }
}

/// An error unless what is at `url` is what the user looked at once.
fn vouched(url: &str, expected: Option<&str>, found: &str) -> Result<()> {
    match expected {
        Some(expected) if expected.eq_ignore_ascii_case(found) => Ok(()),
        Some(expected) => Err(Failure::input(format!(
            "addons: {url} does not match the digest in the cluster file"
        ))
        .cause(format!("expected sha256 {expected}, got {found}"))
        .hint("check the new content; if you want it, set its digest")),
        None => Err(Failure::input(format!("addons: {url} has no digest"))
            .cause("anyone who can change that file could control the cluster")
            .hint(format!("check the file; if you want it, write: {url}#sha256={found}"))),
    }
}

#[derive(Debug, thiserror::Error)]
enum DownloadError {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error(transparent)]
    File(#[from] io::Error),
}

/// Takes over what a process that is gone has downloaded of this file.
fn adopt_part(to: &Path, part: &Path) -> bool {
    let (Some(directory), Some(stem)) = (to.parent(), to.file_stem()) else { return false };
    let prefix = format!("{}.part-", stem.to_string_lossy());
    let Ok(entries) = fs::read_dir(directory) else { return false };
    entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.strip_prefix(&prefix)
                .is_some_and(|process| !Path::new("/proc").join(process).exists())
        })
        .any(|entry| fs::rename(entry.path(), part).is_ok())
}

fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::default().with_max_times(ATTEMPTS).with_jitter()
}

/// Whether the same request may go through later: not for what the server refused.
fn is_transient(error: &reqwest::Error) -> bool {
    match error.status() {
        Some(status) => {
            status.is_server_error()
                || status == StatusCode::TOO_MANY_REQUESTS
                || status == StatusCode::REQUEST_TIMEOUT
        }
        // A body that ends too early is an error of decoding to reqwest.
        None => {
            error.is_timeout()
                || error.is_connect()
                || error.is_body()
                || error.is_decode()
                || error.is_request()
        }
    }
}

fn unfetched(url: &str, error: reqwest::Error) -> Failure {
    let failure = Failure::host(format!("cannot download {url}"));
    let failure = match error.status() {
        Some(StatusCode::NOT_FOUND) => failure.hint("check that this version exists"),
        _ => failure
            .hint("run the same command again; it resumes the download")
            .hint("without internet access, set a mirror: --mirror DIR or URL"),
    };
    failure.because(error)
}

fn wrong_digest(location: &Location, expected: &str, got: &str) -> Failure {
    Failure::host(format!("{location} is not what was released"))
        .cause(format!("expected sha256 {expected}, got {got}"))
        .hint("nothing of it was installed; try again, or check the server that sent it")
        .hint("for a mirror of files that you built yourself, set --digests")
}

fn unreadable(path: &Path, error: io::Error) -> Failure {
    Failure::host(format!("cannot read {}", path.display())).because(error)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::bug("a worker thread ended").because(error))
}

/// Where the members of an archive are unpacked.
fn extraction(cache: &Path, digest: &str) -> PathBuf {
    cache.join("extracted").join(digest)
}

/// One unpacked file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    bytes: u64,
    sha256: String,
}

/// By name in the archive.
type Members = BTreeMap<String, Member>;

/// What was unpacked here; `None` where that was not done to its end.
fn stamped(directory: &Path) -> Option<Members> {
    serde_json::from_slice(&fs::read(directory.join(UNPACKED)).ok()?).ok()
}

/// Everything is on disk before the directory has its name: after a power cut there are either
/// all of the files with all of their bytes, or none.
fn unpack(directory: &Path, file: &Path, members: &[String]) -> io::Result<Members> {
    let parent = directory.parent().unwrap_or(directory);
    fs::create_dir_all(parent)?;
    let temporary = tempfile::tempdir_in(parent)?;
    let unpacking = temporary.path().join("unpacked");
    fs::create_dir(&unpacking)?;
    let mut unpacked = Members::new();
    let mut archive = tar::Archive::new(GzDecoder::new(fs::File::open(file)?));
    for entry in archive.entries()? {
        let mut entry = entry?;
        // Only regular files under the very names that were asked for are written, so an
        // archive cannot name a place of its own.
        let name = plain(&entry.path()?);
        let member = members.iter().find(|member| plain(Path::new(member)) == name);
        if let (true, Some(member)) = (entry.header().entry_type().is_file(), member) {
            let to = unpacking.join(&name);
            fs::create_dir_all(to.parent().unwrap_or(&unpacking))?;
            let mut written = fs::File::create(&to)?;
            let bytes = io::copy(&mut entry, &mut written)?;
            written.sync_all()?;
            unpacked.insert(member.clone(), Member { bytes, sha256: digest::hash(&to)? });
        }
    }
    let mut stamp = fs::File::create(unpacking.join(UNPACKED))?;
    serde_json::to_writer_pretty(&mut stamp, &unpacked)?;
    stamp.sync_all()?;
    sync_directories(&unpacking)?;
    // What is there already is not what it should be, or another kdiy's, with the same content.
    match fs::rename(directory, temporary.path().join("replaced")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match fs::rename(&unpacking, directory) {
        Err(_) if stamped(directory).is_some_and(|members| members == unpacked) => {}
        result => result?,
    }
    fs::File::open(parent)?.sync_all()?;
    Ok(unpacked)
}

/// That files have their names is kept in the directories above them.
fn sync_directories(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_directories(&entry.path())?;
        }
    }
    fs::File::open(directory)?.sync_all()
}

/// A path without `.`, `..` and a root.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    const CONTENT: &[u8] = b"0123456789";

    /// Serves two requests: breaks off the first after four bytes, and answers the second with
    /// `answer`. Returns what the second asked for.
    async fn broken_server(listener: TcpListener, answer: &'static str) -> String {
        let mut asked = String::new();
        let first = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123".to_owned();
        for number in 0..2 {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            let read = connection.read(&mut buffer).await.unwrap();
            asked = String::from_utf8_lossy(&buffer[..read]).to_lowercase();
            let response = if number == 0 { first.clone() } else { answer.to_owned() };
            connection.write_all(response.as_bytes()).await.unwrap();
        }
        asked
    }

    async fn downloaded(answer: &'static str) -> (Vec<u8>, String) {
        crate::support::tls::install_provider();
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let server = tokio::spawn(broken_server(listener, answer));
        let store = Store::open(directory.path(), directory.path(), Source::default()).unwrap();
        let to = directory.path().join("file");
        let (events, _reader) = Events::channel();
        store.download(&url, &to, &events, "fetch:file").await.unwrap();
        (fs::read(&to).unwrap(), server.await.unwrap())
    }

    #[tokio::test]
    async fn an_interrupted_download_resumes() {
        let (content, asked) = downloaded(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: 6\r\n\
             Content-Range: bytes 4-9/10\r\n\r\n456789",
        )
        .await;
        assert_eq!(content, CONTENT);
        assert!(asked.contains("range: bytes=4-"), "{asked}");
    }

    /// An archive with one file, `bin/tool`.
    fn archive(directory: &Path) -> (PathBuf, Vec<String>) {
        let path = directory.join("tool.tar.gz");
        let gzip =
            flate2::write::GzEncoder::new(fs::File::create(&path).unwrap(), Default::default());
        let mut archive = tar::Builder::new(gzip);
        let mut header = tar::Header::new_gnu();
        header.set_size(CONTENT.len() as u64);
        header.set_mode(0o755);
        archive.append_data(&mut header, "bin/tool", CONTENT).unwrap();
        archive.into_inner().unwrap().finish().unwrap();
        (path, vec!["bin/tool".to_owned()])
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_interrupted_extraction_is_repeated() {
        crate::support::tls::install_provider();
        let directory = tempfile::tempdir().unwrap();
        let (file, members) = archive(directory.path());
        let store = Store::open(directory.path(), directory.path(), Source::default()).unwrap();
        let item = Item {
            name: "tool".into(),
            version: "1".into(),
            url: "https://example.com/tool.tar.gz".into(),
            pinned: None,
            known: Vec::new(),
            arch: "amd64".into(),
            published: None,
            install: vec![(Some(members[0].clone()), "/usr/local/bin/tool".into(), "0755".into())],
        };
        let unpacked = extraction(directory.path(), "digest").join("bin/tool");
        // Nothing yet; then cut off by a power cut, with a stamp and without, as an older kdiy
        // unpacked; then damaged without a change of size.
        for damage in ["", "truncate", "unstamped", "zeros"] {
            match damage {
                "truncate" => fs::write(&unpacked, "").unwrap(),
                "unstamped" => {
                    fs::write(&unpacked, "").unwrap();
                    fs::remove_file(extraction(directory.path(), "digest").join(UNPACKED)).unwrap();
                }
                "zeros" => fs::write(&unpacked, [0; CONTENT.len()]).unwrap(),
                _ => {}
            }
            let members = store.unpacked(&item, &file, "digest").await.unwrap();
            assert_eq!(fs::read(&unpacked).unwrap(), CONTENT, "{damage}");
            assert_eq!(members["bin/tool"].bytes, CONTENT.len() as u64);
        }
        let lacking =
            Item { install: vec![(Some("bin/other".into()), "/x".into(), "0755".into())], ..item };
        let failure = store.unpacked(&lacking, &file, "digest").await.unwrap_err().to_string();
        assert!(failure.contains("no member bin/other"), "{failure}");
    }

    #[tokio::test]
    async fn a_server_that_cannot_go_on_is_let_begin_again() {
        let (content, _) =
            downloaded("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789").await;
        assert_eq!(content, CONTENT);
    }

    #[test]
    fn downloads_stay_on_https_and_add_ons_match_their_digest() {
        assert!(is_downgrade("https", "http") && is_downgrade("https", "ftp"));
        assert!(!is_downgrade("https", "https") && !is_downgrade("http", "http"));
        let digest = hex::encode(Sha256::digest(b"kind: List\n"));
        let place = format!("https://a.b/c.yaml#sha256={digest}");
        let (url, expected) = with_digest(&place);
        assert_eq!((url, expected), ("https://a.b/c.yaml", Some(digest.as_str())));
        vouched(url, expected, &digest).unwrap();
        let changed = vouched(url, expected, &"0".repeat(64)).unwrap_err().to_string();
        assert!(
            changed.contains("does not match the digest") && changed.contains(&digest),
            "{changed}"
        );
        let without = vouched("https://a.b/c.yaml", None, &digest).unwrap_err().to_string();
        assert!(without.contains(&place), "{without}");
    }
}
