//! The store's directory: who may be in it, and what has a final name.

mod blob;
mod hold;
mod layer;
mod lock;
mod names;
#[cfg_attr(
    not(feature = "oci"),
    expect(dead_code, reason = "nobody has sandboxes with a range")
)]
mod range;
mod upkeep;
mod verify;
mod work;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::caps::Caps;
use super::config::ImageConfig;
use super::digest::Digest;
use super::manifest::{Document, ImageFile, Manifest};
use super::platform::Platform;
use crate::error::{Error, ErrorKind, Result};
use crate::id_map;
use crate::store::StateDir;

pub use hold::Hold;
pub use names::Summary;
pub use upkeep::{DiskUse, Pruned, Removed};
pub use verify::Damage;

#[cfg(feature = "oci")]
pub(crate) use range::{LayerCopy, Range};

pub(super) use blob::read_bounded;
pub(super) use lock::Lock;
use range::Rights;
pub(super) use work::Work;

/// Who owns the files of an unpacked layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// The owners of the image, unpacked by root.
    Ids,
    /// All belongs to the user who unpacked it; the owners are on record.
    Own,
}

impl Flavour {
    /// What this process can make: `Ids` for root of a user namespace that has
    /// all the ids an image may name.
    pub fn of_this_process() -> Self {
        if rustix::process::geteuid().is_root() && id_map::has_all_of_an_image() {
            Self::Ids
        } else {
            Self::Own
        }
    }

    /// How it stands in the name of a directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ids => "ids",
            Self::Own => "own",
        }
    }
}

/// The store of images: a directory that any number of processes share.
///
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Images {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    flavour: Flavour,
    caps: Caps,
    platform: Platform,
    blobs: OwnedFd,
    layers: OwnedFd,
    mapped: OwnedFd,
    refs: OwnedFd,
    tmp: OwnedFd,
    locks: OwnedFd,
    boot: String,
    rights: Rights,
}

/// Where layers with owners of a range of ids are.
const MAPPED: &str = "mapped";

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Layer {
    /// The digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// What the manifest says that it is.
    pub media_type: String,
    /// The digest after decompression.
    pub diff_id: Digest,
}

/// An image that is whole in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Image {
    /// The name that it was asked by; `None` where it was asked by digest.
    pub name: Option<String>,
    /// The digest of the manifest: what the image is.
    pub digest: Digest,
    /// The digest of the configuration, which Docker calls the image's id.
    pub config_digest: Digest,
    /// What it was built for.
    pub platform: Platform,
    /// What commands start with.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// When it was built, as the image says.
    pub created: Option<String>,
}

impl Image {
    /// Bytes of the blobs of its layers.
    pub fn compressed_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

impl Images {
    /// Opens the store in a directory, and makes it where it is missing. What
    /// killed processes left half made is swept.
    ///
    /// # Errors
    ///
    /// Those of [`StateDir::open`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, Rights::default())
    }

    /// The same, for the sandboxes of this range.
    #[cfg(feature = "oci")]
    pub(crate) fn open_for(path: &Path, range: Arc<dyn Range>) -> Result<Self> {
        Self::open_with(path, Rights::of(range))
    }

    fn open_with(path: &Path, rights: Rights) -> Result<Self> {
        let state = StateDir::open_marked(path, &["blobs", "layers", "refs"])?;
        let open = |name: &str| -> Result<OwnedFd> {
            let path = state.subdirectory(name)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::open(&path, flags, Mode::empty())
                .map_err(|e| system("open a directory of the image store", e))
        };
        let blobs = open("blobs")?;
        make_directory(&blobs, "sha256")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let blobs = openat(&blobs, "sha256", flags, Mode::empty())
            .map_err(|e| system("open a directory of the image store", e))?;
        // Not closed to the users of sandboxes, as the rest is.
        let root = rustix::fs::open(state.path(), flags, Mode::empty())
            .map_err(|e| system("open the image store", e))?;
        make_directory(&root, MAPPED)?;
        let mapped = openat(&root, MAPPED, flags, Mode::empty())
            .map_err(|e| system("open a directory of the image store", e))?;
        rustix::fs::fchmod(&mapped, range::PASSABLE)
            .map_err(|e| system("open a directory of the image store up", e))?;
        let images = Self {
            inner: Arc::new(Inner {
                blobs,
                layers: open("layers")?,
                mapped,
                refs: open("refs")?,
                tmp: open("tmp")?,
                locks: open("locks")?,
                path: state.path().to_owned(),
                flavour: Flavour::of_this_process(),
                caps: Caps::default(),
                platform: Platform::host(),
                boot: boot(),
                rights,
            }),
        };
        images.sweep()?;
        Ok(images)
    }

