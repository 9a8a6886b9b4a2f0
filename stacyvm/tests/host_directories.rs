//! A host directory that a sandbox may write: what a hostile guest leaves there.
//!
//! The guest is this test program itself, started inside with
//! [`GUEST`] set. It tries the same on a volume, where all of it works: an
//! attempt that never works proves nothing.
#![cfg(all(target_os = "linux", feature = "oci"))]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use common::{Host, soon};
use stacyvm::config::Config;
use stacyvm::engine::Engine;
use stacyvm::sandbox::copy::CopyOptions;
use stacyvm::sandbox::spec::{Lifetime, Mount, MountSource};
use stacyvm::{ErrorKind, Sandbox, SandboxSpec};

/// Names the directory that the guest works in.
const GUEST: &str = "STACYVM_TEST_GUEST";
/// What the host left in the directory: a program of root with a set-id bit.
const BAIT: &str = "bait";

mod sys {
    #![allow(unsafe_code, reason = "the raw calls that an attacker makes")]

    /// Makes a raw system call; 0 or more, or the negative error number.
    pub(super) fn call(number: libc::c_long, args: [usize; 5]) -> i64 {
        // SAFETY: the callers pass numbers, or pointers to values that live
        // across the call.
        let done = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4]) };
        if done < 0 {
            return -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
        }
        done
    }
}

const FCHMODAT2: libc::c_long = 452;
#[expect(clippy::cast_sign_loss, reason = "the kernel takes its lower half")]
const CWD: usize = libc::AT_FDCWD as usize;

/// One way to a set-id bit after the other, each on a file of its own.
fn attempt(directory: &Path) -> Vec<(&'static str, i64)> {
    let path = |name: &str| {
        let path = directory.join(name);
        CString::new(path.into_os_string().into_encoded_bytes()).unwrap()
    };
    let plain = |name: &str| {
        std::fs::write(directory.join(name), "x").unwrap();
        path(name)
    };
    let at = |path: &CString| path.as_ptr() as usize;
    let create = (libc::O_CREAT | libc::O_WRONLY) as usize;
    let mut all = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let file = plain("chmod");
        all.push((
            "chmod",
            sys::call(libc::SYS_chmod, [at(&file), 0o4755, 0, 0, 0]),
        ));
        let file = path("creat");
        all.push((
            "creat",
            sys::call(libc::SYS_creat, [at(&file), 0o4755, 0, 0, 0]),
        ));
        let file = path("open");
        all.push((
            "open",
            sys::call(libc::SYS_open, [at(&file), create, 0o4755, 0, 0]),
        ));
        let file = path("mknod");
        all.push((
            "mknod",
            sys::call(libc::SYS_mknod, [at(&file), 0o104_755, 0, 0, 0]),
        ));
    }
    plain("fchmod");
    let file = std::fs::File::open(directory.join("fchmod")).unwrap();
    let fd = usize::try_from(file.as_raw_fd()).unwrap();
    all.push(("fchmod", sys::call(libc::SYS_fchmod, [fd, 0o4755, 0, 0, 0])));
    let file = plain("fchmodat");
    all.push((
        "fchmodat",
        sys::call(libc::SYS_fchmodat, [CWD, at(&file), 0o2755, 0, 0]),
    ));
    let file = plain("fchmodat2");
    all.push((
        "fchmodat2",
        sys::call(FCHMODAT2, [CWD, at(&file), 0o6755, 0, 0]),
    ));
    let file = path("openat");
    all.push((
        "openat",
        sys::call(libc::SYS_openat, [CWD, at(&file), create, 0o4755, 0]),
    ));
    let here = path("");
    let unnamed = (libc::O_TMPFILE | libc::O_RDWR) as usize;
    let made = sys::call(libc::SYS_openat, [CWD, at(&here), unnamed, 0o4755, 0]);
    if made >= 0 {
        let from = CString::new(format!("/proc/self/fd/{made}")).unwrap();
        let to = path("unnamed");
        let follow = libc::AT_SYMLINK_FOLLOW as usize;
        let linked = sys::call(libc::SYS_linkat, [CWD, at(&from), CWD, at(&to), follow]);
        assert_eq!(linked, 0);
    }
    all.push(("unnamed", made));
    let file = path("openat2");
    let how = [create as u64, 0o4755, 0];
    let how = (how.as_ptr() as usize, size_of_val(&how));
    all.push((
        "openat2",
        sys::call(libc::SYS_openat2, [CWD, at(&file), how.0, how.1, 0]),
    ));
    let file = path("mknodat");
    all.push((
        "mknodat",
        sys::call(libc::SYS_mknodat, [CWD, at(&file), 0o102_755, 0, 0]),
    ));
    // What the kernel or the sandbox refuses everywhere.
    let parameters = [0_u64; 15];
    let ring = [1, parameters.as_ptr() as usize, 0, 0, 0];
    all.push(("io_uring_setup", sys::call(libc::SYS_io_uring_setup, ring)));
    let file = plain("capability");
    let value: [u32; 5] = [0x0200_0001, 1 << 7, 0, 0, 0];
    let name = c"security.capability".as_ptr() as usize;
    let set = [at(&file), name, value.as_ptr() as usize, 20, 0];
    all.push(("capability", sys::call(libc::SYS_setxattr, set)));
    let bait = path(BAIT);
    let write = libc::O_WRONLY as usize;
    all.push((
        "write to root's",
        sys::call(libc::SYS_openat, [CWD, at(&bait), write, 0, 0]),
    ));
    all.push((
        "chmod of root's",
        sys::call(libc::SYS_fchmodat, [CWD, at(&bait), 0o777, 0, 0]),
    ));
    // Makes none, whatever it is asked for, and is therefore not refused.
    let file = path("directory");
    all.push((
        "mkdir",
        sys::call(libc::SYS_mkdirat, [CWD, at(&file), 0o6777, 0, 0]),
    ));
    all
}

