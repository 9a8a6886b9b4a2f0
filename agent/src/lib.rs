//! The protocol between a stacyvm host and the program inside a sandbox, the
//! protocol between a host and the helper beside a sandbox, and the bytes of
//! the one static program that plays both parts.
//!
//! Everything that arrives from a sandbox is hostile input: decoding never
//! panics, never allocates more than the frame it was given, and refuses what
//! it does not know.

/// The static program: the agent inside a sandbox, and the helper beside it,
/// by the name it is started under. Empty where it could not be built: on
/// systems other than Linux, and where only the documentation is made.
pub const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stacyvm-agent"));

/// The program with the attacks of the escape suite: one attack a start. Empty
/// where it could not be built, as [`AGENT`] is.
#[cfg(feature = "probes")]
pub const PROBE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stacyvm-probe"));

/// A point at which tests of the feature `faults` end or stop this process;
/// nothing at all in every other build.
#[cfg(feature = "guest")]
macro_rules! fault_point {
    ($name:literal) => {
        #[cfg(feature = "faults")]
        $crate::faults::reach($name);
    };
}

pub mod confinement;
#[cfg(all(feature = "files", target_os = "linux"))]
pub mod delegation;
#[cfg(feature = "faults")]
pub mod faults;
pub mod helper_protocol;
#[cfg(all(feature = "files", target_os = "linux"))]
pub mod mark;
#[cfg(all(feature = "files", target_os = "linux"))]
pub mod owners;
pub mod protocol;
#[cfg(all(feature = "files", target_os = "linux"))]
pub mod remove;

#[cfg(feature = "guest")]
mod filter;
#[cfg(feature = "files")]
pub mod guest;
#[cfg(feature = "guest")]
pub mod helper;
#[cfg(feature = "guest")]
mod packet;
