//! Walks down and up a tree by descriptors, never through a link.
//!
//! Only some descriptors are kept, so a deep tree cannot use them up: the way
//! back to a directory that was closed leads through `..` and is taken only
//! if that still is the directory we came from.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags, RawDir, SeekFrom, fstat, openat, seek};
use rustix::io::{Errno, Result};

/// Levels whose descriptors are kept.
const KEPT: usize = 32;
/// Bytes of directory entries asked for at once.
const READ_BYTES: usize = 64 * 1024;

const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

struct Level {
    dir: Option<OwnedFd>,
    id: (u64, u64),
}

pub(super) struct Descent {
    /// Outermost first; the innermost and its neighbours are open.
    above: Vec<Level>,
    dir: OwnedFd,
    id: (u64, u64),
}

/// Opens a directory below another one; a symbolic link is `ENOTDIR` or `ELOOP`.
pub(super) fn open_below(dir: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    open_directory(dir, name, OPEN)
}

/// Opens a directory to read it, with these flags beside that.
///
/// gVisor (seen in 20240729) follows a link of the last name although it is told not
/// to. There it is opened twice, and what is no path to the same is refused: no more
/// rights are needed for that than for one.
pub(super) fn open_directory(dir: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if !flags.contains(OFlags::NOFOLLOW) || !follows_all_the_same() {
        return openat(dir, path, flags, Mode::empty());
    }
    let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = openat(&dir, path, place, Mode::empty())?;
    let opened = openat(&dir, path, flags, Mode::empty())?;
    if identity(&place)? != identity(&opened)? {
        return Err(Errno::LOOP);
    }
    Ok(opened)
}

/// Whether this kernel follows a link to a directory in spite of `O_NOFOLLOW`.
fn follows_all_the_same() -> bool {
    static FOLLOWS: OnceLock<bool> = OnceLock::new();
    // It is a link to a directory everywhere, and nobody's to change.
    *FOLLOWS.get_or_init(|| openat(CWD, "/proc/self", OPEN, Mode::empty()).is_ok())
}

impl Descent {
    /// Starts in an open directory.
    pub(super) fn new(dir: OwnedFd) -> Result<Self> {
        let id = identity(&dir)?;
        Ok(Self {
            above: Vec::new(),
            dir,
            id,
        })
    }

    /// The directory we are in.
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Goes down into a directory. A name that is no directory, or is a link,
    /// is an error and leaves us where we are.
    pub(super) fn enter(&mut self, name: &[u8]) -> Result<()> {
        let dir = open_below(&self.dir, name)?;
        let id = identity(&dir)?;
        let level = Level {
            dir: Some(std::mem::replace(&mut self.dir, dir)),
            id: std::mem::replace(&mut self.id, id),
        };
        self.above.push(level);
        if let Some(far) = self.above.len().checked_sub(KEPT + 1) {
            self.above[far].dir = None;
        }
        Ok(())
    }

    /// Goes up to where we came from.
    ///
    /// # Errors
    ///
    /// `ESTALE`: the directory was moved elsewhere meanwhile.
    pub(super) fn leave(&mut self) -> Result<()> {
        let Some(level) = self.above.pop() else {
            return Err(Errno::INVAL);
        };
        let dir = if let Some(dir) = level.dir {
            dir
        } else {
            let dir = openat(&self.dir, "..", OPEN, Mode::empty())?;
            if identity(&dir)? != level.id {
                return Err(Errno::STALE);
            }
            dir
        };
        self.dir = dir;
        self.id = level.id;
        Ok(())
    }
}

#[allow(
    clippy::useless_conversion,
    reason = "not on every architecture is it the same type"
)]
fn identity(dir: &OwnedFd) -> Result<(u64, u64)> {
    let stat = fstat(dir)?;
    Ok((u64::from(stat.st_dev), u64::from(stat.st_ino)))
}

/// The names in a directory, in byte order, without `.` and `..`.
pub(super) fn names(dir: impl AsFd) -> Result<Vec<Vec<u8>>> {
    // By the descriptor itself: opening `.` afresh would need more rights.
    seek(&dir, SeekFrom::Start(0))?;
    let mut buffer = Vec::with_capacity(READ_BYTES);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
