//! What SQLite's errors mean.

use std::path::Path;
use std::time::Duration;

use rusqlite::ErrorCode;

use super::holder;
use crate::error::{Error, ErrorKind, Retry};

/// What stops a piece of work: the database, or a rule.
#[derive(Debug)]
pub(super) enum Fault {
    Sql(rusqlite::Error),
    Rule(Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Rule(error)
    }
}

impl Fault {
    /// Whether another connection was in the way.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Sql(e) if matches!(
            e.sqlite_error_code(),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        ))
    }

    /// The error for the caller, naming the file.
    pub(super) fn named(self, file: &Path) -> Error {
        match self {
            Self::Rule(error) => error,
            Self::Sql(error) => sql(file, error),
        }
    }
}

/// A damaged store.
pub(super) fn corrupt(file: &Path, found: &str, expected: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the store {} is damaged: {found}", file.display()),
    )
    .context("file", file.display())
    .context("found", found)
    .context("expected", expected)
    .context(
        "remedy",
        "restore it from a copy, or move it away to begin a new store; nothing was changed in it",
    )
}

/// A store that this build must not touch.
pub(super) fn incompatible(file: &Path, what: &str, found: &str, expected: &str) -> Error {
    Error::new(
        ErrorKind::Incompatible,
        format!("the store {} {what}", file.display()),
    )
    .context("file", file.display())
    .context("found", found)
    .context("expected", expected)
    .context(
        "remedy",
        "use the newer stacyvm that wrote it, or choose another state directory with STACYVM_STATE_DIR; nothing was changed in it",
    )
}

/// A row that no version of stacyvm wrote.
pub(super) fn bad_row(table: &str, column: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the store holds a damaged row: column {column} of table {table} cannot be read"),
    )
    .context("remedy", "restore the store from a copy")
}

/// A store that somebody else holds for longer than anybody should.
pub(super) fn held(file: &Path, what: &str) -> Error {
    let error = Error::new(
        ErrorKind::Unavailable,
        format!("the store {} {what}", file.display()),
    )
    .context("file", file.display())
    .retry(Retry::Maybe {
        after: Duration::from_secs(1),
    });
    match holder::of(file) {
        Some(holder) => error
            .context("holder", holder.found)
            .context("remedy", holder.remedy),
        None => error.context(
            "remedy",
            "try again; find a process that stands still with the file open",
        ),
    }
}

/// Whether a failure is the file's own.
pub(super) fn means_damage(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
}

fn sql(file: &Path, error: rusqlite::Error) -> Error {
    let (kind, what, remedy) = match error.sqlite_error_code() {
        Some(code) if means_damage(code) => {
            return corrupt(file, &error.to_string(), "a whole SQLite database").source(error);
        }
        Some(ErrorCode::OutOfMemory) => (
            ErrorKind::ResourceExhausted,
            "cannot be read for want of memory",
            "give this process more memory (ulimit -v, the limit of its cgroup)",
        ),
        Some(ErrorCode::DiskFull) => (
            ErrorKind::NoSpace,
            "has no space left on its disk",
            "free some space; what was written before is intact",
        ),
        Some(
            ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::CannotOpen
            | ErrorCode::AuthorizationForStatementDenied,
        ) => (
            ErrorKind::PermissionDenied,
            "cannot be written",
            "let this user write the file and its directory, or choose another state directory with STACYVM_STATE_DIR",
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            return held(file, "is held by another process").source(error);
        }
        // Growing the shared index of the log is the first thing that a full
        // disk stops, and SQLite calls that an I/O error.
        Some(ErrorCode::SystemIoFailure)
            if error
                .sqlite_error()
                .is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE) =>
        {
            (
                ErrorKind::NoSpace,
                "has no space left on its disk",
                "free some space; what was written before is intact",
            )
        }
        _ => (
            ErrorKind::Internal,
            "failed",
            "check the disk that holds it",
        ),
    };
    Error::new(kind, format!("the store {} {what}", file.display()))
        .context("file", file.display())
        .context("remedy", remedy)
        .source(error)
}
