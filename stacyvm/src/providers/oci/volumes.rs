//! The volumes of a state directory, and who has them.
//!
//! A sandbox holds the lock of each of its volumes from before the volume is
//! opened until nothing of the sandbox runs: its helper has it open. Whoever
//! takes a volume away holds the lock alone. The locks lie beside the volumes,
//! where no sandbox reaches them: a command may lock the volume itself.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::directory::make_private;
use super::error::system;
use super::open::open_without_links;
use super::quota::{self, Size};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;

/// What the names of volumes that were taken away begin with. They are longer
/// than the name of any volume.
const TAKEN: &str = "removed-";
/// The longest name of a volume.
const LONGEST: usize = 63;
/// How often a lock that somebody has alone is tried again, and how long
/// between two tries. Nobody has one alone for longer than a rename takes.
const TRIES: u32 = 1_000;
const BETWEEN: Duration = Duration::from_millis(5);

/// The volumes of a state directory.
#[derive(Clone, Debug)]
pub(super) struct Volumes {
    path: PathBuf,
    locks: PathBuf,
}

impl Volumes {
    pub(super) fn of(state_dir: &Path) -> Self {
        Self {
            path: state_dir.join("volumes"),
            locks: state_dir.join("volume-locks"),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory that they are in.
    pub(super) fn open(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.path, flags, Mode::empty())
            .map_err(|e| system("open the directory of volumes", e))
    }

    /// Opens one of them.
    pub(super) fn open_one(&self, name: &str) -> Result<OwnedFd> {
        open_without_links(self.open()?, Path::new(name), OFlags::DIRECTORY)
            .map_err(|e| system("open a volume", e))
    }

    /// Takes the lock of a volume together with all others who use it, waiting
    /// for whoever takes it away.
    pub(super) async fn hold(&self, name: &str) -> Result<OwnedFd> {
        make_private(&self.locks)?;
        for _ in 0..TRIES {
            match self.lock(name, FlockOperation::NonBlockingLockShared)? {
                Some(lock) => return Ok(lock),
                None => tokio::time::sleep(BETWEEN).await,
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!("the volume {name} is being removed, expected one that can be used; try again"),
        ))
    }

    /// Whether a volume, which may be there, can have this size. Changes nothing.
    ///
    /// # Errors
    ///
    /// `unsupported` where the file system holds no sizes, without root, and for a
    /// volume that was made without a size.
    pub(super) fn can_have(&self, name: &str, size: &Size) -> Result<()> {
        if let Ok(volume) = quota::open(&self.path_of(name)) {
            size.check(&volume)?;
            return size.check_given(&volume).map(drop);
        }
        let nearest = quota::open(&self.path).or_else(|_| {
            let state_dir = self.path.parent().unwrap_or(&self.path);
            quota::open(state_dir)
        });
        size.check(&nearest.map_err(|e| system("open the state directory", e))?)
    }

    /// Makes a volume, unless it is there, and puts its size in force.
    ///
    /// # Errors
    ///
    /// As [`can_have`](Self::can_have); a volume that was not there is not there then.
    pub(super) fn make(&self, name: &str, size: Option<&Size>) -> Result<()> {
        make_private(&self.path)?;
        let path = self.path_of(name);
        let Some(size) = size else {
            return make_directory(&path);
        };
        loop {
            match quota::open(&path) {
                Ok(volume) => {
                    size.check(&volume)?;
                    return size.limit(&volume);
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(system("open a volume", errno)),
            }
            if self.make_sized(&path, size)? {
                return Ok(());
            }
        }
    }

    /// Makes a volume that nobody sees before its size is in force; false where
    /// another one was quicker. One that is killed meanwhile leaves what `prune`
    /// takes for a volume that was taken away.
    fn make_sized(&self, path: &Path, size: &Size) -> Result<bool> {
        let new = self.path_of(&taken_name());
        make_directory(&new)?;
        let volume = quota::open(&new).map_err(|e| system("open a volume", e))?;
        let cwd = rustix::fs::CWD;
        let made = size.check(&volume).and_then(|()| size.give(&volume));
        let made = made.and_then(|()| {
            match rustix::fs::renameat_with(cwd, &new, cwd, path, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(true),
                Err(Errno::EXIST) => Ok(false),
                Err(errno) => Err(system("give a volume its name", errno)),
            }
        });
        if !matches!(made, Ok(true)) {
            quota::take_back(&volume);
            // What stays is taken away by the next prune.
            let _ = rustix::fs::rmdir(&new);
        }
        made
    }

    /// Whether this is what a volume becomes when it is taken away.
    pub(super) fn is_taken(name: &str) -> bool {
        name.starts_with(TAKEN) && name.len() > LONGEST
    }

    /// Whether nobody uses a volume at this moment.
    pub(super) fn is_free(&self, name: &str) -> Result<bool> {
        if !self.locks.join(name).exists() {
            return Ok(true);
        }
        Ok(self
            .lock(name, FlockOperation::NonBlockingLockExclusive)?
            .is_some())
    }

    /// Gives a volume that nobody uses another name, under which nobody finds
    /// it, and tells that name; none where somebody uses it.
    pub(super) fn take_away(&self, name: &str) -> Result<Option<String>> {
        make_private(&self.locks)?;
        let Some(_lock) = self.lock(name, FlockOperation::NonBlockingLockExclusive)? else {
            return Ok(None);
        };
        let taken = taken_name();
        let (from, to) = (self.path_of(name), self.path_of(&taken));
        let cwd = rustix::fs::CWD;
        let renamed = rustix::fs::renameat_with(cwd, from, cwd, to, RenameFlags::NOREPLACE);
        match renamed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(system("take a volume away", errno)),
        }
        // Who waits for it sees that it went, and makes another.
        rustix::fs::unlink(self.locks.join(name))
            .map_err(|e| system("remove the lock of a volume", e))?;
        Ok(renamed.is_ok().then_some(taken))
    }

    /// The lock of a volume; none where others have it who cannot share it.
    fn lock(&self, name: &str, how: FlockOperation) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let mode = Mode::RUSR | Mode::WUSR;
            let lock = rustix::fs::open(self.locks.join(name), flags, mode)
                .map_err(|e| system("open the lock of a volume", e))?;
            let made =
                rustix::fs::fstat(&lock).map_err(|e| system("look at the lock of a volume", e))?;
            // The umask took from it.
            if made.st_mode & 0o600 != 0o600 {
                rustix::fs::fchmod(&lock, mode)
                    .map_err(|e| system("open the lock of a volume to its user", e))?;
            }
            match rustix::fs::flock(&lock, how) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(system("lock a volume", errno)),
            }
            let found =
                rustix::fs::fstat(&lock).map_err(|e| system("look at the lock of a volume", e))?;
            // One that has no name any more is not the next one's.
            if found.st_nlink > 0 {
                return Ok(Some(lock));
            }
        }
    }
}

