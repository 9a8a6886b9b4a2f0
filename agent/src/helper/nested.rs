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

/// How many of `pids` processes commands cannot fork away: supervisors and
/// workers need them while a command fills all it can get.
pub(super) fn kept(pids: u32) -> u32 {
    (pids / 4).min(MOST_KEPT)
}

/// Makes the cgroup of commands below `dir`, which may hold `pids` processes,
/// and opens the file through which a process enters it. Entering is never
/// refused by a limit, forking there is. It takes no rights but this
/// descriptor: the kernel asks who opened it.
pub(super) fn commands(dir: &Path, version: u8, pids: u32) -> io::Result<OwnedFd> {
    let own = dir.join(COMMANDS);
    if let Err(error) = fs::create_dir(&own)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    if version == 2 {
        // The agent stays above, which only threaded children allow.
        write(&own.join("cgroup.type"), "threaded")?;
        write(&dir.join("cgroup.subtree_control"), "+pids")?;
    }
    write(&own.join("pids.max"), (pids - kept(pids)).to_string())?;
    // One thread moves itself through these, without the wait for a grace
    // period that moving a process by its number may take.
    let file = match version {
        1 => "tasks",
        _ => "cgroup.threads",
    };
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(own.join(file), flags, Mode::empty())?)
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
