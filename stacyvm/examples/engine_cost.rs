//! What the engine adds to its provider: creates, claims and commands on the
//! mock, through the engine and directly, in microseconds.

use std::sync::Arc;
use std::time::Instant;

use stacyvm::provider::Provider as _;
use stacyvm::providers::mock::Mock;
use stacyvm::{Context, Engine, ExecSpec, SandboxSpec};

const ROUNDS: u32 = 2_000;

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "the figures are its purpose")]
async fn main() -> stacyvm::Result<()> {
    let mock = Arc::new(Mock::default());
    let engine = Engine::builder()
        .provider("mock", Arc::clone(&mock) as _)
        .build()
        .await?;
    let sandbox = engine.create(SandboxSpec::host()).await?;
    let context = Context::default();
    let (mut through, mut direct) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        drop(sandbox.exec(["true"]).start().await?);
        through.push(started.elapsed());
        let spec = ExecSpec::new(["true"]);
        let started = Instant::now();
        drop(mock.exec(&context, sandbox.id(), &spec).await?);
        direct.push(started.elapsed());
        tokio::task::yield_now().await;
    }
    let mut creates = Vec::new();
    for _ in 0..ROUNDS / 4 {
        let started = Instant::now();
        let sandbox = engine.create(SandboxSpec::host()).await?;
        creates.push(started.elapsed());
        sandbox.kill().await?;
    }
    let pool = engine.pool(SandboxSpec::host()).size(1).await?;
    let mut claims = Vec::new();
    for _ in 0..ROUNDS / 4 {
        pool.filled().await?;
        let started = Instant::now();
        let sandbox = pool.claim().await?;
        claims.push(started.elapsed());
        sandbox.kill().await?;
    }
    pool.drain().await?;
    for (what, times) in [
        ("exec through the engine", &mut through),
        ("exec on the provider", &mut direct),
        ("create through the engine", &mut creates),
        ("claim through the engine", &mut claims),
    ] {
        times.sort();
        let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e6;
        println!("{what}: p50 {:.1} us, p99 {:.1} us", at(50), at(99));
    }
    Ok(())
}
