//! Who fills the agent's volume: one process of a state directory at a time, told by
//! a lock, so that what one left that died is known as such at once.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{InspectContainerOptions, RemoveContainerOptions};
use tokio::time::{Instant, sleep};

use super::create::INSTANCE;
use super::error::{is_absent, map};
use super::observe;
use super::patience::Answer;
use super::ticket::at;
use crate::error::{Error, ErrorKind, Result};

/// The right to fill, given up when it is dropped. The file stays; it has content
/// as long as there may be a container that fills.
#[derive(Debug)]
pub(super) struct Filling(File);

impl Filling {
    /// Waits until no other process of this state directory fills.
    pub(super) async fn begin(path: &Path, within: Duration) -> Result<Self> {
        let until = Instant::now() + within;
        loop {
            if let Some(mut own) = Self::free(path)? {
                own.0.write_all(b"filling").map_err(|e| at(path, e))?;
                return Ok(own);
            }
            if Instant::now() >= until {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "another process does not come to an end with the agent's volume",
                )
                .context("path", path.display()));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The same where nobody fills now.
    fn free(path: &Path) -> Result<Option<Self>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).map_err(|e| at(path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(at(path, e)),
        }
    }

    /// No container fills any more.
    pub(super) fn done(self) {
        // Where it stays, the next one to look finds none.
        let _ = self.0.set_len(0);
    }

    /// Removes the container of a process that died while it filled.
    pub(super) async fn finish(
        path: PathBuf,
        docker: &Docker,
        filler: &str,
        instance: &str,
    ) -> Result<()> {
        if !path.metadata().is_ok_and(|file| file.len() > 0) {
            return Ok(());
        }
        let Some(own) = Self::free(&path)? else {
            return Ok(());
        };
        own.take_over(docker, filler, instance).await?;
        own.done();
        Ok(())
    }

    /// Removes the container of this store's that fills: whoever made it is gone,
    /// or would have the right. False where it is another store's.
    pub(super) async fn take_over(
        &self,
        docker: &Docker,
        filler: &str,
        instance: &str,
    ) -> Result<bool> {
        let options = None::<InspectContainerOptions>;
        let seen = match docker
            .inspect_container(filler, options)
            .within(docker)
            .await
        {
            Ok(seen) => seen,
            Err(e) if is_absent(&e) => return Ok(true),
            Err(e) => return Err(map(e)),
        };
        let of = observe::labels(&seen).and_then(|labels| labels.get(INSTANCE));
        if of.is_none_or(|of| of != instance) {
            return Ok(false);
        }
        let options = RemoveContainerOptions {
            force: true,
            ..RemoveContainerOptions::default()
        };
        // By its own id: the name may come to mean another container.
        let container = seen.id.unwrap_or_else(|| filler.to_owned());
        match docker
            .remove_container(&container, Some(options))
            .within(docker)
            .await
        {
            Err(e) if !is_absent(&e) => Err(map(e)),
            _ => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_fills_at_a_time_and_says_so_until_it_is_done() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("a.filling");
        let first = Filling::begin(&path, Duration::ZERO).await.unwrap();
        assert!(path.metadata().unwrap().len() > 0);
        let second = Filling::begin(&path, Duration::from_millis(50)).await;
        assert_eq!(second.unwrap_err().kind(), ErrorKind::Unavailable);
        // One that dies leaves the mark.
        drop(first);
        assert!(path.metadata().unwrap().len() > 0);
        let third = Filling::begin(&path, Duration::ZERO).await.unwrap();
        third.done();
        assert_eq!(path.metadata().unwrap().len(), 0);
    }
}
