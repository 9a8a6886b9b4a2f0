//! `privileges: namespaced_root`: what package managers and set-id programs can
//! do with it, and what nobody can.
#![cfg(all(target_os = "linux", feature = "oci"))]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use common::{Host, soon};
use stacyvm::provider::Users;
use stacyvm::sandbox::exec::TtySize;
use stacyvm::sandbox::spec::{Lifetime, Mount, MountSource, Privileges, Profile};
use stacyvm::{ErrorKind, ExitStatus, Sandbox, SandboxSpec};

const BUSYBOX: &str = "/bin/busybox";
const PASSWD: &str = "root::0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n";

/// A root directory in which busybox is a set-id program of root's, so that its
/// `su` can work; root has no password.
fn root_directory() -> Option<tempfile::TempDir> {
    let Ok(busybox) = std::fs::read(BUSYBOX) else {
        eprintln!("not run: this host has no {BUSYBOX} that is static");
        return None;
    };
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(root.path(), 0o755);
    for (name, of) in [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)] {
        std::fs::create_dir(at(name)).unwrap();
        mode(&at(name), of);
    }
    std::fs::write(at("etc/passwd"), PASSWD).unwrap();
    std::fs::write(at("etc/group"), "root:x:0:\nuser:x:1000:\n").unwrap();
    std::fs::write(at("bin/busybox"), busybox).unwrap();
    mode(&at("bin/busybox"), 0o4755);
    let names = [
        "cat", "chmod", "chown", "cp", "echo", "grep", "id", "kill", "ls", "mkdir", "ps", "sh",
        "sleep", "stat", "su", "touch", "tty",
    ];
    for name in names {
        std::fs::hard_link(at("bin/busybox"), at(&format!("bin/{name}"))).unwrap();
    }
    Some(root)
}

fn image(root: &tempfile::TempDir) -> SandboxSpec {
    SandboxSpec::image(root.path().display().to_string())
}

fn mount(source: MountSource, target: &str, writable: bool) -> Mount {
    Mount {
        target: target.into(),
        source,
        writable,
        size_mib: None,
    }
}

/// The embedded provider, where commands have users.
async fn with_users() -> Option<Host> {
    let host = common::embedded().await?;
    host.has_users().await.then_some(host)
}

/// A sandbox of this image, whose root has rights.
async fn rooted(host: &Host, spec: SandboxSpec) -> Sandbox {
    let spec = spec
        .privileges(Privileges::NamespacedRoot)
        .lifetime(Lifetime::Attached);
    patiently(async { host.engine.create(spec).await })
        .await
        .unwrap()
}

/// What takes long on a busy machine: the unpacking of a whole Debian.
async fn patiently<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(5), work)
        .await
        .expect("it hangs")
}

/// What a line of a shell prints as a user, once it has succeeded.
async fn run(sandbox: &Sandbox, user: &str, line: &str) -> String {
    let exec = sandbox.shell(line).user(user);
    let exec = exec.env("DEBIAN_FRONTEND", "noninteractive");
    let output = patiently(exec.output()).await.unwrap();
    let said = output.stdout_text() + &output.stderr_text();
    assert!(output.status.success(), "{line}\n{said}");
    said
}

/// As [`run`], of a line that fails.
async fn refused(sandbox: &Sandbox, user: &str, line: &str) -> String {
    let output = soon(sandbox.shell(line).user(user).output()).await.unwrap();
    let said = output.stdout_text() + &output.stderr_text();
    assert!(!output.status.success(), "{line}\n{said}");
    said
}

