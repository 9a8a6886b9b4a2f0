//! Streams of frames, read and written.

use bytes::Bytes;
#[cfg(feature = "server")]
use futures_core::Stream;
use futures_util::{StreamExt as _, stream};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::error::ErrorBody;
use super::frame::{Decoder, Frame, Kind, broke_off, encode};
use crate::error::{Error, Result};
use crate::sandbox::exec::BoxStream;

/// Bytes that are taken from a connection at once.
const PIECE: usize = 64 << 10;

/// Reads frames from a connection.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    io: R,
    decoder: Decoder,
}

impl<R: AsyncRead + Unpin + Send> FrameReader<R> {
    pub(crate) fn new(io: R) -> Self {
        Self {
            io,
            decoder: Decoder::default(),
        }
    }

    /// The connection. What was read of it and not given is lost.
    #[cfg(feature = "http")]
    pub(crate) fn into_inner(self) -> R {
        self.io
    }

    /// The next frame; none where the connection ended between two.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            let buffer = self.decoder.buffer();
            buffer.reserve(PIECE);
            let read = self.io.read_buf(buffer).await;
            match read {
                Ok(0) if self.decoder.is_within_a_frame() => return Err(broke_off()),
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) => return Err(broke_off().source(error)),
            }
        }
    }
}

/// Reads frames from a body.
pub(crate) struct Frames {
    source: BoxStream<Result<Bytes>>,
    decoder: Decoder,
}

impl Frames {
    pub(crate) fn new(source: BoxStream<Result<Bytes>>) -> Self {
        Self {
            source,
            decoder: Decoder::default(),
        }
    }

    /// The next frame before the last one; none at [`Kind::End`], whose payload
    /// is kept.
    ///
    /// # Errors
    ///
    /// What [`Kind::Error`] tells; `unavailable` where the body ends before
    /// either.
    pub(crate) async fn next(&mut self) -> Result<Step> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return match frame.kind {
                    Kind::End => Ok(Step::End(frame.payload)),
                    Kind::Error => {
                        let body: ErrorBody = super::reply(&frame.payload)?;
                        Err(body.into_error())
                    }
                    _ => Ok(Step::Frame(frame)),
                };
            }
            match self.source.next().await {
                Some(bytes) => self.decoder.buffer().extend_from_slice(&bytes?),
                None => return Err(broke_off()),
            }
        }
    }
}

/// What comes next of a body of frames.
pub(crate) enum Step {
    Frame(Frame),
    /// The body is whole.
    End(Bytes),
}

/// Turns frames into what they hold, until the end or the first error; `end`
/// gets what the last frame holds.
pub(crate) fn items<T: Send + 'static>(
    frames: Frames,
    mut read: impl FnMut(Frame) -> Result<T> + Send + 'static,
    end: impl FnOnce(Bytes) -> Result<()> + Send + 'static,
) -> BoxStream<Result<T>> {
    let mut end = Some(end);
    let step = async move |state: &mut Option<Frames>| -> Option<Result<T>> {
        let frames = state.as_mut()?;
        let item = match frames.next().await {
            Ok(Step::Frame(frame)) => read(frame),
            Ok(Step::End(last)) => {
                *state = None;
                return end.take()?(last).err().map(Err);
            }
            Err(error) => Err(error),
        };
        if item.is_err() {
            *state = None;
        }
        Some(item)
    };
    let all = stream::unfold((Some(frames), step), |(mut state, mut step)| async move {
        let item = step(&mut state).await?;
        Some((item, (state, step)))
    });
    Box::pin(all)
}

/// Writes a stream as a body of frames: a head where there is one, what comes,
/// and a last frame that says how it ended.
#[cfg(feature = "server")]
pub(crate) fn body<T: Send + 'static, E: Send + 'static>(
    head: Option<Bytes>,
    source: BoxStream<Result<T>>,
    write: fn(T) -> Result<Bytes>,
    end: impl FnOnce() -> Result<Bytes> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, E>> + Send + 'static {
    let state = Some((source, end));
    let rest = stream::unfold(state, move |state| async move {
        let (mut source, end) = state?;
        let frame = match source.next().await {
            Some(item) => item.and_then(write),
            None => return Some((Ok(end().unwrap_or_else(|e| failed(&e))), None)),
        };
        match frame {
            Ok(frame) => Some((Ok(frame), Some((source, end)))),
            Err(error) => Some((Ok(failed(&error)), None)),
        }
    });
    stream::iter(head.map(Ok)).chain(rest)
}

/// The frame that ends a stream with an error.
pub(crate) fn failed(error: &Error) -> Bytes {
    let text = super::to_json(&ErrorBody::from(error));
    encode(Kind::Error, &text.unwrap_or_default())
}
