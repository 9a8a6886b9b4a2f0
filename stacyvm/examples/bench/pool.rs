//! Claims from a pool beside creates.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stacyvm::providers::mock::Mock;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::store::{MemoryStore, SqliteStore, StateDir, Store};
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

/// A pool on a provider that takes no time: what the engine itself adds, with its
/// records in memory or in a store on the disk.
struct Plain {
    engine: Engine,
    pool: Pool,
    claims: Samples,
}

impl Plain {
    async fn open(store: Arc<dyn Store>) -> Result<Self, String> {
        let engine = Engine::builder().store(store);
        let engine = engine.provider("mock", Arc::new(Mock::default()));
        let engine = engine.build().await.map_err(text)?;
        let spec = SandboxSpec::host().lifetime(Lifetime::Attached);
        let pool = engine.pool(spec).size(SIZE).await.map_err(text)?;
        Ok(Self {
            engine,
            pool,
            claims: Samples::default(),
        })
    }

    async fn claim(&mut self) -> Outcome {
        settled(&self.pool).await?;
        let start = Instant::now();
        let sandbox = self.pool.claim().await.map_err(text)?;
        self.claims.push(start.elapsed());
        sandbox.kill().await.map_err(text)?;
        settled(&self.pool).await
    }

    async fn end(self) -> Outcome {
        self.pool.drain().await.map_err(text)?;
        self.engine.close().await.map_err(text)
    }
}

pub(crate) async fn pool(plan: &Plan) -> Outcome {
    let engine = engine().await?;
    let pool = engine.pool(spec()).size(SIZE).await.map_err(text)?;
    let directory = tempfile::tempdir().map_err(text)?;
    let state = StateDir::open(directory.path()).map_err(text)?;
    let on_disk = SqliteStore::open(&state).await.map_err(text)?;
    let mut in_memory = Plain::open(Arc::new(MemoryStore::default())).await?;
    let mut on_disk = Plain::open(Arc::new(on_disk)).await?;
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
            in_memory.claim().await?;
            on_disk.claim().await?;
            let (sandbox, taken) = cold(&engine).await?;
            created.push(taken);
            sandbox.kill().await.map_err(text)?;
        }
    }
    let stats = pool.stats();
    if stats.cold > 0 || stats.failed > 0 {
        return Err(format!("not all claims were warm: {stats:?}"));
    }
    print_samples("claim", "engine, in memory", &in_memory.claims);
    print_samples("claim", "engine, on disk", &on_disk.claims);
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
    let engine_part = in_memory.claims.p50();
    print_bound(
        "claim, the engine's own part, p50",
        engine_part,
        "ms",
        0.2,
        false,
    );
    print_bound("claim+exec, p50", bare.p50(), "ms", 3.0, false);
    print_ratio("claim+exec", "create+exec", bare.p50(), created.p50(), None);
    in_memory.end().await?;
    on_disk.end().await?;
    pool.drain().await.map_err(text)?;
    engine.close().await.map_err(text)
}
