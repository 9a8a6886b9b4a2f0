//! Where images come from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::provider::Pull;

/// Where images come from, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ImagesConfig {
    /// When creates that say nothing pull their image. `never` forbids it to all.
    pub pull: Pull,
    /// Mirrors of a registry, each `HOST[:PORT][/PATH]`, asked before it and in
    /// this order.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries and mirrors (`HOST[:PORT]`) that may be spoken to without
    /// TLS, where they do not speak it.
    pub insecure: Vec<String>,
    /// Files in PEM of certificate authorities that are trusted beside those of
    /// the system; absolute paths.
    pub ca_files: Vec<PathBuf>,
}

impl ImagesConfig {
    pub(super) fn check(&self) -> Result<()> {
        for (registry, mirrors) in &self.mirrors {
            check_host("images.mirrors", registry, false)?;
            for mirror in mirrors {
                check_host(&format!("images.mirrors.{registry}"), mirror, true)?;
            }
        }
        for host in &self.insecure {
            check_host("images.insecure", host, false)?;
        }
        match self.ca_files.iter().find(|file| !file.is_absolute()) {
            Some(file) => Err(Error::invalid(
                "images.ca_files",
                file.display(),
                "absolute paths",
                "begin it with /",
            )),
            None => Ok(()),
        }
    }

    /// The settings that are not the default, by the end of their name.
    pub(super) fn shown(&self) -> [(&'static str, String); 4] {
        let mirrors = self.mirrors.iter();
        let mirrors = mirrors.map(|(registry, of)| format!("{registry}: {}", of.join(", ")));
        let files = self.ca_files.iter().map(|file| file.display().to_string());
        [
            ("pull", self.pull.to_string()),
            ("mirrors", or_none(&mirrors.collect::<Vec<_>>(), "; ")),
            ("insecure", or_none(&self.insecure, ", ")),
            ("ca_files", or_none(&files.collect::<Vec<_>>(), ", ")),
        ]
    }
}

fn or_none(all: &[String], between: &str) -> String {
    if all.is_empty() {
        "none".to_owned()
    } else {
        all.join(between)
    }
}

/// A host as references have it: no scheme, and not to be taken for a path of
/// the default registry.
fn check_host(field: &str, text: &str, path_may_follow: bool) -> Result<()> {
    let host = text.split('/').next().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:[]".contains(c);
    let is_host = host == "localhost" || host.contains(['.', ':']);
    if is_host
        && text.chars().all(plain)
        && !text.contains("//")
        && !text.ends_with('/')
        && (path_may_follow || host == text)
    {
        return Ok(());
    }
    let expected = if path_may_follow {
        "HOST[:PORT][/PATH], the host with a dot or a port"
    } else {
        "HOST[:PORT] with a dot or a port"
    };
    Err(Error::invalid(
        field,
        text,
        expected,
        "leave https:// out; a host without TLS belongs into images.insecure too",
    ))
}
