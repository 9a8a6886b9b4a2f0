//! The directory of a sandbox, and taking away what a dead helper left.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use stacyvm_agent::helper_protocol::LOCK_NAME;

use super::error::{io, system};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;

/// The directory that holds one directory for each sandbox.
#[derive(Debug)]
pub(super) struct Sandboxes {
    path: PathBuf,
    directory: OwnedFd,
}

/// How often it is looked whether no helper begins, a millisecond apart.
const BEGINNING_TRIES: u32 = 100;

/// The beginning of the names of helpers that wait.
pub(super) const PARKED: &str = "parked-";

impl Sandboxes {
    pub(super) fn open(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join("sandboxes");
        for directory in [state_dir, &path] {
            make_private(directory)?;
        }
        let directory = open_directory(rustix::fs::CWD, &path).map_err(|e| {
            system("open the directory of sandboxes", e).context("path", path.display())
        })?;
        Ok(Self { path, directory })
    }

    pub(super) fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Opens the directory of a sandbox.
    pub(super) fn find(&self, id: &SandboxId) -> Result<OwnedFd> {
        self.find_name(id.as_str())?.ok_or_else(|| {
            Error::new(
                ErrorKind::SandboxGone,
                format!(
                    "nothing of sandbox {id} is in this state directory; it ended, make another one"
                ),
            )
            .context("sandbox", id)
        })
    }

    pub(super) fn find_name(&self, name: &str) -> Result<Option<OwnedFd>> {
        match open_directory(&self.directory, name) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(system("open the sandbox's directory", errno)),
        }
    }

    /// Whether no helper is between making a directory and putting its lock
    /// there; each holds a lock of its own on this directory for that time.
    /// What has no lock then never gets one.
    pub(super) async fn nobody_begins(&self) -> Result<bool> {
        let own = open_directory(&self.directory, ".")
            .map_err(|e| system("open the directory of sandboxes", e))?;
        for _ in 0..BEGINNING_TRIES {
            match rustix::fs::flock(&own, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(true),
                // Others begin, or look as well; that takes no time.
                Err(Errno::WOULDBLOCK) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(errno) => return Err(system("lock the directory of sandboxes", errno)),
            }
        }
        Ok(false)
    }

    /// The names in it, sorted.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.path).map_err(|e| io("list sandboxes", e))?;
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        Ok(names)
    }
}

fn open_directory(at: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// Makes a directory, and those above it, each with mode 0700 whatever the umask.
fn make_all(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        make_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes a directory that only its user can look into, and gives this user's
/// rights back to one that lacks them.
pub(super) fn make_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    make_all(path)
        .map_err(|e| io("make a directory for state", e).context("path", path.display()))?;
    let found =
        std::fs::symlink_metadata(path).map_err(|e| io("look at the directory for state", e))?;
    if !found.is_dir()
        || found.uid() != rustix::process::geteuid().as_raw()
        || found.mode() & 0o022 != 0
    {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            "the directory for state is not private to this user",
        )
        .context("path", path.display())
        .context(
            "remedy",
            "make it yours with mode 0700, or choose another with --state-dir",
        ));
    }
    if found.mode() & 0o700 != 0o700 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
            .map_err(|e| io("open the directory for state to its user", e))?;
    }
    Ok(())
}

/// Whether the lock that tells of a living helper is not there at all.
pub(super) fn has_no_lock(directory: &OwnedFd) -> bool {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statat(directory, LOCK_NAME, flags).is_err_and(|errno| errno == Errno::NOENT)
}

/// The error of a sandbox that could not be ended, where its directory
/// [has no lock](has_no_lock) or another one.
pub(super) fn unended(state_dir: &Path, id: &SandboxId, lost_lock: bool) -> Error {
    if !lost_lock {
        return Error::new(ErrorKind::Timeout, "the sandbox's helper does not end")
            .context("sandbox", id);
    }
    let path = state_dir.join("sandboxes").join(id.as_str());
    Error::new(
        ErrorKind::Corrupt,
        "the sandbox's directory has lost its lock, and no helper of it was found; it is not removed, as nothing proves that it is a sandbox's",
    )
    .context("sandbox", id)
    .context("path", path.display())
    .context(
        "remedy",
        format!(
            "if the directory holds nothing of yours, make `{}` as an empty file, then kill the sandbox again",
            path.join(LOCK_NAME).display()
        ),
    )
}

/// Whether a living helper holds the directory: it keeps a lock for its life.
pub(super) fn is_held(directory: &OwnedFd) -> Result<Option<File>> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat(directory, LOCK_NAME, flags, Mode::empty()) {
        Ok(file) => match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(File::from(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(system("lock the sandbox's directory", errno)),
        },
        Err(errno) => Err(system("look at the lock of the sandbox", errno)),
    }
}
