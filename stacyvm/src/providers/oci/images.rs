//! Roots of images: found in the image store, or imported into it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stacyvm_agent::helper_protocol as wire;

use crate::config::ImagesConfig;
use crate::context::Context;
use crate::error::Result;
use crate::sandbox::spec::Source;

/// The image of a sandbox, ready to be mounted.
#[derive(Debug)]
pub(super) struct ImageRoot {
    /// The directory of all layers.
    pub(super) directory: OwnedFd,
    /// Those of the image.
    pub(super) layers: wire::Layers,
    /// As long as it is open, in any process, the image is not removed.
    pub(super) hold: OwnedFd,
    /// Variables that commands start with.
    pub(super) env: Vec<(String, String)>,
    /// Who commands run as; `None` is root.
    pub(super) user: Option<String>,
    /// Where commands start.
    pub(super) workdir: Option<String>,
    /// For whoever inspects the sandbox.
    pub(super) note: Note,
}

/// What is kept of an image with its sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The digest of its manifest.
    pub(super) digest: String,
    /// Entrypoint and arguments, as JSON; `None` where the image has none, or
    /// one that is too long to be told.
    pub(super) command: Option<String>,
}

/// The image store of a state directory.
#[derive(Clone, Debug)]
pub(super) struct Images {
    #[cfg_attr(
        not(feature = "image"),
        expect(dead_code, reason = "there is no store")
    )]
    path: PathBuf,
    #[cfg_attr(
        not(feature = "image"),
        expect(dead_code, reason = "there is no store")
    )]
    pub(super) from: ImagesConfig,
    #[cfg(feature = "image")]
    pub(super) opened: std::sync::Arc<std::sync::OnceLock<crate::image::Images>>,
    /// Whose users sandboxes have, where layers are copied for them.
    #[cfg(feature = "image")]
    range: Option<std::sync::Arc<dyn crate::image::Range>>,
}

impl Images {
    /// The store of a state directory, opened when it is used first.
    pub(super) fn of(state_dir: &Path, from: &ImagesConfig) -> Self {
        Self {
            path: state_dir.join("images"),
            from: from.clone(),
            #[cfg(feature = "image")]
            opened: std::sync::Arc::default(),
            #[cfg(feature = "image")]
            range: None,
        }
    }

    /// Has the layers of images the owners that they name in this range.
    #[cfg(feature = "image")]
    pub(super) fn serve(&mut self, range: Option<std::sync::Arc<dyn crate::image::Range>>) {
        self.range = range;
    }

    /// The root of a source that is an image; `None` for others. An archive or
    /// a layout is imported; what the store has of it already is not read again.
    /// `own`: the default user inside is this one.
    ///
    /// # Errors
    ///
    /// `not_found` for a name that the store lacks, and those of an import.
    pub(super) async fn get(
        &self,
        cx: &Context,
        source: &Source,
        own: bool,
    ) -> Result<Option<ImageRoot>> {
        match source {
            Source::Image(name) if name != "host" && !name.starts_with('/') => {
                self.get_image(cx, name, own).await.map(Some)
            }
            Source::Image(_) | Source::Template(_) | Source::Snapshot(_) => Ok(None),
        }
    }

    /// What an image of the store, an archive or a layout is now: the digest that a
    /// name stands for, or the file on the host. Empty where it cannot be told.
    #[cfg(feature = "image")]
    pub(super) fn origin_of(&self, name: &str) -> String {
        use super::claim::of_path;
        use crate::image::ImageSource;
        match name.parse() {
            Ok(ImageSource::Registry(_)) => {
                let found = self.store().and_then(|store| store.find(name));
                found.map_or_else(|_| String::new(), |image| image.digest.to_string())
            }
            Ok(ImageSource::Layout(path, _)) => of_path(&path.join("index.json")),
            Ok(
                ImageSource::OciArchive(path, _)
                | ImageSource::DockerArchive(path, _)
                | ImageSource::RootfsArchive(path)
                | ImageSource::Directory(path),
            ) => of_path(&path),
            Ok(ImageSource::Host) | Err(_) => String::new(),
        }
    }

