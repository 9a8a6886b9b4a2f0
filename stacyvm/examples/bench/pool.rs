//! Claims from a pool beside creates.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stacyvm::providers::mock::Mock;
use stacyvm::store::{SqliteStore, StateDir};
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Claim, Engine, Pool, Sandbox, SandboxSpec};

use crate::Plan;
use crate::measures::{Outcome, cold, engine, spec, text};
use crate::stats::{Samples, print_bound, print_ratio, print_samples};

/// How many wait.
const SIZE: usize = 4;

/// The claim alone, and the claim with the decoded result of the first command.
async fn timed(claim: Claim) -> Result<(Sandbox, Duration, Duration), String> {
    let start = Instant::now();
    let sandbox = claim.await.map_err(text)?;
    let claimed = start.elapsed();
    let output = sandbox.exec(["/bin/true"]).output().await.map_err(text)?;
    let taken = start.elapsed();
    if output.status.success() {
        Ok((sandbox, claimed, taken))
    } else {
        Err(output.status.to_string())
    }
}

/// Waits until the pool is full and nothing is made.
async fn settled(pool: &Pool) -> Outcome {
    pool.filled().await.map_err(text)?;
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(())
}

/// What a claim takes where the provider takes nothing: the engine, and the record
/// in a store on the disk.
async fn without_runtime(directory: &Path) -> Result<Engine, String> {
    let state = StateDir::open(directory).map_err(text)?;
    let store = SqliteStore::open(&state).await.map_err(text)?;
    let engine = Engine::builder().store(Arc::new(store));
    let engine = engine.provider("mock", Arc::new(Mock::default()));
    engine.build().await.map_err(text)
}

pub(crate) async fn pool(plan: &Plan) -> Outcome {
    let engine = engine().await?;
    let pool = engine.pool(spec()).size(SIZE).await.map_err(text)?;
    let directory = tempfile::tempdir().map_err(text)?;
    let bare_engine = without_runtime(directory.path()).await?;
    let plain = SandboxSpec::host().lifetime(Lifetime::Attached);
    let bare_pool = bare_engine.pool(plain).size(SIZE).await.map_err(text)?;
    let mut engine_part = Samples::default();
    let [mut own, mut bare, mut given, mut all, mut created] = [(); 5].map(|()| Samples::default());
    for _ in 0..plan.blocks {
        for _ in 0..plan.block * 2 {
            settled(&pool).await?;
            // Nothing is given, so nothing is asked of the agent: all of it is ours.
            let (sandbox, claimed, taken) = timed(pool.claim()).await?;
            own.push(claimed);
            bare.push(taken);
            sandbox.kill().await.map_err(text)?;
            settled(&pool).await?;
            let claim = pool.claim().env("TOKEN", "value").label("session", "7");
            let claim = claim.file("/workspace/in.txt", "hello\n");
            let (sandbox, claimed, taken) = timed(claim).await?;
            given.push(claimed);
            all.push(taken);
            sandbox.kill().await.map_err(text)?;
            settled(&pool).await?;
            settled(&bare_pool).await?;
            let start = Instant::now();
            let sandbox = bare_pool.claim().await.map_err(text)?;
            engine_part.push(start.elapsed());
            sandbox.kill().await.map_err(text)?;
            settled(&bare_pool).await?;
            let (sandbox, taken) = cold(&engine).await?;
            created.push(taken);
            sandbox.kill().await.map_err(text)?;
        }
    }
    let stats = pool.stats();
    if stats.cold > 0 || stats.failed > 0 {
        return Err(format!("not all claims were warm: {stats:?}"));
    }
    print_samples("claim", "engine and store alone", &engine_part);
    print_samples("claim", "stacyvm", &own);
    print_samples("claim, env and a file", "stacyvm", &given);
    print_samples("claim+exec", "stacyvm", &bare);
    print_samples("claim+exec, env and a file", "stacyvm", &all);
    print_samples("create+exec", "stacyvm", &created);
    // What a busy machine leaves of the medians.
    for (name, samples) in [("claim", &own), ("claim+exec", &bare)] {
        let (least, tenth) = (samples.quantile(0.0), samples.quantile(0.1));
        println!("note   {name}: the least {least:.3} ms, a tenth below {tenth:.3} ms");
    }
    let part = engine_part.p50();
    print_bound("claim, engine and store, p50", part, "ms", 0.2, false);
    print_bound("claim+exec, p50", bare.p50(), "ms", 3.0, false);
    print_ratio("claim+exec", "create+exec", bare.p50(), created.p50(), None);
    bare_pool.drain().await.map_err(text)?;
    bare_engine.close().await.map_err(text)?;
    pool.drain().await.map_err(text)?;
    engine.close().await.map_err(text)
}
