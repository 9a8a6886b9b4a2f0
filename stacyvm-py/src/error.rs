//! Errors of the library as exceptions. The classes are Python's: `stacyvm._errors`.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;
use stacyvm::ErrorKind;
use stacyvm::error::Retry;

static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Every code that an error of the library may have.
#[pyfunction]
pub(crate) fn error_codes() -> Vec<&'static str> {
    ErrorKind::ALL.iter().map(|kind| kind.code()).collect()
}

/// The exception of an error.
pub(crate) fn raise(py: Python<'_>, error: &stacyvm::Error) -> PyErr {
    exception(py, error).unwrap_or_else(|failed| failed)
}

fn exception(py: Python<'_>, error: &stacyvm::Error) -> PyResult<PyErr> {
    let make = MAKE.get_or_try_init(py, || {
        PyResult::Ok(
            py.import("stacyvm._errors")?
                .getattr("from_native")?
                .unbind(),
        )
    })?;
    let context = PyDict::new(py);
    for (key, value) in error.facts() {
        context.set_item(key, value)?;
    }
    let after = match error.retryable() {
        Retry::Maybe { after } => Some(after.as_secs_f64()),
        Retry::Never | Retry::Exhausted => None,
    };
    let parts = (
        error.kind().code(),
        error.to_string(),
        after,
        error.failed_operation(),
        error.failed_provider(),
        context,
    );
    Ok(PyErr::from_value(make.bind(py).call1(parts)?))
}
