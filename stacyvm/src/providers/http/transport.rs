//! Connections to the server, and calls on them.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyDataStream, BodyExt as _, Empty, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use super::config::{HttpConfig, Place};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::wire::error::ErrorBody;
use crate::wire::frame::broken;
use crate::wire::stream::Frames;
use crate::wire::{FRAMES, JSON, TENANT, reply, to_json};

/// The body of a request.
pub(super) type Body = UnsyncBoxBody<Bytes, Error>;
/// A connection that speaks another protocol now.
pub(super) type Switched = TokioIo<hyper::upgrade::Upgraded>;

/// How long a connection is kept for the next call: less than a server waits.
const KEPT: Duration = Duration::from_secs(10);
/// The most connections that are kept.
const MOST_KEPT: usize = 16;
/// The most bytes of a reply in JSON that are believed.
const LONGEST_REPLY: usize = 32 << 20;
/// When a server that cannot be reached may be tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// The way to the server.
pub(super) struct Transport {
    place: Place,
    connect_within: Duration,
    answer_within: Duration,
    kept: Mutex<Vec<Kept>>,
}

struct Kept {
    sender: SendRequest<Body>,
    since: Instant,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// One request.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) context: Option<&'a Context>,
}

impl<'a> Call<'a> {
    /// One that is made for no tenant, without a context.
    pub(super) fn plain(path: impl Into<String>) -> Self {
        Self {
            method: Method::POST,
            path: path.into(),
            context: None,
        }
    }

    pub(super) fn get(context: &'a Context, path: impl Into<String>) -> Self {
        Self::of(Method::GET, context, path)
    }

    pub(super) fn post(context: &'a Context, path: impl Into<String>) -> Self {
        Self::of(Method::POST, context, path)
    }

    pub(super) fn of(method: Method, context: &'a Context, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            context: Some(context),
        }
    }
}

impl Transport {
    pub(super) fn new(config: &HttpConfig) -> Result<Self> {
        Ok(Self {
            place: config.place()?,
            connect_within: config.connect_within,
            answer_within: config.answer_within,
            kept: Mutex::default(),
        })
    }

    fn request(
        &self,
        call: Call<'_>,
        body: Body,
        kind: Option<&str>,
        upgrade: Option<&str>,
    ) -> Result<Request<Body>> {
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(HOST, &self.place.authority);
        if let Some(context) = call.context {
            request = request.header(TENANT, context.tenant.as_str());
        }
        if let Some(kind) = kind {
            request = request.header(CONTENT_TYPE, kind);
        }
        if let Some(protocol) = upgrade {
            request = request
                .header(CONNECTION, "upgrade")
                .header(UPGRADE, protocol);
        }
        request
            .body(body)
            .map_err(|e| Error::new(ErrorKind::Internal, "cannot make a request").source(e))
    }

    /// A call that says nothing, and whose answer is read whole; of a question in
    /// bounded time.
    pub(super) async fn ask<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T> {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let is_question = call.method == Method::GET;
        let request = self.request(call, body, None, None)?;
        let answer = async { self.read(self.send(request).await?).await };
        if !is_question {
            return answer.await;
        }
        let answer = tokio::time::timeout(self.answer_within, answer).await;
        answer.unwrap_or_else(|_| Err(self.silent()))
    }

    fn silent(&self) -> Error {
        let (authority, seconds) = (&self.place.authority, self.answer_within.as_secs_f64());
        let text = format!("the server at http://{authority} did not answer within {seconds} s");
        Error::new(ErrorKind::Unavailable, text)
            .context(
                "remedy",
                "see whether `stacyvm serve` is alive there and start it again, or correct `url`",
            )
            .retry(Retry::Maybe { after: AGAIN })
    }

    /// A call in JSON whose answer is read whole.
    pub(super) async fn tell<T: DeserializeOwned>(
        &self,
        call: Call<'_>,
        body: &impl Serialize,
    ) -> Result<T> {
        let request = self.request(call, json(body)?, Some(JSON), None)?;
        self.read(self.send(request).await?).await
    }

    /// A call whose body is frames.
    pub(super) async fn upload<T: DeserializeOwned>(
        &self,
        call: Call<'_>,
        body: Body,
    ) -> Result<T> {
        let request = self.request(call, body, Some(FRAMES), None)?;
        self.read(self.send(request).await?).await
    }

    /// A call whose answer is frames, or JSON.
    pub(super) async fn stream(&self, call: Call<'_>, body: &impl Serialize) -> Result<Streamed> {
        let request = self.request(call, json(body)?, Some(JSON), None)?;
        let answer = self.send(request).await?;
        let kind = answer.response.headers().get(CONTENT_TYPE);
        if kind.is_none_or(|kind| kind.as_bytes() != FRAMES.as_bytes()) {
            return Ok(Streamed::Json(answer));
        }
        let data = BodyDataStream::new(answer.response.into_body());
        let data = data.map_err(|e| lost().source(e));
        Ok(Streamed::Frames(Frames::new(Box::pin(data))))
    }

