//! The archives of transfers: pax interchange format (POSIX.1-2001) written;
//! pax, ustar, GNU and the oldest format read.

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use reader::{BadArchive, Reader};
pub use writer::{Record, encode, pad};

/// Bytes of a block; an archive is made of these.
pub const BLOCK: usize = 512;
/// The longest name or link target that is read.
pub const MAX_NAME: usize = 4096;
/// Bytes of extended headers of one member that are read.
pub const MAX_EXTENDED: u64 = 1024 * 1024;

/// What a member of an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    /// A regular file.
    File,
    /// Another name of an earlier file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A character device; of the layers of images alone.
    CharDevice,
    /// A block device; of the layers of images alone.
    BlockDevice,
}

/// A member of an archive, as its headers describe it. Nothing in it is to be
/// trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it is.
    pub kind: MemberKind,
    /// Its name: not empty, no NUL, at most [`MAX_NAME`] bytes; else anything.
    pub name: Vec<u8>,
    /// What a link points to; empty for anything else.
    pub link: Vec<u8>,
    /// Bytes of content; 0 for all but files.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since the epoch of the last change.
    pub modified_s: i64,
    /// Nanoseconds of that time.
    pub modified_ns: u32,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes, by name; of the layers of images alone.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the content of a sparse file lies, and how long the file is.
    pub sparse: Option<Sparse>,
}

/// A file that has holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sparse {
    /// Offset and length of each part of the content, in order and apart.
    pub parts: Vec<(u64, u64)>,
    /// Bytes of the whole file.
    pub whole: u64,
}