#[cfg(feature = "image")]
#[tokio::test]
async fn packages_are_installed_and_what_they_bring_runs() {
    let Some(made) = std::env::var_os("STACYVM_TEST_DEBIAN") else {
        eprintln!("not run: no Debian image (STACYVM_TEST_DEBIAN, scripts/debian-image.sh)");
        return;
    };
    let Some(host) = with_users().await else {
        return;
    };
    let made = made.into_string().unwrap();
    let mirror = mount(
        MountSource::Host(format!("{made}/mirror")),
        "/mirror",
        false,
    );
    let spec = SandboxSpec::image(format!("rootfs-archive:{made}/root.tar")).mount(mirror);
    let sandbox = rooted(&host, spec).await;

    // What the image brings has its owners, without root too.
    let owners = run(
        &sandbox,
        "root",
        "stat -c '%a %U %G' /etc/shadow /usr/bin/chage /usr/bin/passwd /var/mail /var/cache/apt/archives/partial",
    )
    .await;
    assert_eq!(
        owners,
        "640 root shadow\n2755 root shadow\n4755 root root\n2775 root mail\n700 _apt root\n"
    );
    run(
        &sandbox,
        "root",
        "apt-get update && apt-get install -y --no-install-recommends cron sudo openssh-client python3-pip",
    )
    .await;
    assert_eq!(run(&sandbox, "root", "dpkg --audit").await, "");
    let modes = run(
        &sandbox,
        "root",
        "stat -c '%a %U %G' /usr/bin/sudo /usr/bin/crontab /usr/bin/ssh-agent /usr/lib/openssh/ssh-keysign",
    )
    .await;
    assert_eq!(
        modes,
        "4755 root root\n2755 root crontab\n2755 root _ssh\n4755 root root\n"
    );
    assert!(run(&sandbox, "nobody", "ssh -V").await.contains("OpenSSH"));
    // Set-id programs of user and group.
    run(
        &sandbox,
        "root",
        "echo 'nobody ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/nobody",
    )
    .await;
    assert_eq!(
        run(&sandbox, "nobody", "sudo -n id -u").await.trim_end(),
        "0"
    );
    run(
        &sandbox,
        "games",
        "echo '0 0 * * * true' | crontab - && crontab -l",
    )
    .await;
    let table = run(
        &sandbox,
        "root",
        "stat -c '%U %G' /var/spool/cron/crontabs/games",
    )
    .await;
    assert_eq!(table, "games crontab\n");

    // From an index on loopback: a wheel, and a source that is built first.
    let index = "mkdir -p /srv/simple/six /srv/simple/docopt && cp /mirror/six-* /srv/simple/six && cp /mirror/docopt-* /srv/simple/docopt";
    run(&sandbox, "root", index).await;
    let server = sandbox
        .shell("exec python3 -m http.server --bind 127.0.0.1 --directory /srv 8000")
        .user("nobody")
        .background()
        .start();
    let _server = soon(server).await.unwrap();
    let install = "until python3 -c 'import urllib.request as r; r.urlopen(\"http://127.0.0.1:8000/\")' 2>/dev/null; do sleep 0.1; done; pip install --break-system-packages --no-build-isolation --index-url http://127.0.0.1:8000/simple six docopt";
    run(&sandbox, "root", install).await;
    let versions = run(
        &sandbox,
        "nobody",
        "python3 -c 'import six, docopt; print(six.__version__, docopt.__version__)'",
    )
    .await;
    assert_eq!(versions, "1.16.0 0.6.2\n");
    // What was installed goes again.
    run(&sandbox, "root", "apt-get purge -y cron && dpkg --audit").await;
    soon(sandbox.kill()).await.unwrap();
}

#[tokio::test]
async fn set_id_programs_of_the_root_work_and_no_others() {
    let (Some(host), Some(root)) = (with_users().await, root_directory()) else {
        return;
    };
    let tmpfs = mount(MountSource::Tmpfs { size_mib: 4 }, "/memory", true);
    let mut spec = image(&root).mount(tmpfs);
    let mut places = vec!["/memory"];
    // Without root, with a volume the files of the root are the default user's.
    if rustix::process::geteuid().is_root() {
        spec = spec.mount(mount(MountSource::Volume("set-id".into()), "/volume", true));
        places.push("/volume");
    }

    let plain = spec.clone().lifetime(Lifetime::Attached);
    let plain = soon(async { host.engine.create(plain).await })
        .await
        .unwrap();
    refused(&plain, "1000:1000", "su root -c 'id -u'").await;
    let effective = plain.info().await.unwrap().effective;
    assert_eq!(effective["no_new_privs"].value, "1");
    assert!(!effective.contains_key("privileges"));

    let sandbox = rooted(&host, spec).await;
    let seen = run(&sandbox, "1000:1000", "su root -c 'id -u'").await;
    assert_eq!(seen, "0\n");
    // Where others' files come in, and where nobody looks, they give nothing.
    for place in places {
        let line = format!("cp /bin/busybox {place}/su && chmod 4755 {place}/su");
        run(&sandbox, "root", &line).await;
        let line = format!("{place}/su root -c 'id -u'");
        refused(&sandbox, "1000:1000", &line).await;
    }
    let mounts = run(&sandbox, "root", "cat /proc/self/mountinfo").await;
    for line in mounts.lines() {
        let place = line.split(' ').nth(4).unwrap();
        let is_root = place == "/";
        assert_eq!(!line.contains("nosuid"), is_root, "{line}");
        assert!(!is_root || line.contains("nodev"), "{line}");
    }
    let effective = sandbox.info().await.unwrap().effective;
    assert_eq!(effective["no_new_privs"].value, "0");
    let privileges = &effective["privileges"].value;
    assert!(
        privileges.starts_with("namespaced_root: chown, "),
        "{privileges}"
    );
    for sandbox in [plain, sandbox] {
        soon(sandbox.kill()).await.unwrap();
    }
}

