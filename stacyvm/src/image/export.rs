//! Archives of images of the store.

use std::io::{Read as _, Write};

use serde_json::json;
use stacyvm_agent::guest::files::tar::{self, Record};

use super::digest::{Digest, Hashing};
use super::manifest::{REF_NAME, media};
use super::source::Reference;
use super::store::{Image, Images, damaged, failed};
use super::unpack::{Expected, decompress};
use crate::context::Context;
use crate::error::Result;

/// The form of an exported image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// A tar of an OCI layout: manifest and blobs as they came, so that the
    /// digest stays.
    Oci,
    /// What `docker load` reads: layers without compression.
    Docker,
}

impl Images {
    /// Writes an image as an archive. Blobs are verified on the way.
    ///
    /// # Errors
    ///
    /// `corrupt` where a blob is damaged; `no_space` and other errors of `to`;
    /// those of the context. What was written until then is no whole archive.
    pub fn export(
        &self,
        context: &Context,
        image: &Image,
        format: ExportFormat,
        to: &mut dyn Write,
    ) -> Result<()> {
        let _shared = self.shared(context)?;
        let manifest = self.read_blob(image.digest, self.caps().manifest_bytes)?;
        let config = self.read_blob(image.config_digest, self.caps().config_bytes)?;
        let mut archive = Archive { to };
        let done = match format {
            ExportFormat::Oci => self.oci(context, image, &manifest, &config, &mut archive),
            ExportFormat::Docker => self.docker(context, image, &config, &mut archive),
        };
        done.and_then(|()| archive.end())
            .map_err(|error| error.operation("export"))
    }

    fn oci(
        &self,
        context: &Context,
        image: &Image,
        manifest: &[u8],
        config: &[u8],
        archive: &mut Archive<'_>,
    ) -> Result<()> {
        let mut one = json!({
            "mediaType": media_type(manifest), "digest": image.digest, "size": manifest.len(),
        });
        if let Some(name) = own_name(image) {
            one["annotations"] = json!({ REF_NAME: name });
        }
        let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": [one] });
        archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.file("index.json", index.to_string().as_bytes())?;
        archive.file(&blob(image.digest), manifest)?;
        archive.file(&blob(image.config_digest), config)?;
        let mut written = std::collections::BTreeSet::new();
        for layer in &image.layers {
            if !written.insert(layer.digest) {
                continue;
            }
            let mut from = Hashing::new(self.open_blob(layer.digest)?);
            archive.header(&blob(layer.digest), layer.size)?;
            let copied = archive.copy(context, &mut from, layer.size)?;
            // One byte more would be seen here.
            let more = from.read(&mut [0]).map_err(|e| failed("read a blob", e))?;
            if copied != layer.size || more > 0 || from.finish().1 != layer.digest {
                return Err(damaged(format!("the blob {} is damaged", layer.digest)));
            }
        }
        Ok(())
    }

    fn docker(
        &self,
        context: &Context,
        image: &Image,
        config: &[u8],
        archive: &mut Archive<'_>,
    ) -> Result<()> {
        let config_name = format!("{}.json", image.config_digest.hex());
        let layers: Vec<String> = image
            .layers
            .iter()
            .map(|layer| format!("{}.tar", layer.diff_id.hex()))
            .collect();
        // Docker has no tags with digests.
        let tags: Vec<&str> = own_name(image)
            .filter(|n| !n.contains('@'))
            .into_iter()
            .collect();
        let document = json!([{ "Config": config_name, "RepoTags": tags, "Layers": layers }]);
        archive.file("manifest.json", document.to_string().as_bytes())?;
        archive.file(&config_name, config)?;
        let mut written = std::collections::BTreeSet::new();
        for (layer, name) in image.layers.iter().zip(&layers) {
            if !written.insert(name) {
                continue;
            }
            let expected = Expected {
                blob: Some(layer.digest),
                size: Some(layer.size),
                diff_id: Some(layer.diff_id),
            };
            // A header needs the size first: the layer is read twice rather
            // than kept, and judged the first time.
            let mut count = 0_u64;
            let mut blob = self.open_blob(layer.digest)?;
            decompress(context, self.caps(), &mut blob, &expected, &mut |bytes| {
                count += bytes.len() as u64;
                Ok(())
            })?;
            archive.header(name, count)?;
            let mut blob = self.open_blob(layer.digest)?;
            decompress(context, self.caps(), &mut blob, &expected, &mut |bytes| {
                archive.write(bytes)
            })?;
            archive.pad(count)?;
        }
        Ok(())
    }
}

fn media_type(manifest: &[u8]) -> String {
    let value: Option<serde_json::Value> = serde_json::from_slice(manifest).ok();
    let own = value.as_ref().and_then(|v| v["mediaType"].as_str());
    own.unwrap_or(media::MANIFEST).to_owned()
}

fn blob(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

struct Archive<'a> {
    to: &'a mut dyn Write,
}

impl Archive<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.to
            .write_all(bytes)
            .map_err(|e| failed("write the archive", e))
    }

    fn header(&mut self, name: &str, size: u64) -> Result<()> {
        let mut bytes = Vec::new();
        let record = Record {
            letter: b'0',
            name: name.as_bytes(),
            link: b"",
            size,
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified_s: 0,
            modified_ns: 0,
            owner: "",
            group: "",
        };
        tar::encode(&record, &mut bytes);
        self.write(&bytes)
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let mut bytes = Vec::new();
        tar::pad(&mut bytes, size);
        self.write(&bytes)
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.header(name, bytes.len() as u64)?;
        self.write(bytes)?;
        self.pad(bytes.len() as u64)
    }

    /// Copies at most `size` bytes and fills up the block; answers how many came.
    fn copy(&mut self, context: &Context, from: &mut dyn std::io::Read, size: u64) -> Result<u64> {
        let mut buffer = vec![0; 256 * 1024];
        let mut left = size;
        while left > 0 {
            context.check()?;
            let most = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let count = from
                .read(&mut buffer[..most])
                .map_err(|e| failed("read a blob", e))?;
            if count == 0 {
                break;
            }
            self.write(&buffer[..count])?;
            left -= count as u64;
        }
        self.pad(size)?;
        Ok(size - left)
    }

    fn end(mut self) -> Result<()> {
        self.write(&[0; 2 * tar::BLOCK])?;
        self.to.flush().map_err(|e| failed("write the archive", e))
    }
}

/// The name of an image where it is true of the archive: one with the digest of
/// an index is not, as one of its manifests alone is written.
fn own_name(image: &Image) -> Option<&str> {
    let name = image.name.as_deref()?;
    let pinned = name.parse::<Reference>().ok()?.digest();
    pinned
        .is_none_or(|digest| digest == image.digest)
        .then_some(name)
}
