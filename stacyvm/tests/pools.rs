//! Pools on the embedded provider.
#![cfg(all(target_os = "linux", feature = "oci"))]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use stacyvm::engine::Filter;
use stacyvm::provider::Reach;
use stacyvm::sandbox::spec::{Lifetime, SecretReference};
use stacyvm::{ErrorKind, Sandbox, SandboxSpec};

use common::pools::{claimed, filled, says, waiting};
use common::{eventually, soon};

/// Whether any file below a directory holds these bytes.
fn holds(directory: &Path, bytes: &[u8]) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        let found = std::fs::symlink_metadata(&path);
        match found {
            Ok(found) if found.is_dir() => holds(&path, bytes),
            Ok(found) if found.is_file() => {
                std::fs::read(&path).is_ok_and(|text| text.windows(bytes.len()).any(|w| w == bytes))
            }
            _ => false,
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_claim_brings_holds_for_every_process() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let spec = SandboxSpec::host().env("A", "pool").env("B", "pool");
    let pool = filled(&host.engine, spec, 2).await;
    let place = tempfile::tempdir().unwrap();
    let secret = place.path().join("secret");
    std::fs::write(&secret, "hunter2-of-a-claim").unwrap();
    let secret = SecretReference::File(secret.to_str().unwrap().to_owned());
    let claim = pool
        .claim()
        .env("A", "claim")
        .secret("S", secret)
        .label("k", "v")
        .file("/workspace/in/a.txt", "hello\n")
        .ttl(Duration::from_secs(500));
    let sandbox = soon(async { claim.await }).await.unwrap();
    let line = "echo $A $B $S; cat in/a.txt";
    let expected = "claim pool hunter2-of-a-claim\nhello\n";
    assert_eq!(says(&sandbox, line).await, expected);
    // Another engine on the same directory, as another process has one.
    let other = common::open(host.state.path().to_path_buf()).await;
    let same = other.get(sandbox.id()).await.unwrap();
    assert_eq!(says(&same, line).await, expected);
    let info = same.info().await.unwrap();
    assert_eq!(info.env_names, ["A", "B", "S"]);
    assert_eq!(info.labels.get("k").unwrap(), "v");
    assert_eq!(info.lifetime, Lifetime::Detached);
    let left = info
        .ends
        .unwrap()
        .duration_since(std::time::SystemTime::now());
    assert!(left.unwrap() > Duration::from_secs(450), "{info:?}");
    assert!(!holds(host.state.path(), b"hunter2-of-a-claim"));
    // What waits has nothing of it.
    let plain = claimed(&pool).await;
    assert_eq!(says(&plain, "echo $A $B $S").await, "pool pool\n");
    assert_eq!((pool.stats().warm, pool.stats().cold), (2, 0));
    for sandbox in [sandbox, plain] {
        soon(sandbox.kill()).await.unwrap();
    }
    drop(pool);
    other.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_claims_at_once_get_a_sandbox_each_and_nothing_is_left() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let pool = filled(&host.engine, SandboxSpec::host(), 4).await;
    let claims: Vec<_> = (0..12)
        .map(|number| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let claim = pool.claim().env("N", number.to_string());
                let sandbox = claim.lifetime(Lifetime::Attached).await.unwrap();
                assert_eq!(says(&sandbox, "echo $N").await, format!("{number}\n"));
                sandbox
            })
        })
        .collect();
    let mut all = Vec::new();
    for claim in claims {
        all.push(soon(claim).await.unwrap());
    }
    let ids: BTreeSet<_> = all.iter().map(|sandbox| sandbox.id().clone()).collect();
    assert_eq!(ids.len(), 12, "one was given away twice");
    assert!(pool.stats().warm >= 4, "{:?}", pool.stats());
    for sandbox in all {
        soon(sandbox.kill()).await.unwrap();
    }
    soon(pool.drain()).await.unwrap();
    let left = host.engine.leaks(Reach::Own).await.unwrap().leaks;
    assert!(left.is_empty(), "{left:#?}");
    assert!(waiting(&host.engine, &pool).await.is_empty());
    let label = host.engine.list(Filter::default()).await.unwrap();
    assert!(label.is_empty(), "{label:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_ended_or_was_ended_is_not_given_away() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let engine = &host.engine;
    let pool = filled(engine, SandboxSpec::host(), 2).await;
    let old = waiting(engine, &pool).await;
    assert_eq!(old.len(), 2, "{old:?}");
    assert!(engine.leaks(Reach::Own).await.unwrap().leaks.is_empty());
    let mut ids = old.iter();
    // The first process of one is killed; an operator ends the other.
    let found = engine.get(ids.next().unwrap()).await.unwrap();
    let error = found.exec(["true"]).output().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let agent = found.info().await.unwrap().host_pid.unwrap();
    let agent = rustix::process::Pid::from_raw(i32::try_from(agent).unwrap()).unwrap();
    rustix::process::kill_process(agent, rustix::process::Signal::KILL).unwrap();
    engine
        .get(ids.next().unwrap())
        .await
        .unwrap()
        .kill()
        .await
        .unwrap();
    let one = claimed(&pool).await;
    let two = claimed(&pool).await;
    for sandbox in [&one, &two] {
        assert!(!old.contains(sandbox.id().as_str()), "{old:?}");
        assert_eq!(says(sandbox, "echo well").await, "well\n");
        sandbox.kill().await.unwrap();
    }
    drop(pool);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_shows_a_directory_that_was_exchanged_is_not_given_away() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let shown = place.path().join("shown");
    std::fs::create_dir(&shown).unwrap();
    std::fs::write(shown.join("which"), "old").unwrap();
    let mount = stacyvm::sandbox::spec::Mount {
        target: "/shown".into(),
        source: stacyvm::sandbox::spec::MountSource::Host(shown.to_str().unwrap().into()),
        writable: false,
        size_mib: None,
    };
    let spec = SandboxSpec::host()
        .mount(mount)
        .lifetime(Lifetime::Attached);
    let pool = filled(&host.engine, spec, 1).await;
    // What is written in it is seen; that makes nothing old.
    std::fs::write(shown.join("which"), "newer").unwrap();
    let sandbox = claimed(&pool).await;
    assert_eq!(says(&sandbox, "cat /shown/which").await, "newer");
    assert_eq!(pool.stats().warm, 1);
    soon(pool.filled()).await.unwrap();
    std::fs::rename(&shown, place.path().join("away")).unwrap();
    std::fs::create_dir(&shown).unwrap();
    std::fs::write(shown.join("which"), "new").unwrap();
    let sandbox = claimed(&pool).await;
    assert_eq!(says(&sandbox, "cat /shown/which").await, "new");
    assert_eq!((pool.stats().warm, pool.stats().replaced), (1, 1));
    soon(pool.drain()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn life_and_idleness_begin_with_the_claim() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let spec = SandboxSpec::host()
        .idle_timeout(Duration::from_secs(1))
        .ttl(Duration::from_secs(3))
        .lifetime(Lifetime::Attached);
    let pool = filled(&host.engine, spec, 2).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let idle = claimed(&pool).await;
    let busy = claimed(&pool).await;
    assert_eq!((pool.stats().warm, pool.stats().replaced), (2, 0));
    let begun = std::time::Instant::now();
    let work = busy
        .exec(["sleep", "60"])
        .background()
        .start()
        .await
        .unwrap();
    work.detach().unwrap();
    let ended =
        async |sandbox: &Sandbox| sandbox.info().await.unwrap().phase == stacyvm::Phase::Ended;
    eventually("the idle one ended", async || ended(&idle).await).await;
    assert!(
        !ended(&busy).await,
        "the busy one ended after {:?}",
        begun.elapsed()
    );
    eventually("the busy one ended", async || ended(&busy).await).await;
    assert!(
        begun.elapsed() > Duration::from_millis(2500),
        "{:?}",
        begun.elapsed()
    );
    drop(pool);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_without_an_end_has_none() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let spec = SandboxSpec::host().lifetime(Lifetime::Attached);
    let pool = host
        .engine
        .pool(spec)
        .size(1)
        .max_age(Duration::from_secs(1));
    let pool = pool.await.unwrap();
    soon(pool.filled()).await.unwrap();
    let sandbox = claimed(&pool).await;
    assert_eq!(sandbox.info().await.unwrap().ends, None);
    // Its place is taken by one after the other, none of them too old.
    let made = pool.stats().made;
    eventually("it was replaced", async || pool.stats().made >= made + 2).await;
    assert_eq!(says(&sandbox, "echo well").await, "well\n");
    eprintln!("{:?}", pool.stats());
    drop(pool);
}
