//! Reports changes below a path.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use minicbor::bytes::ByteVec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{Access, AtFlags, CWD, OFlags, accessat, statat};
use rustix::io::Errno;

use super::attributes::descriptor_path;
use super::descent;
use super::replies::Replies;
use super::{Answer, failure, list, path, staged};
use crate::protocol::Kind;
use crate::protocol::message::{Failure, FailureKind, WatchEvent, WatchKind, WatchRequest};

const EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);
const BUFFER_BYTES: usize = 64 * 1024;

struct Watch<'r, 's> {
    notifier: OwnedFd,
    root: Vec<u8>,
    recursive: bool,
    /// The relative path of each watched directory.
    paths: BTreeMap<i32, Vec<u8>>,
    replies: &'r mut Replies<'s>,
    last: Option<WatchEvent>,
}

pub(super) fn watch(
    request: &WatchRequest,
    data: BorrowedFd<'_>,
    replies: &mut Replies<'_>,
) -> Result<Answer, Failure> {
    let whole = path::check(&request.path)?;
    let fail = |errno| limit(errno, whole);
    let notifier = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(fail)?;
    let mut watch = Watch {
        notifier,
        root: path::trim(whole).to_vec(),
        recursive: request.recursive,
        paths: BTreeMap::new(),
        replies,
        last: None,
    };
    // gVisor watches what its user may not read, too.
    accessat(CWD, whole, Access::READ_OK, AtFlags::empty()).map_err(fail)?;
    let root = inotify::add_watch(&watch.notifier, whole, EVENTS).map_err(fail)?;
    watch.paths.insert(root, Vec::new());
    if request.recursive && path::is_directory(whole) {
        watch.cover(b"", false).map_err(fail)?;
    }
    watch.replies.send(Kind::Done, &[]);
    // Its Done is sent, so what ends the watch now has no frame of its own;
    // the end of the worker is what the agent reports.
    let _ = watch.follow(data);
    Ok(Answer::Sent)
}

fn limit(errno: Errno, whole: &[u8]) -> Failure {
    let mut failure = failure::system(errno, "watch the path", whole);
    if errno == Errno::NOSPC {
        failure.kind = FailureKind::Exhausted;
        "cannot watch the path: the sandbox may watch no more directories"
            .clone_into(&mut failure.message);
    }
    failure
}

