//! Removes paths.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

use super::descent::{self, Descent};
use super::{Answer, failure, list, path};
use crate::protocol::message::Failure;

/// How often a directory that others fill meanwhile is emptied again.
const MAX_PASSES: u32 = 16;

pub(super) fn remove(path: &[u8], recursive: bool, missing_ok: bool) -> Result<Answer, Failure> {
    let whole = path::check(path)?;
    let (parent, name) = path::split_named(whole)?;
    let removed =
        path::open_parent(parent, whole).and_then(|dir| remove_at(dir, name, recursive, whole));
    match removed {
        Err(failure) if missing_ok && failure.errno == Some(Errno::NOENT.raw_os_error()) => {
            Ok(Answer::Done)
        }
        Err(failure) => Err(failure),
        Ok(()) => Ok(Answer::Done),
    }
}

/// Removes `name` of `dir`; `whole` is its path in failures.
pub(super) fn remove_at(
    dir: impl AsFd,
    name: &[u8],
    recursive: bool,
    whole: &[u8],
) -> Result<(), Failure> {
    let fail = |errno| failure::system(errno, "remove the path", whole);
    for _ in 0..MAX_PASSES {
        match unlink(&dir, name) {
            Err(Errno::ISDIR) => {}
            removed => return removed.map_err(fail),
        }
        match unlinkat(&dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) if recursive => {}
            // It became a file or a link meanwhile.
            Err(Errno::NOTDIR) => continue,
            removed => return removed.map_err(fail),
        }
        match descent::open_below(&dir, name) {
            Ok(below) => empty(Descent::new(below).map_err(fail)?, whole)?,
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => {}
            Err(errno) => return Err(fail(errno)),
        }
    }
    Err(fail(Errno::NOTEMPTY))
}

/// Removes one name that is no directory; a directory is always `EISDIR`.
fn unlink(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<()> {
    match unlinkat(&dir, name, AtFlags::empty()) {
        // What POSIX says for a directory; some file systems follow it.
        Err(Errno::PERM) if list::is_real_directory(&dir, name) => Err(Errno::ISDIR),
        result => result,
    }
}

struct Level {
    /// The name in the level above.
    name: Vec<u8>,
    left: Vec<Vec<u8>>,
    passes: u32,
}

/// Removes everything in a directory.
fn empty(mut descent: Descent, whole: &[u8]) -> Result<(), Failure> {
    let read = |descent: &Descent| {
        descent::names(descent.dir())
            .map_err(|errno| failure::system(errno, "list a directory to be removed", whole))
    };
    let mut levels = vec![Level {
        name: Vec::new(),
        left: read(&descent)?,
        passes: 0,
    }];
    while let Some(level) = levels.last_mut() {
        let fail = |name: &[u8], errno| {
            let mut subject = whole.to_vec();
            subject.extend_from_slice(b"/.../");
            subject.extend_from_slice(name);
            failure::system(errno, "remove what is in the directory", &subject)
        };
        let Some(name) = level.left.pop() else {
            let done = levels.pop();
            let (Some(done), Some(above)) = (done, levels.last_mut()) else {
                break;
            };
            descent.leave().map_err(|errno| fail(&done.name, errno))?;
            match unlinkat(descent.dir(), &done.name[..], AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR)
                    if above.passes < MAX_PASSES =>
                {
                    above.passes += 1;
                    above.left.push(done.name);
                }
                Err(errno) => return Err(fail(&done.name, errno)),
            }
            continue;
        };
        match unlink(descent.dir(), &name) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR) => {}
            Err(errno) => return Err(fail(&name, errno)),
        }
        match descent.enter(&name) {
            Ok(()) => {
                let left = read(&descent)?;
                levels.push(Level {
                    name,
                    left,
                    passes: 0,
                });
            }
            Err(Errno::NOENT) => {}
            // Swapped for a link or a file since: look at it afresh.
            Err(Errno::NOTDIR | Errno::LOOP) if level.passes < MAX_PASSES => {
                level.passes += 1;
                level.left.push(name);
            }
            // An empty directory goes even where it cannot be read.
            Err(Errno::ACCESS) => unlinkat(descent.dir(), &name[..], AtFlags::REMOVEDIR)
                .map_err(|_| fail(&name, Errno::ACCESS))?,
            Err(errno) => return Err(fail(&name, errno)),
        }
    }
    Ok(())
}
