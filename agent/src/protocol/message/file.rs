//! Files and directories.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum FileKind {
    /// A regular file.
    #[n(0)]
    File,
    /// A directory.
    #[n(1)]
    Directory,
    /// A symbolic link.
    #[n(2)]
    Link,
    /// A socket, pipe or device.
    #[n(3)]
    Other,
}

/// A file, as `lstat` sees it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Entry {
    /// The path: as asked for in a single answer, relative to the directory
    /// in a listing, absolute in a glob.
    #[n(0)]
    pub path: ByteVec,
    /// What it is.
    #[n(1)]
    pub kind: FileKind,
    /// Bytes.
    #[n(2)]
    pub size: u64,
    /// Permission bits, set-id and sticky bits included (`0o7777`).
    #[n(3)]
    pub mode: u32,
    /// Owner.
    #[n(4)]
    pub uid: u32,
    /// Group.
    #[n(5)]
    pub gid: u32,
    /// Seconds since the epoch of the last change of the content.
    #[n(6)]
    pub modified_s: i64,
    /// Nanoseconds of that time.
    #[n(7)]
    pub modified_ns: u32,
    /// Where a symbolic link points.
    #[n(8)]
    pub target: Option<ByteVec>,
    /// The owner's name in the sandbox, where it has one.
    #[n(9)]
    pub user: Option<String>,
    /// The group's name in the sandbox, where it has one.
    #[n(10)]
    pub group: Option<String>,
}

/// Some files of a listing; more follow until [`crate::protocol::Kind::Done`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Entries {
    /// In name order within one directory.
    #[n(0)]
    pub entries: Vec<Entry>,
}

/// A file operation without data. Paths are absolute; they are resolved
/// inside the sandbox with the rights of `user`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FileRequest {
    /// Who does it; the sandbox's default user when absent.
    #[n(0)]
    pub user: Option<String>,
    /// What is done.
    #[n(1)]
    pub operation: FileOperation,
}

/// The file operations without data.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FileOperation {
    /// Describes a path; one [`crate::protocol::Kind::Entry`].
    #[n(0)]
    #[cbor(map)]
    Stat {
        /// The path.
        #[n(0)]
        path: ByteVec,
        /// Whether a final symbolic link is followed.
        #[n(1)]
        follow: bool,
    },
    /// Lists a directory; [`crate::protocol::Kind::Entries`], then [`super::super::Kind::Done`].
    #[n(1)]
    #[cbor(map)]
    List {
        /// The directory.
        #[n(0)]
        path: ByteVec,
        /// Levels below it: 1 is the directory's own entries.
        #[n(1)]
        depth: u32,
    },
    /// Makes a directory.
    #[n(2)]
    #[cbor(map)]
    MakeDir {
        /// The path.
        #[n(0)]
        path: ByteVec,
        /// Whether missing parents are made and an existing directory is success.
        #[n(1)]
        parents: bool,
        /// Permission bits of what is made.
        #[n(2)]
        mode: u32,
    },
    /// Moves a path; across file systems by copy and removal.
    #[n(3)]
    #[cbor(map)]
    Rename {
        /// What.
        #[n(0)]
        from: ByteVec,
        /// Where to, the new name included.
        #[n(1)]
        to: ByteVec,
        /// Whether an existing file there is replaced.
        #[n(2)]
        replace: bool,
    },
    /// Removes a path; symbolic links are removed, never followed.
    #[n(4)]
    #[cbor(map)]
    Remove {
        /// The path.
        #[n(0)]
        path: ByteVec,
        /// Whether a directory goes with what is in it.
        #[n(1)]
        recursive: bool,
        /// Whether a missing path is success.
        #[n(2)]
        missing_ok: bool,
    },
    /// Changes permission bits, owner, group or time.
    #[n(5)]
    #[cbor(map)]
    SetAttributes {
        /// The path.
        #[n(0)]
        path: ByteVec,
        /// Permission bits.
        #[n(1)]
        mode: Option<u32>,
        /// Owner: a name or number.
        #[n(2)]
        owner: Option<String>,
        /// Group: a name or number.
        #[n(3)]
        group: Option<String>,
        /// Seconds since the epoch of the last change.
        #[n(4)]
        modified_s: Option<i64>,
        /// Whether everything below is changed as well.
        #[n(5)]
        recursive: bool,
        /// Whether a final symbolic link is followed.
        #[n(6)]
        follow: bool,
        /// Nanoseconds beyond `modified_s`.
        #[n(7)]
        modified_ns: Option<u32>,
    },
    /// Finds paths by a shell pattern (`*`, `?`, `[..]`, `**`).
    #[n(6)]
    #[cbor(map)]
    Glob {
        /// The absolute pattern.
        #[n(0)]
        pattern: ByteVec,
        /// The most paths that are answered; one more found is a failure.
        #[n(1)]
        limit: u32,
    },
    /// Makes a symbolic link.
    #[n(7)]
    #[cbor(map)]
    Link {
        /// What the link says.
        #[n(0)]
        target: ByteVec,
        /// The link.
        #[n(1)]
        path: ByteVec,
    },
}

