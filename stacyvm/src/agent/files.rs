//! Files over a connection.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt;
use stacyvm_agent::protocol::Kind;
use stacyvm_agent::protocol::message::{self, Entries, Entry};

use super::client::AgentClient;
use super::convert;
use super::role::Role;
use super::shared::Open;
use super::stream::{Item, SendError};
use crate::error::{Error, ErrorKind, Result};
use crate::sandbox::exec::BoxStream;
use crate::sandbox::files::{
    Archive, ByteStream, ExportRequest, FileEntry, FileOperation, FileReply, FileRequest,
    ImportRequest, LeftOut, ReadRequest, WatchEvent, WatchKind, WatchRequest, WriteRequest,
};

impl AgentClient {
    /// Does a file operation without data; see
    /// [`Provider::file`](crate::provider::Provider::file). A listing is a
    /// stream that holds one window at most.
    pub async fn file(&self, request: &FileRequest) -> Result<FileReply> {
        let name = request.operation.name();
        self.file_inner(request)
            .await
            .map_err(|e| e.operation(name))
    }

    async fn file_inner(&self, request: &FileRequest) -> Result<FileReply> {
        let payload = message::encode(&convert::file_request(request));
        match &request.operation {
            FileOperation::Stat { .. } => {
                let role = Role::Reply(Kind::Entry);
                let entry: Entry = self.ask(Kind::File, role, payload).await?;
                Ok(FileReply::Entry(convert::entry(entry)))
            }
            FileOperation::List { .. } | FileOperation::Glob { .. } => {
                let open = self.open(Kind::File, Role::Listing, payload)?;
                let mut listing = Listing {
                    open: Some(open),
                    ready: VecDeque::new(),
                };
                // The first answer tells whether there is anything to list, so
                // that a missing directory fails here and not in the stream.
                if let Some(first) = listing.next().await {
                    listing.ready.push_front(first?);
                }
                Ok(FileReply::Entries(Box::pin(listing)))
            }
            FileOperation::MakeDir { .. }
            | FileOperation::Rename { .. }
            | FileOperation::Remove { .. }
            | FileOperation::SetAttributes { .. }
            | FileOperation::Link { .. } => {
                self.done(Kind::File, payload).await?;
                Ok(FileReply::Done)
            }
        }
    }

    /// Reads a file: what it is, and its bytes.
    pub async fn read_file(&self, request: &ReadRequest) -> Result<(FileEntry, ByteStream)> {
        let payload = message::encode(&convert::read_request(request));
        let open = self.open(Kind::ReadFile, Role::Read, payload)?;
        let entry: Entry = open.read().await?;
        fault_point!("file.read-begun");
        let bytes = Bytestream {
            open: Some(open),
            left: request.length,
            first: None,
            left_out: None,
        };
        Ok((convert::entry(entry), Box::pin(bytes)))
    }

    /// Writes a file from a stream and tells what is there then. An error of
    /// `data` or a dropped future leaves the old file.
    pub async fn write_file(&self, request: &WriteRequest, data: ByteStream) -> Result<FileEntry> {
        let payload = message::encode(&convert::write_request(request));
        let open = self.open(Kind::WriteFile, Role::Upload(Kind::Entry), payload)?;
        fault_point!("file.write-asked");
        let answer = upload(&open, data).await?;
        fault_point!("file.written");
        open.decode::<Entry>(&answer).map(convert::entry)
    }

    /// Reports changes below a path; returns once every later change is seen.
    /// A reader that falls behind gets [`WatchKind::Overflow`].
    pub async fn watch(&self, request: &WatchRequest) -> Result<BoxStream<Result<WatchEvent>>> {
        let payload = message::encode(&convert::watch_request(request));
        let open = self.open(Kind::Watch, Role::Watch, payload)?;
        open.message().await?;
        Ok(Box::pin(Watching { open: Some(open) }))
    }

    /// Sends a path as a tar stream.
    pub async fn export_tar(&self, request: &ExportRequest) -> Result<Archive> {
        let payload = message::encode(&convert::export_request(request));
        let open = self.open(Kind::ExportTar, Role::Export, payload)?;
        let left_out = Arc::default();
        let mut bytes = Bytestream {
            open: Some(open),
            left: None,
            first: None,
            left_out: Some(Arc::clone(&left_out)),
        };
        // A path that cannot be sent fails here and not in the stream.
        fault_point!("file.export-asked");
        bytes.first = bytes.next().await.transpose()?;
        Ok(Archive::new(Box::pin(bytes), left_out))
    }

    /// Unpacks a tar stream.
    pub async fn import_tar(&self, request: &ImportRequest, data: ByteStream) -> Result<()> {
        let payload = message::encode(&convert::import_request(request));
        let open = self.open(Kind::ImportTar, Role::Upload(Kind::Done), payload)?;
        fault_point!("file.import-asked");
        upload(&open, data).await.map(drop)
    }
}

