//! What is looked at before anything else of a request, and how its body is read.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http_body_util::{BodyDataStream, BodyExt as _, Limited};
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, ORIGIN, UPGRADE};
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;

use crate::error::{Error, ErrorKind, Result};
use crate::id::TenantId;
use crate::sandbox::exec::BoxStream;
use crate::wire::frame::Kind;
use crate::wire::stream::{Frames, Step};
use crate::wire::{FRAMES, JSON, LONGEST_BODY, TENANT, request};

/// How long a body in JSON, or the first frame of another one, may take.
const SLOWEST_BODY: Duration = Duration::from_secs(30);

/// Refuses what comes from a browser, or was sent to another name than this
/// host's loopback ones: a page of somebody else could have had it sent.
pub(super) fn check(headers: &HeaderMap) -> Result<()> {
    if let Some(name) = [ORIGIN.as_str(), "sec-fetch-site"]
        .into_iter()
        .find(|name| headers.contains_key(*name))
    {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            format!("the request has the header `{name}`, expected none: browsers are not served"),
        )
        .context("field", name));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    let mut host = host.unwrap_or_default();
    if hosts.next().is_some() {
        host = "there twice";
    }
    if is_loopback(host) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::PermissionDenied,
        format!(
            "the header `host` is `{host}`, expected one `localhost` or loopback address; name the server so"
        ),
    )
    .context("field", "host")
    .context("value", host))
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, port)) if is_port(port) => name,
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) if is_port(&format!(":{port}")) => name,
            Some(_) => return false,
            None => host,
        },
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether this is nothing, or a colon and a port.
fn is_port(text: &str) -> bool {
    let digits = text.strip_prefix(':');
    text.is_empty() || digits.is_some_and(|digits| digits.parse::<u16>().is_ok())
}

/// The tenant that a request names.
pub(super) fn tenant(headers: &HeaderMap) -> Result<Option<TenantId>> {
    let mut all = headers.get_all(TENANT).iter();
    let Some(value) = all.next() else {
        return Ok(None);
    };
    if all.next().is_some() {
        return Err(Error::invalid(
            TENANT,
            "there twice",
            "one tenant",
            "send the header once",
        ));
    }
    let text = value.to_str().map_err(|_| {
        Error::invalid(
            TENANT,
            "no text",
            "the id of a tenant",
            "leave it out for the default one",
        )
    })?;
    TenantId::new(text).map(Some)
}

/// Whether the body is of this type; parameters behind it do not matter.
fn check_type(headers: &HeaderMap, expected: &str) -> Result<()> {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let given = value.unwrap_or_default();
    let name = given.split(';').next().unwrap_or_default().trim();
    if name.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(Error::invalid(
        "content-type",
        given,
        expected,
        "send the body that docs/openapi.json has",
    ))
}

/// The body of a request in JSON.
pub(super) async fn body<T: DeserializeOwned>(incoming: Request<Incoming>) -> Result<T> {
    check_type(incoming.headers(), JSON)?;
    let limited = Limited::new(incoming.into_body(), LONGEST_BODY).collect();
    let read = tokio::time::timeout(SLOWEST_BODY, limited).await;
    let read = read.map_err(|_| slow())?;
    let bytes = read.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            return Error::invalid(
                "body",
                "longer",
                &format!("at most {LONGEST_BODY} bytes"),
                "hand large values over in files",
            );
        }
        bad_body("one that broke off").source(error)
    })?;
    request(&bytes.to_bytes())
}

/// A body of frames: its head, and what follows.
pub(super) async fn frames<T: DeserializeOwned>(
    incoming: Request<Incoming>,
) -> Result<(T, Frames)> {
    check_type(incoming.headers(), FRAMES)?;
    let data = BodyDataStream::new(incoming.into_body());
    let data = data.map_err(|error| bad_body("one that broke off").source(error));
    let mut frames = Frames::new(Box::pin(Drained(Some(data.boxed()))));
    let first = tokio::time::timeout(SLOWEST_BODY, frames.next()).await;
    match first.map_err(|_| slow())?? {
        Step::Frame(frame) if frame.kind == Kind::Head => Ok((request(&frame.payload)?, frames)),
        _ => Err(Error::invalid(
            "body",
            "frames without a head",
            "a first frame that says what is asked for",
            "send the body that docs/openapi.json has",
        )),
    }
}

/// A body that is read to its end even if nobody wants it any more: a connection
/// that is closed with bytes in it loses the answer that is on its way.
struct Drained(Option<BoxStream<Result<Bytes>>>);

/// How long, and how much of, a body that nobody wants is read.
const DRAINED_FOR: Duration = Duration::from_secs(10);
const DRAINED_BYTES: usize = 64 << 20;

impl Stream for Drained {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(body) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let item = ready!(body.as_mut().poll_next(cx));
        if !matches!(item, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(item)
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let (Some(mut body), Ok(runtime)) = (self.0.take(), Handle::try_current()) else {
            return;
        };
        runtime.spawn(tokio::time::timeout(DRAINED_FOR, async move {
            let mut left = DRAINED_BYTES;
            while let Some(Ok(bytes)) = body.next().await {
                left = left.saturating_sub(bytes.len());
                if left == 0 {
                    return;
                }
            }
        }));
    }
}

/// Whether a request asks for this protocol on its connection.
pub(super) fn check_upgrade(headers: &HeaderMap, protocol: &str) -> Result<()> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|v: &hyper::header::HeaderValue| v.to_str().ok())
    };
    let asked = text(UPGRADE).unwrap_or_default();
    let connection = text(CONNECTION).unwrap_or_default();
    let mut words = connection.split(',').map(str::trim);
    if asked.eq_ignore_ascii_case(protocol) && words.any(|w| w.eq_ignore_ascii_case("upgrade")) {
        return Ok(());
    }
    Err(Error::invalid(
        "upgrade",
        asked,
        protocol,
        "send `connection: upgrade` and this protocol",
    ))
}

/// What is wrong with a body is its sender's fault.
pub(super) fn bad_body(what: &str) -> Error {
    Error::invalid(
        "body",
        what,
        "what docs/openapi.json has",
        "send all of it, as it is described there",
    )
}

fn slow() -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!("the body did not come within {} s", SLOWEST_BODY.as_secs()),
    )
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_loopback_names_are_this_host() {
        for (host, is) in [
            ("localhost", true),
            ("LocalHost:80", true),
            ("127.0.0.1", true),
            ("127.9.9.9:65535", true),
            ("[::1]:80", true),
            ("[::1]", true),
            ("", false),
            ("localhost.evil.example", false),
            ("localhost:", false),
            ("127.0.0.1:80:80", false),
            ("127.0.0.1:99999", false),
            ("10.0.0.1", false),
            ("[::1", false),
            ("[::2]:80", false),
            ("evil.example:80", false),
            ("2130706433", false),
        ] {
            assert_eq!(is_loopback(host), is, "{host}");
        }
    }
}
