//! A server of the HTTP API in another language fulfils the part of the contract that
//! it claims.

#[cfg(all(feature = "http", target_os = "linux"))]
#[path = "common/server.rs"]
mod server;

#[cfg(all(feature = "http", target_os = "linux"))]
mod wire {
    use std::io::ErrorKind as Io;
    use std::process::Command;

    use stacyvm::Result;
    use stacyvm_conformance::{Harness, Subject};

    const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/server.py");

    pub(crate) struct Served;

    #[async_trait::async_trait]
    impl Harness for Served {
        fn name(&self) -> &'static str {
            "http-python"
        }

        fn absent(&self) -> Option<String> {
            let looked = Command::new("python3").arg("--version").output();
            let is_missing = looked.is_err_and(|error| error.kind() == Io::NotFound);
            is_missing.then(|| "`python3` is not there, which runs the server".to_owned())
        }

        async fn open(&self) -> Result<Subject> {
            let server = crate::server::Server::start("python3", SCRIPT)?;
            Ok(server.subject().await?.keep(server))
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
