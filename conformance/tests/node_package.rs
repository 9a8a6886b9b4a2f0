//! The suite through the Node package, which drives the embedded provider: it can change no
//! meaning. `scripts/node.sh build` makes what this stands on.

#[cfg(all(feature = "http", target_os = "linux"))]
#[path = "common/package.rs"]
mod package;

/// What this package has no call for, and Python's has.
#[cfg(all(feature = "http", target_os = "linux"))]
const OF_NODE: &[stacyvm_conformance::Deviation] = &[
    stacyvm_conformance::Deviation {
        case: "background.a_follower_without_replay_gets_what_comes",
        reason: "the package follows with what was kept, always",
    },
    stacyvm_conformance::Deviation {
        case: "files.a_part_of_a_file_is_read",
        reason: "the package reads whole files",
    },
];

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
        deviations: [package::OF_ALL, OF_NODE].concat(),
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
