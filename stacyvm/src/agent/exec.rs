//! Commands over a connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use stacyvm_agent::protocol::Kind;
use stacyvm_agent::protocol::message::{
    self, AttachRequest, Execs, Exited, LogRequest, Lost, ResizeRequest, SignalRequest, Started,
};
use tokio::time::{Instant, Sleep};

use super::client::AgentClient;
use super::convert;
use super::error::Closed;
use super::role::Role;
use super::shared::Open;
use super::stream::{Channel, Item, SendError};
use crate::error::{Error, ErrorKind, Result};
use crate::id::ExecId;
use crate::sandbox::exec::{
    AttachOptions, BoxStream, ExecControl, ExecEvent, ExecInfo, ExecSession, ExecSpec, ExitStatus,
    LogOptions, SignalScope, TtySize,
};

/// How long after a command's deadline an agent may take to report its end.
const GRACE: Duration = Duration::from_secs(10);

/// What to do about an agent that cannot be asked for kept output.
const OLDER: &str = "the sandbox was made by an older stacyvm: attach to a background command instead, or make the sandbox anew";

impl AgentClient {
    /// Starts a command; see [`Provider::exec`](crate::provider::Provider::exec).
    ///
    /// An agent that has not reported the end ten seconds after the deadline
    /// is taken for frozen: the call fails with `timeout`, as nobody knows what
    /// became of the command, and the connection is given up.
    pub async fn exec(&self, spec: &ExecSpec) -> Result<ExecSession> {
        spec.check()?;
        let role = Role::Exec {
            stdin: spec.stdin,
            tty: spec.tty.is_some(),
        };
        let deadline = spec.timeout.and_then(|t| Instant::now().checked_add(t));
        let request = message::encode(&convert::exec_request(spec));
        fault_point!("exec.asking");
        let open = self.open(Kind::Exec, role, request)?;
        fault_point!("exec.asked");
        let pid = match deadline.and_then(|d| d.checked_add(GRACE)) {
            None => started(&open).await?,
            Some(latest) => tokio::time::timeout_at(latest, started(&open))
                .await
                .unwrap_or_else(|_| Err(silent(&open, "start")))?,
        };
        fault_point!("exec.started");
        let mut session = self.session(open, spec.exec.clone(), pid, spec.stdin, deadline);
        if spec.background {
            session.detach();
        }
        Ok(session.finish())
    }

    /// Follows a command; see [`Provider::attach`](crate::provider::Provider::attach).
    /// Dropping the session leaves the command alone.
    pub async fn attach(&self, exec: &ExecId, options: AttachOptions) -> Result<ExecSession> {
        let request = message::encode(&AttachRequest {
            exec: exec.as_str().to_owned(),
            stdin: options.stdin,
            replay: options.replay,
        });
        let role = Role::Exec {
            stdin: options.stdin,
            tty: false,
        };
        let mut open = self.open(Kind::Attach, role, request)?;
        open.detach_on_drop();
        let pid = started(&open).await?;
        fault_point!("exec.attached");
        let session = self.session(open, exec.clone(), pid, options.stdin, None);
        Ok(session.finish())
    }

    /// Reads what is kept of a command's output; see
    /// [`Provider::read_log`](crate::provider::Provider::read_log).
    pub async fn read_log(
        &self,
        exec: &ExecId,
        options: LogOptions,
    ) -> Result<BoxStream<Result<ExecEvent>>> {
        let request = message::encode(&LogRequest {
            exec: exec.as_str().to_owned(),
            follow: options.follow,
            age_ms: options
                .age
                .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        });
        let open =
            self.open(Kind::Logs, Role::Log, request)
                .map_err(|error| match error.kind() {
                    ErrorKind::Unsupported => error.context("remedy", OLDER),
                    _ => error,
                })?;
        started(&open).await?;
        Ok(Box::pin(ExecEvents {
            open: Some(open),
            guard: None,
        }))
    }

