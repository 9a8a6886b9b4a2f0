//! One followed command on its connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::error::{Error, Result};
use crate::sandbox::exec::{BoxStream, ExecControl, ExecEvent, ExecSession, TtySize};
use crate::wire::error::ErrorBody;
use crate::wire::exec::cost;
use crate::wire::exec::{SignalBody, StartedReply, encode_event};
use crate::wire::frame::{Frame, Kind, WINDOW, broken, encode, encode_numbered};
use crate::wire::stream::{FrameReader, failed};
use crate::wire::{request, to_json};

/// The most bytes of output in one frame.
const PIECE: usize = WINDOW as usize;
/// Calls beside those of standard input that wait for their answers at once.
const MOST_CALLS: usize = 64;

/// Output that the client has room for.
struct Credit {
    left: AtomicI64,
    more: Notify,
}

impl Credit {
    async fn wait(&self) {
        loop {
            let more = self.more.notified();
            if self.left.load(Ordering::Acquire) > 0 {
                return;
            }
            more.await;
        }
    }

    fn take(&self, used: i64) {
        self.left.fetch_sub(used, Ordering::AcqRel);
    }

    fn add(&self, bytes: u32) -> Result<()> {
        let left = self.left.fetch_add(i64::from(bytes), Ordering::AcqRel);
        if left.saturating_add(i64::from(bytes)) > i64::from(WINDOW) {
            return Err(broken("credit for more than the window"));
        }
        self.more.notify_one();
        Ok(())
    }
}

/// Serves a session until its connection ends. Dropping the future, as the end
/// of the connection does, drops the session: that ends a command of the
/// foreground.
pub(super) async fn run<IO>(io: IO, session: ExecSession)
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(io);
    let credit = Credit {
        left: AtomicI64::new(0),
        more: Notify::new(),
    };
    let (answers, answered) = mpsc::channel(MOST_CALLS);
    let calls = Calls {
        control: session.control,
        answers,
        running: JoinSet::new(),
        input: Arc::default(),
    };
    let head = StartedReply {
        exec: session.exec,
        pid: session.pid,
    };
    let done = tokio::select! {
        done = listen(FrameReader::new(read), calls, &credit) => done,
        done = tell(write, head, session.events, answered, &credit) => done,
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a session ended early");
    }
}

/// Sends what happens, and answers.
async fn tell(
    mut io: impl AsyncWrite + Unpin + Send,
    head: StartedReply,
    events: BoxStream<Result<ExecEvent>>,
    mut answered: mpsc::Receiver<Bytes>,
    credit: &Credit,
) -> Result<()> {
    let lost = |error: std::io::Error| crate::wire::frame::broke_off().source(error);
    let first = encode(Kind::Head, &to_json(&head)?);
    io.write_all(&first).await.map_err(lost)?;
    let mut events = Some(events);
    let mut rest = None;
    loop {
        let next = async {
            credit.wait().await;
            match &mut events {
                Some(_) if rest.is_some() => rest.take().map(Ok),
                Some(events) => events.next().await,
                None => std::future::pending().await,
            }
        };
        let frame = tokio::select! {
            event = next => {
                let Some(event) = event else {
                    // It ended without an end; the client sees that.
                    return Ok(());
                };
                if !matches!(event, Ok(ref event) if !is_last(event)) {
                    events = None;
                }
                match event {
                    Ok(event) => {
                        let event = cut(event, &mut rest);
                        credit.take(cost(&event));
                        encode_event(&event)?
                    }
                    Err(error) => failed(&error),
                }
            }
            Some(answer) = answered.recv() => answer,
        };
        io.write_all(&frame).await.map_err(lost)?;
        io.flush().await.map_err(lost)?;
    }
}

/// What of an event fits a frame; the rest is put aside.
fn cut(event: ExecEvent, rest: &mut Option<ExecEvent>) -> ExecEvent {
    match event {
        ExecEvent::Stdout(mut bytes) if bytes.len() > PIECE => {
            *rest = Some(ExecEvent::Stdout(bytes.split_off(PIECE)));
            ExecEvent::Stdout(bytes)
        }
        ExecEvent::Stderr(mut bytes) if bytes.len() > PIECE => {
            *rest = Some(ExecEvent::Stderr(bytes.split_off(PIECE)));
            ExecEvent::Stderr(bytes)
        }
        other => other,
    }
}

fn is_last(event: &ExecEvent) -> bool {
    matches!(event, ExecEvent::Exited(_))
}

/// What the client asks of the command.
struct Calls {
    control: Arc<dyn ExecControl>,
    answers: mpsc::Sender<Bytes>,
    running: JoinSet<()>,
    /// Whether a call of standard input waits for its answer.
    input: Arc<AtomicBool>,
}

/// Reads what the client asks for until it goes.
async fn listen(
    mut frames: FrameReader<impl AsyncRead + Unpin + Send>,
    mut calls: Calls,
    credit: &Credit,
) -> Result<()> {
    while let Some(frame) = frames.next().await? {
        if frame.kind == Kind::Credit {
            credit.add(frame.credit()?)?;
        } else {
            calls.begin(frame)?;
        }
    }
    Ok(())
}

impl Calls {
    fn begin(&mut self, frame: Frame) -> Result<()> {
        while self.running.try_join_next().is_some() {}
        if self.running.len() >= MOST_CALLS {
            return Err(broken("more calls than may wait for their answers"));
        }
        let kind = frame.kind;
        let (number, payload) = frame.numbered()?;
        let control = Arc::clone(&self.control);
        match kind {
            Kind::Stdin | Kind::CloseStdin => {
                if self.input.swap(true, Ordering::AcqRel) {
                    return Err(broken("input before the answer to the last one"));
                }
                let busy = Arc::clone(&self.input);
                self.answer(number, async move {
                    let done = match kind {
                        Kind::Stdin => control.write_stdin(payload).await,
                        _ => control.close_stdin().await,
                    };
                    // Before the answer, after which the next call may come.
                    busy.store(false, Ordering::Release);
                    done
                });
            }
            Kind::Resize => {
                self.answer(number, async move {
                    let size: TtySize = request(&payload)?;
                    control.resize(size).await
                });
            }
            Kind::Signal => {
                self.answer(number, async move {
                    let body: SignalBody = request(&payload)?;
                    control.signal(body.signal, body.scope).await
                });
            }
            _ => return Err(broken("a frame that is no call")),
        }
        Ok(())
    }

    fn answer(&mut self, number: u32, work: impl Future<Output = Result<()>> + Send + 'static) {
        let answers = self.answers.clone();
        self.running.spawn(async move {
            let failure = match work.await {
                Ok(()) => Vec::new(),
                Err(error) => told(&error),
            };
            // Nobody hears it once the session is over.
            let _ = answers
                .send(encode_numbered(Kind::Done, number, &failure))
                .await;
        });
    }
}

fn told(error: &Error) -> Vec<u8> {
    // An answer without a body would be success.
    to_json(&ErrorBody::from(error)).unwrap_or_else(|_| b"{}".to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_than_a_frame_comes_in_pieces_and_whole() {
        for kind in [ExecEvent::Stdout, ExecEvent::Stderr] {
            let all = Bytes::from(vec![7; 2 * PIECE + 1]);
            let (mut event, mut lengths) = (Some(kind(all.clone())), Vec::new());
            while let Some(next) = event.take() {
                match cut(next, &mut event) {
                    ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => {
                        lengths.push(bytes.len());
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(lengths, [PIECE, PIECE, 1]);
        }
    }
}
