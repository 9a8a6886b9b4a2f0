//! The embedded provider fulfils the contract.

#[cfg(all(target_os = "linux", feature = "oci"))]
#[path = "embedded/harness.rs"]
mod harness;

#[cfg(all(target_os = "linux", feature = "oci"))]
stacyvm_conformance::provider_main!(harness::Embedded::default());

#[cfg(not(all(target_os = "linux", feature = "oci")))]
#[expect(clippy::print_stderr, reason = "this is the front end")]
fn main() {
    eprintln!("not run: the embedded provider is for Linux, with the feature `oci`");
}
