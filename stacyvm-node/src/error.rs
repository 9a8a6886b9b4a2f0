//! Errors of the library. Their classes are JavaScript's: `ts/errors.ts`.

use std::collections::BTreeMap;

use napi_derive::napi;
use serde::Serialize;
use stacyvm::ErrorKind;
use stacyvm::error::Retry;

/// Every code that an error of the library may have.
#[napi]
#[must_use]
pub fn error_codes() -> Vec<&'static str> {
    ErrorKind::ALL.iter().map(|kind| kind.code()).collect()
}

/// What of an error goes to JavaScript, as JSON: promises are rejected with text alone.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    code: &'static str,
    message: String,
    retry_after_ms: Option<f64>,
    operation: &'static str,
    provider: Option<&'a str>,
    context: BTreeMap<&'static str, &'a str>,
}

/// The rejection of an error.
pub(crate) fn reject(error: &stacyvm::Error) -> napi::Error {
    let told = Told {
        code: error.kind().code(),
        message: error.to_string(),
        retry_after_ms: match error.retryable() {
            Retry::Maybe { after } => Some(after.as_secs_f64() * 1000.0),
            Retry::Never | Retry::Exhausted => None,
        },
        operation: error.failed_operation(),
        provider: error.failed_provider(),
        context: error
            .facts()
            .iter()
            .map(|(key, value)| (*key, value.as_str()))
            .collect(),
    };
    napi::Error::from_reason(serde_json::to_string(&told).unwrap_or(told.message))
}
