//! Exactly one sandbox or none.

use std::sync::Arc;

use super::{World, until};
use crate::context::Context;
use crate::engine::Filter;
use crate::engine::testing::Scripted;
use crate::error::{Error, ErrorKind};
use crate::id::SandboxId;
use crate::provider::OperationKind;
use crate::sandbox::spec::SandboxSpec;
use crate::sandbox::state::Phase;
use crate::store::Store as _;

fn host() -> SandboxSpec {
    SandboxSpec::host()
}

fn all() -> Filter {
    Filter {
        all: true,
        ..Filter::default()
    }
}

async fn phases(world: &World) -> Vec<Phase> {
    let list = world.engine.list(all()).await.unwrap();
    list.into_iter().map(|info| info.phase).collect()
}

#[tokio::test]
async fn an_id_is_used_once() {
    let world = World::new(Scripted::new()).await;
    let id = SandboxId::new("mine").unwrap();
    let sandbox = world.engine.create(host()).id(id.clone()).await.unwrap();
    assert_eq!(sandbox.id(), &id);
    let error = world.engine.create(host()).id(id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(world.provider.count(OperationKind::Create), 1);
}

#[tokio::test]
async fn one_key_and_spec_is_one_sandbox_and_another_spec_a_conflict() {
    let world = World::new(Scripted::new()).await;
    let create = |spec| world.engine.create(spec).idempotency_key("k");
    let first = create(host().env("A", "1")).await.unwrap();
    let again = create(host().env("A", "1")).await.unwrap();
    assert_eq!(first.id(), again.id());
    let error = create(host().env("A", "2")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(world.provider.count(OperationKind::Create), 1);
}

#[tokio::test]
async fn one_key_at_the_same_time_from_two_engines_is_one_sandbox() {
    let provider = Scripted::gated();
    let one = World::new(Arc::clone(&provider)).await;
    let two = World::over(Arc::clone(&provider), Arc::clone(&one.store)).await;
    let creates: Vec<_> = (0..8)
        .map(|index| {
            let engine = if index % 2 == 0 {
                &one.engine
            } else {
                &two.engine
            };
            tokio::spawn(engine.create(host()).idempotency_key("k").into_future())
        })
        .collect();
    until(async || provider.count(OperationKind::Create) == 1).await;
    provider.open_gate();
    let mut ids = std::collections::BTreeSet::new();
    for create in creates {
        ids.insert(create.await.unwrap().unwrap().id().clone());
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(provider.living().len(), 1);
    assert_eq!(provider.count(OperationKind::Create), 1);
    assert_eq!(phases(&one).await, [Phase::Running]);
}

/// The moment between reading a record and judging it, held open.
#[tokio::test]
async fn who_read_of_a_create_just_before_its_end_gets_its_sandbox() {
    let world = World::new(Scripted::gated()).await;
    let create = world.engine.create(host()).idempotency_key("k");
    let create = tokio::spawn(create.into_future());
    until(async || world.provider.count(OperationKind::Create) == 1).await;
    let context = Context::default();
    let id = world.provider.living()[0].clone();
    let read = world.store.get_sandbox(&context, &id).await.unwrap();
    assert_eq!(read.phase, Phase::Creating);
    world.provider.open_gate();
    create.await.unwrap().unwrap();
    let settled = world.engine.settle(&context, read).await.unwrap();
    assert_eq!(settled.map(|sandbox| sandbox.id().clone()), Some(id));
    assert_eq!(phases(&world).await, [Phase::Running]);
    assert_eq!(world.provider.living().len(), 1);
}

/// Short creates end between two looks of those who wait for them, and both
/// engines run on several threads.
#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_key_in_many_rounds_on_one_file_is_one_sandbox_for_every_caller() {
    const ROUNDS: usize = 80;
    let home = tempfile::tempdir().unwrap();
    let provider = Scripted::new();
    let mut engines = Vec::new();
    for _ in 0..2 {
        let engine = crate::Engine::builder()
            .provider("scripted", Arc::clone(&provider) as _)
            .state_dir(home.path().join("state"));
        engines.push(engine.build().await.unwrap());
    }
    for round in 0..ROUNDS {
        let create = |task: usize, spec: SandboxSpec| {
            let create = engines[task % 2].create(spec);
            tokio::spawn(create.idempotency_key(format!("k{round}")).into_future())
        };
        let same: Vec<_> = (0..48).map(|task| create(task, host())).collect();
        let mut ids = std::collections::BTreeSet::new();
        for call in same {
            ids.insert(call.await.unwrap().unwrap().id().clone());
        }
        assert_eq!(ids.len(), 1, "round {round}");
        assert_eq!(provider.count(OperationKind::Create), round + 1);
        let other: Vec<_> = (0..2)
            .map(|task| create(task, host().env("A", "1")))
            .collect();
        for call in other {
            let error = call.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict);
            assert_eq!(error.fact("field"), Some("idempotency_key"));
        }
    }
    assert_eq!(provider.living().len(), ROUNDS);
}

/// As above, where making it fails at first: whoever comes next makes it, and
/// only the call that made the failed one is told of it.
#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_create_that_fails_among_callers_of_one_key_fails_one_of_them() {
    let home = tempfile::tempdir().unwrap();
    let provider = Scripted::new();
    let mut engines = Vec::new();
    for _ in 0..2 {
        let engine = crate::Engine::builder()
            .provider("scripted", Arc::clone(&provider) as _)
            .state_dir(home.path().join("state"));
        engines.push(engine.build().await.unwrap());
    }
    for round in 0..30 {
        let broken = Error::new(ErrorKind::NoSpace, "the disk is full");
        provider.fail(OperationKind::Create, broken);
        if round % 2 == 0 {
            // Then it is also taken down by one of those who wait.
            let down = Error::new(ErrorKind::Internal, "it does not go");
            provider.fail(OperationKind::Destroy, down);
        }
        let calls: Vec<_> = (0..12)
            .map(|task| {
                let create = engines[task % 2].create(host());
                tokio::spawn(create.idempotency_key(format!("k{round}")).into_future())
            })
            .collect();
        let mut ids = std::collections::BTreeSet::new();
        let mut failed = 0;
        for call in calls {
            match call.await.unwrap() {
                Ok(sandbox) => drop(ids.insert(sandbox.id().clone())),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::NoSpace, "round {round}: {error}");
                    failed += 1;
                }
            }
        }
        assert_eq!((ids.len(), failed), (1, 1), "round {round}");
        assert_eq!(provider.living().len(), round + 1);
    }
}

