//! Names, and what they stand for.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use serde::{Deserialize, Serialize};

use super::{Image, Images, Work, damaged, failed, system};
use crate::error::{Error, ErrorKind, Result};
use crate::image::digest::{Digest, is_digest};
use crate::image::source::Reference;
use crate::image::unpack::names_in;

/// One name in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The name, completed; `None` for an image that has only a digest.
    pub name: Option<String>,
    /// The digest of the manifest.
    pub digest: Digest,
    /// The image; an error where it is damaged.
    pub image: std::result::Result<Image, String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Named {
    name: Option<String>,
    manifest: Digest,
}

/// The longest file of a name that is read.
const MOST: u64 = 16 * 1024;

fn file_name(name: Option<&str>, digest: Digest) -> String {
    match name {
        // A name may be longer than a file's, and have slashes.
        Some(name) => format!("n-{}", Digest::of(name.as_bytes()).hex()),
        None => format!("d-{}", digest.hex()),
    }
}

impl Images {
    /// Lets a name stand for a manifest whose image is whole in the store.
    pub(in crate::image) fn set_name(
        &self,
        work: &Work,
        name: Option<&str>,
        digest: Digest,
    ) -> Result<()> {
        let named = Named {
            name: name.map(str::to_owned),
            manifest: digest,
        };
        let bytes = serde_json::to_vec(&named).map_err(|e| failed("write a name", e.into()))?;
        let new = format!("name-{}", crate::id::InstanceId::random().as_str());
        let mut file = work.file(&new)?;
        std::io::Write::write_all(&mut file, &bytes).map_err(|e| failed("write a name", e))?;
        file.sync_all().map_err(|e| failed("write a name", e))?;
        fault_point!("image.name.written");
        renameat(work.dir(), &new, &self.inner.refs, file_name(name, digest))
            .map_err(|e| system("write a name", e))?;
        fault_point!("image.name.set");
        // That it lasts is the last thing that is said.
        rustix::fs::fsync(&self.inner.refs).map_err(|e| system("write a name", e))
    }

    /// What all names stand for.
    pub(super) fn names(&self) -> Result<Vec<(Option<String>, Digest)>> {
        let mut all = Vec::new();
        for file in names_in(&self.inner.refs)? {
            let Ok(file) = String::from_utf8(file) else {
                continue;
            };
            match read(&self.inner.refs, &file) {
                Ok(named) => all.push((named.name, named.manifest)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.context("file", file)),
            }
        }
        all.sort();
        Ok(all)
    }

    /// Whether there is an image of a name; what it stands for is not looked at.
    #[cfg(all(feature = "registry", feature = "oci"))]
    pub(crate) fn has_name(&self, reference: &Reference) -> bool {
        let file = file_name(Some(&reference.to_string()), Digest::of(b""));
        rustix::fs::statat(&self.inner.refs, file, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// All images, by name.
    pub fn list(&self) -> Result<Vec<Summary>> {
        let named = |(name, digest): (Option<String>, Digest)| Summary {
            image: self.image(name.clone(), digest).map_err(|e| e.to_string()),
            name,
            digest,
        };
        Ok(self.names()?.into_iter().map(named).collect())
    }

    /// The image of a name, a digest (`sha256:…` of the manifest), or at least
    /// six digits at the beginning of one, of the manifest or of the
    /// configuration.
    ///
    /// # Errors
    ///
    /// `not_found`; `conflict` where the digits are the beginning of several;
    /// `invalid_argument` for text that is none of these; `corrupt`.
    pub fn find(&self, text: &str) -> Result<Image> {
        let names = self.names()?;
        let reference = name_of(text);
        if let Some((name, digest)) = names
            .iter()
            .find(|(name, _)| name.is_some() && *name == reference)
        {
            return self.image(name.clone(), *digest);
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let hexadecimal = digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if digits.len() >= 6 && hexadecimal {
            let mut found: Vec<Image> = Vec::new();
            for (_, digest) in &names {
                if found.iter().any(|image| image.digest == *digest) {
                    continue;
                }
                let Ok(image) = self.image(None, *digest) else {
                    continue;
                };
                if [image.digest, image.config_digest]
                    .iter()
                    .any(|d| d.hex().starts_with(digits))
                {
                    found.push(image);
                }
            }
            if found.len() > 1 {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "`{text}` is the beginning of {} images, expected more digits",
                        found.len()
                    ),
                ));
            }
            if let Some(image) = found.pop() {
                return Ok(image);
            }
        } else if reference.is_none() {
            text.parse::<Reference>()?;
        }
        Err(no_image(text))
    }

    /// Takes a name away; `false` where there is none.
    pub(super) fn unset_name(&self, name: Option<&str>, digest: Digest) -> Result<bool> {
        match unlinkat(&self.inner.refs, file_name(name, digest), AtFlags::empty()) {
            Ok(()) => {
                rustix::fs::fsync(&self.inner.refs).map_err(|e| system("remove a name", e))?;
                Ok(true)
            }
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(system("remove a name", error)),
        }
    }
}

/// The name that a text means, completed; none for one that is a digest, whatever
/// images are called.
pub(super) fn name_of(text: &str) -> Option<String> {
    if is_digest(text) {
        return None;
    }
    text.parse::<Reference>().ok().map(|r| r.to_string())
}

pub(super) fn no_image(text: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("there is no image `{text}` in the store"),
    )
    .context("remedy", "see `image ls`, or import or pull it")
}

fn read(refs: &OwnedFd, file: &str) -> Result<Named> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = openat(refs, file, flags, Mode::empty()).map_err(|e| system("read a name", e))?;
    let bytes = super::blob::read_bounded(std::fs::File::from(opened), MOST)?;
    let named: Named =
        serde_json::from_slice(&bytes).map_err(|e| damaged("a name cannot be read").source(e))?;
    if file_name(named.name.as_deref(), named.manifest) != file {
        return Err(damaged("a name stands in the file of another one"));
    }
    Ok(named)
}
