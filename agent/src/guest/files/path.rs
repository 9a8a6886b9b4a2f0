//! What a path may be, and how its parent is opened.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, readlinkat, statat};
use rustix::io::Errno;

use super::failure::{self, invalid};
use crate::protocol::message::Failure;

/// The longest path that the system takes, without its NUL.
pub(super) const MAX_PATH: usize = 4095;
/// How many links a final component may lead through, as in the kernel.
const MAX_LINKS: usize = 40;

/// Checks a path of a request.
pub(super) fn check(path: &[u8]) -> Result<&[u8], Failure> {
    if path.contains(&0) {
        return Err(invalid("path contains a NUL byte", path));
    }
    if path.first() != Some(&b'/') {
        return Err(invalid("path is not absolute", path));
    }
    if path.len() > MAX_PATH {
        return Err(invalid("path is longer than 4095 bytes", path));
    }
    Ok(path)
}

/// A path without the slashes at its end; `/` stays.
pub(super) fn trim(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/');
    end.map_or(&path[..path.len().min(1)], |end| &path[..=end])
}

/// Splits a path into its parent and its last component, which may be `..`,
/// or empty for `/`.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let path = trim(path);
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) => (b"/", &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b".", path),
    }
}

/// Splits a path whose last component will be made, moved or removed.
pub(super) fn split_named(path: &[u8]) -> Result<(&[u8], &[u8]), Failure> {
    match split(path) {
        (_, b"" | b"." | b"..") => Err(invalid("path does not end in a name", path)),
        parts => Ok(parts),
    }
}

/// Opens a directory as a starting point, following links.
pub(super) fn open_parent(parent: &[u8], whole: &[u8]) -> Result<OwnedFd, Failure> {
    openat(
        CWD,
        parent,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|errno| failure::system(errno, "open the parent directory", whole))
}

/// A directory and a name in it that was no symbolic link when looked at.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) dir: OwnedFd,
    pub(super) name: Vec<u8>,
}

/// Follows the links of the final component; what it leads to may be missing.
pub(super) fn resolve(path: &[u8]) -> Result<Place, Failure> {
    let (parent, name) = split_named(path)?;
    let mut dir = open_parent(parent, path)?;
    let mut name = name.to_vec();
    for _ in 0..MAX_LINKS {
        let target = match readlinkat(&dir, &name[..], Vec::new()) {
            Ok(target) => target.into_bytes(),
            Err(Errno::INVAL | Errno::NOENT) => return Ok(Place { dir, name }),
            Err(errno) => return Err(failure::system(errno, "look at the path", path)),
        };
        if target.ends_with(b"/") || matches!(split(&target).1, b"" | b"." | b"..") {
            return Err(failure::system(Errno::ISDIR, "write the file", path));
        }
        let (parent, last) = split(&target);
        dir = openat(
            &dir,
            parent,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| failure::system(errno, "follow the link", path))?;
        name = last.to_vec();
    }
    Err(failure::system(Errno::LOOP, "follow the link", path))
}

/// Whether the path leads to a directory, links followed.
pub(super) fn is_directory(path: &[u8]) -> bool {
    statat(CWD, path, AtFlags::empty()).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory
    })
}
