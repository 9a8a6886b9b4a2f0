//! Creates that pull their image, on the embedded provider.
#![cfg(all(target_os = "linux", feature = "oci", feature = "registry"))]
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests, with parts that others use more of"
)]

#[path = "common/archive.rs"]
mod archive;
mod common;
#[path = "image_registry/made.rs"]
mod made;
#[path = "image_registry/server.rs"]
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Host, eventually, soon};
use futures_util::future::join_all;
use made::Made;
use server::Server;
use stacyvm::config::Config;
use stacyvm::engine::Engine;
use stacyvm::image::Images;
use stacyvm::provider::Pull;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Context, Create, CreateStep, ErrorKind, Filter};

struct World {
    host: Host,
    server: Server,
    /// Blobs do not end while it is set.
    hangs: Arc<AtomicBool>,
}

impl Drop for World {
    fn drop(&mut self) {
        // A test that fails ends: its runtime waits for threads that read blobs.
        self.hangs.store(false, Ordering::Relaxed);
    }
}

impl World {
    async fn new(change: impl FnOnce(&mut Config, &Server)) -> Option<Self> {
        if stacyvm_agent::AGENT.is_empty() {
            eprintln!("not run: this build carries no agent");
            return None;
        }
        let hangs = Arc::new(AtomicBool::new(false));
        let wait = Arc::clone(&hangs);
        let server = Server::start(
            &Made::here(),
            Box::new(move |request, _| {
                while request.path.contains("/blobs/") && wait.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                false
            }),
        );
        let state = common::state();
        let mut config = Config::for_state_dir(state.path());
        change(&mut config, &server);
        let engine = Engine::open(config).await.unwrap();
        let host = Host { engine, state };
        Some(Self {
            host,
            server,
            hangs,
        })
    }

    fn store(&self) -> Images {
        Images::open(&self.host.state.path().join("images")).unwrap()
    }

    fn create(&self) -> Create {
        let image = self.server.reference().to_string();
        let spec = stacyvm::SandboxSpec::image(image).lifetime(Lifetime::Attached);
        self.host.engine.create(spec)
    }

    async fn is_without_traces(&self) {
        assert!(
            self.host
                .engine
                .list(Filter::default())
                .await
                .unwrap()
                .is_empty()
        );
        let store = self.store();
        eventually("nothing is in work", async || {
            let work = std::fs::read_dir(store.path().join("tmp")).unwrap();
            work.count() == 0
        })
        .await;
        assert_eq!(store.list().unwrap().len(), 0);
    }
}

#[tokio::test]
async fn creates_at_once_pull_a_missing_image_once_and_later_ones_ask_nobody() {
    let Some(world) = World::new(|_, _| ()).await else {
        return;
    };
    let most = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&most);
    let create = || {
        let seen = Arc::clone(&seen);
        let create = world.create().on_pull(move |progress| {
            seen.fetch_max(progress.done, Ordering::Relaxed);
        });
        async { soon(async { create.await }).await.unwrap() }
    };
    let all = join_all([create(), create(), create(), create()]).await;
    assert_eq!(world.server.count("/manifests/"), 1);
    assert_eq!(world.server.count("/blobs/"), 3);
    assert!(
        most.load(Ordering::Relaxed) > 6_000_000,
        "no progress was told"
    );
    let before = world.server.seen.lock().unwrap().len();
    let again = create().await;
    let never = soon(async { world.create().pull(Pull::Never).await }).await;
    assert_eq!(
        world.server.seen.lock().unwrap().len(),
        before,
        "a registry was asked"
    );

    // What a tag stands for is looked up again where that is asked for.
    let always = soon(async { world.create().pull(Pull::Always).await }).await;
    assert_eq!(world.server.count("/manifests/"), 2);
    assert_eq!(world.server.count("/blobs/"), 3);
    for sandbox in all
        .iter()
        .chain([&again, &never.unwrap(), &always.unwrap()])
    {
        soon(sandbox.kill()).await.unwrap();
    }
}

