//! Claiming a sandbox from a pool.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::super::records::POOL;
use super::keeper::made_of;
use super::state::{MadeOf, Shared, Taken, Waiting};
use crate::clock::to_ms;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::{ClaimRequest, Provider as _, Secrets};
use crate::sandbox::files::GuestPath;
use crate::sandbox::handle::Sandbox;
use crate::sandbox::spec::{Lifetime, SandboxSpec, SecretReference};
use crate::sandbox::state::Phase;
use crate::store::{Asked, JournalStep, SandboxUpdate, stored_spec};

/// A sandbox about to be claimed, from [`Pool::claim`](super::Pool::claim). Await it.
#[must_use = "a sandbox is claimed when this is awaited"]
pub struct Claim {
    shared: Arc<Shared>,
    env: BTreeMap<String, String>,
    secrets: BTreeMap<String, SecretReference>,
    labels: BTreeMap<String, String>,
    files: Vec<(Vec<u8>, Bytes)>,
    ttl: Option<Duration>,
    lifetime: Option<Lifetime>,
    context: Option<Context>,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("pool", &self.shared.name)
            .field("env_names", &self.env.keys().collect::<Vec<_>>())
            .field("labels", &self.labels)
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}

impl Claim {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            labels: BTreeMap::new(),
            files: Vec::new(),
            ttl: None,
            lifetime: None,
            context: None,
        }
    }

    /// Sets a variable of every command, whatever the pool's spec says of it.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Gives every command a secret as a variable, by reference.
    pub fn secret(mut self, name: impl Into<String>, reference: SecretReference) -> Self {
        self.secrets.insert(name.into(), reference);
        self
    }

    /// Sets a label beside those of the pool's spec.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Writes a file, as [`Files::write`](crate::Files::write) does, before the
    /// sandbox is given away. Files are written in the order in which they are
    /// given.
    pub fn file(mut self, path: impl AsRef<[u8]>, bytes: impl Into<Bytes>) -> Self {
        self.files.push((path.as_ref().to_vec(), bytes.into()));
        self
    }

    /// Sets how long it lives from the claim on, instead of the spec's TTL.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets whether it ends with its owner, instead of what the spec says.
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// Claims it, and makes its later calls, in this context. The tenant must be
    /// the pool's.
    pub fn context(mut self, context: Context) -> Self {
        self.context = Some(context);
        self
    }
}

impl IntoFuture for Claim {
    type Output = Result<Sandbox>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Sandbox>> + Send>>;

    /// Gives a sandbox in which a command can run, with all that the claim brings.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.run().await.map_err(|e| e.operation("claim")) })
    }
}

/// A claim, checked.
struct Wanted {
    shared: Arc<Shared>,
    context: Context,
    /// What a create of the same would be asked for.
    asked: SandboxSpec,
    filled: SandboxSpec,
    /// The variables that come with the claim, secrets among them.
    env: BTreeMap<String, String>,
    files: Vec<(Vec<u8>, Bytes)>,
    ends: Option<SystemTime>,
}

/// Why one that was taken was not given away.
enum Refused {
    /// It is not fit; another one may be.
    Unfit(Error),
    /// Another one would not help.
    Final(Error),
}

impl Claim {
    async fn run(self) -> Result<Sandbox> {
        let shared = Arc::clone(&self.shared);
        let _claiming = shared.begin_claim()?;
        let context = self.context.clone();
        let context = context.unwrap_or_else(|| shared.context.clone());
        let wanted = self.check(context).await?;
        fault_point!("pool.claim.begun");
        let work = async {
            while let Some(taken) = shared.take() {
                fault_point!("pool.claim.taken");
                match wanted.take_over(taken).await {
                    Ok(sandbox) => {
                        tracing::debug!(sandbox = %sandbox.id(), pool = shared.name, "claimed one that waited");
                        return Ok(sandbox);
                    }
                    Err(Refused::Unfit(error)) => {
                        tracing::debug!(pool = shared.name, %error, "one that waited was not fit to be claimed");
                    }
                    Err(Refused::Final(error)) => return Err(error),
                }
            }
            shared.note_cold();
            tracing::debug!(
                pool = shared.name,
                "none waits to be claimed, so one is made"
            );
            wanted.create().await
        };
        wanted.context.bound(work).await
    }

    /// Checks what can be checked before one is taken, and finds the secrets.
    async fn check(self, context: Context) -> Result<Wanted> {
        let shared = self.shared;
        context.check()?;
        if context.tenant != shared.context.tenant {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "the claim is another tenant's than the pool, expected the same; make a pool for each tenant",
            ));
        }
        for (path, _) in &self.files {
            GuestPath::new(path)?;
        }
        let mut asked = shared.spec.clone();
        asked.env.extend(self.env.clone());
        asked.secrets = self.secrets;
        asked.labels.extend(self.labels);
        asked.ttl = self.ttl.or(asked.ttl);
        asked.lifetime = self.lifetime.unwrap_or(asked.lifetime);
        let engine = &shared.engine;
        let filled = engine.admit(&asked, &shared.provider).await?;
        let secrets = super::super::secrets::resolve(&asked.secrets).await?;
        let mut env = self.env;
        env.extend(secrets.expose().clone());
        Ok(Wanted {
            ends: filled.ttl.map(|ttl| engine.0.clock.now() + ttl),
            context,
            asked,
            filled,
            env,
            files: self.files,
            shared,
        })
    }
}

