//! Pools on the Docker provider, against the engine that
//! `STACYVM_TEST_DOCKER_HOST` names (`scripts/docker-host.sh start`). Without it
//! each test prints `not run`.
#![cfg(all(target_os = "linux", feature = "docker", feature = "sqlite"))]
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that panics has failed, and one that cannot run says why"
)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use common::pools::{claimed, filled, says, waiting};
use common::soon;
use stacyvm::config::{Config, ProviderConfig};
use stacyvm::engine::{Engine, Filter};
use stacyvm::provider::Reach;
use stacyvm::sandbox::spec::{Lifetime, SecretReference};
use stacyvm::{ErrorKind, SandboxSpec};

const IMAGE: &str = "stacyvm-test/busybox";
/// The state directory of the process that is killed.
const DOOMED: &str = "STACYVM_TEST_DOOMED_STATE";

fn parameter(name: &str) -> Option<String> {
    std::env::var_os(name)?.into_string().ok()
}

struct Host {
    address: String,
    engine: Engine,
    state: tempfile::TempDir,
}

impl Host {
    async fn open() -> Option<Self> {
        let Some(address) = parameter("STACYVM_TEST_DOCKER_HOST") else {
            eprintln!("not run: no docker engine (STACYVM_TEST_DOCKER_HOST)");
            return None;
        };
        let state = tempfile::tempdir().unwrap();
        let engine = engine(&address, state.path()).await;
        Some(Self {
            address,
            engine,
            state,
        })
    }

    /// What the engine's own client says.
    fn docker(&self, arguments: &[&str]) -> String {
        let output = Command::new("docker")
            .env("DOCKER_HOST", &self.address)
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "docker {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The name of the store, as containers have it.
    fn instance(&self, id: &str) -> String {
        let label = r#"{{index .Config.Labels "stacyvm.instance"}}"#;
        let name = format!("stacyvm-{id}");
        self.docker(&["inspect", "--format", label, &name])
            .trim()
            .to_owned()
    }

    /// The containers of a store, running or not.
    fn containers(&self, instance: &str) -> BTreeSet<String> {
        let filter = format!("label=stacyvm.instance={instance}");
        let names = self.docker(&["ps", "-a", "--filter", &filter, "--format", "{{.Names}}"]);
        let names = names.lines();
        names
            .map(|name| name.trim_start_matches("stacyvm-").to_owned())
            .collect()
    }

    fn tickets(&self) -> usize {
        let entries = files_below(self.state.path());
        let tickets = entries.iter().filter(|path| path.ends_with(".ticket"));
        tickets.count()
    }
}

async fn engine(address: &str, state: &Path) -> Engine {
    let mut config = Config::for_state_dir(state);
    config.default_provider = "docker".into();
    let docker = ProviderConfig {
        kind: "docker".into(),
        runtime: None,
        host: Some(address.to_owned()),
        certs: None,
        direct: None,
        users: None,
        exec: None,
        url: None,
    };
    config.providers.insert("docker".into(), docker);
    Engine::open(config).await.unwrap()
}

fn spec() -> SandboxSpec {
    SandboxSpec::image(IMAGE)
}

/// Repeats a check until it holds: a lease ends some ten seconds after its owner.
async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("after a minute still not: {what}");
}

