//! Mounts, told apart by device and path on it.
//!
//! A path means something else in each mount namespace; where it lies on its
//! device does not.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::mountinfo::{self, Mount};

/// Where a file or directory lies: a device, and a path from its root.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Location {
    device: String,
    path: PathBuf,
}

impl Location {
    /// That of a path of this process; none where it cannot be told.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        let number = file.as_raw_fd();
        let facts = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        let mut ids = facts.lines().filter_map(|l| l.strip_prefix("mnt_id:"));
        let mount = ids.next()?.trim().parse().ok()?;
        let real = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
        Mounts::of("self")?.locate(mount, &real)
    }

    /// The rest of a path that is this one or below it.
    pub(super) fn strip<'a>(&self, inner: &'a Self) -> Option<&'a Path> {
        let rest = inner.path.strip_prefix(&self.path).ok()?;
        (inner.device == self.device).then_some(rest)
    }
}

/// The mounts of a namespace, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Mounts(BTreeMap<u64, Mount>);

impl Mounts {
    /// Those that a process sees, by its number or `self`.
    pub(super) fn of(process: &str) -> Option<Self> {
        let text = fs::read(format!("/proc/{process}/mountinfo")).ok()?;
        Some(Self::parse(&text))
    }

    fn parse(text: &[u8]) -> Self {
        let mounts = mountinfo::parse(text).into_iter();
        Self(mounts.map(|mount| (mount.id, mount)).collect())
    }

    /// Where a path lies that is on this mount.
    fn locate(&self, mount: u64, path: &Path) -> Option<Location> {
        let mount = self.0.get(&mount)?;
        let below = path.strip_prefix(&mount.point).ok()?;
        Some(Location {
            device: mount.device.clone(),
            path: mount.root.join(below),
        })
    }

    /// Of each mount: where that lies which it shows, and where that lies
    /// which it covers.
    pub(super) fn locations(&self) -> impl Iterator<Item = [Option<Location>; 2]> {
        self.0.values().map(|mount| {
            let shown = Location {
                device: mount.device.clone(),
                path: mount.root.clone(),
            };
            [Some(shown), self.locate(mount.parent, &mount.point)]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(device: &str, path: &str) -> Location {
        Location {
            device: device.into(),
            path: path.into(),
        }
    }

    #[test]
    fn a_path_of_another_namespace_is_told_by_its_device() {
        let text = "20 1 8:1 / / rw - ext4 /dev/a rw\n\
            21 20 8:2 /@home /home rw shared:1 - btrfs /dev/b rw\n\
            22 21 8:2 /@home/u/state/s1/data /home/u/with\\040space rw - btrfs /dev/b rw\n\
            23 21 0:40 / /home/u/state/s2 rw - tmpfs none rw\n\
            not a line\n";
        let mounts = Mounts::parse(text.as_bytes());
        let state = location("8:2", "/@home/u/state");
        let found: Vec<_> = mounts
            .locations()
            .flatten()
            .flatten()
            .filter_map(|at| Some(state.strip(&at)?.to_owned()))
            .collect();
        // Shown by one, covered by another.
        assert_eq!(found, [Path::new("s1/data"), Path::new("s2")]);
        let space = mounts.locate(22, Path::new("/home/u/with space/x"));
        assert_eq!(space, Some(location("8:2", "/@home/u/state/s1/data/x")));
        // The same text on another device.
        assert_eq!(state.strip(&location("8:1", "/@home/u/state/s1")), None);
        assert_eq!(state.strip(&location("8:2", "/@home/u/states")), None);
    }

    #[test]
    fn a_directory_is_found_where_it_lies() {
        let home = tempfile::tempdir().unwrap();
        let inner = home.path().join("in ner");
        fs::create_dir(&inner).unwrap();
        let (outer, inner) = (Location::of(home.path()), Location::of(&inner));
        let (outer, inner) = (outer.unwrap(), inner.unwrap());
        assert_eq!(outer.strip(&inner), Some(Path::new("in ner")));
        assert_eq!(inner.strip(&outer), None);
        let proc = Location::of(Path::new("/proc/self")).unwrap();
        assert_eq!(outer.strip(&proc), None);
    }
}
