//! Blobs: files by their digest.

use std::fs::File;
use std::io::{Read, Write};

use rustix::fs::{AtFlags, Mode, OFlags, fstat, openat, renameat, statat};
use rustix::io::Errno;

use super::{Images, Work, damaged, failed, system};
use crate::error::{Error, ErrorKind, Result};
use crate::image::caps;
use crate::image::digest::Digest;

impl Images {
    /// Whether a blob is there.
    pub fn has_blob(&self, digest: Digest) -> bool {
        statat(&self.inner.blobs, digest.hex(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Opens a blob. What is read of it is to be hashed again by the reader.
    ///
    /// # Errors
    ///
    /// `not_found`; `corrupt` for what is no regular file.
    pub(in crate::image) fn open_blob(&self, digest: Digest) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.inner.blobs, digest.hex(), flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("there is no blob {digest} in the image store"),
                ));
            }
            Err(error) => return Err(system("open a blob", error)),
        };
        let found = fstat(&file).map_err(|e| system("open a blob", e))?;
        if !rustix::fs::FileType::from_raw_mode(found.st_mode).is_file() {
            return Err(damaged(format!("the blob {digest} is no regular file")));
        }
        Ok(File::from(file))
    }

    /// Reads a small blob and judges its digest.
    ///
    /// # Errors
    ///
    /// `not_found`, `resource_exhausted` past `most` bytes, `corrupt`.
    pub(in crate::image) fn read_blob(&self, digest: Digest, most: u64) -> Result<Vec<u8>> {
        let file = self.open_blob(digest)?;
        let bytes = read_bounded(file, most)?;
        if Digest::of(&bytes) != digest {
            return Err(damaged(format!("the blob {digest} is damaged")));
        }
        Ok(bytes)
    }

    /// Keeps a small blob whose digest is known to be right.
    pub(in crate::image) fn put_blob(&self, work: &Work, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.read_blob(digest, bytes.len() as u64).is_ok() {
            return Ok(digest);
        }
        let name = format!("blob-{}", digest.hex());
        let mut file = work.file(&name)?;
        file.write_all(bytes)
            .map_err(|e| failed("write a blob", e))?;
        self.publish_blob(work, &name, &file, digest)?;
        Ok(digest)
    }

    /// Gives a verified blob its final name.
    pub(in crate::image) fn publish_blob(
        &self,
        work: &Work,
        name: &str,
        file: &File,
        digest: Digest,
    ) -> Result<()> {
        file.sync_data().map_err(|e| failed("write a blob", e))?;
        fault_point!("image.blob.synced");
        // In the place of one that is there: that has the same bytes, or is damaged.
        renameat(work.dir(), name, &self.inner.blobs, digest.hex())
            .map_err(|e| system("keep a blob", e))?;
        fault_point!("image.blob.named");
        Ok(())
    }
}

/// Reads what may have `most` bytes.
pub(in crate::image) fn read_bounded(from: impl Read, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut from = from.take(most.saturating_add(1));
    from.read_to_end(&mut bytes)
        .map_err(|error| match error.downcast::<Error>() {
            Ok(own) => own,
            Err(error) => failed("read a blob", error),
        })?;
    if bytes.len() as u64 > most {
        return Err(caps::reached(
            "manifest_bytes",
            most,
            "a document of the image is too long",
        ));
    }
    Ok(bytes)
}
