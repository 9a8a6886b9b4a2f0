//! Many creates at once, creates that are given up, and two engines.

use std::time::Duration;

use stacyvm::SandboxSpec;
use stacyvm::engine::Filter;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::sandbox::state::Phase;

use super::common::residue::descriptors;
use super::common::{eventually, soon};
use super::{Random, ground, open, works};

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_creates_that_are_dropped_leave_nothing() {
    let Some(ground) = ground().await else { return };
    let mut random = Random::seeded(100);
    let mut arrived = 0;
    let before = descriptors();
    for _ in 0..100 {
        let limit = Duration::from_micros(random.below(80_000));
        let create = async { ground.engine.create(SandboxSpec::host()).await };
        if let Ok(made) = tokio::time::timeout(limit, create).await {
            arrived += 1;
            made.unwrap().kill().await.unwrap();
        }
    }
    eventually("every record is final", async || {
        let filter = Filter::default();
        ground.engine.list(filter).await.unwrap().is_empty()
    })
    .await;
    eprintln!("{arrived} of 100 arrived before they were dropped");
    ground.watch.nothing_left().await;
    // One more create sees to helpers that were given up last.
    ground
        .sandbox(Lifetime::Attached)
        .await
        .kill()
        .await
        .unwrap();
    eventually("descriptors are closed", async || {
        descriptors() <= before + 8
    })
    .await;
    drop(ground.engine);
    assert!(
        open(ground.state.path())
            .await
            .reconcile()
            .await
            .unwrap()
            .finished
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_at_once() {
    let Some(ground) = ground().await else { return };
    let creates: Vec<_> = (0..32)
        .map(|n| {
            let engine = ground.engine.clone();
            tokio::spawn(async move {
                let spec = SandboxSpec::host().label("number", n.to_string());
                let sandbox = engine.create(spec).await?;
                let output = sandbox.exec(["hostname"]).output().await?;
                Ok::<_, stacyvm::Error>((sandbox, output.stdout_text()))
            })
        })
        .collect();
    let mut made = Vec::new();
    for create in creates {
        let (sandbox, hostname) = soon(create).await.unwrap().unwrap();
        assert!(sandbox.id().as_str().starts_with(hostname.trim()));
        made.push(sandbox);
    }
    let all = ground.engine.list(Filter::default()).await.unwrap();
    assert_eq!(all.len(), 32);
    let ends: Vec<_> = made
        .into_iter()
        .map(|sandbox| tokio::spawn(async move { sandbox.kill().await }))
        .collect();
    for end in ends {
        soon(end).await.unwrap().unwrap();
    }
    let left = ground.watch.left_at_once().await;
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_engines_share_one_store() {
    let Some(ground) = ground().await else { return };
    let other = open(ground.state.path()).await;
    let lives: Vec<_> = (0..12)
        .map(|n| {
            let engine = if n % 2 == 0 { &ground.engine } else { &other }.clone();
            let across = if n % 2 == 0 { &other } else { &ground.engine }.clone();
            tokio::spawn(async move {
                let sandbox = engine.create(SandboxSpec::host()).await.unwrap();
                // Each engine finds what the other made, and may end it.
                let found = across.get(sandbox.id()).await.unwrap();
                works(&found).await;
                across.reconcile().await.unwrap();
                assert_eq!(sandbox.info().await.unwrap().phase, Phase::Running);
                let (here, there) = tokio::join!(sandbox.kill(), found.kill());
                here.unwrap();
                there.unwrap();
            })
        })
        .collect();
    for life in lives {
        soon(life).await.unwrap();
    }
    drop(other);
    ground.watch.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_holds_the_store_is_waited_for() {
    let Some(ground) = ground().await else { return };
    let file = std::fs::read_dir(ground.state.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "db" || e == "sqlite"))
        .expect("a store file");
    let mut holder = rusqlite::Connection::open(file).unwrap();
    let held = holder
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .unwrap();
    let engine = ground.engine.clone();
    let create = tokio::spawn(async move { engine.create(SandboxSpec::host()).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!create.is_finished(), "it did not wait for the writer");
    // Nothing is made before its intent is written.
    assert!(ground.watch.left_at_once().await.is_empty());
    held.rollback().unwrap();
    let sandbox = soon(create).await.unwrap().unwrap();
    works(&sandbox).await;
    sandbox.kill().await.unwrap();
    ground.watch.nothing_left().await;
}
