//! The exec contract on the embedded provider, promise by promise
//! (`docs/specification.md`).
#![cfg(all(target_os = "linux", feature = "oci"))]
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::time::{Duration, Instant};

use common::{eventually, soon};
use futures_util::StreamExt as _;
use stacyvm::context::Context;
use stacyvm::provider::Users;
use stacyvm::sandbox::exec::{AttachOptions, SignalScope, TtySize};
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{ErrorKind, ExecEvent, ExitStatus, Sandbox, SandboxSpec};

macro_rules! sandbox {
    ($host:ident, $sandbox:ident) => {
        let Some($host) = common::embedded().await else {
            return;
        };
        let $sandbox = $host.sandbox().await;
    };
}

/// Whether a process with this word in its command line runs inside.
async fn runs(sandbox: &Sandbox, word: &str) -> bool {
    let processes = sandbox.processes().await.unwrap();
    processes
        .iter()
        .any(|p| p.state != "Z" && p.argv.iter().any(|a| a.contains(word)))
}

// 1. The request.

#[tokio::test]
async fn p1_arguments_environment_workdir_and_user_arrive_as_written() {
    sandbox!(host, sandbox);
    let arguments = [
        "sh",
        "-c",
        r#"printf '%s|' "$@"; printf '%s|' "$X"; pwd; id -u; id -g"#,
        "sh",
        "a b",
        "",
        "*",
        "ä\n",
    ];
    let mut exec = sandbox.exec(arguments).env("X", "y z=1").workdir("/tmp");
    let (user, group) = if host.can().await.users == Users::Many {
        exec = exec.user("4321:1234");
        (4321, 1234)
    } else {
        (1000, 1000)
    };
    let output = soon(exec.output()).await.unwrap();
    let expected = format!("a b||*|ä\n|y z=1|/tmp\n{user}\n{group}\n");
    assert_eq!(output.stdout_text(), expected);
}

#[tokio::test]
async fn p1_bytes_that_are_not_text_survive_in_arguments() {
    sandbox!(host, sandbox);
    let output = soon(
        sandbox
            .exec([b"printf".as_slice(), b"%s", b"\xff\xfe"])
            .output(),
    )
    .await
    .unwrap();
    assert_eq!(output.stdout, b"\xff\xfe");
}

#[tokio::test]
async fn p1_standard_input_not_asked_for_is_empty() {
    sandbox!(host, sandbox);
    let output = soon(sandbox.shell("cat; readlink /proc/self/fd/0").output())
        .await
        .unwrap();
    assert_eq!(output.stdout_text(), "/dev/null\n");
}

#[tokio::test]
async fn p1_standard_input_arrives_whole_and_ends() {
    sandbox!(host, sandbox);
    let input: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let output = soon(sandbox.exec(["cat"]).stdin(input.clone()).output())
        .await
        .unwrap();
    assert!(output.stdout == input);
}

#[tokio::test]
async fn p1_what_every_sandbox_sees() {
    sandbox!(host, sandbox);
    let line = "echo $LANG $HOME $USER ${TERM-none} ${TZ-none}; id -un; pwd; ulimit -c; \
                test -w /workspace -a -w /tmp && echo writable";
    let output = soon(sandbox.shell(line).output()).await.unwrap();
    let expected = "C.UTF-8 /home/user user none none\nuser\n/workspace\n0\nwritable\n";
    assert_eq!(output.stdout_text(), expected);
}

// 2. Output.

#[tokio::test]
async fn p2_output_is_bytes_and_the_streams_are_apart() {
    sandbox!(host, sandbox);
    let output = soon(
        sandbox
            .shell(r"printf '\000\377out'; printf 'err\376' >&2")
            .output(),
    )
    .await
    .unwrap();
    assert_eq!(output.stdout, b"\x00\xffout");
    assert_eq!(output.stderr, b"err\xfe");
}

