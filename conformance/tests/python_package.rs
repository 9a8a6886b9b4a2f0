//! The suite through the Python package, which drives the embedded provider: it can change no
//! meaning. `scripts/python.sh build` makes what this stands on.

#[cfg(all(feature = "http", target_os = "linux"))]
#[path = "common/package.rs"]
mod package;

#[cfg(all(feature = "http", target_os = "linux"))]
fn package() -> package::Package {
    package::Package {
        name: "python-package",
        // Of the environment in which the package is installed.
        program: concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/bin/python"),
        script: concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../stacyvm-py/tests/conformance_server.py"
        ),
        looks: &["-c", "import stacyvm"],
        remedy: "scripts/python.sh build",
        server: tokio::sync::OnceCell::new(),
    }
}

#[cfg(all(feature = "http", target_os = "linux"))]
// The probes are about isolation, of which there is none.
stacyvm_conformance::provider_main!(package(), without: ["probes"]);

#[cfg(not(all(feature = "http", target_os = "linux")))]
#[expect(clippy::print_stderr, reason = "this is the front end")]
fn main() {
    eprintln!(
        "not run: the client is there with the feature `http`, and what the server stands on is Linux's"
    );
}