impl Wanted {
    /// Makes one that waited the claimant's: its files, then its variables, end and
    /// lifetime, and beside these its record.
    async fn take_over(&self, taken: Taken) -> Result<Sandbox, Refused> {
        let waiting = taken.get().map_err(Refused::Final)?;
        let shared = &self.shared;
        let handle = Arc::clone(&shared.provider);
        let sandbox = shared
            .engine
            .handle(handle, waiting.id.clone(), self.context.clone());
        for (path, bytes) in &self.files {
            // This may take long.
            shared.wake.notify_one();
            let written = sandbox.files().write(path, bytes.clone()).await;
            written.map_err(|error| self.refused(error, false))?;
        }
        fault_point!("pool.claim.files");
        let request = ClaimRequest {
            env: Secrets::new(self.env.clone()),
            ends: self.ends,
            lifetime: self.filled.lifetime,
        };
        let given = async {
            let given = shared.provider.claim(&self.context, &waiting.id, &request);
            given.await?;
            fault_point!("pool.claim.given");
            Ok(())
        };
        if self.filled.lifetime == Lifetime::Detached {
            // It may outlive this process from here on, and must not then be stale.
            compare(waiting, made_of(shared, self.filled.clone()).await)?;
        }
        // Side by side, the longest first, since each waits for another process or
        // thread most of the time. Only the first two together keep a sandbox whose owner dies.
        let (recorded, given, now, ()) = tokio::join!(
            biased;
            self.record(waiting),
            given,
            made_of(shared, self.filled.clone()),
            async { shared.wake.notify_one() },
        );
        let fit = given
            .map_err(|error| self.refused(error, true))
            .and_then(|()| compare(waiting, now));
        if let (Err(_), Ok(version)) = (&fit, &recorded) {
            self.forget(waiting, *version).await;
        }
        fit?;
        recorded.map_err(|error| self.refused(error, true))?;
        fault_point!("pool.claim.recorded");
        taken.given();
        Ok(sandbox)
    }

    /// Whether another sandbox may do where this one failed. `of_it`: the call was
    /// about the sandbox alone, and nothing that the claim brought can be wrong.
    fn refused(&self, error: Error, of_it: bool) -> Refused {
        use ErrorKind::{
            Conflict, Internal, NotFound, Protocol, SandboxGone, Timeout, Unavailable,
        };
        let is_over = self.context.check().is_err();
        let unfit = match error.kind() {
            SandboxGone | Unavailable | Protocol | Timeout => true,
            Conflict | NotFound | Internal => of_it,
            _ => false,
        };
        if unfit && !is_over {
            Refused::Unfit(error)
        } else {
            Refused::Final(error)
        }
    }

    /// One change of the record, conditional on its version: what somebody else
    /// ended meanwhile is not given away. Gives the new version.
    async fn record(&self, waiting: &Waiting) -> Result<u64> {
        let update = SandboxUpdate {
            phase: Some(Phase::Running),
            ends_ms: Some(self.ends.map(to_ms)),
            effective: Some(waiting.effective.clone()),
            step: Some((JournalStep::Created, "claimed".to_owned())),
            ..self.described(&self.asked, &self.filled, self.filled.labels.clone())
        };
        self.update(waiting, waiting.version, &update).await
    }

    /// Takes what the claim brought off the record of one that it does not get.
    async fn forget(&self, waiting: &Waiting, version: u64) {
        let shared = &self.shared;
        let forgotten = async {
            let filled = shared.engine.ahead(&shared.spec, &shared.provider)?;
            let mut labels = filled.labels.clone();
            labels.insert(POOL.to_owned(), shared.name.clone());
            let update = self.described(&shared.spec, &filled, labels);
            self.update(waiting, version, &update).await
        };
        // Somebody else may have ended it; it ends in any case.
        if let Err(error) = forgotten.await {
            tracing::debug!(sandbox = %waiting.id, %error, "a claim that was refused is still on record");
        }
    }

    fn described(
        &self,
        asked: &SandboxSpec,
        filled: &SandboxSpec,
        labels: BTreeMap<String, String>,
    ) -> SandboxUpdate {
        let (engine, provider) = (&self.shared.engine, &self.shared.provider);
        let meta = engine.0.store.meta();
        SandboxUpdate {
            at_ms: engine.now_ms(),
            labels: Some(labels),
            asked: Some(Asked {
                spec: stored_spec(filled),
                digest: meta.digest(provider.name(), &provider.info().runtime, asked),
                lifetime: filled.lifetime,
            }),
            ..SandboxUpdate::default()
        }
    }

    async fn update(&self, waiting: &Waiting, version: u64, update: &SandboxUpdate) -> Result<u64> {
        let store = &self.shared.engine.0.store;
        let record = store
            .update_sandbox(&self.context, &waiting.id, version, update)
            .await?;
        Ok(record.version)
    }

    /// Makes one in the ordinary way.
    async fn create(&self) -> Result<Sandbox> {
        let shared = &self.shared;
        let create = shared.engine.create(self.asked.clone());
        let sandbox = create
            .provider(shared.provider.name())
            .context(self.context.clone())
            .await?;
        let unfinished = Unfinished(Some((shared, sandbox.clone())));
        for (path, bytes) in &self.files {
            sandbox.files().write(path, bytes.clone()).await?;
        }
        unfinished.done();
        Ok(sandbox)
    }
}

/// One that shows something that is not there any more is not given away.
fn compare(waiting: &Waiting, now: Result<(SandboxSpec, MadeOf)>) -> Result<(), Refused> {
    let (_, now) = now.map_err(Refused::Final)?;
    if waiting.made_of == now {
        return Ok(());
    }
    Err(Refused::Unfit(Error::new(
        ErrorKind::Conflict,
        "it is made of something that is not there any more",
    )))
}

/// One that was made for a claim, ended unless the claim succeeds.
struct Unfinished<'a>(Option<(&'a Arc<Shared>, Sandbox)>);

impl Unfinished<'_> {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some((shared, sandbox)) = self.0.take() {
            shared.give_up(sandbox);
        }
    }
}
