//! What a sandbox has on the host, and taking it away.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, Mode, OFlags, RenameFlags};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::bundle::Container;
use super::cgroup::Cgroups;
use super::fault::{Result, Tried};
use super::{disk, inside};
use crate::helper_protocol::{Failed, FailedKind, LEDGER_NAME, LOCK_NAME, NEW_LOCK_NAME};
use crate::remove;

/// The init process of a sandbox.
#[derive(Debug)]
pub(crate) struct Init {
    /// Its number, as the helper sees it.
    pub(crate) pid: i32,
    /// Its descriptor, which no other process can ever take over.
    pub(crate) pidfd: OwnedFd,
}

/// Everything that must be gone in the end.
#[derive(Debug)]
pub(crate) struct State {
    sandboxes: OwnedFd,
    /// The name of the directory.
    pub(crate) name: String,
    /// The sandbox's directory.
    pub(crate) directory: OwnedFd,
    /// Held for the life of the helper: the proof that it lives.
    _lock: OwnedFd,
    /// Open from the first record on.
    ledger: Option<File>,
    /// The lock of its range of ids, held as well, where the host gave one, and
    /// how many bytes were noted in it.
    range: Option<(OwnedFd, u64)>,
    pub(crate) cgroups: Option<Cgroups>,
    pub(crate) init: Option<Init>,
    /// What a runtime holds of it.
    pub(crate) container: Option<Container>,
    pub(crate) loop_device: Option<u32>,
    /// The locks of its volumes, held for as long as something may write to them.
    pub(crate) volumes: Vec<OwnedFd>,
    /// The user namespace of a helper without root: only there it has rights over
    /// what the sandbox's users own.
    pub(crate) namespace: Option<OwnedFd>,
}

impl State {
    /// Makes the directory and takes its lock. An error leaves nothing.
    pub(crate) fn make(sandboxes: OwnedFd, name: &str, range: Option<OwnedFd>) -> Result<Self> {
        let begins = announce(&sandboxes)?;
        rustix::fs::mkdirat(&sandboxes, name, Mode::RWXU)
            .tried(format!("make the directory of {name}"))?;
        fault_point!("helper.park.directory");
        let (directory, lock) = match Self::claim(&sandboxes, name) {
            Ok(claimed) => claimed,
            Err(failed) => {
                let name = CString::new(name).unwrap_or_default();
                // The failure to report is the first one.
                let _ = remove::tree(&sandboxes, &name);
                return Err(failed);
            }
        };
        drop(begins);
        Ok(Self {
            sandboxes,
            name: name.to_owned(),
            directory,
            _lock: lock,
            ledger: None,
            range: range.map(|range| (range, 0)),
            cgroups: None,
            init: None,
            container: None,
            loop_device: None,
            volumes: Vec::new(),
            namespace: None,
        })
    }

