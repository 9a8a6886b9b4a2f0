//! Pulls: the engine fetches, with the credentials that this user has.

use std::collections::HashMap;
use std::path::PathBuf;

use base64::Engine as _;
use bollard::auth::DockerCredentials;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptions;
use futures_util::{StreamExt, pin_mut};
use tokio::time::timeout;

use super::life::Life;
use super::pull_error::{Asked, silent};
use crate::credentials::{self, Credentials};
use crate::error::{Error, ErrorKind, Result};
use crate::provider::{Pull, PullObserver, PullProgress, PullRequest};
use crate::sandbox::spec::Source;

/// Layers that progress is kept of at most; the engine has fewer in one image.
const MOST_LAYERS: usize = 1024;

/// A name of an image in the parts that the engine and files of credentials know.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    registry: &'a str,
    repository: String,
    /// As it was given, without tag and digest.
    name: &'a str,
    /// The digest, or else the tag.
    version: &'a str,
}

impl<'a> Named<'a> {
    /// The engine judges whether it is a good name.
    fn read(text: &'a str) -> Self {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon after the last slash is a tag's, one before it is a port's.
        let after_slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest[after_slash..].find(':') {
            Some(at) => (&rest[..after_slash + at], &rest[after_slash + at + 1..]),
            // Without any the engine would fetch every tag.
            None => (rest, "latest"),
        };
        let host = |first: &str| first.contains(['.', ':']) || first == "localhost";
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if host(first) => (first, rest.to_owned()),
            Some(_) => ("docker.io", name.to_owned()),
            None => ("docker.io", format!("library/{name}")),
        };
        Self {
            registry: match registry {
                "index.docker.io" | "registry-1.docker.io" => "docker.io",
                other => other,
            },
            repository,
            name,
            version: digest.unwrap_or(tag),
        }
    }
}

impl Life {
    /// Has the engine fetch the image, where it is to be pulled. The engine's own
    /// mirrors, certificates and insecure registries hold. Whoever stops waiting
    /// stops the engine.
    pub(super) async fn pull(&self, request: &PullRequest) -> Result<()> {
        let Source::Image(name) = &request.source else {
            return Ok(());
        };
        // No registry has these.
        let elsewhere = name == "host" || name.starts_with('/') || name.starts_with("sha256:");
        if request.when == Pull::Never || elsewhere {
            return Ok(());
        }
        let missing = request.when == Pull::Missing;
        if missing && self.image(name).await?.is_some() {
            return Ok(());
        }
        let _turn = self.images.alone(name).await;
        // Somebody else may have brought it meanwhile.
        if missing && self.image(name).await?.is_some() {
            return Ok(());
        }
        self.fetch(name, request.observer.as_ref()).await
    }

    async fn fetch(&self, image: &str, observer: Option<&PullObserver>) -> Result<()> {
        let named = Named::read(image);
        let credentials = self.credentials(&named).await?;
        let asked = Asked {
            image,
            registry: named.registry,
            known: credentials.is_some(),
        };
        let options = CreateImageOptions {
            from_image: Some(named.name.to_owned()),
            tag: Some(named.version.to_owned()),
            ..CreateImageOptions::default()
        };
        let told = self.docker.create_image(Some(options), None, credentials);
        pin_mut!(told);
        let mut tally = Tally::default();
        loop {
            match timeout(self.config.answer_within, told.next()).await {
                Err(_) => return Err(silent(&asked, self.config.answer_within)),
                Ok(None) => break,
                Ok(Some(Err(error))) => return Err(asked.error(error)),
                Ok(Some(Ok(said))) if said.error_detail.is_some() => {
                    return Err(asked.words(None, ""));
                }
                Ok(Some(Ok(said))) => {
                    if let (Some(progress), Some(observer)) = (tally.note(&said), observer) {
                        observer(progress);
                    }
                }
            }
        }
        if self.image(image).await?.is_some() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Protocol,
            format!("the docker engine pulled `{image}` and does not have it"),
        )
        .context("field", "image")
        .context("value", image))
    }

    /// Who asks a registry, from the file of credentials.
    async fn credentials(&self, named: &Named<'_>) -> Result<Option<DockerCredentials>> {
        let file: Option<PathBuf> = self.config.auth_file.clone();
        let Some(file) = file.or_else(credentials::default_file) else {
            return Ok(None);
        };
        let found = credentials::find(&file, named.registry, &named.repository).await?;
        let mut sent = DockerCredentials {
            serveraddress: Some(named.registry.to_owned()),
            ..DockerCredentials::default()
        };
        match found {
            Credentials::Anonymous => return Ok(None),
            Credentials::Password { user, password } => {
                sent.username = Some(user);
                sent.password = Some(password.expose().to_owned());
            }
            Credentials::IdentityToken(token) => {
                sent.identitytoken = Some(token.expose().to_owned());
            }
        }
        if arrives(&sent) {
            return Ok(Some(sent));
        }
        Err(Error::unsupported(format!(
            "the credentials for {} have characters that do not reach a docker engine from here, \
             expected letters and digits",
            named.registry
        ))
        .context("registry", named.registry)
        .context(
            "remedy",
            "use a token without `~`, `?`, `>` and letters beyond ASCII, or fetch the image with \
             `docker pull`",
        ))
    }
}

