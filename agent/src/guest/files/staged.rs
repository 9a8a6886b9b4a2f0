//! A file that gets its name when it is complete.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, linkat, openat, renameat, renameat_with, unlinkat,
};
use rustix::io::{Errno, Result};

use super::attributes::descriptor_path;
use super::list;

/// How names of what is not complete begin.
pub(super) const TEMPORARY: &str = ".stacyvm-";
/// How many random names are tried.
const TRIES: u32 = 32;

/// A file without a name where the file system can do that, else with a hidden
/// one, which is removed when the value is dropped before [`Staged::commit`].
#[derive(Debug)]
pub(super) struct Staged<'d> {
    dir: BorrowedFd<'d>,
    file: OwnedFd,
    temporary: Option<String>,
}

impl<'d> Staged<'d> {
    /// Starts an empty file in `dir`, for its owner only.
    pub(super) fn new(dir: BorrowedFd<'d>) -> Result<Self> {
        Self::unnamed(dir).or_else(|errno| match errno {
            Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS => Self::named(dir),
            errno => Err(errno),
        })
    }

    fn unnamed(dir: BorrowedFd<'d>) -> Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(dir, ".", flags, Mode::RUSR | Mode::WUSR)?;
        // It is named through /proc; without that it would be lost.
        rustix::fs::accessat(
            CWD,
            descriptor_path(&file),
            rustix::fs::Access::EXISTS,
            AtFlags::empty(),
        )
        .map_err(|_| Errno::OPNOTSUPP)?;
        Ok(Self {
            dir,
            file,
            temporary: None,
        })
    }

    fn named(dir: BorrowedFd<'d>) -> Result<Self> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (file, name) =
            with_temporary_name(|name| openat(dir, name, flags, Mode::RUSR | Mode::WUSR))?;
        Ok(Self {
            dir,
            file,
            temporary: Some(name),
        })
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Gives the file its name in one step, in the place of another one only
    /// with `replace`. A directory is never replaced.
    pub(super) fn commit(mut self, name: &[u8], replace: bool) -> Result<()> {
        let unnamed = self.temporary.is_none();
        if unnamed {
            let linked = self.link(name);
            if !replace || !matches!(linked, Err(Errno::EXIST)) {
                return linked;
            }
            if list::is_real_directory(self.dir, name) {
                return Err(Errno::ISDIR);
            }
            let ((), temporary) = with_temporary_name(|temporary| self.link(temporary.as_bytes()))?;
            self.temporary = Some(temporary);
        }
        let temporary = self.temporary.clone().unwrap_or_default();
        if replace {
            renameat(self.dir, &temporary, self.dir, name)?;
        } else {
            rename_new(self.dir, temporary.as_bytes(), self.dir, name)?;
        }
        self.temporary = None;
        Ok(())
    }

    fn link(&self, name: &[u8]) -> Result<()> {
        linkat(
            CWD,
            descriptor_path(&self.file),
            self.dir,
            name,
            AtFlags::SYMLINK_FOLLOW,
        )
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            // Nobody waits for this, and a hidden rest does no harm.
            let _ = unlinkat(self.dir, name, AtFlags::empty());
        }
    }
}

/// Moves a name without replacing another one.
pub(super) fn rename_new(
    from_dir: impl AsFd,
    from: &[u8],
    to_dir: impl AsFd,
    to: &[u8],
) -> Result<()> {
    match renameat_with(&from_dir, from, &to_dir, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {}
        result => return result,
    }
    rename_new_by_link(from_dir, from, to_dir, to)
}

/// The same where the system or the file system cannot: exact for files; for a
/// directory an empty one made there in the same instant is replaced.
fn rename_new_by_link(
    from_dir: impl AsFd,
    from: &[u8],
    to_dir: impl AsFd,
    to: &[u8],
) -> Result<()> {
    if !list::is_real_directory(&from_dir, from) {
        match linkat(&from_dir, from, &to_dir, to, AtFlags::empty()) {
            Ok(()) => return unlinkat(&from_dir, from, AtFlags::empty()),
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK) => {}
            Err(errno) => return Err(errno),
        }
    }
    match rustix::fs::statat(&to_dir, to, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => renameat(from_dir, from, to_dir, to),
        Err(errno) => Err(errno),
        Ok(_) => Err(Errno::EXIST),
    }
}

/// Whether a name is one of those that [`with_temporary_name`] gives.
pub(super) fn is_temporary(name: &[u8]) -> bool {
    let random = name.strip_prefix(TEMPORARY.as_bytes());
    random.is_some_and(|random| random.len() == 16 && random.iter().all(u8::is_ascii_hexdigit))
}

/// Calls `make` with hidden random names until one is free.
pub(super) fn with_temporary_name<T>(
    mut make: impl FnMut(&str) -> Result<T>,
) -> Result<(T, String)> {
    for _ in 0..TRIES {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = format!("{TEMPORARY}{:016x}", u64::from_le_bytes(random));
        match make(&name) {
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
            Ok(made) => return Ok((made, name)),
        }
    }
    Err(Errno::EXIST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::open;

    fn open_dir(path: &std::path::Path) -> OwnedFd {
        open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("directory")
    }

    #[test]
    fn both_ways_of_staging_keep_the_same_promises() {
        let ways: [for<'d> fn(BorrowedFd<'d>) -> Result<Staged<'d>>; 2] =
            [|dir| Staged::unnamed(dir), |dir| Staged::named(dir)];
        for way in ways {
            let temp = tempfile::tempdir().expect("directory");
            let dir = open_dir(temp.path());
            let list = || {
                let mut names: Vec<_> = std::fs::read_dir(temp.path())
                    .expect("list")
                    .map(|entry| entry.expect("entry").file_name())
                    .collect();
                names.sort();
                names
            };
            let write = |bytes: &[u8], name: &[u8], replace| {
                let staged = way(dir.as_fd())?;
                rustix::io::write(staged.file(), bytes)?;
                staged.commit(name, replace)
            };
            write(b"one", b"a", false).expect("new file");
            assert_eq!(write(b"two", b"a", false), Err(Errno::EXIST));
            assert_eq!(std::fs::read(temp.path().join("a")).expect("read"), b"one");
            write(b"three", b"a", true).expect("replaced");
            assert_eq!(
                std::fs::read(temp.path().join("a")).expect("read"),
                b"three"
            );
            std::fs::create_dir(temp.path().join("d")).expect("directory");
            assert_eq!(write(b"x", b"d", true), Err(Errno::ISDIR));
            drop(way(dir.as_fd()).expect("staged"));
            assert_eq!(list(), ["a", "d"], "nothing hidden remains");
        }
    }

    #[test]
    fn a_new_name_never_replaces_in_the_fallback_either() {
        let temp = tempfile::tempdir().expect("directory");
        let dir = open_dir(temp.path());
        std::fs::write(temp.path().join("a"), "a").expect("file");
        std::fs::write(temp.path().join("b"), "b").expect("file");
        std::fs::create_dir(temp.path().join("d")).expect("directory");
        for target in [&b"b"[..], b"d"] {
            assert_eq!(
                rename_new_by_link(&dir, b"a", &dir, target),
                Err(Errno::EXIST)
            );
        }
        assert_eq!(
            rename_new_by_link(&dir, b"d", &dir, b"b"),
            Err(Errno::EXIST)
        );
        rename_new_by_link(&dir, b"a", &dir, b"c").expect("moved");
        rename_new_by_link(&dir, b"d", &dir, b"e").expect("moved");
        assert!(!temp.path().join("a").exists() && temp.path().join("e").is_dir());
    }
}
