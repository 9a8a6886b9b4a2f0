//! What hostile commands do to the agent of their own sandbox.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use stacyvm::provider::Users;
use stacyvm::sandbox::exec::SignalScope;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{ErrorKind, ExitStatus, Sandbox, SandboxSpec};

use super::common::residue::{cgroup, lives};
use super::common::{eventually, soon};
use super::{Ground, ground, ground_with_cgroups, outside, works};

/// A pipeline of shells, each of which ends when it cannot fork.
const PIPELINE: &str = "b() { b | b & }; b & exec sleep 300";
/// A loop that never ends, and children with sessions of their own that
/// ignore what can be ignored.
const LOOP: &str = "exec perl -MPOSIX -e '$SIG{TERM} = $SIG{HUP} = \"IGNORE\"; while (1) { my $p = fork; POSIX::setsid() if defined $p && $p == 0 }'";

/// The cgroup of the commands of a sandbox whose processes are limited.
struct Commands(PathBuf);

impl Commands {
    /// `None`, and a word about it, where there are no limits.
    async fn of(sandbox: &Sandbox) -> Option<Self> {
        let (agent, _) = super::processes_of(sandbox).await;
        let outer = cgroup(agent, "pids").filter(|path| path.join("pids.max").exists());
        if outer.is_none() {
            eprintln!("not run: no cgroup here limits processes");
        }
        outer.map(|path| Self(path.join("commands")))
    }

    /// How often the kernel refused them a fork.
    fn refusals(&self) -> u64 {
        let text = std::fs::read_to_string(self.0.join("pids.events")).unwrap();
        text.trim().strip_prefix("max ").unwrap().parse().unwrap()
    }
}

/// Everything that a host asks of an agent works.
async fn all_works(sandbox: &Sandbox) {
    for _ in 0..3 {
        works(sandbox).await;
    }
    let root = sandbox.exec(["id", "-u"]).user("root");
    assert_eq!(soon(root.output()).await.unwrap().stdout_text(), "0\n");
    assert!(soon(sandbox.processes()).await.unwrap().len() > 1);
    let files = sandbox.files();
    soon(files.write("/tmp/kept", "well")).await.unwrap();
    assert_eq!(soon(files.read("/tmp/kept")).await.unwrap(), "well");
    let mut other = soon(sandbox.exec(["sleep", "300"]).start()).await.unwrap();
    soon(other.signal(15, SignalScope::Process)).await.unwrap();
    let ended = soon(other.wait()).await.unwrap();
    assert_eq!(ended, ExitStatus::Signal { signal: 15 });
}

async fn bomb(ground: &Ground, most: u32, user: &str, bomb: &str) {
    let spec = SandboxSpec::host().pids(most).lifetime(Lifetime::Attached);
    let sandbox = ground.engine.create(spec).await.unwrap();
    let Some(commands) = Commands::of(&sandbox).await else {
        return;
    };
    let start = |timeout: u64| {
        let command = sandbox.shell(bomb).user(user);
        command.timeout(Duration::from_secs(timeout)).start()
    };
    let mut wild = start(300).await.unwrap();
    eventually("forks are refused", async || commands.refusals() > 0).await;
    all_works(&sandbox).await;
    if bomb == LOOP {
        let before = commands.refusals();
        eventually("it still goes on", async || commands.refusals() > before).await;
    }
    soon(wild.kill()).await.unwrap();
    let ended = soon(wild.wait()).await.unwrap();
    assert_eq!(ended, ExitStatus::Signal { signal: 9 });
    // A command has the whole place again.
    let line = "for i in 1 2 3 4 5 6 7 8; do echo $i | cat; done | tail -n 1";
    let seen = soon(sandbox.shell(line).output()).await.unwrap();
    assert_eq!(seen.stdout_text(), "8\n", "{seen:?}");

    let before = commands.refusals();
    let mut wild = start(1).await.unwrap();
    let ended = soon(wild.wait()).await.unwrap();
    assert!(commands.refusals() > before, "it did not fill the limit");
    assert_eq!(
        ended,
        ExitStatus::TimedOut {
            sandbox_ended: false
        }
    );
    works(&sandbox).await;
    soon(sandbox.kill()).await.unwrap();
}

