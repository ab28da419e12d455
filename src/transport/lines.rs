//! Feeding and reading the streams of a command.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::target::Password;
use super::{Input, LineSink, Script, TransportError};

/// What is kept of one stream; the line sink still sees everything.
const KEPT: usize = 4 * 1024 * 1024;

pub(super) enum Source {
    Bytes(Vec<u8>),
    File(tokio::fs::File),
}

impl Source {
    /// The arguments that make `/bin/sh` run the script, and what to feed it.
    pub(super) async fn of(script: Script) -> Result<(Vec<String>, Self), TransportError> {
        Ok(match script.input {
            Input::None => (vec!["-s".into()], Self::Bytes(shielded(&script.text).into_bytes())),
            Input::Bytes(bytes) => (vec!["-c".into(), script.text], Self::Bytes(bytes)),
            Input::File(path) => {
                let file = tokio::fs::File::open(&path)
                    .await
                    .map_err(|source| TransportError::Input { path, source })?;
                (vec!["-c".into(), script.text], Self::File(file))
            }
        })
    }

    async fn copy_to(&mut self, sink: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        match self {
            Self::Bytes(bytes) => sink.write_all(bytes).await,
            Self::File(file) => {
                let mut buffer = vec![0; 256 * 1024];
                loop {
                    let read = file.read(&mut buffer).await?;
                    if read == 0 {
                        return Ok(());
                    }
                    sink.write_all(&buffer[..read]).await?;
                }
            }
        }
    }
}

/// Wraps a script that is read from standard input, so that the shell has all of it before it
/// runs any of it, and no command in it can swallow the rest.
fn shielded(script: &str) -> String {
    format!("kdiy_main() {{\n{script}\n}}\nkdiy_main </dev/null\n")
}

/// Writes all of the input, a line for sudo before it where there is one, and closes the pipe.
pub(super) async fn feed(
    stdin: Option<impl AsyncWrite + Unpin>,
    password: Option<&Password>,
    mut input: Source,
) {
    if let Some(mut stdin) = stdin {
        if let Some(password) = password {
            let _ = stdin.write_all(format!("{}\n", password.reveal()).as_bytes()).await;
        }
        // A script that exits early closes the pipe; its status tells the story.
        let _ = input.copy_to(&mut stdin).await;
        let _ = stdin.shutdown().await;
    }
}

/// Reads a stream to its end, passing on whole lines. Invalid UTF-8 is replaced.
pub(super) async fn collect(stream: Option<impl AsyncRead + Unpin>, sink: LineSink<'_>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    let mut line = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    // A stream that breaks off ends like one that is closed; the exit status decides.
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        let fresh = &buffer[..read];
        kept.extend_from_slice(&fresh[..read.min(KEPT.saturating_sub(kept.len()))]);
        for part in fresh.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if line.ends_with(b"\n") {
                sink(String::from_utf8_lossy(&line).trim_end());
                line.clear();
            }
        }
    }
    if !line.is_empty() {
        sink(&String::from_utf8_lossy(&line));
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn lines_arrive_whole_and_the_last_needs_no_newline() {
        let seen = Mutex::new(Vec::new());
        let text = collect(Some(&b"one\ntwo\nthree"[..]), &|line| {
            seen.lock().unwrap().push(line.to_owned());
        })
        .await;
        assert_eq!(text, "one\ntwo\nthree");
        assert_eq!(*seen.lock().unwrap(), ["one", "two", "three"]);
    }
}
