//! Reads files.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use super::replies::Replies;
use super::stream::Data;
use super::{Answer, entry, failure, path};
use crate::protocol::Kind;
use crate::protocol::message::{self, Failure, ReadRequest};

pub(super) fn read(
    request: &ReadRequest,
    data: BorrowedFd<'_>,
    replies: &mut Replies<'_>,
) -> Result<Answer, Failure> {
    let whole = path::check(&request.path)?;
    let fail = |errno| failure::system(errno, "read the file", whole);
    // Opening a pipe or a device must not wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(CWD, whole, flags, Mode::empty()).map_err(fail)?;
    let stat = fstat(&file).map_err(fail)?;
    match entry::kind(&stat) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(fail(Errno::ISDIR)),
        _ => return Err(failure::invalid("path is not a regular file", whole)),
    }
    let described = entry::of(&stat, whole.to_vec());
    replies.send(Kind::Entry, &message::encode(&described));
    // The file may grow while it is read, and those in /proc claim to be
    // empty: its end is where reading ends.
    let most = u64::try_from(i64::MAX).unwrap_or(u64::MAX);
    if request.offset < most {
        let length = request.length.unwrap_or(most).min(most - request.offset);
        Data(data)
            .send_file(file.as_fd(), request.offset, length)
            .map_err(fail)?;
    }
    Ok(Answer::Done)
}
