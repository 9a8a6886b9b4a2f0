//! What a host and an agent say to each other on one byte stream.
//!
//! A connection carries *frames* ([`frame`]): a fixed header and a payload.
//! Frames belong to numbered streams. The host opens a stream with a request
//! ([`message`]); what follows on that stream is data, credit, replies and one
//! last frame. Stream 0 carries the handshake and heartbeats.
//!
//! # Flow
//!
//! Each direction of each stream has its own credit, in bytes of payload of
//! [`Kind::Data`], [`Kind::DataErr`], [`Kind::Entries`] and
//! [`Kind::WatchEvent`] ([`Kind::is_counted`]). A sender starts with
//! [`INITIAL_CREDIT`] and sends no frame that its credit does not cover; the
//! receiver sends [`Kind::Credit`] as its reader takes the bytes. So a slow
//! reader slows the process that writes, and neither side buffers without
//! bound: not for a stream of any length, not for a listing of half a million
//! files, not for a watched directory that never rests. A frame of entries or
//! of an event has at most 64 KiB, so that any credit which a receiver with
//! nothing left to read has given covers it.

pub mod control;
pub mod frame;
pub mod kind;
pub mod message;

pub use frame::{HEADER_BYTES, Header, MAX_PAYLOAD};
pub use kind::Kind;

/// The protocol generation that this build speaks.
pub const GENERATION: u32 = 3;
/// The oldest generation that this build still drives.
pub const OLDEST_GENERATION: u32 = 1;
/// Bytes that a sender may send on one direction of a stream before it must
/// wait for [`Kind::Credit`].
pub const INITIAL_CREDIT: u32 = 1024 * 1024;
/// The largest payload of one data frame that either side produces.
pub const DATA_CHUNK: usize = 256 * 1024;
/// The bit that marks the number of a stream opened by the agent.
pub const AGENT_STREAM: u32 = 1 << 31;
/// Seconds between two [`Kind::Ping`]s of an idle host.
pub const HEARTBEAT_SECONDS: u64 = 10;
/// Seconds of silence after which an agent drops a bridged connection.
pub const SILENCE_SECONDS: u64 = 35;
