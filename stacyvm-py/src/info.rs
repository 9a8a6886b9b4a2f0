//! What is told of sandboxes, commands and files.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::{Deserialize, Serialize};
use stacyvm::sandbox::exec::ExecInfo;
use stacyvm::sandbox::files::{FileEntry, FileKind};
use stacyvm::{ExitStatus, Output};

use crate::convert::{Moment, Raw, moment};

/// The text of a value that is a word in JSON.
fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}

/// How a command ended.
#[pyclass(module = "stacyvm", frozen, eq)]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExitInfo(ExitStatus);

impl From<ExitStatus> for ExitInfo {
    fn from(status: ExitStatus) -> Self {
        Self(status)
    }
}

#[pymethods]
impl ExitInfo {
    /// `code`, `signal`, `timed_out`, `out_of_memory`, `cancelled` or `sandbox_gone`.
    #[getter]
    fn reason(&self) -> &'static str {
        match self.0 {
            ExitStatus::Code { .. } => "code",
            ExitStatus::Signal { .. } => "signal",
            ExitStatus::TimedOut { .. } => "timed_out",
            ExitStatus::OutOfMemory => "out_of_memory",
            ExitStatus::Cancelled { .. } => "cancelled",
            ExitStatus::SandboxGone => "sandbox_gone",
        }
    }

    /// The exit code, of a command that exited by itself.
    #[getter]
    fn exit_code(&self) -> Option<i32> {
        self.0.code()
    }

    /// The number of the signal that ended it.
    #[getter]
    fn signal(&self) -> Option<i32> {
        match self.0 {
            ExitStatus::Signal { signal } => Some(signal),
            _ => None,
        }
    }

    fn __str__(&self) -> String {
        self.0.to_string()
    }

    fn __repr__(&self) -> String {
        format!("ExitInfo({})", self.0)
    }
}

/// Streams, bytes of them that were not kept, status in JSON, duration.
type Parts<'py> = (
    (Bound<'py, PyBytes>, Bound<'py, PyBytes>),
    (u64, u64),
    String,
    f64,
);

/// What a command said, and how it ended.
#[pyclass(module = "stacyvm", frozen)]
pub(crate) struct CommandResult {
    output: Output,
}

impl From<Output> for CommandResult {
    fn from(output: Output) -> Self {
        Self { output }
    }
}

#[pymethods]
impl CommandResult {
    /// What `pickle` makes it from.
    #[staticmethod]
    fn _restore(
        streams: (Vec<u8>, Vec<u8>),
        truncated: (u64, u64),
        status: &str,
        duration: f64,
    ) -> PyResult<Self> {
        let bad = |error: &dyn std::fmt::Display| PyValueError::new_err(error.to_string());
        let output = Output {
            status: serde_json::from_str(status).map_err(|error| bad(&error))?,
            stdout: streams.0,
            stderr: streams.1,
            stdout_truncated_bytes: truncated.0,
            stderr_truncated_bytes: truncated.1,
            duration: Duration::try_from_secs_f64(duration).map_err(|error| bad(&error))?,
        };
        Ok(Self { output })
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Parts<'py>)> {
        let output = &self.output;
        let status = serde_json::to_string(&output.status);
        let streams = [&output.stdout, &output.stderr].map(|stream| PyBytes::new(py, stream));
        let parts = (
            streams.into(),
            (output.stdout_truncated_bytes, output.stderr_truncated_bytes),
            status.map_err(|error| PyValueError::new_err(error.to_string()))?,
            output.duration.as_secs_f64(),
        );
        Ok((py.get_type::<Self>().getattr("_restore")?, parts))
    }

    /// Standard output as text; what is not UTF-8 is replaced.
    #[getter]
    fn stdout(&self) -> String {
        self.output.stdout_text()
    }

    /// Standard error as text; what is not UTF-8 is replaced.
    #[getter]
    fn stderr(&self) -> String {
        self.output.stderr_text()
    }

    /// Standard output.
    #[getter]
    fn stdout_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.output.stdout)
    }

    /// Standard error.
    #[getter]
    fn stderr_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.output.stderr)
    }

    /// Bytes of standard output that were read and not kept.
    #[getter]
    fn stdout_truncated_bytes(&self) -> u64 {
        self.output.stdout_truncated_bytes
    }

    /// Bytes of standard error that were read and not kept.
    #[getter]
    fn stderr_truncated_bytes(&self) -> u64 {
        self.output.stderr_truncated_bytes
    }

    /// Seconds from the request to the end.
    #[getter]
    fn duration(&self) -> f64 {
        self.output.duration.as_secs_f64()
    }

    /// How it ended.
    #[getter]
    fn exit(&self) -> ExitInfo {
        self.output.status.into()
    }

    /// The exit code; `None` for a command that did not exit by itself.
    #[getter]
    fn exit_code(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// Whether it exited with 0.
    #[getter]
    fn ok(&self) -> bool {
        self.output.status.success()
    }

    fn __repr__(&self) -> String {
        format!(
            "CommandResult({}, stdout: {} bytes, stderr: {} bytes)",
            self.output.status,
            self.output.stdout.len(),
            self.output.stderr.len()
        )
    }
}

