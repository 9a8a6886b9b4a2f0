//! Many sandboxes at once: does the 200th come as fast as the first, and do
//! commands.

use std::time::{Duration, Instant};

use stacyvm::engine::Engine;
use stacyvm::{Sandbox, SandboxSpec};

use crate::Plan;
use crate::measures::{Outcome, empty, engine, fill, spec, text};
use crate::stats::{Samples, print_ratio, print_samples};

/// Creates, or commands, in one window.
const WINDOW: usize = 20;

/// Times creates alone; each sandbox is ended before the next begins.
async fn creates(engine: &Engine, into: &mut Samples) -> Outcome {
    for _ in 0..WINDOW {
        // Time for the helper that is parked ahead.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let start = Instant::now();
        let sandbox = engine.create(spec()).await.map_err(text)?;
        into.push(start.elapsed());
        sandbox.kill().await.map_err(text)?;
    }
    Ok(())
}

/// Times commands in one sandbox.
pub(crate) async fn commands(sandbox: &Sandbox, count: usize, into: &mut Samples) -> Outcome {
    for _ in 0..count {
        let start = Instant::now();
        let output = sandbox.exec(["/bin/true"]).output().await.map_err(text)?;
        into.push(start.elapsed());
        if !output.status.success() {
            return Err(output.status.to_string());
        }
    }
    Ok(())
}

pub(crate) async fn crowd(plan: &Plan) -> Outcome {
    let engine = engine().await?;
    let most = plan.live.iter().copied().max().unwrap_or(1);
    let [mut first, mut last, mut alone, mut among] = [(); 4].map(|()| Samples::default());
    // Filled and emptied again and again, so that a machine that gets slower
    // in the meantime does so for both.
    for _ in 0..plan.blocks / 2 {
        let one = fill(&engine, 1).await?;
        creates(&engine, &mut first).await?;
        commands(&one[0], WINDOW * 20, &mut alone).await?;
        let others = fill(&engine, most - 2).await?;
        creates(&engine, &mut last).await?;
        commands(&one[0], WINDOW * 20, &mut among).await?;
        empty(others).await?;
        empty(one).await?;
    }
    let name = format!("create, the one of number {most}");
    print_samples("create, the second", "stacyvm", &first);
    print_samples(&name, "stacyvm", &last);
    print_ratio(&name, "the second, p50", last.p50(), first.p50(), Some(1.3));
    let name = format!("exec, {most} alive");
    print_samples("exec, 1 alive", "stacyvm", &alone);
    print_samples(&name, "stacyvm", &among);
    let (among, alone) = (among.quantile(0.99), alone.quantile(0.99));
    print_ratio(&name, "1 alive, p99", among, alone, Some(2.0));
    engine.close().await.map_err(text)
}

/// A sandbox that a hostile command may fill.
pub(crate) fn bounded() -> SandboxSpec {
    spec().pids(256)
}