#[test]
fn guest_entry() {
    let Some(directory) = std::env::var_os(GUEST) else {
        return;
    };
    for (name, result) in attempt(Path::new(&directory)) {
        println!("tried {name}: {}", result.min(0));
    }
}

async fn open(state: &Path, runtime: Option<&str>) -> Engine {
    let mut config = Config::for_state_dir(state);
    config.providers.get_mut("oci").unwrap().runtime = runtime.map(str::to_owned);
    Engine::open(config).await.unwrap()
}

fn mount(source: MountSource, target: &str, writable: bool) -> Mount {
    Mount {
        source,
        target: target.into(),
        writable,
        size_mib: None,
    }
}

fn of(path: &Path) -> MountSource {
    MountSource::Host(path.to_str().unwrap().into())
}

/// Runs the guest and gives what it says of each attempt.
async fn guest(sandbox: &Sandbox, user: &str, directory: &str) -> BTreeMap<String, i64> {
    let program = std::env::current_exe().unwrap();
    let inside = format!("/probe/{}", program.file_name().unwrap().to_str().unwrap());
    let exec = sandbox
        .exec([inside.as_str(), "guest_entry", "--exact", "--nocapture"])
        .env(GUEST, directory)
        .user(user);
    let output = soon(exec.output()).await.unwrap();
    let text = output.stdout_text();
    assert!(output.status.success(), "{text}{}", output.stderr_text());
    let tried = text.lines().filter_map(|line| line.split_once("tried "));
    let parts = tried.filter_map(|(_, line)| line.split_once(": "));
    parts
        .map(|(name, code)| (name.to_owned(), code.parse().unwrap()))
        .collect()
}

/// Everything below a directory, with owner, group and mode.
fn walk(directory: &Path) -> Vec<(PathBuf, u32, u32, u32)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            all.extend(walk(&path));
        }
        all.push((path, meta.uid(), meta.gid(), meta.mode()));
    }
    all
}

