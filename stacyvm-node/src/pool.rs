//! Sandboxes that are made ahead.

use std::collections::BTreeMap;

use napi::Env;
use napi::bindgen_prelude::PromiseRaw;
use napi_derive::napi;
use serde::Deserialize;
use stacyvm::sandbox::spec::{Lifetime, SecretReference};
use stacyvm::{Claim, Result};

use crate::convert::{Cancel, Raw, bytes, call, duration};
use crate::options;
use crate::sandbox::Sandbox;

/// What a claim brings, but for files.
#[napi(object, object_from_js = false, object_to_js = false)]
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ClaimOptions {
    /// Variables of every command, whatever the pool's options say of them.
    pub env: Option<BTreeMap<String, String>>,
    /// By variable inside: a variable or a file of the host.
    #[napi(ts_type = "Record<string, { env: string } | { file: string }>")]
    pub secrets: Option<BTreeMap<String, SecretReference>>,
    /// Labels beside those of the pool.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Milliseconds that it lives from the claim on.
    pub timeout_ms: Option<f64>,
    /// `attached` ends with this process, however that ends.
    #[napi(ts_type = "'attached' | 'detached'")]
    pub lifetime: Option<Lifetime>,
}

impl ClaimOptions {
    fn claim(self, pool: &stacyvm::Pool, files: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Claim> {
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
            claim = claim.file(path, data);
        }
        if let Some(timeout) = self.timeout_ms {
            claim = claim.ttl(duration("timeoutMs", timeout)?);
        }
        if let Some(lifetime) = self.lifetime {
            claim = claim.lifetime(lifetime);
        }
        Ok(claim)
    }
}

/// A file that a claim writes.
#[napi(object, object_to_js = false)]
pub struct FileOfClaim {
    /// Where.
    pub path: Raw,
    /// What.
    pub data: Raw,
}

impl std::fmt::Debug for FileOfClaim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileOfClaim").finish_non_exhaustive()
    }
}

/// What a pool has and did.
#[napi(object, object_from_js = false, use_nullable = true)]
#[derive(Clone, Debug)]
pub struct PoolStats {
    /// How many may wait.
    pub size: u32,
    /// How many wait.
    pub ready: u32,
    /// How many are being made.
    pub making: u32,
    /// Claims that got one that waited.
    pub warm: i64,
    /// Claims that found none and made one.
    pub cold: i64,
    /// Sandboxes that were made ahead.
    pub made: i64,
    /// Those of them that were ended unclaimed.
    pub replaced: i64,
    /// How often making one ahead failed.
    pub failed: i64,
    /// Why the last attempt to make one ahead failed.
    pub last_error: Option<String>,
    /// Whether the pool was drained, or is.
    pub drained: bool,
}

impl From<stacyvm::PoolStats> for PoolStats {
    fn from(stats: stacyvm::PoolStats) -> Self {
        use crate::convert::number;
        // A pool has 1024 at most.
        let few = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            size: few(stats.size),
            ready: few(stats.ready),
            making: few(stats.making),
            warm: number(stats.warm),
            cold: number(stats.cold),
            made: number(stats.made),
            replaced: number(stats.replaced),
            failed: number(stats.failed),
            last_error: stats.last_error,
            drained: stats.drained,
        }
    }
}

/// Sandboxes that wait to be claimed.
#[napi]
#[derive(Debug)]
pub struct Pool(stacyvm::Pool);

impl From<stacyvm::Pool> for Pool {
    fn from(pool: stacyvm::Pool) -> Self {
        Self(pool)
    }
}

#[napi]
impl Pool {
    /// Its random name.
    #[napi(getter)]
    pub fn name(&self) -> String {
        self.0.name().to_owned()
    }

    /// Gives a sandbox away, by options in JSON, with these files in it.
    #[napi]
    pub fn claim<'env>(
        &self,
        env: &'env Env,
        options: String,
        files: Vec<FileOfClaim>,
        cancel: &Cancel,
    ) -> napi::Result<PromiseRaw<'env, Sandbox>> {
        let pool = self.0.clone();
        let files = files.into_iter();
        let files = files
            .map(|file| (bytes(file.path), bytes(file.data)))
            .collect();
        let claimed = cancel.unless(async move {
            let options: ClaimOptions = options::parse(&options)?;
            options.claim(&pool, files)?.await
        });
        call(env, claimed)
    }

    /// What it has and did.
    #[napi]
    pub fn stats(&self) -> PoolStats {
        self.0.stats().into()
    }

    /// Waits until as many wait as may.
    #[napi]
    pub fn filled<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let pool = self.0.clone();
        call(env, async move { pool.filled().await })
    }

    /// Ends all that wait.
    #[napi]
    pub fn drain<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let pool = self.0.clone();
        call(env, async move { pool.drain().await })
    }
}
