//! Errors on the wire.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Retry};
use crate::provider::OperationKind;

/// The most bytes of a message that are believed.
const LONGEST_MESSAGE: usize = 8 << 10;
/// The most facts that are believed.
const MOST_FACTS: usize = 64;

/// An error, as a body or a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The code of an [`ErrorKind`].
    pub kind: String,
    /// What failed and what was expected.
    #[serde(default)]
    pub message: String,
    /// The operation that failed, where it is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub operation: String,
    /// The provider behind the server that failed, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Facts: pairs of a key and a value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<(String, String)>,
    /// Whether the same call may succeed.
    #[serde(default)]
    pub retry: RetryBody,
    /// The least milliseconds to wait before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// Whether the same call may succeed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryBody {
    /// It may.
    Maybe,
    /// It was tried as often as is allowed.
    Exhausted,
    /// It fails the same way. What is not known is read as this.
    #[default]
    #[serde(other)]
    Never,
}

impl From<&Error> for ErrorBody {
    fn from(error: &Error) -> Self {
        let mut message = error.message().to_owned();
        let mut source = error.source();
        while let Some(cause) = source {
            // Writing to a text cannot fail.
            let _ = write!(message, ": {}", crate::error::escape(&cause.to_string()));
            source = cause.source();
        }
        let (retry, retry_after_ms) = match error.retryable() {
            Retry::Never => (RetryBody::Never, None),
            Retry::Exhausted => (RetryBody::Exhausted, None),
            Retry::Maybe { after } => {
                let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                (RetryBody::Maybe, Some(ms))
            }
        };
        let facts = error.facts().iter();
        Self {
            kind: error.kind().code().to_owned(),
            message: bounded(message),
            operation: error.failed_operation().to_owned(),
            provider: error.failed_provider().map(str::to_owned),
            context: facts.map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
            retry,
            retry_after_ms,
        }
    }
}

impl ErrorBody {
    /// The error that a server told. An unknown kind is `internal`; what the
    /// server says is bounded and escaped.
    pub fn into_error(self) -> Error {
        let body = self;
        let known = ErrorKind::from_code(&body.kind);
        let mut error = match known {
            Some(kind) => Error::new(kind, bounded(body.message)),
            None => Error::new(
                ErrorKind::Internal,
                format!(
                    "the server failed in a way that this client does not know: {}",
                    bounded(body.message)
                ),
            )
            .context("kind", body.kind),
        };
        if let Some(name) = operation(&body.operation) {
            error = error.operation(name);
        }
        let mut rest = BTreeMap::new();
        for (key, value) in body.context.into_iter().take(MOST_FACTS) {
            match fact(&key) {
                Some(key) => error = error.context(key, value),
                None => drop(rest.insert(key, value)),
            }
        }
        for (key, value) in rest {
            error = error.context("detail", format!("{key}: {value}"));
        }
        if let Some(provider) = body.provider {
            error = error.context("served_by", provider);
        }
        error.retry(match body.retry {
            RetryBody::Never => Retry::Never,
            RetryBody::Exhausted => Retry::Exhausted,
            RetryBody::Maybe => Retry::Maybe {
                // Whoever says a day must not be waited for.
                after: Duration::from_millis(body.retry_after_ms.unwrap_or(0).min(60_000)),
            },
        })
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > LONGEST_MESSAGE {
        text.truncate(text.floor_char_boundary(LONGEST_MESSAGE));
        text.push('…');
    }
    text
}

fn operation(name: &str) -> Option<&'static str> {
    let mut names = OperationKind::ALL.iter().map(|kind| kind.name());
    names.find(|known| *known == name)
}

/// The keys of facts that errors have.
pub(super) const FACTS: &[&str] = &[
    "agent_version",
    "asked",
    "attempts",
    "cap",
    "cause",
    "container",
    "could_serve",
    "destination",
    "errno",
    "evidence",
    "exec",
    "expected",
    "field",
    "file",
    "file_operation",
    "file_system",
    "found",
    "holder",
    "image",
    "kind",
    "latest",
    "layer",
    "left",
    "looked_in",
    "mirrors",
    "mode",
    "names",
    "need",
    "needs",
    "not_asked",
    "offered",
    "outcome",
    "path",
    "port",
    "range",
    "registry",
    "remedy",
    "runtime",
    "said",
    "sandbox",
    "source",
    "status",
    "subject",
    "systemd_run",
    "tags",
    "user",
    "value",
    "version",
    "volume",
    "wanted",
];

fn fact(key: &str) -> Option<&'static str> {
    FACTS.binary_search(&key).ok().map(|index| FACTS[index])
}

/// The status of a response that carries an error of this kind.
pub fn status(kind: ErrorKind) -> u16 {
    match kind {
        ErrorKind::InvalidArgument
        | ErrorKind::IsDirectory
        | ErrorKind::NotDirectory
        | ErrorKind::CommandNotExecutable => 400,
        ErrorKind::Unauthenticated => 401,
        ErrorKind::PermissionDenied => 403,
        ErrorKind::NotFound | ErrorKind::CommandNotFound => 404,
        ErrorKind::AlreadyExists | ErrorKind::Conflict | ErrorKind::DirectoryNotEmpty => 409,
        ErrorKind::SandboxGone => 410,
        ErrorKind::ResourceExhausted => 429,
        ErrorKind::Unsupported => 501,
        ErrorKind::Protocol => 502,
        ErrorKind::Unavailable | ErrorKind::Cancelled => 503,
        ErrorKind::Timeout => 504,
        ErrorKind::NoSpace => 507,
        ErrorKind::Corrupt | ErrorKind::Incompatible | ErrorKind::Internal => 500,
    }
}