/// A directory that everybody may write, with the host's bait in it.
fn shared(owner: u32) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    chown(directory.path(), Some(owner), Some(owner)).unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(directory.path(), 0o777);
    let bait = directory.path().join(BAIT);
    std::fs::write(&bait, "host").unwrap();
    mode(&bait, 0o4755);
    directory
}

const REFUSED: i64 = -libc::EPERM as i64;
/// What is refused everywhere or nowhere.
const SAME: [&str; 5] = [
    "io_uring_setup",
    "capability",
    "write to root's",
    "chmod of root's",
    "mkdir",
];

async fn nothing_of_roots_and_no_set_id(runtime: Option<&str>) {
    if !common::is_root() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let engine = open(state.path(), runtime).await;
    let probe = std::env::current_exe().unwrap();
    let probe = mount(of(probe.parent().unwrap()), "/probe", false);
    for (user, owner_outside) in [("root", 65_534), ("user", 1000)] {
        let directory = shared(1000);
        let spec = SandboxSpec::host()
            .lifetime(Lifetime::Attached)
            .mount(probe.clone())
            .mount(mount(of(directory.path()), "/shared", true));
        let sandbox = soon(engine.create(spec).into_future()).await.unwrap();
        for (name, result) in guest(&sandbox, user, "/shared").await {
            let expected = match name.as_str() {
                "mkdir" => 0,
                "openat2" => -i64::from(libc::ENOSYS),
                "write to root's" => -i64::from(libc::EACCES),
                _ => REFUSED,
            };
            assert_eq!(result, expected, "{name} as {user}");
        }
        // What the tools of every day make of it, with archives that have such bits.
        let line = "cd /shared && echo x > made && mkdir from && cp -p made copied; \
            chmod u+s made; chmod g+s from; install -m 4755 made installed; \
            tar --version > /dev/null && tar -xpf - ; true";
        let archive = std::process::Command::new("tar")
            .current_dir(directory.path())
            .args(["-c", "-f", "-", "--transform", "s/bait/from-archive/", BAIT])
            .output()
            .unwrap()
            .stdout;
        let tools = sandbox.shell(line).user(user).stdin(archive);
        soon(tools.output()).await.unwrap();
        assert!(directory.path().join("from-archive").exists());
        // And the way in through the library.
        let files = sandbox.files().with_user(user);
        let outside = directory.path().join(BAIT);
        soon(files.copy_in(&outside, "/shared/copied-in", CopyOptions::default()))
            .await
            .unwrap();
        let error = soon(files.chmod("/shared/copied-in", 0o4755))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        soon(files.chmod("/shared/copied-in", 0o755)).await.unwrap();
        let found = walk(directory.path());
        assert!(found.len() > 10, "{found:?}");
        for (path, uid, gid, mode) in found {
            if path.ends_with(BAIT) {
                assert_eq!((uid, mode & 0o7777), (0, 0o4755), "the host's own");
                continue;
            }
            let (path, seen) = (path.display(), (uid, gid));
            assert_eq!(mode & 0o6000, 0, "{path} as {user}: {mode:o}");
            assert_eq!(seen, (owner_outside, owner_outside), "{path} as {user}");
        }
        let info = sandbox.info().await.unwrap();
        let held = &info.effective["host_directories"].value;
        assert!(held.contains("65534"), "{held}");
        sandbox.kill().await.unwrap();

        // The same guest where nobody of the host looks: all of it works.
        let volume = mount(MountSource::Volume(format!("of-{user}")), "/shared", true);
        let spec = SandboxSpec::host().lifetime(Lifetime::Attached);
        let spec = spec.mount(probe.clone()).mount(volume);
        let sandbox = soon(engine.create(spec).into_future()).await.unwrap();
        let open = sandbox.shell("chown 0:0 /shared 2> /dev/null; chmod 777 /shared");
        soon(open.user("user").output()).await.unwrap();
        for (name, result) in guest(&sandbox, user, "/shared").await {
            if !SAME.contains(&name.as_str()) {
                assert_eq!(result, 0, "{name} as {user} on a volume: it proves nothing");
            }
        }
        sandbox.kill().await.unwrap();
    }
}

