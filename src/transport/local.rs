//! This computer as a machine, with the rights of whoever runs kdiy.

use std::net::SocketAddr;
use std::process::Stdio;

use async_trait::async_trait;
use tokio::process::Command;

use crate::transport::{ENDS_WITHIN, LineSink, Output, Script, Transport, TransportError, output};

pub struct Local {
    name: String,
}

impl Local {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    fn lost(&self, source: std::io::Error) -> TransportError {
        TransportError::Lost { machine: self.name.clone(), source: Box::new(source) }
    }

    async fn exchange(&self, script: Script, sink: LineSink<'_>) -> Result<Output, TransportError> {
        let marker = output::marker();
        let (arguments, input) = output::Source::of(script, &marker, 1).await?;
        let mut child = Command::new("/bin/sh")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| self.lost(error))?;
        let ((), stdout, stderr) = tokio::join!(
            output::feed(child.stdin.take(), None, input),
            output::collect(child.stdout.take(), &marker, sink),
            output::collect(child.stderr.take(), &marker, sink),
        );
        let status = child.wait().await.map_err(|error| self.lost(error))?;
        let status = status.code().unwrap_or(-1);
        let said = |heard: output::Heard| heard.text.unwrap_or_default();
        Ok(Output { status, stdout: said(stdout), stderr: said(stderr) })
    }
}

#[async_trait]
impl Transport for Local {
    fn machine(&self) -> &str {
        &self.name
    }

    async fn run_with(&self, script: Script, sink: LineSink<'_>) -> Result<Output, TransportError> {
        let after = script.timeout.unwrap_or(ENDS_WITHIN);
        tokio::time::timeout(after, self.exchange(script, sink))
            .await
            .map_err(|_| TransportError::Timeout { machine: self.name.clone(), after })?
    }

    async fn forward(&self, target: SocketAddr) -> Result<SocketAddr, TransportError> {
        Ok(target)
    }

    async fn is_alive(&self) -> bool {
        true
    }

    async fn close(&self) {}
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::transport::Input;

    #[tokio::test]
    async fn a_script_without_input_cannot_eat_itself() {
        let output = Local::new("here").run(Script::new("cat\necho after")).await.unwrap();
        assert_eq!((output.status, output.stdout.as_str()), (0, "after\n"));
    }

    #[tokio::test]
    async fn input_reaches_the_script() {
        let script = Script::new("cat; exit 3").with_input(Input::Bytes(b"hello".to_vec()));
        let output = Local::new("here").run(script).await.unwrap();
        assert_eq!((output.status, output.stdout.as_str()), (3, "hello"));
    }

    #[tokio::test]
    async fn a_deadline_ends_a_script() {
        let script = Script::new("sleep 30").timeout(Duration::from_millis(50));
        let error = Local::new("here").run(script).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
    }
}
