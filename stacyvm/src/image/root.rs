//! The root file system of an image: its layers for overlayfs, or a copy.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fgetxattr, fsetxattr, futimens, linkat, mknodat, openat, readlinkat, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;

use super::digest::Digest;
use super::store::{Flavour, Image, Images, Layer, Work, damaged, make_private, system};
use super::unpack::{Expected, OPAQUE, WHITEOUT, decode_path, names_in};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};

/// The root file system of an image, ready to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Root {
    /// Who owns the files.
    pub flavour: Flavour,
    /// The lower directories of overlayfs, the topmost first, as `lowerdir`
    /// lists them. They are below the store's `layers/`, and the mount needs
    /// `userxattr`.
    pub lower: Vec<PathBuf>,
    /// Directories whose attributes overlayfs shows wrong: the topmost layer
    /// that has them says nothing of them, a lower one does. Whoever has a
    /// writable layer can set them right there.
    pub restored: Vec<Restored>,
}

/// A directory, and the attributes that it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// Its path, without a slash in front.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// The user, as the image has it.
    pub uid: u32,
    /// The group, as the image has it.
    pub gid: u32,
}

/// User and group, by path.
type NamedOwners = HashMap<Vec<u8>, (u32, u32)>;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Images {
    /// The root file system of an image. A layer that is not unpacked any more,
    /// or not for this user, is unpacked from its blob first.
    ///
    /// # Errors
    ///
    /// `not_found` where a blob is missing, and those of an import.
    pub fn root(&self, image: &Image) -> Result<Root> {
        let context = Context::default();
        let missing = image
            .layers
            .iter()
            .any(|layer| !self.has_layer(layer.diff_id));
        if missing {
            let _shared = self.shared(&context)?;
            let work = Work::new(self)?;
            for layer in &image.layers {
                let expected = Expected {
                    blob: Some(layer.digest),
                    size: Some(layer.size),
                    diff_id: Some(layer.diff_id),
                };
                let mut gone = || {
                    Err(Error::new(
                        ErrorKind::NotFound,
                        format!("the blob {} of the image is gone", layer.digest),
                    )
                    .context("remedy", "import or pull the image again"))
                };
                self.ensure_layer(&context, &work, &expected, layer.diff_id, &mut gone)?;
            }
            self.make_durable(&work, image)?;
        }
        let top_first = image.layers.iter().rev();
        Ok(Root {
            flavour: self.flavour(),
            lower: top_first
                .map(|layer| self.layer_path(layer.diff_id))
                .collect(),
            restored: self.restored(image)?,
        })
    }

    /// The directories that a layer has only because something is in them.
    fn implied(&self, layer: &Layer) -> Result<HashSet<Vec<u8>>> {
        let record = self.layer_record(layer.diff_id)?;
        let paths = record.implied.iter().map(|path| decode_path(path));
        let paths: Option<_> = paths.collect();
        paths.ok_or_else(|| damaged("the record of a layer is damaged"))
    }

    /// The directories that the topmost layer which has them only has because
    /// something is in them, where a lower one says what they are.
    fn restored(&self, image: &Image) -> Result<Vec<Restored>> {
        let mut layers = Vec::new();
        let mut paths = BTreeSet::new();
        for layer in image.layers.iter().rev() {
            let implied = self.implied(layer)?;
            paths.extend(implied.iter().cloned());
            layers.push((self.open_layer(layer.diff_id)?, implied, layer.diff_id));
        }
        let mut owners = Vec::new();
        for (_, _, diff_id) in &layers {
            owners.push(self.owners_of(*diff_id, &paths)?);
        }
        let mut all = Vec::new();
        for path in paths {
            let mut shown = None;
            for ((layer, implied, _), owners) in layers.iter().zip(&owners) {
                let (found, covers) = look(layer, &path)?;
                if let Some(found) = found {
                    let (uid, gid) = match owners {
                        None => (found.st_uid, found.st_gid),
                        Some(owners) => owners.get(&path).copied().unwrap_or_default(),
                    };
                    let mode = found.st_mode & 0o7777;
                    let own = (mode, uid, gid);
                    if !implied.contains(&path) {
                        if shown.is_some_and(|shown| shown != own) {
                            all.push(Restored {
                                path,
                                mode,
                                uid,
                                gid,
                            });
                        }
                        break;
                    }
                    shown.get_or_insert(own);
                }
                if covers {
                    break;
                }
            }
        }
        Ok(all)
    }

    /// The user and group that a layer names for some paths, those of root left
    /// out; `None` where the file system has them.
    fn owners_of(&self, diff_id: Digest, of: &BTreeSet<Vec<u8>>) -> Result<Option<NamedOwners>> {
        if self.flavour() == Flavour::Ids {
            return Ok(None);
        }
        let mut found = NamedOwners::new();
        if of.is_empty() {
            return Ok(Some(found));
        }
        for owner in self.layer_owners(diff_id)?.iter() {
            let owner = owner?;
            if of.contains(owner.path) {
                found.insert(owner.path.to_vec(), (owner.uid, owner.gid));
            }
        }
        Ok(Some(found))
    }

    /// Copies the root file system of an image into an empty directory: for
    /// where overlayfs is not to be had. It takes as much room as all layers.
    ///
    /// # Errors
    ///
    /// `directory_not_empty`; `no_space`; those of the context. What was copied
    /// until then stays.
    pub fn materialize(&self, context: &Context, image: &Image, into: &Path) -> Result<()> {
        self.root(image)?;
        let target = rustix::fs::open(into, DIRECTORY, Mode::empty())
            .map_err(|e| system("open the directory to copy to", e))?;
        if !names_in(&target)?.is_empty() {
            return Err(Error::new(
                ErrorKind::DirectoryNotEmpty,
                "the directory to copy to is not empty",
            ));
        }
        for layer in &image.layers {
            let mut copy = Copy {
                context,
                owners: self.flavour() == Flavour::Ids,
                implied: self.implied(layer)?,
                links: HashMap::new(),
                root: target
                    .try_clone()
                    .map_err(|e| super::store::failed("copy a layer", e))?,
            };
            let from = self.open_layer(layer.diff_id)?;
            copy.directory(&from, &target, &mut Vec::new())?;
        }
        Ok(())
    }
}

