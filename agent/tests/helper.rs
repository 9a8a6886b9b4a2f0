//! The helper makes sandboxes, and leaves nothing of them behind.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]
#![allow(
    clippy::disallowed_methods,
    reason = "waits of tests are within bounds"
)]

mod helper_support;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use helper_support::*;
use stacyvm_agent::helper_protocol::*;

fn open(path: &std::path::Path) -> OwnedFd {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap()
}

fn assert_gone(host: &Host, id: &str, pid: u32) {
    eventually("the processes are gone", || !exists(pid));
    eventually("the directory is gone", || host.names().is_empty());
    assert_eq!(cgroups(id), Vec::<PathBuf>::new());
    assert_eq!(traces(&host.path), Vec::<String>::new());
}

#[test]
fn a_sandbox_starts_and_leaves_nothing() {
    let host = Host::new();
    let mut sandbox = host.launch(|_, _| {});
    assert_eq!(sandbox.sh("echo hello"), "hello\n[0]");
    assert!(!cgroups(&sandbox.id).is_empty());
    assert_eq!(
        sandbox.report.record.as_ref().unwrap().as_slice(),
        b"record"
    );
    // Odd things that a program inside leaves on disk.
    sandbox.sh("cd /workspace; mkdir -p a/b; chmod 0 a/b a; ln -s / link; mkfifo fifo; : > -x");
    let (id, pid) = (sandbox.id.clone(), sandbox.report.pid);
    let ended = sandbox.destroy();
    assert_eq!(
        ended,
        Ended {
            cause: EndCause::Destroyed,
            left: Vec::new()
        }
    );
    // At once, without any waiting: that is what the answer means.
    assert!(!exists(pid));
    assert_eq!(host.names(), Vec::<String>::new());
    assert_eq!(cgroups(&id), Vec::<PathBuf>::new());
    assert_eq!(traces(&host.path), Vec::<String>::new());
}

#[test]
fn one_that_waits_is_claimed_once_and_its_idleness_counts_from_then() {
    let host = Host::new();
    let sandbox = host.launch(|launch, _| {
        launch.waits = true;
        launch.agent.idle_ms = Some(300);
        launch.ends_in_ms = Some(60_000);
    });
    std::thread::sleep(std::time::Duration::from_millis(700));
    let claim = ToHelper::Claim(Claim {
        ends_in_ms: None,
        detach: true,
    });
    let ask = || {
        sandbox.helper.send(&claim, &[]);
        sandbox.helper.receive()
    };
    // What stands still is not given away, and stays what it is.
    assert_eq!(sandbox.ask(MonitorRequest::Pause), Some(FromHelper::Done));
    let refused = |answer: Option<FromHelper>| matches!(answer, Some(FromHelper::Failed(failed)) if failed.kind == FailedKind::Conflict);
    assert!(refused(ask()));
    let Some(FromHelper::Report(report)) = sandbox.ask(MonitorRequest::Inspect) else {
        panic!("no report");
    };
    assert!(report.ends_in_ms.is_some() && report.idle_ends_in_ms.is_none());
    assert_eq!(sandbox.ask(MonitorRequest::Resume), Some(FromHelper::Done));

    assert_eq!(ask(), Some(FromHelper::Done));
    let Some(FromHelper::Report(report)) = sandbox.ask(MonitorRequest::Inspect) else {
        panic!("no report");
    };
    assert_eq!(report.ends_in_ms, None);
    assert!(report.idle_ends_in_ms.is_some());
    assert!(refused(ask()));
    let Some(FromHelper::Ended(ended)) = sandbox.helper.receive() else {
        panic!("no end");
    };
    assert_eq!(ended.cause, EndCause::Idle);
}

