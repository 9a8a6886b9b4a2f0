//! The byte stream to an agent: an exec of the engine that copies between its
//! standard streams and the agent's socket.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ExecInspectResponse;
use bollard::query_parameters::WaitContainerOptions;
use bytes::{Buf, Bytes};
use futures_core::Stream;
use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::error::is_absent;
use super::patience::Answer;
use crate::error::{Error, ErrorKind, Result, Retry, escape};

/// Bytes of the bridge's complaints that are kept, and of its first output.
const COMPLAINT: usize = 1024;
/// How long what a container said last may be on its way.
const LAST_WITHIN: Duration = Duration::from_secs(1);

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;
type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// Both directions of a bridge. Dropping it ends the bridge.
pub(super) struct Bridge {
    output: Output,
    input: Input,
    rest: Bytes,
    complaint: Vec<u8>,
    first: Arc<Mutex<Vec<u8>>>,
    end: End,
}

/// When nothing more comes of a container, whether or not its streams end.
enum End {
    /// The streams tell.
    Streams,
    /// This future does.
    Watched(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// The container has ended; what it said last may still be on its way.
    Last(Pin<Box<Sleep>>),
}

impl End {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Watched(end) = self {
            ready!(end.as_mut().poll(cx));
            *self = Self::Last(Box::pin(sleep(LAST_WITHIN)));
        }
        match self {
            Self::Last(sleep) => sleep.as_mut().poll(cx),
            Self::Streams | Self::Watched(_) => Poll::Pending,
        }
    }
}

/// Ends when a container does; never where the engine does not tell.
async fn container_ends(docker: Docker, container: String, condition: &str) {
    let options = WaitContainerOptions {
        condition: condition.to_owned(),
    };
    let ended = docker
        .wait_container(&container, Some(options))
        .next()
        .await;
    match ended {
        // An exit code that is not 0 is an error to the client library.
        Some(Ok(_) | Err(bollard::errors::Error::DockerContainerWaitError { .. })) => {}
        Some(Err(error)) if is_absent(&error) => {}
        _ => std::future::pending().await,
    }
}

/// Which exec a bridge is, and what came of it first: where the engine cannot
/// start it, that is the engine's reason instead of the agent's bytes.
pub(super) struct Opening {
    exec: String,
    first: Arc<Mutex<Vec<u8>>>,
}

impl Opening {
    /// The error where the engine did not start this bridge; `None` where it did,
    /// or cannot tell.
    ///
    /// The engine is asked: the bytes themselves prove nothing, as once the bridge
    /// runs, whatever runs inside may imitate the engine's words. They are the text
    /// of the error alone.
    pub(super) async fn refused(&self, docker: &Docker) -> Option<Error> {
        let seen = docker.inspect_exec(&self.exec).within(docker).await.ok()?;
        if !never_ran(&seen) {
            return None;
        }
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        Some(not_started(&first))
    }
}

/// The error for a bridge that the engine did not start, with its own words.
fn not_started(said: &[u8]) -> Error {
    let error = Error::new(
        ErrorKind::Unavailable,
        "the docker engine could not start the bridge to the agent, as where memory or \
         processes are used up; end something inside, or the sandbox",
    )
    .retry(Retry::Maybe {
        after: Duration::from_millis(200),
    });
    match String::from_utf8_lossy(said).trim() {
        "" => error,
        said => error.context("engine", said),
    }
}

/// Whether an exec has ended without ever having been a process.
pub(super) fn never_ran(seen: &ExecInspectResponse) -> bool {
    let ended = seen.running == Some(false) && seen.exit_code.is_some_and(|code| code != 0);
    ended && seen.pid == Some(0)
}

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bridge").finish_non_exhaustive()
    }
}

impl Bridge {
    /// Starts a bridge in a container.
    ///
    /// It runs the agent's file by its path, which is sound because that path
    /// is a read-only mount right below the root: what runs inside can
    /// neither write to it nor move it away. `/proc/1/exe` is not used: following
    /// that link takes a capability that the container does not have, unless the
    /// agent shows its memory to whoever is its user.
    pub(super) async fn open(
        docker: &Docker,
        container: &str,
        program: &str,
        socket: &str,
    ) -> Result<(Self, Opening), bollard::errors::Error> {
        let exec = docker
            .create_exec(
                container,
                CreateExecOptions {
                    attach_stdin: Some(true),
                    attach_stdout: Some(true),
                    attach_stderr: Some(true),
                    tty: Some(false),
                    // The container's user, as the agent is.
                    user: None,
                    working_dir: Some("/"),
                    cmd: Some(vec![program, "bridge", socket]),
                    ..Default::default()
                },
            )
            .within(docker)
            .await?;
        fault_point!("docker.bridge.made");
        let options = StartExecOptions {
            // The engine sends at most 32 KiB in one piece.
            output_capacity: Some(64 * 1024),
            ..Default::default()
        };
        match docker
            .start_exec(&exec.id, Some(options))
            .within(docker)
            .await?
        {
            StartExecResults::Attached { output, input } => {
                fault_point!("docker.bridge.opened");
                let bridge = Self::new(output, input);
                let first = Arc::clone(&bridge.first);
                let exec = exec.id;
                Ok((bridge, Opening { exec, first }))
            }
            StartExecResults::Detached => Err(io::Error::other("the exec was detached").into()),
        }
    }

    /// Wraps the streams of an attached exec or container.
    pub(super) fn new(output: Output, input: Input) -> Self {
        Self {
            output,
            input,
            rest: Bytes::new(),
            complaint: Vec::new(),
            first: Arc::default(),
            end: End::Streams,
        }
    }

