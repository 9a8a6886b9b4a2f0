//! A command in front of a person: input, output, signals, size.

use std::io::{IsTerminal, Read, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use stacyvm::sandbox::exec::{ExecControl, SignalScope};
use stacyvm::sandbox::exec_builder::DEFAULT_MAX_OUTPUT;
use stacyvm::{Error, ErrorKind, ExecEvent, ExitStatus, Process, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::terminal::{self, RawMode};

const SIGHUP: i32 = 1;
const SIGKILL: i32 = 9;
/// How long a command may go on after its terminal has closed and it writes.
const PATIENCE: Duration = Duration::from_secs(5);
const CHUNK: usize = 64 * 1024;

/// How following a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The command ended.
    Ended(ExitStatus),
    /// Nobody reads our output any more; the command was given up.
    OutputClosed,
}

/// Where a command's output goes.
#[derive(Debug)]
pub(crate) enum Out<'a> {
    /// To ours, as it comes.
    Live,
    /// Here, for a report.
    Kept(&'a mut Kept),
    /// Nowhere: the terminal is gone, and the command knows.
    Gone,
}

/// The output of a command, kept for a report.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) stdout: Stream,
    pub(crate) stderr: Stream,
}

/// The beginning of one stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) bytes: Vec<u8>,
    /// Bytes that were not kept.
    pub(crate) truncated: u64,
}

impl Stream {
    fn add(&mut self, bytes: &[u8], most: usize) {
        let room = most.saturating_sub(self.bytes.len()).min(bytes.len());
        let (kept, lost) = bytes.split_at(room);
        self.bytes.extend_from_slice(kept);
        self.truncated += lost.len() as u64;
    }
}

/// Bytes of live output that did not arrive.
#[derive(Debug, Default)]
struct Lost {
    stdout: u64,
    stderr: u64,
}

impl Lost {
    fn add(&mut self, stdout: u64, stderr: u64) {
        self.stdout = self.stdout.saturating_add(stdout);
        self.stderr = self.stderr.saturating_add(stderr);
    }

    /// One line for each stream that is not whole.
    fn lines(&self) -> Vec<String> {
        let streams = [("stdout", self.stdout), ("stderr", self.stderr)];
        let told = streams.iter().filter(|(_, bytes)| *bytes > 0).map(|(name, bytes)| {
            format!(
                "{bytes} bytes of {name} were lost: the command wrote faster than they could be passed on"
            )
        });
        told.collect()
    }
}

/// Follows a command to its end with this process's input, output and signals.
///
/// The first interrupt goes to the command, the second kills its whole tree, a
/// third gives up. A terminal that closes is told to the command as a hang-up,
/// once; it then has a moment to end. Raw mode is undone however this ends.
pub(crate) async fn follow(
    mut process: Process,
    signals: &mut Signals,
    (stdin, tty): (bool, bool),
    mut out: Out<'_>,
) -> Result<Outcome> {
    let raw = if tty && stdin { RawMode::enter() } else { None };
    let unread = Arc::new(OnceLock::new());
    let feeder = stdin.then(|| {
        let input = read_stdin(Arc::clone(&unread));
        tokio::spawn(feed(process.control(), input))
    });
    let mut stdout = Sink::start("standard output", std::io::stdout());
    let mut stderr = Sink::start("standard error", std::io::stderr());
    let control = process.control();
    let mut pending: Option<Pending> = None;
    let mut lost = Lost::default();
    let mut kills = 0;
    let mut hung_up = false;
    let mut patience = std::pin::pin!(tokio::time::sleep(Duration::MAX));
    let outcome = loop {
        tokio::select! {
            event = process.next_event(), if pending.is_none() => match (event?, &mut out) {
                (Some(ExecEvent::Stdout(bytes)), Out::Live) => pending = stdout.pending(bytes),
                (Some(ExecEvent::Stderr(bytes)), Out::Live) => pending = stderr.pending(bytes),
                (Some(ExecEvent::Stdout(bytes)), Out::Kept(kept)) => {
                    kept.stdout.add(&bytes, DEFAULT_MAX_OUTPUT);
                }
                (Some(ExecEvent::Stderr(bytes)), Out::Kept(kept)) => {
                    kept.stderr.add(&bytes, DEFAULT_MAX_OUTPUT);
                }
                (Some(ExecEvent::Lost { stdout, stderr }), Out::Kept(kept)) => {
                    // A server may tell any number.
                    kept.stdout.truncated = kept.stdout.truncated.saturating_add(stdout);
                    kept.stderr.truncated = kept.stderr.truncated.saturating_add(stderr);
                }
                (Some(ExecEvent::Lost { stdout, stderr }), Out::Live) => lost.add(stdout, stderr),
                (Some(ExecEvent::Stdout(_) | ExecEvent::Stderr(_) | ExecEvent::Lost { .. }), Out::Gone) => {}
                (Some(ExecEvent::Exited(status)), _) => break Outcome::Ended(status),
                (None, _) => {
                    let text = "the command's events stopped before its end";
                    return Err(Error::new(ErrorKind::Protocol, text));
                }
            },
            written = hand_over(&mut pending) => if !written {
                stdout.check()?;
                stderr.check()?;
                if !tty {
                    break Outcome::OutputClosed;
                }
                pending = None;
                out = Out::Gone;
                patience.as_mut().reset(Instant::now() + PATIENCE);
                if !std::mem::replace(&mut hung_up, true) {
                    // Too late for a command that has just ended.
                    let _ = control.signal(SIGHUP, SignalScope::Group).await;
                }
            },
            () = &mut patience => break Outcome::OutputClosed,
            number = signals.next() => {
                if number == SignalKind::window_change().as_raw_value() {
                    if let (true, Some(size)) = (tty, terminal::size()) {
                        // Too late for a command that has just ended.
                        let _ = control.resize(size).await;
                    }
                    continue;
                }
                // A shell that goes and its terminal both send one.
                if number == SIGHUP && std::mem::replace(&mut hung_up, true) {
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
    let written = tokio::select! {
        biased;
        written = async { Ok(stdout.finish().await? & stderr.finish().await?) } => written,
        // Nobody reads, and whoever waits for us has had enough.
        () = signals.interrupted() => Ok(false),
    };
    drop(raw);
    for line in lost.lines() {
        crate::output::remark(&line);
    }
    let written = written?;
    // A terminal that has closed cannot be read either, which is told already.
    if !hung_up && let Some(error) = unread.get() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "standard input could not be read to its end, so the command did not get all of it: {error}"
            ),
        )
        .context("field", "standard input")
        .context("remedy", "give a file, a pipe or a terminal that can be read, or leave -i out"));
    }
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
/// given up, and must not hold back the end of the program. An error is put where
/// it is looked for before the command learns of the end of its input.
fn read_stdin(failed: Arc<OnceLock<std::io::Error>>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; CHUNK];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Set once, by this thread alone.
                    let _ = failed.set(error);
                    return;
                }
            }
        }
    });
    receiver
}

