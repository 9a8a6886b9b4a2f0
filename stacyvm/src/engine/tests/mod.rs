//! The engine's promises, on a provider whose every answer the test decides.

mod admission;
mod create;
mod exec;
mod life;
mod mock;
mod pool;
mod pull;
mod upkeep;

use std::sync::Arc;

use super::Engine;
use super::testing::Scripted;
use crate::clock::ManualClock;
use crate::store::{MemoryStore, Store};

/// An engine over one provider, its store, and the clock.
struct World {
    engine: Engine,
    provider: Arc<Scripted>,
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
}

impl World {
    async fn new(provider: Arc<Scripted>) -> Self {
        Self::over(provider, Arc::new(MemoryStore::new())).await
    }

    /// A second process over the same provider and store is a second world.
    async fn over(provider: Arc<Scripted>, store: Arc<MemoryStore>) -> Self {
        let clock = Arc::new(ManualClock::at_ms(1_000_000));
        let engine = Engine::builder()
            .provider("scripted", Arc::clone(&provider) as _)
            .store(Arc::clone(&store) as Arc<dyn Store>)
            .clock(Arc::clone(&clock) as _)
            .build()
            .await
            .unwrap();
        Self {
            engine,
            provider,
            store,
            clock,
        }
    }
}

/// Waits until something is so; the bound is for a broken build alone.
async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..2_000 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("it never became so");
}
