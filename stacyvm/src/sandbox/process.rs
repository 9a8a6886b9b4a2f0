//! A running command.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::exec::{ExecControl, ExecEvent, ExecSession, ExitStatus, SignalScope, TtySize};
use super::exec_builder::{no_end, pieces};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::id::ExecId;

const SIGKILL: i32 = 9;

type Feeding = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A running command: its events and its control.
///
/// A reader that stops slows the command. Dropping a `Process` before its end
/// kills a foreground command's whole tree and leaves a background command
/// alone.
///
/// What [`write_stdin`](Self::write_stdin), [`signal`](Self::signal) and their like
/// return borrows nothing of it: it may be awaited while events are read, in any task.
pub struct Process {
    session: ExecSession,
    context: Context,
    background: bool,
    /// Given input on its way in; written while events are read.
    feeding: Option<Feeding>,
    exited: Option<ExitStatus>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("exec", &self.session.exec)
            .field("pid", &self.session.pid)
            .field("background", &self.background)
            .field("exited", &self.exited)
            .finish_non_exhaustive()
    }
}

impl Process {
    pub(super) fn new(
        session: ExecSession,
        context: Context,
        background: bool,
        input: Option<Bytes>,
    ) -> Self {
        let feeding = input.map(|input| {
            let control = Arc::clone(&session.control);
            let feed = async move {
                for piece in pieces(input) {
                    // A command may end or close its input before it has read
                    // everything; its exit says more than this error would.
                    if control.write_stdin(piece).await.is_err() {
                        return;
                    }
                }
                drop(control.close_stdin().await);
            };
            Box::pin(feed) as Feeding
        });
        Self {
            session,
            context,
            background,
            feeding,
            exited: None,
        }
    }

    /// The command's id.
    pub fn id(&self) -> &ExecId {
        &self.session.exec
    }

    /// The process number of its first process inside, where it is known.
    pub fn pid(&self) -> Option<u32> {
        self.session.pid
    }

    /// Its input, signals and size, for a task of its own.
    pub fn control(&self) -> Arc<dyn ExecControl> {
        Arc::clone(&self.session.control)
    }

    /// Waits for what happens next: output, and last the exit; then `None`.
    ///
    /// # Errors
    ///
    /// What broke the connection; nothing comes after it. `timeout` and `cancelled`
    /// where the context of the sandbox's handle ends; the command goes on until it
    /// is killed or its `Process` dropped.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses no event.
    pub async fn next_event(&mut self) -> Result<Option<ExecEvent>> {
        if self.exited.is_some() {
            return Ok(None);
        }
        let Self {
            session,
            context,
            feeding,
            ..
        } = self;
        let event = context.bound(next(session, feeding)).await?;
        if let Some(ExecEvent::Exited(status)) = &event {
            self.exited = Some(*status);
            self.feeding = None;
        }
        Ok(event)
    }

    /// Writes to standard input; waits while the command does not read.
    ///
    /// # Errors
    ///
    /// `invalid_argument` where standard input was not asked for, `conflict`
    /// after it was closed or the command ended.
    pub fn write_stdin<D: Into<Bytes> + Send>(
        &self,
        data: D,
    ) -> impl Future<Output = Result<()>> + Send + use<D> {
        let (control, data) = (self.control(), data.into());
        async move { control.write_stdin(data).await }
    }

    /// Closes standard input; on a terminal, sends its end-of-file character.
    ///
    /// # Errors
    ///
    /// What broke the connection.
    pub fn close_stdin(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let control = self.control();
        async move { control.close_stdin().await }
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// `not_found` once the command has ended, `unsupported` for a signal that
    /// the provider cannot send.
    pub fn signal(
        &self,
        signal: i32,
        scope: SignalScope,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let control = self.control();
        async move { control.signal(signal, scope).await }
    }

    /// Kills the whole tree. A command that has ended is success.
    ///
    /// # Errors
    ///
    /// What broke the connection.
    pub fn kill(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let killed = self.signal(SIGKILL, SignalScope::Tree);
        async move {
            match killed.await {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                other => other,
            }
        }
    }

    /// Sets the size of the terminal.
    ///
    /// # Errors
    ///
    /// `invalid_argument` where it has no terminal.
    pub fn resize(&self, size: TtySize) -> impl Future<Output = Result<()>> + Send + use<> {
        let control = self.control();
        async move { control.resize(size).await }
    }

    /// Waits for the end and discards the output until then.
    ///
    /// # Errors
    ///
    /// What broke the connection.
    ///
    /// # Cancellation
    ///
    /// Waiting again goes on where this stopped.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        while self.next_event().await?.is_some() {}
        self.exited.ok_or_else(no_end)
    }

    /// Leaves a background command to itself and gives its id, with which
    /// [`Sandbox::attach`](super::handle::Sandbox::attach) follows it again.
    /// Given input that was not written yet is lost.
    ///
    /// # Errors
    ///
    /// `conflict` for a command that was not started in the background; it is
    /// killed, as it is by dropping its `Process`.
    pub fn detach(self) -> Result<ExecId> {
        if self.background {
            return Ok(self.session.exec.clone());
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "only a command started in the background can be detached; start it with `background()`",
        ))
    }
}

/// The next event; given input is written meanwhile.
async fn next(
    session: &mut ExecSession,
    feeding: &mut Option<Feeding>,
) -> Result<Option<ExecEvent>> {
    loop {
        let event = match feeding {
            Some(input) => tokio::select! {
                biased;
                event = session.events.next() => event,
                () = input => {
                    *feeding = None;
                    continue;
                }
            },
            None => session.events.next().await,
        };
        return event.transpose();
    }
}
