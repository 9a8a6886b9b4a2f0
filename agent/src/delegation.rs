//! Which cgroups a process may make: for the helper, which makes them, and for
//! hosts, which say what can be limited.
//!
//! A process may do so below the highest of its own cgroup and that one's
//! parents which it may write: everything for root, what a service manager
//! delegates for others (`user@UID.service` of systemd), often nothing.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// The controllers that are used. cpuset is stayed out of: a new child of it
/// has no processors, so that nothing could join.
const USED: [&str; 5] = ["memory", "pids", "cpu", "cpuacct", "freezer"];

/// A hierarchy of cgroups in which this process may make some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// The directory below which it may.
    pub base: PathBuf,
    /// 1 or 2.
    pub version: u8,
    /// What it controls there, of what is used. `freezer` stands in version 2
    /// for what every cgroup has.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// Whether it has this controller.
    pub fn controls(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// Those of this process. On a hybrid host the version 2 tree is left alone
/// where version 1 holds the controllers.
pub fn hierarchies() -> Vec<Hierarchy> {
    find(
        &read(Path::new("/proc/self/mountinfo")),
        &read(Path::new("/proc/self/cgroup")),
        &|directory| access(directory, Access::WRITE_OK | Access::EXEC_OK).is_ok(),
    )
}

/// Those of a `mountinfo` and a `cgroup` file of `/proc`. One that is mounted
/// more than once counts once.
fn find(mounts: &str, own: &str, may_write: &dyn Fn(&Path) -> bool) -> Vec<Hierarchy> {
    let mut one: Vec<Hierarchy> = Vec::new();
    let mut two = None;
    let mut devices = Vec::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut right = right.split(' ');
        let kind = right.next().filter(|kind| kind.starts_with("cgroup"));
        let mut left = left.split(' ').skip(2);
        let (Some(device), Some(root), Some(mount)) = (left.next(), left.next(), left.next())
        else {
            continue;
        };
        if kind.is_none() || devices.contains(&device) {
            continue;
        }
        devices.push(device);
        let mount = Path::new(mount);
        match (kind, right.nth(1)) {
            (Some("cgroup"), Some(options)) => {
                let controllers: Vec<String> = options
                    .split(',')
                    .filter(|o| USED.contains(o))
                    .map(str::to_owned)
                    .collect();
                let Some(first) = controllers.first() else {
                    continue;
                };
                let own = own_path(own, |all| all.split(',').any(|c| c == first));
                if let Some(base) = base(mount, root, own, may_write) {
                    one.push(Hierarchy {
                        base,
                        version: 1,
                        controllers,
                    });
                }
            }
            (Some("cgroup2"), _) if two.is_none() => {
                let all = read(&mount.join("cgroup.controllers"));
                if !all.split_whitespace().any(|o| USED.contains(&o)) {
                    continue;
                }
                let own = own_path(own, str::is_empty);
                if let Some(base) = base(mount, root, own, may_write) {
                    let mut controllers = attainable(&base);
                    controllers.push("freezer".into());
                    two = Some(Hierarchy {
                        base,
                        version: 2,
                        controllers,
                    });
                }
            }
            _ => {}
        }
    }
    match two {
        Some(two) if !one.iter().any(|h| h.controls("memory")) => vec![two],
        _ => one,
    }
}

/// The path of the cgroup in the line whose controllers are meant.
fn own_path(own: &str, is_meant: impl Fn(&str) -> bool) -> &str {
    let paths = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        is_meant(parts.next()?).then(|| parts.next())?
    });
    paths.last().unwrap_or("/")
}

/// The highest directory from the mount to the own cgroup that can be written.
fn base(mount: &Path, root: &str, own: &str, may_write: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    // A mount may show a part of the hierarchy only.
    let below = Path::new(own).strip_prefix(root).unwrap_or(Path::new(""));
    let mut at = mount.to_owned();
    let mut parts = below.components();
    loop {
        if may_write(&at) {
            return Some(at);
        }
        at.push(parts.next()?);
    }
}

