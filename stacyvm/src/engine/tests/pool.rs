//! What waits is given away once, whole and fresh, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{World, until};
use crate::engine::testing::{Scripted, all_capabilities};
use crate::engine::{Engine, Filter, Policy, Pool};
use crate::error::{Error, ErrorKind};
use crate::id::SandboxId;
use crate::provider::{Capabilities, Level, OperationKind};
use crate::sandbox::spec::{Lifetime, SandboxSpec, SecretReference};
use crate::sandbox::state::{ObservedState, Phase};
use crate::store::{SandboxFilter, SandboxRecord, SandboxUpdate, Store as _};

fn host() -> SandboxSpec {
    SandboxSpec::host()
}

async fn filled(world: &World, spec: SandboxSpec, size: usize) -> Pool {
    let pool = world.engine.pool(spec).size(size).await.unwrap();
    pool.filled().await.unwrap();
    pool
}

async fn records(world: &World) -> Vec<SandboxRecord> {
    let filter = SandboxFilter::default();
    let cx = crate::context::Context::default();
    let page = world.store.list_sandboxes(&cx, &filter, None, 1000);
    page.await.unwrap().items
}

async fn record(world: &World, id: &SandboxId) -> SandboxRecord {
    let cx = crate::context::Context::default();
    world.store.get_sandbox(&cx, id).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_claims_at_once_get_a_sandbox_each() {
    let world = World::new(Scripted::new()).await;
    let pool = filled(&world, host(), 8).await;
    let claims: Vec<_> = (0..200)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.claim().await.unwrap().id().clone() })
        })
        .collect();
    let mut ids = BTreeSet::new();
    for claim in claims {
        assert!(ids.insert(claim.await.unwrap()), "one was given away twice");
    }
    let stats = pool.stats();
    assert_eq!(stats.warm + stats.cold, 200);
    assert!(stats.warm >= 8, "{stats:?}");
    let given: BTreeSet<_> = world
        .provider
        .claims()
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    assert_eq!(given.len() as u64, stats.warm);
    let listed = world.engine.list(Filter::default()).await.unwrap();
    assert_eq!(listed.len(), 200);
}

#[tokio::test]
async fn no_more_wait_and_are_made_than_may() {
    let world = World::new(Scripted::gated()).await;
    let pool = world.engine.pool(host()).size(3).refill_at_once(2).await;
    let pool = pool.unwrap();
    until(async || pool.stats().making == 2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    // Two begin at once; the third waits for its turn.
    assert_eq!(world.provider.count(OperationKind::Create), 2);
    world.provider.open_gate();
    pool.filled().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(world.provider.count(OperationKind::Create), 3);
    let stats = pool.stats();
    assert_eq!((stats.ready, stats.making, stats.made), (3, 0, 3));
}

#[tokio::test]
async fn what_is_claimed_is_as_if_it_had_been_made_so() {
    let world = World::new(Scripted::new()).await;
    let spec = host()
        .env("A", "pool")
        .label("of", "pool")
        .ttl(Duration::from_secs(500));
    let pool = filled(&world, spec.clone(), 1).await;
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "hunter2").unwrap();
    let reference = SecretReference::File(secret.path().to_str().unwrap().to_owned());
    // Its time in the pool does not count.
    world.clock.advance(Duration::from_mins(5));
    let claim = pool.claim().env("B", "hunter1").label("k", "v");
    let sandbox = claim.secret("S", reference.clone()).await.unwrap();
    let made = world.provider.request(0);
    assert!(made.waits && made.spec.lifetime == Lifetime::Attached);
    let [(id, given)] = &world.provider.claims()[..] else {
        panic!("one claim");
    };
    assert_eq!(id, sandbox.id());
    let env = BTreeMap::from([
        ("B".into(), "hunter1".into()),
        ("S".into(), "hunter2".into()),
    ]);
    assert_eq!(*given.env.expose(), env);
    assert_eq!(given.lifetime, Lifetime::Detached);

    let record = record(&world, sandbox.id()).await;
    assert_eq!(record.phase, Phase::Running);
    assert_eq!(record.lifetime, Lifetime::Detached);
    assert_eq!(record.ends_ms, Some(1_000_000 + 300_000 + 500_000));
    let labels = BTreeMap::from([("of".into(), "pool".into()), ("k".into(), "v".into())]);
    assert_eq!(record.labels, labels);
    let mut same = spec.env("B", "hunter1").label("k", "v");
    same.secrets.insert("S".into(), reference);
    let meta = world.store.meta();
    assert_eq!(record.digest, meta.digest("scripted", "none", &same));
    let kept = format!("{record:?}");
    assert!(!kept.contains("hunter"), "{kept}");
    let info = sandbox.info().await.unwrap();
    assert_eq!(info.env_names, ["A", "B", "S"]);
    assert_eq!(info.phase, Phase::Running);
}

