//! Sandboxes that are made ahead.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyo3::prelude::*;
use serde::{Deserialize, Serialize};
use stacyvm::sandbox::spec::{Lifetime, SecretReference};
use stacyvm::{Claim, Error, ErrorKind, Result};

use crate::convert::{Nothing, Raw};
use crate::engine::Opener;
use crate::forked::OfProcess;
use crate::options::{self, seconds};
use crate::pending::Call;
use crate::sandbox::Sandbox;

/// What a claim brings, but for files.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct ClaimOptions {
    env: Option<BTreeMap<String, String>>,
    secrets: Option<BTreeMap<String, SecretReference>>,
    metadata: Option<BTreeMap<String, String>>,
    timeout: Option<f64>,
    lifetime: Option<Lifetime>,
}

impl ClaimOptions {
    fn claim(self, pool: &stacyvm::Pool, files: Vec<(Raw, Raw)>) -> Result<Claim> {
        let mut claim = pool.claim();
        for (name, value) in self.env.unwrap_or_default() {
            claim = claim.env(name, value);
        }
        for (name, reference) in self.secrets.unwrap_or_default() {
            claim = claim.secret(name, reference);
        }
        for (key, value) in self.metadata.unwrap_or_default() {
            claim = claim.label(key, value);
        }
        for (path, data) in files {
            claim = claim.file(path.0, data.0);
        }
        if let Some(timeout) = self.timeout {
            claim = claim.ttl(seconds("timeout", timeout)?);
        }
        if let Some(lifetime) = self.lifetime {
            claim = claim.lifetime(lifetime);
        }
        Ok(claim)
    }
}

/// What a pool has and did.
#[pyclass(module = "stacyvm", frozen, get_all)]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PoolStats {
    /// How many may wait.
    size: usize,
    /// How many wait.
    ready: usize,
    /// How many are being made.
    making: usize,
    /// Claims that got one that waited.
    warm: u64,
    /// Claims that found none and made one.
    cold: u64,
    /// Sandboxes that were made ahead.
    made: u64,
    /// Those of them that were ended unclaimed.
    replaced: u64,
    /// How often making one ahead failed.
    failed: u64,
    /// Why the last attempt to make one ahead failed.
    last_error: Option<String>,
    /// Whether the pool was drained, or is.
    drained: bool,
}

impl From<stacyvm::PoolStats> for PoolStats {
    fn from(stats: stacyvm::PoolStats) -> Self {
        Self {
            size: stats.size,
            ready: stats.ready,
            making: stats.making,
            warm: stats.warm,
            cold: stats.cold,
            made: stats.made,
            replaced: stats.replaced,
            failed: stats.failed,
            last_error: stats.last_error,
            drained: stats.drained,
        }
    }
}

#[pymethods]
impl PoolStats {
    fn __repr__(&self) -> String {
        format!(
            "PoolStats(size={}, ready={}, making={}, warm={}, cold={})",
            self.size, self.ready, self.making, self.warm, self.cold
        )
    }
}

/// Sandboxes that wait to be claimed. They are ended where the last reference goes.
#[pyclass(module = "stacyvm._native", frozen)]
pub(crate) struct Pool {
    opener: Arc<Opener>,
    name: String,
    made: Arc<OfProcess<stacyvm::Pool>>,
}

fn of_another_process() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "this pool belongs to the process that forked this one; make one here",
    )
}

impl Pool {
    pub(crate) fn of(opener: Arc<Opener>, pool: stacyvm::Pool) -> Self {
        Self {
            opener,
            name: pool.name().to_owned(),
            made: Arc::new(OfProcess::new(pool)),
        }
    }
}

#[pymethods]
impl Pool {
    /// Its random name.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Gives a sandbox away, by options in JSON, with these files in it.
    fn claim(&self, options: &str, files: Vec<(Raw, Raw)>) -> Call<Sandbox> {
        let options: Result<ClaimOptions> = options::parse(options);
        let (opener, pool) = (Arc::clone(&self.opener), Arc::clone(&self.made));
        let work = async move {
            let pool = pool.get().ok_or_else(of_another_process)?;
            let claimed = options?.claim(pool, files)?.await?;
            Ok(Sandbox::of(opener, claimed))
        };
        Call::of_made(work, |claimed: &Sandbox| Some(claimed.undo()))
    }

    /// What it has and did.
    fn stats(&self) -> Call<PoolStats> {
        let pool = Arc::clone(&self.made);
        Call::new(async move { Ok(pool.get().ok_or_else(of_another_process)?.stats()) })
    }

    /// Waits until as many wait as may.
    fn filled(&self) -> Call<Nothing> {
        let pool = Arc::clone(&self.made);
        Call::new(async move { pool.get().ok_or_else(of_another_process)?.filled().await })
    }

    /// Ends all that wait.
    fn drain(&self) -> Call<Nothing> {
        let pool = Arc::clone(&self.made);
        Call::new(async move { pool.get().ok_or_else(of_another_process)?.drain().await })
    }
}
