//! One file for each command, or for a few that belong together.

pub(crate) mod about;
pub(crate) mod cp;
pub(crate) mod exec;
pub(crate) mod life;
pub(crate) mod run;
pub(crate) mod show;

use stacyvm::engine::{Engine, Filter, SandboxInfo};
use stacyvm::{Error, ErrorKind, Result, Sandbox};

/// Finds a sandbox by its id or the unambiguous beginning of it.
pub(crate) async fn find(engine: &Engine, name: &str) -> Result<Sandbox> {
    engine.find(name).await
}

/// Every sandbox, all pages.
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
        let (key, value) = match label.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (label.as_str(), None),
        };
        filter.labels.insert(key.to_owned(), value);
    }
    engine.list_all(filter).await
}

/// Turns a failed write of our own output into an error.
pub(crate) fn printed(result: std::io::Result<()>) -> Result<()> {
    result.map_err(|e| Error::new(ErrorKind::Internal, "cannot write to standard output").source(e))
}