#[tokio::test]
async fn p2_what_is_not_kept_is_drained_and_counted() {
    sandbox!(host, sandbox);
    let exec = sandbox
        .exec(["head", "-c", "5000000", "/dev/zero"])
        .max_output(1000);
    let output = soon(exec.output()).await.unwrap();
    assert_eq!(
        (output.stdout.len(), output.stdout_truncated_bytes),
        (1000, 4_999_000)
    );
    assert!(output.status.success());
}

#[tokio::test]
async fn p2_a_slow_reader_slows_the_process() {
    sandbox!(host, sandbox);
    let line = "dd if=/dev/zero bs=1M count=64 2>/dev/null && touch /tmp/written";
    let mut process = sandbox.shell(line).start().await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(
        !sandbox.files().exists("/tmp/written").await.unwrap(),
        "64 MiB went nowhere"
    );
    let mut bytes = 0;
    while let Some(event) = soon(process.next_event()).await.unwrap() {
        if let ExecEvent::Stdout(chunk) = event {
            bytes += chunk.len();
        }
    }
    assert_eq!(bytes, 64 << 20);
    assert!(sandbox.files().exists("/tmp/written").await.unwrap());
}

// 3. The end.

#[tokio::test]
async fn p3_a_server_left_in_the_background_does_not_hold_the_end() {
    sandbox!(host, sandbox);
    let output = soon(sandbox.shell("sleep 3333 & echo started").output())
        .await
        .unwrap();
    assert_eq!(output.stdout_text(), "started\n");
    assert!(output.status.success());
    assert!(runs(&sandbox, "3333").await);
}

#[tokio::test]
async fn p3_codes_and_signals_are_told_as_they_were() {
    sandbox!(host, sandbox);
    for code in [0, 1, 7, 126, 127, 255] {
        let output = soon(sandbox.shell(format!("exit {code}")).output())
            .await
            .unwrap();
        assert_eq!(output.status, ExitStatus::Code { code });
    }
    for signal in [1, 2, 9, 11, 15] {
        let output = soon(sandbox.shell(format!("kill -{signal} $$")).output())
            .await
            .unwrap();
        assert_eq!(output.status, ExitStatus::Signal { signal });
    }
}

#[tokio::test]
async fn p3_the_end_comes_once_and_last() {
    sandbox!(host, sandbox);
    // More than a reader who has taken nothing is sent: the rest is still on
    // its way when the first process ends.
    let exec = sandbox.shell("head -c 1500000 /dev/zero; echo b >&2; exit 3");
    let mut process = exec.start().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut events = Vec::new();
    while let Some(event) = soon(process.next_event()).await.unwrap() {
        events.push(event);
    }
    let (mut out, mut err) = (0, Vec::new());
    for event in &events {
        match event {
            ExecEvent::Stdout(bytes) => out += bytes.len(),
            ExecEvent::Stderr(bytes) => err.extend_from_slice(bytes),
            _ => {}
        }
    }
    assert_eq!((out, err.as_slice()), (1_500_000, b"b\n".as_slice()));
    let ends = events
        .iter()
        .filter(|e| matches!(e, ExecEvent::Exited(_)))
        .count();
    assert_eq!(ends, 1);
    assert_eq!(
        events.last(),
        Some(&ExecEvent::Exited(ExitStatus::Code { code: 3 }))
    );
    assert_eq!(process.next_event().await.unwrap(), None);
}

#[tokio::test]
async fn p3_lack_of_memory_is_told_apart_from_a_kill() {
    let Some(host) = common::embedded().await else {
        return;
    };
    if !host.limits_memory().await {
        return;
    }
    let spec = SandboxSpec::host()
        .memory_mib(48)
        .lifetime(Lifetime::Attached);
    let sandbox = host.engine.create(spec).await.unwrap();
    let eater = sandbox.shell("x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done");
    assert_eq!(
        soon(eater.output()).await.unwrap().status,
        ExitStatus::OutOfMemory
    );
    let killed = soon(sandbox.shell("kill -9 $$").output()).await.unwrap();
    assert_eq!(killed.status, ExitStatus::Signal { signal: 9 });
    assert!(
        soon(sandbox.exec(["true"]).output())
            .await
            .unwrap()
            .status
            .success()
    );
}

