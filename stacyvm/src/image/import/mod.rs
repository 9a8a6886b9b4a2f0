//! Bringing images in: from a source of blobs, whatever it is.

mod archive;
mod docker;
mod index;
mod layout;
mod rootfs;

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::digest::Digest;
use super::manifest::{self, Descriptor, Document, ImageFile, Manifest};
use super::source::{ImageSource, Reference};
use super::store::{Image, Images, Work, assemble};
use super::unpack::Expected;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};

/// How an image is brought in.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ImportOptions {
    /// The name in the store. Without one it is the name in the source; where
    /// there is none either, the image is found by its digest alone.
    pub name: Option<String>,
    /// Gives no name, whatever the source says: the image is found by its digest
    /// alone. So no source takes a name over that stands for something else.
    pub by_digest: bool,
}

impl ImportOptions {
    /// With a name.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
            by_digest: false,
        }
    }

    /// Without a name.
    pub fn by_digest() -> Self {
        Self {
            name: None,
            by_digest: true,
        }
    }
}

/// Where blobs come from: an archive, a layout, a registry. Nothing that it
/// gives is trusted.
pub trait BlobSource: Sync {
    /// Opens a blob from its beginning. Several are read at the same time, each
    /// in a thread of its own, which may block. More than the size of the
    /// descriptor is not read.
    ///
    /// A read that fails with an [`Error`] in its `io::Error` ends the import with
    /// that error; any other is `unavailable`.
    ///
    /// # Errors
    ///
    /// The source's own; `not_found` for a blob that it lacks.
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>>;
}

/// An image that was found in a source.
struct Found {
    root: Descriptor,
    /// What the source calls it.
    name: Option<String>,
}

impl Images {
    /// Brings in the image of an archive or a layout.
    ///
    /// # Errors
    ///
    /// `not_found` where there is no such file, tag or blob; `unsupported` for
    /// an image of another platform, which lists those that there are;
    /// `invalid_argument` for what is malformed or hostile, and for a source
    /// that is not imported (`host`, a directory, a registry); `corrupt` where a
    /// digest is wrong; `resource_exhausted` at a cap; `no_space`; those of the
    /// context. Nothing half-made stays under a final name.
    pub fn import(
        &self,
        context: &Context,
        source: &ImageSource,
        options: &ImportOptions,
    ) -> Result<Image> {
        let image = self.import_inner(context, source, options);
        image.map_err(|error| error.operation("import").context("source", source))
    }

    fn import_inner(
        &self,
        context: &Context,
        source: &ImageSource,
        options: &ImportOptions,
    ) -> Result<Image> {
        match source {
            ImageSource::Layout(path, tag) => {
                let layout = layout::Layout::open(path, self.caps())?;
                let found = layout.find(tag.as_deref(), self.caps())?;
                self.add_found(context, &layout, found, options)
            }
            ImageSource::OciArchive(path, tag) => {
                let archive = archive::Archive::open(self, context, path)?;
                let layout = layout::Layout::of_archive(archive, self.caps())?;
                let found = layout.find(tag.as_deref(), self.caps())?;
                self.add_found(context, &layout, found, options)
            }
            ImageSource::DockerArchive(path, tag) => {
                let archive = archive::Archive::open(self, context, path)?;
                self.add_docker(context, archive, tag.as_deref(), options)
            }
            ImageSource::RootfsArchive(path) => self.add_rootfs(context, path, options),
            ImageSource::Host | ImageSource::Directory(_) | ImageSource::Registry(_) => {
                Err(Error::invalid(
                    "source",
                    source,
                    "oci:, oci-archive:, docker-archive: or rootfs-archive: and a path",
                    "use `host` and directories as they are, and pull from registries",
                ))
            }
        }
    }

    fn add_found(
        &self,
        context: &Context,
        source: &dyn BlobSource,
        found: Found,
        options: &ImportOptions,
    ) -> Result<Image> {
        let mut options = options.clone();
        // A name that no reference is only told the images of a source apart.
        options.name = options
            .name
            .or(found.name.filter(|name| name.parse::<Reference>().is_ok()));
        self.add(context, source, &found.root, &options)
    }

    /// Brings in the image of a descriptor: of a manifest, or of an index, from
    /// which the manifest for the store's platform is taken. Blobs and layers
    /// that are there already are not asked for; others are verified while they
    /// are unpacked, several layers at once.
    ///
    /// # Errors
    ///
    /// As [`import`](Self::import), and those of the source.
    pub fn add(
        &self,
        context: &Context,
        source: &dyn BlobSource,
        root: &Descriptor,
        options: &ImportOptions,
    ) -> Result<Image> {
        let name = options.name.as_deref().filter(|_| !options.by_digest);
        let name = canonical(name)?;
        let _shared = self.shared(context)?;
        let work = Work::new(self)?;
        fault_point!("image.add.begun");
        let (digest, bytes, document) = self.manifest(source, root)?;
        check_pinned(name.as_deref(), &[root.digest, digest])?;
        let config = self.document(
            source,
            &document.config,
            self.caps().config_bytes,
            "config_bytes",
        )?;
        let file = ImageFile::parse(&config, self.caps())?;
        if self.platform().fit(&file.platform).is_none() {
            return Err(manifest::other_platform(
                self.platform(),
                &file.platform.to_string(),
            ));
        }
        let image = assemble(name.clone(), digest, &document, file)?;
        self.layers(context, &work, source, &image)?;
        // The manifest comes last: who finds it finds the rest.
        self.put_blob(&work, &config)?;
        self.put_blob(&work, &bytes)?;
        self.finish(&work, image)
    }