    /// Opens a new directory and puts a lock there that is already taken: a
    /// sweep that finds one free must find a dead helper's.
    fn claim(sandboxes: &OwnedFd, name: &str) -> Result<(OwnedFd, OwnedFd)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(sandboxes, name, flags, Mode::empty())
            .tried("open the sandbox's directory")?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&directory, NEW_LOCK_NAME, flags, Mode::RUSR | Mode::WUSR)
            .tried("make the lock")?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .tried("take the lock")?;
        fault_point!("helper.park.lock");
        rustix::fs::renameat(&directory, NEW_LOCK_NAME, &directory, LOCK_NAME)
            .tried("place the lock")?;
        Ok((directory, lock))
    }

    /// Adds lines to the ledger, on disk before what they name is made.
    pub(crate) fn record(&mut self, kind: &str, names: &[PathBuf]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let mut lines = String::new();
        for name in names {
            // Writing into a String cannot fail.
            let _ = writeln!(lines, "{kind}\t{}", name.display());
        }
        if self.ledger.is_none() {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let file = rustix::fs::openat(&self.directory, LEDGER_NAME, flags, mode)
                .tried("make the ledger")?;
            self.ledger = Some(file.into());
        }
        // On a full disk a write may take only the beginning: then what was to
        // be recorded is not made, and a reader leaves an unfinished line alone.
        if let Some(ledger) = &mut self.ledger {
            ledger
                .write_all(lines.as_bytes())
                .tried("write the ledger")?;
        }
        match &mut self.range {
            Some((range, noted)) => range_note(range, noted, lines.as_bytes()),
            None => Ok(()),
        }
    }

    /// Gives directory and cgroups the sandbox's own name.
    pub(crate) fn rename(&mut self, id: &str) -> Result<()> {
        if id == self.name {
            return Ok(());
        }
        if let Some(cgroups) = &self.cgroups {
            let renamed = cgroups.paths_as(id);
            self.record("cgroup", &renamed)?;
        }
        fault_point!("helper.launch.ledger");
        match rustix::fs::renameat_with(
            &self.sandboxes,
            &self.name,
            &self.sandboxes,
            id,
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) => id.clone_into(&mut self.name),
            Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOTEMPTY) => {
                return Err(Failed::new(
                    FailedKind::Conflict,
                    format!("there is a sandbox {id} already"),
                ));
            }
            Err(error) => return Err(error).tried("name the sandbox's directory"),
        }
        fault_point!("helper.launch.directory-named");
        match &mut self.cgroups {
            Some(cgroups) => cgroups.rename(id),
            None => Ok(()),
        }
    }

    /// Ends every process and removes everything; names what stays.
    pub(crate) fn tear_down(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        if let Some(init) = self.init.take() {
            // The kernel kills the whole process namespace with its init.
            let _ = rustix::process::pidfd_send_signal(&init.pidfd, Signal::KILL);
            if let Some(cgroups) = &self.cgroups {
                // What is frozen dies only once it is let go.
                cgroups.thaw();
            }
            wait_for_end(&init.pidfd);
        }
        fault_point!("helper.end.killed");
        if let Some(container) = self.container.take() {
            left.extend(container.delete());
        }
        if let Some(mut cgroups) = self.cgroups.take() {
            left.extend(cgroups.remove());
        }
        fault_point!("helper.end.cgroups");
        if let Some(number) = self.loop_device.take() {
            left.extend(disk::wait_free(number));
        }
        // Before the directory goes: who sees that it went may have the volumes.
        self.volumes.clear();
        // The lock's file goes with the directory; the lock itself is held to
        // the end, so that no sweep works on what is being removed.
        if let Err(failed) = self.remove_directory() {
            left.push(format!("directory {}: {}", self.name, failed.message));
        }
        fault_point!("helper.end.directory");
        if let Some((range, _)) = &self.range
            && left.is_empty()
        {
            // If it fails whoever has the range next looks at what was noted.
            let _ = remove_range(range);
        }
        left
    }

    fn remove_directory(&self) -> Result<()> {
        let name = CString::new(self.name.as_str()).unwrap_or_default();
        let remove = || remove::tree(&self.sandboxes, &name).tried("remove");
        match &self.namespace {
            None => remove(),
            Some(namespace) => {
                inside::run(namespace.as_fd(), false, || remove().map(|()| Vec::new())).map(drop)
            }
        }
    }

    /// Whether the init has ended, without waiting; and by which signal.
    pub(crate) fn init_signal(&self) -> Option<i32> {
        let init = self.init.as_ref()?;
        let seen = rustix::process::waitid(
            WaitId::PidFd(init.pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT,
        );
        seen.ok().flatten()?.terminating_signal()
    }
}

/// Waits for the end of a child, however long it takes.
pub(crate) fn wait_for_end(pidfd: &OwnedFd) {
    let wait = || rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    while matches!(wait(), Err(rustix::io::Errno::INTR)) {}
}

/// Says, for as long as what it gives is open, that a directory may be there
/// whose lock is not yet. Whoever can take the same lock alone knows that the
/// maker of a directory without one is dead.
fn announce(sandboxes: &OwnedFd) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Opened anew: a lock belongs to an opening, and theirs is the host's.
    let begins = rustix::fs::openat(sandboxes, ".", flags, Mode::empty())
        .tried("open the directory of sandboxes")?;
    rustix::fs::flock(&begins, FlockOperation::LockShared)
        .tried("lock the directory of sandboxes")?;
    Ok(begins)
}

/// Notes in the file of a range what runs with its ids, for the time when the
/// helper is dead and its lock free.
fn range_note(range: &OwnedFd, noted: &mut u64, mut text: &[u8]) -> Result<()> {
    while !text.is_empty() {
        let count = rustix::io::pwrite(range, text, *noted).tried("note the range of ids")?;
        *noted += count as u64;
        text = &text[count..];
    }
    Ok(())
}

/// Removes the file of a range, whose lock this helper holds: until it is free
/// nobody else can make anything of that name mean anything.
fn remove_range(range: &OwnedFd) -> Result<()> {
    let path = rustix::fs::readlink(format!("/proc/self/fd/{}", range.as_raw_fd()), Vec::new())
        .tried("find the file of the range of ids")?;
    rustix::fs::unlink(path).tried("remove the file of the range of ids")
}

/// The process number of this program's parent; 0 where it is of another namespace.
pub(crate) fn parent_pid() -> u32 {
    Pid::as_raw(rustix::process::getppid()).unsigned_abs()
}

/// The process number of this program.
pub(crate) fn own_pid() -> u32 {
    Pid::as_raw(Some(rustix::process::getpid())).unsigned_abs()
}