    /// The same store with other caps.
    pub fn with_caps(&self, caps: Caps) -> Result<Self> {
        let mut inner = self.inner.try_clone()?;
        inner.caps = caps;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The same store for images of another platform, which only an emulator
    /// can run here.
    pub fn with_platform(&self, platform: Platform) -> Result<Self> {
        let mut inner = self.inner.try_clone()?;
        inner.platform = platform;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Who owns the files of the layers that this process unpacks.
    pub fn flavour(&self) -> Flavour {
        self.inner.flavour
    }

    /// The caps in force.
    pub fn caps(&self) -> &Caps {
        &self.inner.caps
    }

    /// The platform whose images are taken.
    pub fn platform(&self) -> &Platform {
        &self.inner.platform
    }

    /// The image of a manifest that is in the store.
    pub(super) fn image(&self, name: Option<String>, digest: Digest) -> Result<Image> {
        let bytes = self.read_blob(digest, self.caps().manifest_bytes)?;
        let Document::Manifest(manifest) = Document::parse(&bytes, self.caps())? else {
            return Err(damaged("the manifest of an image is an index"));
        };
        let config = self.read_blob(manifest.config.digest, self.caps().config_bytes)?;
        let file = ImageFile::parse(&config, self.caps())?;
        assemble(name, digest, &manifest, file)
    }
}

impl Inner {
    fn try_clone(&self) -> Result<Self> {
        let copy = |fd: &OwnedFd| {
            fd.try_clone()
                .map_err(|e| failed("open the image store", e))
        };
        Ok(Self {
            path: self.path.clone(),
            flavour: self.flavour,
            caps: self.caps.clone(),
            platform: self.platform.clone(),
            blobs: copy(&self.blobs)?,
            layers: copy(&self.layers)?,
            mapped: copy(&self.mapped)?,
            refs: copy(&self.refs)?,
            tmp: copy(&self.tmp)?,
            locks: copy(&self.locks)?,
            boot: self.boot.clone(),
            rights: self.rights.clone(),
        })
    }
}

/// Joins a manifest and a configuration that fit each other.
///
/// # Errors
///
/// `invalid_argument` where they do not.
pub(super) fn assemble(
    name: Option<String>,
    digest: Digest,
    manifest: &Manifest,
    file: ImageFile,
) -> Result<Image> {
    if manifest.layers.len() != file.diff_ids.len() {
        return Err(super::manifest::invalid(
            "config",
            "as many diff ids as the manifest has layers",
        ));
    }
    let layers = manifest.layers.iter().zip(&file.diff_ids);
    let layers = layers.map(|(layer, diff_id)| Layer {
        digest: layer.digest,
        size: layer.size,
        media_type: layer.media_type.clone(),
        diff_id: *diff_id,
    });
    Ok(Image {
        name,
        digest,
        config_digest: manifest.config.digest,
        platform: file.platform,
        layers: layers.collect(),
        config: file.config,
        created: file.created,
    })
}

/// Which start of the host this is.
fn boot() -> String {
    let path = "/proc/sys/kernel/random/boot_id";
    // Where it cannot be told every start is another one.
    std::fs::read_to_string(path).map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
}

/// Makes a directory that its user alone may use, whatever the umask.
pub(in crate::image) fn make_private(
    at: impl std::os::fd::AsFd,
    name: impl rustix::path::Arg + Copy,
) -> rustix::io::Result<()> {
    rustix::fs::mkdirat(&at, name, Mode::RWXU)?;
    rustix::fs::chmodat(&at, name, Mode::RWXU, rustix::fs::AtFlags::empty())
}

/// Opens a file that its user alone may use, whatever the umask took from the
/// mode that it was made with.
pub(in crate::image) fn open_private(
    at: &OwnedFd,
    name: &str,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let mode = Mode::RUSR | Mode::WUSR;
    let file = openat(at, name, flags, mode)?;
    if rustix::fs::fstat(&file)?.st_mode & 0o600 != 0o600 {
        rustix::fs::fchmod(&file, mode)?;
    }
    Ok(file)
}

fn make_directory(at: &OwnedFd, name: &str) -> Result<()> {
    match make_private(at, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(system("make a directory of the image store", error)),
    }
}

/// The error of a system call in the store.
pub(super) fn system(what: &str, error: Errno) -> Error {
    failed(what, error.into())
}

/// The error of the file system that holds the store.
pub(super) fn failed(what: &str, error: io::Error) -> Error {
    use io::ErrorKind as Io;
    let (kind, remedy) = match error.kind() {
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => (
            ErrorKind::NoSpace,
            "free some space, or prune images that are not used",
        ),
        Io::PermissionDenied | Io::ReadOnlyFilesystem => (
            ErrorKind::PermissionDenied,
            "let this user write in the image store",
        ),
        Io::NotFound => (
            ErrorKind::NotFound,
            "check that nothing was removed meanwhile",
        ),
        _ => (
            ErrorKind::Internal,
            "check the file system that holds the image store",
        ),
    };
    Error::new(kind, format!("cannot {what}"))
        .context("remedy", remedy)
        .source(error)
}

/// The error of stored data that is not what it was.
pub(super) fn damaged(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what).context(
        "remedy",
        "see what `image verify` names, remove the image and get it again",
    )
}
