//! Files and archives.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame as BodyFrame;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

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
use crate::wire::stream::{Frames, Step, failed, items};
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

/// How many pieces of an upload wait to be sent.
const AHEAD: usize = 2;

/// Sends a head and data as a body of frames. The data is read by this future and by
/// nothing else: where it is dropped, the body breaks off and the server undoes the call.
/// An error of the data is the caller's own, which no server can tell better.
pub(super) async fn upload<T: DeserializeOwned>(
    transport: &Transport,
    call: Call<'_>,
    head: &impl serde::Serialize,
    data: ByteStream,
) -> Result<T> {
    let (pieces, sent) = mpsc::channel::<Bytes>(AHEAD);
    let mut failure = None;
    let first = encode(Kind::Head, &to_json(head)?);
    let reading = read_into(data, pieces, &mut failure);
    let answering = transport.upload(call, whole(first, sent));
    tokio::pin!(answering);
    let answer = tokio::select! {
        biased;
        answer = &mut answering => answer,
        // What is still to be sent is in the channel.
        () = reading => answering.await,
    };
    match (answer, failure) {
        (Err(_), Some(own)) => Err(own),
        (answer, _) => answer,
    }
}

/// Reads data, frame after frame, up to the frame that says how it ended.
async fn read_into(mut data: ByteStream, pieces: mpsc::Sender<Bytes>, failure: &mut Option<Error>) {
    loop {
        let (frame, is_last) = match data.next().await {
            Some(Ok(bytes)) => (encode_long(Kind::Data, &bytes), false),
            None => (encode(Kind::End, &[]), true),
            Some(Err(error)) => {
                *failure = Some(error);
                let told = Error::new(ErrorKind::Cancelled, "the client's data failed");
                (failed(&told), true)
            }
        };
        // Nobody takes it where the server has answered.
        if pieces.send(frame).await.is_err() || is_last {
            return;
        }
    }
}

/// A body that is whole once a frame came that says how it ended.
fn whole(head: Bytes, sent: mpsc::Receiver<Bytes>) -> Body {
    let state = Some((Some(head), sent));
    let frames = stream::unfold(state, async |state| {
        let (head, mut sent) = state?;
        let next = match head {
            Some(head) => Some(head),
            None => sent.recv().await,
        };
        let Some(frame) = next else {
            let error = Error::new(ErrorKind::Cancelled, "the call was given up");
            return Some((Err(error), None));
        };
        let is_last = is_end(&frame);
        Some((Ok(frame), (!is_last).then_some((None, sent))))
    });
    let body = StreamBody::new(frames.map(|bytes| bytes.map(BodyFrame::data)));
    body.boxed_unsync()
}

/// Whether this frame of ours says how a stream ended.
fn is_end(frame: &[u8]) -> bool {
    let kind = frame.get(4).copied();
    kind == Some(Kind::End as u8) || kind == Some(Kind::Error as u8)
}
