//! Work in progress: a directory in `tmp/`, under a lock of its maker.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, statat, unlinkat};
use rustix::io::Errno;

use super::{Images, Lock, failed, system};
use crate::error::Result;

const ENDING: &str = ".lock";

/// A directory for what has no final name yet. What is still in it when it is
/// dropped is removed; what a killed process left is swept later.
#[derive(Debug)]
pub(in crate::image) struct Work {
    name: String,
    tmp: OwnedFd,
    dir: OwnedFd,
    _lock: Lock,
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
        mkdirat(&tmp, &name, Mode::RWXU).map_err(|e| system("make a directory for work", e))?;
        let dir = open_directory(&tmp, &name)?;
        fault_point!("image.work.made");
        Ok(Self {
            name,
            tmp,
            dir,
            _lock: lock,
        })
    }

    pub(in crate::image) fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Makes a directory in it.
    pub(in crate::image) fn directory(&self, name: &str) -> Result<OwnedFd> {
        mkdirat(&self.dir, name, Mode::RWXU).map_err(|e| system("make a directory for work", e))?;
        open_directory(&self.dir, name)
    }

    /// Makes a file in it.
    pub(in crate::image) fn file(&self, name: &str) -> Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| system("make a file for work", e))?;
        Ok(File::from(file))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // If it stays, its free lock says that it may go.
        remove(&self.tmp, &self.name);
    }
}

fn remove(tmp: &OwnedFd, name: &str) {
    if let Ok(text) = std::ffi::CString::new(name) {
        let _ = stacyvm_agent::remove::tree(tmp, &text);
    }
    if statat(tmp, name, AtFlags::SYMLINK_NOFOLLOW).is_err_and(|e| e == Errno::NOENT) {
        let _ = unlinkat(tmp, format!("{name}{ENDING}"), AtFlags::empty());
    }
}

pub(super) fn open_directory(at: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty())
        .map_err(|e| system("open a directory of the image store", e))
}

impl Images {
    /// Removes the work of processes that are gone; answers how many pieces.
    pub(super) fn sweep(&self) -> Result<u64> {
        let tmp = &self.inner.tmp;
        let mut swept = 0;
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
            remove(tmp, &name);
            swept += 1;
        }
        Ok(swept)
    }
}
