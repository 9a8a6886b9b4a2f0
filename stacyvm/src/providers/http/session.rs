//! A followed command.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::transport::Switched;
use crate::error::{Error, ErrorKind, Result};
use crate::id::ExecId;
use crate::sandbox::exec::{ExecControl, ExecEvent, ExecSession, SignalScope, TtySize};
use crate::wire::error::ErrorBody;
use crate::wire::exec::{SignalBody, StartedReply, cost, decode_event};
use crate::wire::frame::{EVENT, Frame, Kind, WINDOW, broke_off, broken, encode, encode_numbered};
use crate::wire::stream::FrameReader;
use crate::wire::{reply, to_json};

/// Bytes of standard input that are sent at once.
const PIECE: usize = 64 << 10;
/// Bytes of output after which the server is told that there is room again.
const STEP: i64 = WINDOW as i64 / 2;
/// Events that may wait: what credit allows, the one that passes it, and an error.
const MOST_EVENTS: usize = (WINDOW / EVENT) as usize + 2;
/// Calls that may wait for their answers.
const MOST_CALLS: usize = 32;
/// Frames that may wait to be sent: those calls, and credit.
const MOST_FRAMES: usize = MOST_CALLS + 8;

/// Reads how a command began, and follows it; `stdin` is whether its standard input was
/// asked for.
pub(super) async fn open(io: Switched, asked: &ExecId, stdin: bool) -> Result<ExecSession> {
    let (read, write) = tokio::io::split(io);
    let mut frames = FrameReader::new(read);
    let first = frames.next().await?.ok_or_else(broke_off)?;
    let head: StartedReply = match first.kind {
        Kind::Head => reply(&first.payload)?,
        Kind::Error => return Err(told(&first.payload)),
        _ => return Err(broken("a session without a head")),
    };
    if head.exec != *asked {
        return Err(broken("another command than the one that was asked for"));
    }
    let shared = Arc::new(Shared {
        room: AtomicI64::new(0),
        calls: Mutex::default(),
    });
    let (sender, outgoing) = mpsc::channel(MOST_FRAMES);
    let (happened, events) = mpsc::channel(MOST_EVENTS);
    let reader = tokio::spawn(listen(frames, happened, Arc::clone(&shared)));
    let writer = tokio::spawn(send(write, outgoing));
    let control = Control {
        shared: Arc::clone(&shared),
        sender: sender.clone(),
        places: Arc::new(Semaphore::new(MOST_CALLS)),
        stdin,
        input: tokio::sync::Mutex::default(),
    };
    let events = Events {
        arrived: events,
        // The first who wants to read gives all of it.
        taken: i64::from(WINDOW),
        open: Some(Open {
            sender,
            tasks: [reader.abort_handle(), writer.abort_handle()],
        }),
        shared,
    };
    Ok(ExecSession {
        exec: head.exec,
        pid: head.pid,
        events: Box::pin(events),
        control: Arc::new(control),
    })
}

/// What both halves of a session know.
struct Shared {
    /// Output that the server may still send.
    room: AtomicI64,
    calls: Mutex<Calls>,
}

#[derive(Default)]
struct Calls {
    next: u32,
    waiting: HashMap<u32, Waiting>,
    /// The command has ended.
    ended: bool,
    /// Nothing comes any more.
    closed: bool,
}

/// Who waits for an answer, and the place of the call.
struct Waiting {
    answer: oneshot::Sender<Result<()>>,
    _place: OwnedSemaphorePermit,
}

impl Shared {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that wait are told by the loss of their senders.
    fn close(&self) {
        let mut calls = self.calls();
        calls.closed = true;
        calls.waiting.clear();
    }
}

async fn send(mut io: WriteHalf<Switched>, mut outgoing: mpsc::Receiver<Bytes>) {
    while let Some(frame) = outgoing.recv().await {
        let written = async {
            io.write_all(&frame).await?;
            io.flush().await
        };
        // The reader sees what became of the connection.
        if written.await.is_err() {
            return;
        }
    }
    // Nobody wants anything any more, which the server sees by this.
    let _ = io.shutdown().await;
}

/// Reads until the connection ends. What waits for those who read events is
/// bounded by the credit that they gave.
async fn listen(
    mut frames: FrameReader<ReadHalf<Switched>>,
    happened: mpsc::Sender<Result<ExecEvent>>,
    shared: Arc<Shared>,
) {
    let mut ended = false;
    let failure = loop {
        let frame = match frames.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => break broke_off(),
            Err(error) => break error,
        };
        match take(frame, ended, &shared) {
            Ok(Some(event)) => {
                if matches!(event, Ok(ExecEvent::Exited(_)) | Err(_)) {
                    ended = true;
                    shared.calls().ended = true;
                }
                // Whoever followed it may be gone; answers still come.
                if let Err(TrySendError::Full(_)) = happened.try_send(event) {
                    break broken("more events than it had credit for");
                }
            }
            Ok(None) => {}
            Err(error) => break error,
        }
    };
    shared.close();
    if !ended {
        // Whoever reads slowly is waited for: nothing else comes any more.
        let _ = happened.send(Err(failure)).await;
    }
}

