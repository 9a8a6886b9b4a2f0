//! What a directory takes on the disk.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};

use crate::provider::DiskUse;

/// Adds up what lies below some directories; a file of several names counts
/// once, where it is seen first.
#[derive(Debug, Default)]
pub(super) struct Scale {
    seen: HashSet<(u64, u64)>,
}

impl Scale {
    /// Weighs a directory or file. No link is followed and no other file
    /// system entered; what cannot be opened leaves it incomplete.
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
        let mut waiting = Vec::new();
        if FileType::from_raw_mode(top.st_mode).is_dir() {
            match open(CWD, path) {
                Ok(directory) => waiting.push(Arc::new(directory)),
                Err(_) => found.complete = false,
            }
        }
        // Names wait, not descriptors: a wide directory costs one.
        let mut names: Vec<(Arc<OwnedFd>, std::ffi::CString)> = Vec::new();
        loop {
            let directory = if let Some(directory) = waiting.pop() {
                directory
            } else if let Some((parent, name)) = names.pop() {
                match open(&*parent, name.as_c_str()) {
                    Ok(directory) => Arc::new(directory),
                    // It went, or there are too many open files for such a depth.
                    Err(rustix::io::Errno::NOENT) => continue,
                    Err(_) => {
                        found.complete = false;
                        continue;
                    }
                }
            } else {
                return found;
            };
            let Ok(entries) = Dir::read_from(&*directory) else {
                found.complete = false;
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                if name == c"." || name == c".." {
                    continue;
                }
                let Ok(stat) = rustix::fs::statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW)
                else {
                    continue;
                };
                if stat.st_dev != top.st_dev {
                    continue;
                }
                self.add(&mut found, &stat);
                if FileType::from_raw_mode(stat.st_mode).is_dir() {
                    names.push((Arc::clone(&directory), name.to_owned()));
                }
            }
        }
    }

    fn add(&mut self, found: &mut DiskUse, stat: &rustix::fs::Stat) {
        let several = stat.st_nlink > 1 && !FileType::from_raw_mode(stat.st_mode).is_dir();
        if several && !self.seen.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        found.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    }
}

fn open(
    at: impl std::os::fd::AsFd,
    name: impl rustix::path::Arg,
) -> Result<OwnedFd, rustix::io::Errno> {
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
}
