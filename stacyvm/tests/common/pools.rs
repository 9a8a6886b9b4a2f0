//! What tests of pools do on every provider.

use std::collections::BTreeSet;

use stacyvm::engine::{Engine, Filter};
use stacyvm::{Pool, Sandbox, SandboxSpec};

use super::soon;

/// A pool with all that it shall hold.
pub async fn filled(engine: &Engine, spec: SandboxSpec, size: usize) -> Pool {
    let pool = engine.pool(spec).size(size).await.unwrap();
    soon(pool.filled()).await.unwrap();
    pool
}

/// One of it.
pub async fn claimed(pool: &Pool) -> Sandbox {
    soon(async { pool.claim().await }).await.unwrap()
}

/// What a line of a shell prints.
pub async fn says(sandbox: &Sandbox, line: &str) -> String {
    let output = soon(sandbox.shell(line).output()).await.unwrap();
    output.stdout_text()
}

/// The ids of those that wait.
pub async fn waiting(engine: &Engine, pool: &Pool) -> BTreeSet<String> {
    let filter = Filter {
        labels: [("stacyvm.pool".to_owned(), pool.name().to_owned())].into(),
        ..Filter::default()
    };
    let found = engine.list(filter).await.unwrap();
    found.into_iter().map(|info| info.id.to_string()).collect()
}
