//! Pulls from registries: a real one on loopback with TLS and basic auth, and
//! hostile ones of these tests.
#![cfg(all(feature = "registry", target_os = "linux"))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests, which poll other processes and tell them apart"
)]

#[path = "common/archive.rs"]
mod archive;
#[path = "image_registry/certificates.rs"]
mod certificates;
#[path = "image_registry/child.rs"]
mod child;
#[path = "image_registry/helpers.rs"]
mod helpers;
#[path = "image_registry/hostile.rs"]
mod hostile;
#[cfg(feature = "faults")]
#[path = "image_registry/killed.rs"]
mod killed;
#[path = "image_registry/made.rs"]
mod made;
#[path = "image_registry/mirrors.rs"]
mod mirrors;
#[path = "image_registry/proxies.rs"]
mod proxies;
#[path = "image_registry/real.rs"]
mod real;
#[path = "image_registry/server.rs"]
mod server;
#[path = "image_registry/tls.rs"]
mod tls;
#[path = "image_registry/tokens.rs"]
mod tokens;
