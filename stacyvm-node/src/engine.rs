//! Engines: which, and opened when they are first used.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use napi::Env;
use napi::bindgen_prelude::PromiseRaw;
use napi_derive::napi;
use stacyvm::config::{Config, Overrides};
use stacyvm::providers::mock::Mock;
use stacyvm::{Filter, Result};
use tokio::sync::OnceCell;

use crate::convert::{call, count, duration, json};
use crate::creating::Creating;
use crate::info::SandboxInfo;
use crate::options::{self, CreateOptions};
use crate::pool::Pool;
use crate::sandbox::Sandbox;

/// How an engine is opened.
#[derive(Debug)]
enum Recipe {
    Configured(Overrides),
    Mock,
}

#[derive(Debug)]
struct Opener {
    recipe: Recipe,
    opened: OnceCell<stacyvm::Engine>,
    closed: AtomicBool,
}

impl Opener {
    async fn engine(&self) -> Result<stacyvm::Engine> {
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
        let engine = self.opened.get_or_try_init(open).await?;
        // It may have been closed while it was opened; what it is asked then it refuses.
        if self.closed.load(Ordering::Acquire) {
            engine.close().await?;
        }
        Ok(engine.clone())
    }
}

/// A number of sandboxes.
fn places(field: &str, value: f64) -> Result<usize> {
    Ok(usize::try_from(count(field, value)?).unwrap_or(usize::MAX))
}

/// Settings of an engine.
#[napi(object, object_to_js = false)]
#[derive(Debug, Default)]
pub struct EngineOptions {
    /// The configuration file. It must exist.
    pub config: Option<String>,
    /// The directory for records, images and sockets.
    pub state_dir: Option<String>,
}

/// Where sandboxes are made and found. Opened by its first call.
#[napi]
#[derive(Debug)]
pub struct Engine(Arc<Opener>);

impl Engine {
    fn of(recipe: Recipe) -> Self {
        Self(Arc::new(Opener {
            recipe,
            opened: OnceCell::new(),
            closed: AtomicBool::new(false),
        }))
    }
}

#[napi]
impl Engine {
    /// An engine of these settings.
    #[napi(constructor)]
    #[must_use]
    pub fn new(options: Option<EngineOptions>) -> Self {
        let options = options.unwrap_or_default();
        Self::of(Recipe::Configured(Overrides {
            file: options.config.map(PathBuf::from),
            state_dir: options.state_dir.map(PathBuf::from),
            runtime: None,
        }))
    }

    /// An engine of the mock provider alone, with records in memory.
    #[napi(factory)]
    #[must_use]
    pub fn mock() -> Self {
        Self::of(Recipe::Mock)
    }

    /// Makes a sandbox from options in JSON.
    #[napi]
    pub fn create<'env>(
        &self,
        env: &'env Env,
        options: String,
    ) -> napi::Result<PromiseRaw<'env, Sandbox>> {
        let opener = Arc::clone(&self.0);
        call(env, async move {
            let options: CreateOptions = options::parse(&options)?;
            options.request(&opener.engine().await?)?.await
        })
    }

    /// Makes a sandbox as `create` does, step by step.
    #[napi]
    pub fn watched_create<'env>(
        &self,
        env: &'env Env,
        options: String,
    ) -> napi::Result<PromiseRaw<'env, Creating>> {
        let opener = Arc::clone(&self.0);
        call(env, async move {
            let options: CreateOptions = options::parse(&options)?;
            Ok(options.request(&opener.engine().await?)?.watched())
        })
    }

    /// Makes a pool of sandboxes of these options in JSON.
    #[napi]
    pub fn pool<'env>(
        &self,
        env: &'env Env,
        options: String,
        size: Option<f64>,
        max_age_ms: Option<f64>,
        refill_at_once: Option<f64>,
    ) -> napi::Result<PromiseRaw<'env, Pool>> {
        let opener = Arc::clone(&self.0);
        call(env, async move {
            let options: CreateOptions = options::parse(&options)?;
            let mut pool = options.pool(&opener.engine().await?)?;
            if let Some(size) = size {
                pool = pool.size(places("size", size)?);
            }
            if let Some(age) = max_age_ms {
                pool = pool.max_age(duration("maxAgeMs", age)?);
            }
            if let Some(at_once) = refill_at_once {
                pool = pool.refill_at_once(places("refillAtOnce", at_once)?);
            }
            pool.await
        })
    }

    /// What each configured provider is, can do and needs, as JSON.
    #[napi]
    pub fn providers<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, String>> {
        let opener = Arc::clone(&self.0);
        call(env, async move {
            json(&opener.engine().await?.providers().await)
        })
    }

    /// Finds a sandbox by its id.
    #[napi]
    pub fn get<'env>(&self, env: &'env Env, id: String) -> napi::Result<PromiseRaw<'env, Sandbox>> {
        let opener = Arc::clone(&self.0);
        call(env, async move { opener.engine().await?.get(id).await })
    }

    /// Lists a page of sandboxes in the order of their ids, from after the id on.
    #[napi]
    pub fn page<'env>(
        &self,
        env: &'env Env,
        metadata: BTreeMap<String, String>,
        all: bool,
        after: Option<String>,
        limit: u32,
    ) -> napi::Result<PromiseRaw<'env, Vec<SandboxInfo>>> {
        let opener = Arc::clone(&self.0);
        call(env, async move {
            let filter = Filter {
                labels: metadata,
                all,
                after: after.map(stacyvm::SandboxId::new).transpose()?,
                limit: Some(limit),
                ..Filter::default()
            };
            let found = opener.engine().await?.list(filter).await?;
            Ok(found.into_iter().map(SandboxInfo::from).collect::<Vec<_>>())
        })
    }

    /// Lets go of the engine's records and ends what it has under way.
    #[napi]
    pub fn close<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let opener = Arc::clone(&self.0);
        opener.closed.store(true, Ordering::Release);
        call(env, async move {
            match opener.opened.get() {
                Some(engine) => engine.close().await,
                None => Ok(()),
            }
        })
    }
}
