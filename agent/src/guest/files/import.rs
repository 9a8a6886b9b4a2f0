//! Unpacks an archive.
//!
//! Every name is walked from the directory of the import by descriptors and
//! never through a link, whoever made it. Files appear complete, in the place
//! of what had their name; directories that are there already are used, and
//! get the permission bits of the archive when all else is done.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chownat, fchmod, fchown, futimens, linkat,
    mkdirat, mkfifoat, openat, renameat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::attributes::times;
use super::failure::bad_archive;
use super::staged::{Staged, with_temporary_name};
use super::stream::{CHUNK, Data};
use super::tar::{BadArchive, Member, MemberKind, Reader};
use super::{Answer, Expected, descent, entry, failure, list, make, path};
use crate::protocol::message::{Failure, FileKind, ImportRequest};

/// Directories of the current name that are kept open.
const KEPT: usize = 32;
/// Directories whose attributes wait; with more, all are set in between.
const MAX_WAITING: usize = 16 * 1024;
/// How often a name is replaced that others make again meanwhile.
const TRIES: u32 = 16;

/// What becomes of the owners in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Everything belongs to who unpacks.
    Mine,
    /// They are kept, or it fails.
    Keep,
    /// They are kept where the system allows.
    KeepIfAllowed,
}

/// How an archive is unpacked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) owner: Owner,
    /// Whether set-id bits are kept; only for what never left the sandbox.
    pub(super) set_id: bool,
}

