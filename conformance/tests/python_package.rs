//! The suite through the Python package, which drives the embedded provider: it can change no
//! meaning. `scripts/python.sh build` makes what this stands on.

#[cfg(all(feature = "http", target_os = "linux"))]
mod wire {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Child, Command, Stdio};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use stacyvm::providers::http::{HttpConfig, HttpProvider};
    use stacyvm::{Error, ErrorKind, Result, SandboxSpec};
    use stacyvm_conformance::{Harness, Subject};

    /// The environment in which the package is installed.
    const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/bin/python");
    const SCRIPT: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../stacyvm-py/tests/conformance_server.py"
    );

    pub(crate) struct Served;

    /// The server's process, which ends when its standard input does: with this one,
    /// however it ends.
    struct Server(Child);

    impl Server {
        /// Starts it, and reads its URL.
        fn start() -> Result<(Self, String)> {
            let mut command = Command::new(PYTHON);
            command.arg(SCRIPT);
            let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let child = piped.spawn().map_err(|error| {
                Error::new(
                    ErrorKind::Internal,
                    "the environment's python does not start",
                )
                .source(error)
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
                    format!("{SCRIPT} printed no URL, expected one on its first line"),
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

    #[async_trait::async_trait]
    impl Harness for Served {
        fn name(&self) -> &'static str {
            "python-package"
        }

        fn absent(&self) -> Option<String> {
            let looked = Command::new(PYTHON).args(["-c", "import stacyvm"]).output();
            let is_there = looked.is_ok_and(|output| output.status.success());
            (!is_there)
                .then(|| "the Python package is not built: scripts/python.sh build".to_owned())
        }

        async fn open(&self) -> Result<Subject> {
            let (server, url) = Server::start()?;
            let provider = HttpProvider::open(HttpConfig::new(url)).await?;
            let subject = Subject::new(Arc::new(provider), SandboxSpec::host()).await?;
            Ok(subject.keep(server))
        }
    }
}

#[cfg(all(feature = "http", target_os = "linux"))]
// The probes are about isolation, of which there is none.
stacyvm_conformance::provider_main!(wire::Served, without: ["probes"]);

#[cfg(not(all(feature = "http", target_os = "linux")))]
#[expect(clippy::print_stderr, reason = "this is the front end")]
fn main() {
    eprintln!(
        "not run: the client is there with the feature `http`, and what the server stands on is Linux's"
    );
}
