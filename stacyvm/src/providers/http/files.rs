//! Files and archives.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame as BodyFrame;

use super::transport::{Body, Call, Streamed, Transport};
use crate::error::{Error, ErrorKind, Result};
use crate::sandbox::exec::BoxStream;
use crate::sandbox::files::{
    Archive, ByteStream, ExportRequest, FileEntry, FileReply, FileRequest, LeftOut, ReadRequest,
    WatchEvent, WatchRequest,
};
use crate::wire::file::{
    ChangeReply, EntryReply, ExportBody, FileBody, FileDoneReply, LeftOutReply, ReadBody, WatchBody,
};
use crate::wire::frame::{Frame, Kind, broken, encode, encode_long};
use crate::wire::stream::{Frames, Step, body, items};
use crate::wire::{reply, to_json};

fn data(frame: Frame) -> Result<Bytes> {
    match frame.kind {
        Kind::Data => Ok(frame.payload),
        _ => Err(broken("a frame that is no data")),
    }
}

fn item(frame: &Frame) -> Result<&[u8]> {
    match frame.kind {
        Kind::Item => Ok(&frame.payload),
        _ => Err(broken("a frame that is no item")),
    }
}

pub(super) async fn operation(
    transport: &Transport,
    call: Call<'_>,
    request: &FileRequest,
) -> Result<FileReply> {
    match transport.stream(call, &FileBody::from(request)).await? {
        Streamed::Json(answer) => {
            let done: FileDoneReply = transport.read(answer).await?;
            done.try_into()
        }
        Streamed::Frames(frames) => {
            let read = |frame: Frame| {
                let entry: EntryReply = reply(item(&frame)?)?;
                entry.try_into()
            };
            Ok(FileReply::Entries(items(frames, read, |_| Ok(()))))
        }
    }
}

pub(super) async fn read(
    transport: &Transport,
    call: Call<'_>,
    request: &ReadRequest,
) -> Result<(FileEntry, ByteStream)> {
    let answer = transport.stream(call, &ReadBody::from(request)).await?;
    let mut frames = answer.frames()?;
    let entry = head(&mut frames).await?.try_into()?;
    Ok((entry, items(frames, data, |_| Ok(()))))
}

async fn head(frames: &mut Frames) -> Result<EntryReply> {
    match frames.next().await? {
        Step::Frame(frame) if frame.kind == Kind::Head => reply(&frame.payload),
        _ => Err(broken("a file without a head")),
    }
}

pub(super) async fn watch(
    transport: &Transport,
    call: Call<'_>,
    request: &WatchRequest,
) -> Result<BoxStream<Result<WatchEvent>>> {
    let answer = transport.stream(call, &WatchBody::from(request)).await?;
    let read = |frame: Frame| {
        let change: ChangeReply = reply(item(&frame)?)?;
        Ok(change.into())
    };
    Ok(items(answer.frames()?, read, |_| Ok(())))
}

pub(super) async fn export(
    transport: &Transport,
    call: Call<'_>,
    request: &ExportRequest,
) -> Result<Archive> {
    let answer = transport.stream(call, &ExportBody::from(request)).await?;
    let left_out = Arc::new(OnceLock::<LeftOut>::new());
    let told = Arc::clone(&left_out);
    let end = move |last: Bytes| {
        let left: LeftOutReply = reply(&last)?;
        // It is told once.
        let _ = told.set(left.into());
        Ok(())
    };
    let bytes = items(answer.frames()?, data, end);
    Ok(Archive::new(bytes, left_out))
}

/// A body of frames, and what went wrong with the data in it: that is the
/// caller's own error, which no server can tell better.
pub(super) struct Upload {
    body: Body,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Upload {
    pub(super) fn new(head: &impl serde::Serialize, bytes: ByteStream) -> Result<Self> {
        let failure = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&failure);
        let bytes = bytes.map(move |piece| {
            piece.map_err(|error| {
                *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Error::new(ErrorKind::Cancelled, "the client's data failed")
            })
        });
        let write = |bytes: Bytes| Ok(encode_long(Kind::Data, &bytes));
        let end = || Ok(encode(Kind::End, &[]));
        let head = encode(Kind::Head, &to_json(head)?);
        let frames = body::<_, Error>(Some(head), bytes.boxed(), write, end);
        let body = StreamBody::new(frames.map(|bytes| bytes.map(BodyFrame::data)));
        Ok(Self {
            body: body.boxed_unsync(),
            failure,
        })
    }

    /// The body, and what makes of the server's error the one to tell.
    pub(super) fn split(self) -> (Body, impl FnOnce(Error) -> Error + Send) {
        let failure = self.failure;
        let own = move |error| {
            let own = failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            own.unwrap_or(error)
        };
        (self.body, own)
    }
}
