//! Following a command that has pipes, as the contract says.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Mutex, mpsc, watch};

use crate::error::{Error, ErrorKind, Result};
use crate::sandbox::exec::{
    ExecControl, ExecEvent, ExecSession, ExecSpec, ExitStatus, SignalScope, TtySize,
};

/// One read.
const PIECE: usize = 64 << 10;

/// The most that a pipe may hold, and so that a command may have left in one.
const PIPE: usize = 1 << 20;

/// How long a pipe is quiet that is empty.
const QUIET: Duration = Duration::from_millis(20);

/// How long what was killed may take to be gone.
const RESISTS: Duration = Duration::from_secs(10);

const SIGKILL: i32 = 9;

/// A foreground command with pipes, as a provider started it.
///
/// [`follow`](Self::follow) makes of it what [`ExecSession`] promises: a reader that
/// stops stops the command; its deadline and the drop of the events kill it; its end is
/// that of its first process, once, after all that it wrote; what it left behind may
/// hold the pipes for ever.
pub struct Piped {
    /// The process number of its first process.
    pub pid: Option<u32>,
    /// Its standard input; closed at once where it was not asked for.
    pub stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    /// Its standard output.
    pub stdout: Pin<Box<dyn AsyncRead + Send>>,
    /// Its standard error.
    pub stderr: Pin<Box<dyn AsyncRead + Send>>,
    /// Ends when its first process has ended. It is run to its end in any case.
    pub ended: Pin<Box<dyn Future<Output = Result<ExitStatus>> + Send>>,
    /// Sends it a signal; that of a kill is SIGKILL for the whole tree, or what the
    /// provider reaches of it. Not called after the end.
    pub signal: Box<dyn Fn(i32, SignalScope) -> Result<()> + Send + Sync>,
}

impl fmt::Debug for Piped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Piped")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl Piped {
    /// The error of a command that the system did not start.
    pub fn not_started(error: std::io::Error) -> Error {
        use std::io::ErrorKind as Io;
        let kind = match error.kind() {
            Io::NotFound => ErrorKind::CommandNotFound,
            Io::PermissionDenied | Io::IsADirectory | Io::InvalidFilename => {
                ErrorKind::CommandNotExecutable
            }
            Io::ArgumentListTooLong => ErrorKind::InvalidArgument,
            _ => ErrorKind::ResourceExhausted,
        };
        Error::new(kind, "the command did not start").source(error)
    }

    /// Follows it, by a task of the current runtime.
    pub fn follow(self, spec: &ExecSpec) -> ExecSession {
        let (ended, end) = watch::channel(false);
        let control = Arc::new(Control {
            asked: spec.stdin,
            stdin: Mutex::new(self.stdin.filter(|_| spec.stdin)),
            signal: self.signal,
            end: end.clone(),
        });
        let (to, mut events) = mpsc::channel(4);
        let pumps = {
            let out = pump(self.stdout, ExecEvent::Stdout, to.clone(), end.clone());
            let err = pump(self.stderr, ExecEvent::Stderr, to.clone(), end);
            async move { tokio::join!(out, err) }
        };
        let work = Work {
            timeout: spec.timeout,
            control: Arc::clone(&control),
            ended,
            to,
        };
        tokio::spawn(work.run(self.ended, pumps));
        ExecSession {
            exec: spec.exec.clone(),
            pid: self.pid,
            events: Box::pin(stream::poll_fn(move |cx| events.poll_recv(cx))),
            control,
        }
    }
}

struct Work {
    timeout: Option<Duration>,
    control: Arc<Control>,
    ended: watch::Sender<bool>,
    to: mpsc::Sender<Result<ExecEvent>>,
}

impl Work {
    async fn run(
        self,
        mut first: Pin<Box<dyn Future<Output = Result<ExitStatus>> + Send>>,
        pumps: impl Future<Output = ((), ())> + Send + 'static,
    ) {
        // Tasks of their own: nobody may read, and the deadline passes all the same.
        let pumps = tokio::spawn(pumps);
        let sandbox_ended = false;
        let deadline = async {
            match self.timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        let cut = tokio::select! {
            biased;
            end = &mut first => Err(end),
            () = self.to.closed() => Ok(ExitStatus::Cancelled { sandbox_ended }),
            () = deadline => Ok(ExitStatus::TimedOut { sandbox_ended }),
        };
        let end = match cut {
            Err(end) => end,
            Ok(reason) => self.kill(first, reason).await,
        };
        self.ended.send_replace(true);
        // It ends with the pipes, or when they are empty; a panic in it loses output,
        // and the end is told all the same.
        drop(pumps.await);
        drop(self.to.send(end.map(ExecEvent::Exited)).await);
    }

    async fn kill(
        &self,
        first: Pin<Box<dyn Future<Output = Result<ExitStatus>> + Send>>,
        reason: ExitStatus,
    ) -> Result<ExitStatus> {
        // Where it has ended meanwhile there is nothing to kill.
        let sent = (self.control.signal)(SIGKILL, SignalScope::Tree);
        match tokio::time::timeout(RESISTS, first).await {
            Ok(Ok(ExitStatus::SandboxGone)) => Ok(ExitStatus::SandboxGone),
            Ok(Ok(_)) => Ok(reason),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let text = format!("the command did not end within {RESISTS:?} of its kill");
                let error = Error::new(ErrorKind::Timeout, text);
                Err(match sent {
                    Ok(()) => error,
                    Err(source) => error.source(source),
                })
            }
        }
    }
}