#[tokio::test]
async fn a_guest_leaves_nothing_of_roots_and_no_set_id_bit() {
    nothing_of_roots_and_no_set_id(None).await;
}

#[tokio::test]
async fn a_guest_of_runc_leaves_nothing_of_roots_and_no_set_id_bit() {
    if !["/usr/sbin/runc", "/usr/bin/runc"]
        .iter()
        .any(|path| Path::new(path).exists())
    {
        eprintln!("not run: no runc on this host");
        return;
    }
    nothing_of_roots_and_no_set_id(Some("runc")).await;
}

#[tokio::test]
async fn modes_and_owners_of_the_host_decide_what_root_inside_may_write() {
    if !common::is_root() {
        return;
    }
    let Some(Host {
        engine,
        state: _state,
    }) = common::embedded().await
    else {
        return;
    };
    let (closed, open, users) = (
        tempfile::tempdir().unwrap(),
        shared(0),
        tempfile::tempdir().unwrap(),
    );
    for directory in [&closed, &users] {
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), mode).unwrap();
    }
    // As `chown USER` leaves it: the group stays root's.
    chown(users.path(), Some(1000), None).unwrap();
    let spec = SandboxSpec::host()
        .lifetime(Lifetime::Attached)
        .mount(mount(of(closed.path()), "/closed", true))
        .mount(mount(of(open.path()), "/open", true))
        .mount(mount(of(users.path()), "/users", true));
    let sandbox = engine.create(spec).await.unwrap();
    let line = "for d in closed open users; do echo x 2> /dev/null > /$d/by-$(id -u) && echo $d; done; true";
    for (user, expected) in [("root", "open\n"), ("user", "open\nusers\n")] {
        let output = soon(sandbox.shell(line).user(user).output()).await.unwrap();
        assert_eq!(output.stdout_text(), expected, "{user}");
    }
    let owner = |path: PathBuf| std::fs::metadata(path).unwrap().uid();
    assert_eq!(owner(open.path().join("by-0")), 65_534);
    assert_eq!(owner(open.path().join("by-1000")), 1000);
    assert_eq!(owner(users.path().join("by-1000")), 1000);
    // Root inside owns what it made, and keeps owning it in another sandbox.
    let line = "stat -c %u /open/by-0 /open/by-1000 /closed; rm /open/by-0 && echo gone";
    let output = soon(sandbox.shell(line).user("root").output())
        .await
        .unwrap();
    assert_eq!(output.stdout_text(), "0\n1000\n65534\ngone\n");
    sandbox.kill().await.unwrap();
}

#[tokio::test]
async fn a_directory_that_is_only_read_changes_nothing() {
    if !common::is_root() {
        return;
    }
    let Some(Host {
        engine,
        state: _state,
    }) = common::embedded().await
    else {
        return;
    };
    let directory = shared(0);
    let spec = SandboxSpec::host()
        .lifetime(Lifetime::Attached)
        .mount(mount(of(directory.path()), "/seen", false));
    let sandbox = engine.create(spec).await.unwrap();
    let line = "stat -c %u /seen/bait; echo > /tmp/x; chmod 4755 /tmp/x && stat -c %a /tmp/x";
    let output = soon(sandbox.shell(line).output()).await.unwrap();
    assert_eq!(output.stdout_text(), "65534\n4755\n");
    let info = sandbox.info().await.unwrap();
    let held = &info.effective["host_directories"];
    assert_eq!(held.value, "root is 65534 outside");
    sandbox.kill().await.unwrap();
}

