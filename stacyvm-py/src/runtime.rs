//! The tasks of the library: a runtime of its own in each process.

use std::future::Future;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::timeout;

use crate::ending::{self, Within};
use crate::forked::PerProcess;
use crate::sys::generation;

/// How often a wait looks for Ctrl-C and other signals of Python.
const LOOK: Duration = Duration::from_millis(50);

static RUNTIME: PerProcess<Runtime> = PerProcess::empty();

/// The runtime of this process. A forked child makes one of its own, as it has none of
/// its parent's threads.
pub(crate) fn handle() -> PyResult<Handle> {
    if let Some(there) = RUNTIME.get()
        && let Some(runtime) = there.get()
    {
        return Ok(runtime.handle().clone());
    }
    let made = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("stacyvm")
        .enable_all()
        .build()?;
    let made = std::cell::Cell::new(Some(made));
    let (mine, unused) = RUNTIME.get_or_make(|| made.take().unwrap_or_else(|| unreachable!()));
    if let Some(unused) = unused {
        unused.shutdown_background();
    }
    mine.get()
        .map(|runtime| runtime.handle().clone())
        .ok_or_else(|| {
            pyo3::exceptions::PyRuntimeError::new_err("the runtime is another process's")
        })
}

/// What a wait came to.
pub(crate) enum Waited<T> {
    Done(T),
    /// A handler of a signal raised, as that of Ctrl-C does. The work may have been done all
    /// the same, and nobody gets what it gave.
    Raised(PyErr, Option<T>),
}

/// Waits for the end of `work` without holding Python, and gives up on it as soon as a
/// handler of a signal raises.
///
/// The work is a task of the runtime: on this thread each of its steps would be handed over.
pub(crate) fn wait<T: Send + 'static>(
    py: Python<'_>,
    work: impl Future<Output = T> + Send + 'static,
) -> PyResult<Waited<T>> {
    let handle = handle()?;
    let process = generation();
    let mut task = handle.spawn(work);
    loop {
        let (done, within) = py.detach(|| {
            let done = handle.block_on(async { timeout(LOOK, &mut task).await });
            let within = Within::enter();
            if within.is_none() {
                ending::stay_out();
            }
            (done, within)
        });
        // Who has the interpreter is within anyway, and a handler may fork.
        drop(within);
        // Python would raise between the return of the result and whoever takes it. A
        // handler may call us, which it could not within the runtime.
        let looked = py.check_signals();
        match (done, looked) {
            (Ok(done), Ok(())) => {
                let done = done.map_err(|ended| PyRuntimeError::new_err(ended.to_string()));
                return done.map(Waited::Done);
            }
            (Ok(done), Err(raised)) => return Ok(Waited::Raised(raised, done.ok())),
            (Err(_), Ok(())) => {}
            // A child that a handler forked has no tasks of its parent's.
            (Err(_), Err(raised)) if process != generation() => {
                std::mem::forget(task);
                return Ok(Waited::Raised(raised, None));
            }
            (Err(_), Err(raised)) => {
                task.abort();
                // What it holds has been given up when this returns.
                let done = py.detach(|| handle.block_on(task));
                return Ok(Waited::Raised(raised, done.ok()));
            }
        }
    }
}
