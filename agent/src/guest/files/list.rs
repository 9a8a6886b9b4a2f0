//! Describes a path; lists a directory.

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::descent::{self, Descent};
use super::replies::Replies;
use super::{Answer, entry, failure, path};
use crate::protocol::message::{Failure, FileKind};

/// The longest relative path that a listing follows; no system call takes it,
/// but a walk by descriptors can get there.
const MAX_RELATIVE: usize = 64 * 1024;

pub(super) fn stat(path: &[u8], follow: bool) -> Result<Answer, Failure> {
    let whole = path::check(path)?;
    let described = if follow {
        statat(CWD, whole, AtFlags::empty()).map(|stat| entry::of(&stat, whole.to_vec()))
    } else {
        entry::at(CWD, whole, whole.to_vec())
    };
    described
        .map(|entry| Answer::Entry(Box::new(entry)))
        .map_err(|errno| failure::system(errno, "describe the path", whole))
}

/// Lists `depth` levels. What vanishes meanwhile is left out, and a directory
/// below that cannot be opened is listed without what is in it.
pub(super) fn list(path: &[u8], depth: u32, replies: &mut Replies<'_>) -> Result<Answer, Failure> {
    let whole = path::check(path)?;
    let fail = |errno| failure::system(errno, "list the directory", whole);
    let root = openat(
        CWD,
        whole,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(fail)?;
    let mut descent = Descent::new(root).map_err(fail)?;
    // One list of names for each level that we are in, last name first.
    let mut levels = Vec::new();
    if depth > 0 {
        levels.push(reversed(descent::names(descent.dir()).map_err(fail)?));
    }
    let mut relative = Vec::new();
    while let Some(names) = levels.last_mut() {
        let Some(name) = names.pop() else {
            levels.pop();
            if !levels.is_empty() {
                descent.leave().map_err(fail)?;
                let parent = relative.iter().rposition(|byte| *byte == b'/');
                relative.truncate(parent.unwrap_or(0));
            }
            continue;
        };
        let before = relative.len();
        if before > 0 {
            relative.push(b'/');
        }
        relative.extend_from_slice(&name);
        let described = match entry::at(descent.dir(), &name, relative.clone()) {
            Ok(described) => described,
            Err(Errno::NOENT | Errno::INVAL | Errno::ACCESS) => {
                relative.truncate(before);
                continue;
            }
            Err(errno) => return Err(fail(errno)),
        };
        let is_directory = described.kind == FileKind::Directory;
        replies.entry(described);
        if is_directory
            && levels.len() < usize::try_from(depth).unwrap_or(usize::MAX)
            && relative.len() < MAX_RELATIVE
            && descent.enter(&name).is_ok()
        {
            levels.push(reversed(descent::names(descent.dir()).map_err(fail)?));
        } else {
            relative.truncate(before);
        }
    }
    Ok(Answer::Done)
}

fn reversed(mut names: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    names.reverse();
    names
}

/// Whether `name` in `dir` is a directory itself, not a link to one.
pub(super) fn is_real_directory(dir: impl std::os::fd::AsFd, name: &[u8]) -> bool {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| entry::kind(&stat) == FileType::Directory)
}
