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
struct Server(Child);

/// Starts a server by its program and script, and the client of the URL that it prints.
pub(crate) async fn subject(program: &str, script: &str) -> Result<Subject> {
    let (server, url) = Server::start(program, script)?;
    let provider = HttpProvider::open(HttpConfig::new(url)).await?;
    let subject = Subject::new(Arc::new(provider), SandboxSpec::host()).await?;
    Ok(subject.keep(server))
}

impl Server {
    /// Starts it, and reads its URL.
    fn start(program: &str, script: &str) -> Result<(Self, String)> {
        let mut command = Command::new(program);
        command.arg(script);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = piped.spawn().map_err(|error| {
            Error::new(ErrorKind::Internal, format!("{program} does not start")).source(error)
        })?;
        let mut server = Self(child);
        let mut url = String::new();
        let read = server.0.stdout.take().map(|out| {
            let mut out = BufReader::new(out);
            out.read_line(&mut url)
        });
        match read {
            Some(Ok(1..)) => Ok((server, url.trim_end().to_owned())),
            _ => Err(Error::new(
                ErrorKind::Internal,
                format!("{script} printed no URL, expected one on its first line"),
            )),
        }
    }
}

impl Drop for Server {
    #[expect(clippy::disallowed_methods, reason = "a process is polled")]
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let until = Instant::now() + Duration::from_secs(10);
        while matches!(self.0.try_wait(), Ok(None)) {
            if Instant::now() > until {
                // It may have ended meanwhile.
                let _ = self.0.kill();
                let _ = self.0.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
