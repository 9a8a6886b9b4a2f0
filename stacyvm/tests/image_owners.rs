//! Who owns the files of images inside: for root, and for an ordinary user with a
//! range of subordinate ids.
#![cfg(all(target_os = "linux", feature = "oci", feature = "image"))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests, of which one is told by its environment what to do"
)]

mod common;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use common::image::{Member, ROOT, layout, tar};
use common::residue::Watch;
use common::soon;
use serde_json::json;
use stacyvm::config::Config;
use stacyvm::engine::Engine;
use stacyvm::image::Images;
use stacyvm::provider::{Pull, Users};
use stacyvm::sandbox::spec::{Lifetime, Mount, MountSource, Privileges};
use stacyvm::{Sandbox, SandboxSpec};

const BUSYBOX: &str = "/bin/busybox";
const NODE: (u32, u32) = (1000, 1000);
const WEB: (u32, u32) = (33, 33);
/// The user of the agent's own processes, whose set-id programs nobody may run.
const RESERVED: (u32, u32) = (65_000, 65_000);
const PASSWD: &[u8] = b"root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\nweb:x:33:33::/:/bin/sh\nlow:x:7:7::/:/bin/sh\n";
/// `security.capability` of version 2, in force: `CAP_DAC_OVERRIDE`.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// An extended header with the Linux capabilities of the member after it.
fn with_capability() -> Vec<u8> {
    let record = |length: usize| {
        let mut record = format!("{length} SCHILY.xattr.security.capability=").into_bytes();
        record.extend_from_slice(CAPABILITY);
        record.push(b'\n');
        record
    };
    let length = record(10).len();
    assert_eq!(record(length).len(), length);
    record(length)
}

/// Three layers. The second has files in directories that it says nothing of, the
/// third nothing of the default user's.
fn layers() -> Option<Vec<Vec<u8>>> {
    let Ok(busybox) = std::fs::read(BUSYBOX) else {
        eprintln!("not run: this host has no {BUSYBOX} that is static");
        return None;
    };
    let capability = with_capability();
    let mut lower: Vec<Member<'_>> = vec![
        (b'5', "bin", 0o755, ROOT, b""),
        (b'0', "bin/busybox", 0o755, ROOT, &busybox),
        (b'5', "etc", 0o755, ROOT, b""),
        (b'0', "etc/passwd", 0o644, ROOT, PASSWD),
        (b'5', "root", 0o700, ROOT, b""),
        (b'0', "root/closed", 0o600, ROOT, b"closed"),
        (b'5', "home", 0o755, ROOT, b""),
        (b'5', "home/node", 0o750, NODE, b""),
        (b'0', "home/node/secret", 0o604, NODE, b"secret"),
        (b'5', "srv", 0o2775, (0, 33), b""),
        (b'0', "srv/set-id", 0o6755, WEB, b"x"),
        (b'0', "srv/first", 0o640, WEB, b"of web"),
        (b'1', "srv/again", 0o640, WEB, b"srv/first"),
        // The other name keeps the owner that it had.
        (b'0', "srv/first", 0o644, ROOT, b"of root"),
        (b'2', "srv/link", 0o777, WEB, b"first"),
        (b'6', "srv/pipe", 0o620, WEB, b""),
        (b'0', "srv/reserved", 0o6755, RESERVED, b"x"),
        (b'0', "srv/last", 0o600, (65_535, 65_534), b"x"),
        (b'5', "srv/empty", 0, (7, 7), b""),
        (b'0', "gone", 0o644, WEB, b"x"),
        (b'x', "pax", 0o644, ROOT, &capability),
        (b'0', "opt/busybox", 0o755, ROOT, &busybox),
    ];
    for name in ["sh", "cat", "stat", "id", "ls", "touch"] {
        let name = [
            "bin/sh",
            "bin/cat",
            "bin/stat",
            "bin/id",
            "bin/ls",
            "bin/touch",
        ]
        .into_iter()
        .find(|path| path.ends_with(name))
        .unwrap();
        lower.push((b'1', name, 0o755, ROOT, b"bin/busybox"));
    }
    let upper: Vec<Member<'_>> = vec![
        (b'0', ".wh.gone", 0o644, ROOT, b""),
        (b'0', "home/node/new", 0o600, NODE, b"new"),
        (b'0', "srv/low", 0o644, (7, 7), b"x"),
    ];
    let other: Vec<Member<'_>> = vec![(b'0', "srv/third", 0o644, WEB, b"x")];
    Some(vec![tar(&lower), tar(&upper), tar(&other)])
}

