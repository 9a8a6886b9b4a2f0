//! Values that both sides know under different names.

use std::time::{Duration, SystemTime};

use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::types::{
    PyByteArray, PyBytes, PyDateTime, PyDelta, PyMemoryView, PyNone, PyString, PyTzInfo,
};
use serde::{Deserialize, Serialize};
use stacyvm::TtySize;

/// A value for Python's `json`.
pub(crate) fn json(value: &impl serde::Serialize) -> stacyvm::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| stacyvm::Error::new(stacyvm::ErrorKind::Internal, error.to_string()))
}

/// A whole number of Python's. One that is beyond every type of ours is the nearest there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole(i64);

impl Whole {
    /// The number as what it must be.
    pub(crate) fn fits<T: TryFrom<i64>>(self, field: &str, expected: &str) -> stacyvm::Result<T> {
        T::try_from(self.0)
            .map_err(|_| stacyvm::Error::invalid(field, self.0, expected, "give such a number"))
    }
}

/// What a number of bytes, and a signal, must be.
pub(crate) const BYTES: &str = "a number of bytes";
pub(crate) const SIGNAL: &str = "the number of a signal";

/// The size of a terminal.
pub(crate) fn size_of(rows: Whole, columns: Whole) -> stacyvm::Result<TtySize> {
    Ok(TtySize {
        rows: rows.fits("rows", "0 to 65535")?,
        columns: columns.fits("columns", "0 to 65535")?,
    })
}

impl<'py> FromPyObject<'_, 'py> for Whole {
    type Error = PyErr;

    const INPUT_TYPE: pyo3::inspect::PyStaticExpr = <i64 as FromPyObject<'_, '_>>::INPUT_TYPE;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match object.extract::<i64>() {
            Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => {
                let below = object.lt(0)?;
                Ok(Self(if below { i64::MIN } else { i64::MAX }))
            }
            read => read.map(Self),
        }
    }
}

/// Bytes for Python.
#[derive(Debug)]
pub(crate) struct Bytes(pub(crate) bytes::Bytes);

impl From<bytes::Bytes> for Bytes {
    fn from(bytes: bytes::Bytes) -> Self {
        Self(bytes)
    }
}

impl<'py> IntoPyObject<'py> for Bytes {
    type Target = PyBytes;
    type Output = Bound<'py, PyBytes>;
    type Error = std::convert::Infallible;

    const OUTPUT_TYPE: pyo3::inspect::PyStaticExpr = <PyBytes as pyo3::PyTypeInfo>::TYPE_HINT;

    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Self::Error> {
        Ok(PyBytes::new(py, &self.0))
    }
}

/// A moment: an aware `datetime`. Python's begin with the year 1 and end with 9999, and
/// one beyond is the last of them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Moment(#[serde(with = "moment")] pub(crate) SystemTime);

/// How a moment is packed: seconds and nanoseconds from 1970 on, and whether it is before.
pub(crate) mod moment {
    use std::time::{Duration, SystemTime};

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(moment: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        match moment.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => (false, after),
            Err(before) => (true, before.duration()),
        }
        .serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let (before, apart) = <(bool, Duration)>::deserialize(from)?;
        let moment = if before {
            SystemTime::UNIX_EPOCH.checked_sub(apart)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(apart)
        };
        moment.ok_or_else(|| de::Error::custom("no moment is so far"))
    }
}

impl From<SystemTime> for Moment {
    fn from(moment: SystemTime) -> Self {
        Self(moment)
    }
}

/// Microseconds from 1970 to the ends of what a `datetime` can be.
const FIRST: i128 = -62_135_596_800_000_000;
const LAST: i128 = 253_402_300_799_999_999;

/// Microseconds since 1970, rounded down.
fn microseconds(moment: SystemTime) -> i128 {
    let nanoseconds = match moment.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i128::try_from(after.as_nanos()).unwrap_or(i128::MAX),
        Err(before) => i128::try_from(before.duration().as_nanos()).map_or(i128::MIN, |n| -n),
    };
    nanoseconds.div_euclid(1000).clamp(FIRST, LAST)
}

impl<'py> IntoPyObject<'py> for Moment {
    type Target = PyDateTime;
    type Output = Bound<'py, PyDateTime>;
    type Error = PyErr;

