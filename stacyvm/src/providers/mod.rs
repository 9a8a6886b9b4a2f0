//! The providers. Each is a folder that uses `agent`, `image`, `provider` and
//! `error`, and never another provider.

#[cfg(feature = "docker")]
pub mod docker;
pub mod mock;
#[cfg(all(feature = "oci", target_os = "linux"))]
pub mod oci;