/// A state directory, and a layout of the image.
struct World {
    engine: Engine,
    watch: Watch,
    home: tempfile::TempDir,
    state: common::State,
}

async fn open(state: &Path) -> Engine {
    let mut config = Config::for_state_dir(state);
    // One that waits would look like something left.
    config.parked_helpers = 0;
    config.images.pull = Pull::Never;
    Engine::open(config).await.unwrap()
}

impl World {
    /// Where sandboxes have many users.
    async fn new() -> Option<Self> {
        if stacyvm_agent::AGENT.is_empty() {
            eprintln!("not run: this build carries no agent");
            return None;
        }
        let layers = layers()?;
        let home = tempfile::tempdir().unwrap();
        let config = json!({ "User": "node", "WorkingDir": "/home/node", "Env": ["PATH=/bin"] });
        layout(&home.path().join("layout"), &layers, &config);
        let state = common::state();
        let watch = Watch::begin(state.path());
        let engine = open(state.path()).await;
        let all = engine.providers().await;
        let embedded = all.into_iter().find(|summary| summary.name == "oci");
        if embedded.unwrap().capabilities.users != Users::Many {
            eprintln!("not run: this user has no range of ids in /etc/subuid");
            return None;
        }
        Some(Self {
            engine,
            watch,
            home,
            state,
        })
    }

    fn spec(&self) -> SandboxSpec {
        let layout = self.home.path().join("layout");
        SandboxSpec::image(format!("oci:{}:app", layout.display())).lifetime(Lifetime::Attached)
    }

    async fn create(&self, spec: SandboxSpec) -> stacyvm::Result<Sandbox> {
        let engine = &self.engine;
        soon(async { engine.create(spec).await }).await
    }

    fn images(&self) -> PathBuf {
        self.state.path().join("images")
    }

    fn names(&self, directory: &str) -> Vec<String> {
        names(&self.images().join(directory))
    }

