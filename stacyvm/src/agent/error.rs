//! What an agent says went wrong, as errors of this library.

use std::time::Duration;

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use stacyvm_agent::protocol::message::{self, Failure, FailureKind};

use crate::error::{Error, ErrorKind, Retry};

/// The most bytes of an agent's message that are kept.
const LONGEST_MESSAGE: usize = 1024;

/// Why a connection ended, kept so that each of its streams can report it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) kind: ErrorKind,
    pub(super) message: String,
}

impl Closed {
    /// The other end is gone, or the way to it.
    pub(super) fn gone(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::SandboxGone,
            message: message.into(),
        }
    }

    /// The agent does not answer, or its connection was given up here.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Unavailable,
            message: message.into(),
        }
    }

    /// The agent sent what the protocol does not allow.
    pub(super) fn protocol(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Protocol,
            message: message.into(),
        }
    }

    pub(super) fn error(&self) -> Error {
        let error = Error::new(self.kind, self.message.clone());
        if self.kind == ErrorKind::Unavailable {
            return error.retry(Retry::Maybe {
                after: Duration::from_millis(100),
            });
        }
        error
    }
}

/// Linux's numbers of what the other side of a connection did to it: `EPIPE`,
/// `ECONNABORTED`, `ECONNRESET`.
const OTHER_SIDE: [i32; 3] = [32, 103, 104];

/// The kind of error that a failure inside is.
pub(super) fn kind_of(kind: FailureKind) -> ErrorKind {
    match kind {
        FailureKind::Internal => ErrorKind::Internal,
        FailureKind::Invalid | FailureKind::LinkLoop | FailureKind::BadArchive => {
            ErrorKind::InvalidArgument
        }
        FailureKind::NotFound | FailureKind::BadWorkdir | FailureKind::Refused => {
            ErrorKind::NotFound
        }
        FailureKind::AlreadyExists => ErrorKind::AlreadyExists,
        FailureKind::PermissionDenied | FailureKind::ReadOnly => ErrorKind::PermissionDenied,
        FailureKind::IsDirectory => ErrorKind::IsDirectory,
        FailureKind::NotDirectory => ErrorKind::NotDirectory,
        FailureKind::NotEmpty => ErrorKind::DirectoryNotEmpty,
        FailureKind::NoSpace => ErrorKind::NoSpace,
        FailureKind::CommandNotFound => ErrorKind::CommandNotFound,
        FailureKind::CommandNotExecutable => ErrorKind::CommandNotExecutable,
        FailureKind::Exhausted => ErrorKind::ResourceExhausted,
        FailureKind::Unsupported => ErrorKind::Unsupported,
        FailureKind::Cancelled => ErrorKind::Cancelled,
        FailureKind::Changed => ErrorKind::Conflict,
    }
}

/// Makes the error of a failure frame. An unreadable frame is a protocol
/// violation; an unknown cause is reported as internal.
pub(super) fn failure(payload: &[u8]) -> Result<Error, Closed> {
    let failure = read_failure(payload)
        .map_err(|e| Closed::protocol(format!("the agent sent an unreadable failure: {e}")))?;
    Ok(error_of(&failure))
}

pub(crate) fn error_of(failure: &Failure) -> Error {
    let text = &failure.message;
    let message = if text.len() > LONGEST_MESSAGE {
        &text[..text.floor_char_boundary(LONGEST_MESSAGE)]
    } else {
        text
    };
    let kind = match (failure.kind, failure.errno) {
        (FailureKind::Internal, Some(errno)) if OTHER_SIDE.contains(&errno) => ErrorKind::Conflict,
        (kind, _) => kind_of(kind),
    };
    let mut error = Error::new(kind, message);
    if let Some(subject) = &failure.subject {
        error = error.context("subject", String::from_utf8_lossy(subject));
    }
    if let Some(errno) = failure.errno {
        error = error.context("errno", errno);
    }
    match failure.kind {
        FailureKind::BadWorkdir => error.context("field", "workdir"),
        // Servers inside take a moment to listen.
        FailureKind::Refused => error.retry(Retry::Maybe {
            after: Duration::from_millis(100),
        }),
        _ => error,
    }
}

