//! Locks that a kernel gives back when their holder dies.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, OFlags, flock, fstat, statat};
use rustix::io::Errno;

use super::{Images, open_private, system};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "registry")]
use crate::image::digest::Digest;

/// How long one look at a lock that another holds lasts.
const LOOK: Duration = Duration::from_millis(25);

/// A lock on a file of `locks/` or `tmp/`, until it is dropped.
#[derive(Debug)]
pub(in crate::image) struct Lock(OwnedFd);

impl Lock {
    /// The lock of a name, shared or not; `None` where another holds it against that.
    pub(in crate::image) fn take(at: &OwnedFd, name: &str, shared: bool) -> Result<Option<Self>> {
        let operation = if shared {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        loop {
            let flags = OFlags::RDWR
                | OFlags::CREATE
                | OFlags::NOFOLLOW
                | OFlags::NONBLOCK
                | OFlags::CLOEXEC;
            let file = open_private(at, name, flags)
                .map_err(|e| system("open a lock of the image store", e))?;
            match flock(&file, operation) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(system("lock the image store", error)),
            }
            // Whoever had it may have taken the file away meanwhile.
            let held = fstat(&file).map_err(|e| system("lock the image store", e))?;
            match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(there) if (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino) => {
                    return Ok(Some(Self(file)));
                }
                _ => {}
            }
        }
    }

    /// The same, waiting for it as long as the context lasts.
    pub(in crate::image) fn wait(
        context: &Context,
        at: &OwnedFd,
        name: &str,
        shared: bool,
    ) -> Result<Self> {
        loop {
            if let Some(lock) = Self::take(at, name, shared)? {
                return Ok(lock);
            }
            context.check()?;
            #[expect(
                clippy::disallowed_methods,
                reason = "a lock has no event that a deadline could be waited for with"
            )]
            std::thread::sleep(LOOK);
        }
    }

    /// The descriptor that holds the lock.
    pub(in crate::image) fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The lock that whoever adds to the store holds with others, and who takes
/// from it alone.
const STORE: &str = "store";

impl Images {
    /// Keeps what is in the store from being removed.
    pub(in crate::image) fn shared(&self, context: &Context) -> Result<Lock> {
        Lock::wait(context, &self.inner.locks, STORE, true)
    }

    /// Keeps others from pulling the image of this name.
    #[cfg(feature = "registry")]
    pub(in crate::image) fn pulling(&self, context: &Context, name: &str) -> Result<Lock> {
        let file = format!("pull-{}", Digest::of(name.as_bytes()).hex());
        Lock::wait(context, &self.inner.locks, &file, false)
    }

    /// Keeps others from adding to the store.
    ///
    /// # Errors
    ///
    /// `conflict` where somebody does; trying again later helps.
    pub(in crate::image) fn alone(&self) -> Result<Lock> {
        const TRIES: u32 = 40;
        for _ in 0..TRIES {
            if let Some(lock) = Lock::take(&self.inner.locks, STORE, false)? {
                return Ok(lock);
            }
            #[expect(clippy::disallowed_methods, reason = "see `Lock::wait`")]
            std::thread::sleep(LOOK);
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "an image is being added to the store, so nothing can be removed from it",
        )
        .retry(crate::error::Retry::Maybe {
            after: Duration::from_secs(1),
        })
        .context(
            "remedy",
            "wait until the import or pull has ended, and try again",
        ))
    }
}