/// A directory of a layer, if it has one there, and whether the layer covers
/// what lower ones have there.
fn look(layer: &OwnedFd, path: &[u8]) -> Result<(Option<rustix::fs::Stat>, bool)> {
    let mut here = layer
        .try_clone()
        .map_err(|e| super::store::failed("look at a layer", e))?;
    let mut covers = false;
    for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        here = match openat(&here, part, DIRECTORY, Mode::empty()) {
            Ok(inner) => inner,
            Err(Errno::NOENT) => return Ok((None, covers)),
            // A whiteout or a file; or closed to its owner, and then nothing
            // below it can be told.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => return Ok((None, true)),
            Err(error) => return Err(system("look at a layer", error)),
        };
        covers |= opaque(&here) == Some(b'y');
    }
    let found = rustix::fs::fstat(&here).map_err(|e| system("look at a layer", e))?;
    Ok((Some(found), covers))
}

/// A directory of a layer, if it has one there.
fn open_below(layer: &OwnedFd, path: &[u8]) -> Option<OwnedFd> {
    let mut here = layer.try_clone().ok()?;
    for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        here = openat(&here, part, DIRECTORY, Mode::empty()).ok()?;
    }
    Some(here)
}

/// Copies one layer over what lower ones left.
struct Copy<'a> {
    context: &'a Context,
    owners: bool,
    implied: HashSet<Vec<u8>>,
    /// Files of the layer with several names, by inode: where the first went.
    links: HashMap<u64, Vec<u8>>,
    root: OwnedFd,
}

fn fail(error: Errno) -> Error {
    system("copy a layer", error)
}

