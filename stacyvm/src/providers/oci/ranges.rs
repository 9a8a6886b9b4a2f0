//! Ranges of host users: each living sandbox of this machine has one alone.
//!
//! A range is a file in a directory that only root can enter, and whoever holds
//! the lock of that file has the range. The lock travels to the helper with its
//! first packet and is the kernel's to free: when the helper ends, however it
//! ends. A helper notes in the file which cgroups its sandbox is in, and removes
//! it when nothing of the sandbox is left. So after a helper that was killed the
//! note tells whether somebody still runs with users of the range.

use std::io::ErrorKind as IoKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::system;
use crate::error::{Error, ErrorKind, Result};

/// One for the machine, whatever the state directories are.
const DIRECTORY: &str = "/run/stacyvm";
/// Where they begin: above what `useradd`, `subuid` files and systemd hand out
/// (`systemd-nspawn` ends at 0x6FFF_FFFF).
const FIRST: u32 = 0x7000_0000;
/// Users in each.
const USERS: u32 = 0x1_0000;
/// How many there are.
const COUNT: u32 = 0x1000;
/// The last user of all of them.
pub(super) const LAST: u32 = FIRST + COUNT * USERS - 1;

/// The ranges of a machine.
#[derive(Debug)]
pub(super) struct Ranges {
    directory: PathBuf,
    count: u32,
}

/// A range that is taken for as long as a copy of its lock is open.
#[derive(Debug)]
pub(super) struct Range {
    first: u32,
    lock: OwnedFd,
}

impl Range {
    /// The first of its users.
    pub(super) fn first(&self) -> u32 {
        self.first
    }

    pub(super) fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

impl Ranges {
    /// Those of this machine.
    pub(super) fn of_this_machine() -> Self {
        Self {
            directory: DIRECTORY.into(),
            count: COUNT,
        }
    }

    /// Takes a range that no living sandbox has: the first one that is free
    /// from `start` on, which is any number.
    pub(super) fn take(&self, start: u32) -> Result<Range> {
        let directory = self.open()?;
        let start = start % self.count;
        for number in (start..self.count).chain(0..start) {
            let taken = claim(&directory, number).map_err(|e| {
                e.context("path", self.directory.display())
                    .context("range", number)
            })?;
            if let Some(lock) = taken {
                let first = FIRST + number * USERS;
                return Ok(Range { first, lock });
            }
        }
        Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!(
                "all {} ranges of users for sandboxes are taken on this machine",
                self.count
            ),
        )
        .context("path", self.directory.display())
        .context(
            "remedy",
            "end sandboxes that nobody needs; `stacyvm ls` shows those of a state directory",
        ))
    }

    /// Removes the files of ranges that nobody has any more: a helper that was
    /// killed could not. What cannot be removed now is another time.
    pub(super) fn sweep(&self) {
        let Ok(directory) = self.open() else { return };
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten();
        for entry in entries.flatten() {
            let file = entry.file_name();
            let name = file.to_string_lossy();
            let number = name.strip_prefix("range-");
            let number = number.and_then(|digits| u32::from_str_radix(digits, 16).ok());
            if let Some(number) = number.filter(|number| name == name_of(*number))
                && let Ok(Some(_lock)) = claim(&directory, number)
            {
                let _ = rustix::fs::unlinkat(&directory, file, AtFlags::empty());
            }
        }
    }

    /// Opens the directory, made if missing. Nobody but root may have a say in
    /// what it is: no link is followed, and what others can enter is refused.
    fn open(&self) -> Result<OwnedFd> {
        let path = self.directory.as_path();
        let opened = match open_directory(path) {
            Err(Errno::NOENT) => make_directory(path).and_then(|()| open_directory(path)),
            opened => opened,
        };
        let place = |error: Error| error.context("path", path.display());
        let directory =
            opened.map_err(|e| place(system("open the directory of ranges of users", e)))?;
        let stat = rustix::fs::fstat(&directory)
            .map_err(|e| place(system("look at the directory of ranges of users", e)))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
            return Err(place(Error::new(
                ErrorKind::PermissionDenied,
                "the directory of ranges of users is not private to this user",
            ))
            .context(
                "found",
                format!("uid {} mode {:04o}", stat.st_uid, stat.st_mode & 0o7777),
            )
            .context("expected", "uid 0 mode 0700")
            .context("remedy", "find out who made it, then remove it"));
        }
        Ok(directory)
    }
}

