//! Sizes of volumes: in force where the file system can, refused elsewhere.
#![cfg(all(target_os = "linux", feature = "oci"))]
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that panics has failed, and one that cannot run says why"
)]

mod common;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::soon;
use stacyvm::engine::{Engine, PruneRequest};
use stacyvm::sandbox::spec::{Lifetime, Mount, MountSource};
use stacyvm::{ErrorKind, Sandbox, SandboxSpec};

/// The project quotas of the state directory, as the kernel counts them.
const LOOK: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open(sys.argv[1], os.O_RDONLY)
quota = ctypes.create_string_buffer(72)
if libc.syscall(443, fd, 0x80000702, int(sys.argv[2]), quota):
    sys.exit(os.strerror(ctypes.get_errno()))
print(struct.unpack("Q", quota.raw[:8])[0])
"#;

/// What a command of its owner tries with the project of its directory and of a
/// file: another number, none to inherit, and another limit.
const LIFT: &str = r#"
import ctypes, fcntl, os, struct
def attempt(path, change):
    fd = os.open(path, os.O_RDONLY)
    data = bytearray(28)
    try:
        fcntl.ioctl(fd, 0x801c581f, data)
        words = list(struct.unpack("7I", data))
        change(words)
        fcntl.ioctl(fd, 0x401c5820, struct.pack("7I", *words))
        print("changed", path)
    except OSError as error:
        print(error.strerror)
def project(words): words[3] = 0
def alone(words): words[0] &= ~0x200
os.mkdir("/data/own"); open("/data/file", "w").close()
for path in ["/data", "/data/own", "/data/file"]:
    attempt(path, project)
for path in ["/data", "/data/own"]:
    attempt(path, alone)
for path in ["/data/own", "/data"]:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDONLY)
    ino = os.fstat(fd).st_ino
    quota = struct.pack("8QI4x", 1 << 40, *[0] * 7, 1)
    if not libc.syscall(443, fd, 0x80000802, (1 << 30) + os.stat("/data").st_ino, quota):
        print("changed the limit")
"#;

/// A small ext4 that enforces project quotas, with a state directory on it.
struct Small {
    place: tempfile::TempDir,
}

impl Small {
    /// `None`, and a word about it, where this host has no such thing.
    fn mount() -> Option<Self> {
        if !common::is_root() {
            return None;
        }
        if stacyvm_agent::AGENT.is_empty() {
            eprintln!("not run: this build carries no agent");
            return None;
        }
        let place = tempfile::tempdir().unwrap();
        let image = place.path().join("image");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(128 << 20)
            .unwrap();
        let mounted = place.path().join("mounted");
        std::fs::create_dir(&mounted).unwrap();
        let (image, mounted) = (path(&image), path(&mounted));
        let mut make = vec!["-q", "-O", "quota,project", "-E", "quotatype=prjquota"];
        make.push(image);
        let steps = [
            ("mkfs.ext4", make),
            ("mount", vec!["-o", "loop,prjquota", image, mounted]),
        ];
        for (program, arguments) in &steps {
            let done = Command::new(program).args(arguments).output().unwrap();
            if !done.status.success() {
                let said = String::from_utf8_lossy(&done.stderr);
                eprintln!("not run: no ext4 with project quotas here: {program}: {said}");
                return None;
            }
        }
        Some(Self { place })
    }

    fn state(&self) -> PathBuf {
        self.place.path().join("mounted/state")
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.state().join("volumes").join(name)
    }

