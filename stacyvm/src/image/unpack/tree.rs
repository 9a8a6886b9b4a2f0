//! What an unpacked layer is recorded as, so that damage is found later.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, fgetxattr, openat, readlinkat, statat};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::members::Written;
use super::target::OPAQUE;
use crate::error::{Error, ErrorKind, Result};
use crate::image::digest::Digest;
use crate::image::store::{Flavour, system};

/// A device node that a layer holds and that was not made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceNode {
    /// Its path; what is not plain is `%XX`.
    pub path: String,
    /// A block device; else a character device.
    pub block: bool,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
}

/// What was counted while a layer was unpacked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LayerRecord {
    /// The generation of this form.
    pub version: u32,
    /// The digest of the archive.
    pub diff_id: Digest,
    /// Members of the archive.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Files, directories, links and whiteouts in the directory.
    pub files: u64,
    /// The digest of their names, kinds, sizes, modes, owners and times.
    pub tree: Digest,
    /// Device nodes that were not made; at most 1024 are listed.
    pub devices: Vec<DeviceNode>,
    /// How many there were.
    pub device_count: u64,
    /// Extended attributes that were not kept, by name, and how often.
    pub dropped_xattrs: BTreeMap<String, u64>,
    /// Directories that no member was about: what they have of lower layers
    /// is to be kept.
    pub implied: Vec<String>,
    /// The start of the host in which it was made; empty once it was written
    /// to the disk for certain.
    pub boot: String,
}

impl LayerRecord {
    pub(super) fn of(written: &Written, diff_id: Digest, _flavour: Flavour) -> Self {
        Self {
            version: 1,
            diff_id,
            entries: written.entries,
            bytes: written.bytes,
            files: 0,
            tree: diff_id,
            devices: written.devices.clone(),
            device_count: written.device_count,
            dropped_xattrs: written.dropped.clone(),
            implied: written.implied.clone(),
            boot: String::new(),
        }
    }
}

/// Counts what is in a directory, and takes the digest of all that can be had
/// without reading files: names, kinds, sizes, modes, owners, times, targets of
/// links, and which directories are opaque.
///
/// # Errors
///
/// `corrupt` where it is deeper than any layer.
pub(in crate::image) fn fingerprint(root: &OwnedFd, depth: usize) -> Result<(u64, Digest)> {
    let mut state = Sha256::new();
    let mut count = 0;
    let top = rustix::io::fcntl_dupfd_cloexec(root, 3).map_err(|e| system("look at a layer", e))?;
    note(
        &top,
        b"",
        &mut state,
        &rustix::fs::fstat(&top).map_err(|e| system("look at a layer", e))?,
    );
    descend(&top, depth, &mut state, &mut count)?;
    Ok((count, Digest::from_bytes(state.finalize().into())))
}

fn descend(dir: &OwnedFd, depth: usize, state: &mut Sha256, count: &mut u64) -> Result<()> {
    let fail = |e| system("look at a layer", e);
    let Some(depth) = depth.checked_sub(1) else {
        // The deepest directory of a layer may be empty.
        return if names(dir)?.is_empty() {
            Ok(())
        } else {
            Err(Error::new(
                ErrorKind::Corrupt,
                "a layer is deeper than the cap `depth`",
            ))
        };
    };
    for name in names(dir)? {
        *count += 1;
        let found = statat(dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
        note(dir, &name, state, &found);
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match openat(dir, name.as_slice(), flags, Mode::empty()) {
                    Ok(inner) => {
                        let mut value = [0_u8; 8];
                        let opaque = fgetxattr(&inner, OPAQUE, &mut value).unwrap_or(0);
                        state.update(&value[..opaque]);
                        descend(&inner, depth, state, count)?;
                    }
                    // An ordinary user cannot enter what the image closes to
                    // its owner; the directory itself was noted.
                    Err(rustix::io::Errno::ACCESS) => state.update(b"closed"),
                    Err(error) => return Err(fail(error)),
                }
                state.update(b"up");
            }
            FileType::Symlink => {
                let link = readlinkat(dir, name.as_slice(), Vec::new()).map_err(fail)?;
                state.update(link.as_bytes());
            }
            _ => {}
        }
    }
    Ok(())
}

#[allow(
    clippy::useless_conversion,
    clippy::cast_sign_loss,
    reason = "the fields have other types on other architectures"
)]
fn note(_dir: &OwnedFd, name: &[u8], state: &mut Sha256, found: &rustix::fs::Stat) {
    let kind = FileType::from_raw_mode(found.st_mode);
    // Sizes of directories are the file system's own.
    let size = if kind.is_file() {
        found.st_size as u64
    } else {
        0
    };
    state.update((name.len() as u64).to_le_bytes());
    state.update(name);
    for field in [
        u64::from(found.st_mode),
        u64::from(found.st_uid),
        u64::from(found.st_gid),
        size,
        u64::from(found.st_rdev),
        found.st_mtime as u64,
    ] {
        state.update(field.to_le_bytes());
    }
}

/// The names in a directory, in byte order.
pub(in crate::image) fn names(dir: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    let fail = |e| system("list a directory of a layer", e);
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0)).map_err(fail)?;
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = RawDir::new(dir.as_fd(), buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let name = entry.map_err(fail)?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
