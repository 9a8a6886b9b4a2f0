//! A server of the HTTP API that is a program in another language.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stacyvm::providers::http::{HttpConfig, HttpProvider};
use stacyvm::{Error, ErrorKind, Result, SandboxSpec};
use stacyvm_conformance::Subject;

/// The server's process, which ends when its standard input does: with this one,
/// however it ends.
pub(crate) struct Server {
    process: Child,
    url: String,
}

impl Server {
    /// Starts it by its program and script, and reads its URL.
    pub(crate) fn start(program: &str, script: &str) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg(script);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let process = piped.spawn().map_err(|error| {
            Error::new(ErrorKind::Internal, format!("{program} does not start")).source(error)
        })?;
        let url = String::new();
        let mut server = Self { process, url };
        let read = server.process.stdout.take().map(|out| {
            let mut out = BufReader::new(out);
            out.read_line(&mut server.url)
        });
        match read {
            Some(Ok(1..)) => Ok(server),
            _ => Err(Error::new(
                ErrorKind::Internal,
                format!("{script} printed no URL, expected one on its first line"),
            )),
        }
    }

    /// A client of it.
    pub(crate) async fn subject(&self) -> Result<Subject> {
        let provider = HttpProvider::open(HttpConfig::new(self.url.trim_end())).await?;
        Subject::new(Arc::new(provider), SandboxSpec::host()).await
    }
}

impl Drop for Server {
    #[expect(clippy::disallowed_methods, reason = "a process is polled")]
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let until = Instant::now() + Duration::from_secs(10);
        while matches!(self.process.try_wait(), Ok(None)) {
            if Instant::now() > until {
                // It may have ended meanwhile.
                let _ = self.process.kill();
                let _ = self.process.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
