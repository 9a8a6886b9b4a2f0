//! Requests of one registry about one repository.

use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RANGE, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use super::blob::{WITHIN, in_time};
use super::connect::Place;
use super::error::{Asked, tls};
use super::{PullOptions, connect, token};
use crate::context::Context;
use crate::credentials::{self, Credentials};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::image::caps;
use crate::image::digest::Digest;
use crate::image::manifest::media;

/// How often a registry is asked at most. A mirror is asked once, as somebody
/// else has what it cannot serve.
const ATTEMPTS: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest wait that a registry may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

pub(super) struct Client {
    runtime: Option<Runtime>,
    pub(super) http: connect::Http,
    pub(super) host: String,
    pub(super) scheme: &'static str,
    repository: String,
    pub(super) credentials: Credentials,
    /// How often a request is made at most.
    attempts: u32,
    /// What goes into `Authorization`, once it is known.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        // Waiting for it would panic in an asynchronous caller.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Client {
    /// Finds the credentials for a place and how it is spoken to.
    pub(super) fn open(context: &Context, place: &Place, options: &PullOptions) -> Result<Self> {
        let asked = &place.reference;
        let host = asked.registry();
        let failed = |e| Error::new(ErrorKind::Internal, "cannot start a runtime").source(e);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let credentials = async {
            let file = options.auth_file.clone().or_else(credentials::default_file);
            match (&options.credentials, file) {
                // Those that were given are the registry's own.
                (Some(given), _) if !place.is_mirror => Ok(given.clone()),
                (_, Some(file)) => credentials::find(&file, host, asked.repository()).await,
                _ => Ok(Credentials::Anonymous),
            }
        };
        let credentials = runtime.block_on(context.bound(credentials))?;
        let http = connect::http(host, options)?;
        let mut client = Self {
            runtime: Some(runtime),
            http,
            host: host.to_owned(),
            scheme: "https",
            repository: asked.repository().to_owned(),
            credentials,
            attempts: if place.is_mirror { 1 } else { ATTEMPTS },
            authorization: Mutex::new(None),
        };
        if connect::is_loopback(host) || options.insecure.iter().any(|one| one == host) {
            let due = Instant::now() + WITHIN;
            let spoken = in_time(due, host, "how it is spoken to", client.spoken());
            client.scheme = client.block_on(context, spoken)?;
        }
        Ok(client)
    }

