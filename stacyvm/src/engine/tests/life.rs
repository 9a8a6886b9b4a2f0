//! Finding, changing and ending.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::World;
use crate::clock::{Clock as _, to_ms};
use crate::context::Context;
use crate::engine::Filter;
use crate::engine::testing::Scripted;
use crate::error::{Error, ErrorKind, Retry};
use crate::id::{SandboxId, TenantId};
use crate::provider::OperationKind;
use crate::sandbox::spec::{Lifetime, SandboxSpec};
use crate::sandbox::state::{ObservedState, Phase};

fn host() -> SandboxSpec {
    SandboxSpec::host()
}

#[tokio::test]
async fn a_sandbox_is_found_by_the_beginning_of_its_id() {
    let world = World::new(Scripted::new()).await;
    for id in ["alpha-1", "alpha-2", "beta"] {
        let id = SandboxId::new(id).unwrap();
        world.engine.create(host()).id(id).await.unwrap();
    }
    let found = async |id: &str| world.engine.get(id).await.map(|s| s.id().to_string());
    assert_eq!(found("beta").await.unwrap(), "beta");
    assert_eq!(found("b").await.unwrap(), "beta");
    assert_eq!(found("alpha-2").await.unwrap(), "alpha-2");
    assert_eq!(
        found("alpha").await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
    assert_eq!(
        found("gamma").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(found("bz").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_tenant_sees_its_own() {
    let world = World::new(Scripted::new()).await;
    let other = Context::new(TenantId::new("other").unwrap());
    let sandbox = world
        .engine
        .create(host())
        .context(other.clone())
        .await
        .unwrap();
    let error = world.engine.get(sandbox.id().as_str()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    world
        .engine
        .get_in(&other, sandbox.id().as_str())
        .await
        .unwrap();
    assert!(
        world
            .engine
            .list(Filter::default())
            .await
            .unwrap()
            .is_empty()
    );
    let theirs = Filter {
        tenant: Some(other.tenant.clone()),
        ..Filter::default()
    };
    assert_eq!(world.engine.list(theirs).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_list_is_complete_filtered_and_in_pages() {
    let world = World::new(Scripted::new()).await;
    for index in 0..300 {
        let id = SandboxId::new(format!("s-{index:03}")).unwrap();
        let spec = host().label("even", (index % 2 == 0).to_string());
        world.engine.create(spec).id(id).await.unwrap();
    }
    let list = async |filter| world.engine.list(filter).await.unwrap();
    assert_eq!(list(Filter::default()).await.len(), 300);
    let even = Filter {
        labels: [("even".to_owned(), "true".to_owned())].into(),
        limit: Some(10),
        after: Some(SandboxId::new("s-099").unwrap()),
        ..Filter::default()
    };
    let page = list(even).await;
    assert_eq!(page.len(), 10);
    assert_eq!(page[0].id.as_str(), "s-100");
    world
        .engine
        .get("s-000")
        .await
        .unwrap()
        .kill()
        .await
        .unwrap();
    assert_eq!(list(Filter::default()).await.len(), 299);
    let ended = Filter {
        phase: Some(Phase::Ended),
        ..Filter::default()
    };
    assert_eq!(list(ended).await[0].id.as_str(), "s-000");
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_that_are_moved_at_once_are_all_moved() {
    let world = World::new(Scripted::new()).await;
    let (minute, second) = (Duration::from_mins(1), Duration::from_secs(1));
    let sandbox = world.engine.create(host().ttl(minute)).await.unwrap();
    let before = sandbox.info().await.unwrap().ends.unwrap();
    let moves = |count: u32| {
        let calls = (1..=count).map(|_| {
            let sandbox = sandbox.clone();
            tokio::spawn(async move { sandbox.extend(second).await.unwrap().unwrap() })
        });
        join_all(calls.collect::<Vec<_>>())
    };
    let told = moves(50).await.into_iter().map(Result::unwrap);
    let told: BTreeSet<_> = told.collect();
    let each: BTreeSet<_> = (1..=50).map(|count| before + second * count).collect();
    assert_eq!(told, each);
    assert_eq!(
        sandbox.info().await.unwrap().ends,
        Some(before + second * 50)
    );
    // Whoever is last, the timer has what is on record.
    for round in 0..50 {
        let calls = (1..=4).map(|minutes| {
            let sandbox = sandbox.clone();
            tokio::spawn(async move { sandbox.set_ttl(Some(minute * minutes)).await.unwrap() })
        });
        let set = join_all(calls.collect::<Vec<_>>()).await;
        let recorded = world
            .engine
            .load(sandbox.context(), sandbox.id())
            .await
            .unwrap();
        assert!(
            set.into_iter()
                .any(|ends| ends.unwrap().map(to_ms) == recorded.ends_ms)
        );
        let timer = world.provider.end_of(sandbox.id());
        assert_eq!(timer.map(to_ms), recorded.ends_ms, "round {round}");
    }
}

/// What is left of a life is told a little late or early; its end does not move for it.
#[tokio::test]
async fn an_end_stands_still_while_its_timer_is_asked() {
    let world = World::new(Scripted::new()).await;
    let minute = Duration::from_mins(1);
    let sandbox = world.engine.create(host().ttl(minute)).await.unwrap();
    let ends = sandbox.info().await.unwrap().ends.unwrap();
    let near = Duration::from_millis(999);
    for told in [ends + near, ends - near] {
        world.provider.tells_end(sandbox.id(), told);
        assert_eq!(sandbox.info().await.unwrap().ends, Some(ends));
        assert_eq!(sandbox.extend(minute).await.unwrap(), Some(ends + minute));
        let back = world.engine.0.clock.now() + minute;
        assert_eq!(sandbox.set_ttl(Some(minute)).await.unwrap(), Some(back));
    }
    // The timer binds: one that is set otherwise is told as it is.
    for told in [ends + minute, ends - minute / 2] {
        world.provider.tells_end(sandbox.id(), told);
        assert_eq!(sandbox.info().await.unwrap().ends, Some(told));
    }
}

#[tokio::test]
async fn an_end_is_moved_where_it_binds_and_on_record() {
    let world = World::new(Scripted::new()).await;
    let spec = host().ttl(Duration::from_mins(1));
    let sandbox = world.engine.create(spec).await.unwrap();
    let now = to_ms(world.clock.now());
    let ends = sandbox
        .extend(Duration::from_secs(30))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(to_ms(ends), now + 90_000);
    assert_eq!(sandbox.info().await.unwrap().ends, Some(ends));
    world.clock.advance(Duration::from_secs(10));
    let ends = sandbox.set_ttl(Some(Duration::from_secs(5))).await.unwrap();
    assert_eq!(ends.map(to_ms), Some(now + 15_000));
    assert_eq!(world.provider.count(OperationKind::SetDeadline), 2);
    let most = Duration::from_hours(100 * 365 * 24);
    let error = sandbox.extend(most).await.unwrap_err();
    assert_eq!(
        error.fact("field"),
        Some("ttl"),
        "both together are too long"
    );
    for life in [Duration::ZERO, Duration::from_millis(999), Duration::MAX] {
        for refused in [
            sandbox.set_ttl(Some(life)).await,
            sandbox.extend(life).await,
        ] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{life:?}");
            assert_eq!(error.fact("field"), Some("ttl"), "{life:?}");
        }
    }
    assert_eq!(world.provider.count(OperationKind::SetDeadline), 2);
    assert_eq!(sandbox.set_ttl(None).await.unwrap(), None);
    assert_eq!(sandbox.extend(Duration::from_secs(5)).await.unwrap(), None);
}

#[tokio::test]
async fn a_lifetime_is_changed_where_it_binds_and_on_record() {
    let world = World::new(Scripted::new()).await;
    let sandbox = world.engine.create(host()).await.unwrap();
    let changes = || world.provider.count(OperationKind::SetLifetime);
    sandbox.set_lifetime(Lifetime::Detached).await.unwrap();
    assert_eq!(changes(), 0, "it is so already");
    for lifetime in [Lifetime::Attached, Lifetime::Attached, Lifetime::Detached] {
        sandbox.set_lifetime(lifetime).await.unwrap();
        assert_eq!(sandbox.info().await.unwrap().lifetime, lifetime);
    }
    assert_eq!(changes(), 3, "the owner may be another one");
    sandbox.begin_scope().await.unwrap();
    assert_eq!(sandbox.info().await.unwrap().lifetime, Lifetime::Attached);
    sandbox.kill().await.unwrap();
    let error = sandbox.set_lifetime(Lifetime::Detached).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxGone);
}

#[tokio::test]
async fn a_scope_of_what_ends_with_no_process_stays_as_it_is() {
    let mut claims = crate::engine::testing::all_capabilities();
    claims.attached_lifetime = false;
    let world = World::new(Scripted::with(claims)).await;
    let sandbox = world.engine.create(host()).await.unwrap();
    sandbox.begin_scope().await.unwrap();
    assert_eq!(sandbox.info().await.unwrap().lifetime, Lifetime::Detached);
    let error = sandbox.set_lifetime(Lifetime::Attached).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(world.provider.count(OperationKind::SetLifetime), 0);
}

/// An end that cannot be recorded is not moved, and the timer says the same.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn an_end_that_cannot_be_recorded_stays_where_it_binds() {
    let home = tempfile::tempdir().unwrap();
    let provider = Scripted::new();
    let state = home.path().join("state");
    let engine = crate::Engine::builder()
        .provider("scripted", Arc::clone(&provider) as _)
        .state_dir(state.clone());
    let engine = engine.build().await.unwrap();
    let spec = host().ttl(Duration::from_mins(1));
    let sandbox = engine.create(spec).await.unwrap();
    let first = sandbox.extend(Duration::from_secs(1)).await.unwrap();
    assert_eq!(provider.end_of(sandbox.id()), first);

    let db = rusqlite::Connection::open(state.join("store.db")).unwrap();
    db.execute_batch(
        "CREATE TRIGGER full BEFORE UPDATE ON sandboxes \
         BEGIN SELECT RAISE(ABORT, 'no room'); END",
    )
    .unwrap();
    let longer = Duration::from_mins(5);
    sandbox.extend(longer).await.unwrap_err();
    assert_eq!(provider.end_of(sandbox.id()), first);
    sandbox.set_ttl(Some(longer)).await.unwrap_err();
    assert_eq!(provider.end_of(sandbox.id()), first);
    sandbox.set_ttl(None).await.unwrap_err();
    assert_eq!(provider.end_of(sandbox.id()), first);
    assert_eq!(sandbox.info().await.unwrap().ends, first);

    db.execute_batch("DROP TRIGGER full").unwrap();
    let second = sandbox.extend(longer).await.unwrap();
    assert_eq!(second, first.map(|ends| ends + longer));
    assert_eq!(provider.end_of(sandbox.id()), second);
}

#[tokio::test]
async fn what_the_provider_sees_decides_the_phase() {
    let world = World::new(Scripted::new()).await;
    let sandbox = world.engine.create(host()).await.unwrap();
    let phase = async || sandbox.info().await.unwrap().phase;
    assert_eq!(phase().await, Phase::Running);
    sandbox.pause().await.unwrap();
    assert_eq!(phase().await, Phase::Paused);
    sandbox.resume().await.unwrap();
    assert_eq!(phase().await, Phase::Running);
    world.provider.put(sandbox.id(), ObservedState::Paused);
    assert_eq!(phase().await, Phase::Paused);
    let down = Error::new(ErrorKind::Unavailable, "the daemon is down");
    world.provider.fail(OperationKind::Inspect, down);
    let info = sandbox.info().await.unwrap();
    assert_eq!(info.phase, Phase::Running);
    assert!(info.unreachable.unwrap().contains("daemon is down"));
    world.provider.lose(sandbox.id());
    assert_eq!(phase().await, Phase::Ended);
}

#[tokio::test]
async fn what_ended_by_itself_is_recorded_by_a_reconcile() {
    let world = World::new(Scripted::new()).await;
    let (kept, lost) = (
        world.engine.create(host()).await.unwrap(),
        world.engine.create(host()).await.unwrap(),
    );
    world.provider.lose(lost.id());
    let done = world.engine.reconcile().await.unwrap();
    assert_eq!(done.ended, [lost.id().clone()]);
    assert!(lost.info().await.unwrap().ended.is_some());
    assert_eq!(kept.info().await.unwrap().phase, Phase::Running);
    assert_eq!(
        world.engine.reconcile().await.unwrap(),
        super::super::Reconciled::default()
    );
}

#[tokio::test]
async fn a_kill_leaves_nothing_and_may_be_repeated() {
    let world = World::new(Scripted::new()).await;
    let sandbox = world.engine.create(host()).await.unwrap();
    sandbox.kill().await.unwrap();
    sandbox.kill().await.unwrap();
    assert_eq!(world.provider.count(OperationKind::Destroy), 1);
    assert!(world.provider.living().is_empty());
    let error = sandbox
        .set_ttl(Some(Duration::from_secs(5)))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxGone);
}

#[tokio::test]
async fn a_kill_that_failed_is_finished_by_a_reconcile() {
    let world = World::new(Scripted::new()).await;
    let sandbox = world.engine.create(host()).await.unwrap();
    let down = Error::new(ErrorKind::Unavailable, "the daemon is down");
    world.provider.fail(OperationKind::Destroy, down);
    sandbox.kill().await.unwrap_err();
    assert_eq!(sandbox.info().await.unwrap().phase, Phase::Destroying);
    let done = world.engine.reconcile().await.unwrap();
    assert_eq!(done.finished, [sandbox.id().clone()]);
    assert_eq!(sandbox.info().await.unwrap().phase, Phase::Ended);
}

#[tokio::test]
async fn a_scope_ends_its_sandbox_however_it_is_left() {
    let world = World::new(Scripted::new()).await;
    let value = world
        .engine
        .scope(host(), |sandbox| async move {
            assert_eq!(sandbox.info().await?.lifetime, Lifetime::Attached);
            Ok(7)
        })
        .await;
    assert_eq!(value.unwrap(), 7);
    assert!(world.provider.living().is_empty());

    let failed = world.engine.scope(host(), |_| async move {
        Err::<(), _>(Error::new(ErrorKind::Conflict, "no"))
    });
    assert_eq!(failed.await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(world.provider.living().is_empty());

    let engine = world.engine.clone();
    let dropped = tokio::spawn(async move {
        engine
            .scope(host(), |_| std::future::pending::<Result<(), Error>>())
            .await
    });
    super::until(async || world.provider.living().len() == 1).await;
    dropped.abort();
    super::until(async || world.provider.living().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_flaky_provider_is_asked_again_where_that_is_safe() {
    let world = World::new(Scripted::new()).await;
    let sandbox = world.engine.create(host()).await.unwrap();
    let flaky = || {
        Error::new(ErrorKind::Unavailable, "try again").retry(Retry::Maybe {
            after: Duration::from_secs(1),
        })
    };
    world.provider.fail(OperationKind::Usage, flaky());
    world.provider.fail(OperationKind::Usage, flaky());
    sandbox.usage().await.unwrap();
    assert_eq!(world.provider.count(OperationKind::Usage), 3);

    for _ in 0..3 {
        world.provider.fail(OperationKind::Usage, flaky());
    }
    let error = sandbox.usage().await.unwrap_err();
    assert_eq!(error.retryable(), Retry::Exhausted);
    assert_eq!(error.fact("attempts"), Some("3"));

    world.provider.fail(OperationKind::Exec, flaky());
    let error = sandbox.exec(["true"]).output().await.unwrap_err();
    assert!(matches!(error.retryable(), Retry::Maybe { .. }));
    assert_eq!(world.provider.count(OperationKind::Exec), 1);
}

#[tokio::test]
async fn a_closed_engine_keeps_its_sandboxes() {
    let world = World::new(Scripted::new()).await;
    let sandbox = world.engine.create(host()).await.unwrap();
    world.engine.close().await.unwrap();
    assert_eq!(world.provider.living(), [sandbox.id().clone()]);
    let error = world.engine.create(host()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(Arc::strong_count(&world.store), 2);
}

#[tokio::test(start_paused = true)]
async fn a_living_engine_reconciles_by_itself_until_it_is_dropped() {
    let provider = Scripted::new();
    let engine = crate::Engine::builder()
        .provider("scripted", Arc::clone(&provider) as _)
        .reconcile_every(Duration::from_secs(2))
        .build()
        .await
        .unwrap();
    let sandbox = engine.create(host()).await.unwrap();
    provider.lose(sandbox.id());
    super::until(async || provider.count(OperationKind::Destroy) == 1).await;
    assert_eq!(sandbox.info().await.unwrap().phase, Phase::Ended);
    let weak = Arc::downgrade(&engine.0);
    drop((engine, sandbox));
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(weak.upgrade().is_none());
}

#[tokio::test]
async fn a_handle_in_the_context_of_another_tenant_finds_nothing() {
    let world = World::new(Scripted::new()).await;
    let own = world.engine.create(host()).await.unwrap();
    let other = own.with_context(Context::new(TenantId::new("other").unwrap()));
    let exec = crate::id::ExecId::random();
    let files = other.files();
    let (entry, none) = (other.exec(["true"]).output().await, Duration::from_secs(5));
    let answers = [
        entry.map(drop),
        other.exec(["true"]).background().start().await.map(drop),
        other.attach(&exec).await.map(drop),
        other.execs().await.map(drop),
        other
            .signal(&exec, 9, crate::sandbox::exec::SignalScope::Tree)
            .await,
        files.stat("/x").await.map(drop),
        files.read("/x").await.map(drop),
        files.write("/x", "y").await.map(drop),
        files.watch("/x", false).await.map(drop),
        files.export_tar("/x", false).await.map(drop),
        files
            .import_tar("/x", Box::pin(futures_util::stream::empty()))
            .await,
        other.dial(80).await.map(drop),
        other.listen(80).await.map(drop),
        other.endpoint(80).await.map(drop),
        other.processes().await.map(drop),
        other.usage().await.map(drop),
        other.info().await.map(drop),
        other.extend(none).await.map(drop),
        other.set_ttl(Some(none)).await.map(drop),
        other.pause().await,
        other.resume().await,
        other.snapshot().await.map(drop),
        other.kill().await.map(drop),
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        let kind = answer.map_err(|error| error.kind());
        assert_eq!(kind, Err(ErrorKind::NotFound), "call {number}");
    }
    for kind in [
        OperationKind::Exec,
        OperationKind::File,
        OperationKind::Usage,
        OperationKind::SetDeadline,
        OperationKind::Pause,
        OperationKind::Destroy,
    ] {
        assert_eq!(world.provider.count(kind), 0, "{kind:?}");
    }
    // Back in its own it is there.
    let again = other.with_context(Context::default());
    again.usage().await.unwrap();
}

#[tokio::test]
async fn a_kill_tells_whether_there_was_something_to_end() {
    let world = World::new(Scripted::new()).await;
    let sandbox = world.engine.create(host()).await.unwrap();
    assert!(sandbox.kill().await.unwrap());
    assert!(!sandbox.kill().await.unwrap());
}
