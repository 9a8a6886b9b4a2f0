//! The embedded provider for an ordinary user. Root's own rules are tested
//! elsewhere; `scripts/rootless.sh` runs this as a user whom the machine has
//! not, with and without a range of ids.
#![cfg(all(target_os = "linux", feature = "oci"))]
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that panics has failed, and one that cannot run says why"
)]

mod common;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use common::residue::Watch;
use common::{Host, eventually, soon};
use stacyvm::config::Config;
use stacyvm::engine::Engine;
use stacyvm::provider::Users;
use stacyvm::sandbox::spec::{Lifetime, Mount, MountSource, SandboxSpec};
use stacyvm::sandbox::state::Phase;
use stacyvm::{ErrorKind, ExitStatus, Sandbox};

/// The provider as an ordinary user, or a word about it.
async fn rootless() -> Option<(Host, Watch)> {
    if rustix::process::geteuid().is_root() {
        eprintln!("not run: this is root, expected an ordinary user (scripts/rootless.sh)");
        return None;
    }
    let state = common::state();
    let watch = Watch::begin(state.path());
    let mut config = Config::for_state_dir(state.path());
    // One that waits would look like something left.
    config.parked_helpers = 0;
    let engine = Engine::open(config).await.unwrap();
    Some((Host { engine, state }, watch))
}

fn attached() -> SandboxSpec {
    SandboxSpec::host().lifetime(Lifetime::Attached)
}

fn mount(source: &Path, target: &str, writable: bool) -> Mount {
    Mount {
        target: target.into(),
        source: MountSource::Host(source.display().to_string()),
        writable,
        size_mib: None,
    }
}

