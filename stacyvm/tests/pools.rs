//! Pools on the embedded provider.
#![cfg(all(target_os = "linux", feature = "oci"))]
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that panics has failed, and one that cannot run says why"
)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use stacyvm::config::Config;
use stacyvm::engine::{Engine, Filter};
use stacyvm::{Pool, SandboxSpec};

use common::soon;

async fn open(state: &Path) -> Engine {
    let mut config = Config::for_state_dir(state);
    config.parked_helpers = 0;
    Engine::open(config).await.unwrap()
}

async fn filled(engine: &Engine, spec: SandboxSpec, size: usize) -> Pool {
    let pool = engine.pool(spec).size(size).await.unwrap();
    soon(pool.filled()).await.unwrap();
    pool
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_brings_what_the_spec_left_out() {
    let state = tempfile::tempdir().unwrap();
    let engine = open(state.path()).await;
    let pool = filled(&engine, SandboxSpec::host().env("A", "pool").env("B", "pool"), 2).await;
    let start = Instant::now();
    let claim = pool
        .claim()
        .env("A", "claim")
        .label("k", "v")
        .file("/workspace/in/a.txt", "hello\n")
        .ttl(Duration::from_secs(500));
    let sandbox = soon(async { claim.await }).await.unwrap();
    eprintln!("claim with all: {:?}", start.elapsed());
    let line = "echo $A $B; cat in/a.txt";
    let output = soon(sandbox.shell(line).output()).await.unwrap();
    assert_eq!(output.stdout_text(), "claim pool\nhello\n");
    let info = sandbox.info().await.unwrap();
    eprintln!("{info:#?}");
    let start = Instant::now();
    let other = soon(async { pool.claim().await }).await.unwrap();
    eprintln!("bare claim: {:?}", start.elapsed());
    assert_eq!(pool.stats().warm, 2);
    assert_eq!(engine.list(Filter::default()).await.unwrap().len(), 2);
    soon(pool.drain()).await.unwrap();
    assert_eq!(engine.list(Filter::default()).await.unwrap().len(), 2);
    sandbox.kill().await.unwrap();
    other.kill().await.unwrap();
    engine.close().await.unwrap();
}