/// What a frame says to those who read events, if anything.
fn take(frame: Frame, ended: bool, shared: &Shared) -> Result<Option<Result<ExecEvent>>> {
    match frame.kind {
        Kind::Done => {
            let (number, payload) = frame.numbered()?;
            let waiting = shared.calls().waiting.remove(&number);
            let waiting = waiting.ok_or_else(|| broken("an answer to no call"))?;
            let answer = if payload.is_empty() {
                Ok(())
            } else {
                Err(told(&payload))
            };
            // Whoever asked may be gone.
            let _ = waiting.answer.send(answer);
            return Ok(None);
        }
        _ if ended => return Err(broken("an event after the end")),
        Kind::Error => return Ok(Some(Err(told(&frame.payload)))),
        _ => {}
    }
    let event = decode_event(&frame)?;
    let event = event.ok_or_else(|| broken("a frame that is no event"))?;
    if shared.room.fetch_sub(cost(&event), Ordering::AcqRel) <= 0 {
        return Err(broken("more events than it had credit for"));
    }
    Ok(Some(Ok(event)))
}

fn told(payload: &[u8]) -> Error {
    match reply::<ErrorBody>(payload) {
        Ok(body) => body.into_error(),
        Err(error) => error,
    }
}

/// What happens. Dropping it before the end ends the connection.
struct Events {
    arrived: mpsc::Receiver<Result<ExecEvent>>,
    /// Output that was taken and not told yet.
    taken: i64,
    open: Option<Open>,
    shared: Arc<Shared>,
}

struct Open {
    sender: mpsc::Sender<Bytes>,
    tasks: [AbortHandle; 2],
}

impl Stream for Events {
    type Item = Result<ExecEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(open) = &this.open else {
            return Poll::Ready(None);
        };
        if this.taken >= STEP {
            this.shared.room.fetch_add(this.taken, Ordering::AcqRel);
            let credit = u32::try_from(this.taken).unwrap_or(u32::MAX);
            this.taken = 0;
            // A connection that is lost is told by the next event.
            let _ = open
                .sender
                .try_send(encode(Kind::Credit, &credit.to_be_bytes()));
        }
        let event = ready!(this.arrived.poll_recv(cx));
        match &event {
            Some(Ok(
                event @ (ExecEvent::Stdout(_) | ExecEvent::Stderr(_) | ExecEvent::Lost { .. }),
            )) => this.taken += cost(event),
            // The control goes on: the connection ends with it.
            Some(Ok(ExecEvent::Exited(_)) | Err(_)) | None => this.open = None,
        }
        Poll::Ready(event)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            open.tasks.iter().for_each(AbortHandle::abort);
            self.shared.close();
        }
    }
}

/// Input, signals and size.
struct Control {
    shared: Arc<Shared>,
    sender: mpsc::Sender<Bytes>,
    places: Arc<Semaphore>,
    /// Whether standard input was asked for.
    stdin: bool,
    /// The answer to input whose writer is gone: the next one waits for it.
    input: tokio::sync::Mutex<Option<oneshot::Receiver<Result<()>>>>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    async fn begin(&self, kind: Kind, payload: &[u8]) -> Result<oneshot::Receiver<Result<()>>> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        // It is never closed.
        let place = place.map_err(|_| broke_off())?;
        let (done, answer) = oneshot::channel();
        let mut calls = self.shared.calls();
        if calls.closed {
            return Err(self.over(&calls, kind));
        }
        let number = calls.next;
        calls.next = number.wrapping_add(1);
        let waiting = Waiting {
            answer: done,
            _place: place,
        };
        calls.waiting.insert(number, waiting);
        // A writer that is gone is told by the reader; there is room for each place.
        let _ = self.sender.try_send(encode_numbered(kind, number, payload));
        Ok(answer)
    }

    /// Why nothing can be asked any more.
    #[expect(clippy::unused_self, reason = "it is what a control says")]
    fn over(&self, calls: &Calls, kind: Kind) -> Error {
        match (calls.ended, kind) {
            (true, Kind::Signal) => Error::new(ErrorKind::NotFound, "the command has ended"),
            (true, _) => Error::new(ErrorKind::Conflict, "the command has ended"),
            (false, _) => Error::new(
                ErrorKind::Unavailable,
                "the command is not followed any more",
            ),
        }
    }

    async fn call(&self, kind: Kind, payload: &[u8]) -> Result<()> {
        let answer = self.begin(kind, payload).await?;
        answer
            .await
            .unwrap_or_else(|_| Err(self.over(&self.shared.calls(), kind)))
    }

    /// One at a time: a call whose future was dropped is waited for by the next.
    async fn input(&self, kind: Kind, payload: &[u8]) -> Result<()> {
        let mut last = self.input.lock().await;
        if let Some(answer) = last.as_mut() {
            // What it said was for the one who is gone.
            let _ = answer.await;
            *last = None;
        }
        let answer = last.insert(self.begin(kind, payload).await?);
        let done = answer.await;
        *last = None;
        done.unwrap_or_else(|_| Err(self.over(&self.shared.calls(), kind)))
    }
}

#[async_trait]
impl ExecControl for Control {
    async fn write_stdin(&self, data: Bytes) -> Result<()> {
        if !self.stdin {
            let remedy = "ask for standard input when the command is started or followed";
            return Err(Error::invalid("stdin", "false", "true", remedy));
        }
        if data.is_empty() {
            return self.input(Kind::Stdin, &data).await;
        }
        for piece in data.chunks(PIECE) {
            self.input(Kind::Stdin, piece).await?;
        }
        Ok(())
    }

    async fn close_stdin(&self) -> Result<()> {
        match self.input(Kind::CloseStdin, &[]).await {
            // A command that has ended reads no more.
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
            done => done,
        }
    }

    async fn signal(&self, signal: i32, scope: SignalScope) -> Result<()> {
        let body = to_json(&SignalBody { signal, scope })?;
        self.call(Kind::Signal, &body).await
    }

    async fn resize(&self, size: TtySize) -> Result<()> {
        self.call(Kind::Resize, &to_json(&size)?).await
    }
}
