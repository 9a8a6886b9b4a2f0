//! An image of these tests.

use std::sync::OnceLock;

use serde_json::json;
use stacyvm::image::{Digest, Platform, media};

use super::archive::archive;

/// One image of two layers.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) layers: [Vec<u8>; 2],
}

impl Made {
    pub(crate) fn of(architecture: &str) -> Self {
        Self::with(architecture, 0)
    }

    /// One whose layers are others for each seed.
    pub(crate) fn with(architecture: &str, seed: u32) -> Self {
        // Bytes that are no pattern, longer than what sockets hold.
        let mut state = seed.wrapping_mul(2).wrapping_add(1);
        let long: Vec<u8> = (0..6_000_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .collect();
        let second = if seed == 0 {
            "b".to_owned()
        } else {
            seed.to_string()
        };
        let layers = [
            archive(&[("bin/a", &long)]),
            archive(&[("etc/b", second.as_bytes())]),
        ];
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = json!({
            "os": "linux", "architecture": architecture,
            "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let described: Vec<_> = layers
            .iter()
            .map(|layer| {
                json!({"mediaType": media::LAYER, "digest": Digest::of(layer), "size": layer.len()})
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media::MANIFEST, "layers": described,
            "config": {"mediaType": media::CONFIG, "digest": Digest::of(&config), "size": config.len()},
        });
        Self {
            manifest: manifest.to_string().into_bytes(),
            config,
            layers,
        }
    }

    pub(crate) fn here() -> Self {
        static MADE: OnceLock<Made> = OnceLock::new();
        MADE.get_or_init(|| Self::of(&Platform::host().architecture))
            .clone()
    }

    pub(crate) fn blobs(&self) -> Vec<&Vec<u8>> {
        vec![&self.config, &self.layers[0], &self.layers[1]]
    }
}