    /// Names an image that is whole.
    fn finish(&self, work: &Work, image: Image) -> Result<Image> {
        fault_point!("image.add.whole");
        self.make_durable(work, &image)?;
        self.set_name(work, image.name.as_deref(), image.digest)?;
        Ok(image)
    }

    /// The manifest that a descriptor leads to.
    fn manifest(
        &self,
        source: &dyn BlobSource,
        root: &Descriptor,
    ) -> Result<(Digest, Vec<u8>, Manifest)> {
        let most = self.caps().manifest_bytes;
        let bytes = self.document(source, root, most, "manifest_bytes")?;
        match Document::parse(&bytes, self.caps())? {
            Document::Manifest(manifest) => Ok((root.digest, bytes, manifest)),
            Document::Index(index) => {
                let chosen = index.choose(self.platform())?;
                let bytes = self.document(source, chosen, most, "manifest_bytes")?;
                match Document::parse(&bytes, self.caps())? {
                    Document::Manifest(manifest) => Ok((chosen.digest, bytes, manifest)),
                    // Nothing needs it, and it could go on for ever.
                    Document::Index(_) => Err(manifest::invalid(
                        "index",
                        "manifests in it, not another index",
                    )),
                }
            }
        }
    }

    /// Reads a document from the store or the source, and judges it.
    fn document(
        &self,
        source: &dyn BlobSource,
        descriptor: &Descriptor,
        most: u64,
        cap: &'static str,
    ) -> Result<Vec<u8>> {
        let long = |bytes: u64| {
            super::caps::reached(
                cap,
                most,
                &format!("a document of the image has {bytes} bytes"),
            )
        };
        if descriptor.size > most {
            return Err(long(descriptor.size));
        }
        if self.has_blob(descriptor.digest)
            && let Ok(bytes) = self.read_blob(descriptor.digest, most)
        {
            return Ok(bytes);
        }
        let mut bytes = Vec::new();
        let mut from = source
            .open(descriptor)?
            .take(descriptor.size.saturating_add(1));
        from.read_to_end(&mut bytes)
            .map_err(|error| match error.downcast::<Error>() {
                Ok(own) => own,
                Err(error) => Error::new(
                    ErrorKind::Unavailable,
                    "the source of the image cannot be read",
                )
                .source(error),
            })?;
        if bytes.len() as u64 != descriptor.size || Digest::of(&bytes) != descriptor.digest {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "a document of the image is not the one of {}",
                    descriptor.digest
                ),
            )
            .context(
                "remedy",
                "get the image again; if it stays, its source is damaged",
            ));
        }
        Ok(bytes)
    }

    /// Has all layers of an image, as many at once as there are processors.
    fn layers(
        &self,
        context: &Context,
        work: &Work,
        source: &dyn BlobSource,
        image: &Image,
    ) -> Result<()> {
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        let unpacked = Mutex::new(0_u64);
        let most = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let take = || {
            while let Some(layer) = image.layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                if failure
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .is_some()
                {
                    return;
                }
                let expected = Expected {
                    blob: Some(layer.digest),
                    size: Some(layer.size),
                    diff_id: Some(layer.diff_id),
                };
                let descriptor = Descriptor::new(&layer.media_type, layer.digest, layer.size);
                let mut fetch = || source.open(&descriptor);
                let result = self
                    .ensure_layer(context, work, &expected, layer.diff_id, &mut fetch)
                    .and_then(|()| self.layer_record(layer.diff_id))
                    .and_then(|record| {
                        let mut sum = unpacked.lock().unwrap_or_else(PoisonError::into_inner);
                        *sum = sum.saturating_add(record.bytes);
                        if *sum > self.caps().image_bytes {
                            let most = self.caps().image_bytes;
                            return Err(super::caps::reached(
                                "image_bytes",
                                most,
                                "the layers of the image unpack to too much",
                            ));
                        }
                        Ok(())
                    });
                if let Err(error) = result {
                    let error = error.context("layer", layer.digest);
                    failure
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get_or_insert(error);
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..most.min(image.layers.len()) {
                scope.spawn(take);
            }
            take();
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// A name with a digest stands for what has that digest and for nothing else.
fn check_pinned(name: Option<&str>, digests: &[Digest]) -> Result<()> {
    let Some(name) = name else {
        return Ok(());
    };
    match name.parse::<Reference>()?.digest() {
        Some(pinned) if !digests.contains(&pinned) => Err(Error::new(
            ErrorKind::Corrupt,
            format!("the image is called `{name}` and is another one"),
        )
        .context(
            "found",
            digests.last().map(Digest::to_string).unwrap_or_default(),
        )
        .context("expected", pinned)
        .context(
            "remedy",
            "do not trust its source; where you do, give the image another name",
        )),
        _ => Ok(()),
    }
}

/// A name as it is kept.
fn canonical(name: Option<&str>) -> Result<Option<String>> {
    match name {
        Some(name) => Ok(Some(name.parse::<Reference>()?.to_string())),
        None => Ok(None),
    }
}
