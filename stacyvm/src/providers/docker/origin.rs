//! What a mounted directory is to the kernel: the device and the path on it, whatever
//! it is called where. An engine is told a path and opens it later, following links;
//! so what it has mounted is compared with what the path is here.

use std::path::{Path, PathBuf};

#[cfg(unix)]
use crate::mountinfo::{self, Mount};

/// Something that is mounted below a directory, as far as this process can see.
pub(super) fn mounted_below(path: &Path) -> Option<PathBuf> {
    #[cfg(unix)]
    return {
        let seen = std::fs::read("/proc/self/mountinfo").ok()?;
        let mut points = mountinfo::parse(&seen).into_iter().map(|mount| mount.point);
        points.find(|point| point != path && point.starts_with(path))
    };
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

/// Whether a directory of this process is what is mounted on a target, by the list of
/// mounts that is read inside. What cannot be told is taken for it.
pub(super) fn is_mounted(inside: &[u8], path: &Path, target: &Path) -> bool {
    #[cfg(unix)]
    return {
        let Ok(outside) = std::fs::read("/proc/self/mountinfo") else {
            return true;
        };
        same(
            &mountinfo::parse(&outside),
            &mountinfo::parse(inside),
            path,
            target,
        )
    };
    #[cfg(not(unix))]
    {
        let _ = (inside, path, target);
        true
    }
}

#[cfg(unix)]
fn same(outside: &[Mount], inside: &[Mount], path: &Path, target: &Path) -> bool {
    // Of mounts on one point the last one is seen.
    let mounted = inside.iter().rev().find(|seen| seen.point == target);
    let mounted = mounted.map(|seen| (seen.device.clone(), seen.root.clone()));
    mounted.is_some() && mounted == identity(outside, path)
}

#[cfg(unix)]
fn identity(mounts: &[Mount], path: &Path) -> Option<(String, PathBuf)> {
    let mount = mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())?;
    let below = path.strip_prefix(&mount.point).ok()?;
    // Joined with nothing, a path would end with a slash, and compare equal all the same.
    Some((mount.device.clone(), mount.root.join(below)))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_told_by_its_device_and_the_path_on_it() {
        let outside = mountinfo::parse(
            b"1 0 8:1 / / rw - ext4 /dev/a rw\n\
              2 1 8:2 /sub /srv rw - ext4 /dev/b rw\n\
              3 2 8:3 / /srv rw - ext4 /dev/c rw\n",
        );
        let inside = mountinfo::parse(
            b"9 0 0:5 / / rw - overlay overlay rw\n\
              10 9 8:1 /home/a /work rw - ext4 /dev/a rw\n\
              11 9 8:3 /data /srv rw - ext4 /dev/c rw\n\
              12 9 8:1 / /all rw - ext4 /dev/a rw\n",
        );
        let is =
            |path: &str, target: &str| same(&outside, &inside, Path::new(path), Path::new(target));
        assert!(is("/home/a", "/work") && is("/", "/all"));
        assert!(is("/srv/data", "/srv"), "the later mount is seen");
        for (path, target) in [
            ("/home/b", "/work"),
            ("/home", "/work"),
            ("/srv/data", "/work"),
            ("/home/a", "/elsewhere"),
        ] {
            assert!(!is(path, target), "{path} on {target}");
        }
    }

    #[test]
    fn what_is_mounted_below_is_found() {
        assert!(mounted_below(Path::new("/")).is_some());
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(mounted_below(empty.path()), None);
    }
}
