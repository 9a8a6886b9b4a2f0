//! From error numbers to failures.

use minicbor::bytes::ByteVec;
use rustix::io::Errno;

use crate::protocol::message::{Failure, FailureKind};

/// The longest subject that a failure carries.
const MAX_SUBJECT: usize = 8192;

pub(super) fn new(
    kind: FailureKind,
    message: impl Into<String>,
    subject: Option<&[u8]>,
) -> Failure {
    Failure {
        kind,
        message: message.into(),
        subject: subject.map(|path| ByteVec::from(path[..path.len().min(MAX_SUBJECT)].to_vec())),
        errno: None,
    }
}

/// What the system refused about `path`. `doing` is an infinitive's object,
/// such as `"open the file"`.
pub(super) fn system(errno: Errno, doing: &str, path: &[u8]) -> Failure {
    let mut failure = new(
        kind(errno),
        format!("cannot {doing}: {}", text(errno)),
        Some(path),
    );
    failure.errno = Some(errno.raw_os_error());
    failure
}

pub(super) fn invalid(message: &str, path: &[u8]) -> Failure {
    new(FailureKind::Invalid, message, Some(path))
}

pub(super) fn bad_archive(message: impl Into<String>, name: &[u8]) -> Failure {
    new(FailureKind::BadArchive, message, Some(name))
}

fn kind(errno: Errno) -> FailureKind {
    match errno {
        Errno::NOENT => FailureKind::NotFound,
        Errno::EXIST => FailureKind::AlreadyExists,
        Errno::ACCESS | Errno::PERM => FailureKind::PermissionDenied,
        Errno::ISDIR => FailureKind::IsDirectory,
        Errno::NOTDIR => FailureKind::NotDirectory,
        Errno::NOTEMPTY => FailureKind::NotEmpty,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => FailureKind::NoSpace,
        Errno::LOOP => FailureKind::LinkLoop,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => FailureKind::Exhausted,
        Errno::NOSYS | Errno::OPNOTSUPP | Errno::XDEV => FailureKind::Unsupported,
        Errno::ROFS => FailureKind::ReadOnly,
        Errno::INVAL | Errno::NAMETOOLONG | Errno::NXIO => FailureKind::Invalid,
        Errno::PIPE | Errno::CONNRESET => FailureKind::Cancelled,
        _ => FailureKind::Internal,
    }
}

/// The system's words for an error number, in lower case.
fn text(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}
