//! Makes directories and symbolic links.

use rustix::fs::{CWD, Mode, OFlags, fchmod, mkdirat, symlinkat};
use rustix::io::Errno;

use super::entry::PERMISSION_BITS;
use super::{Answer, descent, failure, path};
use crate::protocol::message::Failure;

/// The permission bits of parents that an operation makes by the way.
pub(super) const PARENT_MODE: u32 = 0o755;

pub(super) fn make_dir(path: &[u8], parents: bool, mode: u32) -> Result<Answer, Failure> {
    let whole = path::check(path)?;
    let mode = mode & PERMISSION_BITS;
    if parents {
        // Without these bits of its owner nothing could be made inside.
        make_parents(whole, mode | 0o300)?;
    }
    match make_one(path::trim(whole), mode) {
        Err(Errno::EXIST) if parents && path::is_directory(whole) => Ok(Answer::Done),
        Err(errno) => Err(failure::system(errno, "make the directory", whole)),
        Ok(()) => Ok(Answer::Done),
    }
}

/// Makes what is missing of the directories above `whole`.
pub(super) fn make_parents(whole: &[u8], mode: u32) -> Result<(), Failure> {
    let (parent, _) = path::split(whole);
    make_all(parent, mode)
}

/// Makes what is missing of a directory and those above it. As in `mkdir -p`,
/// links on the way are followed.
pub(super) fn make_all(directory: &[u8], mode: u32) -> Result<(), Failure> {
    if path::is_directory(directory) {
        return Ok(());
    }
    let directory = path::trim(directory);
    let mut at = 1;
    while at <= directory.len() {
        let end = directory[at..]
            .iter()
            .position(|byte| *byte == b'/')
            .map_or(directory.len(), |length| at + length);
        let prefix = &directory[..end];
        match make_one(prefix, mode) {
            Ok(()) => {}
            Err(_) if path::is_directory(prefix) => {}
            Err(Errno::EXIST) => {
                return Err(failure::system(Errno::NOTDIR, "make the directory", prefix));
            }
            Err(errno) => return Err(failure::system(errno, "make the directory", prefix)),
        }
        at = end + 1;
    }
    Ok(())
}

fn make_one(path: &[u8], mode: u32) -> rustix::io::Result<()> {
    mkdirat(CWD, path, Mode::from_raw_mode(mode))?;
    // The system call drops set-id bits.
    if mode & 0o6000 != 0 {
        let made = descent::open_directory(CWD, path, OFlags::NOFOLLOW)?;
        fchmod(&made, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

pub(super) fn link(target: &[u8], path: &[u8]) -> Result<Answer, Failure> {
    let whole = path::check(path)?;
    let (parent, name) = path::split_named(whole)?;
    if target.is_empty() || target.len() > path::MAX_PATH || target.contains(&0) {
        return Err(failure::invalid(
            "target of the link is not 1 to 4095 bytes without NUL",
            target,
        ));
    }
    let dir = path::open_parent(parent, whole)?;
    symlinkat(target, dir, name)
        .map(|()| Answer::Done)
        .map_err(|errno| failure::system(errno, "make the link", whole))
}