    /// Takes all images away, as a user does.
    fn empty(&self) {
        let store = Images::open(&self.images()).unwrap();
        for summary in store.list().unwrap() {
            store.remove(&summary.digest.to_string()).unwrap();
        }
        assert_eq!(store.prune().unwrap().left, 0);
        for directory in ["layers", "mapped", "blobs/sha256", "refs", "tmp"] {
            assert_eq!(self.names(directory), [""; 0], "{directory}");
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// Whether sandboxes have a range of their user's, as no sandbox of root's has.
fn is_ordinary() -> bool {
    let is = !rustix::process::geteuid().is_root();
    if !is {
        eprintln!("not run: root's sandboxes need no copies of layers");
    }
    is
}

/// What a line of a shell says as a user, whether it succeeds or not.
async fn say(sandbox: &Sandbox, user: &str, line: &str) -> String {
    let output = soon(sandbox.shell(line).user(user).workdir("/").output())
        .await
        .unwrap();
    output.stdout_text() + &output.stderr_text()
}

const STAT: &str = "cd /srv; stat -c '%n %a %u %g' /home/node . set-id first again link pipe low last empty /root; ls /gone";
const SEEN: &str = "/home/node 750 1000 1000
. 2775 0 33
set-id 6755 33 33
first 644 0 0
again 640 33 33
link 777 33 33
pipe 620 33 33
low 644 7 7
last 600 65535 65534
empty 0 7 7
/root 700 0 0
";

/// Each user has its own files, and nobody else's.
async fn owners_hold(sandbox: &Sandbox) {
    let effective = sandbox.info().await.unwrap().effective;
    assert_eq!(effective["image_owners"].value, "as in the image");
    let seen = say(sandbox, "root", STAT).await;
    let (seen, rest) = seen.split_at(seen.find("ls:").unwrap());
    assert_eq!(seen, SEEN);
    assert!(rest.contains("No such file"), "{rest}");
    let exec = soon(
        sandbox
            .shell("id -u; pwd; echo x >made; cat made secret; stat -c '%n %a %u %g' . secret new made")
            .output(),
    );
    let output = exec.await.unwrap();
    assert_eq!(
        output.stdout_text(),
        "1000\n/home/node\nx\nsecret. 750 1000 1000\nsecret 604 1000 1000\nnew 600 1000 1000\nmade 644 1000 1000\n",
        "{output:?}"
    );
    // What is open to all in a directory that is not.
    let line = "cat /home/node/secret; touch /home/node/x; cat /root/closed; cat /srv/again";
    let seen = say(sandbox, "web", line).await;
    assert_eq!(seen.matches("Permission denied").count(), 3, "{seen}");
    assert!(seen.starts_with("of web"), "{seen}");
    let seen = say(
        sandbox,
        "low",
        "cat /srv/again; echo x >>/srv/low; cat /srv/low",
    )
    .await;
    assert!(seen.contains("Permission denied"), "{seen}");
    assert!(seen.starts_with("xx\n"), "{seen}");
}

#[tokio::test]
async fn files_of_an_image_have_the_owners_that_it_names() {
    let Some(world) = World::new().await else {
        return;
    };
    let sandbox = world.create(world.spec()).await.unwrap();
    owners_hold(&sandbox).await;
    // Each layer has one copy.
    if !rustix::process::geteuid().is_root() {
        assert_eq!(world.names("mapped").len(), 3);
    }
    soon(sandbox.kill()).await.unwrap();
    world.watch.nothing_left().await;
}

#[tokio::test]
async fn they_are_the_same_where_something_of_the_host_is_mounted() {
    let Some(world) = World::new().await else {
        return;
    };
    let shared = world.home.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let mount = Mount {
        target: "/mnt".into(),
        source: MountSource::Host(shared.display().to_string()),
        writable: true,
        size_mib: None,
    };
    let plain = world.create(world.spec()).await.unwrap();
    let sandbox = world.create(world.spec().mount(mount)).await.unwrap();
    owners_hold(&sandbox).await;
    owners_hold(&plain).await;
    if is_ordinary() {
        assert_eq!(say(&sandbox, "node", "echo x >/mnt/made").await, "");
        let own = std::fs::metadata(&shared).unwrap();
        let made = std::fs::metadata(shared.join("made")).unwrap();
        assert_eq!(made.uid(), own.uid());
        // Two of the layers have something of the default user's.
        assert_eq!(world.names("mapped").len(), 5);
    }
    for sandbox in [plain, sandbox] {
        soon(sandbox.kill()).await.unwrap();
    }
    world.watch.nothing_left().await;
    world.empty();
}

#[tokio::test]
async fn linux_capabilities_of_files_are_in_force_with_namespaced_root_alone() {
    let Some(world) = World::new().await else {
        return;
    };
    let line = "/opt/busybox cat /root/closed";
    let plain = world.create(world.spec()).await.unwrap();
    let seen = say(&plain, "web", line).await;
    assert!(seen.contains("Permission denied"), "{seen}");
    let spec = world.spec().privileges(Privileges::NamespacedRoot);
    let rooted = world.create(spec).await.unwrap();
    assert_eq!(say(&rooted, "web", line).await, "closed");
    let seen = say(&rooted, "web", "cat /root/closed").await;
    assert!(seen.contains("Permission denied"), "{seen}");
    if is_ordinary() {
        // As it has no set-id bit nobody becomes the agent's user by it.
        let seen = say(&rooted, "root", "stat -c '%a %u' /srv/reserved").await;
        assert_eq!(seen, "755 65000\n");
    }
    for sandbox in [plain, rooted] {
        soon(sandbox.kill()).await.unwrap();
    }
    world.watch.nothing_left().await;
}

#[tokio::test]
async fn copies_are_made_once_and_nothing_stays_of_an_image_that_is_removed() {
    let Some(world) = World::new().await else {
        return;
    };
    if !is_ordinary() {
        return;
    }
    let (one, two) = tokio::join!(world.create(world.spec()), world.create(world.spec()));
    let (one, two) = (one.unwrap(), two.unwrap());
    let mapped = world.names("mapped");
    assert_eq!(mapped.len(), 3, "{mapped:?}");
    assert_eq!(world.names("tmp"), [""; 0]);
    let store = Images::open(&world.images()).unwrap();
    // In use it stays, without a name too.
    assert_eq!(store.prune().unwrap().left, 0);
    assert_eq!(world.names("mapped").len(), 3);
    owners_hold(&one).await;
    let used = store.disk_use().unwrap();
    assert!(used.layers.1 > 2 * std::fs::metadata(BUSYBOX).unwrap().len());
    for sandbox in [one, two] {
        soon(sandbox.kill()).await.unwrap();
    }
    world.empty();
}

#[cfg(feature = "faults")]
mod kills {
    //! A process that is killed while it has copies made, at each point.

    use std::process::{Command, Stdio};

    use stacyvm::faults;

    use super::*;

    const STATE: &str = "STACYVM_MAP_FAULT_STATE";
    const SOURCE: &str = "STACYVM_MAP_FAULT_SOURCE";
    const POINT: &str = "STACYVM_MAP_FAULT_POINT";

    /// Not a test of its own: the process that is killed, or whose helper is.
    #[tokio::test(flavor = "multi_thread")]
    async fn entry() {
        let Ok(state) = std::env::var(STATE) else {
            return;
        };
        let engine = open(Path::new(&state)).await;
        if let Ok(point) = std::env::var(POINT) {
            faults::arm(&point);
        }
        let spec = SandboxSpec::image(std::env::var(SOURCE).unwrap());
        let spec = spec.lifetime(Lifetime::Attached);
        let error = soon(async { engine.create(spec).await }).await.unwrap_err();
        println!("failed: {error}");
    }

    async fn round(point: &str, of_helper: bool) {
        let Some(world) = World::new().await else {
            return;
        };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["kills::entry", "--exact", "--nocapture"]);
        let source = format!("oci:{}:app", world.home.path().join("layout").display());
        command.env(STATE, world.state.path()).env(SOURCE, source);
        if of_helper {
            command.env(faults::VARIABLE, point);
        } else {
            command.env(POINT, point);
        }
        let output = command.stderr(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if of_helper {
            assert!(said.contains("failed: "), "{point}: {said}");
            // Whoever asked for it has taken it away.
            assert_eq!(world.names("tmp"), [""; 0], "{point}");
        } else {
            use std::os::unix::process::ExitStatusExt as _;
            assert_eq!(
                output.status.signal(),
                Some(9),
                "{point}: it was not reached"
            );
        }
        let named = usize::from(point == "image.map.named");
        assert_eq!(world.names("mapped").len(), named, "{point}");
        // A look at the store is enough to have it swept.
        drop(Images::open(&world.images()).unwrap());
        assert_eq!(world.names("tmp"), [""; 0], "{point}");
        let sandbox = world.create(world.spec()).await.unwrap();
        owners_hold(&sandbox).await;
        soon(sandbox.kill()).await.unwrap();
        world.empty();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_kill_at_any_point_leaves_nothing_half_made_in_use() {
        if !is_ordinary() {
            return;
        }
        for point in faults::MAP {
            round(point, false).await;
        }
        for point in [
            "helper.layer.file",
            "helper.layer.file*7",
            "helper.layer.copied",
        ] {
            assert!(faults::LAYER.contains(&point.split('*').next().unwrap()));
            round(point, true).await;
        }
    }
}