#[tokio::test]
async fn a_fork_bomb_starves_no_other_command_and_is_killed() {
    let Some(ground) = ground_with_cgroups().await else {
        return;
    };
    for most in [64, 256] {
        for user in ["root", "user"] {
            for line in [PIPELINE, LOOP] {
                bomb(&ground, most, user, line).await;
            }
        }
    }
    let left = ground.watch.left_at_once().await;
    assert!(left.is_empty(), "{left:#?}");
}

/// As above with commands that stand still, for hosts that are slow.
#[tokio::test]
async fn commands_that_fill_their_limit_leave_the_agent_its_places() {
    let Some(ground) = ground_with_cgroups().await else {
        return;
    };
    let spec = SandboxSpec::host().pids(64).lifetime(Lifetime::Attached);
    let sandbox = ground.engine.create(spec).await.unwrap();
    let Some(commands) = Commands::of(&sandbox).await else {
        return;
    };
    // The shell that cannot fork any more ends.
    let line = "(while :; do sleep 300 & done); exec sleep 300";
    let mut full = sandbox.shell(line).start().await.unwrap();
    eventually("a fork is refused", async || commands.refusals() > 0).await;
    all_works(&sandbox).await;
    soon(full.kill()).await.unwrap();
    let ended = soon(full.wait()).await.unwrap();
    assert_eq!(ended, ExitStatus::Signal { signal: 9 });
    soon(sandbox.kill()).await.unwrap();
    let left = ground.watch.left_at_once().await;
    assert!(left.is_empty(), "{left:#?}");
}

/// Fills a file in memory that has no name.
const FILE: &str = "exec perl -e 'my $name = \"x\"; my $fd = syscall(SYS_MEMFD, $name, 0); open(my $file, \">&=$fd\") or die; my $piece = \"x\" x 65536; 1 while syswrite $file, $piece'";

/// Files in memory are no process's own, so that the kernel may kill whomever it
/// finds for them: it must find commands alone.
#[tokio::test]
async fn commands_that_fill_memory_with_files_leave_the_agent_its_own() {
    let Some(ground) = ground_with_cgroups().await else {
        return;
    };
    let number = if cfg!(target_arch = "aarch64") {
        "279"
    } else {
        "319"
    };
    let line = FILE.replace("SYS_MEMFD", number);
    for most in [16, 96] {
        let spec = SandboxSpec::host()
            .memory_mib(most)
            .lifetime(Lifetime::Attached);
        let sandbox = ground.engine.create(spec).await.unwrap();
        let (agent, _) = super::processes_of(&sandbox).await;
        let own = cgroup(agent, "memory").map(|path| path.join("commands"));
        if !own.is_some_and(|own| own.join("memory.limit_in_bytes").exists()) {
            eprintln!("not run: no cgroup here limits the memory of commands alone");
            return;
        }
        let mut held = sandbox
            .shell("cat | cat")
            .stdin_pipe()
            .start()
            .await
            .unwrap();
        for user in ["root", "user", "user"] {
            let full = soon(sandbox.shell(&line).user(user).output())
                .await
                .unwrap();
            assert_eq!(full.status, ExitStatus::OutOfMemory, "{most} {full:?}");
            all_works(&sandbox).await;
        }
        // Small ones are not what the kernel takes.
        soon(held.write_stdin("still there")).await.unwrap();
        soon(held.close_stdin()).await.unwrap();
        assert_eq!(
            soon(held.wait()).await.unwrap(),
            ExitStatus::Code { code: 0 }
        );
        // What stays in memory keeps commands out, and the agent takes it away.
        let line = "exec head -c 1G /dev/zero > /dev/shm/full";
        let full = soon(sandbox.shell(line).output()).await.unwrap();
        assert!(!full.status.success(), "{full:?}");
        soon(sandbox.files().remove("/dev/shm/full")).await.unwrap();
        works(&sandbox).await;
        soon(sandbox.kill()).await.unwrap();
    }
    let left = ground.watch.left_at_once().await;
    assert!(left.is_empty(), "{left:#?}");
}