/// The name of the file of a range.
fn name_of(number: u32) -> String {
    format!("range-{number:04x}")
}

/// Makes the directory, and `/run` where an image of a container has none.
fn make_directory(path: &Path) -> Result<(), Errno> {
    let make = |path: &Path, mode| match rustix::fs::mkdir(path, mode) {
        Err(Errno::EXIST) => Ok(()),
        made => made,
    };
    match (make(path, Mode::RWXU), path.parent()) {
        (Err(Errno::NOENT), Some(parent)) => {
            let for_all = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
            make(parent, for_all)?;
            make(path, Mode::RWXU)
        }
        (made, _) => made,
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve) {
        // An older kernel, or one that runs inside another sandbox.
        Err(Errno::NOSYS) => rustix::fs::open(path, flags, Mode::empty()),
        opened => opened,
    }
}

/// Takes the lock of a range, unless somebody has it or its users still run.
fn claim(directory: &OwnedFd, number: u32) -> Result<Option<OwnedFd>> {
    let Some(lock) = lock(directory, &name_of(number))? else {
        return Ok(None);
    };
    let note = read(&lock).map_err(|e| system("read the note of a range of users", e))?;
    if !note.is_empty() {
        let note = String::from_utf8_lossy(&note);
        let cgroups = note
            .lines()
            .filter_map(|line| line.strip_prefix("cgroup\t"));
        if cgroups.map(Path::new).any(is_populated) {
            return Ok(None);
        }
        rustix::fs::ftruncate(&lock, 0)
            .map_err(|e| system("clear the note of a range of users", e))?;
    }
    Ok(Some(lock))
}

/// The locked file of this name, unless somebody else has locked it. A helper
/// removes the file while it holds the lock, so who gets the lock of a file
/// that has gone looks for the one that took its place.
fn lock(directory: &OwnedFd, name: &str) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        let lock = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| system("open the lock of a range of users", e))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(system("lock a range of users", errno)),
        }
        let stat = rustix::fs::fstat(&lock)
            .map_err(|e| system("look at the lock of a range of users", e))?;
        if stat.st_nlink > 0 {
            return Ok(Some(lock));
        }
    }
}

/// The notes of ranges that nobody holds, with their files. Changes nothing,
/// and is empty for whoever may not look.
pub(super) fn free_notes() -> Vec<(PathBuf, String)> {
    let files = std::fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    let note = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        let number = name.to_str()?.strip_prefix("range-")?;
        u32::from_str_radix(number, 16)
            .ok()
            .filter(|n| *n < COUNT)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(entry.path(), flags, Mode::empty()).ok()?;
        // A shared lock disturbs nobody who asks the same.
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).ok()?;
        let text = String::from_utf8(read(&file).ok()?).ok()?;
        (!text.is_empty()).then(|| (entry.path(), text))
    };
    files.filter_map(note).collect()
}

/// What is in a file; one call where nothing is, as a rule.
fn read(file: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut all = Vec::new();
    let mut part = [0; 4096];
    loop {
        match rustix::io::read(file, &mut part)? {
            0 => return Ok(all),
            count => all.extend_from_slice(&part[..count]),
        }
    }
}

