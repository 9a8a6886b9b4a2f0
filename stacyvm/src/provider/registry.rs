//! Which providers there are, opened when they are first used.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::Provider;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id::InstanceId;
use crate::layer::{Layer, Layered};
use crate::store::StateDir;

/// Opens one configured provider.
#[async_trait]
pub trait ProviderFactory: Debug + Send + Sync + 'static {
    /// The kind: `oci`, `docker`, ...
    fn kind(&self) -> &str;

    /// Opens the provider under its configured name. Called again after a failure.
    ///
    /// # Errors
    ///
    /// `unsupported` where this build or host cannot, `unavailable` where the
    /// runtime does not answer.
    async fn open(&self, name: &str, around: &Surroundings) -> Result<Arc<dyn Provider>>;

    /// The same provider on another of its runtimes; `None` where it has no choice.
    fn with_runtime(&self, runtime: &str) -> Option<Arc<dyn ProviderFactory>>;
}

/// Between the name of a configured provider and a runtime: `docker@runsc`.
const AT: char = '@';

/// The name of a configured provider on this one of its runtimes. Any process finds
/// what was made so by that name, whatever runtime its own settings have.
pub(crate) fn on_runtime(name: &str, runtime: &str) -> String {
    format!("{name}{AT}{runtime}")
}

/// Where a provider works.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The store under which sandboxes are made; part of their ownership.
    pub instance: InstanceId,
    /// The directory for what must outlive the process; none for an engine
    /// that keeps its records in memory.
    pub state: Option<StateDir>,
    /// The engine's clock.
    pub clock: Arc<dyn Clock>,
}

impl Surroundings {
    /// The state directory.
    ///
    /// # Errors
    ///
    /// `invalid_argument` without one.
    pub fn root(&self) -> Result<&StateDir> {
        self.state.as_ref().ok_or_else(|| {
            Error::invalid(
                "state_dir",
                "none",
                "a state directory for this provider",
                "give the engine one with `EngineBuilder::state_dir`",
            )
        })
    }

    /// The directory of a provider in the state directory, made where it is
    /// missing.
    ///
    /// # Errors
    ///
    /// `invalid_argument` without a state directory, and those of
    /// [`StateDir::subdirectory`].
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        self.root()?.subdirectory(name)
    }
}

/// The configured providers by name. A provider is opened when it is first
/// used; one that fails to open is tried again at its next use.
#[derive(Debug)]
pub struct Registry {
    around: Surroundings,
    layers: Vec<Arc<dyn Layer>>,
    entries: BTreeMap<String, Arc<Entry>>,
    /// Those on a runtime that a caller named.
    on_runtimes: RwLock<BTreeMap<String, Arc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    factory: Arc<dyn ProviderFactory>,
    opened: OnceCell<Arc<Layered>>,
}

impl Entry {
    fn new(factory: Arc<dyn ProviderFactory>) -> Arc<Self> {
        let opened = OnceCell::new();
        Arc::new(Self { factory, opened })
    }
}

impl Registry {
    /// A registry without providers, that opens them in these surroundings and
    /// puts these layers around each.
    pub fn new(around: Surroundings, layers: Vec<Arc<dyn Layer>>) -> Self {
        Self {
            around,
            layers,
            entries: BTreeMap::new(),
            on_runtimes: RwLock::default(),
        }
    }

    /// Adds a provider; a name that is taken is replaced.
    pub fn register(&mut self, name: impl Into<String>, factory: Arc<dyn ProviderFactory>) {
        self.entries.insert(name.into(), Entry::new(factory));
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The kind of a provider.
    pub fn kind(&self, name: &str) -> Option<&str> {
        self.entries.get(name).map(|entry| entry.factory.kind())
    }

    /// A provider within its layers, opened if it is not open yet.
    ///
    /// # Errors
    ///
    /// `invalid_argument` for a name that is not configured, else those of
    /// [`ProviderFactory::open`].
    pub async fn open(&self, name: &str) -> Result<Arc<Layered>> {
        let Some(entry) = self.entry(name)? else {
            let names: Vec<&str> = self.names().collect();
            return Err(Error::invalid(
                "provider",
                name,
                &format!("one of {}", names.join(", ")),
                "use a configured provider or add it to the configuration",
            ));
        };
        let open = || async {
            let provider = entry.factory.open(name, &self.around).await;
            let provider = provider.map_err(|e| e.provider(name))?;
            Ok(Arc::new(
                Layered::new(provider, self.layers.clone()).named(name),
            ))
        };
        entry.opened.get_or_try_init(open).await.map(Arc::clone)
    }

    /// A provider that is open already.
    pub fn opened(&self, name: &str) -> Option<Arc<Layered>> {
        self.entry(name).ok()??.opened.get().map(Arc::clone)
    }

    /// The entry of a configured provider, or of one on a runtime that is named.
    fn entry(&self, name: &str) -> Result<Option<Arc<Entry>>> {
        if let Some(entry) = self.entries.get(name) {
            return Ok(Some(Arc::clone(entry)));
        }
        let Some((base, runtime)) = name.split_once(AT) else {
            return Ok(None);
        };
        let Some(configured) = self.entries.get(base) else {
            return Ok(None);
        };
        let known = self.on_runtimes.read();
        if let Some(entry) = known.unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(Some(Arc::clone(entry)));
        }
        let Some(factory) = configured.factory.with_runtime(runtime) else {
            return Err(Error::invalid(
                "runtime",
                runtime,
                &format!("none: provider {base} has no choice of runtimes"),
                "leave it out, or name another provider",
            ));
        };
        let mut known = self
            .on_runtimes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let entry = known
            .entry(name.to_owned())
            .or_insert_with(|| Entry::new(factory));
        Ok(Some(Arc::clone(entry)))
    }
}

