//! Work in progress: a directory in `tmp/`, under a lock of its maker.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::Errno;

use super::range::Rights;
use super::{Images, Lock, failed, make_private, open_private, system};
use crate::error::Result;

const ENDING: &str = ".lock";

/// A directory for what has no final name yet. What is still in it when it is
/// dropped is removed; what a killed process left is swept later.
#[derive(Debug)]
pub(in crate::image) struct Work {
    name: String,
    tmp: OwnedFd,
    dir: OwnedFd,
    rights: Rights,
    lock: Lock,
}

impl Work {
    /// Makes one.
    pub(in crate::image) fn new(images: &Images) -> Result<Self> {
        let tmp = images
            .inner
            .tmp
            .try_clone()
            .map_err(|e| failed("open the image store", e))?;
        // The lock first: a directory without one is left over.
        let (name, lock) = loop {
            let name = crate::id::InstanceId::random().as_str().to_owned();
            if let Some(lock) = Lock::take(&tmp, &format!("{name}{ENDING}"), false)? {
                break (name, lock);
            }
        };
        fault_point!("image.work.locked");
        make_private(&tmp, name.as_str()).map_err(|e| system("make a directory for work", e))?;
        let dir = open_directory(&tmp, &name)?;
        fault_point!("image.work.made");
        Ok(Self {
            name,
            tmp,
            dir,
            rights: images.inner.rights.clone(),
            lock,
        })
    }

    /// What keeps it from being swept.
    pub(super) fn lock(&self) -> &Lock {
        &self.lock
    }

    /// Removes it, and tells whether all of it could be.
    pub(super) fn end(self) -> bool {
        remove(&self.rights, &self.tmp, &self.name)
    }

    pub(in crate::image) fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Makes a directory in it.
    pub(in crate::image) fn directory(&self, name: &str) -> Result<OwnedFd> {
        make_private(&self.dir, name).map_err(|e| system("make a directory for work", e))?;
        open_directory(&self.dir, name)
    }

    /// Makes a file in it.
    pub(in crate::image) fn file(&self, name: &str) -> Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            open_private(&self.dir, name, flags).map_err(|e| system("make a file for work", e))?;
        Ok(File::from(file))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // If it stays, its free lock says that it may go.
        remove(&self.rights, &self.tmp, &self.name);
    }
}

/// Removes work with its lock; false where something of it stays.
fn remove(rights: &Rights, tmp: &OwnedFd, name: &str) -> bool {
    if let Ok(text) = std::ffi::CString::new(name)
        && stacyvm_agent::remove::tree(tmp, &text).is_err()
        && let Some(range) = rights.range()
        && let Err(error) = range.remove(tmp.as_fd(), name)
    {
        tracing::warn!(name, %error, "abandoned work of the image store could not be removed");
    }
    let gone = statat(tmp, name, AtFlags::SYMLINK_NOFOLLOW).is_err_and(|e| e == Errno::NOENT);
    if gone {
        let _ = unlinkat(tmp, format!("{name}{ENDING}"), AtFlags::empty());
    }
    gone
}

pub(super) fn open_directory(at: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty())
        .map_err(|e| system("open a directory of the image store", e))
}

impl Images {
    /// Removes the work of processes that are gone; answers how many pieces went,
    /// and how many stay.
    pub(super) fn sweep(&self) -> Result<(u64, u64)> {
        let tmp = &self.inner.tmp;
        let (mut swept, mut left) = (0, 0);
        let mut seen = std::collections::BTreeSet::new();
        for name in crate::image::unpack::names_in(tmp)? {
            let Ok(name) = String::from_utf8(name) else {
                continue;
            };
            seen.insert(name.strip_suffix(ENDING).unwrap_or(&name).to_owned());
        }
        for name in seen {
            // A lock that another process holds is that of a living one. The
            // look makes a lock for a directory without one, and takes it.
            let Some(_lock) = Lock::take(tmp, &format!("{name}{ENDING}"), false)? else {
                continue;
            };
            fault_point!("image.sweep.piece");
            if remove(&self.inner.rights, tmp, &name) {
                swept += 1;
            } else {
                left += 1;
            }
        }
        Ok((swept, left))
    }
}