/// Sends all of `data`, ends it, and waits for the answer. A failure of the
/// agent ends the sending at once.
async fn upload(open: &Open, mut data: ByteStream) -> Result<Bytes> {
    loop {
        let chunk = tokio::select! {
            biased;
            answer = open.message() => return early(open, answer),
            chunk = data.next() => chunk,
        };
        let Some(chunk) = chunk else { break };
        let chunk = chunk?;
        let sent = tokio::select! {
            biased;
            answer = open.message() => return early(open, answer),
            sent = open.send(chunk) => sent,
        };
        fault_point!("file.chunk-sent");
        match sent {
            Ok(()) => {}
            // The answer says why.
            Err(SendError::StreamEnded | SendError::AfterEnd) => {
                return early(open, open.message().await);
            }
            Err(SendError::Closed(closed)) => return Err(closed.error()),
        }
    }
    match open.end() {
        Ok(()) => {}
        Err(SendError::StreamEnded | SendError::AfterEnd) => {
            return early(open, open.message().await);
        }
        Err(SendError::Closed(closed)) => return Err(closed.error()),
    }
    fault_point!("file.all-sent");
    open.message().await.map(|(_, payload)| payload)
}

/// An answer before the end of the data can only be a failure.
fn early(open: &Open, answer: Result<(Kind, Bytes)>) -> Result<Bytes> {
    match answer {
        Err(error) => Err(error),
        Ok(_) => Err(open.violation("the agent reported success before it had all the data")),
    }
}

/// The bytes of a file or an archive.
struct Bytestream {
    open: Option<Open>,
    /// Bytes that may still come, where the request has a limit.
    left: Option<u64>,
    /// What was read ahead.
    first: Option<Bytes>,
    /// Where it is put down what an archive does not hold.
    left_out: Option<Arc<OnceLock<LeftOut>>>,
}

impl Stream for Bytestream {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let Some(open) = &this.open else {
            return Poll::Ready(None);
        };
        let item = loop {
            match (std::task::ready!(open.poll_item(cx)), &this.left_out) {
                (Ok(Item::Message(Kind::LeftOut, payload)), Some(slot)) => {
                    let told = open.decode(&payload).map(convert::left_out);
                    let error = match told.map(|told| slot.set(told)) {
                        Ok(Ok(())) => continue,
                        Ok(Err(_)) => open.violation("the agent told twice what it left out"),
                        Err(error) => error,
                    };
                    this.open = None;
                    return Poll::Ready(Some(Err(error)));
                }
                (item, _) => break item,
            }
        };
        let end = match item {
            Ok(Item::Data(_, bytes)) => {
                fault_point!("file.chunk-read");
                let length = bytes.len() as u64;
                match &mut this.left {
                    Some(left) if length > *left => {
                        Some(open.violation("the agent sent more of a file than was asked for"))
                    }
                    Some(left) => {
                        *left -= length;
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                    None => return Poll::Ready(Some(Ok(bytes))),
                }
            }
            Ok(Item::Message(Kind::Done, _)) => {
                fault_point!("file.all-read");
                None
            }
            Ok(Item::Message(Kind::Failure, payload)) => Some(open.failure(&payload)),
            Ok(Item::Message(..) | Item::Accepted(_) | Item::Overflow) => {
                Some(open.violation("the agent sent no data"))
            }
            Err(closed) => Some(closed.error()),
        };
        this.open = None;
        Poll::Ready(end.map(Err))
    }
}

/// The files of a listing, decoded one frame at a time.
struct Listing {
    open: Option<Open>,
    ready: VecDeque<FileEntry>,
}

impl Stream for Listing {
    type Item = Result<FileEntry>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(entry) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(entry)));
            }
            let Some(open) = &this.open else {
                return Poll::Ready(None);
            };
            let end = match std::task::ready!(open.poll_item(cx)) {
                Ok(Item::Message(Kind::Entries, payload)) => {
                    match open.decode::<Entries>(&payload) {
                        Ok(more) => {
                            this.ready
                                .extend(more.entries.into_iter().map(convert::entry));
                            continue;
                        }
                        Err(error) => Some(error),
                    }
                }
                Ok(Item::Message(Kind::Done, _)) => None,
                Ok(Item::Message(Kind::Failure, payload)) => Some(open.failure(&payload)),
                Ok(_) => Some(open.violation("the agent sent no listing")),
                Err(closed) => Some(closed.error()),
            };
            this.open = None;
            return Poll::Ready(end.map(Err));
        }
    }
}

/// Changes, until the reader goes or the agent gives up.
struct Watching {
    open: Option<Open>,
}

impl Stream for Watching {
    type Item = Result<WatchEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(open) = &this.open else {
            return Poll::Ready(None);
        };
        let end = match std::task::ready!(open.poll_item(cx)) {
            Ok(Item::Message(Kind::WatchEvent, payload)) => {
                match open.decode::<message::WatchEvent>(&payload) {
                    Ok(event) => return Poll::Ready(Some(Ok(convert::watch_event(event)))),
                    Err(error) => error,
                }
            }
            Ok(Item::Overflow) => {
                return Poll::Ready(Some(Ok(WatchEvent {
                    kind: WatchKind::Overflow,
                    path: Vec::new(),
                })));
            }
            Ok(Item::Message(Kind::Done, _)) => {
                Error::new(ErrorKind::Unavailable, "the agent ended the watch")
            }
            Ok(Item::Message(Kind::Failure, payload)) => open.failure(&payload),
            Ok(_) => open.violation("the agent sent no change"),
            Err(closed) => closed.error(),
        };
        this.open = None;
        Poll::Ready(Some(Err(end)))
    }
}
