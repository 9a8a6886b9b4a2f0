//! The copy of a layer whose files have the owners that the image names.
//!
//! It is made in a user namespace that has the range of the sandboxes, and the
//! helper's own user past its end, who owns the layer. Every step goes by a
//! descriptor and one name, and follows no link.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
    chmodat, chownat, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, futimens, linkat, mkdirat,
    mknodat, openat, readlinkat, statat, symlinkat, utimensat,
};

use super::fault::{Result, Tried};
use crate::helper_protocol::{Failed, FailedKind, RANGE};
use crate::owners::{self, Owner};

/// The longest record of owners that is read.
const MOST_RECORD: u64 = 64 << 20;
/// The deepest layer that is copied: each level has two descriptors.
const DEEPEST: usize = 400;
/// The longest value, and list of names, of extended attributes.
const MOST_ATTRIBUTE: usize = 64 * 1024;
const CAPABILITY: &str = "security.capability";

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Copies `layer` into `copy`, which is empty. `own` is which user and group
/// inside is the helper's own.
pub(crate) fn copy(
    layer: &OwnedFd,
    copy: &OwnedFd,
    record: OwnedFd,
    own: Option<u32>,
    reserved: u32,
) -> Result<()> {
    let mut bytes = Vec::new();
    std::fs::File::from(record)
        .take(MOST_RECORD)
        .read_to_end(&mut bytes)
        .tried("read the owners of a layer")?;
    let entries = owners::entries(&bytes).map(|entry| entry.map(|owner| (owner.path, owner)));
    let owners: Option<HashMap<_, _>> = entries.collect();
    let owners = owners.ok_or_else(|| {
        Failed::new(
            FailedKind::Invalid,
            "the record of owners of a layer is damaged; remove the image and get it again",
        )
    })?;
    let mut copying = Copying {
        owners,
        own,
        reserved,
        links: HashMap::new(),
        root: copy.as_fd(),
    };
    let found = rustix::fs::fstat(layer).tried("look at a layer")?;
    copying.content(layer, copy, &mut Vec::new(), 0)?;
    copying.settle(layer, copy, b"", &found)?;
    fault_point!("helper.layer.copied");
    Ok(())
}

struct Copying<'a> {
    owners: HashMap<&'a [u8], Owner<'a>>,
    own: Option<u32>,
    reserved: u32,
    /// Files with several names, by number: where the first one is.
    links: HashMap<u64, Vec<u8>>,
    root: BorrowedFd<'a>,
}

/// What a change of the owner takes away comes after it.
struct Attributes {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    capability: Option<Vec<u8>>,
    times: Timestamps,
}

impl Copying<'_> {
    /// Copies what is in a directory.
    fn content(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<()> {
        if depth > DEEPEST {
            return Err(Failed::new(
                FailedKind::Unsupported,
                format!("the image has more than {DEEPEST} directories in each other"),
            ));
        }
        for name in names(from)? {
            let found = statat(from, &name, AtFlags::SYMLINK_NOFOLLOW).at(path, &name)?;
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            if FileType::from_raw_mode(found.st_mode).is_dir() {
                mkdirat(to, &name, Mode::RWXU).of(path)?;
                let inner = openat(from, &name, DIRECTORY, Mode::empty()).of(path)?;
                let made = openat(to, &name, DIRECTORY, Mode::empty()).of(path)?;
                self.content(&inner, &made, path, depth + 1)?;
                self.settle(&inner, &made, path, &found)?;
            } else {
                self.one(from, to, &name, path, &found)?;
                fault_point!("helper.layer.file");
            }
            path.truncate(length);
        }
        Ok(())
    }

    /// Copies what is no directory.
    fn one(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &CString,
        path: &[u8],
        found: &Stat,
    ) -> Result<()> {
        if found.st_nlink > 1 {
            if let Some(first) = self.links.get(&found.st_ino) {
                let (above, last) = match first.iter().rposition(|byte| *byte == b'/') {
                    Some(at) => (&first[..at], &first[at + 1..]),
                    None => (&first[..0], &first[..]),
                };
                let directory = self.open(above)?;
                return linkat(&directory, last, to, name, AtFlags::empty()).of(path);
            }
            self.links.insert(found.st_ino, path.to_vec());
        }
        let attributes = self.attributes(path, found)?;
        let kind = FileType::from_raw_mode(found.st_mode);
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let source = openat(from, name, flags, Mode::empty()).of(path)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let made = openat(to, name, flags, Mode::RUSR | Mode::WUSR).of(path)?;
                let size = u64::try_from(found.st_size).unwrap_or(0);
                bytes(&source, &made, size).of(path)?;
                return apply(&source, &made, path, &attributes);
            }
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new()).of(path)?;
                symlinkat(target, to, name).of(path)?;
            }
            FileType::Fifo => {
                mknodat(to, name, kind, Mode::RUSR | Mode::WUSR, 0).of(path)?;
            }
            // A whiteout, which everybody may make and nobody sees.
            FileType::CharacterDevice if found.st_rdev == 0 => {
                return mknodat(to, name, kind, Mode::empty(), 0).of(path);
            }
            _ => {
                return Err(Failed::new(
                    FailedKind::Invalid,
                    "a layer holds what the image store does not make",
                ));
            }
        }
        let (uid, gid) = (Some(attributes.uid), Some(attributes.gid));
        chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).of(path)?;
        if kind == FileType::Fifo {
            chmodat(to, name, attributes.mode, AtFlags::empty()).of(path)?;
        }
        utimensat(to, name, &attributes.times, AtFlags::SYMLINK_NOFOLLOW).of(path)
    }

    /// Gives a directory its attributes, after all in it.
    fn settle(&self, from: &OwnedFd, made: &OwnedFd, path: &[u8], found: &Stat) -> Result<()> {
        let attributes = self.attributes(path, found)?;
        apply(from, made, path, &attributes)
    }

    #[allow(
        clippy::unnecessary_cast,
        clippy::useless_conversion,
        clippy::cast_possible_wrap,
        reason = "the fields have other types on other architectures"
    )]
    fn attributes(&self, path: &[u8], found: &Stat) -> Result<Attributes> {
        let owner = self.owners.get(path);
        let id = |asked: Option<u32>| match asked.unwrap_or(0) {
            // The helper's own user is past the end here.
            id if Some(id) == self.own => Ok(RANGE),
            id if id < RANGE => Ok(id),
            id => Err(Failed::new(
                FailedKind::Unsupported,
                format!(
                    "a file of the image belongs to id {id}, expected at most {}",
                    RANGE - 1
                ),
            )),
        };
        let mut mode = u32::from(found.st_mode) & 0o7777;
        if owner.is_some_and(|owner| owner.uid == self.reserved) {
            mode &= !0o4000;
        }
        if owner.is_some_and(|owner| owner.gid == self.reserved) {
            mode &= !0o2000;
        }
        let capability = match owner {
            Some(owner) if owner.capability.is_some() => {
                let bytes = owner.capability_bytes();
                Some(bytes.ok_or_else(|| {
                    Failed::new(FailedKind::Invalid, "the record of owners is damaged")
                })?)
            }
            _ => None,
        };
        let time = Timespec {
            tv_sec: found.st_mtime as i64,
            tv_nsec: found.st_mtime_nsec as i64,
        };
        Ok(Attributes {
            uid: Uid::from_raw(id(owner.map(|owner| owner.uid))?),
            gid: Gid::from_raw(id(owner.map(|owner| owner.gid))?),
            mode: Mode::from_raw_mode(mode),
            capability,
            times: Timestamps {
                last_access: time,
                last_modification: time,
            },
        })
    }

    /// Opens a directory of the copy.
    fn open(&self, path: &[u8]) -> Result<OwnedFd> {
        let mut here = openat(self.root, ".", DIRECTORY, Mode::empty()).of(path)?;
        for part in path.split(|byte| *byte == b'/').filter(|p| !p.is_empty()) {
            here = openat(&here, part, DIRECTORY, Mode::empty()).of(path)?;
        }
        Ok(here)
    }
}

