//! Writes files.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fchmod, fstat, openat, statat};
use rustix::io::Errno;

use super::entry::PERMISSION_BITS;
use super::path::Place;
use super::staged::Staged;
use super::stream::{CHUNK, Data};
use super::{Answer, entry, failure, make, path};
use crate::protocol::message::{Failure, WriteMode, WriteRequest};

const NEW_FILE_MODE: u32 = 0o644;

pub(super) fn write(request: &WriteRequest, data: BorrowedFd<'_>) -> Result<Answer, Failure> {
    let whole = path::check(&request.path)?;
    if whole.ends_with(b"/") {
        return Err(failure::system(Errno::ISDIR, "write the file", whole));
    }
    path::split_named(whole)?;
    let mode = request.mode.map(|mode| mode & PERMISSION_BITS);
    if request.parents {
        make::make_parents(whole, make::PARENT_MODE)?;
    }
    let stat = match request.how {
        WriteMode::Replace => replace(whole, mode, data),
        WriteMode::Append => append(whole, mode, data),
        WriteMode::CreateNew => create(whole, mode, data),
    }?;
    Ok(Answer::Entry(Box::new(entry::of(&stat, whole.to_vec()))))
}

fn replace(whole: &[u8], mode: Option<u32>, data: BorrowedFd<'_>) -> Result<Stat, Failure> {
    let fail = |errno| failure::system(errno, "write the file", whole);
    let place = path::resolve(whole)?;
    let old = open_existing(&place, OFlags::empty(), whole)?;
    let mode = match (mode, &old) {
        (Some(mode), _) => mode,
        // New content never inherits the right to become somebody else.
        (None, Some((_, stat))) => stat.st_mode & 0o1777,
        (None, None) => NEW_FILE_MODE,
    };
    let staged = Staged::new(place.dir.as_fd()).map_err(fail)?;
    let stat = fill(staged.file(), Some(mode), data, whole)?;
    staged.commit(&place.name, true).map_err(fail)?;
    Ok(stat)
}

fn create(whole: &[u8], mode: Option<u32>, data: BorrowedFd<'_>) -> Result<Stat, Failure> {
    let fail = |errno| failure::system(errno, "create the file", whole);
    let (parent, name) = path::split_named(whole)?;
    let dir = path::open_parent(parent, whole)?;
    match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => return Err(fail(Errno::EXIST)),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(fail(errno)),
    }
    let staged = Staged::new(dir.as_fd()).map_err(fail)?;
    let stat = fill(
        staged.file(),
        Some(mode.unwrap_or(NEW_FILE_MODE)),
        data,
        whole,
    )?;
    staged.commit(name, false).map_err(fail)?;
    Ok(stat)
}

fn append(whole: &[u8], mode: Option<u32>, data: BorrowedFd<'_>) -> Result<Stat, Failure> {
    let fail = |errno| failure::system(errno, "append to the file", whole);
    // Another may create or remove the file between the two attempts.
    for _ in 0..16 {
        let place = path::resolve(whole)?;
        if let Some((file, _)) = open_existing(&place, OFlags::APPEND, whole)? {
            return fill(file.as_fd(), mode, data, whole);
        }
        let flags = OFlags::WRONLY
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC;
        match openat(&place.dir, &place.name[..], flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => {
                let mode = Some(mode.unwrap_or(NEW_FILE_MODE));
                return fill(file.as_fd(), mode, data, whole);
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(fail(errno)),
        }
    }
    Err(fail(Errno::EXIST))
}

/// Opens the file that is there, if any: it must be a regular one that the
/// user may write.
fn open_existing(
    place: &Place,
    more: OFlags,
    whole: &[u8],
) -> Result<Option<(OwnedFd, Stat)>, Failure> {
    let fail = |errno| failure::system(errno, "write the file", whole);
    let regular = |stat: &Stat| match entry::kind(stat) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(fail(Errno::ISDIR)),
        _ => Err(failure::invalid("path is not a regular file", whole)),
    };
    match statat(&place.dir, &place.name[..], AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => regular(&stat)?,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(fail(errno)),
    }
    let flags =
        OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut opened = openat(&place.dir, &place.name[..], flags | more, Mode::empty());
    if matches!(opened, Err(Errno::TXTBSY)) && more.is_empty() {
        // A program that runs cannot be written, but it can be replaced.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        opened = openat(&place.dir, &place.name[..], flags, Mode::empty());
    }
    match opened {
        Ok(file) => {
            let stat = fstat(&file).map_err(fail)?;
            regular(&stat)?;
            Ok(Some((file, stat)))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(fail(errno)),
    }
}

/// Copies all data into the file, then sets its mode.
fn fill(
    file: BorrowedFd<'_>,
    mode: Option<u32>,
    data: BorrowedFd<'_>,
    whole: &[u8],
) -> Result<Stat, Failure> {
    let fail = |errno| failure::system(errno, "write the file", whole);
    let data = Data(data);
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = data
            .read(&mut buffer)
            .map_err(|errno| failure::system(errno, "receive the content", whole))?;
        if count == 0 {
            break;
        }
        Data(file).write_all(&buffer[..count]).map_err(fail)?;
    }
    if let Some(mode) = mode {
        fchmod(file, Mode::from_raw_mode(mode)).map_err(fail)?;
    }
    fstat(file).map_err(fail)
}
