//! What is told of sandboxes, commands and files.

use std::collections::BTreeMap;
use std::fmt;

use napi::bindgen_prelude::Buffer;
use napi_derive::napi;
use stacyvm::sandbox::exec::ExecInfo;
use stacyvm::sandbox::files::{FileEntry, FileKind};
use stacyvm::{ExecEvent, ExitStatus};

use crate::convert::{Date, buffer, number};

/// The text of a value that is a word in JSON.
fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}

/// A name of a file as text, and in bytes where it is none.
fn text(name: Vec<u8>) -> (String, Option<Buffer>) {
    match String::from_utf8(name) {
        Ok(name) => (name, None),
        Err(other) => (
            String::from_utf8_lossy(other.as_bytes()).into_owned(),
            Some(other.into_bytes().into()),
        ),
    }
}

/// How a command ended.
#[napi(object, object_from_js = false, use_nullable = true)]
#[derive(Clone, Debug)]
pub struct ExitInfo {
    /// Why it ended.
    #[napi(
        ts_type = "'code' | 'signal' | 'timed_out' | 'out_of_memory' | 'cancelled' | 'sandbox_gone'"
    )]
    pub reason: &'static str,
    /// The exit code, of a command that exited by itself.
    pub exit_code: Option<i32>,
    /// The number of the signal that ended it.
    pub signal: Option<i32>,
}

impl From<ExitStatus> for ExitInfo {
    fn from(status: ExitStatus) -> Self {
        let (reason, exit_code, signal) = match status {
            ExitStatus::Code { code } => ("code", Some(code), None),
            ExitStatus::Signal { signal } => ("signal", None, Some(signal)),
            ExitStatus::TimedOut { .. } => ("timed_out", None, None),
            ExitStatus::OutOfMemory => ("out_of_memory", None, None),
            ExitStatus::Cancelled { .. } => ("cancelled", None, None),
            ExitStatus::SandboxGone => ("sandbox_gone", None, None),
        };
        Self {
            reason,
            exit_code,
            signal,
        }
    }
}

/// What a command said, and how it ended.
#[napi(object, object_from_js = false)]
pub struct Output {
    /// How it ended.
    pub exit: ExitInfo,
    /// Standard output, or what the terminal showed.
    pub stdout: Buffer,
    /// Standard error.
    pub stderr: Buffer,
    /// Bytes of standard output that were read and not kept.
    pub stdout_truncated_bytes: i64,
    /// Bytes of standard error that were read and not kept.
    pub stderr_truncated_bytes: i64,
    /// Milliseconds from the request to the end.
    pub duration_ms: f64,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("exit", &self.exit)
            .finish_non_exhaustive()
    }
}

impl From<stacyvm::Output> for Output {
    fn from(output: stacyvm::Output) -> Self {
        Self {
            exit: output.status.into(),
            stdout: output.stdout.into(),
            stderr: output.stderr.into(),
            stdout_truncated_bytes: number(output.stdout_truncated_bytes),
            stderr_truncated_bytes: number(output.stderr_truncated_bytes),
            duration_ms: output.duration.as_secs_f64() * 1000.0,
        }
    }
}

/// What happened in a command: one of these.
#[napi(object, object_from_js = false)]
#[derive(Default)]
pub struct Event {
    /// Bytes of standard output, or of the terminal.
    pub stdout: Option<Buffer>,
    /// Bytes of standard error.
    pub stderr: Option<Buffer>,
    /// Bytes of both streams that nobody read in time.
    pub lost: Option<Lost>,
    /// How the command ended.
    pub exit: Option<ExitInfo>,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").finish_non_exhaustive()
    }
}

/// Bytes that nobody read in time.
#[napi(object, object_from_js = false)]
#[derive(Debug)]
pub struct Lost {
    /// Of standard output.
    pub stdout: i64,
    /// Of standard error.
    pub stderr: i64,
}

impl From<ExecEvent> for Event {
    fn from(event: ExecEvent) -> Self {
        let mut told = Self::default();
        match event {
            ExecEvent::Stdout(bytes) => told.stdout = Some(buffer(bytes)),
            ExecEvent::Stderr(bytes) => told.stderr = Some(buffer(bytes)),
            ExecEvent::Lost { stdout, stderr } => {
                told.lost = Some(Lost {
                    stdout: number(stdout),
                    stderr: number(stderr),
                });
            }
            ExecEvent::Exited(status) => told.exit = Some(status.into()),
        }
        told
    }
}

/// What is in force of a need.
#[napi(object, object_from_js = false)]
#[derive(Clone, Debug)]
pub struct Effective {
    /// How strongly it is held: `enforced`, `best_effort` or `absent`.
    pub level: String,
    /// Its value.
    pub value: String,
}

