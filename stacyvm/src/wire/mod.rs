//! What a client and a server of the HTTP API say to each other: version 1.
//!
//! Requests are strict: a field that is not known is refused by its name.
//! Replies are lenient: a field that is not known is passed over, so that a
//! client goes on with a newer server.
//!
//! | part | form |
//! |---|---|
//! | paths | `/v1/...`, see `docs/openapi.json` |
//! | bodies | JSON ([`sandbox`], [`exec`], [`file`](mod@file)) |
//! | streams | [`frame`]s: of a body, or both ways after `101 Switching Protocols` |
//! | errors | [`error::ErrorBody`] |
//! | bytes | [`Raw`]: a string, or base64 where they are no UTF-8 |
//! | moments | [`Time`] |

pub mod error;
pub mod exec;
pub mod file;
pub mod frame;
pub mod sandbox;
mod scalar;
#[cfg(any(feature = "http", feature = "server"))]
pub(crate) mod stream;
#[cfg(test)]
mod tests;

pub use scalar::{Raw, Time};

use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};

/// The protocol after an upgrade by `exec` and `attach`: [`frame`]s.
pub const UPGRADE_EXEC: &str = "stacyvm-exec/1";
/// The protocol after an upgrade by `dial`: bytes as they are.
pub const UPGRADE_STREAM: &str = "stacyvm-stream/1";
/// The protocol after an upgrade by which a client becomes the owner of attached
/// sandboxes: a [`frame::Kind::Head`], then nothing. They end with the connection.
pub const UPGRADE_OWNER: &str = "stacyvm-owner/1";
/// The type of a body of [`frame`]s.
pub const FRAMES: &str = "application/vnd.stacyvm.frames";
/// The type of every other body.
pub const JSON: &str = "application/json";
/// The header that names the tenant. It is a name and no proof.
pub const TENANT: &str = "stacyvm-tenant";
/// The most bytes of a JSON body.
pub const LONGEST_BODY: usize = 4 << 20;
/// The most sandboxes of one page of a list.
pub const LONGEST_PAGE: u32 = 1000;

/// Reads a request.
///
/// # Errors
///
/// `invalid_argument`, naming the field where there is one. No value is quoted:
/// it may be a secret.
pub fn request<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    // serde reads an array as the fields of an object, in their order.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(Error::invalid(
            "body",
            "an array",
            "an object",
            "send the body that docs/openapi.json has",
        ));
    }
    serde_json::from_slice(body).map_err(|error| refused(&error))
}

/// Reads a reply.
///
/// # Errors
///
/// `protocol`.
pub fn reply<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| {
        Error::new(
            ErrorKind::Protocol,
            format!(
                "the server sent a reply that is none, at line {} column {}",
                error.line(),
                error.column()
            ),
        )
    })
}

/// Writes what is one of the types of this module.
///
/// # Errors
///
/// `internal` where it cannot be written as JSON.
pub fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|e| Error::new(ErrorKind::Internal, "cannot write a message as JSON").source(e))
}

/// Why a body is no request. Of what the parser says only that is kept which is
/// about names.
fn refused(error: &serde_json::Error) -> Error {
    let text = error.to_string();
    let place = format!("line {} column {}", error.line(), error.column());
    let quoted = |text: &str| text.split('`').nth(1).map(str::to_owned);
    for (prefix, expected) in [
        ("unknown field", "a field of this request"),
        ("missing field", "this field"),
        ("duplicate field", "each field once"),
    ] {
        if text.starts_with(prefix) {
            let field = quoted(&text).unwrap_or_default();
            return Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "{prefix} `{}` in the body at {place}, expected {expected}; see docs/openapi.json",
                    crate::error::escape(&field)
                ),
            )
            .context("field", field)
            .context("expected", expected);
        }
    }
    let expected = text
        .rsplit_once(", expected ")
        .and_then(|(_, rest)| rest.rsplit_once(" at line"))
        .map_or("JSON as docs/openapi.json has it", |(what, _)| what);
    Error::invalid(
        "body",
        format!("wrong at {place}"),
        expected,
        "correct it as docs/openapi.json has it",
    )
}