/// Whether an engine reads a header as the client writes it: in the alphabet for
/// files and URLs, of which the client has the other one. An engine that cannot read
/// it would go on as nobody.
fn arrives(credentials: &DockerCredentials) -> bool {
    let text = serde_json::to_vec(credentials).unwrap_or_default();
    let header = base64::engine::general_purpose::STANDARD.encode(text);
    !header.contains(['+', '/'])
}

/// Bytes that came, of those that were begun.
#[derive(Debug, Default)]
struct Tally(HashMap<String, (u64, u64)>);

impl Tally {
    /// What is known after the engine said this; none where that is no news.
    fn note(&mut self, said: &CreateImageInfo) -> Option<PullProgress> {
        let (layer, status) = (said.id.as_deref()?, said.status.as_deref()?);
        match status {
            "Downloading" => {
                let detail = said.progress_detail.as_ref()?;
                let bytes = |value: Option<i64>| u64::try_from(value?).ok();
                let done = bytes(detail.current)?;
                let total = bytes(detail.total).unwrap_or(0).max(done);
                if self.0.len() >= MOST_LAYERS && !self.0.contains_key(layer) {
                    return None;
                }
                let of = self.0.entry(layer.to_owned()).or_default();
                // One that is asked for again begins anew.
                *of = (of.0.max(done), of.1.max(total));
            }
            "Verifying Checksum" | "Download complete" | "Pull complete" => {
                let of = self.0.get_mut(layer)?;
                if of.0 == of.1 {
                    return None;
                }
                of.0 = of.1;
            }
            _ => return None,
        }
        let sum =
            |part: fn(&(u64, u64)) -> u64| self.0.values().map(part).fold(0, u64::saturating_add);
        Some(PullProgress {
            done: sum(|of| of.0),
            total: sum(|of| of.1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ProgressDetail;

    #[test]
    fn names_are_read_as_the_engine_does() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let both = format!("x.io/a:1@{digest}");
        for (text, registry, repository, name, version) in [
            ("a", "docker.io", "library/a", "a", "latest"),
            ("a:1", "docker.io", "library/a", "a", "1"),
            ("me/a", "docker.io", "me/a", "me/a", "latest"),
            (
                "index.docker.io/me/a",
                "docker.io",
                "me/a",
                "index.docker.io/me/a",
                "latest",
            ),
            ("localhost/a:1", "localhost", "a", "localhost/a", "1"),
            (
                "127.0.0.1:5000/a/b",
                "127.0.0.1:5000",
                "a/b",
                "127.0.0.1:5000/a/b",
                "latest",
            ),
            (both.as_str(), "x.io", "a", "x.io/a", digest.as_str()),
        ] {
            let repository = repository.to_owned();
            assert_eq!(
                Named::read(text),
                Named {
                    registry,
                    repository,
                    name,
                    version
                },
                "{text}"
            );
        }
    }

    #[test]
    fn progress_only_grows_and_ends_whole() {
        let said = |layer: &str, status: &str, current, total| CreateImageInfo {
            id: Some(layer.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: Some(ProgressDetail { current, total }),
            ..CreateImageInfo::default()
        };
        let mut tally = Tally::default();
        let mut note = |said: CreateImageInfo| tally.note(&said).map(|p| (p.done, p.total));
        assert_eq!(note(said("1", "Pulling from a", None, None)), None);
        assert_eq!(
            note(said("l", "Downloading", Some(5), Some(10))),
            Some((5, 10))
        );
        assert_eq!(
            note(said("m", "Downloading", Some(1), Some(4))),
            Some((6, 14))
        );
        assert_eq!(
            note(said("l", "Downloading", Some(2), Some(10))),
            Some((6, 14))
        );
        assert_eq!(note(said("l", "Extracting", Some(9), Some(10))), None);
        assert_eq!(
            note(said("l", "Download complete", None, None)),
            Some((11, 14))
        );
        assert_eq!(note(said("l", "Pull complete", None, None)), None);
        assert_eq!(note(said("x", "Already exists", None, None)), None);
        assert_eq!(note(said("n", "Downloading", Some(-1), None)), None);
        assert_eq!(
            note(said("n", "Downloading", Some(3), None)),
            Some((14, 17))
        );
    }

    #[test]
    fn credentials_that_an_engine_would_take_for_none_are_found() {
        let of = |password: &str| {
            arrives(&DockerCredentials {
                username: Some("u".into()),
                password: Some(password.into()),
                ..DockerCredentials::default()
            })
        };
        assert!(of("correct-horse_9.X"));
        assert!(!of("???") && !of("~~~") && !of(">>>") && !of("ÿÿÿ"));
    }
}
