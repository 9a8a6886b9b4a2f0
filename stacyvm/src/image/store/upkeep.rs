//! Taking away what nobody needs.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, renameat, statat, unlinkat};

use super::hold::lock_name;
use super::names::{name_of, no_image};
use super::{Images, Lock, Work, system};
use crate::error::{Error, ErrorKind, Result};
use crate::image::digest::Digest;
use crate::image::unpack::names_in;

/// What a removal did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// The name that is gone.
    pub name: Option<String>,
    /// The manifest that it stood for.
    pub digest: Digest,
    /// What went with the name, because no other one needed it.
    pub freed: Pruned,
}

/// What a prune took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pruned {
    /// Blobs.
    pub blobs: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// Pieces of abandoned work.
    pub work: u64,
    /// Pieces that are in nobody's use any more and could not be removed: they
    /// have files of a range of ids that this user has not, or not any more.
    pub left: u64,
    /// Bytes that these took on the disk.
    pub bytes: u64,
}

/// What a store takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskUse {
    /// Names.
    pub names: u64,
    /// Blobs, and their bytes on the disk.
    pub blobs: (u64, u64),
    /// Unpacked layers, and their bytes on the disk.
    pub layers: (u64, u64),
    /// Bytes of blobs and layers that no name leads to: what a prune frees,
    /// unless it is in use.
    pub unreferenced_bytes: u64,
}

/// What names and holds keep.
struct Kept {
    blobs: BTreeSet<String>,
    layers: BTreeSet<String>,
}

impl Images {
    /// Removes a name, and what no other name and no user needs.
    ///
    /// # Errors
    ///
    /// `not_found`; `conflict` where the image is in use and this is its last
    /// name, or where an image is being added.
    pub fn remove(&self, text: &str) -> Result<Removed> {
        let alone = self.alone()?;
        let names = self.names()?;
        // By its name a damaged image goes too.
        let reference = name_of(text);
        let named = names
            .iter()
            .find(|(name, _)| name.is_some() && *name == reference);
        let (name, digest) = match named {
            Some(named) => named.clone(),
            None => (None, self.find(text)?.digest),
        };
        let own: Vec<&Option<String>> = names
            .iter()
            .filter(|(_, d)| *d == digest)
            .map(|(name, _)| name)
            .collect();
        // Asked by its digest, an image goes with all its names.
        let gone = if name.is_some() {
            vec![&name]
        } else {
            own.clone()
        };
        let last = own.iter().all(|name| gone.contains(name));
        let unused = self.unused(digest)?;
        if last && unused.is_none() {
            return Err(
                Error::new(ErrorKind::Conflict, format!("the image {text} is in use")).context(
                    "remedy",
                    "end the sandboxes that were made from it, and try again",
                ),
            );
        }
        for name in &gone {
            if !self.unset_name(name.as_deref(), digest)? {
                return Err(no_image(text));
            }
            fault_point!("image.remove.unnamed");
        }
        drop(unused);
        let freed = self.prune_locked(&alone)?;
        Ok(Removed {
            name,
            digest,
            freed,
        })
    }

    /// Takes away blobs and layers that no name and no user needs, and the work
    /// of processes that are gone.
    ///
    /// # Errors
    ///
    /// `conflict` while an image is being added; `corrupt` where a name's file
    /// cannot be read: then nothing is removed, because what it keeps is not known.
    pub fn prune(&self) -> Result<Pruned> {
        let alone = self.alone()?;
        self.prune_locked(&alone)
    }

    fn prune_locked(&self, _alone: &Lock) -> Result<Pruned> {
        let (swept, left) = self.sweep()?;
        let mut pruned = Pruned {
            work: swept,
            left,
            ..Pruned::default()
        };
        let work = Work::new(self)?;
        let kept = self.kept()?;
        for (from, layers) in [(&self.inner.layers, 1), (&self.inner.mapped, 0)] {
            for name in texts(from)? {
                let hex = name.split('-').next().unwrap_or("");
                if Digest::from_hex(hex).is_none() || kept.layers.contains(hex) {
                    continue;
                }
                pruned.bytes += disk_bytes(from, &name)?;
                // Out of the way at once; what is left of it is abandoned work.
                renameat(from, &name, work.dir(), &name)
                    .map_err(|e| system("remove a layer", e))?;
                fault_point!("image.prune.layer");
                pruned.layers += layers;
            }
        }
        for name in texts(&self.inner.blobs)? {
            if Digest::from_hex(&name).is_none() || kept.blobs.contains(&name) {
                continue;
            }
            pruned.bytes += disk_bytes(&self.inner.blobs, &name)?;
            unlinkat(&self.inner.blobs, &name, AtFlags::empty())
                .map_err(|e| system("remove a blob", e))?;
            fault_point!("image.prune.blob");
            pruned.blobs += 1;
        }
        self.drop_locks(&kept)?;
        if !work.end() {
            pruned.left += 1;
        }
        Ok(pruned)
    }

