//! Making a sandbox.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::Instrument as _;

use super::Engine;
use super::records::LOOK_AGAIN;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::layer::Layered;
use crate::provider::registry::on_runtime;
use crate::provider::{
    CreateRequest, Provider as _, Pull, PullObserver, PullProgress, PullRequest,
};
use crate::sandbox::handle::Sandbox;
use crate::sandbox::spec::{Profile, SandboxSpec};
use crate::sandbox::state::Phase;
use crate::store::{Begin, SandboxRecord};

/// A sandbox about to be made, from [`Engine::create`]. Await it.
#[must_use = "a sandbox is made when this is awaited"]
pub struct Create {
    engine: Engine,
    spec: SandboxSpec,
    provider: Option<String>,
    runtime: Option<String>,
    id: Option<SandboxId>,
    idempotency_key: Option<String>,
    context: Option<Context>,
    pull: Option<Pull>,
    observer: Option<PullObserver>,
}

impl fmt::Debug for Create {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Create")
            .field("spec", &self.spec)
            .field("provider", &self.provider)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Create {
    pub(super) fn new(engine: Engine, spec: SandboxSpec) -> Self {
        Self {
            engine,
            spec,
            provider: None,
            runtime: None,
            id: None,
            idempotency_key: None,
            context: None,
            pull: None,
            observer: None,
        }
    }

    /// Makes it with this provider instead of the default one.
    pub fn provider(mut self, name: impl Into<String>) -> Self {
        self.provider = Some(name.into());
        self
    }

    /// Makes it on this runtime of the provider: `runsc`, `runc`, ... Its provider is
    /// shown as `name@runtime` then.
    pub fn runtime(mut self, runtime: impl Into<String>) -> Self {
        self.runtime = Some(runtime.into());
        self
    }

    /// Gives it this id instead of a random one. An id that was used before
    /// is `already_exists`.
    pub fn id(mut self, id: SandboxId) -> Self {
        self.id = Some(id);
        self
    }

    /// Makes the call repeatable: the same key and the same spec give the same
    /// sandbox, also while it is being made; another spec is `conflict`. Keys
    /// belong to the tenant and are kept until 24 hours past the sandbox's end.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Makes it, and its later calls, in this context.
    pub fn context(mut self, context: Context) -> Self {
        self.context = Some(context);
        self
    }

    /// Pulls its image as this says, instead of as the policy does. It is
    /// pulled after all checks, before anything is on record, and its life
    /// begins after that. [`Pull::Always`] is refused for what no registry has.
    pub fn pull(mut self, when: Pull) -> Self {
        self.pull = Some(when);
        self
    }

    /// Calls this while an image is pulled, from several threads at once. It must
    /// not block.
    pub fn on_pull(mut self, call: impl Fn(PullProgress) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(call));
        self
    }
}

impl IntoFuture for Create {
    type Output = Result<Sandbox>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Sandbox>> + Send>>;

    /// Makes the sandbox and returns when a command can run in it.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl Create {
    /// The work is a task of its own, so that a caller who goes away in the
    /// middle leaves somebody behind who takes down what was begun. The
    /// caller confirms that the sandbox arrived; one that nobody took is ended.
    async fn run(self) -> Result<Sandbox> {
        let (result, caller) = oneshot::channel();
        let (took, confirmed) = oneshot::channel::<()>();
        let work = async move {
            let mut result = result;
            let made = self.make(result.closed()).await;
            let done = match made {
                Ok(made) => made,
                Err(error) => return drop(result.send(Err(error))),
            };
            let (sandbox, is_new) = done;
            let handed_over = result.send(Ok(sandbox.clone())).is_ok() && confirmed.await.is_ok();
            fault_point!("create.handed-over");
            if is_new && !handed_over {
                give_up(&sandbox).await;
            }
        };
        tokio::spawn(work.in_current_span());
        let made = caller.await.map_err(|_| {
            Error::new(ErrorKind::Internal, "the task that makes the sandbox died")
                .operation("create")
        })??;
        // The task can only be gone after it was told, so this cannot fail.
        let _ = took.send(());
        Ok(made)
    }

