//! Sandboxes that are made ahead and wait to be claimed.
//!
//! One that waits is on record as being made, for an owner that lives: a claim
//! is what makes it run. So all that happens to a create whose owner dies
//! happens to it too, and no other process takes it for somebody's.

mod claim;
mod keeper;
mod state;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

pub use claim::Claim;
pub(super) use state::Shared;

use super::Engine;
use super::admission::admit;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::layer::Layered;
use crate::provider::registry::on_runtime;
use crate::provider::{Level, Provider as _, Pull, PullRequest};
use crate::sandbox::spec::{Lifetime, SandboxSpec};
use crate::units::format_duration;

/// How many wait at most in one pool.
const LARGEST: usize = 1024;
/// How long one waits at most, unless told otherwise.
const MAX_AGE: Duration = Duration::from_mins(10);
/// The longest that may be asked for.
const LONGEST_AGE: Duration = Duration::from_hours(24);

/// A pool about to be made, from [`Engine::pool`]. Await it.
#[must_use = "a pool is made when this is awaited"]
pub struct PoolBuilder {
    engine: Engine,
    spec: SandboxSpec,
    provider: Option<String>,
    runtime: Option<String>,
    pull: Option<Pull>,
    context: Option<Context>,
    size: usize,
    max_age: Duration,
    refill_at_once: usize,
}

impl fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("spec", &self.spec)
            .field("provider", &self.provider)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl PoolBuilder {
    pub(super) fn new(engine: Engine, spec: SandboxSpec) -> Self {
        Self {
            engine,
            spec,
            provider: None,
            runtime: None,
            pull: None,
            context: None,
            size: 4,
            max_age: MAX_AGE,
            refill_at_once: 1,
        }
    }

    /// Sets how many wait at most, those included that are being made; 4 unless
    /// set, 1024 at most.
    pub fn size(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    /// Sets how long one waits at most: an older one is replaced. Ten minutes
    /// unless set, from a second to a day.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// Sets how many are made at once in the background; 1 unless set.
    pub fn refill_at_once(mut self, count: usize) -> Self {
        self.refill_at_once = count;
        self
    }

    /// Makes them with this provider instead of the default one.
    pub fn provider(mut self, name: impl Into<String>) -> Self {
        self.provider = Some(name.into());
        self
    }

    /// Makes them on this runtime of the provider, as [`Create::runtime`](super::Create::runtime)
    /// does.
    pub fn runtime(mut self, runtime: impl Into<String>) -> Self {
        self.runtime = Some(runtime.into());
        self
    }

    /// Pulls the image as this says when the pool is made, instead of as the policy
    /// does.
    pub fn pull(mut self, when: Pull) -> Self {
        self.pull = Some(when);
        self
    }

    /// Makes them, and claims, for the tenant of this context. Its deadline and
    /// its cancellation bound the making of the pool alone.
    pub fn context(mut self, context: Context) -> Self {
        self.context = Some(context);
        self
    }

    fn check(&self) -> Result<()> {
        for (field, value, most) in [
            ("size", self.size, LARGEST),
            ("refill_at_once", self.refill_at_once, self.size),
        ] {
            if value == 0 || value > most {
                let expected = format!("1 to {most}");
                return Err(Error::invalid(
                    field,
                    value,
                    &expected,
                    "choose another number",
                ));
            }
        }
        if !(Duration::from_secs(1)..=LONGEST_AGE).contains(&self.max_age) {
            return Err(Error::invalid(
                "max_age",
                format_duration(self.max_age),
                "1s to 24h",
                "choose a time in between",
            ));
        }
        if let Some(name) = self.spec.secrets.keys().next() {
            return Err(Error::invalid(
                "secrets",
                name,
                "none in the spec of a pool",
                "give it to the claim: what waits has no secrets",
            ));
        }
        Ok(())
    }

    async fn make(self) -> Result<Pool> {
        self.check()?;
        let engine = self.engine;
        let context = self.context.unwrap_or_else(|| engine.0.context.clone());
        context.check()?;
        let when = engine.0.policy.pull(self.pull, &self.spec.source)?;
        let name = self
            .provider
            .unwrap_or_else(|| engine.0.default_provider.clone());
        let name = match self.runtime {
            Some(runtime) => on_runtime(&name, &runtime),
            None => name,
        };
        engine.check_provider_options(&self.spec)?;
        let provider = engine.0.registry.open(&name).await?;
        let claims = provider.claims();
        // While it waits it ends with its owner, or soon by itself.
        let ends_alone = claims.attached_lifetime || claims.ttl >= Level::BestEffort;
        if !claims.claim || !ends_alone {
            return Err(Error::unsupported(format!(
                "a pool needs `claim` and `attached_lifetime` or `ttl`, which provider {} does not have here; create sandboxes when they are needed, or use another provider",
                provider.name()
            ))
            .context("need", if claims.claim { "attached_lifetime" } else { "claim" }));
        }
        // What no create of this spec would be allowed is refused here.
        let filled = engine.admit(&self.spec, &provider).await?;
        let filled = engine.resolved(filled).await?;
        let image = PullRequest {
            source: filled.source.clone(),
            when,
            observer: None,
        };
        engine.pull(&context, &provider, &image).await?;
        context.bound(provider.origin(&context, &filled)).await?;
        let shared = Shared::new(
            engine.clone(),
            provider,
            Context::new(context.tenant.clone()),
            self.spec,
            state::Bounds {
                size: self.size,
                max_age: self.max_age,
                refill_at_once: self.refill_at_once,
            },
        );
        {
            let mut pools = engine
                .0
                .pools
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            pools.retain(|pool| pool.strong_count() > 0);
            pools.push(Arc::downgrade(&shared));
        }
        keeper::start(&shared);
        Ok(Pool(Arc::new(Held(shared))))
    }
}

impl IntoFuture for PoolBuilder {
    type Output = Result<Pool>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Pool>> + Send>>;

    /// Brings the image as the policy says, and begins to fill the pool; does not
    /// wait until it is full.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.make().await.map_err(|e| e.operation("pool")) })
    }
}

