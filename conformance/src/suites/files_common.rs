//! What the suites of files, watches and archives share.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use stacyvm::sandbox::exec::BoxStream;
use stacyvm::sandbox::files::{
    ByteStream, FileEntry, FileOperation, FileReply, FileRequest, GuestPath,
};
use stacyvm::{ErrorKind, Result, Sandbox};
use tokio::sync::mpsc;

use super::common::soon;
use crate::case::{Checked, Failure};
use crate::fixture::Fixture;

/// Bytes that are there already, as a stream of one piece.
pub(super) fn whole(bytes: impl Into<Bytes>) -> ByteStream {
    Box::pin(stream::iter([Ok(bytes.into())]))
}

/// A stream that gets its pieces while it is read.
pub(super) fn fed() -> (mpsc::Sender<Result<Bytes>>, ByteStream) {
    let (sender, receiver) = mpsc::channel(1);
    let pieces = stream::unfold(receiver, |mut receiver: mpsc::Receiver<_>| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    (sender, Box::pin(pieces))
}

/// Hands one piece to a stream of [`fed`].
pub(super) async fn feed(to: &mpsc::Sender<Result<Bytes>>, piece: Result<Bytes>) -> Checked {
    let sent = soon("a piece is taken", to.send(piece)).await?;
    sent.map_err(|_| Failure::broken("the stream was given up before its end"))
}

/// Reads a stream to its end.
pub(super) async fn drained<E: Into<Bytes>>(
    mut data: impl futures_util::Stream<Item = Result<E>> + Unpin + Send,
) -> Checked<Result<Vec<u8>>> {
    let mut all = Vec::new();
    while let Some(piece) = soon("the next piece", data.next()).await? {
        match piece {
            Ok(piece) => all.extend_from_slice(&piece.into()),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(all))
}

/// A file operation at the provider itself, by the default user.
pub(super) async fn operate(
    f: &Fixture,
    sandbox: &Sandbox,
    operation: FileOperation,
) -> Result<FileReply> {
    let request = FileRequest {
        user: None,
        operation,
    };
    f.provider().file(f.context(), sandbox.id(), &request).await
}

/// Gathers a listing.
pub(super) async fn gathered(mut entries: BoxStream<Result<FileEntry>>) -> Checked<Vec<FileEntry>> {
    let mut all = Vec::new();
    while let Some(entry) = soon("the next entry", entries.next()).await? {
        all.push(entry?);
    }
    Ok(all)
}

/// The paths of entries, as text.
pub(super) fn paths(entries: &[FileEntry]) -> Vec<String> {
    let text = |entry: &FileEntry| String::from_utf8_lossy(&entry.path).into_owned();
    entries.iter().map(text).collect()
}

/// What is in a directory, by name.
pub(super) async fn names(sandbox: &Sandbox, path: &str) -> Checked<Vec<String>> {
    Ok(paths(&sandbox.files().list(path).await?))
}

/// The numbers of the default user and group.
pub(super) async fn me(f: &Fixture, sandbox: &Sandbox) -> Checked<(u32, u32)> {
    let mut numbers = [0; 2];
    for (number, flag) in numbers.iter_mut().zip(["-u", "-g"]) {
        let output = f.shell(sandbox, &format!("id {flag}")).await?;
        let text = output.stdout_text();
        *number = text
            .trim_end()
            .parse()
            .map_err(|_| Failure::broken(format!("`id {flag}` wrote {text:?}")))?;
    }
    Ok((numbers[0], numbers[1]))
}

/// The name of a user that is not the default one and not root.
pub(super) async fn another_user(f: &Fixture, sandbox: &Sandbox) -> Checked<&'static str> {
    let (uid, _) = me(f, sandbox).await?;
    // Both are nobody's of the other.
    Ok(if uid == 65534 { "1" } else { "65534" })
}

pub(super) fn path(text: impl AsRef<[u8]>) -> Checked<GuestPath> {
    Ok(GuestPath::new(text)?)
}

/// Kinds that a call on a sandbox that ended may fail with.
pub(super) const GONE: [ErrorKind; 2] = [ErrorKind::SandboxGone, ErrorKind::NotFound];