    /// The limit of a project, in KiB.
    fn limit(&self, project: u64) -> u64 {
        let mut look = Command::new("python3");
        look.args(["-c", LOOK])
            .arg(self.place.path().join("mounted"));
        let seen = look.arg(project.to_string()).output().unwrap();
        let text = String::from_utf8(seen.stdout).unwrap();
        text.trim().parse().unwrap_or_else(|_| {
            // A project that was never counted has no quota at all.
            let said = String::from_utf8_lossy(&seen.stderr);
            assert!(said.contains("No such"), "{said}");
            0
        })
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // A failed test may still use it.
        let mounted = self.place.path().join("mounted");
        let _ = Command::new("umount").arg("--lazy").arg(mounted).status();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn volume(name: &str, target: &str, size_mib: Option<u64>) -> Mount {
    Mount {
        target: target.into(),
        source: MountSource::Volume(name.into()),
        writable: true,
        size_mib,
    }
}

fn spec(mounts: impl IntoIterator<Item = Mount>) -> SandboxSpec {
    let spec = SandboxSpec::host().lifetime(Lifetime::Attached);
    mounts.into_iter().fold(spec, SandboxSpec::mount)
}

async fn create(engine: &Engine, spec: SandboxSpec) -> Sandbox {
    soon(async { engine.create(spec).await }).await.unwrap()
}

async fn say(sandbox: &Sandbox, line: &str) -> String {
    let output = soon(sandbox.shell(line).output()).await.unwrap();
    output.stdout_text() + &output.stderr_text()
}

/// Writes so many MiB; what it says, and the blocks that the file has then.
async fn write(sandbox: &Sandbox, file: &str, mib: u64) -> (String, u64) {
    let line = format!("head -c {} /dev/zero > {file}", mib << 20);
    let said = say(sandbox, &line).await;
    let blocks = say(sandbox, &format!("sync {file}; du -sk {file} | cut -f1")).await;
    (
        said,
        blocks.trim().parse().unwrap_or_else(|_| panic!("{blocks}")),
    )
}

#[tokio::test]
async fn a_size_holds_and_nobody_inside_lifts_it() {
    let Some(small) = Small::mount() else { return };
    let engine = common::open(small.state()).await;
    let mounts = [
        volume("small", "/data", Some(8)),
        volume("other", "/other", Some(32)),
        volume("free", "/free", None),
    ];
    let sandbox = create(&engine, spec(mounts.clone())).await;
    // Below it works, beyond it does not.
    assert_eq!(write(&sandbox, "/data/a", 6).await.0, "");
    let (said, kib) = write(&sandbox, "/data/b", 6).await;
    assert!(
        said.contains("quota exceeded") || said.contains("No space"),
        "{said}"
    );
    assert!(kib <= 2 << 10, "{kib}");
    let full = sandbox.files().write("/data/c", vec![1; 4 << 20]).await;
    assert_eq!(full.unwrap_err().kind(), ErrorKind::NoSpace);
    // The others are not affected.
    assert_eq!(write(&sandbox, "/other/a", 16).await.0, "");
    assert_eq!(write(&sandbox, "/free/a", 16).await.0, "");
    let listed = say(&sandbox, "df --output=size -k /data | tail -n 1").await;
    assert_eq!(listed.trim(), "8192");

    say(&sandbox, "rm /data/*").await;
    for user in ["user", "root"] {
        say(&sandbox, "chmod 777 /data").await;
        let tried = sandbox.exec(["python3", "-c", LIFT]).user(user).output();
        let tried = soon(tried).await.unwrap();
        let (text, errors) = (tried.stdout_text(), tried.stderr_text());
        assert!(tried.status.success(), "{text}{errors}");
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(!text.contains("changed"), "{user}: {text}");
        let line = "rm -f /data/own/a /data/file; head -c 12582912 /dev/zero > /data/own/a";
        let output = sandbox.shell(line).user(user).output();
        assert!(!soon(output).await.unwrap().status.success(), "{user}");
        let clean = sandbox.shell("rm -rf /data/own").user(user).output();
        assert!(soon(clean).await.unwrap().status.success(), "{user}");
    }
    soon(sandbox.kill()).await.unwrap();

    // Without a size it stays in force; another one replaces it.
    for (size, fits, too_much) in [(None, 6, 9), (Some(16), 12, 20), (Some(16), 12, 20)] {
        let sandbox = create(&engine, spec([volume("small", "/data", size)])).await;
        assert_eq!(write(&sandbox, "/data/a", fits).await.0, "", "{size:?}");
        assert_ne!(write(&sandbox, "/data/a", too_much).await.0, "", "{size:?}");
        say(&sandbox, "rm /data/a").await;
        soon(sandbox.kill()).await.unwrap();
    }

    // One that exists without a size gets none, and nothing else happens.
    let mounts = [
        volume("new", "/new", None),
        volume("free", "/free", Some(64)),
    ];
    let error = engine.create(spec(mounts)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(error.fact("field"), Some("mounts[1].size_mib"));
    assert!(error.to_string().contains("without a size"), "{error}");
    assert!(!small.volume("new").exists());

    // Its limit goes with it.
    let project = (1 << 30) + std::fs::metadata(small.volume("small")).unwrap().ino();
    assert_eq!(small.limit(project), 16 << 10);
    let request = PruneRequest {
        volumes: true,
        ..Default::default()
    };
    let pruned = soon(engine.prune(&request)).await.unwrap();
    assert!(pruned.not_removed.is_empty(), "{pruned:?}");
    assert!(!small.volume("small").exists());
    assert_eq!(small.limit(project), 0);
}

#[tokio::test]
async fn a_size_is_refused_where_the_file_system_holds_none() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let mounts = [
        volume("free", "/free", None),
        volume("small", "/data", Some(64)),
    ];
    let made = soon(async { host.engine.create(spec(mounts)).await }).await;
    if let Ok(sandbox) = made {
        soon(sandbox.kill()).await.unwrap();
        eprintln!("not run: the file system of temporary files holds sizes");
        return;
    }
    let error = made.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(error.fact("field"), Some("mounts[1].size_mib"), "{error}");
    assert!(error.fact("remedy").is_some(), "{error}");
    for made in ["volumes", "volume-locks"] {
        assert!(!host.state.path().join(made).exists(), "{made}");
    }
}