/// Sandboxes of one spec that are made ahead. A cheap handle: clones are the same
/// pool. When the last one is dropped, or the engine is closed, all that wait are
/// ended; those that were claimed go on.
///
/// A pool belongs to its process: no other one claims from it, and what waits
/// ends when the process does, `kill -9` included.
///
/// ```
/// use std::sync::Arc;
/// use stacyvm::{Engine, SandboxSpec, providers::mock::Mock};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> stacyvm::Result<()> {
/// # let engine = Engine::builder().provider("mock", Arc::new(Mock::default())).build().await?;
/// let pool = engine.pool(SandboxSpec::image("scratch")).size(2).await?;
/// let sandbox = pool.claim().env("USER_NAME", "ada").label("session", "7").await?;
/// let output = sandbox.shell("echo $USER_NAME").output().await?;
/// assert_eq!(output.stdout_text(), "ada\n");
/// sandbox.kill().await?;
/// pool.drain().await?;
/// assert_eq!(pool.stats().ready, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Pool(Arc<Held>);

/// Drains the pool when the last handle goes.
struct Held(Arc<Shared>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.begin_drain();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.0.0.name)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// What a pool has and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// How many may wait.
    pub size: usize,
    /// How many wait.
    pub ready: usize,
    /// How many are being made.
    pub making: usize,
    /// Claims that got one that waited.
    pub warm: u64,
    /// Claims that found none and made one.
    pub cold: u64,
    /// Sandboxes that were made ahead.
    pub made: u64,
    /// Those of them that were ended unclaimed because they were too old, made of
    /// something that is not there any more, stood still, or had ended.
    pub replaced: u64,
    /// How often making one ahead failed.
    pub failed: u64,
    /// Why the last attempt to make one ahead failed; none once one succeeded.
    pub last_error: Option<String>,
    /// Whether the pool was drained, or is.
    pub drained: bool,
}

impl Pool {
    /// A sandbox of the pool; await it.
    ///
    /// # Behavior
    ///
    /// - One that waits is given away once, after a look that it still runs and is
    ///   made of what a new one would be. Its life begins with the claim.
    /// - Where none waits, one is made in the ordinary way, as
    ///   [`Engine::create`] does.
    ///
    /// # Errors
    ///
    /// Those of [`Engine::create`] and of writing the claim's files; `conflict`
    /// once the pool was drained. An error leaves nothing behind.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends what it had taken, in the background.
    pub fn claim(&self) -> Claim {
        Claim::new(Arc::clone(&self.0.0))
    }

    /// Its random name: the value of the label `stacyvm.pool` of those that nobody
    /// has claimed.
    pub fn name(&self) -> &str {
        &self.0.0.name
    }

    /// What the pool has and did. No input or output.
    pub fn stats(&self) -> PoolStats {
        self.0.0.stats()
    }

    /// Waits until as many wait as may.
    ///
    /// # Errors
    ///
    /// Why the last attempt to make one failed; `conflict` once the pool was
    /// drained.
    ///
    /// # Cancellation
    ///
    /// Dropping the future changes nothing.
    pub async fn filled(&self) -> Result<()> {
        self.0.0.filled().await
    }

    /// Ends all that wait and returns when nothing of them is left. Later claims
    /// are `conflict`. What was claimed goes on. A drained pool is success.
    ///
    /// # Errors
    ///
    /// Why one could not be ended; the next reconcile tries again.
    ///
    /// # Cancellation
    ///
    /// Once begun it is finished in the background.
    pub async fn drain(&self) -> Result<()> {
        self.0.0.drain().await
    }
}

impl Engine {
    /// Drains the pools that there are.
    pub(super) async fn drain_pools(&self) {
        let pools: Vec<_> = {
            let pools = self.0.pools.lock().unwrap_or_else(PoisonError::into_inner);
            pools.iter().filter_map(std::sync::Weak::upgrade).collect()
        };
        for pool in pools {
            if let Err(error) = pool.drain().await {
                tracing::warn!(
                    pool = pool.name,
                    kind = error.kind().code(),
                    "a pool could not be drained; the next reconcile goes on"
                );
            }
        }
    }

    /// A spec with the links of its host paths resolved, as the policy allows them.
    pub(super) async fn resolved(&self, mut filled: SandboxSpec) -> Result<SandboxSpec> {
        filled.mounts = self.0.policy.resolve_mounts(&filled.mounts).await?;
        filled.source = self.0.policy.resolve_source(&filled.source).await?;
        Ok(filled)
    }

    /// The spec of one that waits, filled in: it ends with its owner where that
    /// can be had.
    fn ahead(&self, spec: &SandboxSpec, provider: &Layered) -> Result<SandboxSpec> {
        let mut spec = spec.clone();
        if provider.claims().attached_lifetime {
            spec.lifetime = Lifetime::Attached;
        }
        admit(&spec, provider.claims(), &self.0.policy)
            .map_err(|refusal| refusal.into_error(&spec, &self.0.policy, provider.name(), &[]))
    }
}