/// A sandbox, as it is listed.
#[pyclass(module = "stacyvm", frozen, get_all)]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxInfo {
    id: String,
    tenant: String,
    /// Where it stands in its life: `running`, `paused`, `ended`, ...
    phase: String,
    provider: String,
    runtime: String,
    /// What its root file system was made from.
    source: String,
    created: Moment,
    /// When it will be ended.
    ends: Option<Moment>,
    ended: Option<Moment>,
    lifetime: String,
    profile: String,
    metadata: BTreeMap<String, String>,
    env_names: Vec<String>,
    user: Option<String>,
    cwd: Option<String>,
    memory_mib: Option<u64>,
    cpus: Option<f64>,
    pids: Option<u32>,
    open_files: Option<u64>,
    disk_mib: Option<u64>,
    /// What is in force, by the name of the need: its level and value.
    effective: BTreeMap<String, (String, String)>,
    /// Why it failed.
    failure: Option<String>,
    /// Why its provider could not be asked.
    unreachable: Option<String>,
}

impl From<stacyvm::SandboxInfo> for SandboxInfo {
    fn from(info: stacyvm::SandboxInfo) -> Self {
        use stacyvm::sandbox::spec::Source;
        let (Source::Image(source) | Source::Template(source) | Source::Snapshot(source)) =
            info.source;
        let effective = info.effective.into_iter();
        Self {
            id: info.id.to_string(),
            tenant: info.tenant.to_string(),
            phase: word(info.phase),
            provider: info.provider,
            runtime: info.runtime,
            source,
            created: info.created.into(),
            ends: info.ends.map(Into::into),
            ended: info.ended.map(Into::into),
            lifetime: word(info.lifetime),
            profile: word(info.profile),
            metadata: info.labels,
            env_names: info.env_names,
            user: info.user,
            cwd: info.workdir,
            memory_mib: info.resources.memory_mib,
            cpus: info.resources.cpus,
            pids: info.resources.pids,
            open_files: info.resources.open_files,
            disk_mib: info.resources.disk_mib,
            effective: effective
                .map(|(need, is)| (need, (word(is.level), is.value)))
                .collect(),
            failure: info.failure,
            unreachable: info.unreachable,
        }
    }
}

#[pymethods]
impl SandboxInfo {
    fn __repr__(&self) -> String {
        format!(
            "SandboxInfo(id='{}', phase='{}', provider='{}')",
            self.id, self.phase, self.provider
        )
    }
}

/// What a sandbox uses; `None` where its provider does not see it.
#[pyclass(module = "stacyvm", frozen, get_all)]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxMetrics {
    memory_bytes: Option<u64>,
    memory_peak_bytes: Option<u64>,
    /// Processor time in microseconds.
    cpu_us: Option<u64>,
    processes: Option<u32>,
    disk_bytes: Option<u64>,
    oom_kills: Option<u64>,
}

impl From<stacyvm::sandbox::state::Usage> for SandboxMetrics {
    fn from(usage: stacyvm::sandbox::state::Usage) -> Self {
        Self {
            memory_bytes: usage.memory_bytes,
            memory_peak_bytes: usage.memory_peak_bytes,
            cpu_us: usage.cpu_us,
            processes: usage.processes,
            disk_bytes: usage.disk_bytes,
            oom_kills: usage.oom_kills,
        }
    }
}

/// A process inside.
#[pyclass(module = "stacyvm", frozen, get_all)]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProcessInfo {
    pid: u32,
    parent: u32,
    uid: u32,
    state: String,
    argv: Vec<String>,
    resident_bytes: u64,
    /// Processor time in microseconds.
    cpu_us: u64,
    /// The command that it belongs to.
    command: Option<String>,
}

impl From<stacyvm::sandbox::state::ProcessInfo> for ProcessInfo {
    fn from(process: stacyvm::sandbox::state::ProcessInfo) -> Self {
        Self {
            pid: process.pid,
            parent: process.parent,
            uid: process.uid,
            state: process.state,
            argv: process.argv,
            resident_bytes: process.resident_bytes,
            cpu_us: process.cpu_us,
            command: process.exec,
        }
    }
}

/// A command, as it is listed.
#[pyclass(module = "stacyvm", frozen, get_all)]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CommandInfo {
    id: String,
    argv: Vec<String>,
    pid: Option<u32>,
    started: Option<Moment>,
    /// How its first process ended, once it has.
    exit: Option<ExitInfo>,
    tty: bool,
    background: bool,
    /// Its processes that run now.
    processes: u32,
}

impl From<ExecInfo> for CommandInfo {
    fn from(info: ExecInfo) -> Self {
        Self {
            id: info.exec.to_string(),
            argv: info.argv,
            pid: info.pid,
            started: info.started.map(Into::into),
            exit: info.exited.map(Into::into),
            tty: info.tty,
            background: info.background,
            processes: info.processes,
        }
    }
}

/// A snapshot of a sandbox.
#[pyclass(module = "stacyvm", frozen, get_all)]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotInfo {
    id: String,
    /// Whether the memory was saved too.
    memory: bool,
    size_bytes: Option<u64>,
}