#[tokio::test]
async fn what_others_promise_holds_with_it() {
    let (Some(host), Some(root)) = (with_users().await, root_directory()) else {
        return;
    };
    let sandbox = rooted(&host, image(&root).workdir("/srv/deep/work")).await;
    // The agent is not root here; what it makes is root's all the same.
    let owners = run(
        &sandbox,
        "root",
        "stat -c '%u %g' /srv /srv/deep /srv/deep/work",
    )
    .await;
    assert_eq!(owners, "0 0\n0 0\n1000 1000\n");
    soon(sandbox.files().with_user("root").write("/etc/new", "x"))
        .await
        .unwrap();
    let owner = run(&sandbox, "1000:1000", "stat -c '%u %g' /etc/new; id -u").await;
    assert_eq!(owner, "0 0\n1000\n");
    // Other users have no right of root's.
    run(
        &sandbox,
        "root",
        "echo x >/etc/secret && chmod 600 /etc/secret",
    )
    .await;
    refused(&sandbox, "1000:1000", "cat /etc/secret").await;
    refused(&sandbox, "1000:1000", "chown 0 /srv/deep/work").await;

    let size = TtySize {
        rows: 24,
        columns: 80,
    };
    let tty = soon(sandbox.shell("tty").user("root").tty(size).output()).await;
    assert!(tty.unwrap().stdout_text().starts_with("/dev/pts/"));
    // What root becomes is killed with its tree, also where root leaves it.
    let line = "sleep 1000 & su user -c 'sleep 1000' & wait";
    let command = sandbox.shell(line).user("root");
    let output = soon(command.timeout(Duration::from_secs(1)).output()).await;
    let status = output.unwrap().status;
    let in_time = ExitStatus::TimedOut {
        sandbox_ended: false,
    };
    assert_eq!(status, in_time);
    let left = run(&sandbox, "root", "ps -o args").await;
    assert!(!left.contains("sleep 1000"), "{left}");
    // For 0 the kernel would start a handler of the host.
    let line = "ulimit -c 0; grep 'Max core' /proc/self/limits";
    let limit = run(&sandbox, "root", line).await;
    let limit: Vec<&str> = limit.split_whitespace().collect();
    assert_eq!(limit[4..6], ["1", "1"], "{limit:?}");
    // The supervisor and the agent are nobody's.
    for line in [
        "kill -STOP $PPID",
        "kill -9 $PPID",
        "kill -9 1",
        "echo 0 >/proc/$PPID/oom_score_adj",
        "cat /proc/1/environ",
        "ls /proc/$PPID/fd/",
        "touch /tmp/x; chown 65000 /tmp/x",
        "mkdir /tmp/y; chown 65000:65000 /tmp/y",
    ] {
        refused(&sandbox, "root", line).await;
    }
    run(&sandbox, "root", "touch /tmp/z; chown 64999:65000 /tmp/z").await;
    let error = soon(sandbox.exec(["id"]).user("65000").output())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    soon(sandbox.kill()).await.unwrap();
}

/// An image may bring what no command can make.
#[cfg(feature = "certify")]
#[tokio::test]
async fn a_set_id_program_of_the_supervisors_user_gives_nothing() {
    if !common::is_root() {
        return;
    }
    let (Some(host), Some(root)) = (with_users().await, root_directory()) else {
        return;
    };
    let program = root.path().join("bin/reserved");
    // The user of supervisors.
    let reserved = 65_000;
    std::fs::write(&program, stacyvm_agent::PROBE).unwrap();
    std::os::unix::fs::chown(&program, Some(reserved), Some(0)).unwrap();
    let mode = std::fs::Permissions::from_mode(0o4755);
    std::fs::set_permissions(&program, mode).unwrap();
    let sandbox = rooted(&host, image(&root)).await;
    let line = "stat -c '%a %u' /bin/reserved && /bin/reserved agent.signal_supervisor";
    let said = run(&sandbox, "1000:1000", line).await;
    assert!(said.starts_with("4755 65534\n"), "{said}");
    assert!(said.contains("silent"), "{said}");
    soon(sandbox.kill()).await.unwrap();
}

