//! The task that moves the bytes of one connection.
//!
//! One task reads and writes, so that no frame needs a switch between tasks:
//! it reads on while bytes are there and wakes a reader only when its stream
//! was empty. An idle connection parks a buffer of [`IDLE_BUFFER`] bytes.

use std::collections::VecDeque;
use std::future::Future;
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use stacyvm_agent::protocol::{HEADER_BYTES, HEARTBEAT_SECONDS, Header};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::error::Closed;
use super::outbox::{self, Turn};
use super::shared::Shared;
use super::stream::{COPY_LIMIT, Payload};

/// Bytes of the buffer that waits on an idle connection.
const IDLE_BUFFER: usize = 4 * 1024;
/// Bytes of the buffer while small frames stream in.
const BUSY_BUFFER: usize = 64 * 1024;
/// Bytes that are made ready for one write.
const WRITE_BATCH: usize = 256 * 1024;
/// Reads after which other tasks get their turn.
const READS_PER_TURN: usize = 32;
/// Silence after which a connection with heartbeats is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// The longest time that the last frames of a connection without users take.
const FAREWELL: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Driver<S> {
    shared: Arc<Shared>,
    stream: S,
    staging: BytesMut,
    body: Option<Body>,
    /// Bytes that go out next, in order.
    writing: VecDeque<Bytes>,
    unflushed: bool,
    heartbeat: Option<Heartbeat>,
    farewell: Option<Pin<Box<Sleep>>>,
}

/// A large frame that is being read into a buffer of its own.
struct Body {
    header: Header,
    bytes: BytesMut,
}

struct Heartbeat {
    heard: Instant,
    asked: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Takes over a connection after its handshake; `staging` holds what was
    /// read beyond it.
    pub(super) fn new(shared: Arc<Shared>, stream: S, staging: BytesMut, heartbeat: bool) -> Self {
        let heartbeat = heartbeat.then(|| {
            let now = Instant::now();
            Heartbeat {
                heard: now,
                asked: None,
                timer: Box::pin(sleep_until(now + Duration::from_secs(HEARTBEAT_SECONDS))),
            }
        });
        Self {
            shared,
            stream,
            staging,
            body: None,
            writing: VecDeque::new(),
            unflushed: false,
            heartbeat,
            farewell: None,
        }
    }

