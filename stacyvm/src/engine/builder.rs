//! Putting an engine together.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::owner::{LocalOwner, LockOwner, Owner};
use super::policy::Policy;
use super::{Engine, Inner};
use crate::clock::{Clock, SystemClock};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::layer::{Admission, Deadline, Layer, Retry, RetryPolicy, Trace};
use crate::provider::Provider;
use crate::provider::registry::{ProviderFactory, Ready, Registry, Surroundings};
use crate::store::{MemoryStore, StateDir, Store};

/// How often a living engine reconciles.
const RECONCILE_EVERY: Duration = Duration::from_mins(1);

/// Puts an [`Engine`] together, from [`Engine::builder`].
///
/// Without a store its records live in memory and end with the process.
#[derive(Debug, Default)]
#[must_use = "an engine is made by `build`"]
pub struct EngineBuilder {
    providers: Vec<(String, Arc<dyn ProviderFactory>)>,
    default_provider: Option<String>,
    store: Option<Arc<dyn Store>>,
    state_dir: Option<PathBuf>,
    clock: Option<Arc<dyn Clock>>,
    layers: Vec<Arc<dyn Layer>>,
    policy: Option<Policy>,
    retry: Option<RetryPolicy>,
    deadline: Option<Deadline>,
    context: Context,
    reconcile_every: Option<Duration>,
}

impl EngineBuilder {
    /// Adds a provider. The first one added is the default.
    pub fn provider(self, name: impl Into<String>, provider: Arc<dyn Provider>) -> Self {
        self.provider_factory(name, Arc::new(Ready(provider)))
    }

    /// Adds a provider that is opened when it is first used.
    pub fn provider_factory(
        mut self,
        name: impl Into<String>,
        factory: Arc<dyn ProviderFactory>,
    ) -> Self {
        self.providers.push((name.into(), factory));
        self
    }

    /// Sets the provider of a create that names none.
    pub fn default_provider(mut self, name: impl Into<String>) -> Self {
        self.default_provider = Some(name.into());
        self
    }

    /// Keeps the records here.
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Keeps what must outlive the process in this directory, which only this
    /// user can enter: the records, unless [`store`](Self::store) is given
    /// another place for them, and what providers leave for other processes.
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self
    }

    /// Dates records by this clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Adds a layer around every provider, inside the trace and outside
    /// admission, retry and deadline. Layers added first are outermost.
    pub fn layer(mut self, layer: Arc<dyn Layer>) -> Self {
        self.layers.push(layer);
        self
    }

    /// Sets what is allowed.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Sets how often and how slowly a call that may be repeated is repeated.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// Sets the bounds of single attempts.
    pub fn deadline(mut self, deadline: Deadline) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets the context of calls that bring none.
    pub fn context(mut self, context: Context) -> Self {
        self.context = context;
        self
    }

    /// Sets how often records are made to agree with what there is; zero
    /// leaves that to [`Engine::reconcile`]. Once a minute unless set.
    pub fn reconcile_every(mut self, period: Duration) -> Self {
        self.reconcile_every = Some(period);
        self
    }

    /// Makes the engine and takes down what an engine that died left half made.
    ///
    /// # Errors
    ///
    /// `invalid_argument` without providers or for an unknown default one,
    /// and what the store could not do.
    pub async fn build(self) -> Result<Engine> {
        let mut layers: Vec<Arc<dyn Layer>> = vec![Arc::new(Trace)];
        layers.extend(self.layers);
        layers.push(Arc::new(Admission));
        layers.push(Arc::new(Retry {
            policy: self.retry.unwrap_or_default(),
        }));
        layers.push(Arc::new(self.deadline.unwrap_or_default()));
        let state = self.state_dir.as_deref().map(StateDir::open).transpose()?;
        let store = match (self.store, &state) {
            (Some(store), _) => store,
            (None, Some(state)) => store_in(state).await?,
            (None, None) => Arc::new(MemoryStore::new()),
        };
        let instance = store.meta().instance().clone();
        let owner: Arc<dyn Owner> = match &state {
            Some(state) => Arc::new(LockOwner::acquire(state, &instance)?),
            None => Arc::new(LocalOwner::new()),
        };
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock));
        let mut policy = self.policy.unwrap_or_default();
        if let Some(state) = &state {
            policy.state_dir = Some(state.path().to_owned());
        }
        let around = Surroundings {
            instance: instance.clone(),
            state,
            clock: Arc::clone(&clock),
        };
        let mut registry = Registry::new(around, layers);
        let mut first = None;
        for (name, factory) in self.providers {
            check_provider_name(&name)?;
            first.get_or_insert_with(|| name.clone());
            registry.register(name, factory);
        }
        let default_provider = self.default_provider.or(first).ok_or_else(|| {
            Error::invalid(
                "providers",
                "[]",
                "at least one provider",
                "add one with `provider` or use `Engine::open_default`",
            )
        })?;
        if registry.kind(&default_provider).is_none() {
            let names: Vec<&str> = registry.names().collect();
            return Err(Error::invalid(
                "default_provider",
                &default_provider,
                &format!("one of {}", names.join(", ")),
                "name a configured provider",
            ));
        }
        let engine = Engine(Arc::new(Inner {
            registry,
            store,
            instance,
            owner,
            clock,
            policy,
            default_provider,
            context: self.context,
            tasks: super::tasks::Tasks::default(),
            active: std::sync::Mutex::default(),
            reconciling: std::sync::OnceLock::new(),
            pools: std::sync::Mutex::default(),
        }));
        engine.finish_interrupted().await?;
        let period = self.reconcile_every.unwrap_or(RECONCILE_EVERY);
        if !period.is_zero() {
            let _ = engine.0.reconciling.set(engine.reconcile_every(period));
        }
        Ok(engine)
    }
}

#[cfg(feature = "sqlite")]
async fn store_in(state: &StateDir) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(crate::store::SqliteStore::open(state).await?))
}

#[cfg(not(feature = "sqlite"))]
#[expect(clippy::unused_async, reason = "the other one waits for the file")]
async fn store_in(_: &StateDir) -> Result<Arc<dyn Store>> {
    Err(Error::unsupported(
        "a store in the state directory needs the cargo feature `sqlite`; enable it or give the engine a store",
    ))
}

fn check_provider_name(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    if !name.is_empty() && name.len() <= 63 && name.bytes().all(plain) {
        return Ok(());
    }
    Err(Error::invalid(
        "providers",
        name,
        "a name of 1 to 63 characters of a-z, 0-9, - and _",
        "rename the provider",
    ))
}