#[test]
fn one_that_was_claimed_as_detached_outlives_its_owner_and_another_does_not() {
    for detach in [true, false] {
        let host = Host::new();
        let mut sandbox = host.launch(|launch, _| launch.waits = true);
        let claim = Claim {
            ends_in_ms: Some(60_000),
            detach,
        };
        sandbox.helper.send(&ToHelper::Claim(claim), &[]);
        // Sent is as good as done: nobody waits for the answer of a host that dies.
        drop_owner(&mut sandbox.helper);
        let (id, pid) = (sandbox.id.clone(), sandbox.report.pid);
        if detach {
            std::thread::sleep(std::time::Duration::from_millis(300));
            assert!(exists(pid), "it ended with its owner");
            let mut stream = sandbox.connect(REQUEST_MONITOR);
            let ended = monitor(&mut stream, MonitorRequest::Destroy);
            assert!(matches!(ended, Some(FromHelper::Ended(_))), "{ended:?}");
        }
        assert_gone(&host, &id, pid);
    }
}

/// Closes the owner channel.
fn drop_owner(helper: &mut Helper) {
    let (nobody, _) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    drop(std::mem::replace(&mut helper.owner, nobody));
}

const ATTACH: MonitorRequest = MonitorRequest::SetAttached { attached: true };
const DETACH: MonitorRequest = MonitorRequest::SetAttached { attached: false };

#[test]
fn one_that_was_made_another_s_ends_with_that_and_not_with_who_made_it() {
    let host = Host::new();
    let mut sandbox = host.launch(|_, _| {});
    let [mut first, mut last] = [(); 2].map(|()| sandbox.connect(REQUEST_MONITOR));
    for owner in [&mut first, &mut last] {
        assert_eq!(monitor(owner, ATTACH), Some(FromHelper::Done));
        assert_eq!(monitor(owner, ATTACH), Some(FromHelper::Done));
    }
    drop_owner(&mut sandbox.helper);
    drop(first);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(exists(sandbox.report.pid), "it ended with an earlier owner");
    drop(last);
    assert_gone(&host, &sandbox.id, sandbox.report.pid);
}

#[test]
fn one_that_is_nobody_s_outlives_all_owners() {
    let host = Host::new();
    let mut sandbox = host.launch(|_, _| {});
    let [mut owner, mut other] = [(); 2].map(|()| sandbox.connect(REQUEST_MONITOR));
    assert_eq!(monitor(&mut owner, ATTACH), Some(FromHelper::Done));
    assert_eq!(monitor(&mut other, DETACH), Some(FromHelper::Done));
    drop(owner);
    drop_owner(&mut sandbox.helper);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(exists(sandbox.report.pid), "it ended with an owner");
    let ended = monitor(&mut other, MonitorRequest::Destroy);
    assert!(matches!(ended, Some(FromHelper::Ended(_))), "{ended:?}");
    assert_gone(&host, &sandbox.id, sandbox.report.pid);
}

#[test]
fn one_that_waits_stays_its_owner_s() {
    let host = Host::new();
    let mut sandbox = host.launch(|launch, _| launch.waits = true);
    let mut other = sandbox.connect(REQUEST_MONITOR);
    for request in [ATTACH, DETACH] {
        let answer = monitor(&mut other, request);
        assert!(
            matches!(&answer, Some(FromHelper::Failed(failed)) if failed.kind == FailedKind::Conflict),
            "{answer:?}"
        );
    }
    drop_owner(&mut sandbox.helper);
    assert_gone(&host, &sandbox.id, sandbox.report.pid);
}

