//! The suite through the Python package, which drives the embedded provider: it can change no
//! meaning. `scripts/python.sh build` makes what this stands on.

#[cfg(all(feature = "http", target_os = "linux"))]
#[path = "common/server.rs"]
mod server;

#[cfg(all(feature = "http", target_os = "linux"))]
mod wire {
    use std::process::Command;

    use stacyvm::Result;
    use stacyvm_conformance::{Harness, Subject};

    /// The environment in which the package is installed.
    const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/bin/python");
    const SCRIPT: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../stacyvm-py/tests/conformance_server.py"
    );

    pub(crate) struct Served;

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
            crate::server::subject(PYTHON, SCRIPT).await
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
