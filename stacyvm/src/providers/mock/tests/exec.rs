use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;

use super::super::{Mock, Script, Step};
use super::{bench, bench_on, code, drain, secs, settle, with};
use crate::error::ErrorKind;
use crate::provider::Provider;
use crate::sandbox::exec::{ExecEvent, ExecSpec, ExitStatus, SignalScope, TtySize};

#[tokio::test]
async fn a_command_gets_its_argv_as_it_is() {
    let bench = bench().await;
    let ran = bench
        .run(&ExecSpec::new(["echo", "a  b", "$HOME", ";", "'"]))
        .await
        .unwrap();
    assert_eq!(
        (ran.out.as_str(), ran.status),
        ("a  b $HOME ; '\n", code(0))
    );
}

#[tokio::test]
async fn workdir_user_and_env_are_part_of_the_request() {
    let bench = bench().await;
    let mut spec = ExecSpec::shell("pwd; id -un; echo $A; echo $HOME");
    spec.workdir = Some("/tmp".into());
    spec.user = Some("root".into());
    spec.env.push(("A".into(), "b c".into()));
    let ran = bench.run(&spec).await.unwrap();
    assert_eq!(ran.out, "/tmp\nroot\nb c\n/root\n");
}

#[tokio::test]
async fn standard_input_that_is_not_asked_for_is_empty() {
    let bench = bench().await;
    let ran = bench.run(&ExecSpec::new(["cat"])).await.unwrap();
    assert_eq!((ran.out.as_str(), ran.status), ("", code(0)));
}

