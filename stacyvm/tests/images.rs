//! Sandboxes of the embedded provider from images of the image store.
#![cfg(all(target_os = "linux", feature = "oci", feature = "image"))]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};
use std::time::Instant;

use common::residue::Watch;
use common::{Host, soon};
use serde_json::json;
use stacyvm::config::Config;
use stacyvm::engine::Engine;
use stacyvm::image::{Digest, Images, ImportOptions};
use stacyvm::provider::{Pull, Users};
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Context, ErrorKind, Sandbox, SandboxSpec};

const BUSYBOX: &str = "/bin/busybox";

/// One member of an archive: its kind, name, mode, owner, content or link.
type Member<'a> = (u8, &'a str, u32, (u32, u32), &'a [u8]);

fn tar(members: &[Member<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, name, mode, (uid, gid), content) in members {
        let (link, content): (&[u8], &[u8]) = match kind {
            b'1' | b'2' => (content, b""),
            _ => (b"", content),
        };
        let mut header = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}").as_bytes());
        put(108, format!("{uid:07o}").as_bytes());
        put(116, format!("{gid:07o}").as_bytes());
        put(124, format!("{:011o}", content.len()).as_bytes());
        put(136, b"00000000000");
        put(148, b"        ");
        put(156, &[*kind]);
        put(157, link);
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// Writes an OCI layout of these layers, with a tag.
fn layout(at: &Path, layers: &[Vec<u8>], config: &serde_json::Value) {
    let blobs = at.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let keep = |kind: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": digest.to_string(),
            "size": bytes.len(),
        })
    };
    let diff_ids: Vec<String> = layers.iter().map(|l| Digest::of(l).to_string()).collect();
    let file = json!({
        "os": "linux",
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": keep("config.v1+json", file.to_string().as_bytes()),
        "layers": layers.iter().map(|l| keep("layer.v1.tar", l)).collect::<Vec<_>>(),
    });
    let mut root = keep("manifest.v1+json", manifest.to_string().as_bytes());
    root["annotations"] = json!({
        "org.opencontainers.image.ref.name": "app",
        // A name that it must not take over.
        "io.containerd.image.name": "docker.io/library/python:latest",
    });
    let index = json!({ "schemaVersion": 2, "manifests": [root] });
    std::fs::write(at.join("index.json"), index.to_string()).unwrap();
    std::fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

const ROOT: (u32, u32) = (0, 0);
const APP: (u32, u32) = (7, 8);
const PASSWD: &[u8] =
    b"root:x:0:0::/:/bin/sh\napp:x:7:8::/data:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n";

/// Two layers; the second takes away and covers what the first has.
fn two_layers() -> Option<Vec<Vec<u8>>> {
    let Ok(busybox) = std::fs::read(BUSYBOX) else {
        eprintln!("not run: this host has no {BUSYBOX} that is static");
        return None;
    };
    let mut lower: Vec<Member<'_>> = vec![
        (b'5', "bin", 0o755, ROOT, b""),
        (b'0', "bin/busybox", 0o755, ROOT, &busybox),
        (b'5', "etc", 0o755, ROOT, b""),
        (b'0', "etc/passwd", 0o644, ROOT, PASSWD),
        (b'5', "data", 0o2751, APP, b""),
        (b'0', "data/own", 0o640, APP, b"of the image"),
        (b'0', "set-id", 0o4755, ROOT, b"#!/bin/sh"),
        (b'5', "old", 0o755, ROOT, b""),
        (b'0', "old/hidden", 0o644, ROOT, b"x"),
        (b'0', "gone", 0o644, ROOT, b"x"),
        (b'5', "open", 0o1777, ROOT, b""),
    ];
    for name in [
        "bin/sh", "bin/cat", "bin/stat", "bin/id", "bin/ls", "bin/rm",
    ] {
        lower.push((b'1', name, 0o755, ROOT, b"bin/busybox"));
    }
    let upper: Vec<Member<'_>> = vec![
        (b'0', ".wh.gone", 0o644, ROOT, b""),
        (b'0', "old/.wh..wh..opq", 0o644, ROOT, b""),
        (b'0', "old/shown", 0o644, ROOT, b"y"),
        // Without a member of its own the directory keeps what the lower says.
        (b'0', "data/new", 0o600, APP, b"second"),
    ];
    Some(vec![tar(&lower), tar(&upper)])
}

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
        let state = tempfile::tempdir().unwrap();
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
    if rustix::process::geteuid().is_root() {
        assert_eq!(owners, "as in the image");
        assert_eq!(seen, "2751 7 8\n640 7 8\n600 7 8\n4755 0 0\n1777 0 0\n");
        assert_eq!(
            say(&sandbox, "id -u; id -g; cat own").await,
            "7\n8\nof the image"
        );
    } else {
        // Nothing is said to be the image's that is not.
        let owner = if many { "0 0" } else { "1000 1000" };
        assert!(owners.contains("whatever the image says"), "{owners}");
        assert!(seen.lines().all(|line| line.ends_with(owner)), "{seen}");
        let user = if many { "7\n" } else { "1000\n" };
        assert_eq!(say(&sandbox, "id -u").await, user);
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
