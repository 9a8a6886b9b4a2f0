//! The host side of the protocol that the program inside a sandbox speaks.
//!
//! A provider brings one byte stream to the agent (a socket of the helper, an
//! attached bridge, a vsock); [`AgentClient`] does the rest over that one
//! connection: commands, files, ports, processes. [`AgentPool`] keeps one live
//! client for each sandbox.
//!
//! Everything that arrives is hostile: a frame that the protocol does not
//! allow ends the connection with [`ErrorKind::Protocol`](crate::ErrorKind::Protocol)
//! and touches no other sandbox; no stream holds more than its window.

mod client;
mod convert;
mod driver;
mod error;
mod exec;
mod files;
mod handshake;
mod key;
mod outbox;
mod pool;
mod ports;
mod role;
mod shared;
mod stream;

/// How many supervisors an agent keeps ready while commands come one after the
/// other: so many that a few short ones do not wait for a processor. None where
/// the limit of processes would feel it. In gVisor one: to fork another takes as long
/// as a command, and its kernel gives none of them a processor.
#[cfg(any(feature = "oci", feature = "docker"))]
pub(crate) fn spare_supervisors(pids: Option<u32>, own_kernel: bool) -> Option<u32> {
    let most = if own_kernel { 1 } else { 3 };
    pids.is_none_or(|most| most >= 128).then_some(most)
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;

pub use client::{AgentClient, ConnectOptions};
pub(crate) use convert::left_out;
pub(crate) use error::error_of as failure_error;
pub use key::SandboxKey;
pub use pool::AgentPool;
pub use stacyvm_agent::protocol::GENERATION;