    /// A call after which the connection speaks another protocol.
    pub(super) async fn switch(
        &self,
        call: Call<'_>,
        body: &impl Serialize,
        protocol: &'static str,
    ) -> Result<Switched> {
        let request = self.request(call, json(body)?, Some(JSON), Some(protocol))?;
        let answer = self.send(request).await?;
        let response = answer.response;
        let named = response.headers().get(UPGRADE);
        if response.status() != StatusCode::SWITCHING_PROTOCOLS
            || named.is_none_or(|named| named.as_bytes() != protocol.as_bytes())
        {
            return Err(broken("an answer that does not switch the protocol"));
        }
        let upgraded = hyper::upgrade::on(response).await;
        Ok(TokioIo::new(upgraded.map_err(|e| lost().source(e))?))
    }

    async fn send(&self, mut request: Request<Body>) -> Result<Answer> {
        loop {
            let (mut sender, was_kept) = match self.take() {
                Some(sender) => (sender, true),
                None => (self.connect().await?, false),
            };
            if sender.ready().await.is_err() {
                if was_kept {
                    continue;
                }
                return Err(lost());
            }
            match sender.try_send_request(request).await {
                Ok(response) => return Answer::of(sender, response).await,
                Err(mut failed) => match failed.take_message() {
                    // It was closed while it was kept; nothing was sent.
                    Some(again) if was_kept => request = again,
                    _ => return Err(lost().source(failed.into_error())),
                },
            }
        }
    }

    /// Reads an answer whole, and keeps its connection.
    pub(super) async fn read<T: DeserializeOwned>(&self, answer: Answer) -> Result<T> {
        let Answer { sender, response } = answer;
        let value = reply(&collect(response).await?)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MOST_KEPT {
            let since = Instant::now();
            kept.push(Kept { sender, since });
        }
        Ok(value)
    }

    fn take(&self) -> Option<SendRequest<Body>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|kept| kept.since.elapsed() < KEPT && !kept.sender.is_closed());
        kept.pop().map(|kept| kept.sender)
    }

    async fn connect(&self) -> Result<SendRequest<Body>> {
        let place = (self.place.host.as_str(), self.place.port);
        let unreached = || {
            Error::new(
                ErrorKind::Unavailable,
                format!("cannot reach the server at http://{}", self.place.authority),
            )
            .context("remedy", "start it with `stacyvm serve`, or correct `url`")
            .retry(Retry::Maybe { after: AGAIN })
        };
        let stream = tokio::time::timeout(self.connect_within, TcpStream::connect(place)).await;
        let stream = stream
            .map_err(|_| unreached())?
            .map_err(|e| unreached().source(e))?;
        // Without it small requests would only be slower.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|e| unreached().source(e))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to the server ended");
            }
        });
        Ok(sender)
    }
}

/// An answer that is no error, and its connection.
pub(super) struct Answer {
    sender: SendRequest<Body>,
    response: Response<Incoming>,
}

/// An answer that may be frames.
pub(super) enum Streamed {
    Json(Answer),
    Frames(Frames),
}

impl Streamed {
    /// The frames.
    pub(super) fn frames(self) -> Result<Frames> {
        match self {
            Self::Frames(frames) => Ok(frames),
            Self::Json(_) => Err(broken("JSON, expected frames")),
        }
    }
}

impl Answer {
    /// The answer, or the error that it tells.
    async fn of(sender: SendRequest<Body>, response: Response<Incoming>) -> Result<Self> {
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Self { sender, response });
        }
        let body = collect(response).await?;
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => Err(body.into_error()),
            Err(_) => Err(broken(&format!(
                "status {} without an error of this API; is it a stacyvm server?",
                status.as_u16()
            ))),
        }
    }
}

async fn collect(response: Response<Incoming>) -> Result<Bytes> {
    let body = Limited::new(response.into_body(), LONGEST_REPLY).collect();
    let body = body.await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            return broken(&format!("a reply of more than {LONGEST_REPLY} bytes"));
        }
        lost().source(error)
    })?;
    Ok(body.to_bytes())
}

fn json(body: &impl Serialize) -> Result<Body> {
    let body = Full::new(Bytes::from(to_json(body)?));
    Ok(body.map_err(|never| match never {}).boxed_unsync())
}

/// Whether it was done is not known.
pub(super) fn lost() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the connection to the server was lost before it had answered",
    )
    .retry(Retry::Maybe { after: AGAIN })
}
