//! Who lives how long: hosts that stand still, several hosts of one sandbox,
//! and lives that nobody watches.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use stacyvm::engine::Filter;
use stacyvm::sandbox::exec::ExecEvent;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::sandbox::state::Phase;
use stacyvm::{ErrorKind, ExecId, ExitStatus, SandboxId, SandboxSpec, SignalScope};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::common::{eventually, soon};
use super::{ground, open, signal, works};

const STATE: &str = "STACYVM_LIFE_STATE";

fn parameter(name: &str) -> Option<String> {
    std::env::var_os(name)?.into_string().ok()
}

/// Not a test of its own: another host process, which does what it reads and
/// says how it went.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_entry() {
    let Some(state) = parameter(STATE) else {
        return;
    };
    let engine = open(Path::new(&state)).await;
    // The runtime's own threads go on while this one waits.
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let said = match words.as_slice() {
            ["create"] => {
                let spec = SandboxSpec::host().lifetime(Lifetime::Attached);
                let made = engine.create(spec).await;
                made.map(|sandbox| sandbox.id().to_string())
            }
            // A command whose output is more than any buffer on the way holds.
            ["count", id] => {
                let line = "sleep 1; seq 400000; sleep 1; echo end";
                let sandbox = engine.get(id).await.unwrap();
                let output = sandbox.shell(line).output().await;
                output.map(|output| {
                    let (lines, text) = (output.stdout_text(), output.status);
                    format!(
                        "{} {:?} {text}",
                        lines.lines().count(),
                        lines.lines().last()
                    )
                })
            }
            ["echo", id] => {
                let sandbox = engine.get(id).await.unwrap();
                let output = sandbox.exec(["echo", "hi"]).output().await;
                output.map(|output| output.stdout_text().trim().to_owned())
            }
            ["follow", id, exec] => {
                let sandbox = engine.get(id).await.unwrap();
                let exec = ExecId::new(*exec).unwrap();
                match sandbox.attach(&exec).await {
                    Err(error) => Err(error),
                    Ok(mut process) => {
                        let event = process.next_event().await;
                        let gone = process.detach();
                        event.and(gone).map(|_| "followed".to_owned())
                    }
                }
            }
            ["end", id] => match engine.get(id).await {
                Ok(sandbox) => sandbox.kill().await.map(|_| "ended".to_owned()),
                Err(error) => Err(error),
            },
            other => panic!("{other:?}"),
        };
        let said = said.unwrap_or_else(|error| format!("failed {}", error.kind().code()));
        println!("said: {said}");
    }
}

