//! What is left is told from what is accounted for, over the mock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::context::Context;
use crate::engine::{Engine, Filter, PruneRequest};
use crate::error::{ErrorKind, Result};
use crate::id::{InstanceId, SandboxId};
use crate::layer::{Call, Layer, Next};
use crate::provider::{CreateRequest, OperationKind, Provider as _, Reach, Secrets};
use crate::providers::mock::Mock;
use crate::sandbox::spec::SandboxSpec;

async fn engine() -> (Arc<Mock>, Engine) {
    let mock = Arc::new(Mock::default());
    let engine = Engine::builder().provider("mock", Arc::clone(&mock) as _);
    (mock, engine.build().await.unwrap())
}

/// Makes a sandbox that no record tells of.
async fn unrecorded(mock: &Mock) -> SandboxId {
    let request = CreateRequest {
        id: SandboxId::random(),
        instance: InstanceId::random(),
        spec: SandboxSpec::image("any"),
        open_files_preferred: false,
        ends: None,
        secrets: Secrets::default(),
        waits: false,
    };
    mock.create(&Context::default(), &request).await.unwrap();
    request.id
}

#[tokio::test]
async fn what_no_record_accounts_for_is_a_leak_and_stays_while_it_lives() {
    let (mock, engine) = engine().await;
    let sandbox = engine.create(SandboxSpec::image("any")).await.unwrap();
    let report = engine.leaks(Reach::Own).await.unwrap();
    assert!(report.leaks.is_empty(), "{report:?}");
    let report = engine.leaks(Reach::Host).await.unwrap();
    assert_eq!(report.accounted[0].sandbox.as_ref(), Some(sandbox.id()));

    let stranger = unrecorded(&mock).await;
    let report = engine.leaks(Reach::Own).await.unwrap();
    let [leak] = &report.leaks[..] else {
        panic!("{report:?}")
    };
    assert_eq!(leak.sandbox.as_ref(), Some(&stranger));
    assert!(leak.owner_lives && !leak.remedy.is_empty());
    let error = engine.remove_leak(&leak.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let error = engine.remove_leak("sandbox:none").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.fact("remedy").is_some());
    // The record's own sandbox was never in danger.
    assert!(
        sandbox
            .exec(["true"])
            .output()
            .await
            .unwrap()
            .status
            .success()
    );
}

#[tokio::test]
async fn what_ended_and_was_not_taken_away_is_removed_by_its_id() {
    let (mock, engine) = engine().await;
    let cx = Context::default();
    let stranger = unrecorded(&mock).await;
    let past = std::time::SystemTime::now();
    mock.set_deadline(&cx, &stranger, Some(past)).await.unwrap();
    // The next call ends what is due, and its place is still taken.
    let report = engine.leaks(Reach::Own).await.unwrap();
    let [leak] = &report.leaks[..] else {
        panic!("{report:?}")
    };
    assert!(!leak.owner_lives);
    engine.remove_leak(&leak.id).await.unwrap();
    assert!(mock.leftovers().is_empty());
}

#[tokio::test]
async fn a_trial_counts_what_the_prune_removes() {
    let (_mock, engine) = engine().await;
    let spec = || SandboxSpec::image("any");
    let keyed = engine.create(spec()).idempotency_key("k").await.unwrap();
    let plain = engine.create(spec()).await.unwrap();
    for sandbox in [&keyed, &plain] {
        sandbox.kill().await.unwrap();
    }
    let at = std::time::SystemTime::now();
    let trial = PruneRequest {
        dry_run: true,
        at: Some(at),
        ..PruneRequest::default()
    };
    // The key of the other one is kept, and its record with it.
    assert_eq!(engine.prune(&trial).await.unwrap().records, 1);
    // What ends after the moment of the trial is not what was asked for.
    tokio::time::sleep(Duration::from_millis(2)).await;
    engine.create(spec()).await.unwrap().kill().await.unwrap();
    let real = PruneRequest {
        dry_run: false,
        ..trial
    };
    assert_eq!(engine.prune(&real).await.unwrap().records, 1);
    assert!(engine.get(keyed.id()).await.is_ok());
    let later = PruneRequest::default();
    assert_eq!(engine.prune(&later).await.unwrap().records, 1);
}

