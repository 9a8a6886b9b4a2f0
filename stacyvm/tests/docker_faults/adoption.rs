//! A host process that dies leaves a living sandbox to the next one.

use std::time::{Duration, SystemTime};

use stacyvm::engine::{Engine, Filter};
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::sandbox::state::Phase;
use stacyvm::{ExecEvent, ExitStatus, SignalScope};

use super::machine::{Machine, Options};
use super::residue::Watch;
use super::{create, eventually, host, open, soon, works};

struct Scene {
    machine: Machine,
    _place: tempfile::TempDir,
    state: std::path::PathBuf,
    watch: Watch,
}

impl Scene {
    async fn set(name: &str) -> Option<Self> {
        let machine = Machine::start(name, Options::default())?;
        let place = tempfile::tempdir().unwrap();
        let state = place.path().join("state");
        let engine = open(&state, &machine.host).await;
        let first = soon(create(&engine, Lifetime::Detached)).await.unwrap();
        first.kill().await.unwrap();
        let watch = Watch::begin(&machine, &state).await;
        Some(Self {
            machine,
            _place: place,
            state,
            watch,
        })
    }

    /// Has a host do this and kills it when it is done.
    async fn done_and_killed(&self, deed: &str) {
        let child = host::start(&self.state, &self.machine.host, deed, None);
        let ended = tokio::task::spawn_blocking(move || host::killed(child));
        let said = soon(ended).await.unwrap().unwrap_err();
        assert!(said.contains("done"), "{said}");
    }

    async fn open(&self) -> Engine {
        open(&self.state, &self.machine.host).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_command_that_runs() {
    let Some(scene) = Scene::set("adopt").await else {
        return;
    };
    scene.done_and_killed("ticking").await;
    let engine = scene.open().await;
    let done = engine.reconcile().await.unwrap();
    assert!(
        done.postponed.is_empty() && done.finished.is_empty(),
        "{done:?}"
    );
    let found = engine.list(Filter::default()).await.unwrap();
    assert_eq!(found.len(), 1);
    let sandbox = engine.get(&found[0].id).await.unwrap();
    works(&sandbox).await;
    let execs = sandbox.execs().await.unwrap();
    let running: Vec<_> = execs.iter().filter(|e| e.exited.is_none()).collect();
    assert_eq!(running.len(), 1, "{execs:?}");
    let mut process = sandbox.attach(&running[0].exec).await.unwrap();
    // What it wrote before, and what it writes now.
    let mut text = String::new();
    while !(text.contains("first") && text.contains("tick")) {
        match soon(process.next_event()).await.unwrap().unwrap() {
            ExecEvent::Stdout(bytes) => text += std::str::from_utf8(&bytes).unwrap(),
            other => panic!("{other:?} after {text:?}"),
        }
    }
    let signal = sandbox.signal(&running[0].exec, 15, SignalScope::Process);
    signal.await.unwrap();
    let status = soon(process.wait()).await.unwrap();
    assert_eq!(status, ExitStatus::Code { code: 3 });
    sandbox.kill().await.unwrap();
    scene
        .watch
        .nothing_changed(&scene.machine, &scene.state)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_time_is_over_or_not() {
    let Some(scene) = Scene::set("adoptt").await else {
        return;
    };
    // The agent's own timer ends the first, and nobody's but a reconcile the second,
    // whose agent stands still.
    for deed in ["short", "short paused"] {
        scene.done_and_killed(deed).await;
        let engine = scene.open().await;
        let found = engine.list(Filter::default()).await.unwrap();
        if let Some(info) = found.first() {
            let left = info.ends.unwrap().duration_since(SystemTime::now());
            tokio::time::sleep(left.unwrap_or_default() + Duration::from_millis(200)).await;
        }
        let mut found = Vec::new();
        let ended = eventually(async || {
            engine.reconcile().await.unwrap();
            found = engine.list(Filter::default()).await.unwrap();
            found.is_empty()
        });
        assert!(ended.await, "{deed}: {found:?}");
        // It may have ended between the two.
        engine.reconcile().await.unwrap();
        scene
            .watch
            .nothing_changed(&scene.machine, &scene.state)
            .await;
    }
    scene.done_and_killed("long").await;
    let engine = scene.open().await;
    engine.reconcile().await.unwrap();
    let found = engine.list(Filter::default()).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].phase, Phase::Running);
    let sandbox = engine.get(&found[0].id).await.unwrap();
    works(&sandbox).await;
    // Its end can be moved by whoever adopts it.
    sandbox.set_ttl(Some(Duration::from_secs(1))).await.unwrap();
    let gone = eventually(async || {
        engine.reconcile().await.unwrap();
        engine.list(Filter::default()).await.unwrap().is_empty()
    });
    assert!(gone.await);
    engine.reconcile().await.unwrap();
    scene
        .watch
        .nothing_changed(&scene.machine, &scene.state)
        .await;
}
