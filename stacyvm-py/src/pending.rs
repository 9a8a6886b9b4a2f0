//! A call that was made ready: waited for by `wait()`, or awaited.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use pyo3::IntoPyObjectExt as _;
use pyo3::exceptions::PyRuntimeError;
use pyo3::inspect::PyStaticExpr;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use tokio::task::AbortHandle;

use crate::ending::{self, Within};
use crate::error;
use crate::forked::OfProcess;
use crate::runtime::{self, Waited};

/// Makes the Python value of a result, which needs the interpreter.
type Make = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;
/// Takes back what a call made where nobody gets its result any more.
pub(crate) type Undo = Pin<Box<dyn Future<Output = ()> + Send>>;
type Work = Pin<Box<dyn Future<Output = stacyvm::Result<(Make, Option<Undo>)>> + Send>>;

/// A call that has not begun. `wait()` or `await` begins it, once.
#[pyclass(module = "stacyvm._native", frozen)]
pub(crate) struct Pending {
    work: Mutex<Option<Work>>,
    goes_on: bool,
}

impl Pending {
    fn take(&self) -> PyResult<Work> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let work = work.take();
        work.ok_or_else(|| PyRuntimeError::new_err("this call was waited for already"))
    }
}

#[pymethods]
impl Pending {
    /// Waits for the result. Ctrl-C gives the call up.
    fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match runtime::wait(py, self.take()?)? {
            Waited::Done(Ok((make, _))) => make(py),
            Waited::Done(Err(error)) => Err(error::raise(py, &error)),
            Waited::Raised(raised, result) => {
                if let Some(Ok((_, Some(undo)))) = result {
                    // Another signal ends the wait, and not the work.
                    let undoing = runtime::handle()?.spawn(undo);
                    runtime::wait(py, async move { drop(undoing.await) })?;
                }
                Err(raised)
            }
        }
    }

    /// The result, in an event loop, to be taken. Cancelling the task gives the call up.
    fn __await__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if ending::has_begun() {
            return Err(PyRuntimeError::new_err(
                "the interpreter is ending, so that nothing can be awaited; use the blocking calls",
            ));
        }
        let work = self.take()?;
        let event_loop = helper(py, "running_loop", &RUNNING_LOOP)?.call0()?;
        let future = event_loop.call_method0("create_future")?;
        let settle = helper(py, "settle", &SETTLE)?.clone().unbind();
        let (event_loop, waits) = (event_loop.unbind(), future.clone().unbind());
        let task = runtime::handle()?.spawn(async move {
            let result = work.await;
            // Python may hold its interpreter for long; other tasks go on meanwhile.
            tokio::task::block_in_place(|| {
                // Who waits has ended with the interpreter.
                let Some(_within) = Within::enter() else {
                    return;
                };
                Python::try_attach(|py| {
                    let result = match result {
                        Ok((make, undo)) => make(py).and_then(|value| {
                            let delivery = Delivery {
                                value,
                                undo: OfProcess::new(Mutex::new(undo)),
                            };
                            delivery.into_py_any(py)
                        }),
                        Err(error) => Err(error::raise(py, &error)),
                    };
                    let told = match result {
                        Ok(delivery) => (settle, waits, true, delivery),
                        Err(error) => (settle, waits, false, error.into_value(py).into_any()),
                    };
                    // A loop that is closed has nobody who waits.
                    let _ = event_loop.call_method1(py, "call_soon_threadsafe", told);
                });
            });
        });
        if !self.goes_on {
            future.call_method1("add_done_callback", (Abort(task.abort_handle()),))?;
        }
        future.call_method0("__await__")
    }
}

/// The result of a call on its way to whoever awaits it. What was made is taken back where
/// it does not arrive: the task was cancelled, or the loop has ended.
#[pyclass(module = "stacyvm._native", frozen)]
pub(crate) struct Delivery {
    value: Py<PyAny>,
    /// The parent's, in a forked child.
    undo: OfProcess<Mutex<Option<Undo>>>,
}

impl Delivery {
    fn undo(&self) -> Option<Undo> {
        let undo = self.undo.get()?;
        undo.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[pymethods]
impl Delivery {
    /// The result, which has arrived.
    fn take(&self, py: Python<'_>) -> Py<PyAny> {
        drop(self.undo());
        self.value.clone_ref(py)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // Without a runtime there are no threads any more, and the process ends.
        if let Some(undo) = self.undo()
            && let Ok(runtime) = runtime::handle()
        {
            runtime.spawn(undo);
        }
    }
}

static RUNNING_LOOP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static SETTLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

fn helper<'py>(
    py: Python<'py>,
    name: &str,
    kept: &'static PyOnceLock<Py<PyAny>>,
) -> PyResult<&'py Bound<'py, PyAny>> {
    kept.get_or_try_init(py, || {
        Ok(py.import("stacyvm._call")?.getattr(name)?.unbind())
    })
    .map(|kept| kept.bind(py))
}

/// Gives a call up when its future was cancelled. One that is done is past that.
#[pyclass(module = "stacyvm._native", frozen)]
struct Abort(AbortHandle);

#[pymethods]
impl Abort {
    fn __call__(&self, _future: Bound<'_, PyAny>) {
        self.0.abort();
    }
}

/// A pending call of a result of type `T`: in Python a `Call[T]`.
pub(crate) struct Call<T> {
    work: Work,
    goes_on: bool,
    result: PhantomData<T>,
}

fn made<T>(value: T) -> Make
where
    T: for<'py> IntoPyObject<'py> + Send + 'static,
{
    Box::new(move |py: Python<'_>| value.into_py_any(py))
}

impl<T> Call<T>
where
    T: for<'py> IntoPyObject<'py> + Send + 'static,
{
    pub(crate) fn new<U>(work: impl Future<Output = stacyvm::Result<U>> + Send + 'static) -> Self
    where
        T: From<U>,
    {
        Self::of(Box::pin(async move {
            let value = T::from(work.await?);
            Ok((made(value), None))
        }))
    }

    /// A call whose result is something that must not stay where nobody gets it.
    pub(crate) fn of_made<U>(
        work: impl Future<Output = stacyvm::Result<U>> + Send + 'static,
        undo: impl FnOnce(&T) -> Option<Undo> + Send + 'static,
    ) -> Self
    where
        T: From<U>,
    {
        Self::of(Box::pin(async move {
            let value = T::from(work.await?);
            let undo = undo(&value);
            Ok((made(value), undo))
        }))
    }

    /// The same call, which goes on to its end where the task that awaits it is cancelled.
    pub(crate) fn uninterrupted(self) -> Self {
        Self {
            goes_on: true,
            ..self
        }
    }

    fn of(work: Work) -> Self {
        Self {
            work,
            goes_on: false,
            result: PhantomData,
        }
    }
}

impl<'py, T: IntoPyObject<'py>> IntoPyObject<'py> for Call<T> {
    type Target = Pending;
    type Output = Bound<'py, Pending>;
    type Error = PyErr;

    const OUTPUT_TYPE: PyStaticExpr = PyStaticExpr::Subscript {
        value: &PyStaticExpr::Attribute {
            value: &PyStaticExpr::Name {
                id: "stacyvm._call",
            },
            attr: "Call",
        },
        slice: &T::OUTPUT_TYPE,
    };

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let pending = Pending {
            work: Mutex::new(Some(self.work)),
            goes_on: self.goes_on,
        };
        Bound::new(py, pending)
    }
}
