//! Taking away what a helper that was killed could not.
//!
//! The kernel ends the processes of the sandbox, and with them its mounts and
//! namespaces. What stays is its directory and what the ledger in it names.
//! Where a runtime's binary made the sandbox nothing but the agent's own good
//! will ends them; then they are killed here, in the cgroups of the ledger, and
//! the runtime's state goes with the directory.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use stacyvm_agent::helper_protocol::{LEDGER_NAME, NEW_LOCK_NAME};

use super::directory::{PARKED, Sandboxes, is_held};
use super::error::{io, system};
use super::owned::Owned;
use crate::error::{Error, ErrorKind, Result};

/// Tries before a cgroup that cannot be removed is an error; 10 ms apart.
const TRIES: u32 = 500;

/// Removes a sandbox whose helper is dead; false where a living one holds it.
pub(super) async fn sweep(owned: &Owned, name: &str) -> Result<bool> {
    let sandboxes = owned.sandboxes();
    let Some(directory) = sandboxes.find_name(name)? else {
        return Ok(true);
    };
    let lock = match is_held(&directory) {
        Ok(Some(lock)) => Some(lock),
        Ok(None) => return Ok(false),
        // The helper makes the lock right after the directory, unless it dies.
        Err(_) if !sandboxes.nobody_begins().await? => return Ok(false),
        Err(_) => match is_held(&directory) {
            Ok(None) => return Ok(false),
            Ok(lock) => lock,
            // The lock is the first thing in it and the last: what has none and
            // has something else is not ours.
            Err(_) => return remove_begun(sandboxes, &directory, name),
        },
    };
    end_cgroups(&directory, name).await?;
    let removed = owned.remove_in(sandboxes.descriptor(), name).await;
    fault_point!("sweep.directory");
    drop(lock);
    removed.map(|()| true)
}

/// Removes a directory in which nothing is but a lock that is not in its place
/// yet; false where something else is in it.
fn remove_begun(sandboxes: &Sandboxes, directory: &OwnedFd, name: &str) -> Result<bool> {
    let entries = Dir::read_from(directory).map_err(|e| system("look at a directory", e))?;
    let known = [".", "..", NEW_LOCK_NAME].map(str::as_bytes);
    if entries
        .flatten()
        .any(|entry| !known.contains(&entry.file_name().to_bytes()))
    {
        return Ok(false);
    }
    let _ = rustix::fs::unlinkat(directory, NEW_LOCK_NAME, AtFlags::empty());
    match rustix::fs::unlinkat(sandboxes.descriptor(), name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(errno) => Err(system("remove the sandbox's directory", errno)),
    }
}

/// Removes a sandbox of another state directory whose helper is dead; false
/// where a living one holds it.
///
/// # Errors
///
/// `permission_denied` where another user than this one or root may change the
/// path: what was looked at could become another directory.
pub(super) async fn sweep_at(owned: &Owned, path: &Path) -> Result<bool> {
    check_path(path)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
    else {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "a sandbox's directory has a name",
        ));
    };
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let parent = match rustix::fs::open(parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(true),
        opened => opened.map_err(|e| system("open the directory of sandboxes", e))?,
    };
    let directory = match rustix::fs::openat(&parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(true),
        opened => opened.map_err(|e| system("open the sandbox's directory", e))?,
    };
    let Some(lock) = is_held(&directory)? else {
        return Ok(false);
    };
    end_cgroups(&directory, name).await?;
    let removed = owned.remove_in(parent.as_fd(), name).await;
    drop(lock);
    removed.map(|()| true)
}

/// Ends what is in the cgroups that the ledger in a sandbox's directory names.
async fn end_cgroups(directory: &OwnedFd, name: &str) -> Result<()> {
    let ledger = ledger(directory)?;
    let mut cgroups = cgroups(&ledger)?;
    cgroups.retain(|path| is_of(path, name));
    fault_point!("sweep.begun");
    // In all of them first: what is frozen in one dies in none.
    for path in &cgroups {
        thaw(path);
    }
    for path in &cgroups {
        remove_cgroup(path).await?;
        fault_point!("sweep.cgroup");
    }
    fault_point!("sweep.cgroups");
    Ok(())
}

/// Whether a cgroup is that of the directory with this name, or one of before it
/// had its name. A helper that was killed when its new name was taken has left
/// the other one's in its ledger.
pub(super) fn is_of(cgroup: &Path, name: &str) -> bool {
    let cgroup = cgroup.file_name().and_then(|name| name.to_str());
    cgroup.is_some_and(|cgroup| cgroup == name || cgroup.starts_with(PARKED))
}

/// Every part of the path is a directory of root's or this user's, and nobody
/// else can put another in its place.
fn check_path(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let own = rustix::process::geteuid().as_raw();
    for part in path.ancestors() {
        let found = match std::fs::symlink_metadata(part) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            found => found.map_err(|e| io("look at the sandbox's directory", e))?,
        };
        let is_owned = [0, own].contains(&found.uid());
        let is_closed = found.mode() & 0o022 == 0 || found.mode() & 0o1000 != 0;
        if !path.is_absolute() || !found.is_dir() || !is_owned || !is_closed {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "another user has a say in what this directory is",
            )
            .context("path", part.display())
            .context("remedy", format!("run it as uid {}", found.uid())));
        }
    }
    Ok(())
}