    /// Runs a request to its end, or to that of the context.
    pub(super) fn block_on<T>(
        &self,
        context: &Context,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(context.bound(work)),
            None => Err(Error::new(ErrorKind::Internal, "the client is closed")),
        }
    }

    /// https, but for a registry that speaks no TLS at all.
    async fn spoken(&self) -> Result<&'static str> {
        match self.http.content.get(self.address("")).send().await {
            Err(error)
                if error.is_connect()
                    && !matches!(tls(&error), Some(rustls::Error::InvalidCertificate(_))) =>
            {
                Ok("http")
            }
            _ => Ok("https"),
        }
    }

    fn address(&self, rest: &str) -> String {
        format!("{}://{}/v2/{rest}", self.scheme, connect::api(&self.host))
    }

    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    /// The bytes of a manifest or an index, and what the registry says they are.
    pub(super) async fn manifest(&self, name: &str, most: u64) -> Result<(Vec<u8>, String)> {
        let what = format!("manifest `{name}` of {}", self.repository);
        let asked = Asked {
            host: &self.host,
            what: &what,
        };
        let path = format!("{}/manifests/{name}", self.repository);
        let mut attempt = 1;
        let due = Instant::now() + WITHIN;
        let (bytes, media_type) = loop {
            let read = async {
                let answer = self.get(&path, 0, asked).await?;
                let is = answer.headers().get(CONTENT_TYPE);
                let is = is.and_then(|is| is.to_str().ok()).unwrap_or_default();
                let is = is.split(';').next().unwrap_or_default().trim().to_owned();
                Ok((bounded(answer, most, "manifest_bytes", asked).await?, is))
            };
            match in_time(due, &self.host, &what, read).await {
                Err(error) if attempt < self.attempts && again(&error) && Instant::now() < due => {
                    wait(attempt, None).await;
                    attempt += 1;
                }
                other => break other?,
            }
        };
        if let Ok(digest) = name.parse::<Digest>()
            && digest != Digest::of(&bytes)
        {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "the manifest from the registry {} is not the one of {digest}",
                    self.host
                ),
            )
            .context("remedy", "the registry is damaged; ask another"));
        }
        Ok((bytes, media_type))
    }

    /// Asks for a blob from an offset on.
    pub(super) async fn blob(&self, digest: Digest, from: u64) -> Result<Response> {
        let what = format!("blob {digest} of {}", self.repository);
        let asked = Asked {
            host: &self.host,
            what: &what,
        };
        self.get(&format!("{}/blobs/{digest}", self.repository), from, asked)
            .await
    }

    /// Asks until there is an answer that is a success.
    async fn get(&self, path: &str, from: u64, asked: Asked<'_>) -> Result<Response> {
        let mut refreshed = false;
        let mut attempt = 1;
        loop {
            let authorization = self.authorization.lock().await.clone();
            let sent = self.send(path, from, authorization.as_ref(), asked).await;
            let (error, pause) = match sent {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED && !refreshed => {
                    // Once: a token may have run out, or there was none yet.
                    match self.authorize(&answer, authorization.as_ref(), asked).await {
                        Ok(()) => {
                            refreshed = true;
                            continue;
                        }
                        Err(error) => (error, None),
                    }
                }
                Ok(answer) => {
                    let pause = answer.headers().get(RETRY_AFTER);
                    let pause = pause.and_then(|pause| pause.to_str().ok()?.trim().parse().ok());
                    let known = !matches!(self.credentials, Credentials::Anonymous);
                    (asked.status(answer.status(), known), pause)
                }
                Err(error) => (error, None),
            };
            if attempt >= self.attempts || !again(&error) {
                return Err(error);
            }
            wait(attempt, pause.map(Duration::from_secs)).await;
            attempt += 1;
        }
    }

    async fn send(
        &self,
        path: &str,
        from: u64,
        authorization: Option<&HeaderValue>,
        asked: Asked<'_>,
    ) -> Result<Response> {
        let accepted = [
            media::INDEX,
            media::MANIFEST,
            media::DOCKER_LIST,
            media::DOCKER_MANIFEST,
        ];
        let mut request = self.http.content.get(self.address(path));
        if path.contains("/manifests/") {
            request = request.header(ACCEPT, accepted.join(", "));
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        request.send().await.map_err(|error| asked.request(error))
    }

    /// Does what a registry wants to know who asks. Of several that need it at
    /// once, one does it.
    async fn authorize(
        &self,
        refused: &Response,
        used: Option<&HeaderValue>,
        asked: Asked<'_>,
    ) -> Result<()> {
        let mut current = self.authorization.lock().await;
        if current.as_ref() != used {
            return Ok(());
        }
        // Whether the challenge came from the registry itself, and not from
        // where it redirected to.
        let own = reqwest::Url::parse(&self.address(""))
            .is_ok_and(|own| own.origin() == refused.url().origin());
        let known = !matches!(self.credentials, Credentials::Anonymous);
        if !own {
            return Err(asked.status(StatusCode::UNAUTHORIZED, known));
        }
        let found = token::answer(self, refused.headers(), asked).await?;
        match found {
            Some(found) if Some(&found) != used => *current = Some(found),
            _ => return Err(asked.status(StatusCode::UNAUTHORIZED, known)),
        }
        Ok(())
    }
}

/// Whether an error may be gone at the next attempt.
pub(super) fn again(error: &Error) -> bool {
    matches!(error.retryable(), Retry::Maybe { .. })
}

/// Waits longer from attempt to attempt, or as long as was asked for.
pub(super) async fn wait(attempt: u32, asked: Option<Duration>) {
    let own = FIRST_WAIT * 2_u32.saturating_pow(attempt.saturating_sub(1).min(6));
    tokio::time::sleep(asked.unwrap_or(own).max(own).min(LONGEST_WAIT)).await;
}

/// Reads a body that may have `most` bytes.
pub(super) async fn bounded(
    mut answer: Response,
    most: u64,
    cap: &'static str,
    asked: Asked<'_>,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| asked.request(e))? {
        if (bytes.len() + chunk.len()) as u64 > most {
            return Err(caps::reached(
                cap,
                most,
                "the registry sent a document that is too long",
            ));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
