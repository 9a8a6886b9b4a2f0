//! Between the types of the wire and those of the library.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stacyvm_agent::protocol::message as wire;

use super::error::Closed;
use crate::id::ExecId;
use crate::sandbox::exec::{ExecInfo, ExecSpec, ExitStatus, SignalScope, TtySize};
use crate::sandbox::files::{
    ExportRequest, FileEntry, FileKind, FileOperation, FileRequest, ImportRequest, LeftOut,
    ReadRequest, WatchEvent, WatchKind, WatchRequest, WriteMode, WriteRequest,
};
use crate::sandbox::state::{ProcessInfo, Usage};

pub(super) fn exec_request(spec: &ExecSpec) -> wire::ExecRequest {
    wire::ExecRequest {
        exec: spec.exec.as_str().to_owned(),
        argv: spec.argv.iter().map(|a| a.clone().into()).collect(),
        env: variables(spec.env.iter().map(|(name, value)| (name, value))),
        workdir: spec.workdir.as_ref().map(|w| w.clone().into_bytes().into()),
        user: spec.user.clone(),
        stdin: if spec.stdin {
            wire::Stdin::Stream
        } else {
            wire::Stdin::Null
        },
        tty: spec.tty.map(size),
        // Rounded up: a deadline must not become zero.
        timeout_ms: spec
            .timeout
            .map(|t| u64::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)),
        background: spec.background,
    }
}

pub(super) fn variables<'a>(
    all: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Vec<wire::Variable> {
    let variable = |(name, value): (&String, &String)| wire::Variable {
        name: name.clone().into_bytes().into(),
        value: value.clone().into_bytes().into(),
    };
    all.into_iter().map(variable).collect()
}

pub(super) fn size(size: TtySize) -> wire::Size {
    wire::Size {
        rows: size.rows,
        columns: size.columns,
    }
}

pub(super) fn scope(scope: SignalScope) -> wire::Scope {
    match scope {
        SignalScope::Process => wire::Scope::Process,
        SignalScope::Group => wire::Scope::Group,
        SignalScope::Tree => wire::Scope::Tree,
    }
}

/// How a command ended. A value that no process can end with is a violation.
pub(super) fn status(exited: &wire::Exited) -> Result<ExitStatus, Closed> {
    let sandbox_ended = exited.sandbox_ended;
    Ok(match (exited.reason, exited.value) {
        (wire::EndReason::Code, code @ 0..=255) => ExitStatus::Code { code },
        (wire::EndReason::Signal, signal @ 1..=64) => ExitStatus::Signal { signal },
        (wire::EndReason::TimedOut, _) => ExitStatus::TimedOut { sandbox_ended },
        (wire::EndReason::OutOfMemory, _) => ExitStatus::OutOfMemory,
        (wire::EndReason::Cancelled, _) => ExitStatus::Cancelled { sandbox_ended },
        (wire::EndReason::Code | wire::EndReason::Signal, value) => {
            return Err(Closed::protocol(format!(
                "the agent reported the exit value {value}, which no process can have"
            )));
        }
    })
}

pub(super) fn exec_info(info: wire::ExecInfo) -> Result<ExecInfo, Closed> {
    let exec = ExecId::new(info.exec)
        .map_err(|e| Closed::protocol(format!("the agent lists a command by a bad id: {e}")))?;
    Ok(ExecInfo {
        exec,
        argv: info.argv.iter().map(|a| text(a)).collect(),
        pid: Some(info.pid),
        started: UNIX_EPOCH.checked_add(Duration::from_millis(info.started_ms)),
        exited: info.exited.as_ref().map(status).transpose()?,
        tty: info.tty,
        background: info.background,
        processes: info.processes,
    })
}

pub(super) fn entry(entry: wire::Entry) -> FileEntry {
    FileEntry {
        path: entry.path.into(),
        kind: match entry.kind {
            wire::FileKind::File => FileKind::File,
            wire::FileKind::Directory => FileKind::Directory,
            wire::FileKind::Link => FileKind::Link,
            wire::FileKind::Other => FileKind::Other,
        },
        size: entry.size,
        mode: entry.mode & 0o7777,
        uid: entry.uid,
        gid: entry.gid,
        modified: time(entry.modified_s, entry.modified_ns),
        target: entry.target.map(Into::into),
        user: entry.user,
        group: entry.group,
    }
}

/// A time that cannot be written here is shown as the epoch.
fn time(seconds: i64, nanoseconds: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    let part = Duration::from_nanos(u64::from(nanoseconds.min(999_999_999)));
    base.and_then(|base| base.checked_add(part))
        .unwrap_or(UNIX_EPOCH)
}

/// Whole seconds since the epoch, rounded down, and nanoseconds beyond those.
fn parts(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (
            i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            after.subsec_nanos(),
        ),
        Err(before) => {
            let before = before.duration();
            let (up, beyond) = match before.subsec_nanos() {
                0 => (0, 0),
                part => (1, 1_000_000_000 - part),
            };
            let seconds = i64::try_from(before.as_secs() + up);
            (seconds.map_or(i64::MIN, |s| -s), beyond)
        }
    }
}

