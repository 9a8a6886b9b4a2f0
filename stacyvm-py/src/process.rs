//! A command that was started.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use stacyvm::sandbox::exec::ExecControl;
use stacyvm::sandbox::exec_builder::{DEFAULT_MAX_OUTPUT, Gathering};
use stacyvm::{Error, ErrorKind, ExecEvent, Output, Result};
use tokio::sync::{Mutex, MutexGuard};

use crate::convert::{Nothing, Raw, SIGNAL, Whole, size_of};
use crate::forked::OfProcess;
use crate::info::{CommandResult, ExitInfo};
use crate::pending::{Call, Undo};
use crate::runtime;

/// What happened: output, a gap in it, or the end.
#[pyclass(module = "stacyvm._native", frozen)]
pub(crate) struct Event(ExecEvent);

impl From<ExecEvent> for Event {
    fn from(event: ExecEvent) -> Self {
        Self(event)
    }
}

#[pymethods]
impl Event {
    /// Bytes of standard output, or of the terminal.
    #[getter]
    fn stdout<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        match &self.0 {
            ExecEvent::Stdout(bytes) => Some(PyBytes::new(py, bytes)),
            _ => None,
        }
    }

    /// Bytes of standard error.
    #[getter]
    fn stderr<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        match &self.0 {
            ExecEvent::Stderr(bytes) => Some(PyBytes::new(py, bytes)),
            _ => None,
        }
    }

    /// Bytes of both streams that nobody read in time.
    #[getter]
    fn lost(&self) -> Option<(u64, u64)> {
        match self.0 {
            ExecEvent::Lost { stdout, stderr } => Some((stdout, stderr)),
            _ => None,
        }
    }

    /// How the command ended.
    #[getter]
    fn exit(&self) -> Option<ExitInfo> {
        match self.0 {
            ExecEvent::Exited(status) => Some(status.into()),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Running {
    id: String,
    pid: Option<u32>,
    control: OfProcess<Arc<dyn ExecControl>>,
    followed: OfProcess<Mutex<Followed>>,
    /// What was said until the end, once that was read.
    result: OnceLock<Output>,
}

/// What was read of a command so far.
#[derive(Debug)]
struct Followed {
    process: stacyvm::Process,
    gathering: Gathering,
}

impl Running {
    async fn lock(&self) -> Result<MutexGuard<'_, Followed>> {
        Ok(self
            .followed
            .get()
            .ok_or_else(of_another_process)?
            .lock()
            .await)
    }

    /// The next event, kept for the result too.
    async fn next(&self, followed: &mut Followed) -> Result<Option<ExecEvent>> {
        let event = followed.process.next_event().await?;
        if let Some(event) = &event
            && let Some(output) = followed.gathering.add(event)
        {
            let _ = self.result.set(output);
        }
        Ok(event)
    }
}

/// A command that was started. Where the last reference is dropped before its end, a
/// foreground command is killed and a background command goes on.
#[pyclass(module = "stacyvm._native", frozen)]
pub(crate) struct Process(Arc<Running>);

fn of_another_process() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "this command was started by the process that forked this one; follow a background command with `commands.connect`",
    )
}

impl Process {
    /// Of each stream `most` bytes are kept for the result.
    pub(crate) fn of(process: stacyvm::Process, most: Option<usize>) -> Self {
        Self(Arc::new(Running {
            id: process.id().to_string(),
            pid: process.pid(),
            control: OfProcess::new(process.control()),
            followed: OfProcess::new(Mutex::new(Followed {
                process,
                gathering: Gathering::new(most.unwrap_or(DEFAULT_MAX_OUTPUT)),
            })),
            result: OnceLock::new(),
        }))
    }

    /// Kills its whole tree where nobody gets it.
    pub(crate) fn undo(&self) -> Option<Undo> {
        let control = Arc::clone(self.0.control.get()?);
        Some(Box::pin(async move {
            // One that has ended meanwhile is success.
            let _ = control
                .signal(libc::SIGKILL, stacyvm::SignalScope::Tree)
                .await;
        }))
    }

    fn control<F>(
        &self,
        work: impl FnOnce(Arc<dyn ExecControl>) -> F + Send + 'static,
    ) -> Call<Nothing>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let running = Arc::clone(&self.0);
        Call::new(async move {
            let control = running
                .control
                .get()
                .cloned()
                .ok_or_else(of_another_process)?;
            work(control).await
        })
    }
}

#[pymethods]
impl Process {
    /// The command's id.
    #[getter]
    fn id(&self) -> &str {
        &self.0.id
    }

    /// The number of its first process inside.
    #[getter]
    fn pid(&self) -> Option<u32> {
        self.0.pid
    }

    /// What happens next; `None` after the end.
    fn next_event(&self) -> Call<Option<Event>> {
        let running = Arc::clone(&self.0);
        Call::new(async move {
            let mut followed = running.lock().await?;
            Ok(running.next(&mut followed).await?.map(Event))
        })
    }

    /// Waits for the end. What was read before is part of the result.
    fn wait_for_end(&self) -> Call<CommandResult> {
        let running = Arc::clone(&self.0);
        Call::new(async move {
            let mut followed = running.lock().await?;
            while running.next(&mut followed).await?.is_some() {}
            let result = running.result.get().cloned();
            result.ok_or_else(|| Error::new(ErrorKind::Protocol, "no end came"))
        })
    }

    /// What it said and how it ended, once its end was read.
    fn result(&self) -> Option<CommandResult> {
        self.0.result.get().cloned().map(Into::into)
    }

    /// Writes to standard input.
    fn write_stdin(&self, data: Raw) -> Call<Nothing> {
        self.control(move |control| async move { control.write_stdin(data.0.into()).await })
    }

    /// Closes standard input.
    fn close_stdin(&self) -> Call<Nothing> {
        self.control(|control| async move { control.close_stdin().await })
    }

    /// Sends a signal to `process`, `group` or `tree`.
    fn signal(&self, signal: Whole, scope: String) -> Call<Nothing> {
        self.control(move |control| async move {
            let (signal, scope) = (signal.fits("signal", SIGNAL)?, scope.parse()?);
            control.signal(signal, scope).await
        })
    }

    /// Sets the size of the terminal.
    fn resize(&self, rows: Whole, columns: Whole) -> Call<Nothing> {
        self.control(move |control| async move { control.resize(size_of(rows, columns)?).await })
    }

    /// Kills the whole tree. One that has ended is success.
    fn kill(&self) -> Call<Nothing> {
        self.control(|control| async move {
            match control
                .signal(libc::SIGKILL, stacyvm::SignalScope::Tree)
                .await
            {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                other => other,
            }
        })
    }

    /// Kills its whole tree in the background, unless its end was read: what it left
    /// then goes on.
    fn give_up(&self) -> PyResult<()> {
        if self.0.result.get().is_none()
            && let Some(control) = self.0.control.get()
        {
            let control = Arc::clone(control);
            runtime::handle()?.spawn(async move {
                // One that has ended meanwhile is success.
                let _ = control
                    .signal(libc::SIGKILL, stacyvm::SignalScope::Tree)
                    .await;
            });
        }
        Ok(())
    }
}