/// Tries everything on the processes of the agent (`$@`) and tells what it got.
const ATTACK: &str = r#"
    for pid in "$@"; do
        cd /proc/$pid || echo "no process $pid"
        for file in oom_score_adj oom_adj comm clear_refs autogroup sched coredump_filter \
            loginuid timens_offsets timerslack_ns setgroups uid_map gid_map mem; do
            for value in 0 1000; do
                (echo $value > $file) 2> /dev/null && echo "wrote $pid $file"
                (echo $value > task/$pid/$file) 2> /dev/null && echo "wrote $pid task $file"
            done
        done
        for file in mem maps environ auxv stack syscall io pagemap personality; do
            (head -c 1 < $file) > /dev/null 2>&1 && echo "read $pid $file"
        done
        for file in fd fdinfo ns map_files; do
            ls $file > /dev/null 2>&1 && echo "listed $pid $file"
        done
        for file in cwd root exe fd/0 fd/3 ns/user; do
            readlink $file && echo "followed $pid $file"
        done
        renice -n 19 -p $pid > /dev/null 2>&1 && echo "reniced $pid"
        for signal in TERM INT USR1 STOP KILL; do kill -$signal $pid 2> /dev/null; done
        perl -e 'exit(syscall(101, 0x4206, $ARGV[0], 0, 0) == 0 ? 0 : 1)' $pid && echo "traced $pid"
        perl -e 'exit(syscall(302, $ARGV[0], 7, pack("QQ", 3, 3), 0) == 0 ? 0 : 1)' $pid && echo "limited $pid"
    done
    cd /
    # What is one's own is another matter.
    echo 900 > /proc/self/oom_score_adj && cat /proc/self/oom_score_adj
"#;

/// The numbers inside of the agent's processes in the sandbox of this one.
fn own_processes(agent: u32) -> Vec<String> {
    let inside = |pid: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("NSpid:"))?;
        line.split_whitespace().last().map(str::to_owned)
    };
    let children = format!("/proc/{agent}/task/{agent}/children");
    let children = std::fs::read_to_string(children).unwrap();
    let all = std::iter::once(agent.to_string());
    all.chain(children.split_whitespace().map(str::to_owned))
        .filter_map(|pid| inside(&pid))
        .collect()
}

#[tokio::test]
async fn nobody_inside_touches_the_agent_or_its_supervisors() {
    let Some(ground) = ground().await else { return };
    let sandbox = ground.sandbox(Lifetime::Attached).await;
    let mut watched = sandbox.exec(["sleep", "300"]).start().await.unwrap();
    let (agent, _) = super::processes_of(&sandbox).await;
    let adjusted = || std::fs::read_to_string(format!("/proc/{agent}/oom_score_adj")).unwrap();
    let before = adjusted();
    if sandbox.capabilities().unwrap().users == Users::One {
        eprintln!("not run: this user has no range of ids in /etc/subuid");
        return;
    }
    let targets = own_processes(agent);
    assert_eq!(
        targets.len(),
        2,
        "the agent and one supervisor: {targets:?}"
    );
    for user in ["root", "user"] {
        let mut argv = vec!["sh".to_owned(), "-c".into(), ATTACK.into(), "attack".into()];
        argv.extend(targets.iter().cloned());
        let output = soon(sandbox.exec(argv).user(user).output()).await.unwrap();
        assert_eq!(output.stdout_text(), "900\n", "{user}: {output:?}");
    }
    assert_eq!(adjusted(), before);
    soon(watched.kill()).await.unwrap();
    let ended = soon(watched.wait()).await.unwrap();
    assert_eq!(ended, ExitStatus::Signal { signal: 9 });
    works(&sandbox).await;
    soon(sandbox.kill()).await.unwrap();
}

/// Puts a process into a frozen cgroup that is made below the sandbox's own.
/// On version 1 nothing kills what is in there. Version 2 has no such place.
fn freeze(sandbox: &Sandbox, pid: u32) -> bool {
    let outer = PathBuf::from("/sys/fs/cgroup/freezer/stacyvm").join(sandbox.id().as_str());
    let inner = outer.join("deep/deeper");
    if !outer.exists() {
        eprintln!("not run: only the freezer of cgroup version 1 makes a process resist");
        return false;
    }
    std::fs::create_dir_all(&inner).unwrap();
    std::fs::write(inner.join("cgroup.procs"), pid.to_string()).unwrap();
    std::fs::write(inner.join("freezer.state"), "FROZEN").unwrap();
    true
}

