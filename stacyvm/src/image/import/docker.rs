//! What `docker save` writes: `manifest.json`, and layers as plain archives.

use std::io::Read;

use serde::Deserialize;

use super::archive::Archive;
use super::{BlobSource, ImportOptions};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::image::digest::{Digest, Hashing};
use crate::image::manifest::{self, Descriptor, ImageFile, media};
use crate::image::source::Reference;
use crate::image::store::{Image, Images, read_bounded};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The archive as a source of blobs: which file each digest is.
struct Saved {
    archive: Archive,
    manifest: (Digest, Vec<u8>),
    config: (Digest, Vec<u8>),
    /// The digest of each layer's file, and its name.
    layers: Vec<(Digest, String)>,
}

impl BlobSource for Saved {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        for (digest, bytes) in [&self.manifest, &self.config] {
            if *digest == descriptor.digest {
                return Ok(Box::new(std::io::Cursor::new(bytes.clone())));
            }
        }
        let mut all = self.layers.iter();
        match all.find(|(digest, _)| *digest == descriptor.digest) {
            Some((_, name)) => Ok(Box::new(self.archive.open_part(name)?.0)),
            None => Err(Error::new(
                ErrorKind::NotFound,
                format!("the archive has no blob {}", descriptor.digest),
            )),
        }
    }
}

impl Images {
    pub(super) fn add_docker(
        &self,
        context: &Context,
        archive: Archive,
        tag: Option<&str>,
        options: &ImportOptions,
    ) -> Result<Image> {
        let caps = self.caps();
        let (part, _) = archive.open_part("manifest.json")?;
        let bytes = read_bounded(part, caps.manifest_bytes)?;
        let entries: Vec<Entry> = manifest::json("manifest.json", &bytes)?;
        let entry = choose(entries, tag)?;
        if entry.layers.len() > caps.layers {
            return Err(crate::image::caps::reached(
                "layers",
                caps.layers,
                &format!("the image has {} layers", entry.layers.len()),
            ));
        }
        let (part, _) = archive.open_part(&entry.config)?;
        let config = read_bounded(part, caps.config_bytes)?;
        let file = ImageFile::parse(&config, caps)?;
        if file.diff_ids.len() != entry.layers.len() {
            return Err(manifest::invalid(
                "config",
                "as many diff ids as the manifest has layers",
            ));
        }
        let mut layers = Vec::new();
        let mut described = Vec::new();
        for (name, diff_id) in entry.layers.iter().zip(&file.diff_ids) {
            let (part, size) = archive.open_part(name)?;
            // A layer without compression is known by its diff id; of another
            // one the digest is not written anywhere.
            let (form, digest) = judge(context, part, *diff_id)?;
            described.push(serde_json::json!({
                "mediaType": form, "digest": digest, "size": size,
            }));
            layers.push((digest, name.clone()));
        }
        let config_digest = Digest::of(&config);
        let document = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "config": {
                "mediaType": media::CONFIG, "digest": config_digest, "size": config.len(),
            },
            "layers": described,
        });
        let document = document.to_string().into_bytes();
        let root = Descriptor::new(
            media::MANIFEST,
            Digest::of(&document),
            document.len() as u64,
        );
        let saved = Saved {
            archive,
            manifest: (root.digest, document),
            config: (config_digest, config),
            layers,
        };
        let mut options = options.clone();
        let own = entry.repo_tags.unwrap_or_default();
        let wanted = tag
            .map(str::to_owned)
            .filter(|tag| tag.parse::<Reference>().is_ok());
        options.name = options.name.or(wanted).or_else(|| own.into_iter().next());
        self.add(context, &saved, &root, &options)
    }
}

fn judge(
    context: &Context,
    mut part: super::index::Part,
    diff_id: Digest,
) -> Result<(&'static str, Digest)> {
    let mut start = [0; 4];
    let filled = part.read(&mut start).map_err(super::index::unreadable)?;
    let form = match &start[..filled] {
        [0x1f, 0x8b, ..] => media::LAYER_GZIP,
        [0x28, 0xb5, 0x2f, 0xfd] => media::LAYER_ZSTD,
        _ => return Ok((media::LAYER, diff_id)),
    };
    let mut rest = Hashing::new(std::io::Cursor::new(start[..filled].to_vec()).chain(part));
    let mut buffer = vec![0; 256 * 1024];
    while rest.read(&mut buffer).map_err(super::index::unreadable)? > 0 {
        context.check()?;
    }
    Ok((form, rest.finish().1))
}

fn choose(mut entries: Vec<Entry>, tag: Option<&str>) -> Result<Entry> {
    let Some(tag) = tag else {
        if entries.len() == 1
            && let Some(only) = entries.pop()
        {
            return Ok(only);
        }
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("the archive has {} images, expected a name", entries.len()),
        )
        .context("names", names(&entries))
        .context(
            "remedy",
            "put one of the names behind the path: docker-archive:FILE:NAME",
        ));
    };
    let wanted = tag.parse::<Reference>().ok();
    let is =
        |entry: &Entry| {
            entry.repo_tags.iter().flatten().any(|own| {
                own == tag || (wanted.is_some() && own.parse::<Reference>().ok() == wanted)
            })
        };
    match entries.iter().position(is) {
        Some(at) => Ok(entries.swap_remove(at)),
        None => Err(Error::new(
            ErrorKind::NotFound,
            format!("the archive has no image `{tag}`"),
        )
        .context("names", names(&entries))),
    }
}

fn names(entries: &[Entry]) -> String {
    let all: Vec<&str> = entries
        .iter()
        .flat_map(|entry| entry.repo_tags.iter().flatten())
        .map(String::as_str)
        .take(32)
        .collect();
    all.join(", ")
}
