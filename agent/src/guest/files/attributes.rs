//! Changes permission bits, owner, group and time.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chmodat,
    chownat, fstat, openat, utimensat,
};
use rustix::io::{Errno, Result as SystemResult};

use super::descent::{self, Descent};
use super::entry::PERMISSION_BITS;
use super::{Answer, entry, failure, path};
use crate::guest::users;
use crate::protocol::message::Failure;

/// What is to be changed; absent parts stay.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Change {
    mode: Option<u32>,
    owner: Option<u32>,
    group: Option<u32>,
    /// Seconds since the epoch, and nanoseconds beyond those.
    modified: Option<(i64, u32)>,
}

impl Change {
    pub(super) fn resolve(
        mode: Option<u32>,
        owner: Option<&str>,
        group: Option<&str>,
        modified: Option<(i64, u32)>,
    ) -> Result<Self, Failure> {
        if let Some(mode) = mode
            && mode & !PERMISSION_BITS != 0
        {
            return Err(failure::new(
                crate::protocol::message::FailureKind::Invalid,
                format!("mode {mode:o} has bits outside 7777"),
                None,
            ));
        }
        Ok(Self {
            mode,
            owner: owner.map(users::user_number).transpose()?,
            group: group.map(users::group_number).transpose()?,
            modified,
        })
    }

    /// Applies the change to the file that `name` in `dir` is now. A link
    /// itself has no permission bits: with `links`, that is an error.
    fn apply(self, dir: impl AsFd, name: &[u8], follow: bool, links: bool) -> SystemResult<()> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        let file = openat(dir, name, flags, Mode::empty())?;
        self.apply_to(&file, links)
    }

    fn apply_to(self, file: impl AsFd, links: bool) -> SystemResult<()> {
        let is_link = entry::kind(&fstat(&file)?) == FileType::Symlink;
        // Ownership first: changing it clears set-id bits.
        if self.owner.is_some() || self.group.is_some() {
            chownat(
                &file,
                "",
                self.owner.map(Uid::from_raw),
                self.group.map(Gid::from_raw),
                AtFlags::EMPTY_PATH,
            )?;
        }
        if let Some(mode) = self.mode {
            if !is_link {
                chmodat(
                    CWD,
                    descriptor_path(&file),
                    Mode::from_raw_mode(mode),
                    AtFlags::empty(),
                )?;
            } else if links {
                return Err(Errno::OPNOTSUPP);
            }
        }
        if let Some((seconds, nanoseconds)) = self.modified {
            set_time(file.as_fd(), seconds, nanoseconds, is_link)?;
        }
        Ok(())
    }
}

/// The name under which the kernel reaches exactly this open file.
pub(super) fn descriptor_path(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// The times that set only that of the last change of the content.
pub(super) fn times(seconds: i64, nanoseconds: u32) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: i64::from(nanoseconds),
        },
    }
}

fn set_time(
    file: BorrowedFd<'_>,
    seconds: i64,
    nanoseconds: u32,
    is_link: bool,
) -> SystemResult<()> {
    let times = times(seconds, nanoseconds);
    match utimensat(file, "", &times, AtFlags::EMPTY_PATH) {
        // Kernels before 5.8; a link cannot be reached by its descriptor there.
        Err(Errno::INVAL | Errno::NOENT) if !is_link => {
            utimensat(CWD, descriptor_path(file), &times, AtFlags::empty())
        }
        result => result,
    }
}

pub(super) fn set(
    path: &[u8],
    change: &Change,
    recursive: bool,
    follow: bool,
) -> Result<Answer, Failure> {
    let whole = path::check(path)?;
    let fail = |errno| failure::system(errno, "change the attributes", whole);
    if recursive {
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        let mut opened = descent::open_directory(CWD, whole, flags);
        if matches!(opened, Err(Errno::ACCESS)) {
            // The change may be what makes the directory readable.
            change.apply(CWD, whole, follow, false).map_err(fail)?;
            opened = descent::open_directory(CWD, whole, flags);
        }
        match opened {
            Ok(root) => below(Descent::new(root).map_err(fail)?, *change, whole)?,
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(fail(errno)),
        }
    }
    change
        .apply(CWD, whole, follow, !recursive)
        .map(|()| Answer::Done)
        .map_err(fail)
}

/// Changes everything in a directory, each directory after what is in it: a
/// change may close it.
fn below(mut descent: Descent, change: Change, whole: &[u8]) -> Result<(), Failure> {
    let fail = |name: &[u8], errno| {
        let mut subject = whole.to_vec();
        subject.extend_from_slice(b"/.../");
        subject.extend_from_slice(name);
        failure::system(errno, "change the attributes", &subject)
    };
    let read = |descent: &Descent| descent::names(descent.dir()).map_err(|errno| fail(b"", errno));
    let mut levels = vec![(Vec::new(), read(&descent)?)];
    while let Some((_, left)) = levels.last_mut() {
        let name = if let Some(name) = left.pop() {
            let mut entered = descent.enter(&name);
            if matches!(entered, Err(Errno::ACCESS)) {
                // The change may be what opens the directory, or this one.
                change
                    .apply_to(descent.dir(), false)
                    .and_then(|()| change.apply(descent.dir(), &name, false, false))
                    .map_err(|errno| fail(&name, errno))?;
                entered = descent.enter(&name);
            }
            match entered {
                Ok(()) => {
                    let left = read(&descent)?;
                    levels.push((name, left));
                    continue;
                }
                Err(Errno::NOENT) => continue,
                Err(Errno::NOTDIR | Errno::LOOP) => name,
                Err(errno) => return Err(fail(&name, errno)),
            }
        } else {
            let name = levels.pop().map(|(name, _)| name).unwrap_or_default();
            if levels.is_empty() {
                break;
            }
            // By its descriptor: the name may stand for something else by now.
            let here = rustix::io::fcntl_dupfd_cloexec(descent.dir(), 0)
                .map_err(|errno| fail(&name, errno))?;
            descent.leave().map_err(|errno| fail(&name, errno))?;
            change
                .apply_to(&here, false)
                .map_err(|errno| fail(&name, errno))?;
            continue;
        };
        match change.apply(descent.dir(), &name, false, false) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(fail(&name, errno)),
        }
    }
    Ok(())
}