#[test]
fn what_is_inside_is_confined() {
    let host = Host::new();
    let mut sandbox = host.launch(|_, _| {});
    let mut is = |command: &str, expected: &str| {
        let seen = sandbox.sh(command);
        assert_eq!(seen.trim_end_matches("[0]").trim(), expected, "{command}");
    };
    is(
        "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status | tr -d '\\t\\n'",
        "CapInh:0000000000000000CapPrm:00000000000001ebCapEff:00000000000001eb\
        CapBnd:00000000000001ebCapAmb:0000000000000000NoNewPrivs:1Seccomp:2",
    );
    is(
        "hostname; cat /etc/hostname; cat /etc/resolv.conf",
        "probe\nprobe\nnameserver 192.0.2.1",
    );
    is("id -u; id -G; umask", "0\n0\n0022");
    is(
        "for fd in /proc/1/fd/*; do readlink $fd; done | sed 's/:.*//' | grep -v pipe | sort -u | tr '\\n' ' '",
        "/dev/null socket",
    );
    is("ulimit -c; ulimit -H -c", "0\n0");
    is("cat /proc/sys/user/max_user_namespaces", "0");
    is("ls /proc/net/dev > /dev/null; grep -c : /proc/net/dev", "1");
    is("test -e /etc/shadow || test -e /opt || ls /root", "");
    is(
        "stat -c '%U %a' /home/user /workspace /tmp /var/tmp",
        "user 700\nuser 755\nroot 1777\nroot 1777",
    );
    is(
        "cat /proc/kallsyms /proc/keys /proc/timer_list | wc -c; ls -A /sys/firmware | wc -l",
        "0\n0",
    );
    is(
        "env -i /bin/sh -c 'echo > /workspace/x && echo > /tmp/x && echo ok'",
        "ok",
    );
    // Every mount but the devices refuses devices, and every one set-id programs.
    is(
        "awk '$5 !~ /^.dev/ && $6 !~ /nodev/ && $0 !~ /null/ {print}  $6 !~ /nosuid/ {print}' /proc/self/mountinfo",
        "",
    );
    for path in [
        "/x",
        "/usr/x",
        "/etc/x",
        "/dev/x",
        "/proc/sys/kernel/hostname",
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/sys/x",
    ] {
        let seen = sandbox.sh(&format!("echo x > {path}"));
        assert!(
            seen.contains("[2]") || seen.contains("[1]"),
            "{path}: {seen}"
        );
    }
    for (what, command) in [
        ("user namespace", "unshare -U true"),
        ("mount", "mount -t tmpfs x /tmp"),
        ("umount", "umount /proc"),
        ("chroot", "chroot / true"),
        ("mknod", "mknod /tmp/d c 1 3"),
        ("kernel log", "dmesg"),
        ("memory of init", "head -c1 /proc/1/mem"),
    ] {
        let seen = sandbox.sh(command);
        assert!(!seen.ends_with("[0]"), "{what}: {seen}");
    }
    let python = "import socket,ctypes\n\
        for f in (38,40,17,15,33):\n try:\n  socket.socket(f,2,0); print('open',f)\n except OSError as e: print(e.errno)\n\
        try:\n socket.socket(16,3,9); print('audit')\nexcept OSError as e: print(e.errno)\n\
        c=ctypes.CDLL(None,use_errno=True)\n\
        def t(*a):\n r=c.syscall(*a); print(r, ctypes.get_errno())\n\
        t(250,0); t(321,0); t(298,0); t(425,1); t(435,0,0); t(999)\n";
    let seen = sandbox.sh(&format!(
        "cat > /tmp/p.py <<'EOP'\n{python}\nEOP\npython3 /tmp/p.py"
    ));
    if !seen.contains("not found") && cfg!(target_arch = "x86_64") {
        assert_eq!(
            seen,
            "97\n97\n97\n97\n97\n97\n-1 1\n-1 1\n-1 1\n-1 1\n-1 38\n-1 38\n[0]"
        );
    }
    assert_eq!(sandbox.destroy().left, Vec::<String>::new());
}

/// A root directory with the shell of the host, whose own directories are links.
fn image(host: &Host) -> PathBuf {
    let root = host.path.with_extension("image");
    std::fs::create_dir(&root).unwrap();
    let copy = |path: &str| {
        let to = root.join(&path[1..]);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(path, to).unwrap();
    };
    for program in [
        "/bin/sh",
        "/bin/ls",
        "/bin/cat",
        "/usr/bin/id",
        "/bin/chown",
        "/bin/rm",
        "/usr/bin/stat",
        "/bin/readlink",
        "/bin/dd",
    ] {
        copy(program);
        let out = std::process::Command::new("ldd")
            .arg(program)
            .output()
            .unwrap();
        for word in String::from_utf8(out.stdout).unwrap().split_whitespace() {
            if word.starts_with('/') {
                copy(word);
            }
        }
    }
    let gcc = "/lib/x86_64-linux-gnu/libgcc_s.so.1";
    if std::path::Path::new(gcc).exists() {
        copy(gcc);
    }
    // Links that lead out, if anybody followed them on the host.
    let outside = host.path.with_extension("outside");
    std::fs::create_dir_all(outside.join("sub")).unwrap();
    for name in ["dev", "proc", "sys", "etc", "data"] {
        let target = if name == "etc" {
            PathBuf::from("/var/../usr/etc")
        } else {
            outside.clone()
        };
        std::os::unix::fs::symlink(target, root.join(name)).unwrap();
    }
    std::fs::create_dir_all(root.join("usr/etc")).unwrap();
    std::fs::create_dir_all(root.join("var")).unwrap();
    std::os::unix::fs::symlink("/../../../../../..", root.join("up")).unwrap();
    root
}

