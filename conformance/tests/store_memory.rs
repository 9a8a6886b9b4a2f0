//! The store in memory fulfils the contract.

use std::path::Path;
use std::sync::Arc;

use stacyvm::Result;
use stacyvm::store::{MemoryStore, Store};
use stacyvm_conformance::store::StoreHarness;

struct InMemory;

#[async_trait::async_trait]
impl StoreHarness for InMemory {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn open(&self, _: &Path) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(MemoryStore::new()))
    }
}

stacyvm_conformance::store_main!(InMemory);