    const OUTPUT_TYPE: pyo3::inspect::PyStaticExpr = <PyDateTime as pyo3::PyTypeInfo>::TYPE_HINT;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        const DAY: i128 = 86_400_000_000;
        let all = microseconds(self.0);
        let (days, rest) = (all.div_euclid(DAY), all.rem_euclid(DAY));
        let part = |part: i128| i32::try_from(part).map_err(PyErr::from);
        let seconds = part(rest / 1_000_000)?;
        let apart = PyDelta::new(py, part(days)?, seconds, part(rest % 1_000_000)?, false)?;
        let epoch = PyDateTime::new(py, 1970, 1, 1, 0, 0, 0, 0, Some(&*PyTzInfo::utc(py)?))?;
        Ok(epoch.add(apart)?.cast_into()?)
    }
}

impl<'py> FromPyObject<'_, 'py> for Moment {
    type Error = PyErr;

    const INPUT_TYPE: pyo3::inspect::PyStaticExpr = <PyDateTime as pyo3::PyTypeInfo>::TYPE_HINT;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let epoch = PyDateTime::new(py, 1970, 1, 1, 0, 0, 0, 0, Some(&*PyTzInfo::utc(py)?))?;
        let apart = object
            .cast::<PyDateTime>()?
            .sub(epoch)?
            .cast_into::<PyDelta>()?;
        let part = |name| apart.getattr(name)?.extract::<i64>();
        let seconds = part("days")? * 86_400 + part("seconds")?;
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let moment = if seconds < 0 {
            SystemTime::UNIX_EPOCH - whole
        } else {
            SystemTime::UNIX_EPOCH + whole
        };
        Ok(Self(
            moment + Duration::from_micros(part("microseconds")?.unsigned_abs()),
        ))
    }
}

/// `None`, of a call that gives nothing.
#[derive(Debug)]
pub(crate) struct Nothing;

impl From<()> for Nothing {
    fn from((): ()) -> Self {
        Self
    }
}

impl<'py> IntoPyObject<'py> for Nothing {
    type Target = PyNone;
    type Output = Borrowed<'py, 'py, PyNone>;
    type Error = std::convert::Infallible;

    const OUTPUT_TYPE: pyo3::inspect::PyStaticExpr = <PyNone as pyo3::PyTypeInfo>::TYPE_HINT;

    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Self::Error> {
        Ok(PyNone::get(py))
    }
}

/// A path inside, or an argument: bytes as they are, and text as UTF-8. Bytes that are
/// no text come to Python as surrogates, as file names of the host do, and go back so.
#[derive(Debug)]
pub(crate) struct Raw(pub(crate) Vec<u8>);

impl<'py> FromPyObject<'_, 'py> for Raw {
    type Error = PyErr;

    const INPUT_TYPE: pyo3::inspect::PyStaticExpr = pyo3::inspect::PyStaticExpr::BinOp {
        left: &pyo3::inspect::PyStaticExpr::BinOp {
            left: &<PyString as pyo3::PyTypeInfo>::TYPE_HINT,
            op: pyo3::inspect::PyStaticOperator::BitOr,
            right: &<PyBytes as pyo3::PyTypeInfo>::TYPE_HINT,
        },
        op: pyo3::inspect::PyStaticOperator::BitOr,
        right: &pyo3::inspect::PyStaticExpr::BinOp {
            left: &<PyByteArray as pyo3::PyTypeInfo>::TYPE_HINT,
            op: pyo3::inspect::PyStaticOperator::BitOr,
            right: &<PyMemoryView as pyo3::PyTypeInfo>::TYPE_HINT,
        },
    };

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = object.cast::<PyBytes>() {
            return Ok(Self(bytes.as_bytes().to_vec()));
        }
        if let Ok(bytes) = object.cast::<PyByteArray>() {
            return Ok(Self(bytes.to_vec()));
        }
        if object.cast::<PyMemoryView>().is_ok() {
            let bytes = object.call_method0("tobytes")?;
            return Ok(Self(bytes.cast::<PyBytes>()?.as_bytes().to_vec()));
        }
        let text = object.cast::<PyString>()?;
        if let Ok(text) = text.extract::<String>() {
            return Ok(Self(text.into_bytes()));
        }
        let encoded = text.call_method1("encode", ("utf-8", "surrogateescape"))?;
        Ok(Self(encoded.cast::<PyBytes>()?.as_bytes().to_vec()))
    }
}

impl<'py> IntoPyObject<'py> for Raw {
    type Target = PyString;
    type Output = Bound<'py, PyString>;
    type Error = PyErr;

    const OUTPUT_TYPE: pyo3::inspect::PyStaticExpr = <PyString as pyo3::PyTypeInfo>::TYPE_HINT;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        if let Ok(text) = std::str::from_utf8(&self.0) {
            return Ok(PyString::new(py, text));
        }
        let bytes = PyBytes::new(py, &self.0);
        let text = bytes.call_method1("decode", ("utf-8", "surrogateescape"))?;
        Ok(text.cast_into::<PyString>()?)
    }
}