#[tokio::test]
async fn a_failed_create_leaves_nothing_and_frees_its_key() {
    let world = World::new(Scripted::new()).await;
    let broken = Error::new(ErrorKind::NoSpace, "the disk is full");
    world.provider.fail(OperationKind::Create, broken);
    let create = || world.engine.create(host()).idempotency_key("k");
    let error = create().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(error.failed_operation(), "create");
    assert!(world.provider.living().is_empty());
    let list = world.engine.list(all()).await.unwrap();
    assert_eq!(list[0].phase, Phase::Failed);
    assert!(list[0].failure.as_deref().unwrap().contains("disk is full"));
    create().await.unwrap();
    assert_eq!(world.provider.living().len(), 1);
}

#[tokio::test]
async fn a_create_that_cannot_be_taken_down_is_taken_down_later() {
    let world = World::new(Scripted::new()).await;
    let down = || Error::new(ErrorKind::Unavailable, "the daemon is down");
    world.provider.fail(OperationKind::Create, down());
    world.provider.fail(OperationKind::Destroy, down());
    world.engine.create(host()).await.unwrap_err();
    assert_eq!(world.provider.living().len(), 1);
    let done = world.engine.reconcile().await.unwrap();
    assert_eq!(done.finished.len(), 1);
    assert!(world.provider.living().is_empty());
    assert_eq!(phases(&world).await, [Phase::Failed]);
}

#[tokio::test]
async fn a_dropped_create_leaves_nothing() {
    let world = World::new(Scripted::gated()).await;
    let create = tokio::spawn(world.engine.create(host()).into_future());
    until(async || world.provider.count(OperationKind::Create) == 1).await;
    assert_eq!(world.provider.living().len(), 1);
    create.abort();
    until(async || world.provider.living().is_empty()).await;
    until(async || phases(&world).await == [Phase::Failed]).await;
}

#[tokio::test]
async fn a_create_dropped_as_it_ends_leaves_nothing_or_a_sandbox_that_was_handed_over() {
    let world = World::new(Scripted::gated()).await;
    let mut create = Box::pin(world.engine.create(host()).into_future());
    // Begun, then never looked at again until it is dropped.
    let first_look = std::future::poll_fn(|cx| std::task::Poll::Ready(create.as_mut().poll(cx)));
    assert!(first_look.await.is_pending());
    world.provider.open_gate();
    until(async || phases(&world).await == [Phase::Running]).await;
    drop(create);
    until(async || world.provider.living().is_empty()).await;
}

#[tokio::test]
async fn what_a_dead_engine_left_half_made_is_taken_down_at_the_next_start() {
    let provider = Scripted::gated();
    let first = World::new(Arc::clone(&provider)).await;
    let store = Arc::clone(&first.store);
    // A runtime that is shut down in the middle is as sudden as a kill: no
    // task goes on.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let create = first.engine.create(host()).into_future();
    runtime.spawn(create);
    until(async || provider.count(OperationKind::Create) == 1).await;
    let second = World::over(Arc::clone(&provider), Arc::clone(&store)).await;
    assert_eq!(provider.living().len(), 1, "its maker lives");
    assert!(second.engine.reconcile().await.unwrap().finished.is_empty());
    runtime.shutdown_background();
    drop(first);
    until(async || {
        drop(World::over(Arc::clone(&provider), Arc::clone(&store)).await);
        provider.living().is_empty()
    })
    .await;
    assert_eq!(phases(&second).await, [Phase::Failed]);
    provider.open_gate();
    second.engine.create(host()).await.unwrap();
    assert_eq!(provider.living().len(), 1);
}