impl Watch<'_, '_> {
    /// Reports until the other end of `data` closes.
    fn follow(&mut self, data: BorrowedFd<'_>) -> rustix::io::Result<()> {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER_BYTES];
        loop {
            let notifier = self.notifier.as_fd();
            let mut fds = [
                PollFd::from_borrowed_fd(notifier, PollFlags::IN),
                PollFd::from_borrowed_fd(data, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            let (changed, closing) = (fds[0].revents(), fds[1].revents());
            if !changed.is_empty() {
                for (wd, flags, name) in self.read(&mut buffer)? {
                    self.event(wd, flags, &name)?;
                }
                self.last = None;
            }
            if closing.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
                return Ok(());
            }
            if closing.contains(PollFlags::IN) {
                match rustix::io::read(data, &mut [0_u8; 64]) {
                    Ok(0) => return Ok(()),
                    Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
    }

    fn read(
        &self,
        buffer: &mut [MaybeUninit<u8>],
    ) -> rustix::io::Result<Vec<(i32, ReadFlags, Vec<u8>)>> {
        let mut reader = Reader::new(&self.notifier, buffer);
        let mut events = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => events.push((
                    event.wd(),
                    event.events(),
                    event
                        .file_name()
                        .map_or_else(Vec::new, |name| name.to_bytes().to_vec()),
                )),
                Err(Errno::AGAIN) => return Ok(events),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            if reader.is_buffer_empty() {
                return Ok(events);
            }
        }
    }

    fn event(&mut self, wd: i32, flags: ReadFlags, name: &[u8]) -> rustix::io::Result<()> {
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.report(WatchKind::Overflow, Vec::new());
            // Directories may have come to be unseen.
            if self.recursive {
                self.cover_or_overflow(b"", false)?;
            }
            return Ok(());
        }
        if flags.contains(ReadFlags::IGNORED) {
            self.paths.remove(&wd);
            return Ok(());
        }
        let Some(directory) = self.paths.get(&wd).cloned() else {
            return Ok(());
        };
        if flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) {
            // Of a directory below, the one above it tells.
            if directory.is_empty() {
                self.report(WatchKind::Removed, directory);
            }
            return Ok(());
        }
        if self.is_staged(&directory, name) {
            return Ok(());
        }
        let path = join(&directory, name);
        let is_directory = flags.contains(ReadFlags::ISDIR);
        if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            self.report(WatchKind::Created, path.clone());
            if is_directory && self.recursive {
                self.cover_or_overflow(&path, true)?;
            }
        } else if flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
            self.report(WatchKind::Removed, path.clone());
            if is_directory {
                self.forget(&path);
            }
        } else if flags.contains(ReadFlags::MODIFY) {
            self.report(WatchKind::Modified, path);
        } else if flags.contains(ReadFlags::ATTRIB) && !(is_directory && name.is_empty()) {
            self.report(WatchKind::Attributes, path);
        } else if flags.contains(ReadFlags::ATTRIB) && directory.is_empty() {
            self.report(WatchKind::Attributes, directory);
        }
        Ok(())
    }

    /// Whether a name stands for a file that is not complete yet: nobody asked
    /// for it. Files without a name are called `#` and their number here.
    fn is_staged(&self, directory: &[u8], name: &[u8]) -> bool {
        if staged::is_temporary(name) {
            return true;
        }
        let unnamed = |number: &[u8]| !number.is_empty() && number.iter().all(u8::is_ascii_digit);
        if !name.strip_prefix(b"#").is_some_and(unnamed) {
            return false;
        }
        let whole = [&self.root[..], b"/", &join(directory, name)].concat();
        statat(CWD, whole, AtFlags::SYMLINK_NOFOLLOW).is_err_and(|errno| errno == Errno::NOENT)
    }

    fn cover_or_overflow(&mut self, relative: &[u8], report: bool) -> rustix::io::Result<()> {
        match self.cover(relative, report) {
            Err(Errno::NOSPC | Errno::NOMEM | Errno::MFILE) => {
                // A directory that cannot be watched hides what happens in it.
                self.report(WatchKind::Overflow, relative.to_vec());
                Ok(())
            }
            result => result,
        }
    }

    /// Watches every directory at and below a path. What is in a new one may
    /// be older than its watch and is reported from a listing; what came
    /// between the two is reported twice.
    fn cover(&mut self, relative: &[u8], report: bool) -> rustix::io::Result<()> {
        let mut left = vec![relative.to_vec()];
        while let Some(relative) = left.pop() {
            let Ok(dir) = self.open(&relative) else {
                continue; // gone or closed to us
            };
            let flags = EVENTS | WatchFlags::ONLYDIR;
            match inotify::add_watch(&self.notifier, descriptor_path(&dir), flags) {
                Ok(wd) => {
                    self.paths.insert(wd, relative.clone());
                }
                Err(Errno::ACCESS | Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            }
            let names = descent::names(&dir).unwrap_or_default();
            for name in names.into_iter().filter(|name| !staged::is_temporary(name)) {
                let path = join(&relative, &name);
                if report {
                    self.report(WatchKind::Created, path.clone());
                }
                if list::is_real_directory(&dir, &name) {
                    left.push(path);
                }
            }
        }
        Ok(())
    }

    /// Opens a directory below the root without following a link of its name.
    fn open(&self, relative: &[u8]) -> rustix::io::Result<OwnedFd> {
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if !relative.is_empty() {
            flags |= OFlags::NOFOLLOW;
        }
        let path = if relative.is_empty() {
            self.root.clone()
        } else {
            [&self.root[..], b"/", relative].concat()
        };
        descent::open_directory(CWD, &path, flags)
    }

    /// Stops watching a directory that was moved away, and what is in it.
    fn forget(&mut self, path: &[u8]) {
        let prefix = [path, b"/"].concat();
        let gone = |watched: &[u8]| watched == path || watched.starts_with(&prefix);
        let notifier = &self.notifier;
        self.paths.retain(|wd, watched| {
            if gone(watched) {
                // A deleted one is not watched any more, which is as well.
                let _ = inotify::remove_watch(notifier, *wd);
                return false;
            }
            true
        });
    }

    /// Sends an event, unless it says what the last one of its batch said.
    fn report(&mut self, kind: WatchKind, path: Vec<u8>) {
        let event = WatchEvent {
            kind,
            path: ByteVec::from(path),
        };
        if self.last.as_ref() != Some(&event) {
            self.replies.event(&event);
            self.last = Some(event);
        }
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match (directory, name) {
        (b"", name) => name.to_vec(),
        (directory, b"") => directory.to_vec(),
        (directory, name) => [directory, b"/", name].concat(),
    }
}
