//! What is mounted where on this host.

use std::path::Path;

#[cfg(unix)]
use crate::mountinfo::{Mount, parse};

/// The mounts that this process sees; none on a system without `mountinfo`.
#[derive(Debug, Default)]
pub(super) struct HostMounts {
    #[cfg(unix)]
    all: Vec<Mount>,
}

#[cfg(unix)]
impl HostMounts {
    /// # Errors
    ///
    /// What the system says, where there is such a file and it cannot be read.
    pub(super) async fn look() -> std::io::Result<Self> {
        match tokio::fs::read("/proc/self/mountinfo").await {
            Ok(text) => Ok(Self { all: parse(&text) }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// The kind of the file system that a path is on.
    pub(super) fn kind_at(&self, path: &Path) -> Option<&str> {
        let above = self.all.iter().filter(|m| path.starts_with(&m.point));
        // Of several on one point the last one is seen.
        above
            .max_by_key(|mount| mount.point.components().count())
            .map(|mount| mount.kind.as_str())
    }

    /// What is mounted below a path, with its kind.
    pub(super) fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = (&'a Path, &'a str)> {
        self.all
            .iter()
            .filter(move |mount| mount.point != path && mount.point.starts_with(path))
            .map(|mount| (mount.point.as_path(), mount.kind.as_str()))
    }
}

#[cfg(not(unix))]
impl HostMounts {
    #[expect(clippy::unused_async, reason = "the other one reads a file")]
    pub(super) async fn look() -> std::io::Result<Self> {
        Ok(Self::default())
    }

    #[expect(clippy::unused_self, reason = "the other one has mounts")]
    pub(super) fn kind_at(&self, _path: &Path) -> Option<&str> {
        None
    }

    #[expect(clippy::unused_self, reason = "the other one has mounts")]
    pub(super) fn below<'a>(&'a self, _: &'a Path) -> impl Iterator<Item = (&'a Path, &'a str)> {
        std::iter::empty()
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_below_a_path_is_found() {
        let mounts = HostMounts {
            all: parse(
                b"1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
                  2 1 0:5 / /srv/a\\040b/proc rw - proc proc rw\n\
                  3 1 0:6 / /srv/a\\040bc rw - tmpfs none rw\n\
                  4 1 0:7 / /srv/a\\040bc rw - sysfs none rw\n\
                  5 1 0:8 / /no\xfftext rw - fuse.x x rw\n",
            ),
        };
        let below: Vec<_> = mounts.below(Path::new("/srv/a b")).collect();
        assert_eq!(below, [(Path::new("/srv/a b/proc"), "proc")]);
        assert_eq!(mounts.below(Path::new("/srv/a b/proc")).count(), 0);
        assert_eq!(mounts.kind_at(Path::new("/srv/a b/x")), Some("ext4"));
        assert_eq!(mounts.kind_at(Path::new("/srv/a b/proc/1")), Some("proc"));
        assert_eq!(mounts.kind_at(Path::new("/srv/a bc")), Some("sysfs"));
    }
}
