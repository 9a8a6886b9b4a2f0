//! Images from registries, by the distribution specification of OCI.
//!
//! A registry is hostile: nothing that it sends is longer than the store's caps
//! allow, all content is judged by its digest, and what it says in words is in
//! no error.

mod blob;
mod client;
mod connect;
mod credentials;
mod error;
mod secret;
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
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};

pub use secret::{Credentials, Secret};

use client::Client;

/// How far a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The blob.
    pub digest: Digest,
    /// Bytes that came.
    pub done: u64,
    /// Bytes that it has, as its manifest says.
    pub total: u64,
}

type Callback = Arc<dyn Fn(Progress) + Send + Sync>;

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
    /// Mirrors: a registry, and the `HOST[:PORT]` to ask before it, in order.
    /// A mirror is asked with its own credentials of the file, and is believed
    /// what a tag stands for.
    pub mirrors: Vec<(String, String)>,
    progress: Option<Callback>,
}

impl PullOptions {
    /// Calls this whenever bytes of a blob came; from several threads at once.
    pub fn on_progress(mut self, call: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(call));
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
    progress: Option<Callback>,
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
            self.progress.clone(),
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
        let mut last = None;
        for host in connect::hosts(reference, options)? {
            let found = Client::open(context, reference, &host, options).and_then(|client| {
                let (bytes, media_type) =
                    client.block_on(context, client.manifest(&asked, most))?;
                Ok((client, bytes, media_type))
            });
            let (client, bytes, media_type) = match found {
                Ok(found) => found,
                Err(error) if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::Timeout) => {
                    return Err(error);
                }
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            let root = Descriptor::new(&media_type, Digest::of(&bytes), bytes.len() as u64);
            if let Some(digest) = reference.digest().filter(|digest| *digest != root.digest) {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("the manifest from the registry {host} is not the one of {digest}"),
                )
                .context("found", root.digest)
                .context(
                    "remedy",
                    "the registry or its mirror is damaged; ask another",
                ));
            }
            let source = Source {
                context: context.clone(),
                client: Arc::new(client),
                root: root.digest,
                bytes,
                most,
                progress: options.progress.clone(),
            };
            let name = options
                .name
                .clone()
                .unwrap_or_else(|| reference.to_string());
            return self.add(context, &source, &root, &ImportOptions::named(name));
        }
        Err(last.unwrap_or_else(|| Error::new(ErrorKind::Internal, "no registry was asked")))
    }
}