async fn say(sandbox: &Sandbox, line: &str) -> String {
    let output = soon(sandbox.shell(line).output()).await.unwrap();
    output.stdout_text() + &output.stderr_text()
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[tokio::test]
async fn rootless_life_leaves_nothing() {
    let Some((host, watch)) = rootless().await else {
        return;
    };
    let sandbox = soon(async { host.engine.create(attached()).await })
        .await
        .unwrap();
    assert_eq!(say(&sandbox, "id -un; pwd").await, "user\n/workspace\n");
    sandbox
        .files()
        .write("/workspace/deep/er/file", "data")
        .await
        .unwrap();
    assert_eq!(
        sandbox
            .files()
            .read("/workspace/deep/er/file")
            .await
            .unwrap(),
        "data"
    );
    // What only its owner may look into, and what nobody may.
    say(
        &sandbox,
        "mkdir -m 700 a a/b; touch a/b/c; mkdir -m 0 a/d; chmod 0 a",
    )
    .await;
    if host.can().await.users == Users::Many {
        let line = "mkdir -p /var/lib/x/y && chmod 0 /var/lib/x && chown 65534:7 /var/lib/x";
        let output = soon(sandbox.shell(line).user("root").output())
            .await
            .unwrap();
        // A command of root has no capability, so that it gives nothing away.
        assert!(output.stderr_text().contains("chown"), "{output:?}");
    }
    soon(sandbox.kill()).await.unwrap();
    watch.nothing_left().await;
}

#[tokio::test]
async fn rootless_users_are_a_capability() {
    let Some((host, _watch)) = rootless().await else {
        return;
    };
    let sandbox = host.sandbox().await;
    let users = host.can().await.users;
    let exec = sandbox.shell("id -u; cat /proc/self/uid_map").user("root");
    match users {
        Users::Many => {
            let text = soon(exec.output()).await.unwrap().stdout_text();
            assert!(text.starts_with("0\n"), "{text}");
            // This user is nobody inside, as nothing of the host is mounted.
            let outside: Vec<u32> = text
                .lines()
                .skip(1)
                .flat_map(|line| line.split_whitespace().skip(1).take(1))
                .map(|n| n.parse().unwrap())
                .collect();
            assert!(!outside.contains(&own_uid()), "{text}");
        }
        Users::One => {
            let error = soon(exec.output()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(error.fact("need"), Some("users"));
            let error = host
                .engine
                .create(attached().user("root"))
                .await
                .unwrap_err();
            assert_eq!(error.fact("need"), Some("users"));
            let text = say(&sandbox, "id -u; cut -c 1- /proc/self/uid_map").await;
            assert!(text.starts_with("1000\n"), "{text}");
        }
    }
    // Not a single capability, whoever it is.
    let text = say(
        &sandbox,
        "grep -E '^(Cap|NoNew)' /proc/1/status /proc/self/status",
    )
    .await;
    for line in text
        .lines()
        .filter(|l| l.contains("/self/") && l.contains(":Cap"))
    {
        assert!(line.ends_with("0000000000000000"), "{line}");
    }
    let effective = sandbox.info().await.unwrap().effective;
    assert!(effective.contains_key("user_namespace"), "{effective:?}");
}

#[tokio::test]
async fn rootless_files_of_the_host_keep_their_owner() {
    let Some((host, watch)) = rootless().await else {
        return;
    };
    let shared = tempfile::tempdir().unwrap();
    std::fs::write(shared.path().join("mine"), "host").unwrap();
    let spec = attached()
        .mount(mount(shared.path(), "/shared", true))
        .mount(mount(shared.path(), "/read", false));
    let sandbox = soon(async { host.engine.create(spec).await })
        .await
        .unwrap();
    let seen = say(&sandbox, "stat -c '%U %u' /shared/mine /shared").await;
    assert_eq!(seen, "user 1000\nuser 1000\n");
    say(
        &sandbox,
        "echo inside > /shared/made; echo more >> /shared/mine",
    )
    .await;
    let made = std::fs::metadata(shared.path().join("made")).unwrap();
    assert_eq!(made.uid(), own_uid());
    assert_eq!(
        std::fs::read_to_string(shared.path().join("mine")).unwrap(),
        "hostmore\n"
    );
    let refused = say(&sandbox, "touch /read/x; chmod 4755 /shared/made; echo").await;
    assert!(refused.contains("Read-only"), "{refused}");
    assert!(refused.contains("not permitted"), "{refused}");
    assert_eq!(made.permissions().mode() & 0o6000, 0);
    if host.can().await.users == Users::Many {
        // Root inside is somebody else there, without a right of this user.
        let line = "echo no >> /shared/mine";
        let output = soon(sandbox.shell(line).user("root").output())
            .await
            .unwrap();
        assert!(!output.status.success(), "{output:?}");
    }
    soon(sandbox.kill()).await.unwrap();
    assert!(shared.path().join("made").exists());
    watch.nothing_left().await;
}

#[tokio::test]
async fn rootless_root_inside_owns_no_agent_where_files_of_the_host_are() {
    let Some((host, _watch)) = rootless().await else {
        return;
    };
    let shared = tempfile::tempdir().unwrap();
    let spec = attached().mount(mount(shared.path(), "/shared", true));
    let sandbox = soon(async { host.engine.create(spec).await })
        .await
        .unwrap();
    let users = match host.can().await.users {
        Users::Many => &[Some("root"), Some("user")][..],
        Users::One => &[None],
    };
    let line = "for of in 1 $PPID; do stat -c %u /proc/$of/oom_score_adj /proc/$of/mem; \
                (echo 900 > /proc/$of/oom_score_adj) 2>/dev/null && echo raised; \
                cat /proc/$of/environ 2>/dev/null && echo read; done; id -u";
    for user in users {
        let mut exec = sandbox.shell(line);
        if let Some(user) = user {
            exec = exec.user(*user);
        }
        let output = soon(exec.output()).await.unwrap();
        let uid = if *user == Some("root") { 0 } else { 1000 };
        let expected = format!("{}{uid}\n", "65534\n".repeat(4));
        assert_eq!(output.stdout_text(), expected, "{user:?}: {output:?}");
    }
    soon(sandbox.kill()).await.unwrap();
}

#[tokio::test]
async fn rootless_volumes_outlive_sandboxes() {
    let Some((host, watch)) = rootless().await else {
        return;
    };
    let spec = || {
        attached().mount(Mount {
            target: "/keep".into(),
            source: MountSource::Volume("kept".into()),
            writable: true,
            size_mib: None,
        })
    };
    for (line, expected) in [("echo 1 > /keep/file", ""), ("cat /keep/file", "1\n")] {
        let sandbox = soon(async { host.engine.create(spec()).await })
            .await
            .unwrap();
        assert_eq!(say(&sandbox, line).await, expected);
        soon(sandbox.kill()).await.unwrap();
    }
    watch.nothing_left().await;
}

#[tokio::test]
async fn rootless_volumes_with_files_of_others_are_pruned() {
    let Some((host, watch)) = rootless().await else {
        return;
    };
    let spec = ["first", "second"].iter().fold(attached(), |spec, name| {
        spec.mount(Mount {
            target: format!("/{name}"),
            source: MountSource::Volume((*name).into()),
            writable: true,
            size_mib: None,
        })
    });
    let sandbox = soon(async { host.engine.create(spec).await })
        .await
        .unwrap();
    say(
        &sandbox,
        "chmod 777 /first; mkdir -m 700 /second/x; touch /second/x/y; chmod 0 /second/x",
    )
    .await;
    if host.can().await.users == Users::Many {
        let line = "mkdir -m 700 /first/x && touch /first/x/y && mkdir -m 0 /first/x/z";
        let made = soon(sandbox.shell(line).user("1234:1234").output()).await;
        let made = made.unwrap();
        assert!(made.status.success(), "{made:?}");
    }
    soon(sandbox.kill()).await.unwrap();
    let request = stacyvm::engine::PruneRequest {
        volumes: true,
        ..Default::default()
    };
    let pruned = soon(host.engine.prune(&request)).await.unwrap();
    assert!(pruned.not_removed.is_empty(), "{pruned:?}");
    let names: Vec<_> = pruned.items.iter().map(|item| &item.name).collect();
    assert_eq!(names, ["first", "second"]);
    let volumes = std::fs::read_dir(host.state.path().join("volumes")).unwrap();
    assert_eq!(volumes.count(), 0);
    watch.nothing_left().await;
}

#[tokio::test]
async fn rootless_root_directories_stay_as_they_are() {
    let Some((host, watch)) = rootless().await else {
        return;
    };
    let root = tempfile::tempdir().unwrap();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"];
    let Some(busybox) = busybox.iter().find(|path| Path::new(path).exists()) else {
        eprintln!("not run: no static busybox on this host");
        return;
    };
    std::fs::create_dir_all(root.path().join("bin")).unwrap();
    std::fs::create_dir_all(root.path().join("etc")).unwrap();
    std::fs::write(root.path().join("etc/kept"), "image").unwrap();
    for name in ["sh", "cat", "stat", "rm"] {
        std::fs::copy(busybox, root.path().join("bin").join(name)).unwrap();
    }
    let spec = SandboxSpec::image(root.path().display().to_string()).lifetime(Lifetime::Attached);
    let sandbox = soon(async { host.engine.create(spec).await })
        .await
        .unwrap();
    // Root inside is this user here, and owns nothing of the agent all the same.
    let line = "stat -c %u /etc/kept /proc/1/oom_score_adj; echo new > /etc/kept; cat /etc/kept";
    let mut exec = sandbox.shell(line);
    let owner = match host.can().await.users {
        Users::Many => {
            exec = exec.user("root");
            0
        }
        Users::One => 1000,
    };
    let output = soon(exec.output()).await.unwrap();
    assert_eq!(
        output.stdout_text(),
        format!("{owner}\n65534\nnew\n"),
        "{output:?}"
    );
    soon(sandbox.kill()).await.unwrap();
    let kept = std::fs::read_to_string(root.path().join("etc/kept")).unwrap();
    assert_eq!(kept, "image");
    watch.nothing_left().await;
}

#[tokio::test]
async fn rootless_leftovers_of_a_killed_helper_are_swept() {
    let Some((host, watch)) = rootless().await else {
        return;
    };
    // With a volume this user is inside, so that files can have mixed owners.
    let spec = SandboxSpec::host()
        .lifetime(Lifetime::Detached)
        .mount(Mount {
            target: "/keep".into(),
            source: MountSource::Volume("kept".into()),
            writable: true,
            size_mib: None,
        });
    let sandbox = soon(async { host.engine.create(spec).await })
        .await
        .unwrap();
    say(&sandbox, "mkdir -m 700 x; touch x/y; chmod 0 x").await;
    if host.can().await.users == Users::Many {
        for (user, line) in [
            ("0:0", "mkdir -m 777 /tmp/y"),
            ("0:1000", "mkdir -p /tmp/y/x/z"),
        ] {
            let made = soon(sandbox.shell(line).user(user).output()).await.unwrap();
            assert!(made.status.success(), "{made:?}");
        }
    }
    let agent = sandbox.info().await.unwrap().host_pid.unwrap();
    let helper = common::residue::parent(agent);
    let pid = rustix::process::Pid::from_raw(i32::try_from(helper).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually("the record says that it ended", async || {
        host.engine.reconcile().await.unwrap();
        sandbox.info().await.unwrap().phase == Phase::Ended
    })
    .await;
    watch.nothing_left().await;
}

#[tokio::test]
async fn rootless_limits_are_enforced_or_refused() {
    let Some((host, watch)) = rootless().await else {
        return;
    };
    let spec = attached().memory_mib(64).pids(64);
    let made = soon(async { host.engine.create(spec).await }).await;
    if !host.limits_memory().await {
        let error = made.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.fact("need"), Some("memory_limit"));
        let found = error.fact("found").unwrap();
        // What helps depends on the version of the cgroups.
        let helps = if found.contains("version 1") {
            "version 2"
        } else {
            "delegate"
        };
        assert!(found.starts_with("missing"), "{error}");
        assert!(error.fact("remedy").unwrap().contains(helps), "{error}");
        // Left out, it works, and nothing is said to be in force that is not.
        let sandbox = host.sandbox().await;
        let effective = sandbox.info().await.unwrap().effective;
        assert!(!effective.contains_key("memory_limit"), "{effective:?}");
        return;
    }
    let sandbox = made.unwrap();
    let eater = sandbox.shell("x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done");
    let output = soon(eater.output()).await.unwrap();
    assert_eq!(output.status, ExitStatus::OutOfMemory);
    let forks = "i=0; while [ $i -lt 100 ]; do sleep 60 & i=$((i+1)); done; echo all";
    let output = soon(sandbox.shell(forks).output()).await.unwrap();
    assert!(!output.stdout_text().contains("all"), "{output:?}");
    let usage = sandbox.usage().await.unwrap();
    assert!(usage.memory_bytes.unwrap() > 0, "{usage:?}");
    assert!(usage.processes.unwrap() <= 64, "{usage:?}");
    soon(sandbox.pause()).await.unwrap();
    soon(sandbox.resume()).await.unwrap();
    soon(sandbox.kill()).await.unwrap();
    watch.nothing_left().await;
}

/// Runs where the host forbids namespaces to this process, in one of three ways
/// that `scripts/vm-test.sh` brings about.
#[tokio::test]
async fn rootless_refusals_name_what_forbids_user_namespaces() {
    let Some((host, watch)) = rootless().await else {
        return;
    };
    let is = |file: &str, value: &str| {
        std::fs::read_to_string(file).is_ok_and(|text| text.starts_with(value))
    };
    let named = if is("/proc/sys/user/max_user_namespaces", "0") {
        "user.max_user_namespaces"
    } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "kernel.unprivileged_userns_clone"
    } else if is("/proc/self/attr/current", "stacyvm-no-namespaces") {
        "security module"
    } else {
        eprintln!("not run: nothing forbids user namespaces here (scripts/vm-test.sh)");
        return;
    };
    let error = soon(async { host.engine.create(attached()).await })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert_eq!(error.fact("need"), Some("user_namespaces"), "{error:?}");
    assert!(error.to_string().contains(named), "{error}");
    assert!(!error.fact("remedy").unwrap().is_empty());
    watch.nothing_left().await;
}

#[tokio::test]
async fn rootless_commands_reach_no_helper_that_they_see() {
    let Some((host, _watch)) = rootless().await else {
        return;
    };
    let other = common::embedded().await.unwrap();
    let victim = other.sandbox().await;
    let seen = mount(&other.state.path().join("sandboxes"), "/seen", false);
    let sandbox = soon(async { host.engine.create(attached().mount(seen)).await })
        .await
        .unwrap();
    // A helper that takes the connection waits for a request after these bytes.
    let line = format!(
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.settimeout(10)\n\
         s.connect('/seen/{}/helper.sock')\n\
         try:\n s.send(b'SVMmoni1')\n print('closed' if s.recv(1) == b'' else 'answer')\n\
         except TimeoutError:\n print('open')\n\
         except OSError:\n print('closed')\n",
        victim.id()
    );
    let output = soon(sandbox.exec(["python3", "-c", &line]).output()).await;
    let Ok(output) = output else {
        eprintln!("not run: no python3 on this host");
        return;
    };
    let text = output.stdout_text() + &output.stderr_text();
    // The same user outside, but not of the helper's namespace.
    assert_eq!(text, "closed\n");
    assert_eq!(say(&victim, "echo well").await, "well\n");
}
