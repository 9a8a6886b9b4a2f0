//! Images in use.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Image, Images, Lock};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::image::digest::Digest;

/// An image in use: as long as this or a copy of its descriptor is open, in any
/// process, neither the image nor its layers are removed.
#[derive(Debug)]
pub struct Hold(OwnedFd);

impl Hold {
    /// The descriptor, to be handed to whoever uses the image.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Hold {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(super) fn lock_name(digest: Digest) -> String {
    format!("image-{}", digest.hex())
}

impl Images {
    /// Keeps an image from being removed.
    ///
    /// # Errors
    ///
    /// `not_found` where it has gone meanwhile.
    pub fn hold(&self, image: &Image) -> Result<Hold> {
        let _shared = self.shared(&Context::default())?;
        if !self.has_blob(image.digest) {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("the image {} is not in the store any more", image.digest),
            ));
        }
        let lock = Lock::wait(
            &Context::default(),
            &self.inner.locks,
            &lock_name(image.digest),
            true,
        )?;
        Ok(Hold(lock.into_fd()))
    }

    /// The lock against users of an image; `None` where there is one. The store
    /// must be locked alone.
    pub(super) fn unused(&self, digest: Digest) -> Result<Option<Lock>> {
        Lock::take(&self.inner.locks, &lock_name(digest), false)
    }
}
