//! Lies about files, watches, archives and ports.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use stacyvm::context::Context;
use stacyvm::provider::{Connection, Endpoint, PortListener, Provider};
use stacyvm::sandbox::exec::BoxStream;
use stacyvm::sandbox::files::{
    ByteStream, ExportRequest, FileEntry, FileOperation, FileReply, FileRequest, ImportRequest,
    WatchEvent, WatchKind, WatchRequest, WriteMode, WriteRequest,
};
use stacyvm::{Error, ErrorKind, Result, SandboxId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Lie;

/// Who is said to work, instead of whoever was asked for.
pub(super) fn user(lie: Lie, user: &mut Option<String>) {
    if lie == Lie::IgnoresFileUser {
        *user = None;
    }
}

/// The operation that is done instead of the one that was asked for.
pub(super) fn asked(lie: Lie, request: &mut FileRequest) {
    user(lie, &mut request.user);
    match (lie, &mut request.operation) {
        (Lie::FollowsLinks, FileOperation::Stat { follow, .. }) => *follow = true,
        (Lie::RenamesOver, FileOperation::Rename { replace, .. }) => *replace = true,
        (Lie::RemovesMissing, FileOperation::Remove { missing_ok, .. }) => *missing_ok = true,
        (Lie::RemovesDirectories, FileOperation::Remove { recursive, .. }) => *recursive = true,
        (Lie::MakesParents, FileOperation::MakeDir { parents, .. }) => *parents = true,
        (Lie::IgnoresDirectoryModes, FileOperation::MakeDir { mode, .. }) => *mode = 0o755,
        (Lie::ListsOneLevel, FileOperation::List { depth, .. }) => *depth = 1,
        (Lie::IgnoresRecursion, FileOperation::SetAttributes { recursive, .. }) => {
            *recursive = false;
        }
        (Lie::FindsWithoutEnd, FileOperation::Glob { limit, .. }) => *limit = u32::MAX,
        _ => {}
    }
}

/// What is told of an operation that was done.
pub(super) async fn told(lie: Lie, listing: bool, reply: FileReply) -> FileReply {
    let entries = match reply {
        FileReply::Entries(entries) if listing => entries,
        reply => return reply,
    };
    if !matches!(lie, Lie::HidesFiles | Lie::UnsortsLists) {
        return FileReply::Entries(entries);
    }
    let mut all: Vec<_> = entries.collect().await;
    match lie {
        Lie::UnsortsLists => all.reverse(),
        _ => drop(all.pop()),
    }
    FileReply::Entries(Box::pin(stream::iter(all)))
}

/// How a call on files is said to have ended.
pub(super) fn ended<T>(lie: Lie, done: Result<T>) -> Result<T> {
    match done {
        Err(_) if lie == Lie::HidesCauses => {
            Err(Error::new(ErrorKind::Internal, "something went wrong"))
        }
        done => done,
    }
}

/// Writes in another way than was asked for.
pub(super) async fn write(
    lie: Lie,
    inner: &Arc<dyn Provider>,
    cx: &Context,
    id: &SandboxId,
    mut request: WriteRequest,
    data: ByteStream,
) -> Result<FileEntry> {
    user(lie, &mut request.user);
    match (lie, request.how) {
        (Lie::IgnoresModes, _) => request.mode = None,
        (Lie::MakesParents, _) => request.parents = true,
        (Lie::IgnoresAppend, WriteMode::Append) | (Lie::IgnoresCreateNew, WriteMode::CreateNew) => {
            request.how = WriteMode::Replace;
        }
        (Lie::EmptiesFirst, WriteMode::Replace) => {
            let nothing = Box::pin(stream::empty());
            inner.write_file(cx, id, &request, nothing).await?;
        }
        _ => {}
    }
    match (lie, request.how) {
        (Lie::CutsWrites, _) => {
            let data = super::liar::cut(data).await;
            inner.write_file(cx, id, &request, data).await
        }
        (Lie::KeepsHalves, _) => {
            let good = data.take_while(|piece| std::future::ready(piece.is_ok()));
            inner.write_file(cx, id, &request, Box::pin(good)).await
        }
        (Lie::RepeatsAppends, WriteMode::Append) => {
            let pieces: Vec<Result<Bytes>> = data.collect().await;
            let pieces: Vec<Bytes> = pieces.into_iter().collect::<Result<_>>()?;
            let again = pieces.clone().into_iter().map(Ok);
            let first = Box::pin(stream::iter(again));
            inner.write_file(cx, id, &request, first).await?;
            let second = Box::pin(stream::iter(pieces.into_iter().map(Ok)));
            inner.write_file(cx, id, &request, second).await
        }
        _ => inner.write_file(cx, id, &request, data).await,
    }
}

/// What a watch tells.
pub(super) async fn watch(
    lie: Lie,
    inner: &Arc<dyn Provider>,
    cx: &Context,
    id: &SandboxId,
    mut request: WatchRequest,
) -> Result<BoxStream<Result<WatchEvent>>> {
    user(lie, &mut request.user);
    match lie {
        Lie::WatchesFlat => request.recursive = false,
        Lie::WatchesLate => {
            let (inner, cx, id) = (Arc::clone(inner), cx.clone(), id.clone());
            let begin = async move {
                match inner.watch(&cx, &id, &request).await {
                    Ok(events) => events,
                    Err(error) => Box::pin(stream::iter([Err(error)])),
                }
            };
            return Ok(Box::pin(stream::once(begin).flatten()));
        }
        _ => {}
    }
    let events = inner.watch(cx, id, &request).await?;
    Ok(match lie {
        Lie::WatchesNothing => super::liar::with(Box::pin(stream::pending()), events),
        Lie::HidesOverflow => Box::pin(events.filter(|event| {
            let lost = matches!(event, Ok(event) if event.kind == WatchKind::Overflow);
            std::future::ready(!lost)
        })),
        _ => events,
    })
}

/// The archive that is sent instead of the one that was asked for.
pub(super) fn exported(lie: Lie, request: &mut ExportRequest) {
    user(lie, &mut request.user);
    if lie == Lie::FollowsExports {
        request.follow = true;
    }
}

/// How an archive is unpacked instead.
pub(super) fn imported(lie: Lie, request: &mut ImportRequest) {
    user(lie, &mut request.user);
    if lie == Lie::IgnoresImportOwners {
        request.keep_owner = false;
    }
}

/// How unpacking is said to have ended.
pub(super) fn unpacked(lie: Lie, done: Result<()>) -> Result<()> {
    match done {
        Err(error)
            if lie == Lie::HidesBadArchives && error.kind() == ErrorKind::InvalidArgument =>
        {
            Ok(())
        }
        done => done,
    }
}

/// What a dial is said to have given.
pub(super) fn dialled(lie: Lie, dialled: Result<Connection>) -> Result<Connection> {
    match (lie, dialled) {
        (Lie::DialsNothing, Ok(_)) => {
            let (near, _) = tokio::io::duplex(1);
            Ok(Box::new(near))
        }
        (Lie::DialsNobody, Err(error)) if error.kind() == ErrorKind::NotFound => {
            let (near, _) = tokio::io::duplex(1);
            Ok(Box::new(near))
        }
        (Lie::EndsBothWays, Ok(inner)) => Ok(Box::new(OneEnd {
            inner,
            ended: false,
        })),
        (_, dialled) => dialled,
    }
}

/// The address that is said to be a port's.
pub(super) fn given(lie: Lie, given: Result<Endpoint>) -> Result<Endpoint> {
    match given {
        Err(_) if lie == Lie::GivesEndpoints => Ok(Endpoint {
            address: "127.0.0.1:1".to_owned(),
            headers: BTreeMap::new(),
        }),
        given => given,
    }
}

/// What comes to a listener.
pub(super) fn listened(lie: Lie, mut listener: PortListener) -> PortListener {
    if lie == Lie::ListensToNobody {
        let pending = Box::pin(stream::pending());
        listener.incoming = super::liar::with(pending, listener.incoming);
    }
    listener
}

/// A connection that ends both ways when one does.
struct OneEnd {
    inner: Connection,
    ended: bool,
}

impl AsyncRead for OneEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Poller<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for OneEnd {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Poller<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<std::io::Result<()>> {
        self.ended = true;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
