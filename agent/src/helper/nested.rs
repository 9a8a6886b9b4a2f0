//! Cgroups below those of a sandbox: the one that its commands run in, and
//! any that somebody on the host made there.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::cgroup::write;

/// The directory of the commands' cgroup.
const COMMANDS: &str = "commands";
/// The most processes that are kept for the agent's own.
const MOST_KEPT: u32 = 32;
/// The most bytes of memory that are kept for the agent's own.
const MOST_KEPT_BYTES: u64 = 16 << 20;
/// The least, unless that is more than a quarter of all.
const LEAST_KEPT_BYTES: u64 = 4 << 20;

/// How many of `pids` processes commands cannot fork away: supervisors and
/// workers need them while a command fills all it can get.
pub(super) fn kept(pids: u32) -> u32 {
    (pids / 4).min(MOST_KEPT)
}

/// How many of `bytes` of memory commands cannot fill: where the agent finds
/// none, it is what the kernel kills, and the sandbox with it. Its program and a
/// worker need 2 to 3 MiB, which an eighth of a small limit is not.
fn kept_bytes(bytes: u64) -> u64 {
    let least = LEAST_KEPT_BYTES.min(bytes / 4);
    (bytes / 8).clamp(least, MOST_KEPT_BYTES)
}

/// The cgroup of commands below that of a sandbox.
pub(super) fn commands(dir: &Path) -> PathBuf {
    dir.join(COMMANDS)
}

fn make(own: &Path) -> io::Result<()> {
    match fs::create_dir(own) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Makes the cgroup of commands below `dir`, which may hold `pids` processes,
/// and opens the file through which a process enters it. Entering is never
/// refused by a limit, forking there is. It takes no rights but this
/// descriptor: the kernel asks who opened it.
pub(super) fn of_processes(dir: &Path, version: u8, pids: u32) -> io::Result<OwnedFd> {
    let own = commands(dir);
    make(&own)?;
    if version == 2 {
        // The agent stays above, which only threaded children allow.
        write(&own.join("cgroup.type"), "threaded")?;
        write(&dir.join("cgroup.subtree_control"), "+pids")?;
    }
    write(&own.join("pids.max"), (pids - kept(pids)).to_string())?;
    // One thread moves itself through these, without the wait for a grace
    // period that moving a process by its number may take.
    way_in(&own.join(match version {
        1 => "tasks",
        _ => "cgroup.threads",
    }))
}

/// The same for memory, of which `dir` may use `bytes`, in version 1. Nothing
/// where the kernel would not count it for `dir` as well (before Linux 5.11).
pub(super) fn of_memory(dir: &Path, bytes: u64) -> io::Result<Option<OwnedFd>> {
    let counts = fs::read_to_string(dir.join("memory.use_hierarchy"));
    if counts.is_ok_and(|text| text.trim() == "0")
        && write(&dir.join("memory.use_hierarchy"), "1").is_err()
    {
        return Ok(None);
    }
    let own = commands(dir);
    make(&own)?;
    let most = (bytes - kept_bytes(bytes)).to_string();
    write(&own.join("memory.limit_in_bytes"), &most)?;
    let swap = own.join("memory.memsw.limit_in_bytes");
    if swap.exists() {
        write(&swap, &most)?;
    } else {
        // As the sandbox's own: as far as it can be asked for.
        let _ = write(&own.join("memory.swappiness"), "0");
    }
    way_in(&own.join("tasks")).map(Some)
}

fn way_in(file: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(file, flags, Mode::empty())?)
}

/// All cgroups below `dir`, the deepest first.
pub(super) fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(at) = found.get(next) {
        next += 1;
        let entries = fs::read_dir(at).into_iter().flatten().flatten();
        let inside = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let inside: Vec<PathBuf> = inside.map(|entry| entry.path()).collect();
        found.extend(inside);
    }
    found.remove(0);
    found.reverse();
    found
}