/// A failure whose cause may be of a later generation.
#[derive(Encode, Decode)]
#[cbor(map)]
struct LooseFailure {
    #[n(0)]
    kind: u32,
    #[n(1)]
    message: String,
    #[n(2)]
    subject: Option<ByteVec>,
    #[n(3)]
    errno: Option<i32>,
}

fn read_failure(payload: &[u8]) -> Result<Failure, minicbor::decode::Error> {
    let loose: LooseFailure = message::decode(payload)?;
    let kind = message::decode(&message::encode(&loose.kind)).unwrap_or(FailureKind::Internal);
    Ok(Failure {
        kind,
        message: loose.message,
        subject: loose.subject,
        errno: loose.errno,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation, reason = "short tables")]
    use super::*;

    /// Every cause, with the kind that callers see. The match below does not
    /// compile when a cause is added, and the table must then grow too.
    const TABLE: &[(FailureKind, &str)] = &[
        (FailureKind::Internal, "internal"),
        (FailureKind::Invalid, "invalid_argument"),
        (FailureKind::NotFound, "not_found"),
        (FailureKind::AlreadyExists, "already_exists"),
        (FailureKind::PermissionDenied, "permission_denied"),
        (FailureKind::IsDirectory, "is_directory"),
        (FailureKind::NotDirectory, "not_directory"),
        (FailureKind::NotEmpty, "directory_not_empty"),
        (FailureKind::NoSpace, "no_space"),
        (FailureKind::LinkLoop, "invalid_argument"),
        (FailureKind::CommandNotFound, "command_not_found"),
        (FailureKind::CommandNotExecutable, "command_not_executable"),
        (FailureKind::BadWorkdir, "not_found"),
        (FailureKind::Exhausted, "resource_exhausted"),
        (FailureKind::Unsupported, "unsupported"),
        (FailureKind::Cancelled, "cancelled"),
        (FailureKind::Refused, "not_found"),
        (FailureKind::ReadOnly, "permission_denied"),
        (FailureKind::BadArchive, "invalid_argument"),
        (FailureKind::Changed, "conflict"),
    ];

    #[test]
    fn every_cause_has_its_kind_and_keeps_its_subject() {
        for (number, (cause, code)) in TABLE.iter().enumerate() {
            // The table follows the numbers of the wire, so none is missing.
            assert_eq!(message::encode(cause), message::encode(&(number as u32)));
            let payload = message::encode(&Failure {
                kind: *cause,
                message: "it broke".into(),
                subject: Some(b"/a\x1b[2J".to_vec().into()),
                errno: Some(5),
            });
            let error = failure(&payload).unwrap();
            assert_eq!(error.kind().code(), *code, "{cause:?}");
            assert_eq!(error.fact("subject"), Some("/a\\u{1b}[2J"));
            assert_eq!(error.fact("errno"), Some("5"));
        }
        let beyond = TABLE.len() as u32;
        assert!(message::decode::<FailureKind>(&message::encode(&beyond)).is_err());
    }

    #[test]
    fn a_connection_that_the_other_side_reset_is_no_defect_of_ours() {
        let of = |errno| {
            let kind = FailureKind::Internal;
            let (message, subject) = ("connection inside".to_owned(), None);
            let failure = Failure {
                kind,
                message,
                subject,
                errno: Some(errno),
            };
            error_of(&failure).kind()
        };
        for errno in [libc::ECONNRESET, libc::EPIPE, libc::ECONNABORTED] {
            assert_eq!(of(errno), ErrorKind::Conflict);
        }
        assert_eq!(of(libc::EIO), ErrorKind::Internal);
    }

    #[test]
    fn a_cause_of_a_later_generation_is_internal() {
        let payload = message::encode(&LooseFailure {
            kind: 4711,
            message: "new".into(),
            subject: None,
            errno: None,
        });
        assert_eq!(failure(&payload).unwrap().kind(), ErrorKind::Internal);
    }

    #[test]
    fn a_huge_message_is_cut() {
        let payload = message::encode(&Failure {
            kind: FailureKind::Internal,
            message: "ä".repeat(400_000),
            subject: None,
            errno: None,
        });
        assert!(failure(&payload).unwrap().message().len() <= LONGEST_MESSAGE);
    }

    #[test]
    fn an_unreadable_failure_is_a_violation() {
        assert_eq!(
            failure(&[0xff, 0xff]).unwrap_err().kind,
            ErrorKind::Protocol
        );
    }
}
