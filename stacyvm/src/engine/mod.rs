//! The composition root: providers, store, layers, policy.

mod admission;
mod builder;
mod create;
mod creating;
mod host_mounts;
mod life;
mod needs;
mod open;
mod owner;
mod phase;
mod policy;
mod pool;
mod reconcile;
mod records;
mod secrets;
#[cfg(feature = "server")]
mod serve;
mod tasks;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod unrecorded;
mod upkeep;
mod view;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::task::AbortHandle;

use crate::clock::Clock;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{InstanceId, SandboxId};
use crate::layer::Layered;
use crate::provider::Provider as _;
use crate::provider::registry::Registry;
use crate::sandbox::handle::Sandbox;
use crate::sandbox::spec::{Lifetime, SandboxSpec};
use crate::store::Store;

pub use builder::EngineBuilder;
pub use create::Create;
pub use creating::{CreateStep, Creating};
pub use policy::Policy;
pub use pool::{Claim, Pool, PoolBuilder, PoolStats};
pub use reconcile::Reconciled;
pub use upkeep::{DiskReport, LeakReport, PruneRequest, Pruned};
pub use view::{Filter, ProviderSummary};

use owner::Owner;

/// Makes, finds and ends sandboxes. A cheap handle: clones are the same engine.
///
/// ```
/// use std::sync::Arc;
/// use stacyvm::{Engine, SandboxSpec, providers::mock::Mock};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> stacyvm::Result<()> {
/// let engine = Engine::builder()
///     .provider("mock", Arc::new(Mock::default()))
///     .build()
///     .await?;
/// let sandbox = engine.create(SandboxSpec::image("scratch")).await?;
/// let output = sandbox.exec(["echo", "hello"]).output().await?;
/// assert_eq!(output.stdout_text(), "hello\n");
/// sandbox.files().write("/workspace/a.txt", "hi").await?;
/// sandbox.kill().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    registry: Registry,
    store: Arc<dyn Store>,
    instance: InstanceId,
    owner: Arc<dyn Owner>,
    clock: Arc<dyn Clock>,
    policy: Policy,
    default_provider: String,
    context: Context,
    tasks: tasks::Tasks,
    /// The sandboxes that this engine makes or ends now, and by how many calls.
    active: Mutex<HashMap<SandboxId, usize>>,
    reconciling: OnceLock<AbortHandle>,
    pools: Mutex<Vec<std::sync::Weak<pool::Shared>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(reconciling) = self.reconciling.get() {
            reconciling.abort();
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("instance", &self.0.instance)
            .field("providers", &self.0.registry.names().collect::<Vec<_>>())
            .field("default_provider", &self.0.default_provider)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine to put together.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// The provider of a create that names none.
    pub fn default_provider(&self) -> &str {
        &self.0.default_provider
    }

    /// The random name of the store's contents: part of the ownership of everything
    /// that is made under it.
    pub fn instance(&self) -> &InstanceId {
        &self.0.instance
    }

    /// A sandbox to make; await it.
    ///
    /// # Behavior
    ///
    /// - What the spec asks for and the provider cannot do is refused before
    ///   anything is made, as is what the policy does not allow.
    /// - Then its image is pulled, as [`Create::pull`] or else [`Policy::pull`](field@Policy::pull)
    ///   says.
    /// - An error leaves nothing behind but what was pulled.
    ///
    /// # Errors
    ///
    /// `invalid_argument`, `unsupported` (naming the need and the providers
    /// that could serve it), `permission_denied`, `already_exists` for an id
    /// that was used, `conflict` for an idempotency key of another spec, and
    /// what the provider could not do.
    ///
    /// # Cancellation
    ///
    /// Dropping the future takes down what was begun, in a task of the runtime;
    /// where that dies first, the next reconcile does it.
    pub fn create(&self, spec: SandboxSpec) -> Create {
        Create::new(self.clone(), spec)
    }

    /// A pool of sandboxes that are made ahead and wait to be claimed; await it.
    ///
    /// # Behavior
    ///
    /// - The pool is filled in the background; the call does not wait for that.
    /// - Secrets are a claim's to bring, as are an id's and a key's places: the
    ///   spec of a pool has none.
    ///
    /// # Errors
    ///
    /// Those of [`create`](Self::create) that come before anything is made;
    /// `unsupported` where the provider cannot give away what was made ahead.
    pub fn pool(&self, spec: SandboxSpec) -> PoolBuilder {
        PoolBuilder::new(self.clone(), spec)
    }

    /// Makes a sandbox for the length of a function and ends it afterwards,
    /// also when the function fails. Where the provider can, the sandbox is
    /// attached, so that it ends with this process however that ends.
    ///
    /// # Errors
    ///
    /// Those of [`create`](Self::create), the function's own, and then those
    /// of [`Sandbox::kill`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the sandbox, in a task of the runtime.
    pub async fn scope<T, F>(
        &self,
        mut spec: SandboxSpec,
        work: impl FnOnce(Sandbox) -> F + Send,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let provider = self.0.registry.open(&self.0.default_provider).await?;
        if provider.claims().attached_lifetime {
            spec.lifetime = Lifetime::Attached;
        }
        let sandbox = self.create(spec).await?;
        sandbox.scope(work).await
    }

    /// Compares a spec with a provider and fills in what the profile adds.
    async fn admit(&self, spec: &SandboxSpec, provider: &Layered) -> Result<SandboxSpec> {
        let policy = &self.0.policy;
        let refusal = match admission::admit(spec, provider.claims(), policy) {
            Ok(filled) => return Ok(filled),
            Err(refusal) => refusal,
        };
        let others = match refusal {
            admission::Refusal::Final(_) => Vec::new(),
            admission::Refusal::Unmet(_) => self.combinations().await,
        };
        let error = refusal.into_error(spec, policy, provider.name(), &others);
        // The provider knows what of this host it lacks.
        let Some(need) = error.fact("need").map(str::to_owned) else {
            return Err(error);
        };
        let report = provider.probe(&self.0.context).await;
        let findings = report.map(|report| report.findings).unwrap_or_default();
        let mut lacking = findings.into_iter().filter(|finding| !finding.fine);
        Err(match lacking.find(|finding| finding.subject == need) {
            Some(finding) => error
                .context("found", finding.seen)
                .context("remedy", finding.remedy),
            None => error,
        })
    }

    /// Adds who else could serve a spec to the error of a provider that cannot run
    /// on this host at all.
    async fn name_others(&self, spec: &SandboxSpec, provider: &str, error: Error) -> Error {
        let of_host = error.kind() == ErrorKind::Unsupported && error.fact("need").is_some();
        if !of_host || error.fact("could_serve").is_some() {
            return error;
        }
        let others = self.combinations().await;
        let able = admission::able(spec, &self.0.policy, provider, &others);
        error.context("could_serve", able)
    }

    /// Every configured provider that opens, with what it can do. Asked only
    /// to explain a refusal.
    async fn combinations(&self) -> Vec<admission::Combination> {
        let mut all = Vec::new();
        for name in self.0.registry.names() {
            let opening = self.0.registry.open(name);
            // A daemon that does not answer must not delay the refusal.
            let limit = std::time::Duration::from_secs(2);
            if let Ok(Ok(provider)) = tokio::time::timeout(limit, opening).await {
                all.push(admission::Combination {
                    provider: name.to_owned(),
                    runtime: provider.info().runtime,
                    capabilities: provider.claims().clone(),
                });
            }
        }
        all
    }

    fn check_provider_options(&self, spec: &SandboxSpec) -> Result<()> {
        let registry = &self.0.registry;
        match spec
            .provider_options
            .keys()
            .find(|name| registry.kind(name).is_none())
        {
            None => Ok(()),
            Some(name) => {
                let names: Vec<&str> = registry.names().collect();
                Err(Error::invalid(
                    "provider_options",
                    name,
                    &format!("one of {}", names.join(", ")),
                    "remove the options or configure the provider",
                )
                .operation("create"))
            }
        }
    }

    fn handle(&self, provider: Arc<Layered>, id: SandboxId, context: Context) -> Sandbox {
        Sandbox::new(self.clone(), provider, id, context)
    }

    /// The handle of one that waits in a pool: it can be looked at and ended.
    fn waiting_handle(&self, provider: Arc<Layered>, id: SandboxId, context: Context) -> Sandbox {
        Sandbox::waiting(self.clone(), provider, id, context)
    }
}
