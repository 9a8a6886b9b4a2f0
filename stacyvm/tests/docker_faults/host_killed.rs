//! The host process is killed at each point of its work with Docker.

use std::collections::BTreeSet;
use std::path::PathBuf;

use stacyvm::engine::{Engine, Filter};
use stacyvm::faults;
use stacyvm::sandbox::state::Phase;

use super::machine::{Machine, Options};
use super::residue::Watch;
use super::{Random, decoys, eventually, host, open, rounds, soon, works};

/// What a host does, how many sandboxes may be found then, and the points of it.
type Deed = (&'static str, &'static [usize], &'static [&'static str]);

const DEEDS: &[Deed] = &[
    // No sandbox was made yet on this engine, which lacks the agent's volume.
    (
        "first",
        &[0],
        &[
            "docker.fill.made",
            "docker.fill.filled",
            "docker.fill.removed",
        ],
    ),
    // Until its record says that it was made its caller never got it.
    (
        "create",
        &[0],
        &[
            "create.intended",
            "docker.create.kept",
            "docker.create.made",
            "docker.create.attached",
            "docker.create.started",
            "docker.create.told",
            "docker.direct.made",
            "docker.direct.reached",
            "docker.create.connected",
            "create.made",
        ],
    ),
    ("create indirectly", &[0], &["docker.standard.reached"]),
    ("create", &[1], &["create.recorded"]),
    (
        "create attached",
        &[0],
        &["docker.create.started", "create.recorded"],
    ),
    (
        "refill",
        &[0],
        &[
            "docker.create.made",
            "pool.refill.made",
            "pool.refill.ready",
        ],
    ),
    ("claim", &[0], &["docker.claim.kept", "pool.claim.files"]),
    // The record is written beside it.
    ("claim", &[0, 1], &["pool.claim.given"]),
    ("claim", &[1], &["pool.claim.recorded"]),
    (
        "drain",
        &[0],
        &["docker.destroy.begun", "docker.destroy.gone"],
    ),
    (
        "run",
        &[1],
        &["exec.asked", "exec.started", "exec.output", "exec.exited"],
    ),
    ("background", &[1], &["exec.noting"]),
    ("write", &[1], &["file.chunk-sent", "file.written"]),
    ("read", &[1], &["file.chunk-read"]),
    ("again", &[1], &["docker.direct.reached"]),
    (
        "again indirectly",
        &[1],
        &["docker.bridge.made", "docker.bridge.opened"],
    ),
    ("destroy", &[1], &["destroy.begun"]),
    (
        "destroy",
        &[0],
        &[
            "destroy.intended",
            "docker.destroy.begun",
            "docker.destroy.asked",
            "docker.destroy.gone",
            "docker.destroy.forgotten",
            "destroy.done",
        ],
    ),
];

/// An engine with decoys, a state directory, and what was there.
struct Scene {
    machine: Machine,
    _place: tempfile::TempDir,
    state: PathBuf,
    watch: Watch,
}

impl Scene {
    async fn set(name: &str) -> Option<Self> {
        let machine = Machine::start(name, Options::default())?;
        let place = tempfile::tempdir().unwrap();
        let state = place.path().join("state");
        let engine = open(&state, &machine.host).await;
        // The agent's volume is there from now on.
        let sandbox = super::create(&engine, stacyvm::sandbox::spec::Lifetime::Detached);
        soon(sandbox).await.unwrap().kill().await.unwrap();
        let decoys = decoys::place(&machine.docker().await, engine.instance()).await;
        assert!(decoys >= 10);
        let watch = Watch::begin(&machine, &state).await;
        Some(Self {
            machine,
            _place: place,
            state,
            watch,
        })
    }

    async fn open(&self) -> Engine {
        open(&self.state, &self.machine.host).await
    }