/// Gives the copy of a file or directory its attributes.
fn apply(from: &OwnedFd, made: &OwnedFd, path: &[u8], to: &Attributes) -> Result<()> {
    copy_attributes(from, made).of(path)?;
    fchown(made, Some(to.uid), Some(to.gid)).of(path)?;
    fchmod(made, to.mode).of(path)?;
    if let Some(value) = &to.capability {
        fsetxattr(made, CAPABILITY, value, XattrFlags::empty()).of(path)?;
    }
    futimens(made, &to.times).of(path)
}

/// Copies what users may set, overlayfs's own included.
fn copy_attributes(from: &OwnedFd, made: &OwnedFd) -> rustix::io::Result<()> {
    let mut list = vec![0_u8; MOST_ATTRIBUTE];
    let length = match flistxattr(from, &mut list) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error),
    };
    let names = list[..length].split(|byte| *byte == 0);
    let mut value = Vec::new();
    for name in names.filter(|name| name.starts_with(b"user.")) {
        value.resize(MOST_ATTRIBUTE, 0);
        let length = fgetxattr(from, name, &mut value)?;
        fsetxattr(made, name, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}

/// Copies the content of a file, without its holes, and without copying where
/// the file system can share.
fn bytes(from: &OwnedFd, to: &OwnedFd, size: u64) -> rustix::io::Result<()> {
    use rustix::fs::{SeekFrom, ftruncate, ioctl_ficlone, seek};
    use rustix::io::Errno;
    if size == 0 || ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        let begin = match seek(from, SeekFrom::Data(at)) {
            // A hole to the end.
            Err(Errno::NXIO) => break,
            found => found?,
        };
        let end = seek(from, SeekFrom::Hole(begin))?;
        part(from, to, begin, end)?;
        at = end;
    }
    Ok(())
}

fn part(from: &OwnedFd, to: &OwnedFd, begin: u64, end: u64) -> rustix::io::Result<()> {
    use rustix::io::Errno;
    let (mut read, mut written) = (begin, begin);
    while read < end {
        let count = usize::try_from(end - read)
            .unwrap_or(usize::MAX)
            .min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), count) {
            Ok(0) => return Err(Errno::IO),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                let mut buffer = vec![0; count.min(256 * 1024)];
                let count = rustix::io::pread(from, &mut buffer, read)?;
                if count == 0 {
                    return Err(Errno::IO);
                }
                let count = rustix::io::pwrite(to, &buffer[..count], written)? as u64;
                read += count;
                written += count;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The names in a directory.
fn names(directory: &OwnedFd) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).tried("list a directory of a layer")? {
        let entry = entry.tried("list a directory of a layer")?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Says at which file of the layer a system call failed.
trait Of<T> {
    fn of(self, path: &[u8]) -> Result<T>;
    fn at(self, above: &[u8], name: &CString) -> Result<T>;
}

impl<T> Of<T> for rustix::io::Result<T> {
    fn of(self, path: &[u8]) -> Result<T> {
        self.tried(format_args!(
            "give `{}` of the image its owner",
            path.escape_ascii()
        ))
    }

    fn at(self, above: &[u8], name: &CString) -> Result<T> {
        self.of(&[above, name.as_bytes()].join(&b'/'))
    }
}
