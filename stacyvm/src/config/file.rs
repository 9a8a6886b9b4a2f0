//! The configuration file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::{ImageCaps, ProviderConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::provider::Pull;
use crate::units::serde_duration;

/// The longest file that is read.
const LONGEST: u64 = 1024 * 1024;

/// What a file may say; what it leaves out keeps its default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) state_dir: Option<PathBuf>,
    pub(super) default_provider: Option<String>,
    pub(super) parked_helpers: Option<usize>,
    pub(super) helper: Option<PathBuf>,
    pub(super) providers: BTreeMap<String, ProviderConfig>,
    pub(super) policy: Policy,
    pub(super) retry: Retry,
    pub(super) images: Images,
}

/// The `policy` of a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Policy {
    pub(super) mount_roots: Option<Vec<PathBuf>>,
    #[serde(with = "serde_duration")]
    pub(super) max_ttl: Option<Duration>,
    #[serde(with = "serde_duration")]
    pub(super) default_ttl: Option<Duration>,
}

/// The `retry` of a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Retry {
    pub(super) attempts: Option<u32>,
}

/// The `images` of a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Images {
    pub(super) pull: Option<Pull>,
    pub(super) mirrors: Option<BTreeMap<String, Vec<String>>>,
    pub(super) insecure: Option<Vec<String>>,
    pub(super) ca_files: Option<Vec<PathBuf>>,
    pub(super) caps: Option<ImageCaps>,
}

/// Reads and checks a file; `None` where it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<File>> {
    let about = |error: Error| error.context("file", path.display());
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(about(unreadable(error))),
    };
    if !found.is_file() || found.len() > LONGEST {
        return Err(about(Error::new(
            ErrorKind::InvalidArgument,
            "the configuration file is no regular file of at most 1 MiB",
        )));
    }
    check_rights(&found).map_err(about)?;
    let text = std::fs::read_to_string(path).map_err(|e| about(unreadable(e)))?;
    parse(&text).map(Some).map_err(about)
}

/// Whoever can write the file decides what is mounted into sandboxes.
#[cfg(unix)]
fn check_rights(found: &std::fs::Metadata) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    if found.mode() & 0o002 != 0 {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            "the configuration file can be written by everybody; remove that right with chmod o-w",
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_rights(_: &std::fs::Metadata) -> Result<()> {
    Ok(())
}

fn unreadable(error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        std::io::ErrorKind::InvalidData => ErrorKind::InvalidArgument,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, "cannot read the configuration file").source(error)
}

pub(super) fn parse(text: &str) -> Result<File> {
    if text
        .lines()
        .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
    {
        return Ok(File::default());
    }
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error
            .location()
            .map(|at| format!(", line {}", at.line()))
            .unwrap_or_default();
        Error::new(
            ErrorKind::InvalidArgument,
            format!("the configuration file is wrong{place}: {error}"),
        )
        .context(
            "remedy",
            "correct the file; docs/configuration.md lists every field",
        )
    })
}
