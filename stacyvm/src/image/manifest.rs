//! Manifests, indexes and configurations, as registries and archives hold
//! them. All of it is hostile: sizes are bounded before anything is read.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::caps::{self, Caps};
use super::config::{ImageConfig, RawConfig};
use super::digest::Digest;
use super::platform::Platform;
use crate::error::{Error, ErrorKind, Result};

/// Media types of OCI and Docker that are read and written.
pub mod media {
    /// A manifest of OCI.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An index of OCI.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// A manifest of Docker.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A list of manifests of Docker.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// The configuration of an image.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer without compression.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A layer compressed with gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A layer compressed with zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
}

/// The annotation that names an image in an OCI layout.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What names a blob: its digest, its bytes and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Descriptor {
    /// What the blob is.
    #[serde(default)]
    pub media_type: String,
    /// The digest of the blob.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    #[serde(default)]
    platform: Option<RawPlatform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct RawPlatform {
    architecture: String,
    os: String,
    #[serde(default)]
    variant: Option<String>,
}

impl Descriptor {
    /// A descriptor without platform and annotations.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: None,
        }
    }

    /// The platform that an index gives it.
    pub fn platform(&self) -> Option<Platform> {
        let raw = self.platform.as_ref()?;
        Some(Platform::new(
            &raw.os,
            &raw.architecture,
            raw.variant.as_deref(),
        ))
    }

    /// The value of an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// The manifest of one image: its configuration and its layers, lowest first.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// An index: manifests of several platforms or names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Index {
    /// The manifests, in the order of the index.
    pub manifests: Vec<Descriptor>,
}

/// What a top-level document turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    #[serde(default)]
    schema_version: Option<u32>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a manifest or an index, by what it holds. One that holds both, or
    /// whose media type says another thing, is refused: programs differ in
    /// what they take it for.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for what is neither; `unsupported` for manifests of
    /// Docker's first schema; `resource_exhausted` past the caps.
    pub fn parse(bytes: &[u8], caps: &Caps) -> Result<Self> {
        check_size(bytes.len() as u64, caps)?;
        let outline: Outline = json("manifest", bytes)?;
        if outline.schema_version == Some(1) {
            return Err(Error::unsupported(
                "the manifest is of Docker's first schema, expected the second or OCI; push the image again with a current tool",
            ));
        }
        let is_manifest = outline.config.is_some() || outline.layers.is_some();
        let is_index = outline.manifests.is_some();
        let says = match outline.media_type.as_deref() {
            Some(media::MANIFEST | media::DOCKER_MANIFEST) => Some(true),
            Some(media::INDEX | media::DOCKER_LIST) => Some(false),
            _ => None,
        };
        if is_manifest == is_index || says.is_some_and(|says| says != is_manifest) {
            return Err(invalid(
                "manifest",
                "either a manifest (config and layers) or an index (manifests), as its media type says",
            ));
        }
        if is_index {
            return Ok(Self::Index(json("index", bytes)?));
        }
        let manifest: Manifest = json("manifest", bytes)?;
        if manifest.layers.len() > caps.layers {
            return Err(caps::reached(
                "layers",
                caps.layers,
                &format!("the image has {} layers", manifest.layers.len()),
            ));
        }
        Ok(Self::Manifest(manifest))
    }
}

impl Index {
    /// The image for a platform. An index of one entry without a platform is
    /// that entry.
    ///
    /// # Errors
    ///
    /// `unsupported`, listing the platforms that there are.
    pub fn choose(&self, platform: &Platform) -> Result<&Descriptor> {
        let mut best: Option<(u32, &Descriptor)> = None;
        for one in &self.manifests {
            let Some(fit) = one.platform().and_then(|p| platform.fit(&p)) else {
                continue;
            };
            // Of equals the first.
            if best.is_none_or(|(known, _)| fit > known) {
                best = Some((fit, one));
            }
        }
        if let Some((_, found)) = best {
            return Ok(found);
        }
        if let [only] = &self.manifests[..]
            && only.platform().is_none()
        {
            return Ok(only);
        }
        let mut offered: Vec<String> = self
            .manifests
            .iter()
            .filter_map(Descriptor::platform)
            // Attestations say that they are for nothing.
            .filter(|p| p.os != "unknown")
            .take(64)
            .map(|p| p.to_string())
            .collect();
        offered.sort();
        offered.dedup();
        Err(other_platform(platform, &offered.join(", ")))
    }
}

pub(super) fn other_platform(wanted: &Platform, offered: &str) -> Error {
    let offered = if offered.is_empty() { "none" } else { offered };
    Error::unsupported(format!("the image is not for {wanted}: there is {offered}"))
        .context("wanted", wanted)
        .context("offered", offered)
        .context("remedy", "choose an image that was built for this host")
}

/// The configuration file of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageFile {
    /// What the image was built for.
    pub platform: Platform,
    /// The digests of its layers after decompression, lowest first.
    pub diff_ids: Vec<Digest>,
    /// What commands start with.
    pub config: ImageConfig,
    /// When it was built, as RFC 3339; as the image says.
    pub created: Option<String>,
}

#[derive(Deserialize)]
struct RawFile {
    architecture: String,
    os: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    config: Option<RawConfig>,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

impl ImageFile {
    /// Reads the configuration of an image.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for what is none; `resource_exhausted` past the caps.
    pub fn parse(bytes: &[u8], caps: &Caps) -> Result<Self> {
        if bytes.len() as u64 > caps.config_bytes {
            return Err(caps::reached(
                "config_bytes",
                caps.config_bytes,
                "the image's configuration is too long",
            ));
        }
        let raw: RawFile = json("config", bytes)?;
        let diff_ids = raw.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() > caps.layers {
            return Err(caps::reached(
                "layers",
                caps.layers,
                &format!("the image has {} layers", diff_ids.len()),
            ));
        }
        Ok(Self {
            platform: Platform::new(&raw.os, &raw.architecture, raw.variant.as_deref()),
            diff_ids,
            config: raw.config.unwrap_or_default().checked()?,
            created: raw.created,
        })
    }
}

fn check_size(bytes: u64, caps: &Caps) -> Result<()> {
    if bytes > caps.manifest_bytes {
        return Err(caps::reached(
            "manifest_bytes",
            caps.manifest_bytes,
            "the manifest is too long",
        ));
    }
    Ok(())
}

/// Reads JSON of an image. serde_json bounds its depth.
pub(super) fn json<T: for<'de> Deserialize<'de>>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        invalid(what, "JSON of the OCI image specification or of Docker's").source(error)
    })
}

pub(super) fn invalid(what: &str, expected: &str) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("the {what} of the image cannot be read, expected {expected}"),
    )
    .context("field", format!("image.{what}"))
    .context("expected", expected)
    .context("remedy", "get or build the image again")
}
