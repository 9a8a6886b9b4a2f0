//! OCI layouts: a directory, or an archive of one.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, openat};
use serde::Deserialize;

use super::archive::Archive;
use super::index::{Part, unreadable};
use super::{BlobSource, Found};
use crate::error::{Error, ErrorKind, Result};
use crate::image::caps::Caps;
use crate::image::manifest::{self, Descriptor, Document, Index, REF_NAME};
use crate::image::store::read_bounded;

/// The annotation in which containerd and Docker keep the whole name.
const WHOLE_NAME: &str = "io.containerd.image.name";

#[derive(Debug)]
enum Place {
    Directory(OwnedFd),
    Archive(Archive),
}

/// An OCI layout.
#[derive(Debug)]
pub(super) struct Layout {
    place: Place,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    image_layout_version: String,
}

impl Layout {
    pub(super) fn open(path: &Path, caps: &Caps) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| unreadable(e.into()))?;
        Self {
            place: Place::Directory(dir),
        }
        .checked(caps)
    }

    pub(super) fn of_archive(archive: Archive, caps: &Caps) -> Result<Self> {
        Self {
            place: Place::Archive(archive),
        }
        .checked(caps)
    }

    fn checked(self, caps: &Caps) -> Result<Self> {
        let bytes = self.read("oci-layout", caps)?;
        let version: Version = manifest::json("oci-layout", &bytes)?;
        if !version.image_layout_version.starts_with("1.") {
            return Err(Error::unsupported(format!(
                "the OCI layout is of version {}, expected 1",
                version.image_layout_version
            )));
        }
        Ok(self)
    }

    fn part(&self, name: &str) -> Result<(Part, u64)> {
        let dir = match &self.place {
            Place::Archive(archive) => return archive.open_part(name),
            Place::Directory(dir) => dir,
        };
        // A layout is a directory of somebody else's: no link leads out of it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut here = None;
        let mut parts = name.split('/').peekable();
        while let Some(part) = parts.next() {
            let flags = if parts.peek().is_some() {
                flags | OFlags::DIRECTORY
            } else {
                flags
            };
            let next = openat(here.as_ref().unwrap_or(dir), part, flags, Mode::empty());
            here = Some(next.map_err(|e| unreadable(e.into()).context("file", name))?);
        }
        let file = std::fs::File::from(
            here.ok_or_else(|| unreadable(std::io::ErrorKind::NotFound.into()))?,
        );
        let found = file.metadata().map_err(unreadable)?;
        if !found.is_file() {
            return Err(manifest::invalid("layout", "regular files").context("file", name));
        }
        Ok((Part::new(Arc::new(file), 0, found.len()), found.len()))
    }

    fn read(&self, name: &str, caps: &Caps) -> Result<Vec<u8>> {
        read_bounded(self.part(name)?.0, caps.manifest_bytes)
    }

    /// The image of a tag; without one the only image that there is.
    pub(super) fn find(&self, tag: Option<&str>, caps: &Caps) -> Result<Found> {
        let bytes = self.read("index.json", caps)?;
        let Document::Index(index) = Document::parse(&bytes, caps)? else {
            return Err(manifest::invalid("index.json", "an index"));
        };
        let Some(tag) = tag else {
            return only(&index);
        };
        let is = |one: &&Descriptor| {
            [REF_NAME, WHOLE_NAME]
                .iter()
                .any(|key| one.annotation(key) == Some(tag))
        };
        match index.manifests.iter().find(is) {
            Some(one) => Ok(found(one)),
            None => Err(no_tag(tag, &index)),
        }
    }
}

/// The image of a layout that has one: one manifest, or one of each platform.
fn only(index: &Index) -> Result<Found> {
    if let [one] = &index.manifests[..] {
        return Ok(found(one));
    }
    let mut names: Vec<_> = index
        .manifests
        .iter()
        .map(|m| m.annotation(REF_NAME))
        .collect();
    names.sort_unstable();
    names.dedup();
    if names.len() == 1 && index.manifests.iter().all(|m| m.platform().is_some()) {
        let chosen = index.choose(&crate::image::Platform::host())?;
        return Ok(found(chosen));
    }
    if index.manifests.is_empty() {
        return Err(Error::new(
            ErrorKind::NotFound,
            "the OCI layout has no image",
        ));
    }
    Err(no_tag("", index))
}

fn found(one: &Descriptor) -> Found {
    // A bare tag is no name of an image.
    let name = one.annotation(WHOLE_NAME).or_else(|| {
        one.annotation(REF_NAME)
            .filter(|name| name.contains(['/', ':']))
    });
    Found {
        root: one.clone(),
        name: name.map(str::to_owned),
    }
}

fn no_tag(tag: &str, index: &Index) -> Error {
    let mut tags: Vec<&str> = index
        .manifests
        .iter()
        .filter_map(|m| m.annotation(REF_NAME))
        .collect();
    tags.truncate(32);
    let message = if tag.is_empty() {
        "the OCI layout has several images, expected a tag".to_owned()
    } else {
        format!("the OCI layout has no tag `{tag}`")
    };
    Error::new(ErrorKind::NotFound, message)
        .context("tags", tags.join(", "))
        .context("remedy", "put one of the tags behind the path: oci:DIR:TAG")
}

impl BlobSource for Layout {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        let (part, size) = self.part(&format!("blobs/sha256/{}", descriptor.digest.hex()))?;
        if size != descriptor.size {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "the blob {} has {size} bytes, expected {}",
                    descriptor.digest, descriptor.size
                ),
            )
            .context(
                "remedy",
                "get the image again; if it stays, its source is damaged",
            ));
        }
        Ok(Box::new(part))
    }
}
