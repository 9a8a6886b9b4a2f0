//! The engine's errors as ours.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use bollard::errors::Error as Docker;

use crate::error::{Error, ErrorKind, Retry};

/// Maps an error of the engine or of the way to it.
pub(super) fn map(error: Docker) -> Error {
    match error {
        Docker::DockerResponseServerError {
            status_code,
            message,
        } => answered(status_code, message.trim()),
        Docker::SocketNotFoundError(path) => unavailable(format!(
            "no docker engine at {path}; start it, or name another with DOCKER_HOST"
        )),
        Docker::RequestTimeoutError => unavailable("the docker engine did not answer in time"),
        Docker::JsonDataError { .. } | Docker::JsonSerdeError { .. } => Error::new(
            ErrorKind::Incompatible,
            "the docker engine's answer is not of the form that its api promises",
        )
        .source(error),
        Docker::UnsupportedURISchemeError { uri } => Error::invalid(
            "docker.host",
            uri,
            "unix:///path or tcp://address:port",
            "forward the engine to a local socket",
        ),
        Docker::APIVersionParseError {} => Error::new(
            ErrorKind::Incompatible,
            "what answers does not name a version of the docker api",
        ),
        other => transport(other),
    }
}

/// Whether the engine answered that something does not exist.
pub(super) fn is_absent(error: &Docker) -> bool {
    status(error) == Some(404)
}

/// The HTTP status of an answer.
pub(super) fn status(error: &Docker) -> Option<u16> {
    match error {
        Docker::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

fn answered(status: u16, message: &str) -> Error {
    let kind = match status {
        400 => ErrorKind::InvalidArgument,
        401 => ErrorKind::Unauthenticated,
        403 => ErrorKind::PermissionDenied,
        404 => ErrorKind::NotFound,
        409 => ErrorKind::Conflict,
        // The engine has no status of its own for a full disk.
        _ if message.contains("no space left on device") => ErrorKind::NoSpace,
        503 => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    let error = Error::new(
        kind,
        format!("the docker engine answered {status}: {message}"),
    )
    .context("status", status);
    match kind {
        ErrorKind::Unavailable => error.retry(soon()),
        _ => error,
    }
}

/// No answer: what lies on the way decides whether another try can help.
fn transport(error: Docker) -> Error {
    match io_kind(&error) {
        Some(io::ErrorKind::PermissionDenied) => Error::new(
            ErrorKind::PermissionDenied,
            "this user may not use the docker engine, expected write access to its socket; \
             add the user to the socket's group, `docker`",
        ),
        Some(_) => unavailable("the docker engine cannot be reached").source(error),
        None => Error::new(
            ErrorKind::Internal,
            "the request to the docker engine failed",
        )
        .source(error),
    }
}

fn unavailable(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unavailable, message).retry(soon())
}

pub(super) fn soon() -> Retry {
    Retry::Maybe {
        after: Duration::from_millis(200),
    }
}

/// The kind of the first system error among the causes. A connection that the
/// engine closed counts as broken.
pub(super) fn io_kind(error: &Docker) -> Option<io::ErrorKind> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        cause = current.source();
    }
    match error {
        Docker::HyperLegacyError { .. } | Docker::HyperResponseError { .. } => {
            Some(io::ErrorKind::BrokenPipe)
        }
        Docker::IOError { err } => Some(err.kind()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(status_code: u16, message: &str) -> Docker {
        Docker::DockerResponseServerError {
            status_code,
            message: message.to_owned(),
        }
    }

    #[test]
    fn every_answer_has_its_kind() {
        let io = |kind| Docker::IOError {
            err: io::Error::from(kind),
        };
        let table = [
            (server(400, "bad"), ErrorKind::InvalidArgument, false),
            (server(401, "who"), ErrorKind::Unauthenticated, false),
            (server(403, "no"), ErrorKind::PermissionDenied, false),
            (server(404, "none"), ErrorKind::NotFound, false),
            (server(409, "busy"), ErrorKind::Conflict, false),
            (server(500, "oops"), ErrorKind::Internal, false),
            (
                server(500, "write /x: no space left on device"),
                ErrorKind::NoSpace,
                false,
            ),
            (server(503, "later"), ErrorKind::Unavailable, true),
            (Docker::RequestTimeoutError, ErrorKind::Unavailable, true),
            (
                Docker::SocketNotFoundError("/x".into()),
                ErrorKind::Unavailable,
                true,
            ),
            (
                io(io::ErrorKind::ConnectionRefused),
                ErrorKind::Unavailable,
                true,
            ),
            (
                io(io::ErrorKind::PermissionDenied),
                ErrorKind::PermissionDenied,
                false,
            ),
            (
                Docker::APIVersionParseError {},
                ErrorKind::Incompatible,
                false,
            ),
            (
                Docker::UnsupportedURISchemeError { uri: "x".into() },
                ErrorKind::InvalidArgument,
                false,
            ),
            (
                Docker::JsonDataError {
                    message: String::new(),
                    column: 1,
                },
                ErrorKind::Incompatible,
                false,
            ),
        ];
        for (from, kind, again) in table {
            let shown = format!("{from:?}");
            let error = map(from);
            assert_eq!(error.kind(), kind, "{shown}");
            assert_eq!(error.retryable() != Retry::Never, again, "{shown}");
        }
    }

    #[test]
    fn the_engine_cannot_forge_a_line() {
        assert!(
            !map(server(500, "a\nerror: b\x1b[2J"))
                .to_string()
                .contains(['\n', '\x1b'])
        );
    }
}
