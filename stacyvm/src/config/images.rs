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
    /// What an image may cost at most.
    pub caps: ImageCaps,
}

/// What an image may cost at most, where it is not the default of
/// [`Caps`](crate::image::Caps), whose fields these are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ImageCaps {
    /// Members of one layer's archive.
    pub entries: Option<u64>,
    /// Bytes of one layer after decompression.
    pub layer_bytes: Option<u64>,
    /// Bytes of all layers of one image after decompression.
    pub image_bytes: Option<u64>,
    /// Bytes of one blob as it comes, compressed or not.
    pub blob_bytes: Option<u64>,
    /// How many times longer a layer may become by decompression.
    pub ratio: Option<u64>,
    /// Layers of one image, 500 at most.
    pub layers: Option<u64>,
}

/// What the kernel's overlay stacks.
const MOST_LAYERS: u64 = 500;

impl ImageCaps {
    /// Those that are set, by their name.
    fn set(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = [
            ("entries", self.entries),
            ("layer_bytes", self.layer_bytes),
            ("image_bytes", self.image_bytes),
            ("blob_bytes", self.blob_bytes),
            ("ratio", self.ratio),
            ("layers", self.layers),
        ];
        all.into_iter()
            .filter_map(|(name, value)| value.map(|value| (name, value)))
    }

    fn check(&self) -> Result<()> {
        for (name, value) in self.set() {
            let (most, expected) = match name {
                "layers" => (MOST_LAYERS, "1 to 500"),
                _ => (u64::MAX, "1 or more"),
            };
            if value == 0 || value > most {
                return Err(Error::invalid(
                    format!("images.caps.{name}"),
                    value,
                    expected,
                    "choose another number, or leave it out",
                ));
            }
        }
        Ok(())
    }
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
            None => self.caps.check(),
        }
    }

    /// The settings that are not the default, by the end of their name.
    pub(super) fn shown(&self) -> [(&'static str, String); 5] {
        let mirrors = self.mirrors.iter();
        let mirrors = mirrors.map(|(registry, of)| format!("{registry}: {}", of.join(", ")));
        let caps = self
            .caps
            .set()
            .map(|(name, value)| format!("{name}: {value}"));
        let files = self.ca_files.iter().map(|file| file.display().to_string());
        [
            ("pull", self.pull.to_string()),
            (
                "mirrors",
                joined(&mirrors.collect::<Vec<_>>(), "; ", "none"),
            ),
            ("insecure", joined(&self.insecure, ", ", "none")),
            ("ca_files", joined(&files.collect::<Vec<_>>(), ", ", "none")),
            ("caps", joined(&caps.collect::<Vec<_>>(), ", ", "default")),
        ]
    }
}

fn joined(all: &[String], between: &str, if_empty: &str) -> String {
    if all.is_empty() {
        if_empty.to_owned()
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
