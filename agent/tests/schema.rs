//! The schema may only grow: every line of the released snapshots is still
//! produced, byte for byte.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fmt::Write as _;

use minicbor::bytes::ByteVec;
use stacyvm_agent::protocol::Kind;
use stacyvm_agent::protocol::message::*;

const RELEASED: &str = concat!(
    include_str!("../schema/generation-1.txt"),
    include_str!("../schema/generation-2.txt"),
    include_str!("../schema/generation-3.txt"),
);

fn bytes(text: &str) -> ByteVec {
    ByteVec::from(text.as_bytes().to_vec())
}

fn line<T: minicbor::Encode<()>>(out: &mut String, name: &str, message: &T) {
    writeln!(
        out,
        "message {name} {}",
        minicbor::display(&encode(message))
    )
    .unwrap();
}

fn produced() -> String {
    let mut out = String::new();
    for kind in Kind::ALL {
        writeln!(
            out,
            "kind {} {} since {}",
            *kind as u8,
            kind.name(),
            kind.introduced()
        )
        .unwrap();
    }
    let size = Size {
        rows: 24,
        columns: 80,
    };
    let variable = Variable {
        name: bytes("A"),
        value: bytes("b"),
    };
    let user = Some("nobody".to_owned());
    let exited = |reason| Exited {
        reason,
        value: 9,
        survivors: 2,
        sandbox_ended: true,
    };
    let entry = |kind| Entry {
        path: bytes("/p"),
        kind,
        size: 1,
        mode: 0o644,
        uid: 2,
        gid: 3,
        modified_s: -4,
        modified_ns: 5,
        target: Some(bytes("t")),
        user: Some("u".into()),
        group: Some("g".into()),
    };
    line(
        &mut out,
        "Hello",
        &Hello {
            oldest: 1,
            newest: 2,
            version: "v".into(),
            nonce: vec![1],
            proof: vec![2],
        },
    );
    line(
        &mut out,
        "Welcome",
        &Welcome {
            generation: 1,
            proof: vec![2],
            can_switch_user: true,
            kernel: None,
        },
    );
    line(
        &mut out,
        "Welcome",
        &Welcome {
            generation: 3,
            proof: vec![2],
            can_switch_user: true,
            kernel: Some(Kernel {
                version: "v".into(),
                boot_id: "b".into(),
                gvisor: true,
            }),
        },
    );
    line(
        &mut out,
        "ExecRequest",
        &ExecRequest {
            exec: "e".into(),
            argv: vec![bytes("a")],
            env: vec![variable.clone()],
            workdir: Some(bytes("/w")),
            user: user.clone(),
            stdin: Stdin::Stream,
            tty: Some(size),
            timeout_ms: Some(6),
            background: true,
        },
    );
    line(
        &mut out,
        "AttachRequest",
        &AttachRequest {
            exec: "e".into(),
            stdin: true,
            replay: true,
        },
    );
    line(
        &mut out,
        "LogRequest",
        &LogRequest {
            exec: "e".into(),
            follow: true,
            age_ms: Some(7),
        },
    );
    for scope in [Scope::Process, Scope::Group, Scope::Tree] {
        line(
            &mut out,
            "SignalRequest",
            &SignalRequest {
                exec: "e".into(),
                signal: 15,
                scope,
            },
        );
    }
    line(
        &mut out,
        "ResizeRequest",
        &ResizeRequest {
            exec: "e".into(),
            size,
        },
    );
    line(&mut out, "Started", &Started { pid: 7 });
    for reason in [
        EndReason::Code,
        EndReason::Signal,
        EndReason::TimedOut,
        EndReason::OutOfMemory,
        EndReason::Cancelled,
    ] {
        line(&mut out, "Exited", &exited(reason));
    }
    line(
        &mut out,
        "Execs",
        &Execs {
            execs: vec![ExecInfo {
                exec: "e".into(),
                argv: vec![bytes("a")],
                pid: 1,
                started_ms: 2,
                exited: Some(exited(EndReason::Code)),
                tty: true,
                background: true,
                processes: 3,
            }],
        },
    );
    line(
        &mut out,
        "Lost",
        &Lost {
            stdout: 1,
            stderr: 2,
        },
    );
    for kind in [
        FileKind::File,
        FileKind::Directory,
        FileKind::Link,
        FileKind::Other,
    ] {
        line(&mut out, "Entry", &entry(kind));
    }
    line(
        &mut out,
        "Entries",
        &Entries {
            entries: vec![entry(FileKind::File)],
        },
    );
    for operation in [
        FileOperation::Stat {
            path: bytes("/p"),
            follow: true,
        },
        FileOperation::List {
            path: bytes("/p"),
            depth: 2,
        },
        FileOperation::MakeDir {
            path: bytes("/p"),
            parents: true,
            mode: 0o755,
        },
        FileOperation::Rename {
            from: bytes("/p"),
            to: bytes("/q"),
            replace: true,
        },
        FileOperation::Remove {
            path: bytes("/p"),
            recursive: true,
            missing_ok: true,
        },
        FileOperation::SetAttributes {
            path: bytes("/p"),
            mode: Some(1),
            owner: Some("o".into()),
            group: Some("g".into()),
            modified_s: Some(-1),
            recursive: true,
            follow: true,
            modified_ns: None,
        },
        FileOperation::SetAttributes {
            path: bytes("/p"),
            mode: None,
            owner: None,
            group: None,
            modified_s: Some(-1),
            recursive: false,
            follow: false,
            modified_ns: Some(2),
        },
        FileOperation::Glob {
            pattern: bytes("/*"),
            limit: 9,
        },
        FileOperation::Link {
            target: bytes("t"),
            path: bytes("/p"),
        },
    ] {
        line(
            &mut out,
            "FileRequest",
            &FileRequest {
                user: user.clone(),
                operation,
            },
        );
    }
    line(
        &mut out,
        "LeftOut",
        &LeftOut {
            names: vec![bytes("p")],
            more: 1,
        },
    );
    line(
        &mut out,
        "ReadRequest",
        &ReadRequest {
            user: user.clone(),
            path: bytes("/p"),
            offset: 1,
            length: Some(2),
        },
    );
    for how in [WriteMode::Replace, WriteMode::Append, WriteMode::CreateNew] {
        line(
            &mut out,
            "WriteRequest",
            &WriteRequest {
                user: user.clone(),
                path: bytes("/p"),
                how,
                mode: Some(1),
                parents: true,
            },
        );
    }
    line(
        &mut out,
        "WatchRequest",
        &WatchRequest {
            user: user.clone(),
            path: bytes("/p"),
            recursive: true,
        },
    );
    for kind in [
        WatchKind::Created,
        WatchKind::Modified,
        WatchKind::Removed,
        WatchKind::Attributes,
        WatchKind::Overflow,
    ] {
        line(
            &mut out,
            "WatchEvent",
            &WatchEvent {
                kind,
                path: bytes("p"),
            },
        );
    }
    line(
        &mut out,
        "ExportRequest",
        &ExportRequest {
            user: user.clone(),
            path: bytes("/p"),
            contents: true,
            follow: true,
        },
    );
    line(
        &mut out,
        "ImportRequest",
        &ImportRequest {
            user,
            path: bytes("/p"),
            parents: true,
            keep_owner: true,
        },
    );
    line(&mut out, "PortRequest", &PortRequest { port: 80 });
    line(&mut out, "Listening", &Listening { port: 80 });
    line(&mut out, "Accepted", &Accepted { listener: 3 });
    line(
        &mut out,
        "ProcessList",
        &ProcessList {
            processes: vec![Process {
                pid: 1,
                parent: 2,
                uid: 3,
                state: "S".into(),
                argv: vec![bytes("a")],
                resident_bytes: 4,
                cpu_us: 5,
                exec: Some("e".into()),
            }],
        },
    );
    line(
        &mut out,
        "UsageReport",
        &UsageReport {
            processes: 1,
            resident_bytes: 2,
            cpu_us: 3,
            disk_used_bytes: 4,
            disk_total_bytes: 5,
        },
    );
    line(
        &mut out,
        "DeadlineRequest",
        &DeadlineRequest { in_ms: Some(1) },
    );
    line(
        &mut out,
        "EnvironmentRequest",
        &EnvironmentRequest {
            env: vec![variable.clone()],
        },
    );
    line(&mut out, "Credit", &Credit { bytes: 1 });
    for kind in [
        FailureKind::Internal,
        FailureKind::Invalid,
        FailureKind::NotFound,
        FailureKind::AlreadyExists,
        FailureKind::PermissionDenied,
        FailureKind::IsDirectory,
        FailureKind::NotDirectory,
        FailureKind::NotEmpty,
        FailureKind::NoSpace,
        FailureKind::LinkLoop,
        FailureKind::CommandNotFound,
        FailureKind::CommandNotExecutable,
        FailureKind::BadWorkdir,
        FailureKind::Exhausted,
        FailureKind::Unsupported,
        FailureKind::Cancelled,
        FailureKind::Refused,
        FailureKind::ReadOnly,
        FailureKind::BadArchive,
        FailureKind::Changed,
    ] {
        line(
            &mut out,
            "Failure",
            &Failure {
                kind,
                message: "m".into(),
                subject: Some(bytes("s")),
                errno: Some(2),
            },
        );
    }
    line(
        &mut out,
        "AgentConfig",
        &AgentConfig {
            user: "u".into(),
            workdir: bytes("/w"),
            env: vec![variable],
            key: vec![1],
            deadline_ms: Some(1),
            ring_bytes: 2,
            max_execs: 3,
            open_files: Some(4),
            supervisor_uid: 5,
            can_switch_user: true,
            socket: Some(bytes("/s")),
            idle_ms: None,
            spare_supervisors: None,
            waits: None,
            namespaced_root: None,
            places: None,
        },
    );
    line(
        &mut out,
        "AgentConfig",
        &AgentConfig {
            user: "u".into(),
            workdir: bytes("/w"),
            env: Vec::new(),
            key: Vec::new(),
            deadline_ms: None,
            ring_bytes: 2,
            max_execs: 3,
            open_files: None,
            supervisor_uid: 5,
            can_switch_user: false,
            socket: None,
            idle_ms: Some(8),
            spare_supervisors: None,
            waits: None,
            namespaced_root: None,
            places: None,
        },
    );
    line(
        &mut out,
        "AgentConfig",
        &AgentConfig {
            user: "u".into(),
            workdir: bytes("/w"),
            env: Vec::new(),
            key: Vec::new(),
            deadline_ms: None,
            ring_bytes: 2,
            max_execs: 3,
            open_files: None,
            supervisor_uid: 5,
            can_switch_user: false,
            socket: None,
            idle_ms: None,
            spare_supervisors: Some(9),
            waits: Some(true),
            namespaced_root: None,
            places: None,
        },
    );
    out
}

#[test]
fn what_was_released_is_still_said_the_same_way() {
    let produced = produced();
    let missing: Vec<&str> = RELEASED
        .lines()
        .filter(|line| !produced.lines().any(|ours| ours == *line))
        .collect();
    assert!(
        missing.is_empty(),
        "no longer produced:\n{}",
        missing.join("\n")
    );
    let new: Vec<&str> = produced
        .lines()
        .filter(|line| !RELEASED.lines().any(|known| known == *line))
        .collect();
    assert!(
        new.is_empty(),
        "add to the newest file of schema/:\n{}",
        new.join("\n")
    );
}