fn files_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_below(&entry.path()));
        } else if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            found.push(entry.path().to_str().unwrap().to_owned());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_claim_brings_holds_for_every_process() {
    let Some(host) = Host::open().await else {
        return;
    };
    let pool = filled(&host.engine, spec().env("A", "pool").env("B", "pool"), 2).await;
    let secret = host.state.path().join("secret");
    std::fs::write(&secret, "hunter2-of-a-claim").unwrap();
    let reference = SecretReference::File(secret.to_str().unwrap().to_owned());
    let claim = pool
        .claim()
        .env("A", "claim")
        .secret("S", reference)
        .label("k", "v")
        .file("/workspace/in/a.txt", "hello\n")
        .ttl(Duration::from_secs(500));
    let sandbox = soon(async { claim.await }).await.unwrap();
    std::fs::remove_file(&secret).unwrap();
    let line = "echo $A $B $S; cat in/a.txt";
    let expected = "claim pool hunter2-of-a-claim\nhello\n";
    assert_eq!(says(&sandbox, line).await, expected);
    // As another process has one.
    let other = engine(&host.address, host.state.path()).await;
    let same = other.get(sandbox.id()).await.unwrap();
    assert_eq!(says(&same, line).await, expected);
    let info = same.info().await.unwrap();
    assert_eq!(info.env_names, ["A", "B", "S"]);
    assert_eq!(info.labels.get("k").unwrap(), "v");
    assert!(!info.labels.contains_key("stacyvm.pool"), "{info:?}");
    assert_eq!(info.lifetime, Lifetime::Detached);
    let left = info.ends.unwrap().duration_since(SystemTime::now());
    assert!(left.unwrap() > Duration::from_secs(450), "{info:?}");
    for file in files_below(host.state.path()) {
        let bytes = std::fs::read(&file).unwrap();
        let secret = b"hunter2-of-a-claim";
        assert!(!bytes.windows(secret.len()).any(|w| w == secret), "{file}");
    }
    let container = format!("stacyvm-{}", sandbox.id());
    assert!(!host.docker(&["inspect", &container]).contains("hunter2"));
    // What waits has nothing of it, and its own end.
    let plain = pool.claim().lifetime(Lifetime::Attached);
    let plain = soon(async { plain.await }).await.unwrap();
    assert_eq!(
        says(&plain, "echo $A $B $S; ls /workspace").await,
        "pool pool\n"
    );
    assert_eq!(plain.info().await.unwrap().ends, None);
    assert_eq!((pool.stats().warm, pool.stats().cold), (2, 0));
    for sandbox in [sandbox, plain] {
        soon(sandbox.kill()).await.unwrap();
    }
    soon(pool.drain()).await.unwrap();
    other.close().await.unwrap();
    assert_eq!(host.tickets(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_claims_at_once_get_a_sandbox_each_and_nothing_is_left() {
    let Some(host) = Host::open().await else {
        return;
    };
    let pool = filled(&host.engine, spec(), 2).await;
    let instance = host.instance(waiting(&host.engine, &pool).await.first().unwrap());
    let claims: Vec<_> = (0..5)
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
    let ids: BTreeSet<_> = all.iter().map(|sandbox| sandbox.id().to_string()).collect();
    assert_eq!(ids.len(), 5, "one was given away twice");
    assert!(pool.stats().warm >= 2, "{:?}", pool.stats());
    soon(pool.drain()).await.unwrap();
    // A drain ends those that wait, and no other one.
    assert_eq!(host.containers(&instance), ids);
    for sandbox in all {
        soon(sandbox.kill()).await.unwrap();
    }
    assert!(host.containers(&instance).is_empty());
    assert_eq!(host.tickets(), 0);
    let left = host.engine.leaks(Reach::Own).await.unwrap().leaks;
    assert!(left.is_empty(), "{left:#?}");
    let listed = host.engine.list(Filter::default()).await.unwrap();
    assert!(listed.is_empty(), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_stands_still_or_has_ended_is_not_given_away() {
    let Some(host) = Host::open().await else {
        return;
    };
    let pool = filled(&host.engine, spec().lifetime(Lifetime::Attached), 2).await;
    let old = waiting(&host.engine, &pool).await;
    assert_eq!(old.len(), 2, "{old:?}");
    let mut ids = old.iter();
    // Nobody but the pool uses one that waits.
    let first = ids.next().unwrap();
    let found = host.engine.get(first).await.unwrap();
    let error = found.exec(["true"]).output().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    host.docker(&["pause", &format!("stacyvm-{first}")]);
    host.docker(&["kill", &format!("stacyvm-{}", ids.next().unwrap())]);
    let instance = host.instance(first);
    for _ in 0..2 {
        let sandbox = claimed(&pool).await;
        assert!(!old.contains(sandbox.id().as_str()), "{old:?}");
        assert_eq!(says(&sandbox, "echo well").await, "well\n");
        soon(sandbox.kill()).await.unwrap();
    }
    soon(pool.drain()).await.unwrap();
    assert!(host.containers(&instance).is_empty());
    assert_eq!(host.tickets(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_image_has_another_id_now_is_not_given_away() {
    let Some(host) = Host::open().await else {
        return;
    };
    let name = format!("stacyvm-test/pool:{}", std::process::id());
    host.docker(&["tag", IMAGE, &name]);
    let spec = SandboxSpec::image(&name).lifetime(Lifetime::Attached);
    let pool = filled(&host.engine, spec, 1).await;
    let sandbox = claimed(&pool).await;
    assert_eq!(says(&sandbox, "echo $MADE").await, "\n");
    soon(sandbox.kill()).await.unwrap();
    soon(pool.filled()).await.unwrap();
    let made = host.docker(&["create", IMAGE, "true"]);
    host.docker(&["commit", "--change", "ENV MADE=later", made.trim(), &name]);
    host.docker(&["rm", made.trim()]);
    let sandbox = claimed(&pool).await;
    assert_eq!(says(&sandbox, "echo $MADE").await, "later\n");
    assert_eq!((pool.stats().warm, pool.stats().replaced), (1, 1));
    soon(sandbox.kill()).await.unwrap();
    soon(pool.drain()).await.unwrap();
    host.docker(&["rmi", &name]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_an_engine_leaves_what_was_claimed_alone() {
    let Some(host) = Host::open().await else {
        return;
    };
    let short = engine(&host.address, host.state.path()).await;
    let pool = filled(&short, spec(), 2).await;
    let kept = claimed(&pool).await;
    let instance = host.instance(kept.id().as_str());
    soon(short.close()).await.unwrap();
    drop(pool);
    let kept = host.engine.get(kept.id()).await.unwrap();
    assert_eq!(
        host.containers(&instance),
        [kept.id().to_string()].into(),
        "what waited is still there"
    );
    assert_eq!(says(&kept, "echo well").await, "well\n");
    soon(kept.kill()).await.unwrap();
    assert!(host.containers(&instance).is_empty());
}

/// The part of the next test that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_is_to_be_killed() {
    let (Some(state), Some(address)) = (parameter(DOOMED), parameter("STACYVM_TEST_DOCKER_HOST"))
    else {
        return;
    };
    let engine = engine(&address, Path::new(&state)).await;
    let pool = filled(&engine, spec(), 3).await;
    // The detached one first: a lease that went on would be the first to end.
    let detached = claimed(&pool).await;
    let attached = pool.claim().lifetime(Lifetime::Attached).await.unwrap();
    let text = format!("{} {}", detached.id(), attached.id());
    let whole = Path::new(&state).join("whole");
    std::fs::write(&whole, text).unwrap();
    std::fs::rename(&whole, Path::new(&state).join("ids")).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_owner_leaves_what_was_claimed_as_detached_alone() {
    let Some(host) = Host::open().await else {
        return;
    };
    let mut doomed = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_owner_that_is_to_be_killed"])
        .env(DOOMED, host.state.path())
        .spawn()
        .unwrap();
    let file = host.state.path().join("ids");
    eventually("its sandboxes are claimed", async || file.exists()).await;
    let ids = std::fs::read_to_string(&file).unwrap();
    let (detached, attached) = ids.split_once(' ').unwrap();
    let instance = host.instance(detached);
    // Those two, and at least the one that still waits.
    let before = host.containers(&instance);
    assert!(before.len() > 2 && before.contains(attached), "{before:?}");
    doomed.kill().unwrap();
    doomed.wait().unwrap();
    // Nobody else does anything: leases end.
    let only = BTreeSet::from([detached.to_owned()]);
    eventually("one is left", async || {
        let left = host.containers(&instance);
        assert!(left.contains(detached), "the detached one ended: {left:?}");
        left == only
    })
    .await;
    let kept = host.engine.get(detached).await.unwrap();
    // For longer than is left of a lease, should it have one.
    assert_eq!(says(&kept, "sleep 3; echo well").await, "well\n");
    soon(kept.kill()).await.unwrap();
    assert!(host.containers(&instance).is_empty());
}