/// A sandbox, as it is listed.
#[napi(object, object_from_js = false, use_nullable = true)]
#[derive(Clone, Debug)]
pub struct SandboxInfo {
    /// Its id.
    pub id: String,
    /// Its owner.
    pub tenant: String,
    /// Where it stands in its life: `running`, `paused`, `ended`, ...
    pub phase: String,
    /// Its provider.
    pub provider: String,
    /// The runtime below that.
    pub runtime: String,
    /// What its root file system was made from.
    pub source: String,
    /// When it was made.
    pub created: Date,
    /// When it will be ended.
    pub ends: Option<Date>,
    /// When it ended.
    pub ended: Option<Date>,
    /// Whether it ends with its owner: `attached` or `detached`.
    pub lifetime: String,
    /// What was added to what was asked for.
    pub profile: String,
    /// Its labels.
    pub metadata: BTreeMap<String, String>,
    /// The names of the variables of every command.
    pub env_names: Vec<String>,
    /// The user of commands that name none.
    pub user: Option<String>,
    /// The directory of commands that name none.
    pub cwd: Option<String>,
    /// Memory in MiB.
    pub memory_mib: Option<i64>,
    /// Processors.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Open files of one process.
    pub open_files: Option<i64>,
    /// Writable disk in MiB.
    pub disk_mib: Option<i64>,
    /// What is in force, by the name of the need.
    pub effective: BTreeMap<String, Effective>,
    /// Why it failed.
    pub failure: Option<String>,
    /// Why its provider could not be asked.
    pub unreachable: Option<String>,
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
            memory_mib: info.resources.memory_mib.map(number),
            cpus: info.resources.cpus,
            pids: info.resources.pids,
            open_files: info.resources.open_files.map(number),
            disk_mib: info.resources.disk_mib.map(number),
            effective: effective
                .map(|(need, is)| {
                    let level = word(is.level);
                    (
                        need,
                        Effective {
                            level,
                            value: is.value,
                        },
                    )
                })
                .collect(),
            failure: info.failure,
            unreachable: info.unreachable,
        }
    }
}

/// What a sandbox uses; null where its provider does not see it.
#[napi(object, object_from_js = false, use_nullable = true)]
#[derive(Clone, Debug)]
pub struct SandboxMetrics {
    /// Memory now.
    pub memory_bytes: Option<i64>,
    /// The most memory so far.
    pub memory_peak_bytes: Option<i64>,
    /// Processor time in microseconds.
    pub cpu_us: Option<i64>,
    /// Processes.
    pub processes: Option<u32>,
    /// Written disk.
    pub disk_bytes: Option<i64>,
    /// Processes that were killed for memory.
    pub oom_kills: Option<i64>,
}

impl From<stacyvm::sandbox::state::Usage> for SandboxMetrics {
    fn from(usage: stacyvm::sandbox::state::Usage) -> Self {
        Self {
            memory_bytes: usage.memory_bytes.map(number),
            memory_peak_bytes: usage.memory_peak_bytes.map(number),
            cpu_us: usage.cpu_us.map(number),
            processes: usage.processes,
            disk_bytes: usage.disk_bytes.map(number),
            oom_kills: usage.oom_kills.map(number),
        }
    }
}

/// A process inside.
#[napi(object, object_from_js = false, use_nullable = true)]
#[derive(Clone, Debug)]
pub struct ProcessInfo {
    /// Its number inside.
    pub pid: u32,
    /// The number of its parent.
    pub parent: u32,
    /// The number of its user inside.
    pub uid: u32,
    /// Its state: `running`, `sleeping`, ...
    pub state: String,
    /// Its arguments.
    pub argv: Vec<String>,
    /// Memory that it holds.
    pub resident_bytes: i64,
    /// Processor time in microseconds.
    pub cpu_us: i64,
    /// The id of the command that it belongs to.
    pub command: Option<String>,
}

impl From<stacyvm::sandbox::state::ProcessInfo> for ProcessInfo {
    fn from(process: stacyvm::sandbox::state::ProcessInfo) -> Self {
        Self {
            pid: process.pid,
            parent: process.parent,
            uid: process.uid,
            state: process.state,
            argv: process.argv,
            resident_bytes: number(process.resident_bytes),
            cpu_us: number(process.cpu_us),
            command: process.exec,
        }
    }
}

