//! Engines: which, and opened when they are first used.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;
use stacyvm::config::{Config, Overrides};
use stacyvm::providers::mock::Mock;
use stacyvm::{Filter, Result};
use tokio::sync::OnceCell;

use crate::convert::{Nothing, Whole, json};
use crate::creating::Creating;
use crate::forked::PerProcess;
use crate::info::SandboxInfo;
use crate::options::{self, CreateOptions, seconds};
use crate::pending::Call;
use crate::pool::Pool;
use crate::sandbox::Sandbox;

/// How an engine is opened.
#[derive(Debug)]
enum Recipe {
    Configured(Overrides),
    Mock,
}

/// An engine as it is found again in a forked child: by how it is opened.
#[derive(Debug)]
pub(crate) struct Opener {
    recipe: Recipe,
    opened: PerProcess<Arc<Place>>,
}

/// The place of an engine, which may be closed while that is opened.
#[derive(Debug, Default)]
struct Place {
    engine: OnceCell<stacyvm::Engine>,
    closed: AtomicBool,
}

impl Opener {
    fn new(recipe: Recipe) -> Arc<Self> {
        Arc::new(Self {
            recipe,
            opened: PerProcess::empty(),
        })
    }

    /// The engine of this process.
    pub(crate) async fn engine(&self) -> Result<stacyvm::Engine> {
        let (mine, _) = self.opened.get_or_make(Arc::default);
        let place = mine.get().cloned().unwrap_or_default();
        let open = || async {
            match &self.recipe {
                Recipe::Configured(overrides) => {
                    stacyvm::Engine::open(Config::load(overrides)?).await
                }
                Recipe::Mock => {
                    let mock = Arc::new(Mock::default());
                    stacyvm::Engine::builder()
                        .provider("mock", mock)
                        .build()
                        .await
                }
            }
        };
        let engine = place.engine.get_or_try_init(open).await?;
        // What it is asked then it refuses.
        if place.closed.load(Ordering::Acquire) {
            engine.close().await?;
        }
        Ok(engine.clone())
    }
}

/// Where sandboxes are made and found. Opened by its first call.
#[pyclass(module = "stacyvm._native", frozen)]
pub(crate) struct Engine(Arc<Opener>);

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (*, config=None, state_dir=None))]
    fn new(config: Option<PathBuf>, state_dir: Option<PathBuf>) -> Self {
        Self(Opener::new(Recipe::Configured(Overrides {
            file: config,
            state_dir,
            runtime: None,
        })))
    }

    /// An engine of the mock provider alone, with records in memory.
    #[staticmethod]
    fn mock() -> Self {
        Self(Opener::new(Recipe::Mock))
    }

    /// Makes a sandbox from options in JSON.
    fn create(&self, options: &str) -> Call<Sandbox> {
        let options: Result<CreateOptions> = options::parse(options);
        let opener = Arc::clone(&self.0);
        let work = async move {
            let options = options?;
            let made = options.request(&opener.engine().await?)?.await?;
            Ok(Sandbox::of(opener, made))
        };
        Call::of_made(work, |made: &Sandbox| Some(made.undo()))
    }

    /// Makes a sandbox as `create` does, step by step.
    fn watched_create(&self, options: &str) -> Call<Creating> {
        let options: Result<CreateOptions> = options::parse(options);
        let opener = Arc::clone(&self.0);
        Call::new(async move {
            let creating = options?.request(&opener.engine().await?)?.watched();
            Ok(Creating::of(opener, creating))
        })
    }

    /// Makes a pool of sandboxes of these options in JSON.
    fn pool(
        &self,
        options: &str,
        size: Option<Whole>,
        max_age: Option<f64>,
        refill_at_once: Option<Whole>,
    ) -> Call<Pool> {
        let options: Result<CreateOptions> = options::parse(options);
        let opener = Arc::clone(&self.0);
        Call::new(async move {
            let mut pool = options?.pool(&opener.engine().await?)?;
            if let Some(size) = size {
                pool = pool.size(size.fits("size", "a number of sandboxes")?);
            }
            if let Some(age) = max_age {
                pool = pool.max_age(seconds("max_age", age)?);
            }
            if let Some(count) = refill_at_once {
                pool = pool.refill_at_once(count.fits("refill_at_once", "a number of sandboxes")?);
            }
            let made = pool.await?;
            Ok(Pool::of(opener, made))
        })
    }

    /// What each configured provider is, can do and needs, as JSON.
    fn providers(&self) -> Call<String> {
        let opener = Arc::clone(&self.0);
        Call::new(async move { json(&opener.engine().await?.providers().await) })
    }

    /// Finds a sandbox by its id.
    fn get(&self, id: String) -> Call<Sandbox> {
        let opener = Arc::clone(&self.0);
        Call::new(async move {
            let found = opener.engine().await?.get(id).await?;
            Ok(Sandbox::of(opener, found))
        })
    }

    /// Lists a page of sandboxes in the order of their ids, from after the id on.
    #[pyo3(signature = (metadata, all, after, limit))]
    fn page(
        &self,
        metadata: std::collections::BTreeMap<String, String>,
        all: bool,
        after: Option<String>,
        limit: u32,
    ) -> Call<Vec<SandboxInfo>> {
        let opener = Arc::clone(&self.0);
        Call::new(async move {
            let filter = Filter {
                labels: metadata,
                all,
                after: after.map(stacyvm::SandboxId::new).transpose()?,
                limit: Some(limit),
                ..Filter::default()
            };
            let found = opener.engine().await?.list(filter).await?;
            Ok(found.into_iter().map(Into::into).collect::<Vec<_>>())
        })
    }

    /// Lets go of the engine's records and ends what it has under way.
    fn close(&self) -> Call<Nothing> {
        let opener = Arc::clone(&self.0);
        Call::new(async move {
            let (mine, _) = opener.opened.get_or_make(Arc::default);
            let place = mine.get().cloned().unwrap_or_default();
            place.closed.store(true, Ordering::Release);
            match place.engine.get() {
                Some(engine) => engine.close().await,
                None => Ok(()),
            }
        })
    }
}