#[tokio::test]
async fn one_that_is_not_fit_is_replaced_and_not_given_away() {
    let world = World::new(Scripted::new()).await;
    let pool = filled(&world, host(), 4).await;
    let waiting = world.provider.living();
    // One stands still, one is gone, and one has been changed by somebody since.
    world.provider.put(&waiting[0], ObservedState::Paused);
    world.provider.lose(&waiting[1]);
    let known = record(&world, &waiting[2]).await;
    let cx = crate::context::Context::default();
    let update = SandboxUpdate {
        phase: Some(Phase::Destroying),
        ..SandboxUpdate::default()
    };
    let changed = world
        .store
        .update_sandbox(&cx, &waiting[2], known.version, &update);
    changed.await.unwrap();
    let sandbox = pool.claim().await.unwrap();
    let others: Vec<_> = waiting[..3].iter().collect();
    assert!(
        !others.contains(&sandbox.id()),
        "an unfit one was given away"
    );
    let again = pool.claim().await.unwrap();
    assert!(!others.contains(&again.id()), "an unfit one was given away");
    until(async || pool.stats().replaced >= 3 || pool.stats().ready == 4).await;
    for id in others {
        until(async || !world.provider.living().contains(id)).await;
    }
}

#[tokio::test]
async fn one_that_is_made_of_something_else_by_now_is_not_given_away() {
    let world = World::new(Scripted::new()).await;
    let pool = filled(&world, host(), 2).await;
    let old = world.provider.living();
    world.provider.change_origin("another image");
    let sandbox = pool.claim().label("claimant", "a").await.unwrap();
    assert!(!old.contains(sandbox.id()));
    assert_eq!((pool.stats().warm, pool.stats().cold), (0, 1));
    for id in &old {
        let refused = record(&world, id).await;
        assert!(!refused.labels.contains_key("claimant"), "{refused:?}");
        assert!(refused.labels.contains_key("stacyvm.pool"), "{refused:?}");
    }
    pool.filled().await.unwrap();
    let new = pool.claim().await.unwrap();
    assert_eq!(pool.stats().warm, 1);
    assert!(!old.contains(new.id()));
    for id in &old {
        until(async || !world.provider.living().contains(id)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_may() {
    let world = World::new(Scripted::new()).await;
    let age = Duration::from_secs(5);
    let pool = world
        .engine
        .pool(host())
        .size(2)
        .max_age(age)
        .await
        .unwrap();
    pool.filled().await.unwrap();
    let old = world.provider.living();
    let bound = world.provider.request(0).ends.unwrap();
    assert!(bound > crate::clock::from_ms(1_000_000) + age, "{bound:?}");
    tokio::time::sleep(age).await;
    until(async || pool.stats().replaced == 2).await;
    pool.filled().await.unwrap();
    let new = world.provider.living();
    assert!(new.iter().all(|id| !old.contains(id)), "{old:?} {new:?}");
    assert_eq!(pool.stats().replaced, 2);
}

#[tokio::test]
async fn what_waits_is_no_other_process_s_to_use() {
    let provider = Scripted::new();
    let world = World::new(Arc::clone(&provider)).await;
    let other = World::over(provider, Arc::clone(&world.store)).await;
    let pool = filled(&world, host(), 1).await;
    let id = world.provider.living().remove(0);
    for engine in [&world.engine, &other.engine] {
        let all = Filter {
            all: true,
            ..Filter::default()
        };
        assert!(engine.list(all).await.unwrap().is_empty());
        let found = engine.get(&id).await.unwrap();
        let error = found.exec(["true"]).output().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert_eq!(found.pause().await.unwrap_err().kind(), ErrorKind::Conflict);
        let info = found.info().await.unwrap();
        assert_eq!(info.phase, Phase::Creating);
        assert!(info.labels.contains_key("stacyvm.pool"));
    }
    // Whoever asks for pools sees them.
    let label = record(&world, &id).await.labels;
    let asked = Filter {
        labels: label,
        ..Filter::default()
    };
    assert_eq!(other.engine.list(asked).await.unwrap().len(), 1);
    assert_eq!(other.engine.reconcile().await.unwrap().finished, []);
    assert_eq!(world.engine.reconcile().await.unwrap().finished, []);
    // An operator may end it; then it is not given away.
    other.engine.get(&id).await.unwrap().kill().await.unwrap();
    let sandbox = pool.claim().await.unwrap();
    assert_ne!(*sandbox.id(), id);
}

#[test]
fn what_a_dead_owner_s_pool_left_is_taken_down() {
    let provider = Scripted::new();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let (store, pool) = first.block_on(async {
        let world = World::new(Arc::clone(&provider)).await;
        let pool = filled(&world, host(), 2).await;
        (world.store, pool)
    });
    // Its tasks die with it, as with a process.
    drop(first);
    drop(pool);
    assert_eq!(provider.living().len(), 2);
    runtime().block_on(async {
        let world = World::over(Arc::clone(&provider), store).await;
        assert!(provider.living().is_empty());
        let all = records(&world).await;
        assert!(all.iter().all(|r| r.phase == Phase::Failed), "{all:?}");
        assert!(all[0].failure.as_ref().unwrap().contains("pool"));
    });
}

#[tokio::test]
async fn a_claim_that_is_dropped_leaves_nothing() {
    let world = World::new(Scripted::that_claims_nothing()).await;
    let pool = filled(&world, host(), 1).await;
    let id = world.provider.living().remove(0);
    let claim = async { pool.claim().await };
    let dropped = tokio::time::timeout(Duration::from_millis(50), claim).await;
    assert!(dropped.is_err());
    until(async || !world.provider.living().contains(&id)).await;
    assert_eq!(record(&world, &id).await.phase, Phase::Ended);
    // The deadline of a call is no other thing.
    pool.filled().await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_millis(50);
    let context = crate::context::Context::default().with_deadline(deadline);
    let error = pool.claim().context(context).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    pool.drain().await.unwrap();
    assert!(world.provider.living().is_empty());
}

#[tokio::test]
async fn the_next_one_is_made_while_a_claim_waits() {
    let world = World::new(Scripted::that_claims_nothing()).await;
    let pool = filled(&world, host(), 1).await;
    let claim = tokio::spawn({
        let pool = pool.clone();
        async move { pool.claim().await }
    });
    // The keeper looks by itself too, after ten seconds.
    let made = until(async || pool.stats().made == 2);
    let made = tokio::time::timeout(Duration::from_secs(5), made);
    made.await.expect("the keeper was not woken");
    assert!(!claim.is_finished());
    // A drain waits for the claim, and is told of its end.
    let draining = tokio::spawn(async move { pool.drain().await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!draining.is_finished());
    claim.abort();
    let drained = tokio::time::timeout(Duration::from_secs(5), draining);
    drained.await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_error_is_told_and_tried_again_more_and_more_slowly() {
    let world = World::new(Scripted::new()).await;
    for _ in 0..3 {
        let error = Error::new(ErrorKind::NoSpace, "no room for it");
        world.provider.fail(OperationKind::Create, error);
    }
    let begun = std::time::Instant::now();
    let pool = world.engine.pool(host()).size(1).await.unwrap();
    let error = pool.filled().await.unwrap_err();
    assert!(error.to_string().contains("no room for it"), "{error}");
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    // A claim that finds none makes one, and has the real error.
    let error = pool.claim().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    until(async || pool.stats().ready == 1).await;
    assert!(
        begun.elapsed() >= Duration::from_millis(300),
        "it did not pause"
    );
    let stats = pool.stats();
    assert_eq!((stats.failed, stats.last_error), (2, None));
    assert_eq!(world.provider.living().len(), 1);
}

#[tokio::test]
async fn a_drain_ends_all_that_wait_and_those_that_are_being_made() {
    let world = World::new(Scripted::gated()).await;
    let pool = world.engine.pool(host()).size(2).refill_at_once(2).await;
    let pool = pool.unwrap();
    until(async || pool.stats().making == 2).await;
    let draining = tokio::spawn({
        let pool = pool.clone();
        async move { pool.drain().await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!draining.is_finished(), "it did not wait for what is made");
    world.provider.open_gate();
    draining.await.unwrap().unwrap();
    assert!(world.provider.living().is_empty());
    assert_eq!(pool.claim().await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(pool.filled().await.unwrap_err().kind(), ErrorKind::Conflict);
    pool.drain().await.unwrap();
    let all = records(&world).await;
    assert!(all.iter().all(|r| r.phase == Phase::Ended), "{all:?}");
}

#[tokio::test]
async fn the_last_handle_and_the_engine_s_end_drain() {
    let world = World::new(Scripted::new()).await;
    let pool = filled(&world, host(), 2).await;
    let claimed = pool.claim().await.unwrap();
    let clone = pool.clone();
    drop(pool);
    clone.filled().await.unwrap();
    drop(clone);
    until(async || world.provider.living() == [claimed.id().clone()]).await;

    let _pool = filled(&world, host(), 2).await;
    assert_eq!(world.provider.living().len(), 3);
    world.engine.close().await.unwrap();
    assert_eq!(world.provider.living(), [claimed.id().clone()]);
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_before_anything_is_made() {
    let refused = async |capabilities: Capabilities, change: fn(SandboxSpec) -> SandboxSpec| {
        let world = World::new(Scripted::with(capabilities)).await;
        let error = world.engine.pool(change(host())).await.unwrap_err();
        assert_eq!(world.provider.count(OperationKind::Create), 0);
        error
    };
    let mut cannot = all_capabilities();
    cannot.claim = false;
    let error = refused(cannot, |spec| spec).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.fact("need"), Some("claim"));
    let mut endless = all_capabilities();
    (endless.attached_lifetime, endless.ttl) = (false, Level::Absent);
    assert_eq!(
        refused(endless, |spec| spec).await.kind(),
        ErrorKind::Unsupported
    );
    let error = refused(all_capabilities(), |mut spec| {
        spec.secrets
            .insert("S".into(), SecretReference::Env("S".into()));
        spec
    });
    assert_eq!(error.await.fact("field"), Some("secrets"));
    let error = refused(all_capabilities(), |spec| spec.memory_mib(0)).await;
    assert_eq!(error.fact("field"), Some("memory_mib"));
}

#[tokio::test]
async fn a_claim_that_is_not_allowed_takes_none() {
    let provider = Scripted::new();
    let engine = Engine::builder()
        .provider("scripted", Arc::clone(&provider) as _)
        .policy(Policy {
            max_ttl: Some(Duration::from_mins(1)),
            ..Policy::default()
        })
        .build()
        .await
        .unwrap();
    let pool = engine.pool(host()).size(1).await.unwrap();
    pool.filled().await.unwrap();
    let error = pool.claim().ttl(Duration::from_secs(61)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(pool.claim().env("A=B", "x").await.is_err());
    assert!(pool.claim().label("stacyvm.pool", "x").await.is_err());
    assert!(pool.claim().file("", "x").await.is_err());
    let missing = SecretReference::File("/nonexistent".into());
    let error = pool.claim().secret("S", missing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(pool.stats().ready, 1);
    assert_eq!(provider.count(OperationKind::Create), 1);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_ends_the_claim_and_its_sandbox() {
    let world = World::new(Scripted::new()).await;
    let pool = filled(&world, host(), 1).await;
    let id = world.provider.living().remove(0);
    let error = Error::new(ErrorKind::PermissionDenied, "not there");
    world.provider.fail(OperationKind::WriteFile, error);
    let error = pool.claim().file("/etc/x", "x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(world.provider.claims().is_empty());
    until(async || !world.provider.living().contains(&id)).await;
    let sandbox = pool.claim().file("/workspace/x", "x").await.unwrap();
    assert_ne!(*sandbox.id(), id);
}

#[tokio::test]
async fn a_claim_that_is_refused_leaves_nothing_of_it_on_record() {
    let world = World::new(Scripted::new()).await;
    let spec = host().label("of", "pool");
    for (env, kind) in [
        (None, ErrorKind::Conflict),
        (Some("x"), ErrorKind::Unavailable),
    ] {
        let pool = filled(&world, spec.clone(), 1).await;
        let id = world.provider.living().remove(0);
        let error = Error::new(kind, "the helper refuses");
        world.provider.fail(OperationKind::Claim, error);
        let mut claim = pool.claim().label("claimant", kind.code());
        if let Some(value) = env {
            claim = claim.env("A", value);
        }
        let sandbox = claim.await.unwrap();
        assert_ne!(*sandbox.id(), id);
        pool.drain().await.unwrap();
        let refused = record(&world, &id).await;
        assert_eq!(refused.phase, Phase::Ended);
        assert!(!refused.labels.contains_key("claimant"), "{refused:?}");
        assert!(refused.labels.contains_key("stacyvm.pool"), "{refused:?}");
        let all = Filter {
            all: true,
            labels: [("claimant".to_owned(), kind.code().to_owned())].into(),
            ..Filter::default()
        };
        let listed = world.engine.list(all).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].id, *sandbox.id());
        sandbox.kill().await.unwrap();
    }
}
