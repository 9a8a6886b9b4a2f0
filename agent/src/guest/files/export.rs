//! Sends a path as an archive.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::descent::{self, Descent};
use super::entry::PERMISSION_BITS;
use super::replies::Replies;
use super::stream::{CHUNK, Data};
use super::{Answer, entry, failure, path, tar};
use crate::guest::users;
use crate::protocol::Kind;
use crate::protocol::message::{self, ExportRequest, Failure, FailureKind, LeftOut};

/// Bytes gathered before they are written.
const GATHER: usize = CHUNK;
/// Content up to this size is gathered with its header.
const SMALL: u64 = 64 * 1024;
/// The most of a file whose size is not known before it is read.
const MAX_UNSIZED: usize = 16 * 1024 * 1024;
const READ_FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

pub(super) fn export(
    request: &ExportRequest,
    name: Option<&[u8]>,
    data: BorrowedFd<'_>,
    replies: &mut Replies<'_>,
) -> Result<Answer, Failure> {
    let whole = path::check(&request.path)?;
    let fail = |errno| failure::system(errno, "export the path", whole);
    let last = match path::split(whole).1 {
        b"" | b"." | b".." => b".".to_vec(),
        name => name.to_vec(),
    };
    let name = match name {
        Some(name) => name.to_vec(),
        None if request.contents => b".".to_vec(),
        None => last,
    };
    let mut sender = Sender::new(data, whole);
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let follow = if request.follow || whole.ends_with(b"/") {
        OFlags::empty()
    } else {
        OFlags::NOFOLLOW
    };
    match descent::open_directory(CWD, whole, directory | follow) {
        Ok(root) => sender.tree(root, name)?,
        Err(Errno::NOTDIR | Errno::LOOP) if !request.contents => {
            if request.follow {
                let place = path::resolve(whole)?;
                sender.one(&place.dir, &place.name, &name, false)?;
            } else {
                let (parent, last) = path::split_named(whole)?;
                let dir = path::open_parent(parent, whole)?;
                sender.one(&dir, last, &name, false)?;
            }
        }
        Err(Errno::LOOP) => return Err(fail(Errno::NOTDIR)),
        Err(errno) => return Err(fail(errno)),
    }
    let left_out = sender.finish()?;
    if !left_out.is_empty() {
        replies.send(Kind::LeftOut, &message::encode(&left_out));
    }
    Ok(Answer::Done)
}

/// Sends `name` of `dir` as an archive of its own. One that cannot hold all of
/// it is a failure: the receiver takes it for the whole.
pub(super) fn send(
    dir: impl AsFd,
    name: &[u8],
    whole: &[u8],
    data: BorrowedFd<'_>,
) -> Result<(), Failure> {
    let mut sender = Sender::new(data, whole);
    match descent::open_below(&dir, name) {
        Ok(root) => sender.tree(root, name.to_vec())?,
        Err(Errno::NOTDIR | Errno::LOOP) => {
            sender.one(&dir, name, name, false)?;
        }
        Err(errno) => return Err(failure::system(errno, "read the path", whole)),
    }
    if sender.finish()?.is_empty() {
        return Ok(());
    }
    Err(failure::invalid(
        "sockets and devices cannot be moved to another file system; remove them first",
        whole,
    ))
}

struct Sender<'a> {
    data: Data<'a>,
    whole: &'a [u8],
    gathered: Vec<u8>,
    /// Under which name each file with several was sent.
    links: HashMap<(u64, u64), Vec<u8>>,
    left_out: LeftOut,
}

impl<'a> Sender<'a> {
    fn new(data: BorrowedFd<'a>, whole: &'a [u8]) -> Self {
        Self {
            data: Data(data),
            whole,
            gathered: Vec::with_capacity(GATHER),
            links: HashMap::new(),
            left_out: LeftOut::default(),
        }
    }

