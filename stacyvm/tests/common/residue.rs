//! What sandboxes leave on a host, found from outside.
//!
//! Other tests make sandboxes on the same host at the same time, so each thing
//! is tied to one state directory: by a descriptor, a mount, a path. A cgroup
//! cannot be tied to it; one counts that is new, holds no process, and stays.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What there was before, and the state directory that is looked after.
pub struct Watch {
    state: PathBuf,
    cgroups: BTreeSet<String>,
    interfaces: BTreeSet<String>,
}

impl Watch {
    pub fn begin(state: &Path) -> Self {
        Self {
            state: state.to_owned(),
            cgroups: empty_cgroups(),
            interfaces: interfaces(),
        }
    }

    /// Everything of sandboxes that is there now.
    pub fn left(&self) -> BTreeSet<String> {
        let needle = self.state.to_string_lossy().into_owned();
        let mut left = BTreeSet::new();
        for name in names(&self.state.join("sandboxes")) {
            left.insert(format!("directory {name}"));
        }
        left.extend(processes(&needle));
        left.extend(mounts_below(&self.state));
        left.extend(loop_devices(&needle));
        left.extend(sockets(&needle));
        left.extend(empty_cgroups().difference(&self.cgroups).cloned());
        left.extend(interfaces().difference(&self.interfaces).cloned());
        left
    }

    /// How many sandboxes have a directory.
    pub fn directories(&self) -> usize {
        names(&self.state.join("sandboxes")).len()
    }

    /// Waits until nothing is left; names what stays for ten seconds.
    pub async fn nothing_left(&self) {
        let staying = self.left_for_ten_seconds().await;
        assert!(staying.is_empty(), "this is left: {staying:#?}");
    }

    /// What stays for ten seconds; returns as soon as nothing does.
    pub async fn left_for_ten_seconds(&self) -> BTreeSet<String> {
        let mut staying = self.left();
        for _ in 0..500 {
            if staying.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            // What other tests make and take away is not there every time.
            staying = staying.intersection(&self.left()).cloned().collect();
        }
        staying
    }

    /// What is left and does not go by itself within half a second: more than
    /// what other tests are making at this moment.
    pub async fn left_at_once(&self) -> BTreeSet<String> {
        let first = self.left();
        // Things tied to the state directory can only be ours.
        let (ours, shared): (BTreeSet<_>, BTreeSet<_>) = first
            .into_iter()
            .partition(|what| !what.starts_with("cgroup "));
        if shared.is_empty() {
            return ours;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        ours.into_iter()
            .chain(shared.intersection(&self.left()).cloned())
            .collect()
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

/// One line of `/proc/PID/status`.
fn status(pid: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim_start_matches(':').trim().to_owned())
}

/// The parent of a process.
pub fn parent(pid: u32) -> u32 {
    parent_of(pid).unwrap()
}

/// The parent of a process that may end.
pub fn parent_of(pid: u32) -> Option<u32> {
    status(&pid.to_string(), "PPid")?.parse().ok()
}

/// Whether a process is there and not a zombie.
pub fn lives(pid: u32) -> bool {
    status(&pid.to_string(), "State").is_some_and(|state| !state.starts_with('Z'))
}

/// The cgroup of a process for a controller: of version 1 in the hierarchy that
/// has it, else of version 2. `None` where neither is mounted as usual.
pub fn cgroup(pid: u32, controller: &str) -> Option<PathBuf> {
    let seen = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mut lines = seen.lines().map(|line| {
        let (_, rest) = line.split_once(':').unwrap();
        rest.split_once(':').unwrap()
    });
    let path = match lines
        .clone()
        .find(|(kinds, _)| kinds.split(',').any(|kind| kind == controller))
    {
        Some((_, path)) => format!("/sys/fs/cgroup/{controller}{path}"),
        None => format!("/sys/fs/cgroup{}", lines.find(|(k, _)| k.is_empty())?.1),
    };
    Some(PathBuf::from(path)).filter(|path| path.exists())
}

/// Processes that have a file of the state directory open or mounted, and
/// helpers that this process has not waited for. This process is not one.
fn processes(needle: &str) -> BTreeSet<String> {
    let own = std::process::id().to_string();
    let own_mounts = fs::read_link("/proc/self/ns/mnt").ok();
    let mut found = BTreeSet::new();
    for pid in names(Path::new("/proc")) {
        if pid == own || !pid.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let title = status(&pid, "Name").unwrap_or_default();
        let zombie = status(&pid, "State").is_some_and(|state| state.starts_with('Z'));
        if zombie && title.starts_with("stacyvm-") && status(&pid, "PPid") == Some(own.clone()) {
            found.insert(format!("zombie {pid} {title}"));
        }
        let process = PathBuf::from("/proc").join(&pid);
        let opened = names(&process.join("fd")).iter().any(|fd| {
            fs::read_link(process.join("fd").join(fd))
                .is_ok_and(|to| to.to_string_lossy().contains(needle))
        });
        let mounted = fs::read_link(process.join("ns/mnt")).ok() != own_mounts
            && fs::read_to_string(process.join("mountinfo"))
                .is_ok_and(|mounts| mounts.contains(needle));
        if opened || mounted {
            let how = if opened { "open file" } else { "mount" };
            found.insert(format!("process {pid} {title}: {how}"));
        }
    }
    found
}

/// Mounts below the state directory in this mount namespace; those of others
/// are told with their processes.
fn mounts_below(state: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(4));
    points
        .filter(|point| Path::new(point).starts_with(state) && Path::new(point) != state)
        .map(|point| format!("mount {point}"))
        .collect()
}

/// Cgroups of ours that hold no process.
fn empty_cgroups() -> BTreeSet<String> {
    let roots = names(Path::new("/sys/fs/cgroup"));
    let parents = roots
        .iter()
        .map(|root| Path::new("/sys/fs/cgroup").join(root).join("stacyvm"))
        .chain([PathBuf::from("/sys/fs/cgroup/stacyvm")]);
    let mut found = BTreeSet::new();
    for parent in parents {
        for name in names(&parent) {
            // The agent's own tests name theirs so.
            if name.starts_with("test-") {
                continue;
            }
            let path = parent.join(&name);
            if fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|pids| pids.is_empty()) {
                found.insert(format!("cgroup {}", path.display()));
            }
        }
    }
    found
}

/// Loop devices on files of the state directory.
fn loop_devices(needle: &str) -> Vec<String> {
    let devices = names(Path::new("/sys/block")).into_iter();
    devices
        .filter(|name| {
            fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"))
                .is_ok_and(|file| file.contains(needle))
        })
        .map(|name| format!("loop device {name}"))
        .collect()
}

/// Unix sockets with a path in the state directory.
fn sockets(needle: &str) -> Vec<String> {
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let paths = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(7));
    paths
        .filter(|path| path.contains(needle))
        .map(|path| format!("socket {path}"))
        .collect()
}

fn interfaces() -> BTreeSet<String> {
    let all = names(Path::new("/sys/class/net")).into_iter();
    all.filter(|name| name.starts_with("svm-"))
        .map(|name| format!("interface {name}"))
        .collect()
}

/// Descriptors of this process, without those that only reading them opens.
pub fn descriptors() -> usize {
    names(Path::new("/proc/self/fd")).len()
}

/// The memory of this process that is in use, in bytes.
pub fn memory() -> u64 {
    let own = std::process::id().to_string();
    let text = status(&own, "VmRSS").unwrap();
    text.trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}
