//! A root directory in an archive: an image of one layer.

use std::path::Path;

use super::{ImportOptions, canonical};
use crate::context::Context;
use crate::error::Result;
use crate::image::digest::Digest;
use crate::image::manifest::{Document, ImageFile, media};
use crate::image::store::{Image, Images, Work, assemble};
use crate::image::unpack::Expected;

impl Images {
    pub(super) fn add_rootfs(
        &self,
        context: &Context,
        path: &Path,
        options: &ImportOptions,
    ) -> Result<Image> {
        let name = canonical(options.name.as_deref())?;
        let mut file = super::archive::open_file(path)?;
        let _shared = self.shared(context)?;
        let work = Work::new(self)?;
        fault_point!("image.rootfs.begun");
        let layer = self.unpack_into(context, &work, &Expected::default(), &mut file, true)?;
        let platform = self.platform();
        let mut config = serde_json::json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] },
        });
        if let Some(variant) = &platform.variant {
            config["variant"] = variant.as_str().into();
        }
        let config = config.to_string().into_bytes();
        let document = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "config": {
                "mediaType": media::CONFIG, "digest": Digest::of(&config), "size": config.len(),
            },
            "layers": [{
                "mediaType": layer.media_type, "digest": layer.blob, "size": layer.size,
            }],
        });
        let document = document.to_string().into_bytes();
        let file = ImageFile::parse(&config, self.caps())?;
        let Document::Manifest(manifest) = Document::parse(&document, self.caps())? else {
            unreachable!("it has layers");
        };
        self.put_blob(&work, &config)?;
        let digest = self.put_blob(&work, &document)?;
        let image = assemble(name, digest, &manifest, file)?;
        self.finish(&work, image)
    }
}