#[test]
fn links_of_an_image_lead_nowhere() {
    let host = Host::new();
    let root = image(&host);
    let outside = host.path.with_extension("outside");
    let mut sandbox = host.launch(|launch, fds| {
        launch.root = Root::Directory;
        fds.push(open(&root));
        fds.push(open(&outside));
        for (target, source) in [
            ("/up/mounted/deep", MountSource::Tmpfs { bytes: 1 << 20 }),
            ("/host", MountSource::Host),
        ] {
            launch.mounts.push(Mount {
                target: target.into(),
                source,
                writable: true,
                of_host: false,
            });
        }
    });
    assert_eq!(
        sandbox.sh(
            "cat /usr/etc/hostname; cat /proc/self/comm; echo x > /dev/null; ls -d /sys/kernel"
        ),
        "probe\ncat\n/sys/kernel\n[0]"
    );
    assert_eq!(
        sandbox
            .sh("id -u; stat -c %u /bin/sh; chown 5 /bin/sh && rm /bin/dd && stat -c %u /bin/sh"),
        "0\n0\n5\n[0]"
    );
    assert_eq!(
        sandbox.sh("ls -d /mounted/deep; echo > /mounted/deep/x; echo > /host/from-inside"),
        "/mounted/deep\n[0]"
    );
    assert_eq!(sandbox.destroy().left, Vec::<String>::new());
    // The image is untouched, and only the mount that was asked for was written.
    assert!(root.join("bin/dd").exists());
    assert!(!root.join("usr/etc/hostname").exists() && !root.join("mounted").exists());
    let mut names: Vec<_> = std::fs::read_dir(&outside)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["from-inside", "sub"]);
    for path in [root, outside] {
        std::fs::remove_dir_all(path).unwrap();
    }
}