#[tokio::test]
async fn standard_input_is_a_stream_that_waits_for_its_reader() {
    let bench = bench().await;
    let mut spec = ExecSpec::new(["sleep", "5"]);
    spec.stdin = true;
    let session = bench.start(&spec).await.unwrap();
    let piece = Bytes::from(vec![b'x'; 64 * 1024]);
    session.control.write_stdin(piece.clone()).await.unwrap();
    // Nobody reads: the next one waits instead of filling the memory.
    let blocked = session.control.write_stdin(piece);
    assert!(
        tokio::time::timeout(Duration::from_millis(20), blocked)
            .await
            .is_err()
    );

    let mut spec = ExecSpec::new(["cat"]);
    spec.stdin = true;
    let session = bench.start(&spec).await.unwrap();
    session.control.write_stdin("ab".into()).await.unwrap();
    session.control.write_stdin("cd".into()).await.unwrap();
    session.control.close_stdin().await.unwrap();
    session.control.close_stdin().await.unwrap();
    let control = session.control.clone();
    assert_eq!(drain(session).await.unwrap().out, "abcd");
    let error = control.write_stdin("e".into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn writing_to_input_that_was_not_asked_for_is_an_error() {
    let bench = bench().await;
    let session = bench.start(&ExecSpec::new(["cat"])).await.unwrap();
    let error = session.control.write_stdin("x".into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn the_streams_are_kept_apart() {
    let bench = bench().await;
    let ran = bench.shell("echo a; echo b >&2; echo c 2>/dev/null").await;
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("a\nc\n", "b\n"));
}

#[tokio::test]
async fn output_is_bytes() {
    let every: Vec<u8> = (0..=255).collect();
    let bytes = every.clone();
    let bench = bench_on(with("raw", move || Script::new().out(bytes.clone()))).await;
    let mut session = bench.start(&ExecSpec::new(["raw"])).await.unwrap();
    let mut out = Vec::new();
    while let Some(Ok(ExecEvent::Stdout(bytes))) = session.events.next().await {
        out.extend_from_slice(&bytes);
    }
    assert_eq!(out, every);
}

#[tokio::test]
async fn a_slow_reader_slows_the_process() {
    let bench = bench().await;
    let mut session = bench.start(&ExecSpec::new(["yes"])).await.unwrap();
    for _ in 0..200 {
        settle().await;
    }
    let kept = bench.mock.undelivered(&bench.id);
    assert!((8192..=512 * 1024).contains(&kept), "{kept} bytes are kept");
    // It goes on as soon as somebody reads.
    let mut read = 0;
    while read < 4 << 20 {
        if let Some(Ok(ExecEvent::Stdout(bytes))) = session.events.next().await {
            read += bytes.len();
        }
    }
    assert!(bench.mock.undelivered(&bench.id) <= 512 * 1024);
}

#[tokio::test(start_paused = true)]
async fn an_exec_ends_with_its_first_process() {
    let bench = bench().await;
    let ran = bench.shell("sleep 1000 & echo started").await;
    assert_eq!((ran.out.as_str(), ran.status), ("started\n", code(0)));
    assert_eq!(bench.processes().await, ["sleep 1000"]);
}

#[tokio::test]
async fn all_output_comes_before_the_end() {
    let long = "x".repeat(3 << 20);
    let expected = long.clone();
    let bench = bench_on(with("long", move || {
        Script::new().out(long.clone()).exit(3)
    }))
    .await;
    let ran = bench.run(&ExecSpec::new(["long"])).await.unwrap();
    assert_eq!(ran.status, code(3));
    assert!(ran.out == expected, "{} bytes", ran.out.len());
}

#[tokio::test]
async fn a_non_zero_exit_is_a_result() {
    let bench = bench().await;
    assert_eq!(bench.shell("exit 7").await.status, code(7));
    let ran = bench.shell("kill -9 $$; echo never").await;
    assert_eq!(ran.status, Some(ExitStatus::Signal { signal: 9 }));
    assert_eq!(ran.out, "");
}

#[tokio::test]
async fn lack_of_memory_is_told_apart_from_a_kill() {
    let bench = bench_on(with("eat", || Script::new().step(Step::OutOfMemory))).await;
    let ran = bench.run(&ExecSpec::new(["eat"])).await.unwrap();
    assert_eq!(ran.status, Some(ExitStatus::OutOfMemory));
    // A child that dies so does not make its parent's end another.
    let ran = bench.shell("eat; kill -9 $$").await;
    assert_eq!(ran.status, Some(ExitStatus::Signal { signal: 9 }));
    let usage = bench.mock.usage(&bench.cx, &bench.id).await.unwrap();
    assert_eq!(usage.oom_kills, Some(2));
}

#[tokio::test]
async fn a_command_that_never_started_is_an_error_with_its_cause() {
    let bench = bench().await;
    let plain = ExecSpec::new(["true"]);
    let cases = [
        (ExecSpec::new(["nothing"]), ErrorKind::CommandNotFound),
        (ExecSpec::new(["/opt/true"]), ErrorKind::CommandNotFound),
        (ExecSpec::new(["/etc"]), ErrorKind::CommandNotExecutable),
        (
            ExecSpec::new(["/etc/passwd"]),
            ErrorKind::CommandNotExecutable,
        ),
        (
            ExecSpec {
                workdir: Some("/nowhere".into()),
                ..plain.clone()
            },
            ErrorKind::NotFound,
        ),
        (
            ExecSpec {
                workdir: Some("/root".into()),
                ..plain.clone()
            },
            ErrorKind::PermissionDenied,
        ),
        (
            ExecSpec {
                user: Some("stranger".into()),
                ..plain.clone()
            },
            ErrorKind::NotFound,
        ),
        (
            ExecSpec {
                tty: Some(TtySize::default()),
                ..plain.clone()
            },
            ErrorKind::Unsupported,
        ),
        (
            ExecSpec::new(Vec::<&str>::new()),
            ErrorKind::InvalidArgument,
        ),
    ];
    for (spec, kind) in cases {
        let error = bench.start(&spec).await.map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), kind, "{spec:?}: {error}");
    }
    let known = bench.mock.list_execs(&bench.cx, &bench.id).await.unwrap();
    assert!(known.is_empty(), "nothing ran: {known:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_takes_the_whole_tree() {
    let bench = bench().await;
    let mut spec = ExecSpec::shell("setsid sleep 1000 & (sleep 2000 &); nohup sleep 3000");
    spec.timeout = Some(secs(2));
    let before = tokio::time::Instant::now();
    let ran = bench.run(&spec).await.unwrap();
    assert_eq!(
        ran.status,
        Some(ExitStatus::TimedOut {
            sandbox_ended: false
        })
    );
    assert_eq!(before.elapsed(), secs(2));
    assert_eq!(bench.processes().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_foreground_command_takes_the_whole_tree() {
    let bench = bench().await;
    let spec = ExecSpec::shell("setsid sleep 1000 & (sleep 2000 &); sleep 3000");
    let session = bench.start(&spec).await.unwrap();
    settle().await;
    assert_eq!(bench.processes().await.len(), 4);
    drop(session);
    assert_eq!(bench.processes().await, [""; 0]);
    let infos = bench.mock.list_execs(&bench.cx, &bench.id).await.unwrap();
    assert_eq!(
        infos[0].exited,
        Some(ExitStatus::Cancelled {
            sandbox_ended: false
        })
    );
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_resists_ends_the_sandbox_and_the_event_says_so() {
    let bench = bench_on(with("hang", || {
        Script::new().step(Step::Hang).sleep(secs(1_000_000))
    }))
    .await;
    let other = bench
        .start(&ExecSpec::new(["sleep", "1000000"]))
        .await
        .unwrap();
    let mut spec = ExecSpec::new(["hang"]);
    spec.timeout = Some(secs(1));
    let before = tokio::time::Instant::now();
    let ran = bench.run(&spec).await.unwrap();
    assert_eq!(
        ran.status,
        Some(ExitStatus::TimedOut {
            sandbox_ended: true
        })
    );
    assert_eq!(before.elapsed(), secs(6));
    let other = drain(other).await.unwrap();
    assert_eq!(other.status, Some(ExitStatus::SandboxGone));
    let error = bench.start(&spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxGone);
}

#[tokio::test(start_paused = true)]
async fn signals_reach_the_process_the_group_or_the_tree() {
    let bench = bench().await;
    for (scope, left) in [
        (SignalScope::Process, vec!["sleep 1000", "sleep 2000"]),
        (SignalScope::Group, vec!["sleep 1000"]),
        (SignalScope::Tree, vec![]),
    ] {
        let line = "setsid sleep 1000 & sleep 2000 & exit 0";
        let spec = ExecSpec::shell(line.replace("exit 0", "wait"));
        let session = bench.start(&spec).await.unwrap();
        settle().await;
        session.control.signal(15, scope).await.unwrap();
        let ran = drain(session).await.unwrap();
        assert_eq!(ran.status, Some(ExitStatus::Signal { signal: 15 }));
        // setsid runs the command in its own place; only its argv stays.
        let seen: Vec<String> = bench
            .processes()
            .await
            .iter()
            .map(|p| p.replace("setsid ", ""))
            .collect();
        assert_eq!(seen, left, "{scope:?}");
        let _ = bench
            .mock
            .signal_exec(&bench.cx, &bench.id, &spec.exec, 9, SignalScope::Tree)
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn any_signal_is_delivered_and_may_be_handled() {
    let bench = bench_on(
        Mock::builder()
            .command("server", |_| {
                Script::new()
                    .step(Step::Trap {
                        signal: 15,
                        code: 3,
                    })
                    .step(Step::Ignore(1))
                    .out("ready\n")
                    .sleep(secs(1_000_000))
            })
            .build(),
    )
    .await;
    let mut session = bench.start(&ExecSpec::new(["server"])).await.unwrap();
    let ready = session.events.next().await;
    assert!(matches!(ready, Some(Ok(ExecEvent::Stdout(_)))));
    let send = |signal| session.control.signal(signal, SignalScope::Process);
    send(1).await.unwrap();
    send(28).await.unwrap();
    assert_eq!(
        send(0).await.unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    assert_eq!(
        send(65).await.unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    send(15).await.unwrap();
    assert_eq!(send(15).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(drain(session).await.unwrap().status, code(3));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_process_goes_on_when_it_is_continued() {
    let bench = bench().await;
    let session = bench
        .start(&ExecSpec::shell("sleep 1; echo on"))
        .await
        .unwrap();
    session.control.signal(19, SignalScope::Tree).await.unwrap();
    tokio::time::sleep(secs(100)).await;
    let infos = bench.mock.list_execs(&bench.cx, &bench.id).await.unwrap();
    assert_eq!(infos[0].exited, None);
    session.control.signal(18, SignalScope::Tree).await.unwrap();
    assert_eq!(drain(session).await.unwrap().out, "on\n");
}

#[tokio::test(start_paused = true)]
async fn a_hung_command_blocks_nothing_else() {
    let bench = bench().await;
    let mut hung = Vec::new();
    for _ in 0..20 {
        hung.push(
            bench
                .start(&ExecSpec::new(["sleep", "1000000"]))
                .await
                .unwrap(),
        );
        // One that nobody reads is full and waits.
        hung.push(bench.start(&ExecSpec::new(["yes"])).await.unwrap());
    }
    settle().await;
    assert_eq!(bench.shell("echo free").await.out, "free\n");
    bench.mock.destroy(&bench.cx, &bench.id).await.unwrap();
    for session in hung {
        let ran = drain(session).await.unwrap();
        assert_eq!(ran.status, Some(ExitStatus::SandboxGone));
    }
}

#[tokio::test]
async fn a_function_that_panics_is_a_process_that_aborts() {
    let bench = bench_on(with("panic", || panic!("in a script"))).await;
    let ran = bench.run(&ExecSpec::new(["panic"])).await.unwrap();
    assert_eq!(ran.status, Some(ExitStatus::Signal { signal: 6 }));
    assert_eq!(bench.shell("echo on").await.out, "on\n");
}

#[tokio::test]
async fn a_script_in_the_tree_runs_and_may_write_files() {
    let bench = bench().await;
    let ran = bench
        .shell("echo one > /tmp/a && echo two >> /tmp/a && cat /tmp/a && cat < /tmp/a; cat /tmp/b")
        .await;
    assert_eq!(ran.out, "one\ntwo\none\ntwo\n");
    assert!(ran.err.contains("/tmp/b"), "{}", ran.err);
    assert_eq!(ran.status, code(1));
    let ran = bench
        .shell("false || echo a; true && (exit 4); echo $?; nothing; echo $?")
        .await;
    assert_eq!(ran.out, "a\n4\n127\n");
    let ran = bench.shell("a | b").await;
    assert_eq!(ran.status, code(2));
    assert!(ran.err.contains("pipes"), "{}", ran.err);
}

#[tokio::test]
async fn the_shell_prints_bytes_moves_its_output_and_ends_by_a_trap() {
    let bench = bench().await;
    let ran = bench.shell(r"printf 'a\101\t%s%%\n' x").await;
    assert_eq!((ran.out.as_str(), ran.status), ("aA\tx%\n", code(0)));
    for unknown in [
        "printf %d 1",
        r"printf '\x41'",
        "trap '' NOSUCH",
        "trap 'echo' TERM",
    ] {
        let ran = bench.shell(unknown).await;
        assert_eq!((ran.out.as_str(), ran.status), ("", code(2)), "{unknown}");
    }
    let ran = bench.shell(r"printf '%s-%s\n' a b c; printf x y").await;
    assert_eq!(ran.out, "a-b\nc-\nx");
    let ran = bench
        .shell("exec > /dev/null; echo lost; echo seen >&2")
        .await;
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", "seen\n"));
    let ran = bench
        .shell("trap '' TERM HUP; kill $$; kill -1 $$; trap 'exit 7' USR1 USR2; kill -USR2 $$; echo no")
        .await;
    assert_eq!((ran.out.as_str(), ran.status), ("", code(7)));
}
