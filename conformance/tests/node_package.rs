//! The suite through the Node package, which drives the embedded provider: it can change no
//! meaning. `scripts/node.sh build` makes what this stands on.

#[cfg(all(feature = "http", target_os = "linux"))]
#[path = "common/package.rs"]
mod package;

#[cfg(all(feature = "http", target_os = "linux"))]
fn package() -> package::Package {
    package::Package {
        name: "node-package",
        program: "node",
        script: concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../stacyvm-node/tests/conformance-server.mjs"
        ),
        looks: &[
            "-e",
            concat!(
                "require('",
                env!("CARGO_MANIFEST_DIR"),
                "/../stacyvm-node/dist/index.js')"
            ),
        ],
        remedy: "scripts/node.sh build",
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