#[test]
fn a_dangling_target_fails_and_leaves_nothing() {
    let host = Host::new();
    let root = host.path.with_extension("dangling");
    std::fs::create_dir(&root).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", root.join("target")).unwrap();
    let failed = host.try_launch(|launch, fds| {
        launch.root = Root::Directory;
        fds.push(open(&root));
        launch.mounts.push(Mount {
            target: "/target/x".into(),
            source: MountSource::Tmpfs { bytes: 1 << 20 },
            writable: true,
            of_host: false,
        });
    });
    let failed = failed.err().unwrap();
    assert!(failed.message.contains("/target"), "{failed:?}");
    eventually("nothing is left", || host.names().is_empty());
    assert_eq!(traces(&host.path), Vec::<String>::new());
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_read_only_mount_is_read_only() {
    let host = Host::new();
    let shared = host.path.with_extension("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("in"), "seen").unwrap();
    let mut sandbox = host.launch(|launch, fds| {
        for (target, writable) in [("/workspace/ro", false), ("/workspace/rw", true)] {
            fds.push(open(&shared));
            launch.mounts.push(Mount {
                target: target.into(),
                source: MountSource::Host,
                writable,
                of_host: false,
            });
        }
    });
    assert_eq!(sandbox.sh("cat /workspace/ro/in; (echo > /workspace/ro/x) 2> /dev/null || echo no; echo > /workspace/rw/x && echo yes"),
        "seenno\nyes\n[0]");
    assert!(shared.join("x").exists());
    sandbox.destroy();
    std::fs::remove_dir_all(shared).unwrap();
}

/// systemd makes every mount a shared one, so that this is most hosts.
#[test]
fn mounts_of_a_sandbox_never_appear_on_a_host_that_shares_its_own() {
    if !is_root() {
        println!("not run: only root makes a shared mount");
        return;
    }
    let shared = SharedMount::new();
    let host = Host::within(&shared.path);
    let others = traces(&shared.path);
    let image = image(&host);
    for root in [Root::Host, Root::Directory] {
        let launched = host.try_launch(|launch, fds| {
            launch.root = root;
            // The root, or a directory of the host.
            fds.push(open(&image));
            let mut mount = |target: &str, source| {
                launch.mounts.push(Mount {
                    target: target.into(),
                    source,
                    writable: true,
                    of_host: false,
                });
            };
            if root == Root::Host {
                mount("/workspace/host", MountSource::Host);
            }
            mount("/tmp/inside", MountSource::Tmpfs { bytes: 1 << 20 });
        });
        let sandbox = launched.unwrap();
        assert_eq!(traces(&shared.path), others);
        assert_eq!(sandbox.destroy().left, Vec::<String>::new());
        assert_eq!(traces(&shared.path), others);
    }
}

#[test]
fn a_file_system_that_cannot_map_owners_is_told_and_leaves_nothing() {
    let host = Host::new();
    let failed = host.try_launch(|launch, fds| {
        // sysfs has no such thing.
        fds.push(open(std::path::Path::new("/sys/kernel")));
        launch.mounts.push(Mount {
            target: "/workspace/x".into(),
            source: MountSource::Host,
            writable: true,
            of_host: true,
        });
    });
    let failed = failed.err().unwrap();
    assert_eq!(failed.kind, FailedKind::Unsupported, "{failed:?}");
    assert!(failed.message.contains("/workspace/x"), "{failed:?}");
    assert!(failed.message.contains("idmapped mounts"), "{failed:?}");
    eventually("nothing is left", || host.names().is_empty());
}

#[test]
fn limits_hold() {
    let host = Host::new();
    let mut sandbox = host.launch(|launch, _| {
        launch.limits = Limits {
            memory_bytes: Some(64 << 20),
            cpu_millis: Some(500),
            pids: Some(32),
            disk_bytes: None,
        };
    });
    let names: Vec<&str> = sandbox
        .report
        .in_force
        .iter()
        .map(|f| f.name.as_str())
        .collect();
    for name in [
        "memory_limit",
        "cpu_limit",
        "pids_limit",
        "seccomp",
        "user_namespace",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    let seen = sandbox.sh("head -c 200000000 /dev/zero | tail -c 190000000 | wc -c");
    assert!(!seen.starts_with("190000000"), "{seen}");
    let Some(FromHelper::Usage(usage)) = sandbox.ask(MonitorRequest::Usage) else {
        panic!()
    };
    assert!(usage.oom_kills.unwrap() >= 1, "{usage:?}");
    assert!(usage.memory_peak_bytes.unwrap() <= 64 << 20, "{usage:?}");
    assert!(usage.cpu_us.unwrap() > 0 && usage.pids.unwrap() >= 1);
    // A quota of half a processor: the kernel counts how often it held us back.
    let dirs = cgroups(&sandbox.id);
    eventually("the quota holds it back", || {
        // Several, since on a busy machine one does not get half a processor.
        sandbox.sh("for i in 1 2 3 4; do timeout 1 sh -c 'while :; do :; done' & done; wait");
        dirs.iter().any(|dir| {
            std::fs::read_to_string(dir.join("cpu.stat")).is_ok_and(|text| {
                text.lines()
                    .any(|l| l.starts_with("nr_throttled") && !l.ends_with(" 0"))
            })
        })
    });
    // Last, as the stand-in for the agent reaps nobody, and zombies count.
    let seen = sandbox.sh("for i in $(seq 60); do sleep 2 & done; wait; echo $?");
    assert!(seen.to_lowercase().contains("fork"), "{seen}");
    assert_eq!(sandbox.destroy().left, Vec::<String>::new());
}

#[test]
fn a_disk_limit_holds_and_its_device_goes() {
    let host = Host::new();
    let launched = host.try_launch(|launch, _| launch.limits.disk_bytes = Some(32 << 20));
    let mut sandbox = match launched {
        Ok(sandbox) => sandbox,
        Err(failed) => {
            assert_eq!(failed.kind, FailedKind::Unsupported, "{failed:?}");
            return;
        }
    };
    let seen =
        sandbox.sh("head -c 100000000 /dev/zero > /workspace/big; stat -c %s /workspace/big");
    assert!(seen.contains("No space left"), "{seen}");
    assert_eq!(
        sandbox.sh("rm /workspace/big; echo x > /tmp/x; cat /tmp/x"),
        "x\n[0]"
    );
    assert!(
        !traces(&host.path).is_empty(),
        "the loop device is seen while it lives"
    );
    let id = sandbox.id.clone();
    let pid = sandbox.report.pid;
    assert_eq!(sandbox.destroy().left, Vec::<String>::new());
    assert_gone(&host, &id, pid);
}

#[test]
fn the_end_of_the_owner_ends_what_is_attached() {
    let host = Host::new();
    let sandbox = host.launch(|_, _| {});
    let Sandbox {
        id, helper, report, ..
    } = sandbox;
    let mut child = helper_parts(helper);
    assert_gone(&host, &id, report.pid);
    assert!(child.wait().unwrap().success());
}

/// Closes the owner channel and gives the helper's process.
fn helper_parts(mut helper: Helper) -> std::process::Child {
    drop_owner(&mut helper);
    let stand_in = std::process::Command::new("true").spawn().unwrap();
    std::mem::replace(&mut helper.child, stand_in)
}

#[test]
fn a_detached_sandbox_outlives_its_owner_until_its_deadline() {
    let host = Host::new();
    let sandbox = host.launch(|launch, _| launch.ends_in_ms = Some(60_000));
    sandbox.helper.send(&ToHelper::Detach, &[]);
    // Answered after the detach, so that is done.
    assert!(matches!(
        sandbox.ask(MonitorRequest::Inspect),
        Some(FromHelper::Report(_))
    ));
    let other = sandbox.connect(REQUEST_MONITOR);
    let agent = sandbox.connect(REQUEST_AGENT);
    let Sandbox {
        id,
        helper,
        report,
        stream,
        ..
    } = sandbox;
    let mut child = helper_parts(helper);
    drop(stream);
    let (mut other, mut agent) = (other, agent);
    say(&mut agent, "echo still here");
    assert_eq!(hear(&mut agent).unwrap(), "still here\n[0]");
    let Some(FromHelper::Report(seen)) = monitor(&mut other, MonitorRequest::Inspect) else {
        panic!()
    };
    assert_eq!(seen.pid, report.pid);
    assert!(seen.ends_in_ms.unwrap() <= 60_000);
    let sooner = MonitorRequest::SetDeadline { in_ms: Some(50) };
    assert_eq!(monitor(&mut other, sooner), Some(FromHelper::Done));
    let Some(FromHelper::Ended(ended)) = monitor(&mut other, MonitorRequest::Subscribe) else {
        panic!()
    };
    assert_eq!(
        ended,
        Ended {
            cause: EndCause::Deadline,
            left: Vec::new()
        }
    );
    assert_gone(&host, &id, report.pid);
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_is_paused_stands_still_and_can_be_destroyed() {
    let host = Host::new();
    let mut sandbox = host.launch(|_, _| {});
    assert_eq!(sandbox.ask(MonitorRequest::Pause), Some(FromHelper::Done));
    assert_eq!(sandbox.ask(MonitorRequest::Pause), Some(FromHelper::Done));
    say(&mut sandbox.stream, "echo late");
    sandbox
        .stream
        .set_read_timeout(Some(std::time::Duration::from_millis(200)))
        .unwrap();
    assert_eq!(hear(&mut sandbox.stream), None);
    sandbox.stream.set_read_timeout(None).unwrap();
    assert_eq!(sandbox.ask(MonitorRequest::Resume), Some(FromHelper::Done));
    assert_eq!(hear(&mut sandbox.stream).unwrap(), "late\n[0]");
    assert_eq!(sandbox.ask(MonitorRequest::Pause), Some(FromHelper::Done));
    assert_eq!(sandbox.destroy().left, Vec::<String>::new());
}

#[test]
fn ends_from_inside_are_told_apart() {
    let host = Host::new();
    for (word, cause) in [
        ("@die", EndCause::AgentGone),
        ("@control end", EndCause::AgentAsked),
        ("@control sooner", EndCause::Deadline),
        // No message at all: a hostile agent ends itself, not the helper.
        ("@control \u{7f}\u{7f}", EndCause::AgentGone),
    ] {
        let mut sandbox = host.launch(|_, _| {});
        say(&mut sandbox.stream, word);
        let Some(FromHelper::Ended(ended)) = sandbox.helper.receive() else {
            panic!("{word}")
        };
        assert_eq!(
            ended,
            Ended {
                cause,
                left: Vec::new()
            },
            "{word}"
        );
        assert_gone(&host, &sandbox.id, sandbox.report.pid);
    }
    // Later is not the agent's to give.
    let mut sandbox = host.launch(|launch, _| launch.ends_in_ms = Some(60_000));
    sandbox.sh("@control later");
    let Some(FromHelper::Report(report)) = sandbox.ask(MonitorRequest::Inspect) else {
        panic!()
    };
    assert!(report.ends_in_ms.is_some());
}

#[test]
fn a_killed_helper_takes_the_sandbox_along_and_the_ledger_names_the_rest() {
    let host = Host::new();
    let mut sandbox = host.launch(|_, _| {});
    let pid = sandbox.report.pid;
    sandbox.helper.child.kill().unwrap();
    sandbox.helper.child.wait().unwrap();
    eventually("the sandbox is gone", || !exists(pid));
    let ledger = std::fs::read_to_string(sandbox.dir.join(LEDGER_NAME)).unwrap();
    let named: Vec<PathBuf> = ledger
        .lines()
        .filter_map(|line| line.strip_prefix("cgroup\t"))
        .map(PathBuf::from)
        .collect();
    let left = cgroups(&sandbox.id);
    assert!(!left.is_empty());
    for path in &left {
        assert!(named.contains(path), "{} in {ledger}", path.display());
    }
    // The lock is free, as nobody who held it lives.
    let lock = std::fs::File::open(sandbox.dir.join(LOCK_NAME)).unwrap();
    eventually("the lock is free", || {
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
    });
    for path in left {
        eventually("the cgroup goes", || {
            std::fs::remove_dir(&path).is_ok() || !path.exists()
        });
    }
}

#[test]
fn a_parked_helper_goes_with_its_owner() {
    let host = Host::new();
    let name = host.id();
    let helper = host.park(&name);
    assert_eq!(host.names(), std::slice::from_ref(&name));
    assert!(!cgroups(&name).is_empty());
    // The lock is held.
    let lock = std::fs::File::open(host.path.join(&name).join(LOCK_NAME)).unwrap();
    assert!(
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
    );
    let mut child = helper_parts(helper);
    assert!(child.wait().unwrap().success());
    assert_eq!(host.names(), Vec::<String>::new());
    assert_eq!(cgroups(&name), Vec::<PathBuf>::new());
}

#[test]
fn an_id_is_given_once() {
    let host = Host::new();
    let first = host.launch(|_, _| {});
    let second = host
        .try_launch(|launch, _| launch.id.clone_from(&first.id))
        .err()
        .unwrap();
    assert_eq!(second.kind, FailedKind::Conflict);
    eventually("only the first is left", || {
        host.names() == [first.id.clone()]
    });
    assert!(!cgroups(&first.id).is_empty());
    first.destroy();
}

#[test]
fn a_stranger_on_the_socket_gets_nothing() {
    let host = Host::new();
    let sandbox = host.launch(|_, _| {});
    let mut stream = sandbox.connect(*b"GET / HT");
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    let mode = std::fs::metadata(sandbox.dir.join(SOCKET_NAME)).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777,
        0o600
    );
    sandbox.destroy();
}
