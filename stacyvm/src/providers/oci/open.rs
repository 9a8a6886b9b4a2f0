//! Opening what was looked at before, and nothing else.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Opens a path without following a link in any part of it.
///
/// # Errors
///
/// `ELOOP` where a part is a link.
pub(super) fn open_without_links(
    at: impl AsFd,
    path: &Path,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&at, path, flags, Mode::empty(), resolve) {
        // An older kernel, or one that runs inside another sandbox.
        Err(Errno::NOSYS) => walk(at, path, flags),
        opened => opened,
    }
}

/// The same, part by part.
fn walk(at: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let part_flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut here = rustix::fs::openat(&at, ".", part_flags, Mode::empty())?;
    for part in path.components() {
        here = match part {
            Component::RootDir => rustix::fs::openat(CWD, "/", part_flags, Mode::empty())?,
            Component::Normal(name) => rustix::fs::openat(&here, name, part_flags, Mode::empty())?,
            Component::CurDir => continue,
            Component::ParentDir | Component::Prefix(_) => return Err(Errno::INVAL),
        };
        if FileType::from_raw_mode(rustix::fs::fstat(&here)?.st_mode).is_symlink() {
            return Err(Errno::LOOP);
        }
    }
    let is_directory = FileType::from_raw_mode(rustix::fs::fstat(&here)?.st_mode).is_dir();
    if flags.contains(OFlags::DIRECTORY) && !is_directory {
        return Err(Errno::NOTDIR);
    }
    Ok(here)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn a_link_in_any_part_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        std::fs::create_dir_all(home.join("a/b/c")).unwrap();
        std::fs::write(home.join("a/file"), "x").unwrap();
        symlink("b", home.join("a/link")).unwrap();
        symlink(&home, home.join("a/b/up")).unwrap();
        for by_parts in [false, true] {
            let open = |path: &Path, flags| {
                if by_parts {
                    walk(CWD, path, flags)
                } else {
                    open_without_links(CWD, path, flags)
                }
            };
            let found = open(&home.join("a/b/c"), OFlags::DIRECTORY).unwrap();
            let expected = std::fs::metadata(home.join("a/b/c")).unwrap();
            assert_eq!(rustix::fs::fstat(&found).unwrap().st_ino, expected.ino());
            open(&home.join("a/file"), OFlags::empty()).unwrap();
            for (path, errno) in [
                ("a/link", Errno::LOOP),
                ("a/link/c", Errno::LOOP),
                ("a/b/up/a/b", Errno::LOOP),
                ("a/none", Errno::NOENT),
                ("a/file", Errno::NOTDIR),
            ] {
                let refused = open(&home.join(path), OFlags::DIRECTORY).unwrap_err();
                // A link is no directory, either.
                let expected = [
                    errno,
                    if errno == Errno::LOOP {
                        Errno::NOTDIR
                    } else {
                        errno
                    },
                ];
                assert!(expected.contains(&refused), "{path}: {refused}");
            }
            assert_eq!(
                open(&home.join("a/link"), OFlags::empty()).unwrap_err(),
                Errno::LOOP
            );
        }
    }
}
