//! Some room on the disk that is kept for opening the store when all else is
//! full. Each first opening makes files, and sandboxes are ended through the
//! store, also the one that filled the disk.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::super::state_dir;

/// How much is kept.
const SIZE: u64 = 512 << 10;

/// How much is given back at a time: the shared index of the log takes a quarter,
/// the rest is for what a command writes.
const SLICE: u64 = 128 << 10;

/// Nothing is kept on a disk with less room than this, in reserves.
const ROOM: u64 = 4;

fn file_of(store: &Path) -> PathBuf {
    store.with_extension("reserve")
}

/// Gives some of it back to the disk; `false` where nothing is left.
pub(super) fn give_back(store: &Path) -> bool {
    let give = || -> std::io::Result<bool> {
        let file = state_dir::open_file(&file_of(store), false)?;
        let left = file.metadata()?.len();
        file.set_len(left.saturating_sub(SLICE))?;
        Ok(left > 0)
    };
    give().unwrap_or(false)
}

/// Makes it, or what is missing of it, where there is room. The store works
/// without it, so a failure is none.
pub(super) fn keep(store: &Path) {
    let path = file_of(store);
    if std::fs::symlink_metadata(&path).is_ok_and(|found| found.len() >= SIZE) {
        return;
    }
    if !sys::has_room(store, ROOM * SIZE) {
        return;
    }
    let file = state_dir::open_file(&path, true).or_else(|_| state_dir::open_file(&path, false));
    if let Ok(file) = file
        && sys::allocate(&file, SIZE).is_err()
    {
        // Part of it may have been taken.
        let _ = File::set_len(&file, 0);
    }
}

#[cfg(target_os = "linux")]
mod sys {
    use std::fs::File;
    use std::path::Path;

    use rustix::fs::{FallocateFlags, fallocate, statvfs};

    pub(super) fn has_room(path: &Path, bytes: u64) -> bool {
        statvfs(path).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= bytes)
    }

    pub(super) fn allocate(file: &File, bytes: u64) -> rustix::io::Result<()> {
        fallocate(file, FallocateFlags::empty(), 0, bytes)
    }
}

#[cfg(not(target_os = "linux"))]
mod sys {
    //! Sandboxes that share the disk of the store are those of Linux.

    use std::fs::File;
    use std::path::Path;

    pub(super) fn has_room(_path: &Path, _bytes: u64) -> bool {
        false
    }

    pub(super) fn allocate(_file: &File, _bytes: u64) -> std::io::Result<()> {
        Ok(())
    }
}
