//! What is told survives `pickle` and `copy`.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::code::{CodeContext, CodeError, CodeResult, Execution};
use crate::creating::PullInfo;
use crate::info::{
    CommandInfo, Endpoint, EntryInfo, ExitInfo, LeftOut, ProcessInfo, SandboxInfo, SandboxMetrics,
    SnapshotInfo, WatchEvent,
};
use crate::pool::PoolStats;

macro_rules! packed {
    ($($class:ident,)*) => {
        /// The classes whose objects can be packed.
        #[pyfunction]
        pub(crate) fn packed_classes(py: Python<'_>) -> Vec<Bound<'_, pyo3::types::PyType>> {
            vec![$(py.get_type::<$class>(),)*]
        }

        /// The name of the class of an object, and what it is made from.
        #[pyfunction]
        pub(crate) fn pack(told: &Bound<'_, PyAny>) -> PyResult<(&'static str, String)> {
            $(if let Ok(told) = told.cast::<$class>() {
                return Ok((stringify!($class), json(told.get())?));
            })*
            Err(PyTypeError::new_err("this class is not packed"))
        }

        /// Makes the object of a class again.
        #[pyfunction]
        pub(crate) fn unpack<'py>(
            py: Python<'py>,
            name: &str,
            told: &str,
        ) -> PyResult<Bound<'py, PyAny>> {
            match name {
                $(stringify!($class) => Ok(Bound::new(py, read::<$class>(told)?)?.into_any()),)*
                _ => Err(PyTypeError::new_err("this class is not packed")),
            }
        }
    };
}

packed! {
    CodeContext, CodeError, CodeResult, CommandInfo, Endpoint, EntryInfo, Execution, ExitInfo,
    LeftOut, PoolStats, ProcessInfo, PullInfo, SandboxInfo, SandboxMetrics, SnapshotInfo,
    WatchEvent,
}

fn json(told: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(told).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn read<T: serde::de::DeserializeOwned>(told: &str) -> PyResult<T> {
    serde_json::from_str(told).map_err(|error| PyValueError::new_err(error.to_string()))
}
