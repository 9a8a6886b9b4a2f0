//! What runs beside and inside a sandbox dies, stops, or goes wild.

use std::time::Duration;

use rustix::process::Signal;
use stacyvm::engine::Filter;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::sandbox::state::Phase;
use stacyvm::{ErrorKind, ExecEvent, SandboxSpec};

use super::common::residue::{lives, memory};
use super::common::{eventually, soon};
use super::{ground, ground_with_cgroups, processes_of, signal, works};

async fn helper_killed(lifetime: Lifetime) {
    let Some(ground) = ground().await else { return };
    let sandbox = ground.sandbox(lifetime).await;
    let neighbour = ground.sandbox(lifetime).await;
    let mut process = sandbox.exec(["sleep", "300"]).start().await.unwrap();
    let (agent, helper) = processes_of(&sandbox).await;
    signal(helper, Signal::KILL);

    // Whoever waits for a command learns that it is over, and how.
    let _end = soon(process.wait()).await;
    eventually("the agent is gone", async || !lives(agent)).await;
    let error = soon(sandbox.exec(["true"]).output()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxGone, "{error:?}");
    let done = soon(ground.engine.reconcile()).await.unwrap();
    assert_eq!(done.ended, [sandbox.id().clone()], "{done:?}");
    assert_eq!(sandbox.info().await.unwrap().phase, Phase::Ended);
    // Ending what has ended is no error.
    sandbox.kill().await.unwrap();
    works(&neighbour).await;
    neighbour.kill().await.unwrap();
    ground.watch.nothing_left().await;
}

#[tokio::test]
async fn the_helper_of_an_attached_sandbox_is_killed() {
    helper_killed(Lifetime::Attached).await;
}

#[tokio::test]
async fn the_helper_of_a_detached_sandbox_is_killed() {
    helper_killed(Lifetime::Detached).await;
}

#[tokio::test]
async fn the_helper_is_killed_and_nobody_asks_but_kill() {
    let Some(ground) = ground().await else { return };
    let sandbox = ground.sandbox(Lifetime::Detached).await;
    let (_, helper) = processes_of(&sandbox).await;
    signal(helper, Signal::KILL);
    soon(sandbox.kill()).await.unwrap();
    let left = ground.watch.left_at_once().await;
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test]
async fn a_stopped_helper_is_told_and_destroyed() {
    let Some(ground) = ground().await else { return };
    let sandbox = ground.sandbox(Lifetime::Detached).await;
    let neighbour = ground.sandbox(Lifetime::Detached).await;
    let (_, helper) = processes_of(&sandbox).await;
    signal(helper, Signal::STOP);
    // Another host, which has no connection to the agent.
    let other = super::open(ground.state.path()).await;
    let found = other.get(sandbox.id().as_str()).await.unwrap();
    let error = soon(found.exec(["true"]).output()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.fact("remedy").unwrap().contains("kill -CONT"));
    works(&neighbour).await;
    soon(found.kill()).await.unwrap();
    soon(neighbour.kill()).await.unwrap();
    ground.watch.nothing_left().await;
}

#[tokio::test]
async fn the_agent_is_killed() {
    let Some(ground) = ground().await else { return };
    let sandbox = ground.sandbox(Lifetime::Detached).await;
    let (agent, _) = processes_of(&sandbox).await;
    signal(agent, Signal::KILL);
    eventually("the sandbox ended", async || {
        sandbox.info().await.unwrap().phase == Phase::Ended
    })
    .await;
    let error = soon(sandbox.exec(["true"]).output()).await.unwrap_err();
    let gone = [ErrorKind::SandboxGone, ErrorKind::NotFound];
    assert!(gone.contains(&error.kind()), "{error:?}");
    ground.engine.reconcile().await.unwrap();
    ground.watch.nothing_left().await;
}