/// A name that a volume has after it was taken away.
fn taken_name() -> String {
    format!("{TAKEN}{:_<64}", SandboxId::random().as_str())
}

/// Makes the directory of a volume, unless it is there. It belongs to the default
/// user inside, which is this one where it is not root.
fn make_directory(path: &Path) -> Result<()> {
    let mode = Mode::from_raw_mode(0o755);
    // The umask may have taken from it.
    let made = rustix::fs::mkdir(path, mode).and_then(|()| rustix::fs::chmod(path, mode));
    match made {
        Ok(()) if !super::identities::is_host_root() => Ok(()),
        Ok(()) => {
            let (uid, gid) = (
                rustix::fs::Uid::from_raw(1000),
                rustix::fs::Gid::from_raw(1000),
            );
            rustix::fs::chown(path, Some(uid), Some(gid))
                .map_err(|e| system("give a volume its owner", e))
        }
        Err(Errno::EXIST) if std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) => {
            Ok(())
        }
        Err(Errno::EXIST) => Err(Error::new(
            ErrorKind::Corrupt,
            "a volume's directory is no directory",
        )
        .context("path", path.display())),
        Err(errno) => Err(system("make a volume", errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_volume_that_somebody_has_is_not_taken_away() {
        let home = tempfile::tempdir().unwrap();
        let volumes = Volumes::of(home.path());
        let (one, two) = (
            volumes.hold("v").await.unwrap(),
            volumes.hold("v").await.unwrap(),
        );
        volumes.make("v", None).unwrap();
        std::fs::write(volumes.path_of("v").join("kept"), "x").unwrap();
        for lock in [one, two] {
            assert!(!volumes.is_free("v").unwrap());
            assert_eq!(volumes.take_away("v").unwrap(), None);
            drop(lock);
        }
        assert!(volumes.is_free("v").unwrap());
        let taken = volumes.take_away("v").unwrap().unwrap();
        assert!(Volumes::is_taken(&taken) && taken.len() < 128, "{taken}");
        assert!(volumes.path_of(&taken).join("kept").exists());
        assert!(!volumes.path_of("v").exists());
        assert_eq!(volumes.take_away("v").unwrap(), None, "it went");
    }

    #[tokio::test]
    async fn who_waits_for_a_lock_that_goes_gets_the_next_one() {
        let home = tempfile::tempdir().unwrap();
        let volumes = Volumes::of(home.path());
        drop(volumes.hold("v").await.unwrap());
        volumes.make("v", None).unwrap();
        let path = volumes.locks.join("v");
        // As one who opened the lock just before the volume went.
        let late = std::fs::File::open(&path).unwrap();
        let alone = std::fs::File::open(&path).unwrap();
        alone.lock().unwrap();
        let waiting = tokio::spawn({
            let volumes = volumes.clone();
            async move { volumes.hold("v").await }
        });
        tokio::task::yield_now().await;
        std::fs::remove_file(&path).unwrap();
        drop(alone);
        let held = waiting.await.unwrap().unwrap();
        late.try_lock().unwrap();
        assert!(!volumes.is_free("v").unwrap(), "it holds a lock that went");
        drop(held);
    }
}
