//! The payloads, in CBOR maps with small integer keys.
//!
//! Unknown keys are skipped and a missing optional key takes its default, so
//! a message may grow without a new kind. `schema/generation-N.txt` holds what
//! generation N brought, as it was released; a test demands that it only grows.

mod connection;
mod exec;
mod file;
mod system;
mod watch;

use minicbor::{Decode, Encode};

pub use connection::{
    AgentConfig, Credit, DeadlineRequest, EnvironmentRequest, Failure, FailureKind, Hello, Kernel,
    Welcome,
};
pub use exec::{
    AttachRequest, EndReason, ExecInfo, ExecRequest, Execs, Exited, LogRequest, Lost,
    ResizeRequest, Scope, SignalRequest, Size, Started, Stdin, Variable,
};
pub use file::{
    Entries, Entry, ExportRequest, FileKind, FileOperation, FileRequest, ImportRequest, LeftOut,
    ReadRequest, WriteMode, WriteRequest,
};
pub use system::{Accepted, Listening, PortRequest, Process, ProcessList, UsageReport};
pub use watch::{WatchEvent, WatchKind, WatchRequest};

/// Encodes a message.
pub fn encode<T: Encode<()>>(message: &T) -> Vec<u8> {
    // Writing into a Vec cannot fail and no message type returns an error of its own.
    minicbor::to_vec(message).unwrap_or_default()
}

/// Decodes a message.
///
/// # Errors
///
/// The bytes are not this message, or stop too early.
pub fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, minicbor::decode::Error> {
    minicbor::decode(bytes)
}
