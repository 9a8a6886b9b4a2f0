//! Sandboxes of the embedded provider from images of the image store.
#![cfg(all(target_os = "linux", feature = "oci", feature = "image"))]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::path::PathBuf;
use std::time::Instant;

use common::image::{Member, PASSWD, ROOT, layout, tar, two_layers};
use common::residue::Watch;
use common::{Host, soon};
use serde_json::json;
use stacyvm::config::Config;
use stacyvm::engine::Engine;
use stacyvm::image::{Images, ImportOptions};
use stacyvm::provider::{Pull, Users};
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Context, ErrorKind, Sandbox, SandboxSpec};

struct World {
    host: Host,
    home: tempfile::TempDir,
    watch: Watch,
}

impl World {
    async fn new() -> Option<Self> {
        if stacyvm_agent::AGENT.is_empty() {
            eprintln!("not run: this build carries no agent");
            return None;
        }
        let layers = two_layers()?;
        let home = tempfile::tempdir().unwrap();
        let config = json!({
            "User": "app",
            "WorkingDir": "/data",
            "Env": ["PATH=/bin", "A=image", "B=image"],
            "Entrypoint": ["/bin/sh"],
            "Cmd": ["-c", "echo hi"],
        });
        layout(&home.path().join("layout"), &layers, &config);
        let state = common::state();
        let watch = Watch::begin(state.path());
        let mut config = Config::for_state_dir(state.path());
        // One that waits would look like something left.
        config.parked_helpers = 0;
        // These tests have no network.
        config.images.pull = Pull::Never;
        let engine = Engine::open(config).await.unwrap();
        let host = Host { engine, state };
        Some(Self { host, home, watch })
    }

    fn layout(&self) -> String {
        format!("oci:{}:app", self.home.path().join("layout").display())
    }

    fn store(&self) -> Images {
        Images::open(&self.host.state.path().join("images")).unwrap()
    }

    /// Gives the image of the layout a name.
    fn import(&self) -> Images {
        let store = self.store();
        let source = self.layout().parse().unwrap();
        let options = ImportOptions::named("app");
        store
            .import(&Context::default(), &source, &options)
            .unwrap();
        store
    }

    async fn create(&self, spec: SandboxSpec) -> Sandbox {
        let made = self.host.engine.create(spec.lifetime(Lifetime::Attached));
        soon(async { made.await }).await.unwrap()
    }

    async fn refusal(&self, image: &str) -> stacyvm::Error {
        let spec = SandboxSpec::image(image).lifetime(Lifetime::Attached);
        soon(async { self.host.engine.create(spec).await })
            .await
            .unwrap_err()
    }
}

async fn say(sandbox: &Sandbox, line: &str) -> String {
    let output = soon(sandbox.shell(line).output()).await.unwrap();
    output.stdout_text() + &output.stderr_text()
}

#[tokio::test]
async fn an_image_is_the_root_and_says_how_commands_start() {
    let Some(world) = World::new().await else {
        return;
    };
    let sandbox = world
        .create(SandboxSpec::image(world.layout()).env("A", "spec"))
        .await;
    let effective = sandbox.info().await.unwrap().effective;
    assert_eq!(effective["image_layers"].value, "2, shared");
    assert_eq!(
        effective["image_command"].value,
        r#"["/bin/sh","-c","echo hi"]"#
    );
    let owners = effective["image_owners"].value.clone();
    assert_eq!(
        say(&sandbox, "pwd; echo $A $B").await,
        "/data\nspec image\n"
    );
    // The second layer has no word about /data: what the first says holds.
    let stat = "stat -c '%a %u %g' /data /data/own /data/new /set-id /open";
    let seen = say(&sandbox, stat).await;
    let many = world.host.can().await.users == Users::Many;
    if many {
        assert_eq!(owners, "as in the image");
        assert_eq!(seen, "2751 7 8\n640 7 8\n600 7 8\n4755 0 0\n1777 0 0\n");
        assert_eq!(
            say(&sandbox, "id -u; id -g; cat own").await,
            "7\n8\nof the image"
        );
    } else {
        // Nothing is said to be the image's that is not.
        assert!(owners.contains("whatever the image says"), "{owners}");
        let all_own = seen.lines().all(|line| line.ends_with("1000 1000"));
        assert!(all_own, "{seen}");
        assert_eq!(say(&sandbox, "id -u").await, "1000\n");
    }
    assert_eq!(
        say(&sandbox, "ls /old; ls /gone").await.lines().next(),
        Some("shown")
    );
    assert!(say(&sandbox, "cat /gone").await.contains("No such file"));
    // All names of one file are one file.
    let inodes = say(&sandbox, "stat -c %i:%h /bin/sh /bin/cat").await;
    let inodes: Vec<_> = inodes.lines().collect();
    assert_eq!(inodes[0], inodes[1]);
    assert!(inodes[0].ends_with(":7"), "{inodes:?}");
    // Set-id files give no rights.
    let root = say(&sandbox, "cat /proc/self/mountinfo").await;
    let root = root.lines().find(|line| line.contains(" / / ")).unwrap();
    assert!(root.contains("nosuid") && root.contains("nodev"), "{root}");
    soon(sandbox.kill()).await.unwrap();
    world.watch.nothing_left().await;
}

