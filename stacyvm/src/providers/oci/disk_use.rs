//! What a directory takes on the disk.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::provider::DiskUse;

/// How many levels of a tree have their directory open; from those below only
/// the deepest has.
const HELD: usize = 32;

/// Adds up what lies below some directories; a file of several names counts
/// once, where it is seen first.
#[derive(Debug, Default)]
pub(super) struct Scale {
    seen: HashSet<(u64, u64)>,
}

/// A directory on the way to where the walk is.
struct Level {
    /// Directories in it that wait.
    names: Vec<CString>,
    /// Device and number, by which it is known again.
    identity: (u64, u64),
    held: Option<OwnedFd>,
}

impl Scale {
    /// Weighs a directory or file. No link is followed and no other file
    /// system entered; what cannot be opened leaves it incomplete. Depth costs
    /// no descriptors.
    pub(super) fn weigh(&mut self, kind: &str, name: &str, path: &Path) -> DiskUse {
        let mut found = DiskUse {
            kind: kind.to_owned(),
            name: name.to_owned(),
            bytes: 0,
            complete: true,
        };
        let Ok(top) = rustix::fs::lstat(path) else {
            found.complete = false;
            return found;
        };
        self.add(&mut found, &top);
        if FileType::from_raw_mode(top.st_mode).is_dir() {
            match open(CWD, path) {
                Ok(directory) => self.walk(&mut found, directory),
                Err(_) => found.complete = false,
            }
        }
        found
    }

    fn walk(&mut self, found: &mut DiskUse, top: OwnedFd) {
        let mut levels: Vec<Level> = Vec::new();
        // That of the last level, where it is not held there.
        let mut deepest: Option<OwnedFd> = None;
        let mut entered = Some(top);
        loop {
            if let Some(directory) = entered.take() {
                let Some(mut level) = self.read(found, &directory) else {
                    found.complete = false;
                    if levels.is_empty() {
                        return;
                    }
                    continue;
                };
                if levels.len() < HELD {
                    level.held = Some(directory);
                } else {
                    deepest = Some(directory);
                }
                levels.push(level);
            }
            let Some(level) = levels.last_mut() else {
                return;
            };
            let Some(directory) = level.held.as_ref().or(deepest.as_ref()) else {
                return;
            };
            if let Some(name) = level.names.pop() {
                match open(directory, name.as_c_str()) {
                    Ok(directory) => entered = Some(directory),
                    // It went.
                    Err(Errno::NOENT) => {}
                    Err(_) => found.complete = false,
                }
                continue;
            }
            levels.pop();
            if levels.len() <= HELD {
                deepest = None;
                continue;
            }
            // Where the directory was moved its parent is another's.
            let above = deepest.take().and_then(|d| open(d, c"..").ok());
            let identity = levels.last().map(|level| level.identity);
            deepest = above.filter(|above| identity_of(above) == identity);
            if deepest.is_none() {
                found.complete = false;
                levels.truncate(HELD);
            }
        }
    }

    /// Adds what is in a directory, and gives the directories in it.
    fn read(&mut self, found: &mut DiskUse, directory: &OwnedFd) -> Option<Level> {
        let identity = identity_of(directory)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(directory).ok()?.flatten() {
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if stat.st_dev != identity.0 {
                continue;
            }
            self.add(found, &stat);
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                names.push(name.to_owned());
            }
        }
        Some(Level {
            names,
            identity,
            held: None,
        })
    }

    fn add(&mut self, found: &mut DiskUse, stat: &rustix::fs::Stat) {
        let several = stat.st_nlink > 1 && !FileType::from_raw_mode(stat.st_mode).is_dir();
        if several && !self.seen.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        found.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    }
}

fn identity_of(directory: &OwnedFd) -> Option<(u64, u64)> {
    let stat = rustix::fs::fstat(directory).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

fn open(at: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn holes_links_and_second_names_take_nothing() {
        let home = tempfile::tempdir().unwrap();
        let (tree, outside) = (home.path().join("tree"), home.path().join("outside"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(&outside, vec![1; 4 << 20]).unwrap();
        let empty = Scale::default().weigh("x", "y", &tree).bytes;
        fs::write(tree.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        let one = Scale::default().weigh("x", "y", &tree);
        let grown = one.bytes - empty;
        assert!(((1 << 20)..(2 << 20)).contains(&grown), "{grown}");
        assert!(one.complete);
        fs::hard_link(tree.join("a/b/file"), tree.join("again")).unwrap();
        symlink(&outside, tree.join("link")).unwrap();
        let sparse = fs::File::create(tree.join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let all = Scale::default().weigh("x", "y", &tree).bytes;
        assert!(all - one.bytes < 1 << 20, "{}", all - one.bytes);
        // A second name in another tree counts where it is seen first.
        let other = home.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::hard_link(tree.join("again"), other.join("third")).unwrap();
        let mut scale = Scale::default();
        scale.weigh("x", "y", &tree);
        assert!(scale.weigh("x", "z", &other).bytes < 1 << 20);
        assert!(!scale.weigh("x", "none", &home.path().join("none")).complete);
    }

    #[test]
    fn a_tree_deeper_than_files_may_be_open_is_weighed_whole() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let mut at = rustix::fs::open(&tree, OFlags::PATH, Mode::empty()).unwrap();
        let limit = 400;
        for _ in 0..2 * limit {
            // Its neighbour waits while the walk is further down.
            for name in ["a", "b"] {
                rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            }
            at = rustix::fs::openat(&at, "a", OFlags::PATH, Mode::empty()).unwrap();
        }
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = rustix::fs::openat(&at, "file", flags, Mode::RWXU).unwrap();
        rustix::io::write(&file, &vec![1; 1 << 16]).unwrap();
        let before = getrlimit(Resource::Nofile);
        let low = Rlimit {
            current: Some(limit),
            ..before
        };
        setrlimit(Resource::Nofile, low).unwrap();
        let weighed = Scale::default().weigh("x", "y", &tree);
        setrlimit(Resource::Nofile, before).unwrap();
        let parent = rustix::fs::open(home.path(), OFlags::PATH, Mode::empty()).unwrap();
        stacyvm_agent::remove::tree(&parent, c"tree").unwrap();
        assert!(weighed.complete && weighed.bytes >= 1 << 16, "{weighed:?}");
    }
}