#[tokio::test]
async fn a_stopped_agent_hangs_no_call_and_is_destroyed() {
    let Some(ground) = ground().await else { return };
    let sandbox = ground.sandbox(Lifetime::Detached).await;
    let running = sandbox
        .exec(["sleep", "300"])
        .timeout(Duration::from_secs(1))
        .start()
        .await
        .unwrap();
    let (agent, _) = processes_of(&sandbox).await;
    signal(agent, Signal::STOP);
    let limit = Duration::from_millis(300);
    let deadline = || {
        let context = stacyvm::Context::default();
        sandbox.with_context(context.with_deadline(std::time::Instant::now() + limit))
    };
    let error = soon(deadline().exec(["true"]).output()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    let error = soon(deadline().processes()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    let error = soon(deadline().files().write("/tmp/x", "y"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    // The helper does not need the agent: what it is asked it answers.
    assert_eq!(sandbox.info().await.unwrap().phase, Phase::Running);
    // A command with a timeout of its own ends for its caller as well, who is
    // not told that it was killed: nobody knows, and here it was not.
    let mut running = running;
    let pid = running.pid().unwrap();
    let error = soon(running.wait()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(super::outside(agent, pid).is_some());
    let unheard = sandbox
        .exec(["sleep", "300"])
        .timeout(Duration::from_secs(1));
    let error = soon(unheard.output()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    // An agent that goes on knows that it lost its host, and works for the next.
    signal(agent, Signal::CONT);
    eventually("the command is gone", async || {
        super::outside(agent, pid).is_none()
    })
    .await;
    works(&sandbox).await;
    signal(agent, Signal::STOP);
    soon(sandbox.kill()).await.unwrap();
    drop(running);
    let left = ground.watch.left_at_once().await;
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test]
async fn a_ttl_ends_the_sandbox_with_no_host_alive() {
    let Some(super::Ground {
        engine,
        watch,
        state,
        _alone,
    }) = ground().await
    else {
        return;
    };
    let spec = SandboxSpec::host()
        .lifetime(Lifetime::Detached)
        .ttl(Duration::from_secs(2));
    let sandbox = engine.create(spec).await.unwrap();
    let id = sandbox.id().clone();
    drop((sandbox, engine));
    assert!(!watch.left().is_empty(), "it did not outlive its engine");
    watch.nothing_left().await;
    let engine = super::open(state.path()).await;
    assert_eq!(engine.reconcile().await.unwrap().ended, [id]);
    assert!(engine.list(Filter::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_fork_bomb_stays_inside_and_goes_with_its_sandbox() {
    let Some(ground) = ground_with_cgroups().await else {
        return;
    };
    let spec = SandboxSpec::host().pids(64).lifetime(Lifetime::Attached);
    let wild = ground.engine.create(spec).await.unwrap();
    let neighbour = ground.sandbox(Lifetime::Attached).await;
    let bomb = wild
        .shell("b() { b | b & }; b; sleep 300")
        .start()
        .await
        .unwrap();
    eventually("the limit is reached", async || {
        let used = wild.usage().await.unwrap().processes;
        used.is_some_and(|count| count >= 48)
    })
    .await;
    works(&neighbour).await;
    soon(wild.kill()).await.unwrap();
    drop(bomb);
    soon(neighbour.kill()).await.unwrap();
    let left = ground.watch.left_at_once().await;
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test]
async fn output_that_nobody_reads_stays_inside() {
    let Some(ground) = ground().await else { return };
    let sandbox = ground.sandbox(Lifetime::Attached).await;
    works(&sandbox).await;
    let mut process = sandbox.exec(["yes"]).start().await.unwrap();
    // The first piece shows that it runs.
    let event = soon(process.next_event()).await.unwrap();
    assert!(matches!(event, Some(ExecEvent::Stdout(_))));
    let before = memory();
    let mut most = 0;
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        most = most.max(memory().saturating_sub(before));
    }
    assert!(most <= 16 << 20, "{most} bytes more than before");
    // Another command is not held up by the one that nobody reads.
    works(&sandbox).await;
    // It waits, and is not lost: whoever reads again gets more.
    let event = soon(process.next_event()).await.unwrap();
    assert!(matches!(event, Some(ExecEvent::Stdout(_))));
    drop(process);
    sandbox.kill().await.unwrap();
    ground.watch.nothing_left().await;
}