/// A provider that is there already.
#[derive(Debug)]
pub struct Ready(pub Arc<dyn Provider>);

#[async_trait]
impl ProviderFactory for Ready {
    #[expect(clippy::unnecessary_literal_bound, reason = "the trait lends the name")]
    fn kind(&self) -> &str {
        "embedded"
    }

    async fn open(&self, _: &str, _: &Surroundings) -> Result<Arc<dyn Provider>> {
        Ok(Arc::clone(&self.0))
    }

    fn with_runtime(&self, _: &str) -> Option<Arc<dyn ProviderFactory>> {
        None
    }
}

/// A kind that this build does not hold. It says so when it is used.
#[derive(Debug)]
pub struct Missing {
    /// The kind.
    pub kind: String,
    /// What is missing: a cargo feature, an operating system.
    pub needs: String,
}

#[async_trait]
impl ProviderFactory for Missing {
    fn kind(&self) -> &str {
        &self.kind
    }

    async fn open(&self, _: &str, _: &Surroundings) -> Result<Arc<dyn Provider>> {
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("providers of kind `{}` need {}", self.kind, self.needs),
        )
        .context("kind", &self.kind)
        .context("needs", &self.needs))
    }

    fn with_runtime(&self, _: &str) -> Option<Arc<dyn ProviderFactory>> {
        let (kind, needs) = (self.kind.clone(), self.needs.clone());
        Some(Arc::new(Self { kind, needs }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::providers::mock::Mock;

    /// A provider with a choice of runtimes, which notes the one that it is opened with.
    #[derive(Debug)]
    struct Choosing(Option<String>, Arc<std::sync::Mutex<Vec<String>>>);

    #[async_trait]
    impl ProviderFactory for Choosing {
        #[expect(clippy::unnecessary_literal_bound, reason = "the trait lends the name")]
        fn kind(&self) -> &str {
            "choosing"
        }

        async fn open(&self, name: &str, _: &Surroundings) -> Result<Arc<dyn Provider>> {
            let opened = format!("{name} {}", self.0.as_deref().unwrap_or("-"));
            self.1.lock().unwrap().push(opened);
            Ok(Arc::new(Mock::default()))
        }

        fn with_runtime(&self, runtime: &str) -> Option<Arc<dyn ProviderFactory>> {
            let seen = Arc::clone(&self.1);
            Some(Arc::new(Self(Some(runtime.to_owned()), seen)))
        }
    }

    #[tokio::test]
    async fn a_runtime_that_is_named_is_a_provider_of_its_own_and_opened_once() {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let around = Surroundings {
            instance: InstanceId::random(),
            state: None,
            clock: Arc::new(SystemClock),
        };
        let mut registry = Registry::new(around, Vec::new());
        registry.register("docker", Arc::new(Choosing(None, Arc::clone(&seen))));
        registry.register("mock", Arc::new(Ready(Arc::new(Mock::default()))));

        let name = on_runtime("docker", "runsc");
        let opened = registry.open(&name).await.unwrap();
        assert_eq!(opened.name(), "docker@runsc");
        registry.open(&name).await.unwrap();
        registry.open("docker").await.unwrap();
        assert_eq!(*seen.lock().unwrap(), ["docker@runsc runsc", "docker -"]);
        assert!(registry.opened(&name).is_some());
        // Only what is configured is listed.
        assert_eq!(registry.names().collect::<Vec<_>>(), ["docker", "mock"]);

        for (name, field) in [
            ("mock@x", "runtime"),
            ("none@x", "provider"),
            ("none", "provider"),
        ] {
            let error = registry.open(name).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert_eq!(error.fact("field"), Some(field), "{name}");
        }
    }
}
