//! Feeding and reading the streams of a command.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::transport::target::Password;
use crate::transport::{Input, LineSink, Script, TransportError};

/// What is kept of one stream; the line sink still sees everything.
const KEPT: usize = 4 * 1024 * 1024;

pub(super) enum Source {
    Bytes(Vec<u8>),
    File(tokio::fs::File),
}

/// Nobody prints this by chance.
pub(super) fn marker() -> String {
    format!("@kdiy-begins-{:016x}", rand::random::<u64>())
}

/// What stands before every script. The marker on both streams tells what the script says from
/// what start-up files of shells say. sudo's `secure_path` may lack the directory in which kdiy
/// installs, and a user's path those of the system.
fn prelude(marker: &str, slow: u32) -> String {
    format!(
        "echo {marker}; echo {marker} >&2\n\
         PATH=\"${{PATH:+$PATH:}}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\" \
         KDIY_SLOW={slow}\nexport PATH KDIY_SLOW\n"
    )
}

/// Unpacks the script, which is the first argument. Every login shell takes these words as they
/// are: they hold nothing that one of them treats in a way of its own.
const UNPACK: &str = "eval \"$(echo $1 | base64 -d)\"";

impl Source {
    /// The arguments that make `/bin/sh` run the script, and what to feed it.
    pub(super) async fn of(
        script: Script,
        marker: &str,
        slow: u32,
    ) -> Result<(Vec<String>, Self), TransportError> {
        let prelude = prelude(marker, slow);
        let packed = |text: &str| {
            let packed = BASE64.encode(format!("shift\n{prelude}{text}"));
            ["-c", UNPACK, "kdiy", &packed].map(str::to_owned).to_vec()
        };
        Ok(match script.input {
            Input::None => {
                let text = shielded(marker, &prelude, &script.text);
                (vec!["-s".into(), marker.into()], Self::Bytes(text.into_bytes()))
            }
            Input::Bytes(bytes) => (packed(&script.text), Self::Bytes(bytes)),
            Input::File(path) => {
                let file = tokio::fs::File::open(&path)
                    .await
                    .map_err(|source| TransportError::Input { path, source })?;
                (packed(&script.text), Self::File(file))
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
/// runs any of it, and no command in it can swallow the rest. Another shell that took the place
/// of the one that was asked for, as by `exec` in a start-up file, has no such argument.
fn shielded(marker: &str, prelude: &str, script: &str) -> String {
    format!(
        "[ \"$1\" = {marker} ] || exit 97\nshift\n{prelude}\
         kdiy_main() {{\n{script}\n}}\nkdiy_main </dev/null\n"
    )
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

/// One stream of a command.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// What came before the marker; all of it where that never came.
    pub before: String,
    /// What the script said; `None` when it never began.
    pub text: Option<String>,
}

/// Reads a stream to its end, passing on whole lines of what follows the marker's. Invalid UTF-8
/// is replaced.
pub(super) async fn collect(
    stream: Option<impl AsyncRead + Unpin>,
    marker: &str,
    sink: LineSink<'_>,
) -> Heard {
    let Some(mut stream) = stream else { return Heard::default() };
    let mark = format!("{marker}\n").into_bytes();
    let (mut before, mut begun) = (Vec::new(), false);
    let mut kept = Vec::new();
    let mut line = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    // A stream that breaks off ends like one that is closed; the exit status decides.
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        let mut fresh = buffer[..read].to_vec();
        if !begun {
            before.extend_from_slice(&fresh);
            let Some(at) = before.windows(mark.len()).position(|part| part == mark) else {
                // Something that talks without an end is nothing that kdiy started.
                before.truncate(KEPT);
                continue;
            };
            begun = true;
            fresh = before.split_off(at + mark.len());
            before.truncate(at);
        }
        kept.extend_from_slice(&fresh[..fresh.len().min(KEPT.saturating_sub(kept.len()))]);
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
    Heard {
        before: String::from_utf8_lossy(&before).into_owned(),
        text: begun.then(|| String::from_utf8_lossy(&kept).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn lines_arrive_complete_and_the_last_needs_no_newline() {
        let seen = Mutex::new(Vec::new());
        let heard = collect(Some(&b"begin\none\ntwo\nthree"[..]), "begin", &|line| {
            seen.lock().unwrap().push(line.to_owned());
        })
        .await;
        assert_eq!(heard.text.unwrap(), "one\ntwo\nthree");
        assert_eq!(*seen.lock().unwrap(), ["one", "two", "three"]);
    }

    #[tokio::test]
    async fn output_of_the_shell_before_the_script_is_ignored() {
        let stream = &b"welcome\nno newlinebegin\nanswer\n"[..];
        let heard = collect(Some(stream), "begin", &|_| {}).await;
        assert_eq!(heard.before, "welcome\nno newline");
        assert_eq!(heard.text.unwrap(), "answer\n");
        let heard = collect(Some(&b"nologin\n"[..]), "begin", &|_| {}).await;
        assert_eq!(heard, Heard { before: "nologin\n".into(), text: None });
    }

    /// What the login shell of an account makes of a script that asks for something.
    async fn run_by(shell: &[&str], script: Script) -> (Option<String>, i32) {
        use tokio::process::Command;
        let marker = marker();
        let (arguments, input) = Source::of(script, &marker, 3).await.unwrap();
        let words = arguments.iter().map(|word| shell_escape_as_ssh_does(word));
        let line = ["/bin/sh".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ");
        let mut child = Command::new(shell[0])
            .args(&shell[1..])
            .arg(line)
            .env("PATH", "/usr/bin:/bin")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let ((), heard) = tokio::join!(
            feed(child.stdin.take(), None, input),
            collect(child.stdout.take(), &marker, &|_| {})
        );
        (heard.text, child.wait().await.unwrap().code().unwrap())
    }

    /// openssh puts a word that is not plain between single quotes.
    fn shell_escape_as_ssh_does(word: &str) -> String {
        format!("'{}'", word.replace('\'', "'\\''"))
    }

    const ODD: &str = "printf '%s\\n' \"it's $KDIY_SLOW !\" 'a\\b'; case $PATH in \
        */usr/local/bin*) cat; exit 3 ;; esac";

    #[tokio::test]
    async fn every_login_shell_runs_a_script_as_it_is() {
        for shell in ["sh", "bash", "zsh", "fish", "tcsh"] {
            let there = std::process::Command::new(shell).args(["-c", ":"]).output();
            if there.is_err() && shell != "sh" {
                continue;
            }
            let words = [shell, "-c"];
            let plain = run_by(&words, Script::new(ODD)).await;
            assert_eq!(plain, (Some("it's 3 !\na\\b\n".into()), 3), "{shell}");
            let fed = Script::new(ODD).with_input(Input::Bytes(b"fed".to_vec()));
            let fed = run_by(&words, fed).await;
            assert_eq!(fed, (Some("it's 3 !\na\\b\nfed".into()), 3), "{shell}");
        }
    }

    #[tokio::test]
    async fn noise_is_no_answer_and_a_shell_that_took_over_runs_nothing() {
        let noisy = ["sh", "-c", "echo welcome; printf more; eval \"$0\""];
        let (text, status) = run_by(&noisy, Script::new("echo answer")).await;
        assert_eq!((text.as_deref(), status), (Some("answer\n"), 0));
        // `exec zsh` in a start-up file: it reads the script as its own commands.
        let taken_over = ["sh", "-c", "exec sh"];
        let (text, status) = run_by(&taken_over, Script::new("echo done as somebody else")).await;
        assert_eq!((text, status), (None, 97));
    }
}