#[tokio::test]
async fn a_pull_is_watched_where_the_create_is_waited_for() {
    let Some(world) = World::new(|_, _| ()).await else {
        return;
    };
    let mut creating = world.create().watched();
    let (mut told, mut made) = (Vec::new(), None);
    while made.is_none() {
        match soon(creating.next()).await.unwrap() {
            CreateStep::Pulling(progress) => told.push(progress),
            CreateStep::Made(sandbox) => made = Some(sandbox),
        }
    }
    assert!(told.is_sorted_by_key(|progress| progress.done), "{told:?}");
    let last = told.last().expect("progress");
    assert!(last.done > 6_000_000 && last.done <= last.total, "{told:?}");
    let after = creating.next().await.unwrap_err();
    assert_eq!(after.kind(), ErrorKind::Conflict, "{after}");
    soon(made.unwrap().kill()).await.unwrap();
}

#[tokio::test]
async fn a_watched_create_that_is_dropped_leaves_nothing() {
    let Some(world) = World::new(|_, _| ()).await else {
        return;
    };
    world.hangs.store(true, Ordering::Relaxed);
    let mut creating = world.create().watched();
    // It is under way also while nobody waits for it.
    let early = tokio::time::timeout(Duration::from_millis(50), creating.next()).await;
    assert!(!matches!(early, Ok(Err(_))), "{early:?}");
    eventually("a blob is asked for", async || {
        world.server.count("/blobs/") > 0
    })
    .await;
    drop(creating);
    world.hangs.store(false, Ordering::Relaxed);
    world.is_without_traces().await;
}

#[tokio::test]
async fn what_is_not_to_be_pulled_is_missing_with_its_remedy() {
    let Some(world) = World::new(|_, _| ()).await else {
        return;
    };
    let error = soon(async { world.create().pull(Pull::Never).await })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(
        error.fact("remedy").unwrap().contains("stacyvm image pull"),
        "{error:?}"
    );
    // An operator's `never` holds for all.
    let Some(closed) = World::new(|config, _| config.images.pull = Pull::Never).await else {
        return;
    };
    let error = soon(async { closed.create().await }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let error = soon(async { closed.create().pull(Pull::Missing).await })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    for world in [&world, &closed] {
        assert_eq!(
            world.server.seen.lock().unwrap().len(),
            0,
            "a registry was asked"
        );
        world.is_without_traces().await;
    }
}

#[tokio::test]
async fn a_pull_that_fails_or_is_given_up_leaves_nothing() {
    let Some(world) = World::new(|_, _| ()).await else {
        return;
    };
    world.hangs.store(true, Ordering::Relaxed);
    let late = Context::default().with_deadline(Instant::now() + Duration::from_secs(1));
    let error = soon(async { world.create().context(late).await })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    world.is_without_traces().await;
    // Dropped while blobs are under way.
    let before = world.server.count("/blobs/");
    let making = tokio::spawn(world.create().into_future());
    eventually("blobs are asked for", async || {
        world.server.count("/blobs/") > before
    })
    .await;
    making.abort();
    world.is_without_traces().await;
    world.hangs.store(false, Ordering::Relaxed);

    let missing = format!("{}/other:1", world.server.host);
    let spec = stacyvm::SandboxSpec::image(&missing);
    let error = soon(async { world.host.engine.create(spec).await })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let instead = error.fact("instead").unwrap();
    assert!(
        instead.contains(&format!("stacyvm image pull {missing}")),
        "{instead}"
    );
    assert!(instead.contains("stacyvm image import"), "{instead}");
    world.is_without_traces().await;
    // Nothing of that is in the way of a later one.
    let sandbox = soon(async { world.create().await }).await.unwrap();
    soon(sandbox.kill()).await.unwrap();
}

#[tokio::test]
async fn creates_and_pools_pull_from_the_configured_mirrors() {
    let mirror = Server::start(&Made::here(), Box::new(|_, _| false));
    let through = |config: &mut Config, server: &Server| {
        let of = (server.host.clone(), vec![mirror.host.clone()]);
        config.images.mirrors.extend([of]);
    };
    let Some(world) = World::new(through).await else {
        return;
    };
    let spec = stacyvm::SandboxSpec::image(world.server.reference().to_string());
    let pool = soon(async { world.host.engine.pool(spec).size(1).await })
        .await
        .unwrap();
    soon(pool.filled()).await.unwrap();
    assert_eq!(mirror.count("/blobs/"), 3);
    assert_eq!(
        world.server.seen.lock().unwrap().len(),
        0,
        "the registry was asked"
    );
    soon(pool.drain()).await.unwrap();
}
