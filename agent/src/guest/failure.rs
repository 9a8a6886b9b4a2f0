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

/// A failure about `subject`.
pub(super) fn about(kind: FailureKind, message: impl Into<String>, subject: &[u8]) -> Failure {
    Failure {
        subject: Some(ByteVec::from(subject.to_vec())),
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
