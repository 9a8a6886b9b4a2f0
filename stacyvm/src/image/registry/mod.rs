//! Images from registries, by the distribution specification of OCI.
//!
//! A registry is hostile: nothing that it sends is longer than the store's caps
//! allow, all content is judged by its digest, and what it says in words is in
//! no error.

mod blob;
mod client;
mod connect;
mod error;
mod tally;
mod token;

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use super::digest::Digest;
use super::import::{BlobSource, ImportOptions};
use super::manifest::{Descriptor, media};
use super::source::Reference;
use super::store::{Image, Images};
use crate::config::ImagesConfig;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::{PullObserver, PullProgress};

pub use crate::credentials::{Credentials, Secret};

use client::Client;
use tally::Tally;

/// How an image is pulled.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct PullOptions {
    /// The name in the store; without one that of the reference.
    pub name: Option<String>,
    /// Who asks. Without it, the file of credentials is looked at.
    pub credentials: Option<Credentials>,
    /// A file of credentials as Docker and Podman write it; without one
    /// `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json` or
    /// `~/.docker/config.json`.
    pub auth_file: Option<PathBuf>,
    /// Registries (`HOST[:PORT]`) that may be spoken to without TLS, where they
    /// do not speak it. Loopback addresses always may.
    pub insecure: Vec<String>,
    /// Files in PEM of certificate authorities that are trusted beside those of
    /// the platform.
    pub ca_files: Vec<PathBuf>,
    /// Mirrors: a registry, and the `HOST[:PORT][/PATH]` to ask before it, in
    /// order. What one cannot serve the next one is asked for, and the registry
    /// last. A mirror is asked with its own credentials of the file, never with
    /// those of the registry. It is believed what a tag stands for; a digest
    /// holds whoever serves.
    pub mirrors: Vec<(String, String)>,
    pub(crate) observer: Option<PullObserver>,
}

impl PullOptions {
    /// As the settings say.
    pub fn of(config: &ImagesConfig) -> Self {
        let mirrors = config.mirrors.iter().flat_map(|(registry, mirrors)| {
            let of = |mirror: &String| (registry.clone(), mirror.clone());
            mirrors.iter().map(of)
        });
        Self {
            insecure: config.insecure.clone(),
            ca_files: config.ca_files.clone(),
            mirrors: mirrors.collect(),
            ..Self::default()
        }
    }

    /// Calls this whenever bytes came, from several threads at once. It must not
    /// block.
    pub fn on_progress(mut self, call: impl Fn(PullProgress) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(call));
        self
    }
}

impl fmt::Debug for PullOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullOptions")
            .field("name", &self.name)
            .field("credentials", &self.credentials)
            .field("auth_file", &self.auth_file)
            .field("insecure", &self.insecure)
            .field("ca_files", &self.ca_files)
            .field("mirrors", &self.mirrors)
            .finish_non_exhaustive()
    }
}

/// A registry that has the manifest of an image.
struct Source {
    context: Context,
    client: Arc<Client>,
    root: Digest,
    bytes: Vec<u8>,
    most: u64,
    tally: Arc<Tally>,
}

impl BlobSource for Source {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        if descriptor.digest == self.root {
            return Ok(Box::new(std::io::Cursor::new(self.bytes.clone())));
        }
        if is_manifest(&descriptor.media_type) {
            let name = descriptor.digest.to_string();
            let (bytes, _) = self
                .client
                .block_on(&self.context, self.client.manifest(&name, self.most))?;
            return Ok(Box::new(std::io::Cursor::new(bytes)));
        }
        Ok(Box::new(blob::Blob::open(
            &self.context,
            &self.client,
            descriptor,
            Arc::clone(&self.tally),
        )?))
    }
}

fn is_manifest(media_type: &str) -> bool {
    [
        media::MANIFEST,
        media::INDEX,
        media::DOCKER_MANIFEST,
        media::DOCKER_LIST,
    ]
    .contains(&media_type)
}

impl Images {
    /// Pulls an image from its registry. What the store has already is not
    /// transferred again; layers come several at once, and are verified while
    /// they are unpacked. Requests that may succeed later are repeated a few
    /// times, and a blob that broke off goes on where it stopped.
    ///
    /// The variables `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are followed,
    /// but for loopback addresses.
    ///
    /// It blocks; in an asynchronous program call it by
    /// `tokio::task::spawn_blocking`.
    ///
    /// # Errors
    ///
    /// `unauthenticated` for credentials that are missing or wrong;
    /// `permission_denied`; `not_found`; `unavailable` for a registry that cannot
    /// be reached or whose certificate is not trusted; `protocol` for an answer
    /// that is none; `invalid_argument` for a setting or a file of credentials
    /// that cannot be understood; and those of [`add`](Self::add). Nothing
    /// half-made stays under a final name.
    ///
    /// # Cancellation
    ///
    /// Ends soon after the deadline or the cancellation of the context.
    pub fn pull(
        &self,
        context: &Context,
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<Image> {
        self.pull_inner(context, reference, options)
            .map_err(|error| error.operation("pull").context("image", reference))
    }

    /// The image of this name in the store, or pulled where the store has none.
    /// Of those that want one image at once, in any process, one pulls it; where
    /// that fails, the next one tries.
    ///
    /// # Errors
    ///
    /// Those of [`pull`](Self::pull); `corrupt` for a damaged image of the store.
    ///
    /// # Cancellation
    ///
    /// As that of [`pull`](Self::pull).
    pub fn pull_missing(
        &self,
        context: &Context,
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<Image> {
        let name = options
            .name
            .clone()
            .unwrap_or_else(|| reference.to_string());
        let find = || match self.find(&name) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        };
        if let Some(image) = find()? {
            return Ok(image);
        }
        let _alone = self.pulling(context, &name)?;
        match find()? {
            Some(image) => Ok(image),
            None => self.pull(context, reference, options),
        }
    }

    fn pull_inner(
        &self,
        context: &Context,
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<Image> {
        let most = self.caps().manifest_bytes;
        let asked = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.to_owned(),
            (None, None) => "latest".to_owned(),
        };
        let name = options
            .name
            .clone()
            .unwrap_or_else(|| reference.to_string());
        let mut passed = Vec::new();
        for place in connect::places(reference, options)? {
            let host = place.reference.registry();
            let found = Client::open(context, &place, options).and_then(|client| {
                let (bytes, media_type) =
                    client.block_on(context, client.manifest(&asked, most))?;
                let root = Descriptor::new(&media_type, Digest::of(&bytes), bytes.len() as u64);
                let source = Source {
                    context: context.clone(),
                    client: Arc::new(client),
                    root: root.digest,
                    bytes,
                    most,
                    tally: Arc::new(Tally::new(options.observer.clone())),
                };
                self.add(context, &source, &root, &ImportOptions::named(&name))
            });
            let error = match found {
                Ok(image) => return Ok(image),
                Err(error) => error,
            };
            if !place.is_mirror || context.check().is_err() {
                return Err(if passed.is_empty() {
                    error
                } else {
                    error.context("mirrors", passed.join("; "))
                });
            }
            tracing::warn!(
                mirror = host,
                kind = error.kind().code(),
                "a mirror could not serve an image; the next registry is asked"
            );
            passed.push(format!("{host}: {}", error.message()));
        }
        Err(Error::new(ErrorKind::Internal, "no registry was asked"))
    }
}