    /// Lists commands: those that run, those with survivors, those remembered.
    pub async fn list_execs(&self) -> Result<Vec<ExecInfo>> {
        let open = self.open(Kind::ListExecs, Role::Reply(Kind::Execs), Vec::new())?;
        let list: Execs = open.read().await?;
        list.execs
            .into_iter()
            .map(|info| convert::exec_info(info).map_err(|closed| open.close(closed)))
            .collect()
    }

    /// Sends a signal to a command.
    ///
    /// # Errors
    ///
    /// `invalid_argument` unless the signal is 1 to 64; `not_found` where the
    /// command is unknown or has ended.
    pub async fn signal_exec(&self, exec: &ExecId, signal: i32, scope: SignalScope) -> Result<()> {
        let number = u8::try_from(signal).ok().filter(|s| (1..=64).contains(s));
        let Some(number) = number else {
            return Err(Error::invalid(
                "signal",
                signal,
                "1 to 64",
                "use a signal's number",
            ));
        };
        let request = message::encode(&SignalRequest {
            exec: exec.as_str().to_owned(),
            signal: number,
            scope: convert::scope(scope),
        });
        self.done(Kind::Signal, request).await
    }

    fn session(
        &self,
        open: Open,
        exec: ExecId,
        pid: u32,
        stdin: bool,
        deadline: Option<Instant>,
    ) -> Session {
        Session {
            client: self.clone(),
            events: ExecEvents {
                open: Some(open),
                guard: deadline.map(|deadline| Guard {
                    deadline,
                    heard: Instant::now(),
                    timer: None,
                }),
            },
            exec,
            pid,
            stdin,
        }
    }
}

async fn started(open: &Open) -> Result<u32> {
    open.read::<Started>().await.map(|started| started.pid)
}

/// Gives up the connection to an agent that did not report what was due. The
/// command is not called timed out: that would say that its tree is gone.
fn silent(open: &Open, what: &str) -> Error {
    open.close(Closed::unavailable(
        "the agent did not answer after the deadline of a command",
    ));
    Error::new(
        ErrorKind::Timeout,
        format!(
            "the agent did not report the {what} of the command within {} seconds after its deadline",
            GRACE.as_secs()
        ),
    )
    .context("outcome", "unknown, the command may still run")
    .context("remedy", "try again, or end the sandbox, which needs no agent")
}

struct Session {
    client: AgentClient,
    events: ExecEvents,
    exec: ExecId,
    pid: u32,
    stdin: bool,
}

impl Session {
    fn detach(&mut self) {
        if let Some(open) = &mut self.events.open {
            open.detach_on_drop();
        }
    }

    fn finish(self) -> ExecSession {
        let control = Control {
            input: self
                .events
                .open
                .as_ref()
                .filter(|_| self.stdin)
                .map(Input::of),
            client: self.client,
            exec: self.exec.clone(),
        };
        ExecSession {
            exec: self.exec,
            // An agent says 0 of a command that was ended before it had a process.
            pid: Some(self.pid).filter(|pid| *pid != 0),
            events: Box::pin(self.events),
            control: Arc::new(control),
        }
    }
}

/// The events of a command, up to its one end.
struct ExecEvents {
    /// Gone after the last event.
    open: Option<Open>,
    guard: Option<Guard>,
}

/// Notices an agent that stays silent past the deadline of its command.
struct Guard {
    deadline: Instant,
    /// When something was taken last: a slow reader is no frozen agent.
    heard: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Guard {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let latest = self.deadline.max(self.heard) + GRACE;
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(latest)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if timer.deadline() >= latest {
                return Poll::Ready(());
            }
            timer.as_mut().reset(latest);
        }
    }
}