    /// A failure about a member; the subject is its name in the archive.
    fn fail(name: &[u8]) -> impl Fn(Errno) -> Failure + '_ {
        move |errno| failure::system(errno, "read the path for the archive", name)
    }

    /// Sends a directory and everything in it.
    fn tree(&mut self, root: OwnedFd, mut name: Vec<u8>) -> Result<(), Failure> {
        let stat = fstat(&root).map_err(Self::fail(&name))?;
        self.directory(&stat, &name)?;
        let mut descent = Descent::new(root).map_err(Self::fail(&name))?;
        let read = |descent: &Descent, name: &[u8]| {
            let mut names = descent::names(descent.dir()).map_err(Self::fail(name))?;
            names.reverse();
            Ok(names)
        };
        let mut levels = vec![(read(&descent, &name)?, 0)];
        while let Some((names, before)) = levels.last_mut() {
            let Some(next) = names.pop() else {
                let before = *before;
                levels.pop();
                if !levels.is_empty() {
                    descent.leave().map_err(Self::fail(&name))?;
                }
                name.truncate(before);
                continue;
            };
            let before = name.len();
            name.push(b'/');
            name.extend_from_slice(&next);
            if self.one(descent.dir(), &next, &name, true)? {
                match descent.enter(&next) {
                    Ok(()) => {
                        let stat = fstat(descent.dir()).map_err(Self::fail(&name))?;
                        self.directory(&stat, &name)?;
                        levels.push((read(&descent, &name)?, before));
                        continue;
                    }
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(errno) => return Err(Self::fail(&name)(errno)),
                }
            }
            name.truncate(before);
        }
        Ok(())
    }

    /// Sends one name that is no directory; answers whether it is one. What
    /// vanished is left out if `may_vanish`; sockets and devices are, and told.
    fn one(
        &mut self,
        dir: impl AsFd,
        entry: &[u8],
        name: &[u8],
        may_vanish: bool,
    ) -> Result<bool, Failure> {
        let fail = Self::fail(name);
        let stat = match statat(&dir, entry, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) if may_vanish => return Ok(false),
            result => result.map_err(&fail)?,
        };
        match entry::kind(&stat) {
            FileType::Directory => return Ok(true),
            FileType::RegularFile => match openat(&dir, entry, READ_FILE, Mode::empty()) {
                Ok(file) => self.file(&file, name)?,
                // Gone, or swapped for a link, since.
                Err(Errno::NOENT | Errno::LOOP) if may_vanish => {}
                Err(Errno::NXIO) if may_vanish => self.left_out.add(name),
                Err(errno) => return Err(fail(errno)),
            },
            FileType::Symlink => match readlinkat(&dir, entry, Vec::new()) {
                Ok(target) => self.header(b'2', &stat, name, target.as_bytes(), 0)?,
                Err(Errno::NOENT | Errno::INVAL) if may_vanish => {}
                Err(errno) => return Err(fail(errno)),
            },
            FileType::Fifo => self.header(b'6', &stat, name, b"", 0)?,
            _ if may_vanish => self.left_out.add(name),
            _ => {
                return Err(failure::invalid(
                    "sockets and devices cannot be exported",
                    self.whole,
                ));
            }
        }
        Ok(false)
    }

    fn directory(&mut self, stat: &Stat, name: &[u8]) -> Result<(), Failure> {
        let name = [name, b"/"].concat();
        self.header(b'5', stat, &name, b"", 0)
    }

    #[allow(
        clippy::useless_conversion,
        reason = "not on every architecture is it the same type"
    )]
    fn file(&mut self, file: &OwnedFd, name: &[u8]) -> Result<(), Failure> {
        let fail = Self::fail(name);
        let stat = fstat(file).map_err(&fail)?;
        if entry::kind(&stat) != FileType::RegularFile {
            self.left_out.add(name);
            return Ok(());
        }
        if stat.st_nlink > 1 {
            let id = (u64::from(stat.st_dev), u64::from(stat.st_ino));
            if let Some(first) = self.links.get(&id) {
                let first = first.clone();
                return self.header(b'1', &stat, name, &first, 0);
            }
            self.links.insert(id, name.to_vec());
        }
        let size = entry::size(&stat);
        if size == 0 {
            return self.unsized_file(file, &stat, name);
        }
        if size <= SMALL {
            return self.small_file(file, &stat, name, size);
        }
        self.header(b'0', &stat, name, b"", size)?;
        self.flush()?;
        if self.data.send_file(file.as_fd(), 0, size).map_err(&fail)? < size {
            // The header promised more. Zeros for it would take the place of what who
            // unpacks it has.
            return Err(failure::new(
                FailureKind::Changed,
                "a file became shorter while it was read",
                Some(name),
            ));
        }
        tar::pad(&mut self.gathered, size);
        Ok(())
    }

    /// Sends a file as long as it is when it is read.
    fn small_file(
        &mut self,
        file: &OwnedFd,
        stat: &Stat,
        name: &[u8],
        size: u64,
    ) -> Result<(), Failure> {
        let content = read_small(file, size).map_err(Self::fail(name))?;
        let size = content.len() as u64;
        self.header(b'0', stat, name, b"", size)?;
        self.gathered.extend_from_slice(&content);
        tar::pad(&mut self.gathered, size);
        Ok(())
    }

    /// Sends a file that says it is empty. Those that the kernel makes up, such
    /// as in `/proc`, say so and are not.
    fn unsized_file(&mut self, file: &OwnedFd, stat: &Stat, name: &[u8]) -> Result<(), Failure> {
        let mut content = Vec::new();
        let mut part = [0; 4096];
        loop {
            match rustix::io::read(file, &mut part) {
                // One that would wait has nothing to copy.
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(count) if content.len() + count > MAX_UNSIZED => {
                    return Err(failure::new(
                        FailureKind::Invalid,
                        "a file without a known size holds more than 16 MiB; read it with a command instead",
                        Some(name),
                    ));
                }
                Ok(count) => content.extend_from_slice(&part[..count]),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Self::fail(name)(errno)),
            }
        }
        let size = content.len() as u64;
        self.header(b'0', stat, name, b"", size)?;
        self.gathered.extend_from_slice(&content);
        tar::pad(&mut self.gathered, size);
        Ok(())
    }

    fn header(
        &mut self,
        letter: u8,
        stat: &Stat,
        name: &[u8],
        link: &[u8],
        size: u64,
    ) -> Result<(), Failure> {
        if self.gathered.len() >= GATHER {
            self.flush()?;
        }
        let (modified_s, modified_ns) = entry::modified(stat);
        let record = tar::Record {
            letter,
            name,
            link,
            size,
            mode: stat.st_mode & PERMISSION_BITS,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified_s,
            modified_ns,
            owner: &users::user_name(stat.st_uid).unwrap_or_default(),
            group: &users::group_name(stat.st_gid).unwrap_or_default(),
        };
        tar::encode(&record, &mut self.gathered);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.data
            .write_all(&self.gathered)
            .map_err(|errno| failure::system(errno, "send the archive", self.whole))?;
        self.gathered.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<LeftOut, Failure> {
        self.gathered
            .resize(self.gathered.len() + 2 * tar::BLOCK, 0);
        self.flush()?;
        Ok(self.left_out)
    }
}

/// Reads so many bytes of a file, or all that it has.
fn read_small(file: &OwnedFd, size: u64) -> rustix::io::Result<Vec<u8>> {
    let mut content = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut at = 0;
    while at < content.len() {
        match rustix::io::read(file, &mut content[at..]) {
            Ok(0) => break,
            Ok(count) => at += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    content.truncate(at);
    Ok(content)
}
