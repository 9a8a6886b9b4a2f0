//! Removes a directory that a hostile program filled; for helpers and hosts.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::helper_protocol::LOCK_NAME;

/// How many moved directories are remembered; more are found by looking again.
const MOST_REMEMBERED: usize = 1 << 16;

fn open(parent: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    match open_here(&parent, name) {
        // Without special rights a directory of mode 0 opens only after a change.
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(&parent, name, Mode::RWXU, AtFlags::empty())?;
            open_here(&parent, name)
        }
        other => other,
    }
}

/// Opens a directory, but not one of another mount: what somebody mounted there
/// is no part of the tree.
fn open_here(parent: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat2(&parent, name, flags, Mode::empty(), ResolveFlags::NO_XDEV) {
        // An older kernel, or one that runs inside another sandbox.
        Err(Errno::NOSYS) => rustix::fs::openat(&parent, name, flags, Mode::empty()),
        opened => opened,
    }
}

/// Removes `name` in `parent` with all that is in it. Nothing is followed, and
/// depth costs neither stack nor descriptors: directories found below the
/// first level are moved up to it before they are emptied. What it costs is one
/// removal for each entry, as the file system has it. The helper's lock
/// goes last: while it is there nobody else takes the directory for left over.
/// What is not there is success.
///
/// # Errors
///
/// What the system refuses, and `EXDEV` where something is mounted in it; what
/// was removed until then is gone.
pub fn tree(parent: impl AsFd, name: &CStr) -> io::Result<()> {
    let top = match open(&parent, name) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return Ok(rustix::fs::unlinkat(&parent, name, AtFlags::empty())?);
        }
        Err(error) => return Err(error.into()),
    };
    let mut moved = Moved::default();
    loop {
        let mut emptied = true;
        let mut locked = false;
        let mut entries = Dir::read_from(&top)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if name.to_bytes() == LOCK_NAME.as_bytes() {
                locked = true;
                continue;
            }
            emptied = false;
            remove_one(&top, name, &mut moved)?;
            while let Some(name) = moved.remembered.pop() {
                remove_one(&top, &name, &mut moved)?;
            }
        }
        if emptied {
            if locked {
                gone(rustix::fs::unlinkat(&top, LOCK_NAME, AtFlags::empty()))?;
            }
            break;
        }
    }
    // Without its lock somebody may have removed it already.
    Ok(gone(rustix::fs::unlinkat(
        &parent,
        name,
        AtFlags::REMOVEDIR,
    ))?)
}

/// What is not there is removed.
fn gone(removed: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match removed {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Directories that were moved up and not looked at since.
#[derive(Default)]
struct Moved {
    count: u64,
    remembered: Vec<CString>,
}

/// Removes what is at a name of `top`, but moves directories in it up.
fn remove_one(top: &OwnedFd, name: &CStr, moved: &mut Moved) -> io::Result<()> {
    match rustix::fs::unlinkat(top, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let directory = open(top, name)?;
    let mut entries = Dir::read_from(&directory)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let inner = entry.file_name();
        if inner == c"." || inner == c".." {
            continue;
        }
        if entry.file_type() != FileType::Directory
            && rustix::fs::unlinkat(&directory, inner, AtFlags::empty()).is_ok()
        {
            continue;
        }
        let mut opened = false;
        loop {
            moved.count += 1;
            let up = CString::new(format!(".moved-{}", moved.count))?;
            match rustix::fs::renameat_with(
                &directory,
                inner,
                top,
                &up,
                rustix::fs::RenameFlags::NOREPLACE,
            ) {
                Ok(()) => {
                    if moved.remembered.len() < MOST_REMEMBERED {
                        moved.remembered.push(up);
                    }
                    break;
                }
                // A name that the hostile program chose too.
                Err(Errno::EXIST) => {}
                Err(Errno::ACCESS) if !opened => {
                    rustix::fs::chmodat(&directory, inner, Mode::RWXU, AtFlags::empty())?;
                    // Where that does not help, nothing else does.
                    opened = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    match rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR) {
        // Looked at again in the next pass.
        Ok(()) | Err(Errno::NOTEMPTY | Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_is_mounted_in_a_tree_stays() {
        let base = std::env::temp_dir().join(format!("stacyvm-mounted-{}", std::process::id()));
        let inside = base.join("tree/a/in");
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::create_dir_all(base.join("outside")).unwrap();
        std::fs::write(base.join("outside/kept"), b"x").unwrap();
        if rustix::mount::mount_bind(base.join("outside"), &inside).is_err() {
            eprintln!("not run: no right to mount");
            std::fs::remove_dir_all(&base).unwrap();
            return;
        }
        let parent = rustix::fs::open(&base, OFlags::PATH, Mode::empty()).unwrap();
        let refused = tree(&parent, c"tree").unwrap_err();
        let kept = base.join("outside/kept").exists();
        // Wherever it is by now.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        for point in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(point).starts_with(&base) {
                rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH).unwrap();
            }
        }
        std::fs::remove_dir_all(&base).unwrap();
        assert!(kept, "what was mounted was emptied");
        assert!(
            [libc::EXDEV, libc::EBUSY]
                .map(Some)
                .contains(&refused.raw_os_error()),
            "{refused}"
        );
    }

    #[test]
    fn a_deep_tree_goes_and_links_are_not_followed() {
        let base = std::env::temp_dir().join(format!("stacyvm-remove-{}", std::process::id()));
        std::fs::create_dir_all(base.join("outside")).unwrap();
        std::fs::write(base.join("outside/kept"), b"x").unwrap();
        let mut at = base.join("tree");
        std::fs::create_dir(&at).unwrap();
        std::os::unix::fs::symlink(base.join("outside"), at.join("link")).unwrap();
        // Deeper than descriptors or PATH_MAX last.
        let mut directory = rustix::fs::open(&at, OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..1500 {
            rustix::fs::mkdirat(&directory, "d", Mode::RWXU).unwrap();
            directory = rustix::fs::openat(&directory, "d", OFlags::PATH, Mode::empty()).unwrap();
        }
        at.push(".moved-1");
        std::fs::create_dir(&at).unwrap();
        std::fs::create_dir(at.join("in")).unwrap();
        let parent = rustix::fs::open(&base, OFlags::PATH, Mode::empty()).unwrap();
        tree(&parent, c"tree").unwrap();
        assert!(!base.join("tree").exists());
        assert!(base.join("outside/kept").exists());
        std::fs::remove_dir_all(&base).unwrap();
    }
}