impl ExecEvents {
    fn take(open: &Open, item: Result<Item, Closed>) -> (Result<ExecEvent>, bool) {
        match item {
            Ok(Item::Data(Channel::Out, bytes)) => {
                fault_point!("exec.output");
                (Ok(ExecEvent::Stdout(bytes)), false)
            }
            Ok(Item::Data(Channel::Err, bytes)) => (Ok(ExecEvent::Stderr(bytes)), false),
            Ok(Item::Message(Kind::Lost, payload)) => match open.decode::<Lost>(&payload) {
                Ok(Lost { stdout, stderr }) => (Ok(ExecEvent::Lost { stdout, stderr }), false),
                Err(error) => (Err(error), true),
            },
            Ok(Item::Message(Kind::Exited, payload)) => {
                fault_point!("exec.exited");
                let status = open
                    .decode::<Exited>(&payload)
                    .and_then(|e| convert::status(&e).map_err(|closed| open.close(closed)));
                (status.map(ExecEvent::Exited), true)
            }
            Ok(Item::Message(Kind::Failure, payload)) => (Err(open.failure(&payload)), true),
            Ok(Item::Message(..) | Item::Accepted(_) | Item::Overflow) => (
                Err(open.violation("the agent sent no event of a command")),
                true,
            ),
            Err(closed) if closed.kind == ErrorKind::Protocol => (Err(closed.error()), true),
            Err(_) => (Ok(ExecEvent::Exited(ExitStatus::SandboxGone)), true),
        }
    }
}

impl Stream for ExecEvents {
    type Item = Result<ExecEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(open) = &this.open else {
            return Poll::Ready(None);
        };
        match open.poll_item(cx) {
            // Kept output of a command that goes on, which is not followed.
            Poll::Ready(Ok(Item::Message(Kind::Done, _))) => {
                this.open = None;
                Poll::Ready(None)
            }
            Poll::Ready(item) => {
                let (event, last) = Self::take(open, item);
                if last {
                    this.open = None;
                } else if let Some(guard) = &mut this.guard {
                    guard.heard = Instant::now();
                }
                Poll::Ready(Some(event))
            }
            Poll::Pending => {
                if let Some(guard) = &mut this.guard
                    && guard.poll(cx).is_ready()
                {
                    let error = silent(open, "end");
                    this.open = None;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Pending
            }
        }
    }
}

/// Input, signals and size of a command.
#[derive(Debug)]
struct Control {
    client: AgentClient,
    exec: ExecId,
    input: Option<Input>,
}

/// The standard input of a command; one writer at a time.
#[derive(Debug)]
struct Input {
    feed: super::shared::Feed,
    turn: tokio::sync::Mutex<()>,
}

impl Input {
    fn of(open: &Open) -> Self {
        Self {
            feed: open.feed(),
            turn: tokio::sync::Mutex::new(()),
        }
    }
}

impl Control {
    fn input(&self) -> Result<&Input> {
        self.input.as_ref().ok_or_else(|| {
            Error::invalid(
                "stdin",
                "not asked for",
                "a command that was started or followed with its standard input",
                "ask for standard input when you start or follow it",
            )
        })
    }
}

fn refused(error: SendError) -> Error {
    match error {
        SendError::AfterEnd => Error::new(ErrorKind::Conflict, "standard input was closed before"),
        SendError::StreamEnded => Error::new(ErrorKind::Conflict, "the command has ended"),
        SendError::Closed(closed) => closed.error(),
    }
}

#[async_trait]
impl ExecControl for Control {
    async fn write_stdin(&self, data: Bytes) -> Result<()> {
        let input = self.input()?;
        let _turn = input.turn.lock().await;
        fault_point!("exec.input");
        input.feed.send(data).await.map_err(refused)
    }

    async fn close_stdin(&self) -> Result<()> {
        let input = self.input()?;
        let _turn = input.turn.lock().await;
        fault_point!("exec.input-end");
        match input.feed.end() {
            // What has ended has no input to close.
            Ok(()) | Err(SendError::AfterEnd | SendError::StreamEnded) => Ok(()),
            Err(SendError::Closed(closed)) => Err(closed.error()),
        }
    }

    async fn signal(&self, signal: i32, scope: SignalScope) -> Result<()> {
        fault_point!("exec.signal");
        self.client.signal_exec(&self.exec, signal, scope).await
    }

    async fn resize(&self, size: TtySize) -> Result<()> {
        let request = message::encode(&ResizeRequest {
            exec: self.exec.as_str().to_owned(),
            size: convert::size(size),
        });
        self.client.done(Kind::Resize, request).await
    }
}