#[tokio::test]
async fn of_the_hosts_users_it_reaches_the_default_one_alone() {
    if !common::is_root() {
        return;
    }
    let (Some(host), Some(root)) = (with_users().await, root_directory()) else {
        return;
    };
    let shared = tempfile::tempdir().unwrap();
    let at = |name: &str| shared.path().join(name);
    std::fs::set_permissions(shared.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
    for (name, user) in [("own", 1000), ("others", 33), ("roots", 0)] {
        std::fs::write(at(name), "x").unwrap();
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(0o660)).unwrap();
        std::os::unix::fs::chown(at(name), Some(user), Some(user)).unwrap();
    }
    let source = MountSource::Host(shared.path().display().to_string());
    let spec = image(&root).mount(mount(source, "/shared", true));
    let sandbox = rooted(&host, spec).await;
    run(&sandbox, "root", "cat /shared/own").await;
    for user in ["root", "33:33", "1000:33"] {
        for line in [
            "cat /shared/others",
            "cat /shared/roots",
            "chown 33 /shared/own",
            "chmod 4755 /shared/own",
            "chmod 666 /shared/others",
        ] {
            refused(&sandbox, user, line).await;
        }
    }
    refused(&sandbox, "33:33", "touch /shared/new").await;
    run(&sandbox, "root", "touch /shared/new").await;
    assert_eq!(std::fs::metadata(at("new")).unwrap().uid(), 65_534);
    let own = std::fs::metadata(at("own")).unwrap();
    assert_eq!((own.uid(), own.mode() & 0o7777), (1000, 0o660));
    soon(sandbox.kill()).await.unwrap();
}

#[tokio::test]
async fn on_the_host_its_set_id_files_are_out_of_reach_and_not_the_hosts() {
    let (Some(host), Some(root)) = (with_users().await, root_directory()) else {
        return;
    };
    let sandbox = rooted(&host, image(&root)).await;
    run(
        &sandbox,
        "root",
        "cp /bin/busybox /tmp/mark-of-set-id; chmod 6755 /tmp/mark-of-set-id",
    )
    .await;
    let own = rustix::process::geteuid().as_raw();
    let found = find(host.state.path(), "mark-of-set-id").expect("the layer of the sandbox");
    let meta = std::fs::symlink_metadata(&found).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o6755);
    // Without root, root inside is this user where the root directory is this user's.
    if own == 0 {
        assert!(meta.uid() >= 0x7000_0000 && meta.gid() >= 0x7000_0000);
    } else {
        assert_eq!(meta.uid(), own);
    }
    let closed = found.ancestors().any(|above| {
        let meta = std::fs::symlink_metadata(above).unwrap();
        above.starts_with(host.state.path())
            && meta.uid() == own
            && meta.mode().is_multiple_of(0o100)
    });
    assert!(closed, "{}", found.display());
    soon(sandbox.kill()).await.unwrap();
}

fn find(below: &Path, name: &str) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(below).into_iter().flatten().flatten() {
        if entry.file_name() == name {
            return Some(entry.path());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Some(found) = find(&entry.path(), name)
        {
            return Some(found);
        }
    }
    None
}

#[tokio::test]
async fn where_it_cannot_be_it_is_refused_with_the_remedy() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let refusal = async |spec: SandboxSpec| {
        let spec = spec
            .privileges(Privileges::NamespacedRoot)
            .lifetime(Lifetime::Attached);
        soon(async { host.engine.create(spec).await })
            .await
            .unwrap_err()
    };
    let many = host.can().await.users == Users::Many;
    assert_eq!(host.can().await.namespaced_root, many);
    if !many {
        let error = refusal(SandboxSpec::host()).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let said = format!("{error}");
        assert!(
            said.contains("privileges") && said.contains("/etc/subuid"),
            "{said}"
        );
        return;
    }
    let error = refusal(SandboxSpec::host().profile(Profile::Strict)).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(format!("{error}").contains("no_new_privileges"), "{error}");
}