/// A command, as it is listed.
#[napi(object, object_from_js = false, use_nullable = true)]
#[derive(Clone, Debug)]
pub struct CommandInfo {
    /// Its id.
    pub id: String,
    /// Its arguments.
    pub argv: Vec<String>,
    /// The number of its first process inside.
    pub pid: Option<u32>,
    /// When it started.
    pub started: Option<Date>,
    /// How its first process ended, once it has.
    pub exit: Option<ExitInfo>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it outlives the process that started it.
    pub background: bool,
    /// Its processes that run now.
    pub processes: u32,
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
#[napi(object, object_from_js = false, use_nullable = true)]
#[derive(Clone, Debug)]
pub struct SnapshotInfo {
    /// Its id.
    pub id: String,
    /// Whether the memory was saved too.
    pub memory: bool,
    /// Its size.
    pub size_bytes: Option<i64>,
}

impl From<stacyvm::provider::SnapshotInfo> for SnapshotInfo {
    fn from(info: stacyvm::provider::SnapshotInfo) -> Self {
        Self {
            id: info.id.to_string(),
            memory: info.memory,
            size_bytes: info.size_bytes.map(number),
        }
    }
}

/// A file or directory.
#[napi(object, object_from_js = false, use_nullable = true)]
pub struct EntryInfo {
    /// The last part of the path.
    pub name: String,
    /// The path: as it was asked for, and relative to the directory in a listing.
    pub path: String,
    /// The same in bytes, where it is not UTF-8; what is not is replaced in `path`.
    pub path_bytes: Option<Buffer>,
    /// What it is.
    #[napi(js_name = "type", ts_type = "'file' | 'dir' | 'link' | 'other'")]
    pub kind: &'static str,
    /// Bytes.
    pub size: i64,
    /// Permission bits.
    pub mode: u32,
    /// The number of its owner.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
    /// The name of its owner inside.
    pub owner: Option<String>,
    /// The name of its group inside.
    pub group: Option<String>,
    /// When its content changed last.
    pub modified_time: Date,
    /// Where a symbolic link points.
    pub symlink_target: Option<String>,
    /// The same in bytes, where it is not UTF-8; what is not is replaced in `symlinkTarget`.
    pub symlink_target_bytes: Option<Buffer>,
}

impl fmt::Debug for EntryInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryInfo")
            .field("path", &self.path)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl From<FileEntry> for EntryInfo {
    fn from(entry: FileEntry) -> Self {
        let last = entry.path.rsplit(|byte| *byte == b'/').next();
        let name = String::from_utf8_lossy(last.unwrap_or_default()).into_owned();
        let (path, path_bytes) = text(entry.path);
        let (symlink_target, symlink_target_bytes) = entry.target.map(text).unzip();
        Self {
            name,
            path,
            path_bytes,
            kind: match entry.kind {
                FileKind::File => "file",
                FileKind::Directory => "dir",
                FileKind::Link => "link",
                FileKind::Other => "other",
            },
            size: number(entry.size),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            owner: entry.user,
            group: entry.group,
            modified_time: entry.modified.into(),
            symlink_target,
            symlink_target_bytes: symlink_target_bytes.flatten(),
        }
    }
}

/// A change of a file that is watched.
#[napi(object, object_from_js = false, use_nullable = true)]
pub struct WatchEvent {
    /// What happened.
    #[napi(
        js_name = "type",
        ts_type = "'created' | 'modified' | 'removed' | 'attributes' | 'overflow'"
    )]
    pub kind: String,
    /// Where, relative to what is watched.
    pub name: String,
    /// The same in bytes, where it is not UTF-8; what is not is replaced in `name`.
    pub name_bytes: Option<Buffer>,
}

impl fmt::Debug for WatchEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchEvent")
            .field("kind", &self.kind)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl From<stacyvm::sandbox::files::WatchEvent> for WatchEvent {
    fn from(event: stacyvm::sandbox::files::WatchEvent) -> Self {
        let (name, name_bytes) = text(event.path);
        Self {
            kind: word(event.kind),
            name,
            name_bytes,
        }
    }
}

/// Where others reach a port.
#[napi(object, object_from_js = false)]
#[derive(Debug)]
pub struct Endpoint {
    /// A host with a port, or a URL.
    pub address: String,
    /// The address as a URL.
    pub url: String,
    /// Headers that a caller must send.
    pub headers: BTreeMap<String, String>,
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
#[napi(object, object_from_js = false)]
#[derive(Debug)]
pub struct LeftOut {
    /// Their names; what is not UTF-8 in them is replaced. They come from inside: escape
    /// them before they are shown.
    pub names: Vec<String>,
    /// How many there were beside those named.
    pub more: i64,
}

impl From<stacyvm::sandbox::files::LeftOut> for LeftOut {
    fn from(left_out: stacyvm::sandbox::files::LeftOut) -> Self {
        let names = left_out.names.into_iter().map(|name| text(name).0);
        Self {
            names: names.collect(),
            more: number(left_out.more),
        }
    }
}
