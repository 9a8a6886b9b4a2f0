//! The helpers and agents of the machine, told by what they execute.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use stacyvm_agent::helper_protocol::{LOCK_NAME, PROGRAM_MARK};

use super::mountinfo::{Location, Mounts};

/// The largest program that is looked into.
const LARGEST: u64 = 64 * 1024 * 1024;

/// Which part a process plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Helper,
    Agent,
}

/// A process that executes a program of stacyvm, of whatever version.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) role: Role,
    /// The state directory that a helper works in.
    pub(super) state_dir: Option<PathBuf>,
    /// The name of its sandbox or of its directory.
    pub(super) sandbox: Option<String>,
    /// Whether a helper's directory is there.
    pub(super) reachable: bool,
}

/// Those of the machine, by number.
#[derive(Debug)]
pub(super) struct Processes {
    pub(super) all: BTreeMap<u32, Process>,
}

impl Processes {
    pub(super) fn scan() -> Self {
        let mut programs = HashMap::new();
        let all = pids()
            .filter_map(|pid| look_at(pid, &mut programs))
            .map(|process| (process.pid, process));
        Self { all: all.collect() }
    }
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn look_at(pid: u32, programs: &mut HashMap<(u64, u64), bool>) -> Option<Process> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let role = titled(&proc)?;
    if !is_program(&proc.join("exe"), programs) {
        return None;
    }
    let stat = fs::read_to_string(proc.join("stat")).ok()?;
    // Behind the name, which may hold anything.
    let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
    let mut process = Process {
        pid,
        parent,
        role,
        state_dir: None,
        sandbox: None,
        reachable: false,
    };
    match role {
        Role::Helper => {
            if let Some((state_dir, name, reachable)) = lock_held_by(&proc) {
                process.state_dir = Some(state_dir);
                process.sandbox = Some(name);
                process.reachable = reachable;
            }
        }
        Role::Agent => process.sandbox = cgroup_of(&proc),
    }
    Some(process)
}

/// The part that a process says to play, by its title.
fn titled(proc: &Path) -> Option<Role> {
    let comm = fs::read_to_string(proc.join("comm")).ok()?;
    let line = fs::read(proc.join("cmdline")).unwrap_or_default();
    let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
    let says = |title: &str| comm.trim_end() == title || first == title.as_bytes();
    if says("stacyvm-helper") {
        Some(Role::Helper)
    } else {
        says("stacyvm-agent").then_some(Role::Agent)
    }
}

/// Whether a file is stacyvm's static program: it carries its mark.
pub(super) fn is_program(path: &Path, programs: &mut HashMap<(u64, u64), bool>) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    let Ok(found) = file.metadata() else {
        return false;
    };
    *programs
        .entry((found.dev(), found.ino()))
        .or_insert_with(|| {
            let mut bytes = Vec::new();
            found.len() <= LARGEST
                && file.take(LARGEST).read_to_end(&mut bytes).is_ok()
                && bytes
                    .windows(PROGRAM_MARK.len())
                    .any(|part| part == PROGRAM_MARK)
        })
}

/// The state directory and the name under which a helper holds its lock, and
/// whether its directory is still there.
fn lock_held_by(proc: &Path) -> Option<(PathBuf, String, bool)> {
    let descriptors = fs::read_dir(proc.join("fd")).ok()?.flatten();
    descriptors.into_iter().find_map(|entry| {
        let link = fs::read_link(entry.path()).ok()?;
        let text = link.to_str()?;
        let (path, gone) = match text.strip_suffix(" (deleted)") {
            Some(path) => (Path::new(path), true),
            None => (link.as_path(), false),
        };
        if path.file_name()? != LOCK_NAME {
            return None;
        }
        let directory = path.parent()?;
        let sandboxes = directory.parent()?;
        if sandboxes.file_name()? != "sandboxes" {
            return None;
        }
        let name = directory.file_name()?.to_str()?.to_owned();
        Some((sandboxes.parent()?.to_owned(), name, !gone))
    })
}

/// The name of the sandbox whose cgroups a process is in.
fn cgroup_of(proc: &Path) -> Option<String> {
    let text = fs::read_to_string(proc.join("cgroup")).ok()?;
    text.lines().find_map(|line| {
        let mut parts = Path::new(line.splitn(3, ':').nth(2)?).iter();
        parts.find(|part| *part == "stacyvm")?;
        parts.next()?.to_str().map(str::to_owned)
    })
}