    /// A round; how many sandboxes the next start found, and what is wrong.
    async fn round(&self, deed: &str, point: &str, found: &[usize]) -> Vec<String> {
        let at = format!("{deed} at {point}");
        if deed == "first" {
            let docker = self.machine.docker().await;
            let all = docker.list_volumes(None::<bollard::query_parameters::ListVolumesOptions>);
            for volume in all.await.unwrap().volumes.unwrap_or_default() {
                // Not those of decoys.
                if volume.name.len() > 60 {
                    let none = None::<bollard::query_parameters::RemoveVolumeOptions>;
                    docker.remove_volume(&volume.name, none).await.unwrap();
                }
            }
        }
        let child = host::start(&self.state, &self.machine.host, deed, Some(point));
        let ended = tokio::task::spawn_blocking(move || host::killed(child));
        let mut wrong = Vec::new();
        if let Err(why) = soon(ended).await.unwrap() {
            wrong.push(format!("{at}: {why}"));
        }
        let engine = self.open().await;
        let mut all = Vec::new();
        let settled = eventually(async || {
            let done = engine.reconcile().await.unwrap();
            all = engine.list(Filter::default()).await.unwrap();
            let run = all.iter().all(|s| s.phase == Phase::Running);
            done.postponed.is_empty() && run && found.contains(&all.len())
        });
        if !settled.await {
            wrong.push(format!("{at}: found {all:?}, expected {found:?}"));
        }
        // One may have ended between the two.
        engine.reconcile().await.unwrap();
        for info in all {
            let sandbox = engine.get(info.id).await.unwrap();
            works(&sandbox).await;
            sandbox.kill().await.unwrap();
        }
        if deed == "first" {
            // It fills the volume again, within far less than a minute.
            let begun = std::time::Instant::now();
            let made = super::create(&engine, stacyvm::sandbox::spec::Lifetime::Detached);
            soon(made).await.unwrap().kill().await.unwrap();
            let took = begun.elapsed();
            if took > std::time::Duration::from_secs(30) {
                wrong.push(format!("{at}: the next create took {took:?}"));
            }
        }
        drop(engine);
        for what in self.watch.staying(&self.machine, &self.state).await {
            wrong.push(format!("{at}: {what}"));
        }
        wrong
    }
}

/// Rounds of a part of the deeds: `short` points of them by the seed, what comes
/// first always among them, or all as often as is asked for.
async fn each(name: &str, short: usize, part: fn(&str) -> bool) {
    let Some(scene) = Scene::set(name).await else {
        return;
    };
    let mut all: Vec<_> = DEEDS
        .iter()
        .filter(|(deed, ..)| part(deed))
        .flat_map(|(deed, found, points)| points.iter().map(move |p| (*deed, *p, *found)))
        .collect();
    let mut random = Random::seeded(name.len() as u64);
    let mut wrong = Vec::new();
    let times = rounds().unwrap_or(1);
    for _ in 0..times {
        random.shuffle(&mut all);
        if rounds().is_none() {
            all.sort_by_key(|(deed, ..)| *deed != "first");
            all.truncate(short);
        }
        for (deed, point, found) in &all {
            let begun = std::time::Instant::now();
            let new = scene.round(deed, point, found).await;
            println!("{deed} at {point}: {:?} {}", begun.elapsed(), new.len());
            wrong.extend(new);
        }
    }
    println!(
        "{name}: {} points, {} rounds, {} wrong",
        all.len(),
        all.len() * times,
        wrong.len()
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_creates() {
    each("hostc", 10, |deed| {
        deed.starts_with("create") || deed == "first"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_pools() {
    each("hostp", 4, |deed| {
        ["refill", "claim", "drain"].contains(&deed)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_works_and_destroys() {
    each("hostw", 8, |deed| {
        let deeds = ["run", "background", "write", "read", "again", "destroy"];
        deeds.contains(&deed.trim_end_matches(host::INDIRECTLY))
    })
    .await;
}

#[test]
fn every_point_of_docker_has_a_round() {
    let points = DEEDS.iter().flat_map(|(.., points)| points.iter());
    let points: BTreeSet<_> = points.copied().collect();
    let own: BTreeSet<_> = faults::DOCKER.iter().copied().collect();
    assert!(own.is_subset(&points), "{:?}", own.difference(&points));
    assert!(points.len() >= 20);
}
