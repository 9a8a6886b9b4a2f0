//! Why something in the helper failed.

use std::fmt::Display;
use std::io;

use crate::helper_protocol::{Failed, FailedKind};

pub(crate) type Result<T> = std::result::Result<T, Failed>;

impl Failed {
    /// A failure without a system error.
    pub(crate) fn new(kind: FailedKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            errno: None,
            field: None,
        }
    }
}

/// Says what was tried when a system call failed.
pub(crate) trait Tried<T> {
    /// Makes a failure of the error: "`what`: the error".
    fn tried(self, what: impl Display) -> Result<T>;
}

impl<T, E: Into<io::Error>> Tried<T> for std::result::Result<T, E> {
    fn tried(self, what: impl Display) -> Result<T> {
        self.map_err(|error| {
            let error: io::Error = error.into();
            let text = error.to_string();
            // "File exists (os error 17)" is for people; the number travels apart.
            let plain = text
                .split(" (os error")
                .next()
                .unwrap_or_default()
                .to_lowercase();
            Failed {
                kind: FailedKind::Internal,
                message: format!("{what}: {plain}"),
                errno: error.raw_os_error(),
                field: None,
            }
        })
    }
}