#[tokio::test]
async fn an_image_that_names_no_user_runs_commands_as_no_root() {
    let Some(world) = World::new().await else {
        return;
    };
    let users = world.host.can().await.users;
    let layers = two_layers().unwrap();
    let at = world.home.path().join("no-user");
    layout(&at, &layers, &json!({ "Env": ["PATH=/bin"] }));
    let image = format!("oci:{}:app", at.display());
    let sandbox = world.create(SandboxSpec::image(&image)).await;
    let effective = sandbox.info().await.unwrap().effective;
    assert_eq!(effective["user"].value, "1000:1000");
    let line = "id -u; id -g; pwd; echo x > f && stat -c %u:%g . f";
    assert_eq!(
        say(&sandbox, line).await,
        "1000\n1000\n/workspace\n1000:1000\n1000:1000\n"
    );
    // The image has an account for it, whose home is said there.
    assert_eq!(say(&sandbox, "echo $HOME").await, "/\n");
    let line = "cd /home/user && echo x > f && stat -c %u:%g . f";
    assert_eq!(say(&sandbox, line).await, "1000:1000\n1000:1000\n");
    soon(sandbox.kill()).await.unwrap();
    if users == Users::Many {
        let root = world.create(SandboxSpec::image(&image).user("root")).await;
        assert_eq!(say(&root, "id -u; stat -c %u .").await, "0\n0\n");
        let effective = root.info().await.unwrap().effective;
        assert_eq!(effective["user"].value, "root");
        soon(root.kill()).await.unwrap();
    }
    world.watch.nothing_left().await;
}

#[tokio::test]
async fn what_a_sandbox_writes_reaches_neither_the_store_nor_another_one() {
    let Some(world) = World::new().await else {
        return;
    };
    let first = world.create(SandboxSpec::image(world.layout())).await;
    world.import();
    let second = world.create(SandboxSpec::image("app")).await;
    let many = world.host.can().await.users == Users::Many;
    let line = "echo w >>/bin/busybox2; rm /bin/cat /old/shown; echo w >>/etc/passwd; echo w >/data/own; echo w >/open/w; ls /open";
    let mut exec = first.shell(line);
    if many {
        exec = exec.user("root");
    }
    let output = soon(exec.output()).await.unwrap();
    assert_eq!(output.stdout_text(), "w\n", "{output:?}");
    let accounts = say(&second, "cat /etc/passwd").await;
    assert_eq!(accounts.as_bytes(), PASSWD);
    let digest = first.info().await.unwrap().effective["image"].value.clone();
    let third = world.create(SandboxSpec::image(digest)).await;
    for other in [&second, &third] {
        let seen = say(other, "ls /open; ls /bin/cat; ls /old").await;
        assert_eq!(seen, "/bin/cat\nshown\n");
    }
    let damage = world.store().verify(&Context::default()).unwrap();
    assert!(damage.is_empty(), "{damage:?}");
    for sandbox in [first, second, third] {
        soon(sandbox.kill()).await.unwrap();
    }
    world.watch.nothing_left().await;
}

