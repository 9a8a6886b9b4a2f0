//! The native half of the Python package `stacyvm`: a method converts, calls the
//! library, and converts. What users see is `python/stacyvm`.

#![expect(
    clippy::unsafe_derive_deserialize,
    reason = "the unsafe methods are those that PyO3 writes, and they ask nothing of the fields"
)]

mod code;
mod convert;
mod creating;
mod ending;
mod engine;
mod error;
mod files;
mod forked;
mod info;
mod logs;
mod options;
mod packed;
mod pending;
mod pool;
mod ports;
mod process;
mod runtime;
mod sandbox;
mod sys;

/// What the Python half is made of.
#[pyo3::pymodule]
mod _native {
    #[pymodule_export]
    use crate::code::{CodeContext, CodeError, CodeOutput, CodeResult, Execution, RunningCode};
    #[pymodule_export]
    use crate::creating::{Creating, PullInfo};
    #[pymodule_export]
    use crate::ending::end;
    #[pymodule_export]
    use crate::engine::Engine;
    #[pymodule_export]
    use crate::error::error_codes;
    #[pymodule_export]
    use crate::files::{Files, Reader, Watch, Writer};
    #[pymodule_export]
    use crate::info::{
        CommandInfo, CommandResult, Endpoint, EntryInfo, ExitInfo, LeftOut, ProcessInfo,
        SandboxInfo, SandboxMetrics, SnapshotInfo, WatchEvent,
    };
    #[pymodule_export]
    use crate::logs::Logs;
    #[pymodule_export]
    use crate::options::create_options;
    #[pymodule_export]
    use crate::packed::{pack, packed_classes, unpack};
    #[pymodule_export]
    use crate::pending::Pending;
    #[pymodule_export]
    use crate::pool::{Pool, PoolStats};
    #[pymodule_export]
    use crate::ports::{Connection, Listener};
    #[pymodule_export]
    use crate::process::{Event, Process};
    #[pymodule_export]
    use crate::sandbox::Sandbox;
    #[pymodule_export]
    use crate::sys::{after_fork, before_fork};
}
