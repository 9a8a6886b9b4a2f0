//! File requests: operations, reading, writing.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;

use super::fault::OutputFault;
use super::glob;
use super::sandbox::Sandbox;
use crate::error::{Error, ErrorKind, Result};
use crate::sandbox::files::{
    ByteStream, FileEntry, FileOperation, FileReply, FileRequest, ReadRequest, WriteRequest,
};

/// Bytes of one piece of a stream.
const PIECE: usize = 64 * 1024;

pub(super) fn operate(sandbox: &Sandbox, request: &FileRequest) -> Result<FileReply> {
    let who = sandbox.account(request.user.as_deref())?.credentials;
    let users = &sandbox.fixed.users;
    let now = sandbox.now();
    sandbox.change(|state| {
        if state.gone {
            return Err(super::sandbox::gone());
        }
        let tree = &mut state.tree;
        let done = match &request.operation {
            FileOperation::Stat { path, follow } => {
                let (number, _) = tree.find(&who, path.as_bytes(), *follow)?;
                return Ok(FileReply::Entry(tree.entry(number, path.as_bytes(), users)));
            }
            FileOperation::List { path, depth } => {
                return tree.list(&who, path.as_bytes(), *depth, users).map(entries);
            }
            FileOperation::Glob { pattern, limit } => {
                return glob::glob(tree, &who, pattern.as_bytes(), *limit, users).map(entries);
            }
            FileOperation::MakeDir {
                path,
                parents,
                mode,
            } => tree
                .make_dir(&who, path.as_bytes(), *parents, *mode, now)
                .map(|_| ()),
            FileOperation::Rename { from, to, replace } => {
                tree.rename(&who, from.as_bytes(), to.as_bytes(), *replace, now)
            }
            FileOperation::Remove {
                path,
                recursive,
                missing_ok,
            } => tree.remove(&who, path.as_bytes(), *recursive, *missing_ok, now),
            FileOperation::SetAttributes {
                path,
                attributes,
                recursive,
                follow,
            } => tree.set_attributes(
                &who,
                path.as_bytes(),
                attributes,
                *recursive,
                *follow,
                users,
            ),
            FileOperation::Link { target, path } => {
                tree.link(&who, target, path.as_bytes(), now).map(|_| ())
            }
        };
        done.map(|()| FileReply::Done)
    })
}

fn entries(all: Vec<FileEntry>) -> FileReply {
    FileReply::Entries(Box::pin(futures_util::stream::iter(
        all.into_iter().map(Ok),
    )))
}

/// Bytes that somebody shares, in pieces.
pub(super) fn pieces(bytes: Arc<Vec<u8>>, from: usize, to: usize) -> ByteStream {
    Box::pin(futures_util::stream::unfold(
        (bytes, from),
        move |(bytes, at)| async move {
            if at >= to {
                return None;
            }
            let end = to.min(at + PIECE);
            let piece = Bytes::copy_from_slice(&bytes[at..end]);
            Some((Ok(piece), (bytes, end)))
        },
    ))
}

pub(super) fn read(sandbox: &Sandbox, request: &ReadRequest) -> Result<(FileEntry, ByteStream)> {
    let who = sandbox.account(request.user.as_deref())?.credentials;
    let path = request.path.as_bytes();
    let state = sandbox.alive()?;
    let (number, bytes) = state.tree.bytes(&who, path)?;
    let entry = state.tree.entry(number, path, &sandbox.fixed.users);
    drop(state);
    let clamp = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
    let from = clamp(request.offset);
    let to = request.length.map_or(bytes.len(), |length| {
        clamp(request.offset.saturating_add(length))
    });
    Ok((entry, pieces(bytes, from, to)))
}

/// Takes a stream into memory, at most as much as a disk of the sandbox holds.
pub(super) async fn collect(mut data: ByteStream, most: u64) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(piece) = data.next().await {
        let piece = piece?;
        if (all.len() + piece.len()) as u64 > most {
            return Err(Error::new(
                ErrorKind::NoSpace,
                "the data does not fit on the disk of the sandbox",
            ));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

pub(super) async fn write(
    sandbox: &Sandbox,
    request: &WriteRequest,
    data: ByteStream,
    most: u64,
) -> Result<FileEntry> {
    let who = sandbox.account(request.user.as_deref())?.credentials;
    // The tree changes in one step, after the last byte: an error of the
    // stream or a dropped future leaves the old file.
    let bytes = collect(data, most).await?;
    let now = sandbox.now();
    let path = request.path.as_bytes();
    sandbox.change(|state| {
        if state.gone {
            return Err(super::sandbox::gone());
        }
        let number = state.tree.put(
            &who,
            path,
            bytes,
            request.how,
            request.mode,
            request.parents,
            now,
        )?;
        Ok(state.tree.entry(number, path, &sandbox.fixed.users))
    })
}

/// Lets a stream break off as a fault wants it.
pub(super) fn spoil(data: ByteStream, fault: OutputFault) -> ByteStream {
    Box::pin(futures_util::stream::unfold(
        Some((data, fault)),
        |state| async move {
            let (mut data, mut fault) = state?;
            let broken = || Error::new(ErrorKind::SandboxGone, "the connection broke off");
            if fault.is_lost() {
                return Some((Err(broken()), None));
            }
            let mut piece = match data.next().await? {
                Ok(piece) => piece,
                Err(error) => return Some((Err(error), None)),
            };
            fault.take_lose(&mut piece);
            let cut = fault.take_truncate(&mut piece) == Some(0);
            if piece.is_empty() && cut {
                return None;
            }
            Some((Ok(piece), (!cut).then_some((data, fault))))
        },
    ))
}
