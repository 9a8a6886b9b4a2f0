//! A command in front of a person: input, output, signals, size.

use std::io::{Read, Write};
use std::sync::Arc;

use stacyvm::sandbox::exec::{ExecControl, SignalScope};
use stacyvm::{Error, ErrorKind, ExecEvent, ExitStatus, Process, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::terminal::{self, RawMode};

const SIGKILL: i32 = 9;
const CHUNK: usize = 64 * 1024;

/// How following a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The command ended.
    Ended(ExitStatus),
    /// Nobody reads our output any more; the command was given up.
    OutputClosed,
}

/// Follows a command to its end with this process's input, output and signals.
///
/// The first interrupt goes to the command, the second kills its whole tree, a
/// third gives up. Raw mode is undone however this ends.
pub(crate) async fn follow(mut process: Process, stdin: bool, tty: bool) -> Result<Outcome> {
    let raw = if tty && stdin { RawMode::enter() } else { None };
    let feeder = stdin.then(|| tokio::spawn(feed(process.control(), read_stdin())));
    let mut stdout = Sink::start(std::io::stdout());
    let mut stderr = Sink::start(std::io::stderr());
    let mut signals = Signals::new()?;
    let control = process.control();
    let mut pending: Option<Pending> = None;
    let mut kills = 0;
    let outcome = loop {
        tokio::select! {
            event = process.next_event(), if pending.is_none() => match event? {
                Some(ExecEvent::Stdout(bytes)) => pending = stdout.pending(bytes),
                Some(ExecEvent::Stderr(bytes)) => pending = stderr.pending(bytes),
                Some(ExecEvent::Lost { .. }) => {}
                Some(ExecEvent::Exited(status)) => break Outcome::Ended(status),
                None => {
                    let text = "the command's events stopped before its end";
                    return Err(Error::new(ErrorKind::Protocol, text));
                }
            },
            written = hand_over(&mut pending) => if !written {
                break Outcome::OutputClosed;
            },
            number = signals.next() => {
                if number == SignalKind::window_change().as_raw_value() {
                    if let (true, Some(size)) = (tty, terminal::size()) {
                        // Too late for a command that has just ended.
                        let _ = control.resize(size).await;
                    }
                    continue;
                }
                kills += 1;
                // As above, for both.
                match kills {
                    1 => drop(control.signal(number, SignalScope::Group).await),
                    2 => drop(control.signal(SIGKILL, SignalScope::Tree).await),
                    _ => break Outcome::Ended(ExitStatus::Cancelled { sandbox_ended: false }),
                }
            }
        }
    };
    drop(pending);
    if let Some(feeder) = feeder {
        feeder.abort();
    }
    let written = stdout.finish().await & stderr.finish().await;
    drop(raw);
    Ok(if written {
        outcome
    } else {
        Outcome::OutputClosed
    })
}

/// Writes what is read from standard input to the command, until either ends.
async fn feed(control: Arc<dyn ExecControl>, mut input: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = input.recv().await {
        if control.write_stdin(bytes.into()).await.is_err() {
            // It no longer reads, or has ended.
            return;
        }
    }
    // As above.
    let _ = control.close_stdin().await;
}

/// Hands the pending output to its sink once there is room; false when nobody
/// reads it any more.
async fn hand_over(pending: &mut Option<Pending>) -> bool {
    let Some((sender, _)) = pending else {
        return std::future::pending().await;
    };
    let Ok(permit) = sender.clone().reserve_owned().await else {
        return false;
    };
    if let Some((_, bytes)) = pending.take() {
        permit.send(bytes);
    }
    true
}

/// Output that waits for room in its sink.
type Pending = (mpsc::Sender<bytes::Bytes>, bytes::Bytes);

/// Reads standard input on a thread of its own: a read of a terminal cannot be
/// given up, and must not hold back the end of the program.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = stdin.read(&mut buffer) {
            if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// One of our outputs, written on a thread of its own, so that a slow reader
/// slows the command but not our signals.
struct Sink {
    sender: Option<mpsc::Sender<bytes::Bytes>>,
    finished: Option<oneshot::Receiver<()>>,
}

impl Sink {
    fn start(mut output: impl Write + Send + 'static) -> Self {
        let (sender, mut receiver) = mpsc::channel::<bytes::Bytes>(8);
        let (done, finished) = oneshot::channel();
        std::thread::spawn(move || {
            while let Some(bytes) = receiver.blocking_recv() {
                if output
                    .write_all(&bytes)
                    .and_then(|()| output.flush())
                    .is_err()
                {
                    return;
                }
            }
            // Nobody waits when the program gave up.
            let _ = done.send(());
        });
        Self {
            sender: Some(sender),
            finished: Some(finished),
        }
    }

    fn pending(&self, bytes: bytes::Bytes) -> Option<Pending> {
        Some((self.sender.clone()?, bytes))
    }

    /// Waits until all is written; false where something could not be.
    async fn finish(&mut self) -> bool {
        self.sender = None;
        match self.finished.take() {
            // The thread that failed to write said nothing.
            Some(finished) => finished.await.is_ok(),
            None => true,
        }
    }
}

/// The signals that a person or a supervisor sends us.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    window: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| {
            signal(kind)
                .map_err(|e| Error::new(ErrorKind::Internal, "cannot listen for signals").source(e))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
            window: listen(SignalKind::window_change())?,
        })
    }

    async fn next(&mut self) -> i32 {
        let kind = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hangup.recv() => SignalKind::hangup(),
            _ = self.quit.recv() => SignalKind::quit(),
            _ = self.window.recv() => SignalKind::window_change(),
        };
        kind.as_raw_value()
    }
}

/// Runs work that a person may give up before there is a command to signal.
///
/// # Errors
///
/// The work's own, or `cancelled`.
pub(crate) async fn unless_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut signals = Signals::new()?;
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            number = signals.next() => {
                if number != SignalKind::window_change().as_raw_value() {
                    return Err(Error::new(ErrorKind::Cancelled, "interrupted"));
                }
            }
        }
    }
}
