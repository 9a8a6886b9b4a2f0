//! A host process that is killed at a random moment of its work.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use stacyvm::engine::{Engine, Filter};
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::sandbox::state::Phase;
use stacyvm::{Sandbox, SandboxSpec};

use super::{Ground, Random, ground, open, works};

const STATE: &str = "STACYVM_FAULT_STATE";
const DEED: &str = "STACYVM_FAULT_DEED";

fn parameter(name: &str) -> String {
    let value = std::env::var_os(name).and_then(|v| v.into_string().ok());
    value.unwrap_or_default()
}

/// Tells the killer that the deed begins.
fn begin() {
    println!("begin");
    std::io::stdout().flush().unwrap();
}

async fn create(engine: &Engine, lifetime: Lifetime) -> Sandbox {
    let spec = SandboxSpec::host().lifetime(lifetime);
    engine.create(spec).await.unwrap()
}

/// Not a test of its own: the host that is killed.
#[tokio::test]
async fn host_entry() {
    let state = parameter(STATE);
    if state.is_empty() {
        return;
    }
    let engine = open(Path::new(&state)).await;
    let detached = Lifetime::Detached;
    match parameter(DEED).as_str() {
        "create" => {
            begin();
            create(&engine, detached).await;
        }
        "create attached" => {
            begin();
            create(&engine, Lifetime::Attached).await;
        }
        "exec" => {
            let sandbox = create(&engine, detached).await;
            begin();
            loop {
                let line = "setsid sleep 300 & head -c 300000 /dev/zero";
                sandbox.shell(line).output().await.unwrap();
            }
        }
        "files" => {
            let sandbox = create(&engine, detached).await;
            let data = vec![7; 4 << 20];
            begin();
            loop {
                let files = sandbox.files();
                files.write("/workspace/file", data.clone()).await.unwrap();
                files.read("/workspace/file").await.unwrap();
            }
        }
        "destroy" => {
            let sandbox = create(&engine, detached).await;
            begin();
            sandbox.kill().await.unwrap();
        }
        "pool" => {
            let pool = engine.pool(SandboxSpec::host()).size(2).await.unwrap();
            pool.filled().await.unwrap();
            begin();
            loop {
                let claim = pool.claim().env("A", "b").file("/workspace/a", "b");
                let sandbox = claim.lifetime(detached).await.unwrap();
                works(&sandbox).await;
                sandbox.kill().await.unwrap();
            }
        }
        other => panic!("no deed {other}"),
    }
    // Whoever kills it need not hurry.
    std::future::pending::<()>().await;
}

fn start(state: &Path, deed: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["host_killed::host_entry", "--exact", "--nocapture"])
        .env(STATE, state)
        .env(DEED, deed)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    let begun = BufReader::new(stdout)
        .lines()
        .any(|line| line.unwrap().ends_with("begin"));
    assert!(begun, "the host ended before it began");
    child
}

/// Kills hosts at this deed, each within `window` microseconds from its
/// beginning, and takes what the next engine finds.
async fn kill_at(deed: &str, window: u64, expected: &[usize]) {
    let Some(Ground {
        engine,
        watch,
        state,
        _alone,
    }) = ground().await
    else {
        return;
    };
    drop(engine);
    let rounds = std::env::var("STACYVM_FAULT_ROUNDS").map_or(5, |text| text.parse().unwrap());
    let mut random = Random::seeded(window);
    let mut counts = std::collections::BTreeMap::new();
    for round in 0..rounds {
        let after = random.below(window);
        let mut child = start(state.path(), deed);
        tokio::time::sleep(Duration::from_micros(after)).await;
        child.kill().unwrap();
        child.wait().unwrap();

        let at = format!("{deed}: round {round}, killed after {after} us");
        let engine = open(state.path()).await;
        // A helper may not have heard yet that its owner is gone; and one that
        // its host was just starting holds the owner's lock until it executes.
        super::common::eventually("what was half done is done", async || {
            let done = engine.reconcile().await.unwrap();
            assert!(done.postponed.is_empty(), "{at}: {done:?}");
            let found = engine.list(Filter::default()).await.unwrap();
            let settled = found.iter().all(|s| s.phase == Phase::Running);
            settled && expected.contains(&found.len())
        })
        .await;
        let found = engine.list(Filter::default()).await.unwrap();
        assert!(
            found.iter().all(|s| s.phase == Phase::Running),
            "{at}: {found:?}"
        );
        assert!(expected.contains(&found.len()), "{at}: {found:?}");
        *counts.entry(found.len()).or_insert(0) += 1;
        for info in found {
            let sandbox = engine.get(info.id).await.unwrap();
            works(&sandbox).await;
            sandbox.kill().await.unwrap();
        }
        assert!(
            engine.list(Filter::default()).await.unwrap().is_empty(),
            "{at}"
        );
        drop(engine);
        eprintln!("{at}");
        watch.nothing_left().await;
    }
    eprintln!("{deed}: sandboxes found, and how often: {counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_creates() {
    kill_at("create", 120_000, &[0, 1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_creates_an_attached_sandbox() {
    kill_at("create attached", 120_001, &[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_claims_and_refills() {
    kill_at("pool", 150_000, &[0, 1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_commands_run() {
    kill_at("exec", 200_000, &[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_files_move() {
    kill_at("files", 200_001, &[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_destroys() {
    kill_at("destroy", 60_000, &[0, 1]).await;
}
