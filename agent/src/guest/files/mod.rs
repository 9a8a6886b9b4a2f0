//! The file operations inside the sandbox.
//!
//! Each runs in a worker: a forked process with one thread that has taken the
//! credentials of the requesting user and holds no capability. So the kernel
//! decides what it may touch and plain blocking calls are right. What remains
//! ours is to be safe against links and races below the paths we are given:
//! whatever recurses does so by directory descriptors and never through a link.

mod attributes;
mod descent;
mod entry;
mod export;
mod failure;
mod glob;
mod import;
mod list;
mod make;
mod path;
mod pattern;
mod read;
mod remove;
mod rename;
mod replies;
mod staged;
mod stream;
pub mod tar;
mod watch;
mod write;

#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;

use rustix::fs::Mode;

use crate::protocol::Kind;
use crate::protocol::message::{
    self, Entry, ExportRequest, Failure, FailureKind, FileKind, FileOperation, FileRequest,
    ImportRequest, ReadRequest, WatchRequest, WriteRequest,
};
use replies::Replies;

/// One file operation, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileTask {
    /// An operation without data.
    Operation(FileRequest),
    /// Reads a file.
    Read(ReadRequest),
    /// Writes a file.
    Write(WriteRequest),
    /// Reports changes.
    Watch(WatchRequest),
    /// Sends a path as a tar stream.
    Export(ExportRequest),
    /// The same, with a name of its own for what is sent. No request asks for
    /// it; hosts do, for a copy that gets another name.
    ExportAs(ExportRequest, Vec<u8>),
    /// Unpacks a tar stream.
    Import(ImportRequest),
    /// Unpacks a tar stream that must hold this one member and nothing else; of
    /// one that does not, nothing is seen. No request asks for it; hosts do, as
    /// they do not trust the sender.
    ImportOne(ImportRequest, Expected),
}

/// The one member of an archive, as the receiver knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its name.
    pub name: Vec<u8>,
    /// What it is; never a directory.
    pub kind: FileKind,
    /// The name that it gets.
    pub becomes: Vec<u8>,
}

/// The last frame of an operation that succeeded.
#[derive(Debug)]
enum Answer {
    Done,
    Entry(Box<Entry>),
    /// The operation sent its [`Kind::Done`] earlier.
    Sent,
}

impl FileTask {
    /// Decodes a request; `None` where the kind is not a file operation.
    ///
    /// # Errors
    ///
    /// The payload is not the message of this kind.
    pub fn decode(kind: Kind, payload: &[u8]) -> Option<Result<Self, Failure>> {
        let task = match kind {
            Kind::File => message::decode(payload).map(Self::Operation),
            Kind::ReadFile => message::decode(payload).map(Self::Read),
            Kind::WriteFile => message::decode(payload).map(Self::Write),
            Kind::Watch => message::decode(payload).map(Self::Watch),
            Kind::ExportTar => message::decode(payload).map(Self::Export),
            Kind::ImportTar => message::decode(payload).map(Self::Import),
            _ => return None,
        };
        Some(task.map_err(|_| {
            failure::new(
                FailureKind::Invalid,
                format!("payload is not a valid {} request", kind.name()),
                None,
            )
        }))
    }

    /// The user that the worker must become; the sandbox's default when `None`.
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::Operation(request) => request.user.as_deref(),
            Self::Read(request) => request.user.as_deref(),
            Self::Write(request) => request.user.as_deref(),
            Self::Watch(request) => request.user.as_deref(),
            Self::Export(request) | Self::ExportAs(request, _) => request.user.as_deref(),
            Self::Import(request) | Self::ImportOne(request, _) => request.user.as_deref(),
        }
    }
}

/// Runs one operation to its end, in the calling process.
///
/// The caller is a worker of its own: it has the user's credentials, one
/// thread, and SIGPIPE ignored; its umask is cleared here. `data` carries the
/// bytes of a file or an archive: written for [`FileTask::Read`] and
/// [`FileTask::Export`], read until its end for [`FileTask::Write`] and
/// the imports; a [`FileTask::Watch`] ends when its other end closes.
/// `reply` sends a frame. The last frame is sent exactly once, after all bytes
/// were written to `data`; a watch sends its `Done` first.
///
/// Killing the process at any time leaves no half-written file under a visible
/// name; appends and archives keep what had arrived.
pub fn run(task: &FileTask, data: BorrowedFd<'_>, reply: &mut dyn FnMut(Kind, &[u8])) {
    // What is made gets exactly the permission bits asked for.
    rustix::process::umask(Mode::empty());
    transfer(task, data, reply);
}

/// As [`run`], for a process that goes on: its umask is left alone, and takes
/// its share of the permission bits of what is made.
pub fn transfer(task: &FileTask, data: BorrowedFd<'_>, reply: &mut dyn FnMut(Kind, &[u8])) {
    let mut replies = Replies::new(reply);
    let answer = match task {
        FileTask::Operation(request) => operate(&request.operation, &mut replies),
        FileTask::Read(request) => read::read(request, data, &mut replies),
        FileTask::Write(request) => write::write(request, data),
        FileTask::Watch(request) => watch::watch(request, data, &mut replies),
        FileTask::Export(request) => export::export(request, None, data, &mut replies),
        FileTask::ExportAs(request, name) => {
            export::export(request, Some(name), data, &mut replies)
        }
        FileTask::Import(request) => import::import(request, None, data),
        FileTask::ImportOne(request, expected) => import::import(request, Some(expected), data),
    };
    match answer {
        Ok(Answer::Done) => replies.send(Kind::Done, &[]),
        Ok(Answer::Entry(entry)) => replies.send(Kind::Entry, &message::encode(&*entry)),
        Ok(Answer::Sent) => {}
        Err(failure) => replies.send(Kind::Failure, &message::encode(&failure)),
    }
}

fn operate(operation: &FileOperation, replies: &mut Replies<'_>) -> Result<Answer, Failure> {
    match operation {
        FileOperation::Stat { path, follow } => list::stat(path, *follow),
        FileOperation::List { path, depth } => list::list(path, *depth, replies),
        FileOperation::MakeDir {
            path,
            parents,
            mode,
        } => make::make_dir(path, *parents, *mode),
        FileOperation::Rename { from, to, replace } => rename::rename(from, to, *replace),
        FileOperation::Remove {
            path,
            recursive,
            missing_ok,
        } => remove::remove(path, *recursive, *missing_ok),
        FileOperation::SetAttributes {
            path,
            mode,
            owner,
            group,
            modified_s,
            recursive,
            follow,
            modified_ns,
        } => attributes::set(
            path,
            &attributes::Change::resolve(
                *mode,
                owner.as_deref(),
                group.as_deref(),
                modified_s.map(|seconds| (seconds, modified_ns.unwrap_or(0).min(999_999_999))),
            )?,
            *recursive,
            *follow,
        ),
        FileOperation::Glob { pattern, limit } => glob::glob(pattern, *limit, replies),
        FileOperation::Link { target, path } => make::link(target, path),
    }
}