    #[cfg(not(feature = "image"))]
    #[expect(clippy::unused_self, reason = "the other one has a store")]
    pub(super) fn origin_of(&self, _name: &str) -> String {
        String::new()
    }

    /// The store, opened when it is used first. Blocks.
    #[cfg(feature = "image")]
    pub(super) fn store(&self) -> Result<crate::image::Images> {
        if let Some(store) = self.opened.get() {
            return Ok(store.clone());
        }
        let store = match &self.range {
            Some(range) => crate::image::Images::open_for(&self.path, range.clone()),
            None => crate::image::Images::open(&self.path),
        }?;
        let store = store.with_caps(crate::image::Caps::of(&self.from))?;
        Ok(self.opened.get_or_init(|| store).clone())
    }

    #[cfg(not(feature = "image"))]
    #[expect(clippy::unused_async, reason = "the other one waits")]
    async fn get_image(&self, _cx: &Context, _name: &str, _own: bool) -> Result<ImageRoot> {
        Err(crate::error::Error::unsupported(
            "this build has no image store; build it with the feature `image`, or use `host` or a root directory",
        ))
    }

    #[cfg(feature = "image")]
    async fn get_image(&self, cx: &Context, name: &str, own: bool) -> Result<ImageRoot> {
        use crate::error::{Error, ErrorKind};
        let source = name.parse().map_err(|e: Error| e.context("image", name))?;
        let (cx, name, images) = (cx.clone(), name.to_owned(), self.clone());
        let work = tokio::task::spawn_blocking(move || {
            let range = images.range.as_deref().map(|range| (range, own));
            stored::root(&cx, &images.store()?, &source, &name, range)
        });
        work.await.map_err(|error| {
            Error::new(ErrorKind::Internal, "the task that finds the image died").source(error)
        })?
    }
}

#[cfg(feature = "image")]
mod stored {
    //! The work on the disk.

    use std::os::fd::{AsRawFd as _, OwnedFd};
    use std::path::Path;

    use rustix::fs::{Mode, OFlags};
    use stacyvm_agent::helper_protocol as wire;

    use super::{ImageRoot, Note};
    use crate::context::Context;
    use crate::error::{Error, ErrorKind, Result};
    use crate::image::{Flavour, Image, ImageSource, Images, ImportOptions, Range, Root};
    use crate::providers::oci::launch::open_source;

    /// Bytes of variables that an image may bring: they share a packet.
    const MOST_ENV: usize = 64 * 1024;
    /// Bytes of paths whose attributes are set at launch: they share a packet.
    const MOST_RESTORED: usize = 64 * 1024;
    /// The longest command that is told.
    const MOST_COMMAND: usize = 8 * 1024;

    pub(super) fn root(
        cx: &Context,
        store: &Images,
        source: &ImageSource,
        name: &str,
        range: Option<(&dyn Range, bool)>,
    ) -> Result<ImageRoot> {
        // Whoever removes an image may come in between.
        for _ in 0..3 {
            let image = image(cx, store, source, name)?;
            let hold = match store.hold(&image) {
                Ok(hold) => hold.into_fd(),
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            return ready(cx, store, &image, hold, range).map_err(|e| e.context("image", name));
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!("the image `{name}` is removed again and again while it is used; try again"),
        ))
    }