    /// Has it end with its container, which may not have started. The streams of gVisor
    /// stay open for some time where its kernel was killed.
    pub(super) fn ends_with(mut self, docker: &Docker, container: &str, started: bool) -> Self {
        let condition = if started { "not-running" } else { "next-exit" };
        let end = container_ends(docker.clone(), container.to_owned(), condition);
        self.end = End::Watched(Box::pin(end));
        self
    }

    /// Waits until the program at the other end said something, or has ended.
    pub(super) async fn heard(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_rest(cx)).await
    }

    /// Bytes to read, unless there is an end.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            let Poll::Ready(next) = self.output.as_mut().poll_next(cx) else {
                ready!(self.end.poll(cx));
                let ended = "its container has ended";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, ended)));
            };
            match next {
                // An exec that failed to start says so here, on any of them.
                Some(Ok(LogOutput::StdOut { message })) => {
                    self.keep_first(&message);
                    self.rest = message;
                }
                // None of this is the agent's.
                Some(Ok(LogOutput::StdErr { message } | LogOutput::Console { message })) => {
                    self.keep_first(&message);
                    keep(&mut self.complaint, &message);
                }
                Some(Ok(LogOutput::StdIn { .. })) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None if self.complaint.is_empty() => return Poll::Ready(Ok(())),
                None => {
                    let text = self.complaint();
                    self.complaint.clear();
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, text)));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Keeps the beginning of what comes first, until `Opening` is gone.
    fn keep_first(&self, bytes: &[u8]) {
        if Arc::strong_count(&self.first) > 1 {
            let first = self.first.lock();
            keep(&mut first.unwrap_or_else(PoisonError::into_inner), bytes);
        }
    }

    /// What the program at the other end wrote to standard error, for people.
    pub(super) fn complaint(&self) -> String {
        escape(String::from_utf8_lossy(&self.complaint).trim())
    }
}

fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    let room = COMPLAINT.saturating_sub(kept.len());
    kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

impl AsyncRead for Bridge {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(cx))?;
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bridge {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.input.as_mut().poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.as_mut().poll_shutdown(cx)
    }
}

/// The error for an agent that does not come up.
pub(super) fn not_answering(said: &str) -> Error {
    let error = Error::new(
        ErrorKind::Unavailable,
        "the agent inside the container does not answer, expected its greeting",
    );
    if said.is_empty() {
        error
    } else {
        error.context("said", said)
    }
}

#[cfg(test)]
#[path = "bridge_engine_tests.rs"]
mod engine_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use tokio::io::AsyncReadExt;

    fn bridge(items: Vec<LogOutput>) -> Bridge {
        Bridge::new(
            Box::pin(stream::iter(items.into_iter().map(Ok))),
            Box::pin(tokio::io::sink()),
        )
    }

    #[tokio::test]
    async fn pieces_come_out_whole_and_in_order_whatever_the_reader_takes() {
        let mut bridge = bridge(vec![
            LogOutput::StdOut {
                message: "hel".into(),
            },
            LogOutput::StdOut { message: "".into() },
            LogOutput::StdOut {
                message: "lo".into(),
            },
        ]);
        let mut seen = Vec::new();
        let mut byte = [0; 2];
        loop {
            match bridge.read(&mut byte).await.unwrap() {
                0 => break,
                n => seen.extend_from_slice(&byte[..n]),
            }
        }
        assert_eq!(seen, b"hello");
    }

    #[tokio::test]
    async fn what_is_not_the_agents_output_never_reaches_the_protocol() {
        let mut bridge = bridge(vec![
            LogOutput::StdErr {
                message: "x".repeat(5000).into(),
            },
            LogOutput::Console {
                message: "OCI runtime exec failed".into(),
            },
        ]);
        let error = bridge.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(error.to_string().len(), COMPLAINT);
        assert_eq!(bridge.read(&mut [0; 8]).await.unwrap(), 0);
    }

    #[test]
    fn only_what_never_was_a_process_was_not_started() {
        let seen = |running, exit_code, pid| ExecInspectResponse {
            running: Some(running),
            exit_code,
            pid,
            ..ExecInspectResponse::default()
        };
        assert!(never_ran(&seen(false, Some(126), Some(0))));
        for other in [
            seen(true, None, Some(0)),
            seen(true, Some(1), Some(0)),
            seen(false, Some(0), Some(0)),
            seen(false, None, Some(0)),
            seen(false, Some(126), Some(7)),
            seen(false, Some(126), None),
            ExecInspectResponse::default(),
        ] {
            assert!(!never_ran(&other), "{other:?}");
        }
    }

    #[tokio::test]
    async fn the_engines_words_are_kept_short_and_drive_no_terminal() {
        let mut bridge = bridge(vec![LogOutput::StdOut {
            message: format!("no\u{1b}[2J\r\n{}", "x".repeat(5000)).into(),
        }]);
        let first = Arc::clone(&bridge.first);
        bridge.read_to_end(&mut Vec::new()).await.unwrap();
        let first = first.lock().unwrap();
        assert_eq!(first.len(), COMPLAINT);
        let error = not_started(&first);
        let fact = error.fact("engine").unwrap();
        assert!(
            fact.starts_with("no\\u{1b}[2J") && fact.len() < 600,
            "{fact}"
        );
        assert!(!fact.contains(['\r', '\n', '\u{1b}']));
        assert_eq!(not_started(b" \r\n").fact("engine"), None);
    }
}
