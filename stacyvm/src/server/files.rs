//! Files and archives.

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use hyper::Response;

use super::answer::{self, Body};
use super::guard;
use super::route::Call;
use crate::error::{ErrorKind, Result};
use crate::id::SandboxId;
use crate::provider::Provider as _;
use crate::sandbox::files::{ByteStream, FileEntry, FileReply, WatchEvent};
use crate::wire::file::{
    ChangeReply, EntryReply, ExportBody, FileBody, FileDoneReply, ImportBody, LeftOutReply,
    ReadBody, WatchBody, WriteBody,
};
use crate::wire::frame::{Frame, Kind, encode, encode_long};
use crate::wire::sandbox::DoneReply;
use crate::wire::stream::{Frames, items};
use crate::wire::to_json;

fn entry(entry: FileEntry) -> Result<Bytes> {
    Ok(encode(Kind::Item, &to_json(&EntryReply::from(entry))?))
}

fn change(event: WatchEvent) -> Result<Bytes> {
    Ok(encode(Kind::Item, &to_json(&ChangeReply::from(event))?))
}

#[expect(
    clippy::unnecessary_wraps,
    clippy::needless_pass_by_value,
    reason = "other items are written so"
)]
fn data(bytes: Bytes) -> Result<Bytes> {
    Ok(encode_long(Kind::Data, &bytes))
}

#[expect(clippy::unnecessary_wraps, reason = "other ends can fail")]
fn plain_end() -> Result<Bytes> {
    Ok(encode(Kind::End, &[]))
}

/// What the frames of a request hold, until its last one.
fn uploaded(frames: Frames) -> ByteStream {
    let read = |frame: Frame| match frame.kind {
        Kind::Data => Ok(frame.payload),
        _ => Err(guard::bad_body("one with a frame that is no data")),
    };
    items(frames, read, |_| Ok(()))
        .map_err(|error| match error.kind() {
            ErrorKind::Protocol => guard::bad_body("one whose frames are none").source(error),
            _ => error,
        })
        .boxed()
}

pub(super) async fn operation(call: Call, id: &SandboxId) -> Result<Response<Body>> {
    let body: FileBody = guard::body(call.request).await?;
    let request = body.try_into()?;
    let provider = &call.state.provider;
    match provider.file(&call.context, id, &request).await? {
        FileReply::Done => answer::json(&FileDoneReply::default()),
        FileReply::Entry(entry) => answer::json(&FileDoneReply {
            entry: Some(entry.into()),
        }),
        FileReply::Entries(entries) => Ok(answer::frames(None, entries, entry, plain_end)),
    }
}

pub(super) async fn read(call: Call, id: &SandboxId) -> Result<Response<Body>> {
    let body: ReadBody = guard::body(call.request).await?;
    let request = body.try_into()?;
    let provider = &call.state.provider;
    let (entry, bytes) = provider.read_file(&call.context, id, &request).await?;
    let head = encode(Kind::Head, &to_json(&EntryReply::from(entry))?);
    Ok(answer::frames(Some(head), bytes, data, plain_end))
}

pub(super) async fn write(call: Call, id: &SandboxId) -> Result<Response<Body>> {
    let (body, frames): (WriteBody, _) = guard::frames(call.request).await?;
    let request = body.try_into()?;
    let provider = &call.state.provider;
    let bytes = uploaded(frames);
    let entry = provider
        .write_file(&call.context, id, &request, bytes)
        .await?;
    answer::json(&EntryReply::from(entry))
}

pub(super) async fn watch(call: Call, id: &SandboxId) -> Result<Response<Body>> {
    let body: WatchBody = guard::body(call.request).await?;
    let request = body.try_into()?;
    let provider = &call.state.provider;
    let changes = provider.watch(&call.context, id, &request).await?;
    Ok(answer::frames(None, changes, change, plain_end))
}

pub(super) async fn export(call: Call, id: &SandboxId) -> Result<Response<Body>> {
    let body: ExportBody = guard::body(call.request).await?;
    let request = body.try_into()?;
    let provider = &call.state.provider;
    let archive = provider.export_tar(&call.context, id, &request).await?;
    let left_out = archive.left_out_later();
    let end = move || {
        let left = LeftOutReply::from(left_out());
        Ok(encode(Kind::End, &to_json(&left)?))
    };
    Ok(answer::frames(None, archive.boxed(), data, end))
}

pub(super) async fn import(call: Call, id: &SandboxId) -> Result<Response<Body>> {
    let (body, frames): (ImportBody, _) = guard::frames(call.request).await?;
    let request = body.try_into()?;
    let provider = &call.state.provider;
    let bytes = uploaded(frames);
    provider
        .import_tar(&call.context, id, &request, bytes)
        .await?;
    answer::json(&DoneReply {})
}