    fn image(cx: &Context, store: &Images, source: &ImageSource, name: &str) -> Result<Image> {
        let (path, flags) = match source {
            ImageSource::Registry(_) => {
                return store.find(name).map_err(|error| match error.kind() {
                    ErrorKind::NotFound => missing(name),
                    _ => error,
                });
            }
            ImageSource::Layout(path, _) => (path, OFlags::DIRECTORY),
            ImageSource::OciArchive(path, _)
            | ImageSource::DockerArchive(path, _)
            | ImageSource::RootfsArchive(path) => (path, OFlags::empty()),
            ImageSource::Host | ImageSource::Directory(_) => {
                return Err(Error::new(ErrorKind::Internal, "this is no image"));
            }
        };
        // What was checked is what is read, whoever changes links meanwhile.
        let opened = open_source("image", &path.to_string_lossy(), flags)?;
        let through = Path::new("/proc/self/fd").join(opened.as_raw_fd().to_string());
        let source = match source.clone() {
            ImageSource::Layout(_, tag) => ImageSource::Layout(through, tag),
            ImageSource::OciArchive(_, tag) => ImageSource::OciArchive(through, tag),
            ImageSource::DockerArchive(_, tag) => ImageSource::DockerArchive(through, tag),
            _ => ImageSource::RootfsArchive(through),
        };
        let imported = store.import(cx, &source, &ImportOptions::by_digest());
        imported.map_err(|error| error.context("image", name))
    }

    fn missing(name: &str) -> Error {
        let shown = name.escape_debug();
        let remedy = format!(
            "get it with `stacyvm image pull {shown}`, or `stacyvm image import` it from a file"
        );
        Error::new(
            ErrorKind::NotFound,
            format!("image is `{shown}`, expected the name of an image in the store; {remedy}"),
        )
        .context("field", "image")
        .context("value", name)
        .context("remedy", remedy)
    }

    fn ready(
        cx: &Context,
        store: &Images,
        image: &Image,
        hold: OwnedFd,
        range: Option<(&dyn Range, bool)>,
    ) -> Result<ImageRoot> {
        let root = store.root(image)?;
        let config = &image.config;
        let env_bytes: usize = config.env.iter().map(|(n, v)| n.len() + v.len()).sum();
        if env_bytes > MOST_ENV {
            return Err(too_much("variables", env_bytes, MOST_ENV));
        }
        let (path, layers) = if let Some((range, own)) = range {
            let lower = store.mapped(cx, image, range, own)?;
            (store.mapped_path(), layers(&root, lower, true)?)
        } else {
            let path = store.path().join("layers");
            let lower = names(&root, &path)?;
            (path, layers(&root, lower, root.flavour == Flavour::Ids)?)
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|e| crate::providers::oci::error::system("open the image store", e))?;
        let command = Some(config.command()).filter(|command| !command.is_empty());
        let command = command.and_then(|command| serde_json::to_string(&command).ok());
        Ok(ImageRoot {
            directory,
            layers,
            hold,
            env: config.env.clone(),
            user: config.user.clone(),
            workdir: config.workdir.clone(),
            note: Note {
                digest: image.digest.to_string(),
                command: command.filter(|text| text.len() <= MOST_COMMAND),
            },
        })
    }

    /// The layers as they are below a directory.
    fn names(root: &Root, directory: &Path) -> Result<Vec<String>> {
        let below = |path: &std::path::PathBuf| {
            let below = path.strip_prefix(directory).ok();
            below.and_then(Path::to_str).map(str::to_owned)
        };
        let lower: Option<Vec<String>> = root.lower.iter().map(below).collect();
        lower.ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "a layer lies outside of the image store",
            )
        })
    }

    fn layers(root: &Root, lower: Vec<String>, owned: bool) -> Result<wire::Layers> {
        // Names and numbers of the rest, roughly.
        let bytes: usize = root.restored.iter().map(|r| r.path.len() + 32).sum();
        if bytes > MOST_RESTORED {
            return Err(too_much(
                "directories that only later layers name",
                bytes,
                MOST_RESTORED,
            ));
        }
        let restored = root.restored.iter().map(|one| wire::RestoredDirectory {
            path: one.path.clone().into(),
            mode: one.mode,
            owner: owned.then_some(wire::Owner {
                uid: one.uid,
                gid: one.gid,
            }),
        });
        Ok(wire::Layers {
            lower,
            restored: restored.collect(),
            unowned: !owned,
        })
    }

    fn too_much(what: &str, bytes: usize, most: usize) -> Error {
        Error::unsupported(format!(
            "the image has {bytes} bytes of {what}, expected at most {most}; build it with less, or with its layers squashed"
        ))
    }
}
