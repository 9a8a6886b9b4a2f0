//! The tasks of the library: a runtime of its own in each process.

use std::future::Future;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::ending::{self, Within};
use crate::forked::PerProcess;

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
    let waited = py.detach(|| {
        let mut task = handle.spawn(work);
        let done = handle.block_on(async {
            let mut look = tokio::time::interval(LOOK);
            look.tick().await;
            loop {
                tokio::select! {
                    biased;
                    done = &mut task => {
                        let done = done.map_err(|ended| PyRuntimeError::new_err(ended.to_string()));
                        return done.map(Waited::Done);
                    }
                    _ = look.tick() => {
                        if let Err(raised) = look_for_signals() {
                            task.abort();
                            // What it holds has been given up when this returns.
                            return Ok(Waited::Raised(raised, task.await.ok()));
                        }
                    }
                }
            }
        });
        ending::stay_out();
        done
    })?;
    // Python would raise between the return of the result and whoever takes it.
    Ok(match waited {
        Waited::Done(done) => match py.check_signals() {
            Ok(()) => Waited::Done(done),
            Err(raised) => Waited::Raised(raised, Some(done)),
        },
        raised @ Waited::Raised(..) => raised,
    })
}

#[expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the method is of one lifetime"
)]
fn look_for_signals() -> PyResult<()> {
    let Some(_within) = Within::enter() else {
        // The main thread alone has handlers, and it is about to end.
        return Ok(());
    };
    Python::try_attach(|py| py.check_signals()).unwrap_or(Ok(()))
}
