//! The providers. Each is a folder that uses `agent`, `image`, `wire`, `provider`
//! and `error`, and never another provider.

#[cfg(any(feature = "docker", all(feature = "oci", target_os = "linux")))]
mod default_user;
#[cfg(feature = "docker")]
pub mod docker;
#[cfg(feature = "http")]
pub mod http;
pub mod mock;
#[cfg(all(feature = "oci", target_os = "linux"))]
pub mod oci;