    /// Removes the files of locks that nobody holds and nothing needs.
    fn drop_locks(&self, kept: &Kept) -> Result<()> {
        for name in texts(&self.inner.locks)? {
            let of = name
                .strip_prefix("image-")
                .or_else(|| name.strip_prefix("layer-"))
                .or_else(|| name.strip_prefix("pull-"));
            let Some(of) = of else { continue };
            let hex = of.split('-').next().unwrap_or("");
            if kept.layers.contains(hex) || kept.blobs.contains(hex) {
                continue;
            }
            if let Some(_lock) = Lock::take(&self.inner.locks, &name, false)? {
                let _ = unlinkat(&self.inner.locks, &name, AtFlags::empty());
            }
        }
        Ok(())
    }

    /// What must stay: what names lead to, and what is in use without one.
    fn kept(&self) -> Result<Kept> {
        let mut manifests: BTreeSet<Digest> = self.names()?.into_iter().map(|(_, d)| d).collect();
        for name in texts(&self.inner.locks)? {
            let hex = name.strip_prefix("image-").and_then(Digest::from_hex);
            let Some(digest) = hex.filter(|d| !manifests.contains(d)) else {
                continue;
            };
            debug_assert_eq!(lock_name(digest), name);
            if self.unused(digest)?.is_none() {
                manifests.insert(digest);
            }
        }
        let mut kept = Kept {
            blobs: BTreeSet::new(),
            layers: BTreeSet::new(),
        };
        for digest in manifests {
            kept.blobs.insert(digest.hex());
            // Of a damaged image only its manifest is known; the rest of it
            // cannot be used anyway.
            let Ok(image) = self.image(None, digest) else {
                continue;
            };
            kept.blobs.insert(image.config_digest.hex());
            for layer in &image.layers {
                kept.blobs.insert(layer.digest.hex());
                kept.layers.insert(layer.diff_id.hex());
            }
        }
        Ok(kept)
    }

    /// What the store takes on the disk.
    pub fn disk_use(&self) -> Result<DiskUse> {
        let kept = self.kept()?;
        let mut used = DiskUse {
            names: self.names()?.len() as u64,
            ..DiskUse::default()
        };
        for name in texts(&self.inner.blobs)? {
            let bytes = disk_bytes(&self.inner.blobs, &name)?;
            used.blobs = (used.blobs.0 + 1, used.blobs.1 + bytes);
            if !kept.blobs.contains(&name) {
                used.unreferenced_bytes += bytes;
            }
        }
        for (from, layers) in [(&self.inner.layers, 1), (&self.inner.mapped, 0)] {
            for name in texts(from)? {
                let bytes = disk_bytes(from, &name)?;
                used.layers = (used.layers.0 + layers, used.layers.1 + bytes);
                if !kept.layers.contains(name.split('-').next().unwrap_or("")) {
                    used.unreferenced_bytes += bytes;
                }
            }
        }
        Ok(used)
    }
}

/// Names that are text; nothing of ours is anything else.
pub(super) fn texts(dir: &OwnedFd) -> Result<Vec<String>> {
    let names = names_in(dir)?;
    Ok(names
        .into_iter()
        .filter_map(|n| String::from_utf8(n).ok())
        .collect())
}

/// Bytes of a file, or of a directory with all in it, as they lie on the disk;
/// of a file with several names once. What goes meanwhile counts nothing.
fn disk_bytes(at: &OwnedFd, name: &str) -> Result<u64> {
    let mut seen = BTreeSet::new();
    let mut sum = 0;
    weigh(at, name.as_bytes(), &mut seen, &mut sum)?;
    Ok(sum)
}

#[allow(
    clippy::cast_sign_loss,
    clippy::useless_conversion,
    reason = "the fields have other types on other architectures"
)]
fn weigh(at: &OwnedFd, name: &[u8], seen: &mut BTreeSet<u64>, sum: &mut u64) -> Result<()> {
    let Ok(found) = statat(at, name, AtFlags::SYMLINK_NOFOLLOW) else {
        return Ok(());
    };
    let kind = FileType::from_raw_mode(found.st_mode);
    if !kind.is_dir() && u64::from(found.st_nlink) > 1 && !seen.insert(u64::from(found.st_ino)) {
        return Ok(());
    }
    *sum += found.st_blocks as u64 * 512;
    if kind.is_dir() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // What an image closes to its owner an ordinary user cannot weigh.
        let Ok(dir) = openat(at, name, flags, Mode::empty()) else {
            return Ok(());
        };
        for inner in names_in(&dir)? {
            weigh(&dir, &inner, seen, sum)?;
        }
    }
    Ok(())
}