#[tokio::test]
async fn p3_the_end_of_the_sandbox_is_told() {
    sandbox!(host, sandbox);
    let mut process = sandbox.exec(["sleep", "1000"]).start().await.unwrap();
    sandbox.kill().await.unwrap();
    assert_eq!(soon(process.wait()).await.unwrap(), ExitStatus::SandboxGone);
    let after = sandbox.exec(["true"]).output().await.unwrap_err();
    assert!(
        matches!(after.kind(), ErrorKind::SandboxGone | ErrorKind::NotFound),
        "{after:?}"
    );
}

#[tokio::test]
async fn p3_a_command_that_never_started_is_an_error_with_its_cause() {
    sandbox!(host, sandbox);
    sandbox
        .files()
        .write("/workspace/plain", "no program")
        .await
        .unwrap();
    let cases = [
        (
            sandbox.exec(["no-such-command"]),
            ErrorKind::CommandNotFound,
        ),
        (
            sandbox.exec(["/no/such/command"]),
            ErrorKind::CommandNotFound,
        ),
        (
            sandbox.exec(["/workspace/plain"]),
            ErrorKind::CommandNotExecutable,
        ),
        (
            sandbox.exec(["/workspace"]),
            ErrorKind::CommandNotExecutable,
        ),
        (
            sandbox.exec(["true"]).workdir("/no/such/directory"),
            ErrorKind::NotFound,
        ),
        (
            sandbox.exec(["true"]).user("nosuchuser"),
            // Where there is one user, another one is not even looked for.
            match host.can().await.users {
                Users::Many => ErrorKind::NotFound,
                Users::One => ErrorKind::Unsupported,
            },
        ),
    ];
    for (exec, kind) in cases {
        let error = soon(exec.output()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
    }
}

// 4. The whole tree.

/// Leaves a plain child, a double fork in a new session and one that ignores signals.
const TREE: &str = "sleep 4441 & (setsid sh -c 'sleep 4442 & sleep 4443' &) ; \
     (trap '' TERM INT HUP; sleep 4444 & wait) & echo ready; sleep 4445";
const LEAVES: [&str; 5] = ["4441", "4442", "4443", "4444", "4445"];

async fn started_tree(sandbox: &Sandbox, process: &mut stacyvm::Process) {
    let first = soon(process.next_event()).await.unwrap();
    assert_eq!(first, Some(ExecEvent::Stdout("ready\n".into())));
    eventually("the tree stands", async || {
        let processes = sandbox.processes().await.unwrap();
        LEAVES
            .iter()
            .all(|leaf| processes.iter().any(|p| p.argv.iter().any(|a| a == leaf)))
    })
    .await;
}

async fn no_leaf(sandbox: &Sandbox) -> bool {
    let processes = sandbox.processes().await.unwrap();
    !LEAVES
        .iter()
        .any(|leaf| processes.iter().any(|p| p.argv.iter().any(|a| a == leaf)))
}

#[tokio::test]
async fn p4_a_deadline_takes_the_whole_tree() {
    sandbox!(host, sandbox);
    let mut process = sandbox
        .shell(TREE)
        .timeout(Duration::from_secs(2))
        .start()
        .await
        .unwrap();
    started_tree(&sandbox, &mut process).await;
    let status = soon(process.wait()).await.unwrap();
    assert_eq!(
        status,
        ExitStatus::TimedOut {
            sandbox_ended: false
        }
    );
    assert!(no_leaf(&sandbox).await);
}

#[tokio::test]
async fn p4_a_kill_takes_the_whole_tree() {
    sandbox!(host, sandbox);
    let mut process = sandbox.shell(TREE).start().await.unwrap();
    started_tree(&sandbox, &mut process).await;
    process.kill().await.unwrap();
    let status = soon(process.wait()).await.unwrap();
    assert!(
        matches!(
            status,
            ExitStatus::Signal { signal: 9 } | ExitStatus::Cancelled { .. }
        ),
        "{status}"
    );
    eventually("no leaf is left", async || no_leaf(&sandbox).await).await;
}

#[tokio::test]
async fn p4_a_dropped_call_takes_the_whole_tree() {
    sandbox!(host, sandbox);
    let mut process = sandbox.shell(TREE).start().await.unwrap();
    started_tree(&sandbox, &mut process).await;
    drop(process);
    eventually("no leaf is left", async || no_leaf(&sandbox).await).await;
}

#[tokio::test]
async fn p4_a_command_can_neither_signal_nor_trace_its_supervisor() {
    sandbox!(host, sandbox);
    if !host.has_users().await {
        return;
    }
    let line = r#"for pid in $PPID 1; do
        kill -9 $pid && echo killed $pid
        head -c 1 /proc/$pid/environ && echo read $pid
        cat < /proc/$pid/mem && echo opened $pid
        perl -e 'exit(syscall($ARGV[1] eq "aarch64" ? 117 : 101, 0x4206, $ARGV[0], 0, 0) == 0 ? 0 : 1)' $pid $(uname -m) && echo traced $pid
    done; echo "still here""#;
    for user in ["user", "root"] {
        let output = soon(sandbox.shell(line).user(user).output()).await.unwrap();
        assert!(output.status.success(), "{user}: {}", output.status);
        let text = output.stdout_text();
        assert_eq!(text, "still here\n", "{user}");
        // Refused, and not for want of a process or a program.
        let told = output.stderr_text();
        let (mut refused, mut other) = (0, Vec::new());
        for line in told.lines().filter(|line| !line.is_empty()) {
            let line = line.to_lowercase();
            if line.contains("not permitted") || line.contains("denied") {
                refused += 1;
            } else {
                other.push(line);
            }
        }
        assert_eq!((refused, other), (6, vec![]), "{user}: {told}");
    }
    assert!(
        soon(sandbox.exec(["true"]).output())
            .await
            .unwrap()
            .status
            .success()
    );
}

#[tokio::test]
async fn p4_a_call_whose_context_ends_takes_the_whole_tree() {
    sandbox!(host, sandbox);
    let line = "setsid sleep 7171 & setsid sh -c 'sleep 7171 & wait' & sleep 7171";
    let soon_over = Instant::now() + Duration::from_millis(400);
    let late = sandbox.with_context(Context::default().with_deadline(soon_over));
    let error = soon(late.shell(line).output()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    eventually("nothing of it runs", async || !runs(&sandbox, "7171").await).await;

    let (context, canceller) = Context::default().cancellable();
    let given_up = sandbox.with_context(context);
    let (ended, ()) = tokio::join!(soon(given_up.shell(line).output()), async {
        eventually("it runs", async || runs(&sandbox, "7171").await).await;
        canceller.cancel();
    });
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Cancelled);
    eventually("nothing of it runs", async || !runs(&sandbox, "7171").await).await;
}

#[tokio::test]
async fn p4_streams_end_with_the_context_of_their_call() {
    sandbox!(host, sandbox);
    let (context, canceller) = Context::default().cancellable();
    let files = sandbox.with_context(context).files();
    soon(
        sandbox
            .shell("mkfifo /tmp/pipe; truncate -s 1G /tmp/large")
            .output(),
    )
    .await
    .unwrap();
    let mut changes = soon(files.watch("/tmp", false)).await.unwrap();
    let (_, mut data) = soon(files.read_range("/tmp/large", 0, None)).await.unwrap();
    assert!(soon(data.next()).await.unwrap().is_ok());
    canceller.cancel();
    let error = soon(changes.next()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(soon(changes.next()).await.is_none());
    let error = soon(data.next()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

// 5. Survivors and background commands.

#[tokio::test]
async fn p5_a_survivor_is_listed_followed_and_ended() {
    sandbox!(host, sandbox);
    let exec = sandbox.shell("(sleep 0.5; echo late; sleep 5551) & echo early");
    let mut process = exec.start().await.unwrap();
    let id = process.id().clone();
    assert!(soon(process.wait()).await.unwrap().success());
    let listed = sandbox.execs().await.unwrap();
    let own = listed
        .iter()
        .find(|e| e.exec == id)
        .expect("the exec is listed");
    assert!(own.exited.is_some() && own.processes > 0, "{own:?}");
    eventually("the later output is kept", async || {
        let options = AttachOptions {
            stdin: false,
            replay: true,
        };
        let mut again = sandbox.attach_with(&id, options).await.unwrap();
        let mut text = Vec::new();
        while let Ok(Ok(Some(event))) =
            tokio::time::timeout(Duration::from_millis(300), again.next_event()).await
        {
            if let ExecEvent::Stdout(bytes) = event {
                text.extend_from_slice(&bytes);
            }
        }
        String::from_utf8_lossy(&text).contains("late")
    })
    .await;
    sandbox.signal(&id, 9, SignalScope::Tree).await.unwrap();
    eventually("the survivor is gone", async || {
        !runs(&sandbox, "5551").await
    })
    .await;
}

#[tokio::test]
async fn p5_a_background_command_outlives_its_caller_and_tells_its_end() {
    sandbox!(host, sandbox);
    let process = sandbox
        .shell("sleep 0.3; echo done; exit 5")
        .background()
        .start()
        .await
        .unwrap();
    let id = process.detach().unwrap();
    let mut again = sandbox.attach(&id).await.unwrap();
    let mut text = Vec::new();
    let mut end = None;
    while let Some(event) = soon(again.next_event()).await.unwrap() {
        match event {
            ExecEvent::Stdout(bytes) => text.extend_from_slice(&bytes),
            ExecEvent::Exited(status) => end = Some(status),
            _ => {}
        }
    }
    assert_eq!(
        (text.as_slice(), end),
        (b"done\n".as_slice(), Some(ExitStatus::Code { code: 5 }))
    );
}

#[tokio::test]
async fn p5_output_that_nobody_read_is_counted() {
    sandbox!(host, sandbox);
    let exec = sandbox
        .exec(["head", "-c", "20000000", "/dev/zero"])
        .background();
    let id = exec.start().await.unwrap().detach().unwrap();
    eventually("it ends although nobody reads", async || {
        sandbox
            .execs()
            .await
            .unwrap()
            .iter()
            .any(|e| e.exec == id && e.exited.is_some())
    })
    .await;
    let mut again = sandbox.attach(&id).await.unwrap();
    let (mut lost, mut read) = (0, 0);
    while let Some(event) = soon(again.next_event()).await.unwrap() {
        match event {
            ExecEvent::Lost { stdout, .. } => lost += stdout,
            ExecEvent::Stdout(bytes) => read += bytes.len() as u64,
            _ => {}
        }
    }
    assert!(lost > 0 && read > 0);
    assert_eq!(lost + read, 20_000_000);
}

#[tokio::test]
async fn p5_another_engine_finds_follows_and_ends_a_command() {
    let Some(host) = common::embedded().await else {
        return;
    };
    let sandbox = host
        .engine
        .create(SandboxSpec::host().ttl(Duration::from_mins(2)))
        .await
        .unwrap();
    let exec = sandbox.shell("echo first; sleep 6661").background();
    let id = exec.start().await.unwrap().detach().unwrap();
    let other = common::open(host.state.path().to_path_buf()).await;
    let found = other.get(sandbox.id()).await.unwrap();
    let mut again = found.attach(&id).await.unwrap();
    assert_eq!(
        soon(again.next_event()).await.unwrap(),
        Some(ExecEvent::Stdout("first\n".into()))
    );
    found.signal(&id, 15, SignalScope::Tree).await.unwrap();
    assert_eq!(
        soon(again.wait()).await.unwrap(),
        ExitStatus::Signal { signal: 15 }
    );
    found.kill().await.unwrap();
}

// 6. Many at once.

#[tokio::test]
async fn p6_many_run_at_once_and_a_hung_one_blocks_nothing() {
    sandbox!(host, sandbox);
    let _flood = sandbox.exec(["yes"]).start().await.unwrap();
    let _hung = sandbox.exec(["cat"]).stdin_pipe().start().await.unwrap();
    let many = (0..64).map(|n| {
        let sandbox = sandbox.clone();
        tokio::spawn(async move {
            (
                n,
                sandbox
                    .shell(format!("echo {n}; exit {n}"))
                    .output()
                    .await
                    .unwrap(),
            )
        })
    });
    for task in many.collect::<Vec<_>>() {
        let (n, output) = soon(task).await.unwrap();
        assert_eq!(output.stdout_text(), format!("{n}\n"));
        assert_eq!(output.status, ExitStatus::Code { code: n });
    }
    soon(sandbox.kill()).await.unwrap();
}

// 7. Terminals and signals.

#[tokio::test]
async fn p7_a_terminal_has_a_size_that_changes() {
    sandbox!(host, sandbox);
    // The trap first: the size changes as soon as the name of the terminal is read.
    let line =
        "trap 'stty size; exit 0' WINCH; stty size; echo $TERM; while :; do sleep 0.05; done";
    let exec = sandbox.shell(line).tty(TtySize {
        rows: 33,
        columns: 111,
    });
    let mut process = exec.start().await.unwrap();
    let mut text = String::new();
    let mut resized = false;
    while let Some(event) = soon(process.next_event()).await.unwrap() {
        if let ExecEvent::Stdout(bytes) = event {
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
        if !resized && text.contains("xterm") {
            process
                .resize(TtySize {
                    rows: 44,
                    columns: 122,
                })
                .await
                .unwrap();
            resized = true;
        }
    }
    assert_eq!(text, "33 111\r\nxterm-256color\r\n44 122\r\n");
}

#[tokio::test]
async fn p7_an_interrupt_typed_on_a_terminal_reaches_the_foreground() {
    sandbox!(host, sandbox);
    // No shell: one that is interrupted before it forks may go on.
    let exec = sandbox
        .exec(["sleep", "1000"])
        .tty(TtySize::default())
        .stdin_pipe();
    let mut process = exec.start().await.unwrap();
    eventually("it runs", async || runs(&sandbox, "1000").await).await;
    process.write_stdin("\x03").await.unwrap();
    let status = soon(process.wait()).await.unwrap();
    assert_eq!(status, ExitStatus::Signal { signal: 2 });
}

#[tokio::test]
async fn p7_any_signal_is_delivered() {
    sandbox!(host, sandbox);
    for (signal, name) in [(1, "HUP"), (10, "USR1"), (15, "TERM")] {
        let line = format!("trap 'echo got; exit 0' {name}; echo go; while :; do sleep 0.02; done");
        let mut process = sandbox.shell(line).start().await.unwrap();
        assert!(matches!(
            soon(process.next_event()).await.unwrap(),
            Some(ExecEvent::Stdout(_))
        ));
        process.signal(signal, SignalScope::Process).await.unwrap();
        assert_eq!(
            soon(process.next_event()).await.unwrap(),
            Some(ExecEvent::Stdout("got\n".into()))
        );
        assert!(soon(process.wait()).await.unwrap().success());
    }
}

// 8. Results.

#[tokio::test]
async fn p8_a_non_zero_exit_is_a_result() {
    sandbox!(host, sandbox);
    let output = soon(sandbox.exec(["false"]).output()).await.unwrap();
    assert_eq!(output.status, ExitStatus::Code { code: 1 });
    assert!(!output.status.success());
}
