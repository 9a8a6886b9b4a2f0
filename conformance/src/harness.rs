//! What an outside crate writes to have its provider tried.

use std::any::Any;
use std::fmt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stacyvm::provider::{Capabilities, Provider};
use stacyvm::store::{MemoryStore, Store};
use stacyvm::{Engine, Error, Result, SandboxSpec};

/// The name under which engines of the suite know the provider.
const NAME: &str = "subject";

/// A provider, opened for one case.
pub struct Subject {
    engine: Engine,
    provider: Arc<dyn Provider>,
    name: String,
    spec: SandboxSpec,
    /// The records, where they are in memory.
    store: Option<Arc<dyn Store>>,
    kept: Option<Box<dyn Any + Send + Sync>>,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("provider", &self.provider.info())
            .finish_non_exhaustive()
    }
}

impl Subject {
    /// A provider under an engine of its own, whose records are in memory.
    ///
    /// # Errors
    ///
    /// What the engine could not do.
    pub async fn new(provider: Arc<dyn Provider>, spec: SandboxSpec) -> Result<Self> {
        Self::with_records(provider, spec, Arc::new(MemoryStore::new())).await
    }

    /// The same with these records.
    pub(crate) async fn with_records(
        provider: Arc<dyn Provider>,
        spec: SandboxSpec,
        store: Arc<dyn Store>,
    ) -> Result<Self> {
        let engine = Engine::builder()
            .provider(NAME, Arc::clone(&provider))
            .store(Arc::clone(&store))
            .reconcile_every(Duration::ZERO)
            .build()
            .await?;
        Ok(Self {
            engine,
            provider,
            name: NAME.to_owned(),
            spec,
            store: Some(store),
            kept: None,
        })
    }

    /// A second engine with the records of this one, over a provider that has the
    /// same sandboxes.
    ///
    /// # Errors
    ///
    /// `unsupported` where the engine was brought ([`of_engine`](Self::of_engine)),
    /// and what the engine could not do.
    pub async fn over(&self, provider: Arc<dyn Provider>) -> Result<Self> {
        let Some(store) = &self.store else {
            return Err(Error::unsupported(
                "the harness opens no second engine over the same sandboxes; write `Harness::reopen`",
            ));
        };
        Self::with_records(provider, self.spec.clone(), Arc::clone(store)).await
    }

    /// The provider of an engine that is there already, by its name.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for a name that is not configured, and what opening the
    /// provider fails with.
    pub async fn of_engine(engine: Engine, name: &str, spec: SandboxSpec) -> Result<Self> {
        Ok(Self {
            provider: engine.provider(name).await?,
            engine,
            name: name.to_owned(),
            spec,
            store: None,
            kept: None,
        })
    }

    /// Keeps something until the case and all that it made is gone: a temporary
    /// directory, a server.
    pub fn keep(mut self, guard: impl Any + Send + Sync) -> Self {
        self.kept = Some(Box::new((self.kept.take(), guard)));
        self
    }

    /// The engine over the provider.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The provider itself.
    pub fn provider(&self) -> &Arc<dyn Provider> {
        &self.provider
    }

    /// Ends the engine. One whose records are in memory shares them with others, and
    /// is dropped alone: closing it would close them for all.
    pub(crate) async fn end(self) -> Result<()> {
        match self.store {
            Some(_) => Ok(()),
            None => self.engine.close().await,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn spec(&self) -> &SandboxSpec {
        &self.spec
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        self.provider.capabilities()
    }
}

/// A case that a provider is known to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// The case.
    pub case: &'static str,
    /// Why, with a link where there is one.
    pub reason: &'static str,
}

/// Opens a provider for the suite.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// What reports name the subject.
    fn name(&self) -> &str;

    /// What this machine lacks, so that the provider cannot be there: each case is
    /// `not run` with it. None where the provider has to be there.
    fn absent(&self) -> Option<String> {
        None
    }

    /// Opens the provider for one case. It may be the same one each time. Whatever
    /// error it gives fails the case; what may be missing is told by
    /// [`absent`](Self::absent).
    async fn open(&self) -> Result<Subject>;

    /// Opens the provider once more while the first is open, as another process
    /// would: it finds the first one's sandboxes by their ids.
    ///
    /// What [`Subject::new`] made gets a second engine over the same provider; of
    /// one whose state lies outside of this process, a second opening of that
    /// state proves more.
    ///
    /// # Errors
    ///
    /// `unsupported` where it cannot be done: the cases that need it are not run.
    async fn reopen(&self, first: &Subject) -> Result<Subject> {
        first.over(Arc::clone(first.provider())).await
    }

    /// A program that opens the provider over the same state in a process of its own,
    /// for cases that end such a process with SIGKILL. It calls
    /// [`as_host`](crate::as_host) with this harness, as what
    /// [`provider_main!`](macro@crate::provider_main) makes does, and
    /// [`open`](Self::open) finds the state there, for instance by a variable: see
    /// [`this_program`](crate::this_program).
    ///
    /// # Errors
    ///
    /// `unsupported` where the sandboxes are in the memory of this process, or no other
    /// one can open them: the cases that need it are not run.
    fn host(&self) -> Result<Command> {
        Err(Error::unsupported(
            "the harness opens the provider in no other process; write `Harness::host`",
        ))
    }

    /// The cases that are known to fail. One that passes fails the run; what panics,
    /// hangs or leaves something fails it all the same.
    fn deviations(&self) -> &[Deviation] {
        &[]
    }
}
