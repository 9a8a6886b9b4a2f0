//! From failures of the helper and of the system to errors.

use rustix::io::Errno;
use stacyvm_agent::helper_protocol::{FIELD_IMAGE, Failed, FailedKind};

use crate::error::{Error, ErrorKind, Retry};
use crate::sandbox::spec::{SandboxSpec, Source};

/// What a helper reported.
pub(super) fn failed(failed: &Failed) -> Error {
    let errno = failed.errno.map(Errno::from_raw_os_error);
    let kind = match failed.kind {
        FailedKind::Internal => errno.map_or(ErrorKind::Internal, kind_of),
        FailedKind::Invalid => ErrorKind::InvalidArgument,
        FailedKind::Conflict => ErrorKind::Conflict,
        FailedKind::Unsupported => ErrorKind::Unsupported,
        FailedKind::Gone => ErrorKind::SandboxGone,
    };
    if let Some(field) = &failed.field {
        return Error::invalid(&field.name, &field.value, &field.expected, &field.remedy);
    }
    let error = Error::new(kind, failed.message.clone());
    match errno {
        Some(errno) => error.source(std::io::Error::from(errno)),
        None => error,
    }
}

/// What a helper reported that was to make a sandbox of this spec.
pub(super) fn refused(mut report: Failed, spec: &SandboxSpec) -> Error {
    if let (Some(field), Source::Image(name)) = (&mut report.field, &spec.source)
        && field.name == FIELD_IMAGE
    {
        field.value.clone_from(name);
    }
    failed(&report)
}

/// A system call on the host's side failed.
pub(super) fn system(doing: &str, errno: Errno) -> Error {
    Error::new(kind_of(errno), format!("cannot {doing}")).source(std::io::Error::from(errno))
}

/// As [`system`], from the standard library.
pub(super) fn io(doing: &str, error: std::io::Error) -> Error {
    let kind = error.raw_os_error().map_or(ErrorKind::Internal, |code| {
        kind_of(Errno::from_raw_os_error(code))
    });
    Error::new(kind, format!("cannot {doing}")).source(error)
}

/// The helper went away without a word.
pub(super) fn helper_gone() -> Error {
    Error::new(ErrorKind::SandboxGone, "the sandbox's helper went away")
        .retry(Retry::Never)
        .context("remedy", "the sandbox ended; make another one")
}

/// The program that gives a helper its place among the cgroups said this, and
/// no helper ever did anything.
pub(super) fn not_placed(words: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the user's systemd started no helper for the sandbox",
    )
    .context("systemd_run", words)
    .context(
        "remedy",
        "see what `systemctl --user status` says, or run this where the user's systemd runs",
    )
}

fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOENT => ErrorKind::NotFound,
        Errno::ACCESS | Errno::PERM => ErrorKind::PermissionDenied,
        Errno::NOSPC | Errno::DQUOT => ErrorKind::NoSpace,
        Errno::NOMEM | Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::USERS => {
            ErrorKind::ResourceExhausted
        }
        Errno::EXIST => ErrorKind::Conflict,
        Errno::NOTDIR => ErrorKind::NotDirectory,
        Errno::NOSYS => ErrorKind::Unsupported,
        _ => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_as_such() {
        let report = |kind, errno| Failed {
            kind,
            message: "make the sandbox".into(),
            errno,
            field: None,
        };
        let table = [
            (report(FailedKind::Internal, Some(28)), ErrorKind::NoSpace),
            (
                report(FailedKind::Internal, Some(1)),
                ErrorKind::PermissionDenied,
            ),
            (report(FailedKind::Internal, None), ErrorKind::Internal),
            (
                report(FailedKind::Unsupported, Some(38)),
                ErrorKind::Unsupported,
            ),
            (report(FailedKind::Conflict, None), ErrorKind::Conflict),
        ];
        for (report, kind) in table {
            assert_eq!(failed(&report).kind(), kind);
        }
    }
}