/// The controllers that children of a cgroup of version 2 have or can be given:
/// a cgroup with processes of its own gives none but what it gives already.
fn attainable(base: &Path) -> Vec<String> {
    let is_root = !base.join("cgroup.type").exists();
    let is_empty = read(&base.join("cgroup.procs")).is_empty();
    let given = if is_root || is_empty {
        "cgroup.controllers"
    } else {
        "cgroup.subtree_control"
    };
    read(&base.join(given))
        .split_whitespace()
        .filter(|o| USED.contains(o))
        .map(str::to_owned)
        .collect()
}

/// What a file of the kernel says. Its paths are bytes that whoever may mount
/// chooses: one that is no text must hide none of the others.
pub(crate) fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 24 0:26 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory
31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct
32 24 0:28 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd
33 24 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
90 33 0:26 / /copy/memory rw,nosuid shared:9 - cgroup cgroup rw,memory
91 33 0:27 / /copy/cpu rw shared:10 - cgroup cgroup rw,cpu,cpuacct
";

    fn seen(found: &[Hierarchy]) -> Vec<(String, String)> {
        let each = |h: &Hierarchy| (h.base.display().to_string(), h.controllers.join(","));
        found.iter().map(each).collect()
    }

    #[test]
    fn a_hierarchy_that_is_mounted_twice_counts_once() {
        let found = find(MOUNTS, "5:memory:/a/b\n", &|_| true);
        let expected = [
            ("/sys/fs/cgroup/memory", "memory"),
            ("/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"),
        ];
        assert_eq!(
            seen(&found),
            expected.map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
    }

    #[test]
    fn what_is_delegated_is_found_below_what_is_not() {
        let own = "5:memory:/user/box/leaf\n4:cpu,cpuacct:/\n0::/x\n";
        let may = |path: &Path| path.starts_with("/sys/fs/cgroup/memory/user/box");
        let expected = [("/sys/fs/cgroup/memory/user/box", "memory")];
        assert_eq!(
            seen(&find(MOUNTS, own, &may)),
            expected.map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
        assert!(find(MOUNTS, own, &|_| false).is_empty());
    }

    #[test]
    fn a_mount_that_shows_a_part_is_followed_from_there() {
        let mounts = "30 24 0:26 /box /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let may = |path: &Path| path.ends_with("memory/leaf");
        let found = find(mounts, "5:memory:/box/leaf\n", &may);
        assert_eq!(found[0].base, Path::new("/sys/fs/cgroup/memory/leaf"));
    }

    #[test]
    fn version_2_gives_what_its_base_can_give() {
        let root = std::env::temp_dir().join(format!("stacyvm-delegation-{}", std::process::id()));
        let base = root.join("user/manager");
        fs::create_dir_all(&base).unwrap();
        let write = |path: PathBuf, text: &str| fs::write(path, text).unwrap();
        write(
            root.join("cgroup.controllers"),
            "cpuset cpu io memory pids\n",
        );
        write(base.join("cgroup.controllers"), "memory pids\n");
        write(base.join("cgroup.subtree_control"), "pids\n");
        write(base.join("cgroup.type"), "domain\n");
        write(base.join("cgroup.procs"), "");
        let mounts = format!("30 24 0:26 / {} rw - cgroup2 cgroup2 rw\n", root.display());
        let own = "0::/user/manager/app/leaf\n";
        let found = || seen(&find(&mounts, own, &|path| path.starts_with(&base)));
        let at = base.display().to_string();
        assert_eq!(
            found(),
            [(at.clone(), "memory,pids,freezer".to_owned())],
            "nobody is in it"
        );
        write(base.join("cgroup.procs"), "17\n");
        assert_eq!(
            found(),
            [(at, "pids,freezer".to_owned())],
            "a process keeps it from giving more"
        );
        fs::remove_dir_all(&root).unwrap();
    }
}
