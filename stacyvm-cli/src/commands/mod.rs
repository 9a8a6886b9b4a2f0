//! One file for each command, or for a few that belong together.

pub(crate) mod about;
pub(crate) mod conformance;
pub(crate) mod cp;
pub(crate) mod exec;
#[cfg(target_os = "linux")]
pub(crate) mod image;
pub(crate) mod life;
pub(crate) mod logs;
pub(crate) mod mcp;
pub(crate) mod probe;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod show;
pub(crate) mod upkeep;

use stacyvm::engine::{Engine, Filter};
use stacyvm::{Error, ErrorKind, Result, SandboxInfo};

/// Every sandbox with these labels.
pub(crate) async fn all(
    engine: &Engine,
    ended: bool,
    labels: &[String],
) -> Result<Vec<SandboxInfo>> {
    let mut filter = Filter {
        all: ended,
        ..Filter::default()
    };
    for label in labels {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        filter.labels.insert(key.to_owned(), value.to_owned());
    }
    engine.list(filter).await
}

/// Turns a failed write of our own output into an error.
pub(crate) fn printed(result: std::io::Result<()>) -> Result<()> {
    result.map_err(|e| Error::new(ErrorKind::Internal, "cannot write to standard output").source(e))
}