impl From<stacyvm::provider::SnapshotInfo> for SnapshotInfo {
    fn from(info: stacyvm::provider::SnapshotInfo) -> Self {
        Self {
            id: info.id.to_string(),
            memory: info.memory,
            size_bytes: info.size_bytes,
        }
    }
}

/// A file or directory.
#[pyclass(module = "stacyvm", frozen)]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EntryInfo(#[serde(with = "EntryParts")] FileEntry);

/// How an entry is packed.
#[derive(Serialize, Deserialize)]
#[serde(remote = "FileEntry")]
struct EntryParts {
    path: Vec<u8>,
    kind: FileKind,
    size: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    #[serde(with = "moment")]
    modified: SystemTime,
    target: Option<Vec<u8>>,
    user: Option<String>,
    group: Option<String>,
}

impl From<FileEntry> for EntryInfo {
    fn from(entry: FileEntry) -> Self {
        Self(entry)
    }
}

#[pymethods]
impl EntryInfo {
    /// The last part of the path.
    #[getter]
    fn name(&self) -> Raw {
        let last = self.0.path.rsplit(|byte| *byte == b'/').next();
        Raw(last.unwrap_or_default().to_vec())
    }

    /// The path: as it was asked for, and relative to the directory in a listing.
    #[getter]
    fn path(&self) -> Raw {
        Raw(self.0.path.clone())
    }

    /// `file`, `dir`, `link` or `other`.
    #[getter]
    fn r#type(&self) -> &'static str {
        match self.0.kind {
            FileKind::File => "file",
            FileKind::Directory => "dir",
            FileKind::Link => "link",
            FileKind::Other => "other",
        }
    }

    /// Bytes.
    #[getter]
    fn size(&self) -> u64 {
        self.0.size
    }

    /// Permission bits.
    #[getter]
    fn mode(&self) -> u32 {
        self.0.mode
    }

    /// The number of its owner.
    #[getter]
    fn uid(&self) -> u32 {
        self.0.uid
    }

    /// The number of its group.
    #[getter]
    fn gid(&self) -> u32 {
        self.0.gid
    }

    /// The name of its owner inside.
    #[getter]
    fn owner(&self) -> Option<String> {
        self.0.user.clone()
    }

    /// The name of its group inside.
    #[getter]
    fn group(&self) -> Option<String> {
        self.0.group.clone()
    }

    /// When its content changed last.
    #[getter]
    fn modified_time(&self) -> Moment {
        self.0.modified.into()
    }

    /// Where a symbolic link points.
    #[getter]
    fn symlink_target(&self) -> Option<Raw> {
        self.0.target.clone().map(Raw)
    }

    fn __repr__(&self) -> String {
        let path = String::from_utf8_lossy(&self.0.path);
        format!("EntryInfo({path:?}, {})", self.r#type())
    }
}

/// A change of a file that is watched.
#[pyclass(module = "stacyvm", frozen)]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WatchEvent(stacyvm::sandbox::files::WatchEvent);

impl From<stacyvm::sandbox::files::WatchEvent> for WatchEvent {
    fn from(event: stacyvm::sandbox::files::WatchEvent) -> Self {
        Self(event)
    }
}

#[pymethods]
impl WatchEvent {
    /// `created`, `modified`, `removed`, `attributes` or `overflow`.
    #[getter]
    fn r#type(&self) -> String {
        word(self.0.kind)
    }

    /// Where, relative to what is watched.
    #[getter]
    fn name(&self) -> Raw {
        Raw(self.0.path.clone())
    }
}

/// Where others reach a port.
#[pyclass(module = "stacyvm", frozen, get_all)]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// A host with a port, or a URL.
    address: String,
    /// The address as a URL.
    url: String,
    /// Headers that a caller must send.
    headers: BTreeMap<String, String>,
}

impl From<stacyvm::provider::Endpoint> for Endpoint {
    fn from(endpoint: stacyvm::provider::Endpoint) -> Self {
        Self {
            url: endpoint.url(),
            address: endpoint.address,
            headers: endpoint.headers,
        }
    }
}

/// Sockets and devices that a copy or an archive does not hold.
#[pyclass(module = "stacyvm", frozen, eq)]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LeftOut(stacyvm::sandbox::files::LeftOut);

impl From<stacyvm::sandbox::files::LeftOut> for LeftOut {
    fn from(left_out: stacyvm::sandbox::files::LeftOut) -> Self {
        Self(left_out)
    }
}

#[pymethods]
impl LeftOut {
    /// Their names. They come from inside: escape them before they are shown.
    #[getter]
    fn names(&self) -> Vec<Raw> {
        self.0.names.iter().cloned().map(Raw).collect()
    }

    /// How many there were beside those named.
    #[getter]
    fn more(&self) -> u64 {
        self.0.more
    }

    fn __bool__(&self) -> bool {
        !self.0.names.is_empty() || self.0.more > 0
    }

    fn __repr__(&self) -> String {
        format!(
            "LeftOut({} named, {} more)",
            self.0.names.len(),
            self.0.more
        )
    }
}
