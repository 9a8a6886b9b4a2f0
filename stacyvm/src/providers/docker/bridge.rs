//! The byte stream to an agent: an exec of the engine that copies between its
//! standard streams and the agent's socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bytes::{Buf, Bytes};
use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::error::{Error, ErrorKind, Result};

/// Bytes of the bridge's complaints that are kept.
const COMPLAINT: usize = 1024;

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;
type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// Both directions of a bridge. Dropping it ends the bridge.
pub(super) struct Bridge {
    output: Output,
    input: Input,
    rest: Bytes,
    complaint: Vec<u8>,
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
    /// neither write to it nor move it away. `/proc/1/exe` cannot be used: the
    /// agent is not dumpable, and following that link then takes a capability
    /// that the container does not have.
    pub(super) async fn open(
        docker: &Docker,
        container: &str,
        program: &str,
        socket: &str,
    ) -> Result<Self, bollard::errors::Error> {
        let exec = docker
            .create_exec(
                container,
                CreateExecOptions {
                    attach_stdin: Some(true),
                    attach_stdout: Some(true),
                    attach_stderr: Some(true),
                    tty: Some(false),
                    user: Some("0:0"),
                    working_dir: Some("/"),
                    cmd: Some(vec![program, "bridge", socket]),
                    ..Default::default()
                },
            )
            .await?;
        let options = StartExecOptions {
            // The engine sends at most 32 KiB in one piece.
            output_capacity: Some(64 * 1024),
            ..Default::default()
        };
        match docker.start_exec(&exec.id, Some(options)).await? {
            StartExecResults::Attached { output, input } => Ok(Self::new(output, input)),
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
        }
    }

    fn complain(&mut self, bytes: &[u8]) {
        let room = COMPLAINT.saturating_sub(self.complaint.len());
        self.complaint
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// What the program at the other end wrote to standard error, for people.
    pub(super) fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.complaint).trim().to_owned()
    }
}

impl AsyncRead for Bridge {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.output.as_mut().poll_next(cx)) {
                Some(Ok(LogOutput::StdOut { message })) => self.rest = message,
                // An exec that failed to start says so here, unframed or on
                // standard error; none of it is the agent's.
                Some(Ok(LogOutput::StdErr { message } | LogOutput::Console { message })) => {
                    self.complain(&message);
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
}