impl Copy<'_> {
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd, path: &mut Vec<u8>) -> Result<()> {
        self.context.check()?;
        let stat = rustix::fs::fstat(from).map_err(fail)?;
        if opaque(from) == Some(b'y') {
            for name in names_in(to)? {
                remove(to, &name)?;
            }
        }
        for name in names_in(from)? {
            let found = statat(from, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            self.entry(from, to, &name, &found, path)?;
            path.truncate(length);
        }
        if !self.implied.contains(path.as_slice()) || path.is_empty() {
            if self.owners {
                let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                fchown(to, Some(uid), Some(gid)).map_err(fail)?;
            }
            fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(fail)?;
            copy_xattrs(from, to)?;
        }
        futimens(to, &times(&stat)).map_err(fail)
    }

    fn entry(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &[u8],
        found: &rustix::fs::Stat,
        path: &mut Vec<u8>,
    ) -> Result<()> {
        let kind = FileType::from_raw_mode(found.st_mode);
        if kind.is_char_device() && found.st_rdev == 0 {
            return remove(to, name);
        }
        if kind.is_dir() {
            let inner = openat(from, name, DIRECTORY, Mode::empty()).map_err(fail)?;
            let there = statat(to, name, AtFlags::SYMLINK_NOFOLLOW);
            let is_dir = |s: &rustix::fs::Stat| FileType::from_raw_mode(s.st_mode).is_dir();
            let made = !there.as_ref().is_ok_and(is_dir);
            if made {
                remove(to, name)?;
                make_private(to, name).map_err(fail)?;
                self.implied.remove(path.as_slice());
            }
            let target = openat(to, name, DIRECTORY, Mode::empty()).map_err(fail)?;
            return self.directory(&inner, &target, path);
        }
        if kind.is_file() && found.st_size == 0 && is_whiteout(from, name) {
            return remove(to, name);
        }
        remove(to, name)?;
        if found.st_nlink > 1 {
            if let Some(first) = self.links.get(&found.st_ino) {
                let (above, last) = match first.iter().rposition(|b| *b == b'/') {
                    Some(at) => (&first[..at], &first[at + 1..]),
                    None => (&first[..0], &first[..]),
                };
                let dir = open_below(&self.root, above).ok_or_else(|| fail(Errno::NOENT))?;
                return linkat(&dir, last, to, name, AtFlags::empty()).map_err(fail);
            }
            self.links.insert(found.st_ino, path.clone());
        }
        match kind {
            FileType::RegularFile => return self.file(from, to, name, found),
            FileType::Symlink => {
                let link = readlinkat(from, name, Vec::new()).map_err(fail)?;
                symlinkat(link, to, name).map_err(fail)?;
            }
            FileType::Fifo => {
                mknodat(to, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).map_err(fail)?;
            }
            _ => return Ok(()),
        }
        if self.owners {
            let (uid, gid) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
            chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
        }
        if kind == FileType::Fifo {
            let mode = Mode::from_raw_mode(found.st_mode & 0o7777);
            rustix::fs::chmodat(to, name, mode, AtFlags::empty()).map_err(fail)?;
        }
        utimensat(to, name, &times(found), AtFlags::SYMLINK_NOFOLLOW).map_err(fail)
    }

    fn file(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &[u8],
        found: &rustix::fs::Stat,
    ) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = openat(from, name, flags, Mode::empty()).map_err(fail)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = openat(to, name, flags, Mode::RUSR | Mode::WUSR).map_err(fail)?;
        let (mut source, mut target) = (std::fs::File::from(source), std::fs::File::from(target));
        // By the kernel, and without copying where the file system can share.
        std::io::copy(&mut source, &mut target)
            .map_err(|e| super::store::failed("copy a layer", e))?;
        if self.owners {
            let (uid, gid) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
            fchown(&target, Some(uid), Some(gid)).map_err(fail)?;
        }
        fchmod(&target, Mode::from_raw_mode(found.st_mode & 0o7777)).map_err(fail)?;
        copy_xattrs(&OwnedFd::from(source), &target)?;
        futimens(&target, &times(found)).map_err(fail)
    }
}

fn opaque(dir: &OwnedFd) -> Option<u8> {
    let mut value = [0_u8; 8];
    let count = fgetxattr(dir, OPAQUE, &mut value).ok()?;
    value[..count].first().copied()
}

fn is_whiteout(dir: &OwnedFd, name: &[u8]) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = openat(dir, name, flags, Mode::empty()) else {
        return false;
    };
    fgetxattr(&file, WHITEOUT, &mut [0_u8; 8]).is_ok()
}

/// Removes what is there, with all in it.
fn remove(at: &OwnedFd, name: &[u8]) -> Result<()> {
    match unlinkat(at, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(fail(error)),
    }
    let name = std::ffi::CString::new(name).map_err(|_| fail(Errno::INVAL))?;
    stacyvm_agent::remove::tree(at, &name).map_err(|e| super::store::failed("copy a layer", e))
}

/// Copies what the store keeps, without what is overlayfs's.
fn copy_xattrs(from: &OwnedFd, to: impl std::os::fd::AsFd) -> Result<()> {
    let mut list = vec![0_u8; 64 * 1024];
    let count = match rustix::fs::flistxattr(from, &mut list) {
        Ok(count) => count,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(fail(error)),
    };
    for name in list[..count]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
    {
        let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        if !user && name != b"security.capability" {
            continue;
        }
        let mut value = vec![0_u8; 64 * 1024];
        let length = fgetxattr(from, name, &mut value).map_err(fail)?;
        fsetxattr(&to, name, &value[..length], XattrFlags::empty()).map_err(fail)?;
    }
    Ok(())
}

#[allow(
    clippy::unnecessary_cast,
    reason = "not on every architecture is it the same type"
)]
fn times(stat: &rustix::fs::Stat) -> Timestamps {
    #[allow(clippy::cast_possible_wrap, reason = "a part of a second")]
    let time = Timespec {
        tv_sec: stat.st_mtime as i64,
        tv_nsec: stat.st_mtime_nsec as i64,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