/// Reads a file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ReadRequest {
    /// Who reads.
    #[n(0)]
    pub user: Option<String>,
    /// The file; a final symbolic link is followed.
    #[n(1)]
    pub path: ByteVec,
    /// Bytes to skip.
    #[n(2)]
    pub offset: u64,
    /// The most bytes to send.
    #[n(3)]
    pub length: Option<u64>,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum WriteMode {
    /// Replaces the file in one step when all bytes have arrived; until then
    /// readers see the old one, and a cancelled write leaves it.
    #[default]
    #[n(0)]
    Replace,
    /// Adds to its end, or creates it.
    #[n(1)]
    Append,
    /// Creates it; an existing one is a failure.
    #[n(2)]
    CreateNew,
}

/// Writes a file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct WriteRequest {
    /// Who writes, and owns what is made.
    #[n(0)]
    pub user: Option<String>,
    /// The file.
    #[n(1)]
    pub path: ByteVec,
    /// How.
    #[n(2)]
    pub how: WriteMode,
    /// Permission bits; absent keeps those of a replaced file, else `0o644`.
    #[n(3)]
    pub mode: Option<u32>,
    /// Whether missing parent directories are made.
    #[n(4)]
    pub parents: bool,
}

/// Sends a path as a tar stream (POSIX pax).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ExportRequest {
    /// Who reads.
    #[n(0)]
    pub user: Option<String>,
    /// A file or directory. The archive's names start with its last component,
    /// or with `.` where `contents` is set.
    #[n(1)]
    pub path: ByteVec,
    /// Whether only what is in the directory is sent.
    #[n(2)]
    pub contents: bool,
    /// Whether a symbolic link given as `path` is followed.
    #[n(3)]
    pub follow: bool,
}

/// Sockets and devices below an exported path: a tar stream does not hold them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LeftOut {
    /// The names that they would have in the archive.
    #[n(0)]
    pub names: Vec<ByteVec>,
    /// How many there were beside those named: names are bounded.
    #[n(1)]
    pub more: u64,
}

impl LeftOut {
    /// Bytes of names at which further ones are only counted.
    const NAMED_BYTES: usize = 48 * 1024;

    /// Whether nothing was left out.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.more == 0
    }

    /// Adds a name, or counts it where there are too many.
    pub fn add(&mut self, name: &[u8]) {
        let named: usize = self.names.iter().map(|name| name.len() + 8).sum();
        if self.more > 0 || named + name.len() > Self::NAMED_BYTES {
            self.more += 1;
        } else {
            self.names.push(name.to_vec().into());
        }
    }
}

/// Unpacks a tar stream. Names that leave the directory, device nodes and
/// hard links that point out of it are refused. Symbolic links are made as they
/// are, wherever they point, and nothing is written through one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ImportRequest {
    /// Who writes.
    #[n(0)]
    pub user: Option<String>,
    /// The directory; it must exist unless `parents` is set.
    #[n(1)]
    pub path: ByteVec,
    /// Whether a missing directory is made.
    #[n(2)]
    pub parents: bool,
    /// Whether owners in the archive are kept (needs root); else `user` owns all.
    #[n(3)]
    pub keep_owner: bool,
}