/// Hands output on, and after the command's end what it had left in the pipe: not what
/// others go on writing.
async fn pump(
    mut from: Pin<Box<dyn AsyncRead + Send>>,
    event: fn(Bytes) -> ExecEvent,
    to: mpsc::Sender<Result<ExecEvent>>,
    mut end: watch::Receiver<bool>,
) {
    let mut left = PIPE;
    while left > 0 {
        let ended = *end.borrow_and_update();
        let mut bytes = BytesMut::with_capacity(PIECE);
        let read = tokio::select! {
            biased;
            read = from.read_buf(&mut bytes) => read.unwrap_or(0),
            _ = end.changed(), if !ended => continue,
            () = tokio::time::sleep(QUIET), if ended => 0,
        };
        if read == 0 || to.send(Ok(event(bytes.freeze()))).await.is_err() {
            return;
        }
        left = if ended {
            left.saturating_sub(read)
        } else {
            PIPE
        };
    }
}

struct Control {
    asked: bool,
    stdin: Mutex<Option<Pin<Box<dyn AsyncWrite + Send>>>>,
    signal: Box<dyn Fn(i32, SignalScope) -> Result<()> + Send + Sync>,
    end: watch::Receiver<bool>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

#[async_trait]
impl ExecControl for Control {
    async fn write_stdin(&self, data: Bytes) -> Result<()> {
        if !self.asked {
            let remedy = "ask for standard input when the command is started";
            return Err(Error::invalid("stdin", "false", "true", remedy));
        }
        let closed = || Error::new(ErrorKind::Conflict, "standard input is closed");
        let mut stdin = self.stdin.lock().await;
        let writer = stdin.as_mut().ok_or_else(closed)?;
        let mut end = self.end.clone();
        let written = tokio::select! {
            biased;
            // It fails where the sender is gone, which is after the end too.
            _ = end.wait_for(|ended| *ended) => return Err(closed()),
            written = writer.write_all(&data) => written,
        };
        match written {
            Ok(()) => writer.flush().await.map_err(|_| closed()),
            Err(_) => Err(closed()),
        }
    }

    async fn close_stdin(&self) -> Result<()> {
        drop(self.stdin.lock().await.take());
        Ok(())
    }

    async fn signal(&self, signal: i32, scope: SignalScope) -> Result<()> {
        if *self.end.borrow() {
            return Err(Error::new(ErrorKind::NotFound, "the command has ended"));
        }
        (self.signal)(signal, scope)
    }

    async fn resize(&self, _: TtySize) -> Result<()> {
        Err(Error::unsupported("the command has no terminal"))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    fn command(
        stdout: impl AsyncRead + Send + 'static,
        ended: impl Future<Output = Result<ExitStatus>> + Send + 'static,
    ) -> Piped {
        Piped {
            pid: None,
            stdin: Some(Box::pin(tokio::io::sink())),
            stdout: Box::pin(stdout),
            stderr: Box::pin(tokio::io::empty()),
            ended: Box::pin(ended),
            signal: Box::new(|_, _| Ok(())),
        }
    }

    const END: ExitStatus = ExitStatus::Code { code: 3 };

    #[tokio::test]
    async fn what_others_go_on_writing_does_not_hold_the_end() {
        let spec = ExecSpec::new(["true"]);
        let session = command(tokio::io::repeat(b'x'), async { Ok(END) }).follow(&spec);
        let events: Vec<_> = session.events.collect().await;
        let sizes = events.iter().map(|event| match event {
            Ok(ExecEvent::Stdout(bytes)) => bytes.len(),
            _ => 0,
        });
        // What a pipe holds, and what was read until the end was seen.
        let read: usize = sizes.sum();
        assert!((PIPE..PIPE + 8 * PIECE).contains(&read), "{read}");
        assert!(matches!(events.last(), Some(Ok(ExecEvent::Exited(END)))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_kill_without_an_effect_is_an_error_in_bounded_time() {
        let mut spec = ExecSpec::new(["true"]);
        spec.timeout = Some(Duration::from_secs(1));
        let session = command(tokio::io::empty(), std::future::pending()).follow(&spec);
        let events: Vec<_> = session.events.collect().await;
        let [Err(error)] = events.as_slice() else {
            panic!("{events:?}")
        };
        assert_eq!(error.kind(), ErrorKind::Timeout);
    }

    #[tokio::test]
    async fn input_ends_with_the_command_and_where_nobody_asked_for_it() {
        let mut spec = ExecSpec::new(["true"]);
        let data = Bytes::from_static(b"x");
        let quiet = command(tokio::io::empty(), std::future::pending()).follow(&spec);
        let told = quiet.control.write_stdin(data.clone()).await.unwrap_err();
        assert_eq!(told.kind(), ErrorKind::InvalidArgument);
        spec.stdin = true;
        let session = command(tokio::io::empty(), async { Ok(END) }).follow(&spec);
        let events: Vec<_> = session.events.collect().await;
        assert_eq!(events.len(), 1, "{events:?}");
        let told = session.control.write_stdin(data).await.unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Conflict);
        let told = session.control.signal(SIGKILL, SignalScope::Tree).await;
        assert_eq!(told.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
