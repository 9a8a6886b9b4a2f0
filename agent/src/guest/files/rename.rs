//! Moves paths.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, renameat, statat, unlinkat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::staged::{rename_new, with_temporary_name};
use super::{Answer, descent, export, failure, import, path, remove};
use crate::protocol::message::{Failure, FailureKind};

pub(super) fn rename(from: &[u8], to: &[u8], replace: bool) -> Result<Answer, Failure> {
    let from = path::check(from)?;
    let to = path::check(to)?;
    let (from_parent, from_name) = path::split_named(from)?;
    let (to_parent, to_name) = path::split_named(to)?;
    let from_dir = path::open_parent(from_parent, from)?;
    let to_dir = path::open_parent(to_parent, to)?;
    let moved = if replace {
        renameat(&from_dir, from_name, &to_dir, to_name)
    } else {
        rename_new(&from_dir, from_name, &to_dir, to_name)
    };
    match moved {
        Ok(()) => Ok(Answer::Done),
        Err(Errno::XDEV) => across(
            &End {
                dir: from_dir,
                name: from_name,
                whole: from,
            },
            &End {
                dir: to_dir,
                name: to_name,
                whole: to,
            },
            replace,
        ),
        Err(errno) => {
            // The subject is the path that is in the way.
            let missing = statat(&from_dir, from_name, AtFlags::SYMLINK_NOFOLLOW).is_err();
            let subject = if missing { from } else { to };
            Err(failure::system(errno, "move the path", subject))
        }
    }
}

struct End<'a> {
    dir: OwnedFd,
    name: &'a [u8],
    whole: &'a [u8],
}

/// Moves between file systems: the copy is made under a hidden name beside the
/// target, so that the target appears in one step; then the original goes.
fn across(from: &End<'_>, to: &End<'_>, replace: bool) -> Result<Answer, Failure> {
    let fail = |errno| failure::system(errno, "move the path to another file system", to.whole);
    if !replace && statat(&to.dir, to.name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err(fail(Errno::EXIST));
    }
    let ((), hidden) =
        with_temporary_name(|name| mkdirat(&to.dir, name, Mode::RWXU)).map_err(fail)?;
    let placed = copy_into(from, to, &hidden).and_then(|()| {
        let holder = open_dir(&to.dir, hidden.as_bytes()).map_err(fail)?;
        if replace {
            renameat(&holder, from.name, &to.dir, to.name)
        } else {
            rename_new(&holder, from.name, &to.dir, to.name)
        }
        .map_err(fail)
    });
    let cleaned = if placed.is_ok() {
        unlinkat(&to.dir, &hidden, AtFlags::REMOVEDIR).map_err(fail)
    } else {
        remove::remove_at(&to.dir, hidden.as_bytes(), true, to.whole)
    };
    placed?;
    cleaned?;
    remove::remove_at(&from.dir, from.name, true, from.whole)?;
    Ok(Answer::Done)
}

fn open_dir(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    descent::open_directory(dir, name, flags)
}

/// Copies as an archive: one thread sends, this one unpacks.
fn copy_into(from: &End<'_>, to: &End<'_>, hidden: &str) -> Result<(), Failure> {
    let fail = |errno| failure::system(errno, "move the path to another file system", to.whole);
    let holder = open_dir(&to.dir, hidden.as_bytes()).map_err(fail)?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(fail)?;
    std::thread::scope(|scope| {
        let sender = std::thread::Builder::new()
            .spawn_scoped(scope, move || {
                export::send(&from.dir, from.name, from.whole, writer.as_fd())
            })
            .map_err(|_| fail(Errno::AGAIN))?;
        let unpacked = import::unpack(
            holder,
            import::Rules {
                owner: import::Owner::KeepIfAllowed,
                set_id: true,
            },
            None,
            reader.as_fd(),
        );
        // If unpacking failed, sending must end as well.
        drop(reader);
        let sent = sender.join().map_err(|_| {
            failure::new(
                FailureKind::Internal,
                "cannot copy the path",
                Some(to.whole),
            )
        })?;
        match (sent, unpacked) {
            // What stopped the sender tells more than the torn archive.
            (Err(sent), _) if sent.kind != FailureKind::Cancelled => Err(sent),
            (_, Err(unpacked)) => Err(unpacked),
            (Err(sent), Ok(())) => Err(sent),
            (Ok(()), Ok(())) => Ok(()),
        }
    })
}