/// A mount that is only read keeps nobody from a socket or a FIFO: who may use
/// them is said by their owner and mode alone.
#[tokio::test]
async fn what_is_roots_in_a_directory_that_is_only_read_is_not_for_root_inside() {
    if !common::is_root() {
        return;
    }
    let Some(Host {
        engine,
        state: _state,
    }) = common::embedded().await
    else {
        return;
    };
    let directory = shared(0);
    let path = |name: &str| directory.path().join(name);
    let _listener = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    std::fs::write(path("secret"), "s").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    for name in ["socket", "secret"] {
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    std::fs::write(path("open"), "o").unwrap();
    let spec = SandboxSpec::host()
        .lifetime(Lifetime::Attached)
        .mount(mount(of(directory.path()), "/seen", false));
    let sandbox = engine.create(spec).await.unwrap();
    let program = "import os, socket\n\
        def tried(what, work):\n    \
            try:\n        work(); print(what, 'yes')\n    \
            except OSError as e:\n        print(what, e.errno)\n\
        s = socket.socket(socket.AF_UNIX)\n\
        tried('socket', lambda: s.connect('/seen/socket'))\n\
        tried('secret', lambda: open('/seen/secret').read())\n\
        tried('fifo', lambda: os.open('/seen/fifo', os.O_RDWR))\n\
        tried('open', lambda: open('/seen/open').read())\n";
    let exec = sandbox.exec(["python3", "-c", program]).user("root");
    let output = soon(exec.output()).await.unwrap();
    let expected = "socket 13\nsecret 13\nfifo 13\nopen yes\n";
    assert_eq!(output.stdout_text(), expected, "{}", output.stderr_text());
    sandbox.kill().await.unwrap();
}

#[tokio::test]
async fn what_is_refused_is_so_below_a_directory_too() {
    if !common::is_root() {
        return;
    }
    let Some(Host {
        engine,
        state: _state,
    }) = common::embedded().await
    else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let within = place.path().join("a/in");
    std::fs::create_dir_all(&within).unwrap();
    // A user may mount at a path that is no text; the others are seen all the same.
    let odd = place
        .path()
        .join(std::ffi::OsStr::from_bytes(b"no\xfftext"));
    std::fs::create_dir(&odd).unwrap();
    let empty = rustix::mount::MountFlags::empty();
    let is_odd = rustix::mount::mount("none", &odd, "tmpfs", empty, None).is_ok();
    for (kind, what) in [("proc", "/proc"), ("bind", "below /"), ("tmpfs", "")] {
        let mounted = if kind == "bind" {
            rustix::mount::mount_bind("/", &within)
        } else {
            rustix::mount::mount("none", &within, kind, empty, None)
        };
        if mounted.is_err() {
            eprintln!("not run: no right to mount {kind}");
            continue;
        }
        let spec = SandboxSpec::host()
            .lifetime(Lifetime::Attached)
            .mount(mount(of(place.path()), "/seen", false));
        let made = engine.create(spec).await;
        rustix::mount::unmount(&within, rustix::mount::UnmountFlags::DETACH).unwrap();
        match made {
            Ok(sandbox) => {
                assert!(what.is_empty(), "{kind} came along");
                sandbox.kill().await.unwrap();
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
                assert!(
                    !what.is_empty() && error.message().contains(what),
                    "{error}"
                );
                let point = within.to_str().unwrap();
                assert!(error.message().contains(point), "{error}");
            }
        }
    }
    if is_odd {
        rustix::mount::unmount(&odd, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test]
async fn a_mount_in_another_is_seen_whatever_comes_first() {
    let Some(Host {
        engine,
        state: _state,
    }) = common::embedded().await
    else {
        return;
    };
    let volume = |name: &str| MountSource::Volume(name.to_owned());
    let tmpfs = MountSource::Tmpfs { size_mib: 1 };
    let spec = SandboxSpec::host()
        .lifetime(Lifetime::Attached)
        .mount(mount(volume("inner"), "/workspace/sub", true))
        .mount(mount(volume("outer"), "/workspace", true))
        .mount(mount(tmpfs.clone(), "/tmp/a/b", true))
        .mount(mount(tmpfs, "/tmp/a/", true));
    let sandbox = engine.create(spec).await.unwrap();
    let line = "echo x > /workspace/sub/seen && grep -c -e /workspace/sub -e /tmp/a/b /proc/self/mounts; \
        echo y > /tmp/a/b/c && ls /tmp/a/b /workspace";
    let output = soon(sandbox.shell(line).output()).await.unwrap();
    assert_eq!(
        output.stdout_text(),
        "2\n/tmp/a/b:\nc\n\n/workspace:\nsub\n",
        "{}",
        output.stderr_text()
    );
    sandbox.kill().await.unwrap();
}

/// Does something at the end, however it comes.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// Somebody who may write the directory of what is mounted exchanges it with a
/// link to what must not be mounted, all the time.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_checked_is_what_is_mounted() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let Some(host) = common::embedded().await else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let place = place.path().canonicalize().unwrap();
    let (good, bad) = (place.join("allowed/good"), place.join("bad"));
    for (directory, text) in [(&good, "good"), (&bad, "bad")] {
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join("which"), text).unwrap();
    }
    let link = place.join("allowed/link");
    std::os::unix::fs::symlink(&bad, &link).unwrap();
    let mut config = Config::for_state_dir(place.join("state"));
    config.mount_roots = Some(vec![place.join("allowed")]);
    let engine = Engine::open(config).await.unwrap();
    let over = AtomicBool::new(false);
    let mut tally = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let at = rustix::fs::CWD;
                rustix::fs::renameat_with(at, &good, at, &link, flags).unwrap();
                std::thread::park_timeout(std::time::Duration::from_micros(300));
            }
        });
        // Also where an assertion below fails: the scope waits for the thread.
        let _over = OnDrop(|| over.store(true, Ordering::Relaxed));
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for turn in 0..60 {
                    let mount = Mount {
                        target: "/m".into(),
                        source: MountSource::Host(good.to_str().unwrap().into()),
                        writable: false,
                        size_mib: None,
                    };
                    let spec = SandboxSpec::host()
                        .lifetime(Lifetime::Attached)
                        .mount(mount);
                    let Ok(sandbox) = soon(async { engine.create(spec).await }).await else {
                        tally.1 += 1;
                        continue;
                    };
                    let output = soon(sandbox.exec(["cat", "/m/which"]).output()).await;
                    assert_eq!(output.unwrap().stdout, b"good", "turn {turn}");
                    soon(sandbox.kill()).await.unwrap();
                    tally.0 += 1;
                }
            });
        });
    });
    eprintln!("{} mounted, {} refused", tally.0, tally.1);
    drop(host);
}

#[tokio::test]
async fn a_mount_whose_path_is_no_text_takes_no_limit_away() {
    if !common::is_root() {
        return;
    }
    let Some(host) = common::embedded().await else {
        return;
    };
    if !host.limits_memory().await {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let odd = place
        .path()
        .join(std::ffi::OsStr::from_bytes(b"no\xfftext"));
    std::fs::create_dir(&odd).unwrap();
    let empty = rustix::mount::MountFlags::empty();
    if let Err(error) = rustix::mount::mount("none", &odd, "tmpfs", empty, None) {
        eprintln!("not run: no right to mount: {error}");
        return;
    }
    let spec = SandboxSpec::host().lifetime(Lifetime::Attached);
    let made = host.engine.create(spec.memory_mib(256)).await;
    let seen = host.can().await.memory_limit;
    rustix::mount::unmount(&odd, rustix::mount::UnmountFlags::DETACH).unwrap();
    made.unwrap().kill().await.unwrap();
    assert_eq!(seen, stacyvm::provider::Level::Enforced);
}