/// What a ledger holds at most; a helper writes some lines.
const LONGEST_LEDGER: u64 = 1 << 20;

pub(super) fn ledger(directory: &OwnedFd) -> Result<String> {
    // Whoever made the directory chose what has this name: it may be a pipe.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, LEDGER_NAME, flags, Mode::empty()) {
        Ok(file) => {
            let file = std::fs::File::from(file);
            let is_file = file.metadata().is_ok_and(|found| found.is_file());
            if !is_file {
                return Err(Error::new(ErrorKind::Corrupt, "the ledger is no file"));
            }
            std::io::read_to_string(std::io::Read::take(file, LONGEST_LEDGER))
                .map_err(|e| io("read the sandbox's ledger", e))
        }
        Err(Errno::NOENT) => Ok(String::new()),
        Err(errno) => Err(system("open the sandbox's ledger", errno)),
    }
}

/// The cgroups that a ledger names.
pub(super) fn cgroups(ledger: &str) -> Result<Vec<&Path>> {
    let lines = ledger.split_inclusive('\n');
    let paths = lines
        // One that was not finished may name something else.
        .filter_map(|line| line.strip_suffix('\n')?.strip_prefix("cgroup\t"))
        .map(Path::new);
    paths.map(|path| check_ours(path).map(|()| path)).collect()
}

/// A ledger that was damaged must not take down what is another's.
fn check_ours(path: &Path) -> Result<()> {
    let parent = path.parent().and_then(Path::file_name);
    let is_child = path.file_name().is_some() && parent.is_some_and(|name| name == "stacyvm");
    let is_plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.starts_with("/sys/fs/cgroup") || !is_child || !is_plain {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "the ledger names a cgroup that is not stacyvm's",
        )
        .context("path", path.display()));
    }
    Ok(())
}

/// The cgroups directly below one.
fn children(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Kills what is in the cgroups below one and removes them.
fn remove_below(path: &Path) {
    for child in children(path) {
        remove_below(&child);
        kill_all(&child);
        // It is tried again with its parent.
        let _ = std::fs::remove_dir(child);
    }
}

/// Kills what is in a cgroup and removes it, its children first.
pub(super) async fn remove_cgroup(path: &Path) -> Result<()> {
    for _ in 0..TRIES {
        remove_below(path);
        kill_all(path);
        match std::fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    Err(Error::new(
        ErrorKind::Internal,
        "a cgroup of the sandbox could not be removed",
    )
    .context("path", path.display()))
}

/// What is frozen does not die, in a cgroup below neither. Neither file is
/// there on every host.
pub(super) fn thaw(path: &Path) {
    for child in children(path) {
        thaw(&child);
    }
    for (file, text) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(path.join(file));
        if let Ok(mut file) = file {
            // A cgroup that is not frozen takes it as well.
            let _ = std::io::Write::write_all(&mut file, text.as_bytes());
        }
    }
}

fn kill_all(path: &Path) {
    // Version 2 kills at once what is in a cgroup and below it, so that no
    // process can fork away; from Linux 5.14 on.
    let whole = std::fs::OpenOptions::new()
        .write(true)
        .open(path.join("cgroup.kill"))
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"1"));
    if whole.is_ok() {
        return;
    }
    let text = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    for pid in text
        .lines()
        .filter_map(|line| Pid::from_raw(line.parse().ok()?))
    {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_ledger_that_was_not_finished_names_nothing() {
        let ledger = "loop\t/dev/loop3\ncgroup\t/sys/fs/cgroup/pids/stacyvm/a\n";
        let whole = [Path::new("/sys/fs/cgroup/pids/stacyvm/a")];
        assert_eq!(cgroups(ledger).unwrap(), whole);
        for cut in [
            "cgroup\t/sys/fs/cgroup/cpu/stacyvm/ab",
            "cgroup\t/sys",
            "cg",
        ] {
            assert_eq!(cgroups(&format!("{ledger}{cut}")).unwrap(), whole);
        }
        assert_eq!(cgroups("").unwrap(), <[&Path; 0]>::default());
    }

    #[test]
    fn a_ledger_takes_down_no_other_sandbox_that_it_names() {
        let is = |cgroup: &str, name: &str| is_of(Path::new(cgroup), name);
        assert!(is("/sys/fs/cgroup/pids/stacyvm/a", "a"));
        assert!(is("/sys/fs/cgroup/stacyvm/parked-x", "a"));
        assert!(is("/sys/fs/cgroup/stacyvm/parked-x", "parked-x"));
        assert!(!is("/sys/fs/cgroup/stacyvm/a", "parked-x"));
        assert!(!is("/sys/fs/cgroup/stacyvm/a", "ab"));
    }

    #[test]
    fn a_damaged_ledger_takes_down_nothing_of_others() {
        for path in [
            "/sys/fs/cgroup/pids",
            "/sys/fs/cgroup/pids/stacyvm",
            "/sys/fs/cgroup/pids/stacyvm/..",
            "/sys/fs/cgroup/pids/system.slice/ssh.service",
            "/tmp/stacyvm/a",
            "/sys/fs/cgroup/../../../home/stacyvm/a",
        ] {
            let error = cgroups(&format!("cgroup\t{path}\n")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{path}");
        }
    }
}
