//! Starting a command and gathering what it says.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::exec::{ExecEvent, ExecSpec, ExitStatus, TtySize};
use super::handle::Sandbox;
use super::process::Process;
use crate::error::{Error, ErrorKind, Result};
use crate::id::ExecId;
use crate::provider::Provider as _;

/// What [`Exec::output`] keeps of each stream unless told otherwise: 64 MiB.
pub const DEFAULT_MAX_OUTPUT: usize = 64 << 20;

/// Standard input is handed over in pieces of this size.
const STDIN_PIECE: usize = 64 << 10;

/// A command about to be started, from [`Sandbox::exec`] or [`Sandbox::shell`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> stacyvm::Result<()> {
/// # let engine = stacyvm::Engine::builder()
/// #     .provider("mock", std::sync::Arc::new(stacyvm::providers::mock::Mock::default()))
/// #     .build().await?;
/// # let sandbox = engine.create(stacyvm::SandboxSpec::image("scratch")).await?;
/// let output = sandbox.exec(["cat"]).stdin("hello").output().await?;
/// assert!(output.status.success());
/// assert_eq!(output.stdout, b"hello");
/// # Ok(())
/// # }
/// ```
#[must_use = "a command is started by `output` or `start`"]
pub struct Exec {
    sandbox: Sandbox,
    spec: ExecSpec,
    input: Option<Bytes>,
    max_output: usize,
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec")
            .field("sandbox", &self.sandbox.id())
            .field("spec", &self.spec)
            .field("input_bytes", &self.input.as_ref().map(Bytes::len))
            .field("max_output", &self.max_output)
            .finish()
    }
}

impl Exec {
    pub(super) fn new(sandbox: Sandbox, spec: ExecSpec) -> Self {
        Self {
            sandbox,
            spec,
            input: None,
            max_output: DEFAULT_MAX_OUTPUT,
        }
    }

    /// Sets the id instead of a random one, so that another process can find it.
    pub fn id(mut self, id: ExecId) -> Self {
        self.spec.exec = id;
        self
    }

    /// Adds a variable to the sandbox's environment, or replaces one.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.env.push((name.into(), value.into()));
        self
    }

    /// Adds variables.
    pub fn envs<N: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let pairs = variables.into_iter().map(|(n, v)| (n.into(), v.into()));
        self.spec.env.extend(pairs);
        self
    }

    /// Starts it in this directory.
    pub fn workdir(mut self, path: impl Into<String>) -> Self {
        self.spec.workdir = Some(path.into());
        self
    }

    /// Runs it as `name`, `uid`, `name:group` or `uid:gid`.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.spec.user = Some(user.into());
        self
    }

    /// Gives it these bytes as standard input, then the end.
    pub fn stdin(mut self, input: impl Into<Bytes>) -> Self {
        self.spec.stdin = true;
        self.input = Some(input.into());
        self
    }

    /// Makes standard input a stream that [`Process::write_stdin`] writes.
    pub fn stdin_pipe(mut self) -> Self {
        self.spec.stdin = true;
        self.input = None;
        self
    }

    /// Runs it on a terminal of this size; there is no standard error then.
    pub fn tty(mut self, size: TtySize) -> Self {
        self.spec.tty = Some(size);
        self
    }

    /// Kills its whole tree after this time.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.spec.timeout = Some(timeout);
        self
    }

    /// Lets it outlive the call and the process that started it.
    pub fn background(mut self) -> Self {
        self.spec.background = true;
        self
    }

    /// Sets how many bytes of each stream `output` keeps. What comes later is
    /// read and counted.
    pub fn max_output(mut self, bytes: usize) -> Self {
        self.max_output = bytes;
        self
    }

    /// Starts the command.
    ///
    /// # Errors
    ///
    /// Those of [`Provider::exec`](crate::provider::Provider::exec); nothing ran then.
    ///
    /// # Cancellation
    ///
    /// Dropping the future kills the whole tree of what may have started.
    pub async fn start(self) -> Result<Process> {
        let background = self.spec.background;
        let sandbox = &self.sandbox;
        let session = sandbox
            .provider()?
            .exec(sandbox.context(), sandbox.id(), &self.spec)
            .await?;
        if background {
            sandbox.record_exec(&self.spec);
        }
        let context = sandbox.context().clone();
        Ok(Process::new(session, context, background, self.input))
    }

    /// Runs the command to its end and gathers its output.
    ///
    /// # Behavior
    ///
    /// - A non-zero exit is a result, not an error.
    /// - Of each stream the first [`max_output`](Self::max_output) bytes are
    ///   kept; the rest is drained and counted.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Self::start), what broke the connection, and `timeout` or
    /// `cancelled` where the context of the sandbox's handle ends first; then the
    /// command is killed, unless it runs in the background.
    ///
    /// # Cancellation
    ///
    /// Dropping the future kills the command's whole tree, unless it runs in
    /// the background.
    pub async fn output(self) -> Result<Output> {
        let mut gathering = Gathering::new(self.max_output);
        let mut process = self.start().await?;
        while let Some(event) = process.next_event().await? {
            if let Some(output) = gathering.add(&event) {
                return Ok(output);
            }
        }
        Err(no_end())
    }
}

