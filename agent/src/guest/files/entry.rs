//! Describes a file.

use std::os::fd::AsFd;

use minicbor::bytes::ByteVec;
use rustix::fs::{AtFlags, FileType, Stat, readlinkat, statat};
use rustix::io::Result;

use crate::guest::users;
use crate::protocol::message::{Entry, FileKind};

/// The permission bits of a mode, set-id and sticky included.
pub(super) const PERMISSION_BITS: u32 = 0o7777;

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(super) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// Seconds and nanoseconds of the last change of the content.
#[allow(
    clippy::unnecessary_cast,
    reason = "not on every architecture is it the same type"
)]
pub(super) fn modified(stat: &Stat) -> (i64, u32) {
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    (stat.st_mtime as i64, nanoseconds)
}

/// Describes `name` in `dir` without following it; `path` is what it is called
/// in the answer.
pub(super) fn at(dir: impl AsFd, name: &[u8], path: Vec<u8>) -> Result<Entry> {
    let stat = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mut entry = of(&stat, path);
    if kind(&stat) == FileType::Symlink {
        let target = readlinkat(&dir, name, Vec::new())?;
        entry.target = Some(ByteVec::from(target.into_bytes()));
    }
    Ok(entry)
}

/// Describes what `stat` saw.
pub(super) fn of(stat: &Stat, path: Vec<u8>) -> Entry {
    let (modified_s, modified_ns) = modified(stat);
    Entry {
        path: ByteVec::from(path),
        kind: match kind(stat) {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Link,
            _ => FileKind::Other,
        },
        size: size(stat),
        mode: stat.st_mode & PERMISSION_BITS,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified_s,
        modified_ns,
        target: None,
        user: users::user_name(stat.st_uid),
        group: users::group_name(stat.st_gid),
    }
}