/// Another host process on the same state directory.
struct Other {
    child: Child,
    orders: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(state: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["lifetimes::host_entry", "--exact", "--nocapture"])
            .env(STATE, state)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            orders: child.stdin.take().unwrap(),
            lines: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        }
    }

    fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    async fn order(&mut self, order: &str) {
        let line = format!("{order}\n");
        self.orders.write_all(line.as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> String {
        soon(async {
            loop {
                let line = self.lines.next_line().await.unwrap();
                let line = line.expect("the other host ended");
                if let Some((_, said)) = line.split_once("said: ") {
                    return said.to_owned();
                }
            }
        })
        .await
    }

    async fn does(&mut self, order: &str) -> String {
        self.order(order).await;
        self.hear().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stands_still_keeps_its_sandbox_and_its_output() {
    let Some(ground) = ground().await else { return };
    let mut owner = Other::start(ground.state.path());
    let id = owner.does("create").await;
    let sandbox = ground
        .engine
        .get(SandboxId::new(&id).unwrap())
        .await
        .unwrap();
    let line = "i=0; while :; do i=$((i+1)); echo $i; done";
    let flood = sandbox.shell(line).background().start().await.unwrap();
    let flood = flood.detach().unwrap();
    owner.order(&format!("count {id}")).await;
    eventually("the owner's command runs", async || {
        let all = sandbox.execs().await.unwrap();
        all.iter().any(|e| e.argv.iter().any(|a| a.contains("seq")))
    })
    .await;
    signal(owner.pid(), Signal::STOP);
    // The command goes on in the meantime until its pipe is full, the other one
    // until its ring is and further.
    let memory = async || sandbox.usage().await.unwrap().memory_bytes.unwrap_or(0);
    let mut most = 0;
    for _ in 0..30 {
        works(&sandbox).await;
        ground.engine.reconcile().await.unwrap();
        assert_eq!(sandbox.info().await.unwrap().phase, Phase::Running);
        most = most.max(memory().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Two rings of a mebibyte, and what commands and agent take.
    assert!(most < 64 << 20, "{most} bytes");
    let mut follower = soon(sandbox.attach(&flood)).await.unwrap();
    let mut lost = false;
    for _ in 0..50 {
        let event = soon(follower.next_event()).await.unwrap();
        lost |= matches!(event, Some(ExecEvent::Lost { .. }));
    }
    assert!(lost, "a ring that ran over tells it");
    drop(follower);
    signal(owner.pid(), Signal::CONT);
    assert_eq!(owner.hear().await, "400001 Some(\"end\") exit code 0");
    // What is its own ends with it.
    owner.child.kill().await.unwrap();
    eventually("the sandbox ended with its owner", async || {
        sandbox.info().await.unwrap().phase == Phase::Ended
    })
    .await;
    ground.engine.reconcile().await.unwrap();
    ground.watch.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hosts_use_follow_and_end_one_sandbox() {
    let Some(ground) = ground().await else { return };
    let sandbox = ground.sandbox(Lifetime::Detached).await;
    let id = sandbox.id().to_string();
    let mut others = [(); 2].map(|()| Other::start(ground.state.path()));
    let ticking = sandbox.shell("while sleep 0.05; do echo tick; done");
    let exec = ticking
        .background()
        .start()
        .await
        .unwrap()
        .detach()
        .unwrap();
    for _ in 0..10 {
        for other in &mut others {
            other.order(&format!("echo {id}")).await;
        }
        works(&sandbox).await;
        for other in &mut others {
            assert_eq!(other.hear().await, "hi");
        }
    }
    // One follows at a time; who comes next takes over, and nobody fails.
    for other in &mut others {
        assert_eq!(other.does(&format!("follow {id} {exec}")).await, "followed");
    }
    let mut own = soon(sandbox.attach(&exec)).await.unwrap();
    assert!(matches!(
        soon(own.next_event()).await.unwrap(),
        Some(ExecEvent::Stdout(_))
    ));
    soon(sandbox.signal(&exec, 9, SignalScope::Tree))
        .await
        .unwrap();
    let ended = soon(own.wait()).await.unwrap();
    assert_eq!(ended, ExitStatus::Signal { signal: 9 });
    // All end it at the same moment, and again.
    for other in &mut others {
        other.order(&format!("end {id}")).await;
    }
    soon(sandbox.kill()).await.unwrap();
    for other in &mut others {
        assert_eq!(other.hear().await, "ended");
        assert_eq!(other.does(&format!("end {id}")).await, "ended");
        other.child.kill().await.unwrap();
    }
    assert!(
        ground
            .engine
            .list(Filter::default())
            .await
            .unwrap()
            .is_empty()
    );
    let error = soon(sandbox.exec(["true"]).output()).await.unwrap_err();
    let gone = [ErrorKind::SandboxGone, ErrorKind::NotFound];
    assert!(gone.contains(&error.kind()), "{error:?}");
    let left = ground.watch.left_at_once().await;
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test]
async fn a_life_that_was_extended_lasts_with_no_host_alive_and_ends() {
    let Some(super::Ground {
        engine,
        watch,
        state,
        _alone,
    }) = ground().await
    else {
        return;
    };
    let ttl = Duration::from_secs(2);
    let spec = SandboxSpec::host().lifetime(Lifetime::Detached).ttl(ttl);
    let sandbox = engine.create(spec).await.unwrap();
    let before = sandbox.info().await.unwrap().ends.unwrap();
    let after = sandbox
        .extend(Duration::from_mins(2))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(after.duration_since(before).unwrap().as_secs(), 120);
    let id = sandbox.id().clone();
    drop((sandbox, engine));
    // Past its first end nobody has ended it.
    tokio::time::sleep(ttl + Duration::from_secs(1)).await;
    let engine = open(state.path()).await;
    let sandbox = engine.get(&id).await.unwrap();
    works(&sandbox).await;
    sandbox.set_ttl(Some(Duration::from_secs(1))).await.unwrap();
    drop((sandbox, engine));
    watch.nothing_left().await;
    let engine = open(state.path()).await;
    assert_eq!(engine.reconcile().await.unwrap().ended, [id]);
}

/// An owner is its lock: neither a process of its number nor the file alone is.
#[tokio::test]
async fn what_a_dead_owner_left_is_finished_whoever_has_its_number() {
    let Some(ground) = ground().await else { return };
    let mut owner = Other::start(ground.state.path());
    assert!(owner.does("end nothing").await.starts_with("failed"));
    let owners = ground.state.path().join("owners");
    let locks = || -> Vec<_> {
        let entries = std::fs::read_dir(&owners).unwrap().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    assert_eq!(locks().len(), 2);
    let pid = owner.pid();
    for path in locks() {
        let text = path.to_string_lossy().into_owned() + &std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&format!("-{pid}.")), "{text}");
    }
    owner.child.kill().await.unwrap();
    // A new host clears the lock of the dead one away, and keeps the living one's.
    drop(open(ground.state.path()).await);
    assert_eq!(locks().len(), 1);
    works(&ground.sandbox(Lifetime::Attached).await).await;
}

/// Lives one after another take nothing of the process that stays.
#[tokio::test]
async fn lives_one_after_another_leave_descriptors_and_threads_as_they_were() {
    let Some(ground) = ground().await else { return };
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let life = async |turn: u32| {
        let lifetime = [Lifetime::Attached, Lifetime::Detached][turn as usize % 2];
        let sandbox = ground.sandbox(lifetime).await;
        works(&sandbox).await;
        let files = sandbox.files();
        soon(files.write("/workspace/a", "b")).await.unwrap();
        let lasting = sandbox.exec(["sleep", "300"]).background();
        drop(soon(lasting.start()).await.unwrap());
        soon(sandbox.kill()).await.unwrap();
    };
    for turn in 0..10 {
        life(turn).await;
    }
    let before = (super::common::residue::descriptors(), threads());
    for turn in 0..40 {
        life(turn).await;
    }
    // A leak of one in each life is five times as many.
    eventually("descriptors are as they were", async || {
        super::common::residue::descriptors() <= before.0 + 8
    })
    .await;
    assert!(threads() <= before.1 + 8, "{before:?}, then {}", threads());
}