/// Makes an [`Output`] of the events of a command.
#[derive(Debug)]
pub struct Gathering {
    output: Output,
    max_output: usize,
    started: Instant,
}

impl Gathering {
    /// One that begins now and keeps this many bytes of each stream.
    pub fn new(max_output: usize) -> Self {
        Self {
            output: Output {
                status: ExitStatus::SandboxGone,
                stdout: Vec::new(),
                stderr: Vec::new(),
                stdout_truncated_bytes: 0,
                stderr_truncated_bytes: 0,
                duration: Duration::ZERO,
            },
            max_output,
            started: Instant::now(),
        }
    }

    /// Adds an event. The exit completes the output, which is given then.
    pub fn add(&mut self, event: &ExecEvent) -> Option<Output> {
        let (output, max) = (&mut self.output, self.max_output);
        match event {
            ExecEvent::Stdout(bytes) => keep(
                &mut output.stdout,
                &mut output.stdout_truncated_bytes,
                bytes,
                max,
            ),
            ExecEvent::Stderr(bytes) => keep(
                &mut output.stderr,
                &mut output.stderr_truncated_bytes,
                bytes,
                max,
            ),
            ExecEvent::Lost { stdout, stderr } => {
                output.stdout_truncated_bytes += stdout;
                output.stderr_truncated_bytes += stderr;
            }
            ExecEvent::Exited(status) => {
                output.status = *status;
                output.duration = self.started.elapsed();
                let next = Self::new(max);
                return Some(std::mem::replace(self, next).output);
            }
        }
        None
    }
}

pub(super) fn no_end() -> Error {
    Error::new(
        ErrorKind::Protocol,
        "the events of the command ended without its exit",
    )
}

/// Keeps what fits and counts what does not.
fn keep(kept: &mut Vec<u8>, truncated: &mut u64, bytes: &[u8], max: usize) {
    let room = max.saturating_sub(kept.len()).min(bytes.len());
    kept.extend_from_slice(&bytes[..room]);
    *truncated += (bytes.len() - room) as u64;
}

/// What a command said and how it ended.
#[derive(Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// The beginning of standard output, or of the terminal.
    pub stdout: Vec<u8>,
    /// The beginning of standard error.
    pub stderr: Vec<u8>,
    /// Bytes of standard output that were read and not kept.
    pub stdout_truncated_bytes: u64,
    /// Bytes of standard error that were read and not kept.
    pub stderr_truncated_bytes: u64,
    /// From the request to the end.
    pub duration: Duration,
}

impl Output {
    /// Standard output as text; what is not UTF-8 is replaced.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text; what is not UTF-8 is replaced.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl fmt::Debug for Output {
    /// Sizes only: what a command says may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("status", &self.status)
            .field("stdout_bytes", &self.stdout.len())
            .field("stderr_bytes", &self.stderr.len())
            .field("stdout_truncated_bytes", &self.stdout_truncated_bytes)
            .field("stderr_truncated_bytes", &self.stderr_truncated_bytes)
            .field("duration", &self.duration)
            .finish()
    }
}

/// The pieces in which given input is written.
pub(super) fn pieces(mut input: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        (!input.is_empty()).then(|| input.split_to(input.len().min(STDIN_PIECE)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let (mut kept, mut truncated) = (Vec::new(), 0);
        keep(&mut kept, &mut truncated, b"abc", 5);
        keep(&mut kept, &mut truncated, b"def", 5);
        keep(&mut kept, &mut truncated, b"ghi", 5);
        assert_eq!((kept.as_slice(), truncated), (b"abcde".as_slice(), 4));
    }

    #[test]
    fn input_is_cut_into_pieces_and_none_is_lost() {
        let input = Bytes::from(vec![7; STDIN_PIECE * 2 + 1]);
        let sizes: Vec<_> = pieces(input).map(|piece| piece.len()).collect();
        assert_eq!(sizes, [STDIN_PIECE, STDIN_PIECE, 1]);
    }

    #[test]
    fn what_a_command_said_is_not_in_its_debug_text() {
        let output = Output {
            status: ExitStatus::Code { code: 0 },
            stdout: b"hunter2".to_vec(),
            stderr: Vec::new(),
            stdout_truncated_bytes: 0,
            stderr_truncated_bytes: 0,
            duration: Duration::ZERO,
        };
        assert!(!format!("{output:?}").contains("hunter2"));
    }
}
