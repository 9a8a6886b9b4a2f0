//! Files inside: what is asked for, what comes back.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use futures_core::Stream;
use serde::{Deserialize, Serialize};

use super::exec::BoxStream;
use crate::error::{Error, Result};

/// Bytes that arrive one after the other, bounded.
pub type ByteStream = BoxStream<Result<Bytes>>;

/// An absolute path inside a sandbox, in bytes. It is resolved inside; `..`
/// and links mean there what they mean to a program inside.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GuestPath(Vec<u8>);

impl GuestPath {
    /// Checks a path.
    ///
    /// # Errors
    ///
    /// `invalid_argument` unless it is absolute, without NUL, and of at most 4095 bytes.
    pub fn new(path: impl AsRef<[u8]>) -> Result<Self> {
        let path = path.as_ref();
        if path.first() != Some(&b'/') || path.contains(&0) || path.len() > 4095 {
            return Err(Error::invalid(
                "path",
                String::from_utf8_lossy(path),
                "an absolute path of at most 4095 bytes without NUL",
                "begin it with /",
            ));
        }
        Ok(Self(path.to_vec()))
    }

    /// The path.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::error::escape(&String::from_utf8_lossy(&self.0)))
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A socket, pipe or device.
    Other,
}

/// A file, as `lstat` sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// The path: as asked for in a single answer, relative to the directory in
    /// a listing, absolute in a glob.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits, set-id and sticky bits included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the content changed last.
    pub modified: SystemTime,
    /// Where a symbolic link points.
    pub target: Option<Vec<u8>>,
    /// The owner's name inside.
    pub user: Option<String>,
    /// The group's name inside.
    pub group: Option<String>,
}

/// A file operation without data, done with the rights of `user`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRequest {
    /// Who does it; the sandbox's default user if none.
    pub user: Option<String>,
    /// What is done.
    pub operation: FileOperation,
}

/// The file operations without data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileOperation {
    /// Describes a path.
    Stat {
        /// The path.
        path: GuestPath,
        /// Whether a final symbolic link is followed.
        follow: bool,
    },
    /// Lists a directory in name order.
    List {
        /// The directory.
        path: GuestPath,
        /// Levels below it; 1 is its own entries.
        depth: u32,
    },
    /// Makes a directory.
    MakeDir {
        /// The path.
        path: GuestPath,
        /// Whether missing parents are made and an existing directory is success.
        parents: bool,
        /// Permission bits.
        mode: u32,
    },
    /// Moves a path.
    Rename {
        /// What.
        from: GuestPath,
        /// Where to, the new name included.
        to: GuestPath,
        /// Whether an existing file there is replaced.
        replace: bool,
    },
    /// Removes a path; links are removed, not followed.
    Remove {
        /// The path.
        path: GuestPath,
        /// Whether a directory goes with what is in it.
        recursive: bool,
        /// Whether a missing path is success.
        missing_ok: bool,
    },
    /// Changes permission bits, owner, group or time.
    SetAttributes {
        /// The path.
        path: GuestPath,
        /// What to change.
        attributes: Attributes,
        /// Whether everything below is changed as well.
        recursive: bool,
        /// Whether a final symbolic link is followed.
        follow: bool,
    },
    /// Finds paths by an absolute shell pattern (`*`, `?`, `[..]`, `**`).
    Glob {
        /// The pattern.
        pattern: GuestPath,
        /// The most paths; one more found is an error.
        limit: u32,
    },
    /// Makes a symbolic link.
    Link {
        /// What the link says.
        target: Vec<u8>,
        /// The link.
        path: GuestPath,
    },
}

impl FileOperation {
    /// The operation's name, for errors and traces.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Stat { .. } => "files.stat",
            Self::List { .. } => "files.list",
            Self::MakeDir { .. } => "files.make_dir",
            Self::Rename { .. } => "files.rename",
            Self::Remove { .. } => "files.remove",
            Self::SetAttributes { .. } => "files.set_attributes",
            Self::Glob { .. } => "files.glob",
            Self::Link { .. } => "files.link",
        }
    }

    /// The path that it is about; of a move the old one.
    pub fn path(&self) -> &GuestPath {
        match self {
            Self::Stat { path, .. }
            | Self::List { path, .. }
            | Self::MakeDir { path, .. }
            | Self::Rename { from: path, .. }
            | Self::Remove { path, .. }
            | Self::SetAttributes { path, .. }
            | Self::Glob { pattern: path, .. }
            | Self::Link { path, .. } => path,
        }
    }

    /// Whether doing it twice is the same as doing it once.
    pub fn is_idempotent(&self) -> bool {
        match self {
            Self::Stat { .. }
            | Self::List { .. }
            | Self::Glob { .. }
            | Self::SetAttributes { .. } => true,
            Self::MakeDir { parents, .. } => *parents,
            Self::Remove { missing_ok, .. } => *missing_ok,
            Self::Rename { .. } | Self::Link { .. } => false,
        }
    }
}

