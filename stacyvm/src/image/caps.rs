//! What an image may cost at most.

use std::fmt::Display;

use crate::config::ImagesConfig;
use crate::error::{Error, ErrorKind};

/// Bounds on what an image may make a host do. Reaching one stops the work with
/// `resource_exhausted`, which names the cap and its value; nothing half-made
/// stays.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caps {
    /// Members of one layer's archive.
    pub entries: u64,
    /// Bytes of one layer's archive after decompression; what a sparse file
    /// seems to hold counts too.
    pub layer_bytes: u64,
    /// Bytes of all layers of one image after decompression.
    pub image_bytes: u64,
    /// Bytes of one blob as it comes, compressed or not.
    pub blob_bytes: u64,
    /// How many times longer a layer may become by decompression. Judged only
    /// past [`ratio_floor`](Self::ratio_floor).
    pub ratio: u64,
    /// Bytes of decompressed content below which any ratio is fine.
    pub ratio_floor: u64,
    /// Components of a path.
    pub depth: usize,
    /// Bytes of a whole path. One component is 255 at most, as everywhere.
    pub path_bytes: usize,
    /// Layers of one image.
    pub layers: usize,
    /// Bytes of a manifest or an index.
    pub manifest_bytes: u64,
    /// Bytes of an image's configuration.
    pub config_bytes: u64,
    /// Bytes of names and values of one member's extended attributes.
    pub xattr_bytes: usize,
}

impl Default for Caps {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        Self {
            entries: 1_000_000,
            layer_bytes: 32 * GIB,
            image_bytes: 64 * GIB,
            blob_bytes: 32 * GIB,
            ratio: 200,
            ratio_floor: 256 * MIB,
            depth: 128,
            path_bytes: 4095,
            layers: 128,
            manifest_bytes: 4 * MIB,
            config_bytes: 4 * MIB,
            xattr_bytes: 64 << 10,
        }
    }
}

impl Caps {
    /// The caps that the configuration says, and the default ones beside them.
    pub fn of(config: &ImagesConfig) -> Self {
        let (set, default) = (&config.caps, Self::default());
        let layers = set.layers.and_then(|most| usize::try_from(most).ok());
        Self {
            entries: set.entries.unwrap_or(default.entries),
            layer_bytes: set.layer_bytes.unwrap_or(default.layer_bytes),
            image_bytes: set.image_bytes.unwrap_or(default.image_bytes),
            blob_bytes: set.blob_bytes.unwrap_or(default.blob_bytes),
            ratio: set.ratio.unwrap_or(default.ratio),
            layers: layers.unwrap_or(default.layers),
            ..default
        }
    }
}

/// The caps that have no setting: an image that needs more of these is odd.
const WITHOUT_SETTING: [&str; 6] = [
    "ratio_floor",
    "depth",
    "path_bytes",
    "manifest_bytes",
    "config_bytes",
    "xattr_bytes",
];

/// The error of a cap that was reached.
pub(super) fn reached(cap: &'static str, value: impl Display, what: &str) -> Error {
    let remedy = if WITHOUT_SETTING.contains(&cap) {
        format!("build the image so that it stays below `{cap}`, which no setting raises")
    } else {
        format!("if the image is to be trusted, raise the setting `images.caps.{cap}`")
    };
    Error::new(
        ErrorKind::ResourceExhausted,
        format!("{what}: the cap `{cap}` is {value}"),
    )
    .context("cap", cap)
    .context("value", value)
    .context("remedy", remedy)
}
