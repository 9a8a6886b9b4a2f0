//! The engine is killed and comes again, while its containers are ended by that or
//! live on: calls fail with a typed error in time, and the next reconcile leaves
//! nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use stacyvm::engine::{Engine, Filter};
use stacyvm::error::ErrorKind;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::sandbox::state::Phase;
use stacyvm::{Result, Sandbox};

use super::machine::{Machine, Options};
use super::residue::{UNKNOWN, Watch};
use super::{Random, create, eventually, open, rounds, soon, try_open, works};

/// What is under way.
const DEEDS: &[&str] = &[
    "nothing", "create", "create", "create", "run", "write", "pause", "destroy", "destroy", "pool",
];
/// How long a call may go on after its engine is dead.
const SOON: Duration = Duration::from_secs(10);

async fn act(engine: &Engine, sandbox: &Sandbox, deed: &str) -> Result<()> {
    match deed {
        "nothing" => Ok(()),
        "create" => create(engine, Lifetime::Detached).await.map(drop),
        "run" => sandbox.exec(["sleep", "300"]).output().await.map(drop),
        "write" => loop {
            let files = sandbox.files();
            files.write("/workspace/file", vec![7; 4 << 20]).await?;
        },
        "pause" => loop {
            sandbox.pause().await?;
            sandbox.resume().await?;
        },
        "destroy" => sandbox.kill().await.map(drop),
        "pool" => {
            let pool = engine.pool(super::spec(Lifetime::Detached)).size(1).await?;
            pool.filled().await?;
            pool.drain().await
        }
        other => panic!("no deed {other}"),
    }
}

struct Scene {
    machine: Machine,
    _place: tempfile::TempDir,
    state: PathBuf,
    watch: Watch,
    lives_on: bool,
}

impl Scene {
    async fn round(&self, deed: &str, after: Duration) -> Vec<String> {
        let at = format!("{deed} after {after:?}");
        let mut wrong = Vec::new();
        // Sockets of this host go on without the engine, and so do commands.
        let direct = deed == "nothing";
        let engine = try_open(&self.state, &self.machine.host, direct).await;
        let engine = engine.unwrap();
        let sandbox = soon(create(&engine, Lifetime::Detached)).await.unwrap();
        let mut work = Box::pin(act(&engine, &sandbox, deed));
        let early = tokio::time::timeout(after, &mut work).await;
        self.machine.kill();
        let begun = Instant::now();
        let done = match early {
            Ok(done) => Ok(done),
            Err(_) => tokio::time::timeout(SOON, &mut work).await,
        };
        let typed = [ErrorKind::Unavailable, ErrorKind::SandboxGone];
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) if typed.contains(&error.kind()) => {}
            other => {
                let took = begun.elapsed();
                wrong.push(format!("{at}: it ended so after {took:?}: {other:?}"));
            }
        }
        drop(work);
        if deed != "destroy" {
            let ran = tokio::time::timeout(SOON, sandbox.exec(["true"]).output()).await;
            let kind = ran.map(|ran| ran.map_err(|error| error.kind()));
            let right = match &kind {
                Ok(Ok(_)) => direct,
                Ok(Err(kind)) => typed.contains(kind) && !(direct && self.lives_on),
                Err(_) => false,
            };
            if !right {
                wrong.push(format!("{at}: a command without an engine: {kind:?}"));
            }
        }
        let made = tokio::time::timeout(SOON, create(&engine, Lifetime::Detached)).await;
        let kind = made.map(|made| made.map(drop).map_err(|error| error.kind()));
        if !matches!(kind, Ok(Err(ErrorKind::Unavailable))) {
            wrong.push(format!("{at}: a create without an engine: {kind:?}"));
        }
        drop(sandbox);
        drop(engine);
        self.machine.again().await;
        self.settles(&at, deed, &mut wrong).await;
        wrong
    }

    /// What the next process finds.
    async fn settles(&self, at: &str, deed: &str, wrong: &mut Vec<String>) {
        let engine = open(&self.state, &self.machine.host).await;
        let mut found = Vec::new();
        let mut said = String::new();
        let lives = |phase| matches!(phase, Phase::Running | Phase::Paused);
        let settled = eventually(async || {
            let done = engine.reconcile().await.unwrap();
            found = engine.list(Filter::default()).await.unwrap();
            said = format!("{done:?} {found:?}");
            // Not every engine keeps containers that it shall remove when they end.
            let most = match (self.lives_on, deed) {
                (false, _) => 0,
                (true, "create") => 2,
                (true, _) => 1,
            };
            let right = found.len() <= most;
            right && done.postponed.is_empty() && found.iter().all(|s| lives(s.phase))
        });
        if !settled.await {
            wrong.push(format!("{at}: then there is {said}"));
        }
        for info in found {
            let sandbox = engine.get(info.id).await.unwrap();
            if info.phase == Phase::Paused {
                sandbox.resume().await.unwrap();
            }
            if self.lives_on {
                works(&sandbox).await;
            }
            soon(sandbox.kill()).await.unwrap();
        }
        // One that is just ending is not listed, and not taken away.
        let mut left = BTreeSet::new();
        let gone = eventually(async || {
            engine.reconcile().await.unwrap();
            left = self.watch.changed(&self.machine, &self.state).await;
            // An engine that dies while it removes a container may forget it and leave
            // its shim, without a process below it, or a rest of its directory, which
            // no client can ask it for.
            left.retain(|what| {
                let shim = !self.lives_on && what.contains("process") && what.contains("shim");
                !shim && !what.ends_with(UNKNOWN)
            });
            left.is_empty()
        });
        if !gone.await {
            wrong.push(format!("{at}: {left:?}"));
        }
    }
}

async fn each(name: &str, short: usize, lives_on: bool) {
    let options = Options {
        live_restore: lives_on,
        ..Options::default()
    };
    let Some(machine) = Machine::start(name, options) else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let state = place.path().join("state");
    let engine = open(&state, &machine.host).await;
    let first = soon(create(&engine, Lifetime::Detached)).await.unwrap();
    first.kill().await.unwrap();
    drop(engine);
    // A start of the engine makes what stays.
    machine.kill();
    machine.again().await;
    let watch = Watch::begin(&machine, &state).await;
    let scene = Scene {
        machine,
        _place: place,
        state,
        watch,
        lives_on,
    };
    let mut random = Random::seeded(name.len() as u64);
    let mut deeds = DEEDS.to_vec();
    let mut wrong = Vec::new();
    for _ in 0..rounds().unwrap_or(1) {
        random.shuffle(&mut deeds);
        let count = rounds().map_or(short, |_| deeds.len());
        for deed in &deeds[..count] {
            let after = Duration::from_millis(random.below(300));
            let begun = Instant::now();
            let new = scene.round(deed, after).await;
            println!("{deed}: {:?}, wrong: {new:?}", begun.elapsed());
            wrong.extend(new);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_containers_end_with_it() {
    each("daemone", 5, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_containers_live_on() {
    each("daemonl", 5, true).await;
}
