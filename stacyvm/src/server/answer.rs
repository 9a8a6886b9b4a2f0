//! Responses.

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame as BodyFrame;
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::sandbox::exec::BoxStream;
use crate::wire::error::{ErrorBody, status};
use crate::wire::{FRAMES, JSON, stream, to_json};

/// The body of a response. It does not fail: what goes wrong in the middle is its
/// last frame.
pub(super) type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

fn response(code: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).boxed_unsync()
}

/// A reply in JSON.
pub(super) fn json(value: &impl Serialize) -> Result<Response<Body>> {
    Ok(response(StatusCode::OK, JSON, full(to_json(value)?)))
}

/// An error.
pub(super) fn error(error: &Error) -> Response<Body> {
    let body = to_json(&ErrorBody::from(error)).unwrap_or_default();
    let code = StatusCode::from_u16(status(error.kind()));
    let code = code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response(code, JSON, full(body))
}

/// A body of frames.
pub(super) fn frames<T: Send + 'static>(
    head: Option<Bytes>,
    source: BoxStream<Result<T>>,
    write: fn(T) -> Result<Bytes>,
    end: impl FnOnce() -> Result<Bytes> + Send + 'static,
) -> Response<Body> {
    let all = stream::body(head, source, write, end);
    let body = StreamBody::new(all.map(|bytes| bytes.map(BodyFrame::data)));
    response(StatusCode::OK, FRAMES, body.boxed_unsync())
}

/// `101 Switching Protocols`.
pub(super) fn switching(protocol: &'static str) -> Response<Body> {
    let mut response = Response::new(full(Vec::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(protocol));
    response
}