/// Attributes to change; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// A user name or number.
    pub owner: Option<String>,
    /// A group name or number.
    pub group: Option<String>,
    /// When the content changed last.
    pub modified: Option<SystemTime>,
}

/// The answer to a [`FileRequest`].
pub enum FileReply {
    /// It is done.
    Done,
    /// One file.
    Entry(FileEntry),
    /// Files, bounded in memory.
    Entries(BoxStream<Result<FileEntry>>),
}

impl fmt::Debug for FileReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("Done"),
            Self::Entry(entry) => f.debug_tuple("Entry").field(entry).finish(),
            Self::Entries(_) => f.write_str("Entries(..)"),
        }
    }
}

/// Which bytes of a file are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// Who reads.
    pub user: Option<String>,
    /// The file.
    pub path: GuestPath,
    /// Bytes to skip.
    pub offset: u64,
    /// The most bytes to read.
    pub length: Option<u64>,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteMode {
    /// Replaces it in one step once all bytes are there; until then readers
    /// see the old one, and an abandoned write leaves it.
    #[default]
    Replace,
    /// Adds to its end, or creates it.
    Append,
    /// Creates it; an existing one is `already_exists`.
    CreateNew,
}

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRequest {
    /// Who writes, and owns what is made.
    pub user: Option<String>,
    /// The file.
    pub path: GuestPath,
    /// How.
    pub how: WriteMode,
    /// Permission bits; `None` keeps those of a replaced file, else `0o644`.
    pub mode: Option<u32>,
    /// Whether missing parent directories are made.
    pub parents: bool,
}

/// Something to send as a tar stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportRequest {
    /// Who reads.
    pub user: Option<String>,
    /// A file or directory.
    pub path: GuestPath,
    /// Whether only what is in the directory is sent, below `.`.
    pub contents: bool,
    /// Whether a symbolic link given as `path` is followed.
    pub follow: bool,
}

/// Sockets and devices that an archive does not hold although they are below
/// its path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The names that they would have in the archive. They come from inside:
    /// escape them before they are shown.
    pub names: Vec<Vec<u8>>,
    /// How many there were beside those named.
    pub more: u64,
}

/// A tar stream, and what it does not hold.
pub struct Archive {
    data: ByteStream,
    left_out: Arc<OnceLock<LeftOut>>,
}

impl Archive {
    /// An archive whose bytes are `data`; what it does not hold is put into
    /// `left_out` before they end.
    pub fn new(data: ByteStream, left_out: Arc<OnceLock<LeftOut>>) -> Self {
        Self { data, left_out }
    }

    /// What was left out, as far as it is known: all of it once the stream has
    /// ended.
    pub fn left_out(&self) -> LeftOut {
        self.left_out.get().cloned().unwrap_or_default()
    }

    /// Its bytes, and where what it does not hold is put before they end.
    pub fn into_parts(self) -> (ByteStream, Arc<OnceLock<LeftOut>>) {
        (self.data, self.left_out)
    }

    /// The same, for whoever gives the stream away.
    #[cfg(feature = "server")]
    pub(crate) fn left_out_later(&self) -> impl FnOnce() -> LeftOut + Send + use<> {
        let left_out = Arc::clone(&self.left_out);
        move || left_out.get().cloned().unwrap_or_default()
    }
}

impl From<ByteStream> for Archive {
    /// An archive that holds everything.
    fn from(data: ByteStream) -> Self {
        Self::new(data, Arc::default())
    }
}

impl Stream for Archive {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.data.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive")
            .field("left_out", &self.left_out)
            .finish_non_exhaustive()
    }
}

/// Where a tar stream is unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportRequest {
    /// Who writes.
    pub user: Option<String>,
    /// The directory.
    pub path: GuestPath,
    /// Whether a missing directory is made.
    pub parents: bool,
    /// Whether owners in the archive are kept (needs root inside).
    pub keep_owner: bool,
}

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRequest {
    /// Who watches.
    pub user: Option<String>,
    /// A directory or file.
    pub path: GuestPath,
    /// Whether directories below are watched, new ones included.
    pub recursive: bool,
}

/// A change that a watch reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchEvent {
    /// What happened.
    pub kind: WatchKind,
    /// Where, relative to the watched path.
    pub path: Vec<u8>,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchKind {
    /// It came to be, or was moved here.
    Created,
    /// Its content changed.
    Modified,
    /// It is gone, or was moved away.
    Removed,
    /// Its permission bits, owner or times changed.
    Attributes,
    /// The kernel dropped events; look again.
    Overflow,
}