pub(super) fn import(
    request: &ImportRequest,
    expected: Option<&Expected>,
    data: BorrowedFd<'_>,
) -> Result<Answer, Failure> {
    let whole = path::check(&request.path)?;
    if request.parents {
        make::make_all(whole, make::PARENT_MODE)?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let root = openat(CWD, whole, flags, Mode::empty())
        .map_err(|errno| failure::system(errno, "open the directory", whole))?;
    let owner = if request.keep_owner {
        Owner::Keep
    } else {
        Owner::Mine
    };
    let rules = Rules {
        owner,
        set_id: false,
    };
    unpack(root, rules, expected, data).map(|()| Answer::Done)
}

/// Unpacks an archive into a directory, or the one member that is expected.
pub(super) fn unpack(
    root: OwnedFd,
    rules: Rules,
    expected: Option<&Expected>,
    data: BorrowedFd<'_>,
) -> Result<(), Failure> {
    let mut reader = Reader::new(Data(data));
    let mut target = Target {
        root,
        open: Vec::new(),
        waiting: Vec::new(),
        rules,
        buffer: vec![0; CHUNK],
    };
    let unpacked = match expected {
        None => target.all(&mut reader),
        Some(expected) => target.one(&mut reader, expected),
    };
    // Also after a failure, directories are not left closed.
    let settled = target.settle();
    unpacked.and(settled)
}

impl Expected {
    fn is(&self, components: &[&[u8]], kind: MemberKind) -> bool {
        let kind = match kind {
            MemberKind::File => FileKind::File,
            MemberKind::Symlink => FileKind::Link,
            MemberKind::Fifo => FileKind::Other,
            _ => return false,
        };
        components == [&self.name[..]] && kind == self.kind
    }
}

struct Target {
    root: OwnedFd,
    /// The directories of the last name, outermost first.
    open: Vec<(Vec<u8>, OwnedFd)>,
    waiting: Vec<Member>,
    rules: Rules,
    buffer: Vec<u8>,
}

impl Target {
    /// Unpacks what is expected, once the archive turned out to hold nothing else.
    fn one(&mut self, reader: &mut Reader<Data<'_>>, wanted: &Expected) -> Result<(), Failure> {
        let Some(member) = next(reader)? else {
            let text = "the archive does not hold the file asked for";
            return Err(bad_archive(text, &wanted.name));
        };
        if !wanted.is(&components(&member.name)?, member.kind) {
            return Err(something_else(&member));
        }
        let dir = self.walk(&[], &member.name)?;
        let name = &wanted.becomes[..];
        if member.kind == MemberKind::File {
            let staged = self.stage(reader, &dir, &member)?;
            no_more(reader)?;
            return place_staged(staged, name, &member);
        }
        no_more(reader)?;
        self.without_content(&dir, name, &member)
    }

    fn all(&mut self, reader: &mut Reader<Data<'_>>) -> Result<(), Failure> {
        while let Some(member) = next(reader)? {
            let components = components(&member.name)?;
            let Some((name, above)) = components.split_last() else {
                if member.kind == MemberKind::Directory {
                    // The directory of the import keeps its own attributes.
                    continue;
                }
                return Err(bad_archive("a member has no name of its own", &member.name));
            };
            let dir = self.walk(above, &member.name)?;
            match member.kind {
                MemberKind::File => {
                    let staged = self.stage(reader, &dir, &member)?;
                    place_staged(staged, name, &member)?;
                }
                MemberKind::Directory => {
                    Self::directory(&dir, name, &member.name)?;
                    self.wait(member)?;
                }
                MemberKind::Symlink | MemberKind::Fifo => {
                    self.without_content(&dir, name, &member)?;
                }
                MemberKind::HardLink => self.hard_link(&dir, name, &member)?,
                // The reader has refused them before.
                MemberKind::CharDevice | MemberKind::BlockDevice => {
                    return Err(bad_archive("device nodes are refused", &member.name));
                }
            }
        }
        Ok(())
    }

    /// Makes a link or a pipe.
    fn without_content(&self, dir: &OwnedFd, name: &[u8], member: &Member) -> Result<(), Failure> {
        if member.kind == MemberKind::Symlink {
            return self.place(dir, name, member, |dir, name| {
                symlinkat(&member.link[..], dir, name)
            });
        }
        self.place(dir, name, member, |dir, name| {
            mkfifoat(dir, name, Mode::RUSR | Mode::WUSR)
        })
    }

    /// Opens the directory of a name, making what is missing. A copy of the
    /// descriptor is answered, so that the kept ones can be closed meanwhile.
    fn walk(&mut self, above: &[&[u8]], whole: &[u8]) -> Result<OwnedFd, Failure> {
        let common = self
            .open
            .iter()
            .zip(above)
            .take_while(|((kept, _), wanted)| kept == *wanted)
            .count();
        self.open.truncate(common);
        let deep = above.len() > KEPT;
        let mut last: Option<OwnedFd> = None;
        for name in &above[common..] {
            let here = last
                .as_ref()
                .or_else(|| self.open.last().map(|(_, dir)| dir))
                .unwrap_or(&self.root);
            let next = Self::directory(here, name, whole)?;
            if deep && self.open.len() >= KEPT {
                last = Some(next);
            } else {
                self.open.push((name.to_vec(), next));
            }
        }
        if let Some(last) = last {
            return Ok(last);
        }
        let here = self.open.last().map_or(&self.root, |(_, dir)| dir);
        rustix::io::fcntl_dupfd_cloexec(here, 0)
            .map_err(|errno| failure::system(errno, "open the directory", whole))
    }

    /// Opens a directory, made if missing.
    fn directory(dir: &OwnedFd, name: &[u8], whole: &[u8]) -> Result<OwnedFd, Failure> {
        let fail = |errno| failure::system(errno, "make a directory of the archive", whole);
        for _ in 0..TRIES {
            match descent::open_below(dir, name) {
                Ok(next) => return Ok(next),
                Err(Errno::NOENT) => match mkdirat(dir, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(fail(errno)),
                },
                Err(Errno::LOOP) => return Err(through_link(whole)),
                Err(Errno::NOTDIR) => {
                    let now = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
                    match now.map(|stat| entry::kind(&stat)) {
                        Ok(FileType::Symlink) => return Err(through_link(whole)),
                        // It became one, or vanished, just now.
                        Ok(FileType::Directory) | Err(Errno::NOENT) => {}
                        _ => return Err(fail(Errno::NOTDIR)),
                    }
                }
                Err(errno) => return Err(fail(errno)),
            }
        }
        Err(fail(Errno::NOENT))
    }

    /// Remembers the attributes of a directory.
    fn wait(&mut self, member: Member) -> Result<(), Failure> {
        if self.waiting.len() >= MAX_WAITING {
            self.settle()?;
        }
        self.waiting.push(member);
        Ok(())
    }

    /// Sets the attributes that wait, the last directory first: they may close
    /// it, and what is above it.
    fn settle(&mut self) -> Result<(), Failure> {
        self.open.clear();
        while let Some(member) = self.waiting.pop() {
            let Ok(components) = components(&member.name) else {
                continue;
            };
            let Some(dir) = self.find(&components) else {
                continue; // another made something else of it meanwhile
            };
            let fail =
                |errno| failure::system(errno, "set attributes of a directory", &member.name);
            self.attributes(dir.as_fd(), &member).map_err(fail)?;
        }
        Ok(())
    }

    /// Opens a directory that should be there.
    fn find(&self, components: &[&[u8]]) -> Option<OwnedFd> {
        let mut last: Option<OwnedFd> = None;
        for name in components {
            let here = last.as_ref().unwrap_or(&self.root);
            last = Some(descent::open_below(here, name).ok()?);
        }
        last
    }

    /// Receives a file, which has no name yet.
    fn stage<'d>(
        &mut self,
        reader: &mut Reader<Data<'_>>,
        dir: &'d OwnedFd,
        member: &Member,
    ) -> Result<Staged<'d>, Failure> {
        let fail = |errno| failure::system(errno, "write a file of the archive", &member.name);
        let staged = Staged::new(dir.as_fd()).map_err(fail)?;
        loop {
            let count = reader
                .read(&mut self.buffer)
                .map_err(|error| refused(error, &member.name))?;
            if count == 0 {
                break;
            }
            Data(staged.file())
                .write_all(&self.buffer[..count])
                .map_err(fail)?;
        }
        self.attributes(staged.file(), member).map_err(fail)?;
        Ok(staged)
    }

    /// Sets owner, permission bits and time of an open file or directory.
    fn attributes(&self, file: BorrowedFd<'_>, member: &Member) -> rustix::io::Result<()> {
        let owner = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
        match self.rules.owner {
            Owner::Mine => {}
            Owner::Keep => fchown(file, Some(owner.0), Some(owner.1))?,
            Owner::KeepIfAllowed => match fchown(file, Some(owner.0), Some(owner.1)) {
                Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
                Err(errno) => return Err(errno),
            },
        }
        let kept = if self.rules.set_id { 0o7777 } else { 0o1777 };
        fchmod(file, Mode::from_raw_mode(member.mode & kept))?;
        futimens(file, &times(member.modified_s, member.modified_ns))
    }

    /// Makes what has no content, in the place of what has its name.
    fn place(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        member: &Member,
        make: impl Fn(&OwnedFd, &[u8]) -> rustix::io::Result<()>,
    ) -> Result<(), Failure> {
        let fail = |errno| failure::system(errno, "make an entry of the archive", &member.name);
        if list::is_real_directory(dir, name) {
            return Err(fail(Errno::ISDIR));
        }
        let ((), temporary) =
            with_temporary_name(|temporary| make(dir, temporary.as_bytes())).map_err(fail)?;
        let placed = self
            .attributes_at(dir, &temporary, member)
            .and_then(|()| renameat(dir, &temporary, dir, name));
        if let Err(errno) = placed {
            // What remains is hidden and empty.
            let _ = unlinkat(dir, &temporary, AtFlags::empty());
            return Err(fail(errno));
        }
        Ok(())
    }

    /// Sets what a link or a pipe has, without following.
    fn attributes_at(&self, dir: &OwnedFd, name: &str, member: &Member) -> rustix::io::Result<()> {
        if self.rules.owner != Owner::Mine {
            let owned = chownat(
                dir,
                name,
                Some(Uid::from_raw(member.uid)),
                Some(Gid::from_raw(member.gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            );
            if self.rules.owner == Owner::Keep {
                owned?;
            }
        }
        if member.kind == MemberKind::Fifo {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let pipe = openat(dir, name, flags, Mode::empty())?;
            fchmod(&pipe, Mode::from_raw_mode(member.mode & 0o777))?;
        }
        utimensat(
            dir,
            name,
            &times(member.modified_s, member.modified_ns),
            AtFlags::SYMLINK_NOFOLLOW,
        )
    }

    /// Makes another name of a file that is inside already.
    fn hard_link(&mut self, dir: &OwnedFd, name: &[u8], member: &Member) -> Result<(), Failure> {
        let fail = |errno| failure::system(errno, "make a hard link of the archive", &member.name);
        let target = components(&member.link)?;
        let Some((last, above)) = target.split_last() else {
            return Err(bad_archive(
                "a hard link points to a directory",
                &member.name,
            ));
        };
        let mut from: Option<OwnedFd> = None;
        for name in above {
            let here = from.as_ref().unwrap_or(&self.root);
            let next = descent::open_below(here, name).map_err(|errno| match errno {
                Errno::LOOP | Errno::NOTDIR => through_link(&member.link),
                errno => fail(errno),
            })?;
            from = Some(next);
        }
        let from = from.as_ref().unwrap_or(&self.root);
        for _ in 0..TRIES {
            match linkat(from, *last, dir, name, AtFlags::empty()) {
                Err(Errno::EXIST) => {}
                linked => return linked.map_err(fail),
            }
            if list::is_real_directory(dir, name) {
                return Err(fail(Errno::ISDIR));
            }
            if same_file(from, last, dir, name) {
                return Ok(());
            }
            match unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(fail(errno)),
            }
        }
        Err(fail(Errno::EXIST))
    }
}