#[tokio::test]
async fn a_tree_that_resists_ends_its_sandbox_and_nothing_is_left() {
    let Some(ground) = ground_with_cgroups().await else {
        return;
    };
    let sandbox = ground.sandbox(Lifetime::Detached).await;
    let neighbour = ground.sandbox(Lifetime::Attached).await;
    let (agent, helper) = super::processes_of(&sandbox).await;
    let mut other = sandbox.exec(["sleep", "300"]).start().await.unwrap();
    let command = sandbox.exec(["sleep", "300"]);
    let started = command.timeout(Duration::from_secs(1)).start().await;
    let mut resisting = started.unwrap();
    let pid = outside(agent, resisting.pid().unwrap()).unwrap();
    if !freeze(&sandbox, pid) {
        return;
    }
    let ended = soon(resisting.wait()).await.unwrap();
    assert_eq!(
        ended,
        ExitStatus::TimedOut {
            sandbox_ended: true
        }
    );
    let ended = soon(other.wait()).await.unwrap();
    assert_eq!(ended, ExitStatus::SandboxGone);
    for pid in [pid, agent, helper] {
        eventually("its processes are gone", async || !lives(pid)).await;
    }
    let error = soon(sandbox.exec(["true"]).output()).await.unwrap_err();
    let gone = [ErrorKind::SandboxGone, ErrorKind::NotFound];
    assert!(gone.contains(&error.kind()), "{error:?}");
    // Its helper leaves no cgroup for others to find.
    let paths = ["freezer", "pids", "memory"]
        .map(|kind| PathBuf::from("/sys/fs/cgroup").join(kind).join("stacyvm"))
        .map(|parent| parent.join(sandbox.id().as_str()));
    eventually("its cgroups are gone", async || {
        !paths.iter().any(|path| path.exists())
    })
    .await;
    works(&neighbour).await;
    soon(neighbour.kill()).await.unwrap();
    let done = soon(ground.engine.reconcile()).await.unwrap();
    assert_eq!(done.ended, [sandbox.id().clone()], "{done:?}");
    let left = ground.watch.left_at_once().await;
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test]
async fn a_crowd_that_is_dropped_at_once_ends_and_its_sandbox_lives() {
    let Some(ground) = ground_with_cgroups().await else {
        return;
    };
    let spec = SandboxSpec::host().pids(4000).lifetime(Lifetime::Attached);
    let sandbox = ground.engine.create(spec).await.unwrap();
    let family = "for i in 1 2 3 4 5 6; do sleep 300 & done; wait";
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(soon(sandbox.shell(family).start()).await.unwrap());
    }
    drop(crowd);
    let before = std::time::Instant::now();
    loop {
        let left = soon(sandbox.processes()).await.unwrap();
        let family = left
            .iter()
            .filter(|one| one.argv.iter().any(|word| word.contains("300")));
        if family.count() == 0 {
            break;
        }
        assert!(before.elapsed() < Duration::from_mins(2), "{left:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    works(&sandbox).await;
    soon(sandbox.kill()).await.unwrap();
}

#[tokio::test]
async fn what_a_killed_helper_left_frozen_is_swept() {
    let Some(ground) = ground_with_cgroups().await else {
        return;
    };
    let sandbox = ground.sandbox(Lifetime::Detached).await;
    let (agent, helper) = super::processes_of(&sandbox).await;
    let process = sandbox.exec(["sleep", "300"]).start().await.unwrap();
    let pid = outside(agent, process.pid().unwrap()).unwrap();
    // Version 2 lets no cgroup be made in which it could be; all are frozen then.
    let all = cgroup(agent, "freezer").map(|path| path.join("cgroup.freeze"));
    let frozen = all.is_some_and(|file| std::fs::write(file, "1").is_ok());
    if !frozen && !freeze(&sandbox, pid) {
        return;
    }
    super::signal(helper, Signal::KILL);
    soon(sandbox.kill()).await.unwrap();
    drop(process);
    eventually("its processes are gone", async || {
        !lives(pid) && !lives(agent)
    })
    .await;
    let left = ground.watch.left_at_once().await;
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test]
async fn more_file_operations_than_have_a_place_wait_for_one() {
    let Some(ground) = ground_with_cgroups().await else {
        return;
    };
    // With the agent itself, and the bomb and its supervisor, few are left.
    let spec = SandboxSpec::host().pids(32).lifetime(Lifetime::Attached);
    let sandbox = ground.engine.create(spec).await.unwrap();
    let Some(commands) = Commands::of(&sandbox).await else {
        return;
    };
    let wild = sandbox.shell(LOOP).start().await.unwrap();
    eventually("forks are refused", async || commands.refusals() > 0).await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..40 {
        let sandbox = sandbox.clone();
        calls.spawn(async move {
            let path = format!("/tmp/many-{number}");
            sandbox.files().write(&path, vec![b'x'; 200_000]).await?;
            sandbox.files().read(&path).await
        });
    }
    while let Some(done) = soon(calls.join_next()).await {
        assert_eq!(done.unwrap().unwrap().len(), 200_000);
    }
    drop(wild);
    soon(sandbox.kill()).await.unwrap();
}

#[tokio::test]
async fn streams_that_nobody_ends_leave_places_for_what_is_done_at_once() {
    let Some(ground) = ground().await else { return };
    let sandbox = ground.sandbox(Lifetime::Attached).await;
    let files = sandbox.files();
    soon(sandbox.shell("truncate -s 1G /tmp/large").output())
        .await
        .unwrap();
    let mut open = Vec::new();
    for number in 0..40 {
        match soon(files.watch("/tmp", false)).await {
            Ok(changes) => open.push(changes),
            Err(error) => {
                assert_eq!(
                    error.kind(),
                    ErrorKind::ResourceExhausted,
                    "{number}: {error}"
                );
                assert!(number >= 32, "{number}");
            }
        }
    }
    assert_eq!(open.len(), 32);
    // Reads that nobody goes on with fill what is left for streams.
    let mut stalled = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let files = files.clone();
        stalled.spawn(async move {
            let stream = files.read_range("/tmp/large", 0, None).await;
            std::future::pending::<()>().await;
            drop(stream);
        });
    }
    for number in 0..20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let entry = soon(files.stat("/tmp/large")).await.unwrap();
        assert_eq!(entry.size, 1 << 30, "{number}");
    }
    soon(sandbox.processes()).await.unwrap();
    // What ends leaves its place to others.
    stalled.shutdown().await;
    drop(open.pop());
    eventually("there is a place", async || {
        files.watch("/tmp", false).await.is_ok()
    })
    .await;
    soon(sandbox.kill()).await.unwrap();
}