/// Every mount namespace of the machine, with a process that is in it.
pub(super) fn mount_namespaces() -> BTreeMap<String, u32> {
    let mut all = BTreeMap::new();
    for pid in pids() {
        if let Ok(namespace) = fs::read_link(format!("/proc/{pid}/ns/mnt")) {
            all.entry(namespace.display().to_string()).or_insert(pid);
        }
    }
    all
}

/// The files that processes of this machine execute.
pub(super) fn executed() -> HashSet<PathBuf> {
    let links = pids().filter_map(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok());
    links.collect()
}

/// Where what is mounted anywhere lies.
pub(super) fn mounted() -> HashSet<Location> {
    let mut all = HashSet::new();
    for pid in mount_namespaces().into_values() {
        let mounts = Mounts::of(&pid.to_string()).unwrap_or_default();
        all.extend(mounts.locations().filter_map(|[shown, _]| shown));
    }
    all
}

/// Kills the helper that holds the sandbox of this name in a state directory;
/// false where there is none.
pub(super) fn kill_helper(state_dir: &Path, name: &str) -> Result<bool, Errno> {
    // A path of a descriptor has no links.
    let state_dir = fs::canonicalize(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    let is_its = |process: &Process| {
        process.role == Role::Helper
            && process.state_dir.as_ref() == Some(&state_dir)
            && process.sandbox.as_deref() == Some(name)
    };
    for pid in Processes::scan().all.into_values().filter(is_its) {
        // Opened before it is looked at again, so that its number is still its own.
        let Some(opened) = open(pid.pid)? else {
            continue;
        };
        if look_at(pid.pid, &mut HashMap::new()).is_some_and(|process| is_its(&process)) {
            kill(&opened)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Opens a process by its number; none where nobody has it.
pub(super) fn open(pid: u32) -> Result<Option<OwnedFd>, Errno> {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(None);
    };
    match pidfd_open(number, PidfdFlags::empty()) {
        Err(Errno::SRCH) => Ok(None),
        opened => opened.map(Some),
    }
}

/// A process, where somebody has stopped it.
pub(super) fn stopped(pid: u32) -> Option<OwnedFd> {
    let process = open(pid).ok()??;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.trim_start().starts_with('T').then_some(process)
}

/// Lets a process go on that was stopped.
pub(super) fn go_on(process: &OwnedFd) -> Result<(), Errno> {
    match pidfd_send_signal(process, Signal::CONT) {
        Err(Errno::SRCH) => Ok(()),
        sent => sent,
    }
}

/// Kills a process that was opened *before* it was looked at: if its number
/// became another's since, it has ended, and nobody is killed.
pub(super) fn kill(process: &OwnedFd) -> Result<(), Errno> {
    match pidfd_send_signal(process, Signal::KILL) {
        Err(Errno::SRCH) => Ok(()),
        sent => sent,
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_told_by_what_it_executes_and_not_by_its_title() {
        use std::os::unix::process::CommandExt as _;
        let mut decoy = Command::new("sleep")
            .arg0("stacyvm-helper")
            .arg("300")
            .spawn()
            .unwrap();
        let proc = PathBuf::from(format!("/proc/{}", decoy.id()));
        for _ in 0..1_000_000 {
            if titled(&proc).is_some() {
                break;
            }
            std::thread::yield_now();
        }
        let titled = titled(&proc);
        let looked_at = look_at(decoy.id(), &mut HashMap::new());
        decoy.kill().unwrap();
        decoy.wait().unwrap();
        assert_eq!(titled, Some(Role::Helper));
        assert!(looked_at.is_none(), "{looked_at:?}");
    }

    #[test]
    fn a_process_that_ended_since_it_was_opened_is_not_another() {
        let mut child = Command::new("sleep").arg("300").spawn().unwrap();
        let process = open(child.id()).unwrap().unwrap();
        kill(&process).unwrap();
        assert_eq!(child.wait().unwrap().code(), None);
        // Whoever has its number now is left alone.
        kill(&process).unwrap();
        assert!(open(u32::MAX).unwrap().is_none());
    }

    #[test]
    fn the_program_carries_its_mark_and_others_do_not() {
        let home = tempfile::tempdir().unwrap();
        let ours = home.path().join("program");
        fs::write(&ours, stacyvm_agent::AGENT).unwrap();
        let mut programs = HashMap::new();
        assert!(is_program(&ours, &mut programs));
        assert!(!is_program(Path::new("/bin/sh"), &mut programs));
        assert!(!is_program(&home.path().join("none"), &mut programs));
    }
}