fn next(reader: &mut Reader<Data<'_>>) -> Result<Option<Member>, Failure> {
    reader.next_member().map_err(|error| refused(error, b""))
}

fn no_more(reader: &mut Reader<Data<'_>>) -> Result<(), Failure> {
    match next(reader)? {
        None => Ok(()),
        Some(member) => Err(something_else(&member)),
    }
}

fn something_else(member: &Member) -> Failure {
    let text = "the archive holds something else than the one file asked for";
    bad_archive(text, &member.name)
}

fn place_staged(staged: Staged<'_>, name: &[u8], member: &Member) -> Result<(), Failure> {
    staged
        .commit(name, true)
        .map_err(|errno| failure::system(errno, "write a file of the archive", &member.name))
}

fn same_file(one_dir: &OwnedFd, one: &[u8], other_dir: &OwnedFd, other: &[u8]) -> bool {
    let stat = |dir, name| rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    match (stat(one_dir, one), stat(other_dir, other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

/// The components of a name that stays inside.
fn components(name: &[u8]) -> Result<Vec<&[u8]>, Failure> {
    if name.starts_with(b"/") {
        return Err(bad_archive("a name of the archive is absolute", name));
    }
    let components: Vec<&[u8]> = name
        .split(|byte| *byte == b'/')
        .filter(|component| !component.is_empty() && *component != b".")
        .collect();
    if components.contains(&&b".."[..]) {
        return Err(bad_archive("a name of the archive contains `..`", name));
    }
    if components.iter().any(|component| component.len() > 255) {
        return Err(bad_archive(
            "a component of a name is longer than 255 bytes",
            name,
        ));
    }
    Ok(components)
}

fn through_link(name: &[u8]) -> Failure {
    bad_archive("a name of the archive leads through a symbolic link", name)
}

fn refused(error: BadArchive, about: &[u8]) -> Failure {
    match error {
        BadArchive::Refused { message, name } => {
            bad_archive(message, if name.is_empty() { about } else { &name })
        }
        BadArchive::Source(error) => {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            failure::system(errno, "receive the archive", about)
        }
    }
}