/// What goes out waits for who takes it in, in the same sandbox: both find places.
#[tokio::test]
async fn a_crowd_of_copies_within_a_sandbox_is_done() {
    let Some(ground) = ground().await else { return };
    let sandbox = ground.sandbox(Lifetime::Attached).await;
    let files = sandbox.files();
    soon(
        sandbox
            .shell("mkdir /tmp/from && truncate -s 6M /tmp/from/file")
            .output(),
    )
    .await
    .unwrap();
    let mut copies = tokio::task::JoinSet::new();
    for number in 0..60 {
        let files = files.clone();
        copies.spawn(async move {
            let archive = files.export_tar("/tmp/from", true).await?;
            files
                .import_tar(format!("/tmp/to-{number}"), Box::pin(archive))
                .await
        });
    }
    let all = async {
        while let Some(copied) = copies.join_next().await {
            copied.unwrap().unwrap();
        }
    };
    tokio::time::timeout(Duration::from_mins(2), all)
        .await
        .expect("they wait for each other");
    let counted = soon(sandbox.shell("cat /tmp/to-*/file | wc -c").output());
    assert_eq!(
        counted.await.unwrap().stdout_text().trim(),
        (60 * 6 * 1024 * 1024).to_string()
    );
    soon(sandbox.kill()).await.unwrap();
}

#[tokio::test]
async fn a_sandbox_is_paused_whatever_its_commands_are_at() {
    let Some(ground) = ground().await else { return };
    let sandbox = ground.sandbox(Lifetime::Attached).await;
    for _ in 0..40 {
        let line = "trap '' TERM; for i in 1 2 3; do sh -c 'sleep 3' & done; wait";
        let wild = soon(sandbox.shell(line).start()).await.unwrap();
        match soon(sandbox.pause()).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                eprintln!("not run: no freezer here");
                return;
            }
            paused => paused.unwrap(),
        }
        soon(sandbox.resume()).await.unwrap();
        drop(wild);
    }
    soon(sandbox.kill()).await.unwrap();
}