/// One of our outputs, written on a thread of its own, so that a slow reader
/// slows the command but not our signals.
struct Sink {
    sender: Option<mpsc::Sender<bytes::Bytes>>,
    finished: Option<oneshot::Receiver<std::io::Result<()>>>,
    name: &'static str,
    is_terminal: bool,
    /// Nobody reads it any more.
    closed: bool,
}

impl Sink {
    fn start(name: &'static str, mut output: impl Write + IsTerminal + Send + 'static) -> Self {
        let is_terminal = output.is_terminal();
        let (sender, mut receiver) = mpsc::channel::<bytes::Bytes>(8);
        let (done, finished) = oneshot::channel();
        std::thread::spawn(move || {
            while let Some(bytes) = receiver.blocking_recv() {
                let written = output.write_all(&bytes).and_then(|()| output.flush());
                if written.is_err() {
                    // Before the channel closes, so that who sees that finds it.
                    let _ = done.send(written);
                    return;
                }
            }
            // Nobody waits when the program gave up, here and above.
            let _ = done.send(Ok(()));
        });
        Self {
            sender: Some(sender),
            finished: Some(finished),
            name,
            is_terminal,
            closed: false,
        }
    }

    /// Whether it can still be written, as far as is known now.
    ///
    /// # Errors
    ///
    /// Why it cannot, unless nobody reads it any more.
    fn check(&mut self) -> Result<()> {
        match self.finished.as_mut().map(oneshot::Receiver::try_recv) {
            Some(Ok(written)) => self.judge(written),
            _ => Ok(()),
        }
    }

    fn judge(&mut self, written: std::io::Result<()>) -> Result<()> {
        self.finished = None;
        let Err(error) = written else { return Ok(()) };
        // A terminal that has closed answers so.
        let hung_up = self.is_terminal
            && rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::IO);
        self.closed = hung_up || error.kind() == std::io::ErrorKind::BrokenPipe;
        if self.closed {
            return Ok(());
        }
        let text = format!("cannot write to {}", self.name);
        Err(Error::new(ErrorKind::Internal, text).source(error))
    }

    fn pending(&self, bytes: bytes::Bytes) -> Option<Pending> {
        Some((self.sender.clone()?, bytes))
    }

    /// Waits until all is written; false where nobody reads it.
    ///
    /// # Errors
    ///
    /// Those of [`check`](Self::check).
    async fn finish(&mut self) -> Result<bool> {
        self.sender = None;
        if let Some(finished) = self.finished.take() {
            // The thread ends with a word, or with the program.
            self.judge(finished.await.unwrap_or(Ok(())))?;
        }
        Ok(!self.closed)
    }
}

/// The signals that a person or a supervisor sends us.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    window: Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self> {
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

    /// Runs work that a person may give up before there is a command to signal.
    ///
    /// # Errors
    ///
    /// The work's own, or `cancelled`.
    pub(crate) async fn unless_interrupted<T>(
        &mut self,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = self.interrupted() => Err(Error::new(ErrorKind::Cancelled, "interrupted")),
        }
    }

    /// Waits for a signal that is meant to end something.
    async fn interrupted(&mut self) {
        while self.next().await == SignalKind::window_change().as_raw_value() {}
    }
}

/// As [`Signals::unless_interrupted`], for work that no command follows.
///
/// # Errors
///
/// The work's own, or `cancelled`.
pub(crate) async fn unless_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    Signals::new()?.unless_interrupted(work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_is_counted() {
        let mut stream = Stream::default();
        stream.add(b"abc", 4);
        stream.add(b"def", 4);
        assert_eq!((&stream.bytes[..], stream.truncated), (&b"abcd"[..], 2));
    }

    #[test]
    fn live_output_that_was_lost_is_told_once_for_each_stream() {
        let mut lost = Lost::default();
        assert_eq!(lost.lines(), Vec::<String>::new());
        lost.add(3, 0);
        lost.add(4, 0);
        let lines = lost.lines();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("7 bytes of stdout were lost"));
        lost.add(u64::MAX, u64::MAX);
        let lines = lost.lines();
        assert_eq!(lines.len(), 2);
        assert!(lines[1].starts_with(&format!("{} bytes of stderr were lost", u64::MAX)));
    }
}