    /// Writes what is queued. Ready when nothing is left.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        loop {
            if self.writing.is_empty() {
                self.gather();
            }
            if self.writing.is_empty() {
                if self.unflushed {
                    ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(|e| lost(&e))?;
                    self.unflushed = false;
                }
                return Poll::Ready(Ok(()));
            }
            let mut slices = [IoSlice::new(&[]); 64];
            let mut count = 0;
            for (slice, bytes) in slices.iter_mut().zip(&self.writing) {
                *slice = IoSlice::new(bytes);
                count += 1;
            }
            let written =
                ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count]))
                    .map_err(|e| lost(&e))?;
            if written == 0 {
                return Poll::Ready(Err(Closed::gone("the connection to the agent ended")));
            }
            self.unflushed = true;
            self.advance(written);
        }
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(front) = self.writing.front_mut() {
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.writing.pop_front();
        }
    }

    /// Moves frames from the outbox to the write queue, most urgent first.
    fn gather(&mut self) {
        let mut bytes = 0;
        let mut frames = 0;
        while bytes < WRITE_BATCH && frames < 32 {
            let turn = self.shared.outbox().next();
            let before = self.writing.len();
            match turn {
                Turn::Nothing => return,
                Turn::Frame(head, payload) => {
                    self.writing.push_back(head);
                    self.writing.extend(payload);
                }
                Turn::Credit(stream) => outbox::credit(&stream, &mut self.writing),
                Turn::Data(stream) => {
                    let (more, ended) = outbox::data(&stream, &mut self.writing);
                    if more {
                        self.shared.outbox().line.push_back(stream);
                    } else if ended {
                        self.shared.settle(&stream);
                    }
                }
            }
            frames += 1;
            bytes += self.writing.range(before..).map(Bytes::len).sum::<usize>();
        }
    }

    /// Reads once and takes in the frames that are whole.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        if let Some(body) = &mut self.body {
            let missing = body.header.length as usize - body.bytes.len();
            ready!(poll_fill(&mut self.stream, cx, &mut body.bytes, missing))?;
            if body.bytes.len() == body.header.length as usize
                && let Some(body) = self.body.take()
            {
                let payload = Payload::Owned(body.bytes.freeze());
                self.shared
                    .receive(body.header.stream, body.header.kind, payload)?;
            }
            return Poll::Ready(Ok(()));
        }
        let wanted = self.wanted();
        if self.staging.capacity() < wanted {
            self.staging.reserve(wanted - self.staging.len());
        }
        let room = self.staging.capacity() - self.staging.len();
        let polled = poll_fill(&mut self.stream, cx, &mut self.staging, room);
        if polled.is_pending() && self.staging.is_empty() && self.staging.capacity() > IDLE_BUFFER {
            self.staging = BytesMut::with_capacity(IDLE_BUFFER);
        }
        let count = ready!(polled)?;
        let large = self.take_in()?;
        if count == room && !large && self.staging.capacity() < BUSY_BUFFER {
            self.staging.reserve(BUSY_BUFFER - self.staging.len());
        }
        Poll::Ready(Ok(()))
    }

    /// Bytes that the staging buffer needs for the frame at its front.
    fn wanted(&self) -> usize {
        match self.front() {
            Some(Ok(header)) => (HEADER_BYTES + header.length as usize).max(IDLE_BUFFER),
            _ => IDLE_BUFFER,
        }
    }

    fn front(&self) -> Option<Result<Header, Closed>> {
        let head = self.staging.first_chunk::<HEADER_BYTES>()?;
        Some(Header::decode(head).map_err(|e| Closed::protocol(format!("the agent sent a {e}"))))
    }

    /// Takes in every whole frame of the staging buffer. True where a large
    /// frame began.
    fn take_in(&mut self) -> Result<bool, Closed> {
        while let Some(header) = self.front() {
            let header = header?;
            let length = header.length as usize;
            if length > COPY_LIMIT {
                self.staging.advance(HEADER_BYTES);
                let mut bytes = BytesMut::with_capacity(length);
                let here = self.staging.len().min(length);
                bytes.extend_from_slice(&self.staging[..here]);
                self.staging.advance(here);
                if here == length {
                    let payload = Payload::Owned(bytes.freeze());
                    self.shared.receive(header.stream, header.kind, payload)?;
                    continue;
                }
                self.body = Some(Body { header, bytes });
                if self.staging.capacity() > IDLE_BUFFER {
                    self.staging = BytesMut::with_capacity(IDLE_BUFFER);
                }
                return Ok(true);
            }
            if self.staging.len() < HEADER_BYTES + length {
                break;
            }
            let payload = Payload::Borrowed(&self.staging[HEADER_BYTES..HEADER_BYTES + length]);
            self.shared.receive(header.stream, header.kind, payload)?;
            self.staging.advance(HEADER_BYTES + length);
        }
        Ok(false)
    }

    /// Asks an idle agent whether it is there, and notices when it is not.
    fn poll_heartbeat(&mut self, cx: &mut Context<'_>) -> Result<(), Closed> {
        let Some(heartbeat) = &mut self.heartbeat else {
            return Ok(());
        };
        while heartbeat.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let interval = Duration::from_secs(HEARTBEAT_SECONDS);
            if heartbeat
                .asked
                .is_some_and(|asked| heartbeat.heard >= asked)
            {
                heartbeat.asked = None;
            }
            let next = match heartbeat.asked {
                Some(asked) if now >= asked + SILENCE => {
                    return Err(Closed::unavailable(format!(
                        "the agent did not answer for {} seconds",
                        SILENCE.as_secs()
                    )));
                }
                Some(asked) => (now + interval).min(asked + SILENCE),
                // The agent drops a silent host, so a ping goes out even while
                // it is the only one that speaks.
                None => {
                    heartbeat.asked = Some(now);
                    self.shared.outbox().ping = true;
                    now + interval
                }
            };
            heartbeat.timer.as_mut().reset(next);
        }
        Ok(())
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        self.shared.driver.register(cx.waker());
        // What the handshake read beyond its end.
        if self.body.is_none() {
            self.take_in()?;
        }
        for _ in 0..READS_PER_TURN {
            if let Some(closed) = self.shared.closed_cause() {
                return Poll::Ready(Err(closed));
            }
            self.poll_heartbeat(cx)?;
            let written = self.poll_write(cx)?;
            if self.shared.is_released() {
                if written.is_ready() {
                    // The other end learns of the end by it.
                    let _ = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
                    return Poll::Ready(Ok(()));
                }
                let farewell = self
                    .farewell
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(FAREWELL)));
                if farewell.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(()));
                }
            }
            ready!(self.poll_read(cx))?;
            if let Some(heartbeat) = &mut self.heartbeat {
                heartbeat.heard = Instant::now();
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let closed = match ready!(this.poll_all(cx)) {
            Ok(()) => Closed::unavailable("nobody uses the connection any more"),
            Err(closed) => closed,
        };
        if this.shared.closed_cause().is_none() {
            tracing::debug!(kind = %closed.kind, cause = %closed.error().message(), "agent connection closed");
        }
        this.shared.close(closed);
        Poll::Ready(())
    }
}

impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.shared.close(Closed::unavailable(
            "the connection ended with the runtime that it was made on",
        ));
    }
}

/// Reads once into `buffer`, at most `most` bytes.
fn poll_fill<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    most: usize,
) -> Poll<Result<usize, Closed>> {
    let mut limited = buffer.limit(most);
    // The future holds no state between polls.
    let read = pin!(stream.read_buf(&mut limited));
    match ready!(read.poll(cx)) {
        Ok(0) => Poll::Ready(Err(Closed::gone("the connection to the agent ended"))),
        Ok(count) => Poll::Ready(Ok(count)),
        Err(e) => Poll::Ready(Err(lost(&e))),
    }
}

fn lost(error: &std::io::Error) -> Closed {
    Closed::gone(format!("the connection to the agent was lost: {error}"))
}