    /// Admits, journals, makes, and records; gives the sandbox and whether
    /// this call made it.
    async fn make(self, abandoned: impl Future<Output = ()>) -> Result<(Sandbox, bool)> {
        let Self {
            engine,
            spec,
            provider,
            runtime,
            id,
            idempotency_key,
            context,
            pull,
            observer,
        } = self;
        tokio::pin!(abandoned);
        let context = context.unwrap_or_else(|| engine.0.context.clone());
        fault_point!("create.begun");
        context.check().map_err(|e| e.operation("create"))?;
        let when = engine.0.policy.pull(pull, &spec.source);
        let when = when.map_err(|e| e.operation("create"))?;
        let name = provider.unwrap_or_else(|| engine.0.default_provider.clone());
        let name = runtime.map_or(name.clone(), |runtime| on_runtime(&name, &runtime));
        engine.check_provider_options(&spec)?;
        let provider = match engine.0.registry.open(&name).await {
            Ok(provider) => provider,
            Err(error) => return Err(engine.name_others(&spec, &name, error).await),
        };
        let mut filled = engine.admit(&spec, &provider).await?;
        filled.mounts = engine.0.policy.resolve_mounts(&filled.mounts).await?;
        filled.source = engine.0.policy.resolve_source(&filled.source).await?;
        let secrets = super::secrets::resolve(&filled.secrets).await?;
        fault_point!("create.admitted");
        let image = PullRequest {
            source: filled.source.clone(),
            when,
            observer,
        };
        tokio::select! {
            biased;
            pulled = engine.pull(&context, &provider, &image) => pulled?,
            () = &mut abandoned => return Err(gave_up()),
        }

        let id = id.unwrap_or_else(SandboxId::random);
        let ends = filled.ttl.map(|ttl| engine.0.clock.now() + ttl);
        let request = CreateRequest {
            id: id.clone(),
            instance: engine.0.instance.clone(),
            spec: filled,
            open_files_preferred: spec.resources.open_files.is_none()
                && spec.profile != Profile::Strict,
            ends,
            secrets,
            waits: false,
        };
        let (record, _mark) = loop {
            // Marked before it is on record, so that no reconcile takes it for left over.
            let mark = engine.work_on(&id);
            fault_point!("create.marked");
            let begun = engine
                .begin_create(
                    &context,
                    &provider,
                    &request,
                    &spec,
                    idempotency_key.clone(),
                    None,
                )
                .await
                .map_err(|e| e.operation("create"))?;
            match begun {
                Begin::New(record) => {
                    fault_point!("create.intended");
                    break (record, mark);
                }
                Begin::Existing(record) => {
                    drop(mark);
                    let settled = context.bound(engine.settle(&context, record));
                    if let Some(sandbox) = settled.await.map_err(|e| e.operation("create"))? {
                        return Ok((sandbox, false));
                    }
                }
            }
        };
        let work = async {
            let observed = provider.create(&context, &request).await?;
            fault_point!("create.made");
            engine.finish_create(&context, &record, observed).await
        };
        let made = tokio::select! {
            biased;
            made = work => made,
            () = &mut abandoned => Err(gave_up()),
        };
        if let Err(error) = made {
            let error = engine.name_others(&spec, &name, error).await;
            let error = error.operation("create");
            engine.undo_create(&record, &error).await;
            return Err(error);
        }
        fault_point!("create.recorded");
        Ok((engine.handle(provider, id, context), true))
    }
}

impl Engine {
    /// Brings the image of a spec that was admitted.
    pub(super) async fn pull(
        &self,
        context: &Context,
        provider: &Layered,
        image: &PullRequest,
    ) -> Result<()> {
        if image.when == Pull::Never {
            return Ok(());
        }
        provider.pull(context, image).await
    }

    /// Waits until the sandbox of an earlier request is made and gives it, or
    /// nothing where making it failed, so that its key is free again.
    pub(super) async fn settle(
        &self,
        context: &Context,
        found: SandboxRecord,
    ) -> Result<Option<Sandbox>> {
        let mut record = found;
        loop {
            match record.phase {
                Phase::Failed => return Ok(None),
                Phase::Creating if self.is_worked_on(&record) => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                // Its maker may have ended since the record was read; then it
                // is not taken over, and what it is now decides.
                Phase::Creating => {
                    self.finish_one(&record).await?;
                }
                Phase::Destroying if record.failure.is_some() => {
                    self.finish_one(&record).await?;
                }
                Phase::Running | Phase::Paused | Phase::Destroying | Phase::Ended => {
                    let provider = self.0.registry.open(&record.provider).await?;
                    return Ok(Some(self.handle(provider, record.id, context.clone())));
                }
            }
            record = self.load(context, &record.id).await?;
        }
    }
}

fn gave_up() -> Error {
    Error::new(
        ErrorKind::Cancelled,
        "the caller gave up while the sandbox was made",
    )
}

async fn give_up(sandbox: &Sandbox) {
    if let Err(error) = sandbox.kill().await {
        tracing::warn!(sandbox = %sandbox.id(), kind = error.kind().code(),
            "a sandbox that nobody took could not be ended; the next reconcile tries again");
    }
}