#[tokio::test]
async fn a_prune_knows_of_ends_that_no_record_tells_yet() {
    let (mock, engine) = engine().await;
    let living = engine.create(SandboxSpec::image("any")).await.unwrap();
    let ended = engine.create(SandboxSpec::image("any")).await.unwrap();
    let past = std::time::SystemTime::now();
    let cx = Context::default();
    mock.set_deadline(&cx, ended.id(), Some(past))
        .await
        .unwrap();
    let pruned = engine.prune(&PruneRequest::default()).await.unwrap();
    assert_eq!(pruned.records, 1);
    assert!(engine.get(ended.id()).await.is_err());
    assert!(engine.get(living.id()).await.is_ok());
}

#[tokio::test]
async fn records_of_ended_sandboxes_are_pruned_when_they_are_old_enough() {
    let (_mock, engine) = engine().await;
    let living = engine.create(SandboxSpec::image("any")).await.unwrap();
    let ended = engine.create(SandboxSpec::image("any")).await.unwrap();
    ended.kill().await.unwrap();
    let young = PruneRequest {
        older_than: Duration::from_hours(1),
        ..PruneRequest::default()
    };
    assert_eq!(engine.prune(&young).await.unwrap().records, 0);
    let trial = PruneRequest {
        dry_run: true,
        ..PruneRequest::default()
    };
    assert_eq!(engine.prune(&trial).await.unwrap().records, 1);
    assert!(engine.get(ended.id()).await.is_ok(), "a trial removed it");
    let pruned = engine.prune(&PruneRequest::default()).await.unwrap();
    assert_eq!(pruned.records, 1);
    assert!(engine.get(ended.id()).await.is_err());
    let all = Filter {
        all: true,
        ..Filter::default()
    };
    assert_eq!(engine.list(all).await.unwrap()[0].id, *living.id());
    // The living one takes room, and is told.
    let items = engine.disk_use().await.unwrap().items;
    assert!(items.iter().any(|item| item.name == living.id().as_str()));
}

/// Makes a sandbox, and ends one, during a look.
#[derive(Debug, Default)]
struct Busy {
    engine: OnceLock<Engine>,
    looks: AtomicUsize,
}

#[async_trait::async_trait]
impl Layer for Busy {
    fn name(&self) -> &'static str {
        "busy"
    }

    async fn around(&self, call: &Call<'_>, next: Next<'_>) -> Result<()> {
        let engine = self.engine.get();
        let Some(engine) = engine.filter(|_| call.operation.kind == OperationKind::Leftovers)
        else {
            return next.run(call.context).await;
        };
        let first = self.looks.fetch_add(1, Ordering::SeqCst) == 0;
        engine.create(SandboxSpec::image("any")).await?;
        let short = engine.create(SandboxSpec::image("any")).await?;
        let looked = next.run(call.context).await;
        if first {
            short.kill().await?;
        }
        looked
    }
}

#[tokio::test]
async fn what_is_made_or_ends_during_a_look_is_no_leak() {
    let mock = Arc::new(Mock::default());
    let busy = Arc::new(Busy::default());
    let engine = Engine::builder()
        .provider("mock", Arc::clone(&mock) as _)
        .layer(Arc::clone(&busy) as _)
        .build()
        .await
        .unwrap();
    busy.engine.set(engine.clone()).unwrap();
    let report = engine.leaks(Reach::Own).await.unwrap();
    assert!(report.leaks.is_empty(), "{report:?}");
    assert!(
        busy.looks.load(Ordering::SeqCst) > 1,
        "it was not looked again"
    );
    // What nobody accounts for is told all the same.
    let stranger = unrecorded(&mock).await;
    let report = engine.leaks(Reach::Own).await.unwrap();
    let leaks: Vec<_> = report.leaks.iter().map(|leak| &leak.sandbox).collect();
    assert_eq!(leaks, [&Some(stranger)]);
}
