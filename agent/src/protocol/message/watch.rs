//! Changes of files.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

/// Reports changes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct WatchRequest {
    /// Who watches.
    #[n(0)]
    pub user: Option<String>,
    /// A directory or file.
    #[n(1)]
    pub path: ByteVec,
    /// Whether directories below are watched, new ones included.
    #[n(2)]
    pub recursive: bool,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum WatchKind {
    /// It came to be, or was moved here.
    #[n(0)]
    Created,
    /// Its content changed.
    #[n(1)]
    Modified,
    /// It is gone, or was moved away.
    #[n(2)]
    Removed,
    /// Its permission bits, owner or times changed.
    #[n(3)]
    Attributes,
    /// The kernel dropped events; look again.
    #[n(4)]
    Overflow,
}

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct WatchEvent {
    /// What.
    #[n(0)]
    pub kind: WatchKind,
    /// Where, relative to the watched path.
    #[n(1)]
    pub path: ByteVec,
}
