//! Looking for damage.

use std::io::Read;

use super::upkeep::texts;
use super::{Images, failed};
use crate::context::Context;
use crate::error::Result;
use crate::image::digest::{Digest, Hashing};
use crate::image::unpack::fingerprint;

/// Something in the store that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// Where, below the store's directory.
    pub path: String,
    /// What is wrong with it.
    pub what: String,
}

impl Images {
    /// Hashes every blob again, looks through every unpacked layer, and follows
    /// every name. What it answers is empty where all is well.
    ///
    /// Of unpacked files the names, kinds, sizes, modes, owners and times are
    /// compared, not their content.
    ///
    /// # Errors
    ///
    /// Those of the context, and of a store that cannot be read at all. Damage
    /// is no error.
    pub fn verify(&self, context: &Context) -> Result<Vec<Damage>> {
        let _shared = self.shared(context)?;
        let mut found = Vec::new();
        let mut note = |path: String, what: String| found.push(Damage { path, what });
        for name in texts(&self.inner.blobs)? {
            let path = format!("blobs/sha256/{name}");
            match Digest::from_hex(&name) {
                None => note(path, "its name is no digest".into()),
                Some(digest) => match self.hash_blob(context, digest) {
                    Ok(right) if right => {}
                    Ok(_) => note(path, "its bytes have another digest".into()),
                    Err(error) if context.check().is_err() => return Err(error),
                    Err(error) => note(path, error.to_string()),
                },
            }
        }
        for name in texts(&self.inner.layers)? {
            context.check()?;
            let path = format!("layers/{name}");
            let (hex, flavour) = name.split_once('-').unwrap_or((&name, ""));
            let Some(diff_id) = Digest::from_hex(hex) else {
                note(path, "its name is no digest".into());
                continue;
            };
            if flavour != self.inner.flavour.name() {
                continue; // Another user's view of the same files.
            }
            if let Some(what) = self.judge_layer(diff_id) {
                note(path, what);
            }
        }
        for (name, digest) in self.names()? {
            let path = format!("refs: {}", name.unwrap_or_else(|| digest.to_string()));
            match self.image(None, digest) {
                Err(error) => note(path, error.to_string()),
                Ok(image) => {
                    for layer in &image.layers {
                        if !self.has_blob(layer.digest) {
                            note(
                                path.clone(),
                                format!("its layer {} is missing", layer.digest),
                            );
                        }
                    }
                }
            }
        }
        Ok(found)
    }

    fn hash_blob(&self, context: &Context, digest: Digest) -> Result<bool> {
        let mut file = Hashing::new(self.open_blob(digest)?);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            context.check()?;
            let count = file
                .read(&mut buffer)
                .map_err(|e| failed("read a blob", e))?;
            if count == 0 {
                return Ok(file.finish().1 == digest);
            }
        }
    }

    /// What is wrong with a layer.
    fn judge_layer(&self, diff_id: Digest) -> Option<String> {
        let record = match self.layer_record(diff_id) {
            Ok(record) => record,
            Err(error) => return Some(error.to_string()),
        };
        if record.diff_id != diff_id {
            return Some("its record is another layer's".into());
        }
        let dir = match self.open_layer(diff_id) {
            Ok(dir) => dir,
            Err(error) => return Some(error.to_string()),
        };
        match fingerprint(&dir, self.caps().depth) {
            Ok((files, _)) if files != record.files => {
                Some(format!("it has {files} files, expected {}", record.files))
            }
            Ok((_, tree)) if tree != record.tree => {
                Some("names, kinds, sizes, modes, owners or times changed".into())
            }
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        }
    }
}
