//! Images of the store in sandboxes that the binary of an OCI runtime makes: the
//! same promises as where the embedded provider makes them itself.
//!
//! Each test prints `not run` where the host lacks its runtime.
#![cfg(all(target_os = "linux", feature = "oci", feature = "image"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::image::{PASSWD, ROOT, layout, tar, two_layers};
use common::residue::Watch;
use common::runtimes::suite;
use common::soon;
use serde_json::json;
use stacyvm::config::Config;
use stacyvm::engine::Engine;
use stacyvm::image::{Images, ImportOptions};
use stacyvm::provider::Pull;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Context, ErrorKind, Sandbox, SandboxSpec};

/// An engine on a runtime, with the image `app` in its store.
struct World {
    engine: Engine,
    state: tempfile::TempDir,
    watch: Watch,
}

impl World {
    async fn new(runtime: &str) -> Option<Self> {
        let layers = two_layers()?;
        let state = tempfile::tempdir().unwrap();
        let watch = Watch::begin(state.path());
        let mut config = Config::for_state_dir(state.path());
        config.providers.get_mut("oci").unwrap().runtime = Some(runtime.to_owned());
        // One that waits would look like something left.
        config.parked_helpers = 0;
        // These tests have no network.
        config.images.pull = Pull::Never;
        let engine = Engine::open(config).await.unwrap();
        let world = Self {
            engine,
            state,
            watch,
        };
        let config = json!({
            "User": "app",
            "WorkingDir": "/data",
            "Env": ["PATH=/bin", "A=image", "B=image"],
        });
        world.import(&layers, &config);
        Some(world)
    }

    fn store(&self) -> Images {
        Images::open(&self.state.path().join("images")).unwrap()
    }

    /// Gives an image of these layers the name `app`.
    fn import(&self, layers: &[Vec<u8>], config: &serde_json::Value) {
        let home = tempfile::tempdir().unwrap();
        layout(home.path(), layers, config);
        let source = format!("oci:{}:app", home.path().display());
        let imported = self.store().import(
            &Context::default(),
            &source.parse().unwrap(),
            &ImportOptions::named("app"),
        );
        imported.unwrap();
    }

    async fn create(&self, spec: SandboxSpec) -> Sandbox {
        let made = self.engine.create(spec.lifetime(Lifetime::Attached));
        soon(async { made.await }).await.unwrap()
    }
}

fn spec() -> SandboxSpec {
    SandboxSpec::image("app")
}

async fn say(sandbox: &Sandbox, line: &str) -> String {
    let output = soon(sandbox.shell(line).output()).await.unwrap();
    output.stdout_text() + &output.stderr_text()
}

/// The same as somebody else.
async fn say_as(sandbox: &Sandbox, user: &str, line: &str) -> String {
    let output = soon(sandbox.shell(line).user(user).output()).await.unwrap();
    output.stdout_text() + &output.stderr_text()
}

async fn an_image_is_the_root_and_says_how_commands_start(runtime: &str) {
    let Some(world) = World::new(runtime).await else {
        return;
    };
    let sandbox = world.create(spec().env("A", "spec")).await;
    let effective = sandbox.info().await.unwrap().effective;
    assert_eq!(effective["runtime"].value, runtime);
    assert_eq!(effective["image_layers"].value, "2, shared");
    assert_eq!(effective["image_owners"].value, "as in the image");
    assert_eq!(
        say(&sandbox, "pwd; echo $A $B; id -u; id -g; cat own").await,
        "/data\nspec image\n7\n8\nof the image"
    );
    // The second layer has no word about /data: what the first says holds.
    let stat = "stat -c '%a %u %g' /data /data/own /data/new /set-id /open";
    assert_eq!(
        say(&sandbox, stat).await,
        "2751 7 8\n640 7 8\n600 7 8\n4755 0 0\n1777 0 0\n"
    );
    assert_eq!(
        say(&sandbox, "ls /old; ls /gone").await.lines().next(),
        Some("shown")
    );
    assert!(say(&sandbox, "cat /gone").await.contains("No such file"));
    assert_eq!(
        say_as(&sandbox, "0", "id -u; cat /data/own")
            .await
            .lines()
            .next(),
        Some("0")
    );
    let error = soon(sandbox.shell("true").user("65000").output()).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::PermissionDenied);
    soon(sandbox.kill()).await.unwrap();
    // What the spec says comes before what the image says.
    let mut other = spec();
    other.user = Some("user".into());
    other.workdir = Some("/open".into());
    let sandbox = world.create(other).await;
    assert_eq!(say(&sandbox, "pwd; id -u").await, "/open\n1000\n");
    soon(sandbox.kill()).await.unwrap();
    world.watch.nothing_left().await;
}