pub(super) fn file_request(request: &FileRequest) -> wire::FileRequest {
    use FileOperation as F;
    use wire::FileOperation as W;
    let bytes = |path: &crate::sandbox::files::GuestPath| path.as_bytes().to_vec().into();
    let operation = match &request.operation {
        F::Stat { path, follow } => W::Stat {
            path: bytes(path),
            follow: *follow,
        },
        F::List { path, depth } => W::List {
            path: bytes(path),
            depth: *depth,
        },
        F::MakeDir {
            path,
            parents,
            mode,
        } => W::MakeDir {
            path: bytes(path),
            parents: *parents,
            mode: *mode,
        },
        F::Rename { from, to, replace } => W::Rename {
            from: bytes(from),
            to: bytes(to),
            replace: *replace,
        },
        F::Remove {
            path,
            recursive,
            missing_ok,
        } => W::Remove {
            path: bytes(path),
            recursive: *recursive,
            missing_ok: *missing_ok,
        },
        F::SetAttributes {
            path,
            attributes,
            recursive,
            follow,
        } => W::SetAttributes {
            path: bytes(path),
            mode: attributes.mode,
            owner: attributes.owner.clone(),
            group: attributes.group.clone(),
            modified_s: attributes.modified.map(|time| parts(time).0),
            recursive: *recursive,
            follow: *follow,
            modified_ns: attributes.modified.map(|time| parts(time).1),
        },
        F::Glob { pattern, limit } => W::Glob {
            pattern: bytes(pattern),
            limit: *limit,
        },
        F::Link { target, path } => W::Link {
            target: target.clone().into(),
            path: bytes(path),
        },
    };
    wire::FileRequest {
        user: request.user.clone(),
        operation,
    }
}

pub(super) fn read_request(request: &ReadRequest) -> wire::ReadRequest {
    wire::ReadRequest {
        user: request.user.clone(),
        path: request.path.as_bytes().to_vec().into(),
        offset: request.offset,
        length: request.length,
    }
}

pub(super) fn write_request(request: &WriteRequest) -> wire::WriteRequest {
    wire::WriteRequest {
        user: request.user.clone(),
        path: request.path.as_bytes().to_vec().into(),
        how: match request.how {
            WriteMode::Replace => wire::WriteMode::Replace,
            WriteMode::Append => wire::WriteMode::Append,
            WriteMode::CreateNew => wire::WriteMode::CreateNew,
        },
        mode: request.mode,
        parents: request.parents,
    }
}

pub(super) fn watch_request(request: &WatchRequest) -> wire::WatchRequest {
    wire::WatchRequest {
        user: request.user.clone(),
        path: request.path.as_bytes().to_vec().into(),
        recursive: request.recursive,
    }
}

/// What an archive does not hold.
pub(crate) fn left_out(told: wire::LeftOut) -> LeftOut {
    LeftOut {
        names: told.names.into_iter().map(Into::into).collect(),
        more: told.more,
    }
}

pub(super) fn export_request(request: &ExportRequest) -> wire::ExportRequest {
    wire::ExportRequest {
        user: request.user.clone(),
        path: request.path.as_bytes().to_vec().into(),
        contents: request.contents,
        follow: request.follow,
    }
}

pub(super) fn import_request(request: &ImportRequest) -> wire::ImportRequest {
    wire::ImportRequest {
        user: request.user.clone(),
        path: request.path.as_bytes().to_vec().into(),
        parents: request.parents,
        keep_owner: request.keep_owner,
    }
}

pub(super) fn watch_event(event: wire::WatchEvent) -> WatchEvent {
    WatchEvent {
        kind: match event.kind {
            wire::WatchKind::Created => WatchKind::Created,
            wire::WatchKind::Modified => WatchKind::Modified,
            wire::WatchKind::Removed => WatchKind::Removed,
            wire::WatchKind::Attributes => WatchKind::Attributes,
            wire::WatchKind::Overflow => WatchKind::Overflow,
        },
        path: event.path.into(),
    }
}

pub(super) fn process(process: wire::Process) -> ProcessInfo {
    ProcessInfo {
        pid: process.pid,
        parent: process.parent,
        uid: process.uid,
        state: process.state.chars().take(1).collect(),
        argv: process.argv.iter().map(|a| text(a)).collect(),
        resident_bytes: process.resident_bytes,
        cpu_us: process.cpu_us,
        exec: process.exec,
    }
}

/// The agent sees no peak and no kill count.
pub(super) fn usage(report: &wire::UsageReport) -> Usage {
    Usage {
        memory_bytes: Some(report.resident_bytes),
        cpu_us: Some(report.cpu_us),
        processes: Some(report.processes),
        disk_bytes: Some(report.disk_used_bytes),
        ..Usage::default()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_and_absurd_ones_do_no_harm() {
        for (s, ns) in [(0, 0), (1_700_000_000, 5), (-1, 500_000_000), (-5, 0)] {
            assert_eq!(parts(time(s, ns)), (s, ns), "{s} {ns}");
        }
        for s in [i64::MAX, i64::MIN] {
            let _ = parts(time(s, u32::MAX));
        }
    }

    #[test]
    fn an_exit_value_that_no_process_has_is_a_violation() {
        use wire::EndReason::{Code, Signal};
        let exited = |reason, value| wire::Exited {
            reason,
            value,
            survivors: 0,
            sandbox_ended: false,
        };
        for (reason, value) in [(Code, -1), (Code, 256), (Signal, 0), (Signal, 65)] {
            assert!(status(&exited(reason, value)).is_err(), "{value}");
        }
        assert_eq!(
            status(&exited(Code, 255)).unwrap(),
            ExitStatus::Code { code: 255 }
        );
    }

    #[test]
    fn a_deadline_never_becomes_zero() {
        let mut spec = ExecSpec::new(["true"]);
        spec.timeout = Some(Duration::from_nanos(1));
        assert_eq!(exec_request(&spec).timeout_ms, Some(1));
    }
}
