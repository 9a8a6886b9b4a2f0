//! Makes failures.

use std::io;

use minicbor::bytes::ByteVec;

use crate::protocol::message::{Failure, FailureKind};

/// A failure without a subject.
pub(super) fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure {
        kind,
        message: message.into(),
        subject: None,
        errno: None,
    }
}

/// The most bytes of a subject: it travels in one message of a supervisor.
const MAX_SUBJECT: usize = 8192;

/// A failure about `subject`, of which the beginning is told.
pub(super) fn about(kind: FailureKind, message: impl Into<String>, subject: &[u8]) -> Failure {
    let told = subject[..subject.len().min(MAX_SUBJECT)].to_vec();
    Failure {
        subject: Some(ByteVec::from(told)),
        ..failure(kind, message)
    }
}

/// A failure of a system call; lack of processes, descriptors or memory has its own kind.
pub(super) fn system(what: &str, error: &io::Error) -> Failure {
    let kind = match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => FailureKind::Exhausted,
        Some(libc::EPERM | libc::EACCES) => FailureKind::PermissionDenied,
        _ => FailureKind::Internal,
    };
    Failure {
        errno: error.raw_os_error(),
        ..failure(kind, format!("{what}: {error}"))
    }
}