async fn layers_are_shared_and_what_is_written_stays_in_its_sandbox(runtime: &str) {
    let Some(world) = World::new(runtime).await else {
        return;
    };
    let first = world.create(spec()).await;
    let unpacked = || -> BTreeSet<_> {
        let entries = std::fs::read_dir(world.state.path().join("images/layers")).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    let layers = unpacked();
    assert_eq!(layers.len(), 2);
    let second = world.create(spec()).await;
    let line = "echo w >/bin/new; rm /bin/cat /old/shown; echo w >>/etc/passwd; \
                echo w >/open/w; ls /open";
    assert_eq!(say_as(&first, "0", line).await, "w\n");
    assert_eq!(say(&first, "echo w >/data/own; cat /data/own").await, "w\n");
    let third = world.create(spec()).await;
    assert_eq!(unpacked(), layers);
    for other in [&second, &third] {
        let seen = say(
            other,
            "ls /open; ls /bin/cat; ls /old; ls /bin/new; cat /data/own",
        )
        .await;
        assert!(seen.starts_with("/bin/cat\nshown\n"), "{seen}");
        assert!(
            seen.contains("of the image") && seen.contains("/bin/new: No such file"),
            "{seen}"
        );
        assert_eq!(say(other, "cat /etc/passwd").await.as_bytes(), PASSWD);
    }
    let damage = world.store().verify(&Context::default()).unwrap();
    assert!(damage.is_empty(), "{damage:?}");
    let in_use = world.store().remove("app").unwrap_err();
    assert_eq!(in_use.kind(), ErrorKind::Conflict, "{in_use}");
    for sandbox in [first, second, third] {
        soon(sandbox.kill()).await.unwrap();
    }
    world.store().remove("app").unwrap();
    world.watch.nothing_left().await;
}

async fn a_root_that_is_only_read_is(runtime: &str) {
    let Some(world) = World::new(runtime).await else {
        return;
    };
    let mut spec = spec();
    spec.read_only_root = true;
    let sandbox = world.create(spec).await;
    let line = "for f in /data/own /bin/new /etc/passwd; do echo w >>$f || echo no; done 2>/dev/null; \
                echo y >/tmp/y && cat /tmp/y";
    assert_eq!(say_as(&sandbox, "0", line).await, "no\nno\nno\ny\n");
    let line = "echo z >/workspace/z && cat /workspace/z";
    assert_eq!(say_as(&sandbox, "user", line).await, "z\n");
    soon(sandbox.kill()).await.unwrap();
    world.watch.nothing_left().await;
}

/// An image names what it likes, the places of the sandbox's own files too.
async fn what_an_image_has_in_the_places_of_the_sandbox_leads_nowhere(runtime: &str) {
    let Some(world) = World::new(runtime).await else {
        return;
    };
    let outside = tempfile::tempdir().unwrap();
    let outside = outside.path().to_str().unwrap();
    let mut layers = two_layers().unwrap();
    let links = ["proc", "sys", "dev", ".stacyvm", "tmp"];
    layers.push(tar(
        &links.map(|name| (b'2', name, 0o777, ROOT, outside.as_bytes()))
    ));
    world.import(&layers, &json!({ "Env": ["PATH=/bin"] }));
    let sandbox = world.create(spec()).await;
    let line = "for d in /proc /sys /dev; do test -L $d && echo $d; done; \
                cat /proc/self/comm; echo x >/dev/null; echo well";
    assert_eq!(say(&sandbox, line).await, "cat\nwell\n");
    soon(sandbox.kill()).await.unwrap();
    assert!(Path::new(outside).read_dir().unwrap().next().is_none());
    world.watch.nothing_left().await;
}

async fn one_that_waits_with_an_image_is_given_away(runtime: &str) {
    let Some(world) = World::new(runtime).await else {
        return;
    };
    let spec = spec().lifetime(Lifetime::Attached);
    let pool = world.engine.pool(spec).size(1).await.unwrap();
    soon(pool.filled()).await.unwrap();
    let claim = pool.claim().env("A", "claim").file("/open/in", "brought\n");
    let sandbox = soon(async { claim.await }).await.unwrap();
    assert_eq!(
        say(&sandbox, "echo $A $B; cat /open/in; id -u").await,
        "claim image\nbrought\n7\n"
    );
    assert_eq!((pool.stats().warm, pool.stats().cold), (1, 0));
    soon(sandbox.kill()).await.unwrap();
    soon(pool.drain()).await.unwrap();
    world.watch.nothing_left().await;
}

suite!(runc crun youki runsc: [
    an_image_is_the_root_and_says_how_commands_start
    layers_are_shared_and_what_is_written_stays_in_its_sandbox
    a_root_that_is_only_read_is
    what_an_image_has_in_the_places_of_the_sandbox_leads_nowhere
    one_that_waits_with_an_image_is_given_away
]);