#[tokio::test]
async fn an_image_in_use_stays_until_its_last_sandbox_is_gone() {
    let Some(world) = World::new().await else {
        return;
    };
    let sandbox = world.create(SandboxSpec::image(world.layout())).await;
    let error = world.refusal("python").await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let store = world.import();
    let digest = sandbox.info().await.unwrap().effective["image"]
        .value
        .clone();
    let error = store.remove(&digest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(store.find("app").is_ok());
    soon(sandbox.kill()).await.unwrap();
    store.remove(&digest).unwrap();
    let error = world.refusal("app").await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let remedy = error.fact("remedy").unwrap();
    assert!(remedy.contains("image pull app"), "{remedy}");
    world.watch.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_waits_with_an_image_that_a_name_has_no_more_is_not_given_away() {
    let Some(world) = World::new().await else {
        return;
    };
    let store = world.import();
    let spec = SandboxSpec::image("app").lifetime(Lifetime::Attached);
    let pool = world.host.engine.pool(spec).size(1).await.unwrap();
    soon(pool.filled()).await.unwrap();
    let claimed = || soon(async { pool.claim().await });
    let sandbox = claimed().await.unwrap();
    let old = sandbox.info().await.unwrap().effective["image"]
        .value
        .clone();
    assert_eq!((pool.stats().warm, pool.stats().replaced), (1, 0));
    soon(pool.filled()).await.unwrap();
    // The same layers with another configuration: another image takes the name.
    let other = world.home.path().join("other");
    let config = json!({ "User": "app", "WorkingDir": "/data", "Env": ["PATH=/bin", "A=other"] });
    layout(&other, &two_layers().unwrap(), &config);
    let source = format!("oci:{}:app", other.display()).parse().unwrap();
    store
        .import(&Context::default(), &source, &ImportOptions::named("app"))
        .unwrap();
    let sandbox = claimed().await.unwrap();
    assert_eq!(say(&sandbox, "echo $A").await, "other\n");
    let new = sandbox.info().await.unwrap().effective["image"]
        .value
        .clone();
    assert_ne!(old, new);
    assert_eq!((pool.stats().warm, pool.stats().replaced), (1, 1));
    soon(pool.drain()).await.unwrap();
}

#[tokio::test]
async fn archives_are_checked_as_mounts_are() {
    let Some(world) = World::new().await else {
        return;
    };
    let error = world.refusal("oci:layout:app").await;
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let error = world.refusal("oci-archive:/nowhere/at-all.tar").await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    // The state directory is nobody's to read, through a link neither.
    let inside = world.host.state.path().join("layout");
    std::os::unix::fs::symlink(
        world.home.path().join("layout"),
        world.home.path().join("link"),
    )
    .unwrap();
    let link = world.home.path().join("link");
    let through = world
        .create(SandboxSpec::image(format!("oci:{}:app", link.display())))
        .await;
    soon(through.kill()).await.unwrap();
    std::fs::create_dir(&inside).unwrap();
    let bad: [PathBuf; 2] = [inside.clone(), world.home.path().join("bad")];
    std::os::unix::fs::symlink(&inside, &bad[1]).unwrap();
    for path in bad {
        let error = world.refusal(&format!("oci:{}", path.display())).await;
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    }
}

#[tokio::test]
async fn a_stack_of_many_layers_is_mounted() {
    let Some(world) = World::new().await else {
        return;
    };
    let mut layers = two_layers().unwrap();
    let names: Vec<String> = (0..120).map(|n| format!("layer-{n}")).collect();
    for name in &names {
        layers.push(tar(&[(b'0', name.as_str(), 0o644, ROOT, b"x")]));
    }
    let path = world.home.path().join("tall");
    layout(&path, &layers, &json!({ "Env": ["PATH=/bin"] }));
    let spec = SandboxSpec::image(format!("oci:{}", path.display()));
    let sandbox = world.create(spec).await;
    assert_eq!(
        say(&sandbox, "ls -d /layer-* | wc -l; pwd").await,
        "120\n/workspace\n"
    );
    soon(sandbox.kill()).await.unwrap();
}

#[tokio::test]
async fn a_cap_that_is_reached_names_the_setting_that_raises_it() {
    let Some(world) = World::new().await else {
        return;
    };
    let mut layers = two_layers().unwrap();
    let names: Vec<String> = (0..128).map(|n| format!("layer-{n}")).collect();
    for name in &names {
        layers.push(tar(&[(b'0', name.as_str(), 0o644, ROOT, b"x")]));
    }
    let path = world.home.path().join("taller");
    layout(&path, &layers, &json!({ "Env": ["PATH=/bin"] }));
    let image = format!("oci:{}", path.display());
    let error = world.refusal(&image).await;
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    let remedy = error.fact("remedy").unwrap();
    assert!(remedy.contains("`images.caps.layers`"), "{remedy}");
    let mut config = Config::for_state_dir(world.host.state.path());
    config.parked_helpers = 0;
    config.images.caps.layers = Some(130);
    let engine = Engine::open(config).await.unwrap();
    let made = engine.create(SandboxSpec::image(image).lifetime(Lifetime::Attached));
    let sandbox = soon(async { made.await }).await.unwrap();
    assert_eq!(say(&sandbox, "ls -d /layer-* | wc -l").await, "128\n");
    soon(sandbox.kill()).await.unwrap();
}

#[tokio::test]
async fn an_image_with_something_else_in_the_places_of_the_sandbox_is_refused_by_name() {
    let Some(world) = World::new().await else {
        return;
    };
    let file = |name: &'static str| -> Member<'static> { (b'0', name, 0o644, ROOT, b"x") };
    for (number, (member, read_only, place)) in [
        (file("etc"), false, "/etc is a directory"),
        (
            (b'2', "etc", 0o777, ROOT, &b"nowhere"[..]),
            false,
            "/etc is a directory",
        ),
        (
            (b'2', "etc", 0o777, ROOT, b"etc"),
            false,
            "/etc is a directory",
        ),
        (
            (b'5', "etc/hosts", 0o755, ROOT, b""),
            false,
            "/etc/hosts is a file",
        ),
        (file("tmp"), true, "/tmp is a directory"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = world.home.path().join(format!("odd-{number}"));
        layout(&path, &[tar(&[member])], &json!({}));
        let image = format!("oci:{}", path.display());
        let mut spec = SandboxSpec::image(&image).lifetime(Lifetime::Attached);
        spec.read_only_root = read_only;
        let error = soon(async { world.host.engine.create(spec).await }).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{place}: {error}");
        assert_eq!(error.fact("field"), Some("image"), "{place}");
        assert_eq!(error.fact("value"), Some(image.as_str()), "{place}");
        assert!(error.to_string().contains(place), "{error}");
        assert!(error.fact("remedy").unwrap().contains("in the image"));
    }
    world.watch.nothing_left().await;
}

/// For a person: how much more a create of an image takes than one of a
/// directory. Run with `--ignored`.
#[tokio::test]
#[ignore = "a measurement"]
async fn an_image_of_five_layers_beside_a_directory() {
    let Some(world) = World::new().await else {
        return;
    };
    let mut layers = two_layers().unwrap();
    for name in ["c", "d", "e"] {
        layers.push(tar(&[(b'0', name, 0o644, ROOT, b"x")]));
    }
    let path = world.home.path().join("five");
    layout(&path, &layers, &json!({ "Env": ["PATH=/bin"] }));
    let first = world
        .create(SandboxSpec::image(format!("oci:{}:app", path.display())))
        .await;
    let directory = world.home.path().join("directory");
    std::fs::create_dir(&directory).unwrap();
    let store = world.store();
    let digest = first.info().await.unwrap().effective["image"].value.clone();
    let image = store.find(&digest).unwrap();
    store
        .materialize(&Context::default(), &image, &directory)
        .unwrap();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..60 {
        for (kind, image) in [digest.as_str(), directory.to_str().unwrap()]
            .into_iter()
            .enumerate()
        {
            let begun = Instant::now();
            let sandbox = world.create(SandboxSpec::image(image)).await;
            times[kind].push(begun.elapsed());
            soon(sandbox.kill()).await.unwrap();
        }
    }
    for times in &mut times {
        times.sort_unstable();
    }
    let [image, directory] = times.map(|times| times[times.len() / 2]);
    let ratio = image.as_secs_f64() / directory.as_secs_f64();
    eprintln!("p50: image {image:?}, directory {directory:?}, ratio {ratio:.3}");
    soon(first.kill()).await.unwrap();
}
