//! A directory that a layer is unpacked into. Every step goes by a descriptor
//! and one component, and follows no link: whatever the archive made before, it
//! leads nowhere else.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fsetxattr, futimens, linkat, mknodat, openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use stacyvm_agent::owners;

use super::names::{encode, refused};
use crate::error::{Error, ErrorKind, Result};
use crate::image::store::{Flavour, make_private, system};

/// Set on a directory: nothing of lower layers is seen in it.
pub(in crate::image) const OPAQUE: &str = "user.overlay.opaque";
/// Set on an empty file: nothing of lower layers is seen under its name.
pub(in crate::image) const WHITEOUT: &str = "user.overlay.whiteout";

/// How a name of lower layers is hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::image) enum Marker {
    /// By a character device 0:0, which ordinary users may make since Linux 5.8.
    Device,
    /// By an extended attribute, which Linux reads since 6.7.
    Attribute,
}

/// The attributes of a member.
#[derive(Clone, Debug)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    /// Those of a directory that no member is about.
    fn implied() -> Self {
        Self {
            mode: 0o755,
            uid: 0,
            gid: 0,
            seconds: 0,
            nanoseconds: 0,
            xattrs: Vec::new(),
        }
    }

    fn times(&self) -> Timestamps {
        let time = Timespec {
            tv_sec: self.seconds,
            tv_nsec: i64::from(self.nanoseconds),
        };
        Timestamps {
            last_access: time,
            last_modification: time,
        }
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

type Path = Vec<u8>;

/// The directory, and what is known of what was made in it.
pub(super) struct Target {
    pub(super) root: OwnedFd,
    flavour: Flavour,
    marker: Marker,
    /// The directories of the last name, outermost first.
    open: Vec<(Path, OwnedFd)>,
    /// Directories whose attributes are set at the end; an implied one is `None`.
    waiting: BTreeMap<Path, Option<Attributes>>,
    whiteouts: HashSet<Path>,
    opaque: HashSet<Path>,
    /// Directories that were replaced by something else.
    replaced: u32,
    /// What the file system could not be told: the head of each path's entry in
    /// the record of owners.
    noted: BTreeMap<Path, String>,
}

/// How often an archive may replace a whole directory: each costs a look at
/// all others, and no program writes such a layer.
const MOST_REPLACED: u32 = 1000;

fn join(parts: &[&[u8]]) -> Path {
    parts.join(&b'/')
}

impl Target {
    pub(super) fn new(root: OwnedFd, flavour: Flavour, marker: Marker) -> Self {
        let mut waiting = BTreeMap::new();
        waiting.insert(Path::new(), None);
        Self {
            root,
            flavour,
            marker,
            open: Vec::new(),
            waiting,
            whiteouts: HashSet::new(),
            opaque: HashSet::new(),
            replaced: 0,
            noted: BTreeMap::new(),
        }
    }

    /// The record of owners: a directory after what is in it.
    pub(super) fn owners(&self) -> Vec<u8> {
        let mut record = Vec::new();
        for (path, head) in self.noted.iter().rev() {
            record.extend_from_slice(head.as_bytes());
            record.extend_from_slice(path);
            record.push(0);
        }
        record
    }

    /// Opens the directory of a name, and makes what is missing.
    fn walk(&mut self, above: &[&[u8]]) -> Result<()> {
        let common = self
            .open
            .iter()
            .zip(above)
            .take_while(|((kept, _), wanted)| kept == *wanted)
            .count();
        self.open.truncate(common);
        for depth in common..above.len() {
            let name = above[depth];
            let here = self.here();
            let dir = match openat(here, name, DIRECTORY, Mode::empty()) {
                Ok(dir) => dir,
                Err(Errno::NOENT) => {
                    self.make_directory(&above[..=depth])?;
                    openat(self.here(), name, DIRECTORY, Mode::empty())
                        .map_err(|e| system("open a directory of a layer", e))?
                }
                Err(Errno::NOTDIR | Errno::LOOP)
                    if self.whiteouts.contains(&join(&above[..=depth])) =>
                {
                    self.make_directory(&above[..=depth])?;
                    openat(self.here(), name, DIRECTORY, Mode::empty())
                        .map_err(|e| system("open a directory of a layer", e))?
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Err(refused(
                        "a member lies below what is no directory",
                        &join(above),
                    ));
                }
                Err(error) => return Err(system("open a directory of a layer", error)),
            };
            self.open.push((name.to_vec(), dir));
        }
        Ok(())
    }

    /// The directory that the last walk led to.
    fn here(&self) -> BorrowedFd<'_> {
        self.open
            .last()
            .map_or(self.root.as_fd(), |(_, dir)| dir.as_fd())
    }

    /// Makes a directory in the one that the walk led to.
    fn make_directory(&mut self, path: &[&[u8]]) -> Result<()> {
        let (name, whole) = (path[path.len() - 1], join(path));
        let hidden = self.unhide(name, &whole)?;
        make_private(self.here(), name).map_err(|e| failed("make", &whole, e))?;
        self.waiting.insert(whole.clone(), None);
        if hidden {
            let dir = openat(self.here(), name, DIRECTORY, Mode::empty())
                .map_err(|e| failed("open", &whole, e))?;
            self.set_opaque(&dir, whole)?;
        }
        Ok(())
    }

    /// Takes away a whiteout of this layer, which a member of this layer has
    /// the name of: it hides lower layers alone.
    fn unhide(&mut self, name: &[u8], whole: &Path) -> Result<bool> {
        if !self.whiteouts.remove(whole) {
            return Ok(false);
        }
        unlinkat(self.here(), name, AtFlags::empty()).map_err(|e| failed("replace", whole, e))?;
        Ok(true)
    }

    /// Frees a name for something that is no directory. What had it in the
    /// same archive is replaced.
    fn free(&mut self, path: &[&[u8]]) -> Result<()> {
        let (name, whole) = (path[path.len() - 1], join(path));
        self.whiteouts.remove(&whole);
        self.noted.remove(&whole);
        match unlinkat(self.here(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(failed("replace", &whole, error)),
        }
        self.replaced += 1;
        if self.replaced > MOST_REPLACED {
            return Err(refused("directories are replaced too often", &whole));
        }
        let text = std::ffi::CString::new(name).map_err(|_| refused("NUL in a name", &whole))?;
        stacyvm_agent::remove::tree(self.here(), &text)
            .map_err(|e| crate::image::store::failed("replace a directory of a layer", e))?;
        let below = |known: &Path| {
            *known == whole || (known.starts_with(&whole) && known.get(whole.len()) == Some(&b'/'))
        };
        self.waiting.retain(|known, _| !below(known));
        self.noted.retain(|known, _| !below(known));
        self.whiteouts.retain(|known| !below(known));
        self.opaque.retain(|known| !below(known));
        Ok(())
    }

    pub(super) fn directory(&mut self, path: &[&[u8]], mut attributes: Attributes) -> Result<()> {
        let whole = join(path);
        if let Some((name, above)) = path.split_last() {
            self.walk(above)?;
            let is_directory = match statat(self.here(), *name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) => Some(FileType::from_raw_mode(found.st_mode).is_dir()),
                Err(Errno::NOENT) => None,
                Err(error) => return Err(failed("look at", &whole, error)),
            };
            match is_directory {
                Some(true) => {}
                Some(false) if self.whiteouts.contains(&whole) => self.make_directory(path)?,
                Some(false) => {
                    self.free(path)?;
                    self.make_directory(path)?;
                }
                None => self.make_directory(path)?,
            }
        }
        if path.is_empty() && self.flavour == Flavour::Own {
            // The store itself must get into it.
            attributes.mode |= 0o700;
        }
        self.waiting.insert(whole, Some(attributes));
        Ok(())
    }

    /// Makes a regular file for its content to be written. The name must not be
    /// the root's.
    pub(super) fn file(&mut self, path: &[&[u8]]) -> Result<OwnedFd> {
        let Some((name, above)) = path.split_last() else {
            return Err(refused("a file without a name", b""));
        };
        self.walk(above)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        match openat(self.here(), *name, flags, mode) {
            Err(Errno::EXIST) => {
                self.free(path)?;
                openat(self.here(), *name, flags, mode)
            }
            made => made,
        }
        .map_err(|e| failed("make", &join(path), e))
    }

    /// Gives a file its attributes, when its content is written.
    pub(super) fn finish_file(
        &mut self,
        path: &[&[u8]],
        file: &OwnedFd,
        to: &Attributes,
    ) -> Result<()> {
        self.apply(file.as_fd(), &join(path), to)
    }

    /// Owner, mode, attributes, time: in this order, because a new owner takes
    /// set-id bits and Linux capabilities away.
    fn apply(&mut self, file: BorrowedFd<'_>, whole: &[u8], to: &Attributes) -> Result<()> {
        let fail = |error| failed("set the attributes of", whole, error);
        if self.flavour == Flavour::Ids {
            if to.uid != 0 || to.gid != 0 {
                fchown(
                    file,
                    Some(Uid::from_raw(to.uid)),
                    Some(Gid::from_raw(to.gid)),
                )
                .map_err(fail)?;
            }
        } else {
            self.note_owner(whole, to);
        }
        fchmod(file, Mode::from_raw_mode(to.mode)).map_err(fail)?;
        for (name, value) in &to.xattrs {
            if self.flavour == Flavour::Own && name.starts_with(b"security.") {
                continue; // On record, beside the owner.
            }
            fsetxattr(file, name.as_slice(), value, XattrFlags::empty()).map_err(fail)?;
        }
        futimens(file, &to.times()).map_err(fail)
    }

    /// Notes all that root would have said to the file system and this user cannot.
    fn note_owner(&mut self, whole: &[u8], to: &Attributes) {
        let capability = to
            .xattrs
            .iter()
            .find(|(name, _)| name.starts_with(b"security."));
        if to.uid == 0 && to.gid == 0 && capability.is_none() {
            self.noted.remove(whole);
            return;
        }
        let value = capability.map(|(_, value)| value.as_slice());
        let head = owners::head(to.uid, to.gid, to.mode, value);
        self.noted.insert(whole.to_vec(), head);
    }

    /// Attributes of what cannot be opened: links, pipes.
    fn apply_by_name(&mut self, path: &[&[u8]], to: &Attributes, mode: bool) -> Result<()> {
        let (name, whole) = (path[path.len() - 1], join(path));
        let fail = |error| failed("set the attributes of", &whole, error);
        if self.flavour == Flavour::Ids {
            let (uid, gid) = (Uid::from_raw(to.uid), Gid::from_raw(to.gid));
            chownat(
                self.here(),
                name,
                Some(uid),
                Some(gid),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(fail)?;
        } else {
            self.note_owner(&whole, to);
        }
        if mode {
            // It was made a moment ago, in a directory that nobody else enters.
            rustix::fs::chmodat(
                self.here(),
                name,
                Mode::from_raw_mode(to.mode),
                AtFlags::empty(),
            )
            .map_err(fail)?;
        }
        utimensat(self.here(), name, &to.times(), AtFlags::SYMLINK_NOFOLLOW).map_err(fail)
    }

    pub(super) fn symlink(&mut self, path: &[&[u8]], link: &[u8], to: &Attributes) -> Result<()> {
        let name = self.place(path)?;
        symlinkat(link, self.here(), name).map_err(|e| failed("make", &join(path), e))?;
        self.apply_by_name(path, to, false)
    }

    pub(super) fn fifo(&mut self, path: &[&[u8]], to: &Attributes) -> Result<()> {
        let name = self.place(path)?;
        mknodat(
            self.here(),
            name,
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .map_err(|e| failed("make", &join(path), e))?;
        self.apply_by_name(path, to, true)
    }

    /// Walks to a name and frees it.
    fn place<'a>(&mut self, path: &[&'a [u8]]) -> Result<&'a [u8]> {
        let Some((name, above)) = path.split_last() else {
            return Err(refused("a member without a name", b""));
        };
        self.walk(above)?;
        self.free(path)?;
        Ok(name)
    }

    /// Gives another name to a file that this archive made before.
    pub(super) fn hard_link(&mut self, path: &[&[u8]], to: &[&[u8]]) -> Result<()> {
        let whole = join(path);
        let missing = || {
            refused(
                "a hard link to what the layer did not hold before it",
                &whole,
            )
        };
        let Some((target, above)) = to.split_last() else {
            return Err(refused("a hard link to a directory", &whole));
        };
        if path == to {
            return Err(refused("a hard link to itself", &whole));
        }
        if self.whiteouts.contains(&join(to)) {
            return Err(missing());
        }
        let mut dir = rustix::io::fcntl_dupfd_cloexec(&self.root, 3)
            .map_err(|e| system("open a directory of a layer", e))?;
        for part in above {
            dir = openat(&dir, *part, DIRECTORY, Mode::empty()).map_err(|_| missing())?;
        }
        let found = statat(&dir, *target, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| missing())?;
        if FileType::from_raw_mode(found.st_mode).is_dir() {
            return Err(refused("a hard link to a directory", &whole));
        }
        let name = self.place(path)?;
        // Freeing the name may have taken the target along.
        match linkat(&dir, *target, self.here(), name, AtFlags::empty()) {
            Err(Errno::NOENT) => Err(missing()),
            Err(Errno::MLINK) => Err(refused(
                "a file has more names than the file system allows",
                &whole,
            )),
            made => made.map_err(|e| failed("link", &whole, e)),
        }?;
        // It is the same file, whatever becomes of the other name.
        if let Some(head) = self.noted.get(&join(to)).cloned() {
            self.noted.insert(whole, head);
        }
        Ok(())
    }

    /// Hides a name of lower layers, unless this layer holds it itself.
    pub(super) fn whiteout(&mut self, above: &[&[u8]], name: &[u8]) -> Result<()> {
        self.walk(above)?;
        let whole = join(&[above, &[name]].concat());
        match statat(self.here(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(error) => return Err(failed("look at", &whole, error)),
            Ok(found) if FileType::from_raw_mode(found.st_mode).is_dir() => {
                let dir = openat(self.here(), name, DIRECTORY, Mode::empty())
                    .map_err(|e| failed("open", &whole, e))?;
                return self.set_opaque(&dir, whole);
            }
            // It covers what is below by itself.
            Ok(_) => return Ok(()),
        }
        match self.marker {
            Marker::Device => {
                mknodat(
                    self.here(),
                    name,
                    FileType::CharacterDevice,
                    Mode::empty(),
                    0,
                )
                .map_err(|e| failed("hide", &whole, e))?;
            }
            Marker::Attribute => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                // Who may not write a file may not set its attributes either.
                let file = openat(self.here(), name, flags, Mode::RUSR | Mode::WUSR)
                    .map_err(|e| failed("hide", &whole, e))?;
                set_attribute(file.as_fd(), WHITEOUT, b"y")?;
                if !self.opaque.contains(&join(above)) {
                    // Only in such a directory the kernel looks for them.
                    set_attribute(self.here(), OPAQUE, b"x")?;
                }
            }
        }
        self.whiteouts.insert(whole);
        Ok(())
    }

    /// Hides all that lower layers have in a directory.
    pub(super) fn opaque(&mut self, path: &[&[u8]]) -> Result<()> {
        self.walk(path)?;
        let dir = rustix::io::fcntl_dupfd_cloexec(self.here(), 3)
            .map_err(|e| system("open a directory of a layer", e))?;
        self.set_opaque(&dir, join(path))
    }

    fn set_opaque(&mut self, dir: &OwnedFd, whole: Path) -> Result<()> {
        set_attribute(dir.as_fd(), OPAQUE, b"y")?;
        self.opaque.insert(whole);
        Ok(())
    }

    /// Sets the attributes of directories, the inner ones first, and tells
    /// which were implied.
    pub(super) fn settle(&mut self) -> Result<Vec<Path>> {
        self.open.clear();
        let mut implied = Vec::new();
        let waiting = std::mem::take(&mut self.waiting);
        for (whole, attributes) in waiting.into_iter().rev() {
            let parts: Vec<&[u8]> = whole
                .split(|b| *b == b'/')
                .filter(|p| !p.is_empty())
                .collect();
            let attributes = attributes.unwrap_or_else(|| {
                implied.push(whole.clone());
                Attributes::implied()
            });
            // The directory itself must not stay open by its parent's walk.
            self.walk(&parts)?;
            let dir = match self.open.pop() {
                Some((_, dir)) => dir,
                None => rustix::io::fcntl_dupfd_cloexec(&self.root, 3)
                    .map_err(|e| system("open a directory of a layer", e))?,
            };
            self.apply(dir.as_fd(), &whole, &attributes)?;
        }
        implied.reverse();
        Ok(implied)
    }
}

fn set_attribute(file: BorrowedFd<'_>, name: &str, value: &[u8]) -> Result<()> {
    fsetxattr(file, name, value, XattrFlags::empty()).map_err(|error| match error {
        Errno::OPNOTSUPP => Error::unsupported(
            "the file system of the image store has no extended attributes of users, which layers need",
        )
        .context("remedy", "put the state directory on ext4, xfs, btrfs, or tmpfs of Linux 6.6"),
        other => system("set an attribute of a layer", other),
    })
}

fn failed(what: &str, path: &[u8], error: Errno) -> Error {
    let made = match error {
        // Whatever else the system has against a name comes from the archive.
        Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ => {
            refused("a name or value that this file system cannot hold", path)
        }
        Errno::OPNOTSUPP => Error::new(
            ErrorKind::Unsupported,
            format!("cannot {what} a member of the layer on this file system"),
        ),
        other => system(&format!("{what} a member of the layer"), other),
    };
    made.context("path", encode(path))
}
