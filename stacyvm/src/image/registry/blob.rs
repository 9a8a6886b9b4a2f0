//! A blob as it comes, over more connections than one where needed.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};

use super::client::{Client, again, wait};
use super::error::Asked;
use super::tally::Tally;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::image::digest::Digest;
use crate::image::manifest::Descriptor;

/// How often one blob may break off.
const BREAKS: u32 = 8;
/// What must come of a blob in how long, so that none is waited for without end.
const LEAST: u64 = 128 * 1024;
pub(super) const WITHIN: Duration = Duration::from_mins(2);

/// How long was waited for how much. What was read once already counts too, and
/// the time in which nobody waited does not.
#[derive(Default)]
struct Pace {
    waited: Duration,
    came: u64,
}

impl Pace {
    fn due(&self) -> Instant {
        Instant::now() + WITHIN.saturating_sub(self.waited)
    }

    fn waited(&mut self, since: Instant) {
        self.waited += since.elapsed();
    }

    fn came(&mut self, bytes: u64) {
        self.came += bytes;
        if self.came >= LEAST {
            *self = Self::default();
        }
    }

    fn is_over(&self) -> bool {
        self.waited >= WITHIN
    }
}

pub(super) struct Blob {
    context: Context,
    client: Arc<Client>,
    digest: Digest,
    total: u64,
    /// Bytes that were read.
    done: u64,
    /// Bytes of the answer before those, where it started again.
    skip: u64,
    answer: Option<Response>,
    chunk: bytes::Bytes,
    breaks: u32,
    pace: Pace,
    tally: Arc<Tally>,
}

impl Blob {
    pub(super) fn open(
        context: &Context,
        client: &Arc<Client>,
        descriptor: &Descriptor,
        tally: Arc<Tally>,
    ) -> Result<Self> {
        let mut blob = Self {
            context: context.clone(),
            client: Arc::clone(client),
            digest: descriptor.digest,
            total: descriptor.size,
            done: 0,
            skip: 0,
            answer: None,
            chunk: bytes::Bytes::new(),
            breaks: 0,
            pace: Pace::default(),
            tally,
        };
        blob.connect()?;
        blob.tally.begin(blob.total);
        Ok(blob)
    }

    fn connect(&mut self) -> Result<()> {
        let began = Instant::now();
        let work = self.client.blob(self.digest, self.done);
        let work = in_time(self.pace.due(), &self.client.host, "blob", work);
        let answer = self.client.block_on(&self.context, work);
        self.pace.waited(began);
        let answer = answer?;
        // A registry that cannot go on where it stopped starts again; the digest
        // is of what was read all in all.
        self.skip = match answer.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(&answer, self.done) => 0,
            StatusCode::PARTIAL_CONTENT => {
                return Err(self
                    .asked("blob")
                    .protocol("sent another part than was asked for"));
            }
            _ => self.done,
        };
        self.answer = Some(answer);
        Ok(())
    }

    fn asked<'a>(&'a self, what: &'a str) -> Asked<'a> {
        Asked {
            host: &self.client.host,
            what,
        }
    }

    /// The next bytes; none at the end.
    fn next(&mut self) -> Result<bytes::Bytes> {
        loop {
            let Some(answer) = &mut self.answer else {
                return Ok(bytes::Bytes::new());
            };
            let host = &self.client.host;
            let asked = Asked { host, what: "blob" };
            let work = async { answer.chunk().await.map_err(|e| asked.request(e)) };
            let began = Instant::now();
            let work = in_time(self.pace.due(), host, "blob", work);
            let got = self.client.block_on(&self.context, work);
            self.pace.waited(began);
            let error = match got {
                Ok(Some(mut chunk)) => {
                    self.pace.came(chunk.len() as u64);
                    let skipped = self.skip.min(chunk.len() as u64);
                    self.skip -= skipped;
                    let _ = chunk.split_to(usize::try_from(skipped).unwrap_or(chunk.len()));
                    if chunk.is_empty() {
                        continue;
                    }
                    return Ok(chunk);
                }
                Ok(None) if self.done >= self.total => return Ok(bytes::Bytes::new()),
                Ok(None) => Error::new(
                    ErrorKind::Unavailable,
                    format!(
                        "the registry {host} sent {} bytes of a blob, expected {}",
                        self.done, self.total
                    ),
                )
                .context("remedy", "try again; if it stays, the registry is damaged")
                .retry(Retry::Maybe {
                    after: Duration::ZERO,
                }),
                Err(error) => error,
            };
            self.breaks += 1;
            if self.breaks > BREAKS || !again(&error) || self.pace.is_over() {
                return Err(error);
            }
            let breaks = self.breaks;
            let pause = async {
                wait(breaks, None).await;
                Ok(())
            };
            self.client.block_on(&self.context, pause)?;
            self.connect()?;
        }
    }
}

/// Ends work of a registry that is not done in time.
pub(super) async fn in_time<T>(
    due: Instant,
    host: &str,
    what: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout_at(due.into(), work).await {
        Ok(done) => done,
        Err(_) => Err(Error::new(
            ErrorKind::Unavailable,
            format!("the registry {host} is too slow: next to nothing came in two minutes"),
        )
        .context("asked", what)
        .context("remedy", "try again later, or ask a mirror")),
    }
}

/// Whether a partial answer begins where it should.
fn starts_at(answer: &Response, at: u64) -> bool {
    let range = answer.headers().get(CONTENT_RANGE);
    let range = range.and_then(|range| range.to_str().ok()?.strip_prefix("bytes "));
    range.and_then(|range| range.split('-').next()?.trim().parse().ok()) == Some(at)
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() {
            self.chunk = self.next().map_err(io::Error::other)?;
        }
        let count = buffer.len().min(self.chunk.len());
        buffer[..count].copy_from_slice(&self.chunk.split_to(count));
        self.done += count as u64;
        if count > 0 {
            self.tally.came(count as u64);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_gives_new_time_and_nothing_else_does() {
        let mut pace = Pace {
            waited: WITHIN,
            came: 0,
        };
        assert!(pace.is_over());
        pace.came(LEAST - 1);
        assert!(pace.is_over());
        pace.came(1);
        assert!(!pace.is_over());
        assert_eq!((pace.waited, pace.came), (Duration::ZERO, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_never_answers_is_given_up() {
        let due = tokio::time::Instant::now() + WITHIN;
        let never = std::future::pending::<Result<()>>();
        let error = in_time(due.into_std(), "registry.example", "blob", never);
        let error = error.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("too slow"), "{error}");
        assert!(tokio::time::Instant::now() >= due);
    }
}