/// Whether a process is in a cgroup or below it; true where that cannot be told.
fn is_populated(cgroup: &Path) -> bool {
    // Version 2 says it itself, for what is below as well; there the commands'
    // cgroup does not tell its processes.
    if let Ok(events) = std::fs::read_to_string(cgroup.join("cgroup.events")) {
        return !events.lines().any(|line| line == "populated 0");
    }
    match std::fs::read_to_string(cgroup.join("cgroup.procs")) {
        Ok(text) if text.is_empty() => {}
        Err(error) if error.kind() == IoKind::NotFound => return false,
        Ok(_) | Err(_) => return true,
    }
    let below = std::fs::read_dir(cgroup).into_iter().flatten().flatten();
    below
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .any(|entry| is_populated(&entry.path()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn ranges(home: &tempfile::TempDir, count: u32) -> Ranges {
        Ranges {
            directory: home.path().canonicalize().unwrap().join("ranges"),
            count,
        }
    }

    #[test]
    fn each_range_is_given_once_and_again_when_its_last_lock_is_closed() {
        let home = tempfile::tempdir().unwrap();
        let (one, two) = (ranges(&home, 16), ranges(&home, 16));
        let mut taken: Vec<Range> = (0..16)
            .map(|n| if n % 2 == 0 { &one } else { &two }.take(7).unwrap())
            .collect();
        let mut firsts: Vec<u32> = taken.iter().map(Range::first).collect();
        firsts.sort_unstable();
        let all: Vec<u32> = (0..16).map(|n| 0x7000_0000 + n * 65_536).collect();
        assert_eq!(firsts, all);
        let error = two.take(3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
        assert!(error.to_string().contains("all 16 ranges"), "{error}");
        // As when the lock is with a helper and this process lets go of it.
        let freed = taken.remove(5);
        let copy = freed.lock.try_clone().unwrap();
        let first = freed.first();
        drop(freed);
        assert!(one.take(0).is_err());
        drop(copy);
        assert_eq!(one.take(0).unwrap().first(), first);
    }

    #[test]
    fn many_at_once_never_share() {
        let home = tempfile::tempdir().unwrap();
        let ranges = ranges(&home, 64);
        let taken = std::thread::scope(|scope| {
            let work = || (0..8).map(|_| ranges.take(9).unwrap()).collect::<Vec<_>>();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
            let all = threads.into_iter().flat_map(|t| t.join().unwrap());
            all.collect::<Vec<_>>()
        });
        let firsts: std::collections::BTreeSet<u32> = taken.iter().map(Range::first).collect();
        assert_eq!(firsts.len(), 64);
    }

    #[test]
    fn a_directory_that_others_have_a_say_in_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let ranges = ranges(&home, 4);
        drop(ranges.take(0).unwrap());
        let mode = |mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&ranges.directory, mode).unwrap();
        };
        mode(0o711);
        let error = ranges.take(0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        mode(0o700);
        // A lock that is a link, and a directory that is one.
        let lock = ranges.directory.join("range-0000");
        let elsewhere = home.path().join("elsewhere");
        std::fs::remove_file(&lock).unwrap();
        symlink(&elsewhere, &lock).unwrap();
        assert!(ranges.take(0).is_err());
        std::fs::rename(&ranges.directory, &elsewhere).unwrap();
        symlink(&elsewhere, &ranges.directory).unwrap();
        assert!(ranges.take(1).is_err());
    }

    /// A cgroup of this test with one process, on hosts where root may make one.
    fn cgroup_with(child: &std::process::Child) -> Option<PathBuf> {
        let name = format!("stacyvm-ranges-{}", std::process::id());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mounts = mounts
            .lines()
            .filter(|line| line.contains(" - cgroup"))
            .filter_map(|line| line.split(' ').nth(4));
        for mount in mounts {
            let path = Path::new(mount).join(&name);
            if std::fs::create_dir(&path).is_err() {
                continue;
            }
            let pid = child.id().to_string();
            if std::fs::write(path.join("cgroup.procs"), pid).is_ok() {
                // As the helper does for commands, on version 2.
                if path.join("cgroup.type").exists() {
                    std::fs::create_dir(path.join("commands")).unwrap();
                    std::fs::write(path.join("commands/cgroup.type"), "threaded").unwrap();
                }
                return Some(path);
            }
            let _ = std::fs::remove_dir(&path);
        }
        None
    }

    #[test]
    fn a_range_is_not_free_while_its_users_run_without_their_helper() {
        let mut child = std::process::Command::new("sleep")
            .arg("300")
            .spawn()
            .unwrap();
        let Some(cgroup) = cgroup_with(&child) else {
            child.kill().unwrap();
            child.wait().unwrap();
            println!("not run: no cgroup can be made here");
            return;
        };
        let home = tempfile::tempdir().unwrap();
        let ranges = ranges(&home, 1);
        drop(ranges.take(0).unwrap());
        let gone = cgroup.with_extension("gone");
        let note = format!("cgroup\t{}\ncgroup\t{}\n", gone.display(), cgroup.display());
        std::fs::write(ranges.directory.join("range-0000"), note).unwrap();
        let error = ranges.take(0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        child.kill().unwrap();
        child.wait().unwrap();
        // That the cgroup itself is still there does not matter.
        let taken = ranges.take(0).unwrap();
        assert_eq!(
            std::fs::read(ranges.directory.join("range-0000")).unwrap(),
            b""
        );
        drop(taken);
        // Only version 2 has it.
        let _ = std::fs::remove_dir(cgroup.join("commands"));
        std::fs::remove_dir(cgroup).unwrap();
    }

    /// As by a helper whose sandbox is gone, between another's open and its lock.
    #[test]
    fn the_lock_of_a_file_that_has_gone_is_not_the_lock_of_its_range() {
        let home = tempfile::tempdir().unwrap();
        let ranges = ranges(&home, 1);
        let file = ranges.directory.join("range-0000");
        for _ in 0..200 {
            let taken = std::thread::scope(|scope| {
                let old = ranges.take(0).unwrap();
                let taker = scope.spawn(|| ranges.take(0));
                std::fs::remove_file(&file).unwrap();
                drop(old);
                taker.join().unwrap()
            });
            if taken.is_ok() {
                assert!(ranges.take(0).is_err(), "given twice");
            }
        }
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_range_whose_sandbox_ended() {
        use super::super::{Oci, OciConfig};
        use crate::context::Context;
        use crate::provider::Provider as _;

        if !rustix::process::geteuid().is_root() {
            println!("not run: the embedded provider needs root");
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let provider = Oci::open(OciConfig::new(home.path())).await.unwrap();
        let request = request();
        let observed = provider
            .create(&Context::default(), &request)
            .await
            .unwrap();
        let first = first_of(observed.host_pid.unwrap());
        let file = Path::new(DIRECTORY).join(format!("range-{:04x}", (first - FIRST) / USERS));
        assert!(file.exists());
        provider
            .destroy(&Context::default(), &request.id)
            .await
            .unwrap();
        // Another sandbox may have it by now.
        assert!(!file.exists() || File::open(&file).unwrap().try_lock().is_err());
    }

    fn request() -> crate::provider::CreateRequest {
        use crate::sandbox::spec::{Lifetime, SandboxSpec};
        crate::provider::CreateRequest {
            id: crate::id::SandboxId::random(),
            instance: crate::id::InstanceId::random(),
            spec: SandboxSpec::host().lifetime(Lifetime::Detached),
            open_files_preferred: true,
            ends: None,
            secrets: crate::provider::Secrets::default(),
            waits: false,
        }
    }

    /// The first user of the sandbox of an agent.
    fn first_of(agent: u32) -> u32 {
        let map = std::fs::read_to_string(format!("/proc/{agent}/uid_map")).unwrap();
        map.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// On the ranges of this machine, as a provider uses them.
    #[tokio::test]
    async fn a_killed_helper_frees_its_range_only_when_the_sandbox_is_gone() {
        use super::super::{Oci, OciConfig};
        use crate::context::Context;
        use crate::provider::Provider as _;

        if !rustix::process::geteuid().is_root() {
            println!("not run: the embedded provider needs root");
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let provider = Oci::open(OciConfig::new(home.path())).await.unwrap();
        let context = Context::default();
        let request = request();
        let observed = provider.create(&context, &request).await.unwrap();
        let agent = observed.host_pid.unwrap();
        let first = first_of(agent);
        let ranges = Ranges::of_this_machine();
        let again = || ranges.take((first - FIRST) / USERS).unwrap().first() == first;
        assert!(!again(), "given twice");
        // What stands still outlives its helper.
        provider.pause(&context, &request.id).await.unwrap();
        let status = std::fs::read_to_string(format!("/proc/{agent}/stat")).unwrap();
        let helper = status.split(' ').nth(3).unwrap().parse().unwrap();
        let helper = rustix::process::Pid::from_raw(helper).unwrap();
        rustix::process::kill_process(helper, rustix::process::Signal::KILL).unwrap();
        let until = async |what: &str, is: &dyn Fn() -> bool| {
            for _ in 0..1000 {
                if is() {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            panic!("never: {what}");
        };
        let lock = Path::new(DIRECTORY).join(format!("range-{:04x}", (first - FIRST) / USERS));
        let lock = File::open(lock).unwrap();
        until("the lock is free", &|| lock.try_lock().is_ok()).await;
        lock.unlock().unwrap();
        assert!(
            Path::new(&format!("/proc/{agent}")).exists(),
            "it is gone already"
        );
        assert!(!again(), "given while its users run");
        provider.destroy(&context, &request.id).await.unwrap();
        until("the range is free", &again).await;
    }
}
