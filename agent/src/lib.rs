//! The protocol between a stacyvm host and the program inside a sandbox, the
//! protocol between a host and the helper beside a sandbox, and the bytes of
//! the one static program that plays both parts.
//!
//! Everything that arrives from a sandbox is hostile input: decoding never
//! panics, never allocates more than the frame it was given, and refuses what
//! it does not know.

pub mod helper_protocol;
pub mod protocol;

#[cfg(feature = "files")]
pub mod guest;
#[cfg(feature = "guest")]
pub mod helper;
