//! Input and output while a command runs.

use std::time::Instant;

use bytes::Bytes;
use stacyvm::{ErrorKind, ExecEvent, ExitStatus};

use super::cases;
use super::common::{code, ended, follow, ms, pattern, same_bytes, soon, until};
use crate::case::{Case, Checked, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "streaming.output_is_bytes_and_the_streams_are_apart" ["E2.1"] => apart;
    Must "streaming.every_byte_arrives" ["E2.1"] needs(FILES) => every_byte;
    Must "streaming.output_arrives_while_the_command_runs" ["E2.1"] => while_it_runs;
    Must "streaming.streams_keep_their_order_in_time" ["E2.1"] => order;
    Must "streaming.a_character_may_arrive_in_two_pieces" ["E2.5"] => split_character;
    Must "streaming.large_output_arrives_whole_and_a_slow_reader_slows_its_command" ["E2.2"] needs(FILES) => slow_reader;
    Must "streaming.a_reader_that_stops_slows_nobody_else" ["E2.2" "E6.1"] => stalled_reader;
    Must "streaming.what_is_not_kept_is_drained_and_counted" ["E2.4"] needs(FILES) => truncated;
    Must "streaming.giving_up_a_wait_loses_nothing" ["E3.2"] => cancel_safe;
    Must "streaming.the_end_comes_once_and_last" ["E3.2"] needs(FILES) => once_and_last;
    Must "streaming.nothing_is_lost_when_a_command_ends_at_once" ["E3.2"] => ends_at_once;
    Must "streaming.outputs_of_two_commands_do_not_mix" ["E2.1" "E6.1"] => no_mixing;
    Must "streaming.a_server_left_behind_does_not_hold_the_end" ["E3.1"] => server;
    Must "streaming.a_survivor_that_writes_does_not_hold_the_end" ["E3.1"] => loud_survivor;
    Must "streaming.closed_output_is_not_the_end" ["E3.1"] => closed_output;
    Must "streaming.one_stream_goes_on_without_the_other" ["E2.1"] => one_stream;
    Must "streaming.input_is_written_while_output_is_read" ["E2.3"] needs(STDIN) else stdin_declined => dialogue;
    Must "streaming.the_end_of_input_leaves_output_open" ["E1.3"] needs(STDIN) else stdin_declined => half_close;
    Must "streaming.input_waits_for_its_reader" ["E2.3"] needs(STDIN) else stdin_declined => input_waits;
    Must "streaming.input_that_nobody_reads_does_not_hold_the_end" ["E3.1"] needs(STDIN) => unread_input;
    Must "streaming.input_that_is_closed_or_was_not_asked_for_is_refused" ["E1.3"] needs(STDIN) => refused_input;
};

async fn apart(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = r"printf 'a\000\377b'; printf 'err\376' >&2; printf c";
    let output = sandbox.shell(line).output().await?;
    ensure_eq!(output.stdout, b"a\x00\xffbc", "standard output");
    ensure_eq!(output.stderr, b"err\xfe", "standard error");
    Ok(())
}

async fn every_byte(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    let path = f.path("bytes");
    sandbox.files().write(&path, all.clone()).await?;
    let output = f
        .shell(&sandbox, &format!("cat {path}; cat {path} >&2"))
        .await?;
    same_bytes(&output.stdout, &all, "standard output")?;
    same_bytes(&output.stderr, &all, "standard error")
}

async fn while_it_runs(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    // A piece without the end of a line too.
    let mut process = sandbox
        .shell("echo one; printf two; sleep 50")
        .start()
        .await?;
    until(&mut process, "one\ntwo").await?;
    Ok(())
}

async fn order(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "echo a; sleep 0.2; echo b >&2; sleep 0.2; echo c";
    let mut process = sandbox.shell(line).start().await?;
    let mut seen = Vec::new();
    while let Some(event) = soon("the next event", process.next_event()).await?? {
        seen.push(event);
    }
    let expected = vec![
        ExecEvent::Stdout("a\n".into()),
        ExecEvent::Stderr("b\n".into()),
        ExecEvent::Stdout("c\n".into()),
        ExecEvent::Exited(code(0)),
    ];
    ensure_eq!(seen, expected, "the events of `{line}`");
    Ok(())
}

async fn split_character(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = r"printf 'x\303'; sleep 0.2; printf '\244y\360\237'; sleep 0.1; printf '\246\200'";
    let output = f.shell(&sandbox, line).await?;
    ensure_eq!(output.stdout_text(), "xäy🦀", "the text");
    Ok(())
}

/// How often a file of 1 MiB is written.
const TIMES: usize = 64;

async fn slow_reader(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let files = sandbox.files();
    let part = pattern(1 << 20);
    let (path, written) = (f.path("part"), f.path("written"));
    files.write(&path, part.clone()).await?;
    let parts = format!(" {path}").repeat(TIMES);
    let line = format!("cat{parts} && echo x > {written}");
    let mut process = sandbox.shell(&line).start().await?;
    tokio::time::sleep(ms(400)).await;
    ensure!(
        !files.exists(&written).await?,
        "the command wrote {TIMES} MiB that nobody had read, expected it to wait"
    );
    let (mut at, mut end) = (0, None);
    while let Some(event) = soon("the next event", process.next_event()).await?? {
        match event {
            ExecEvent::Stdout(bytes) => {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let expected = &part[at % part.len()..];
                    let len = expected.len().min(rest.len());
                    same_bytes(&rest[..len], &expected[..len], &format!("a piece at {at}"))?;
                    (at, rest) = (at + len, &rest[len..]);
                }
            }
            ExecEvent::Exited(status) => end = Some(status),
            other => ensure!(false, "{other:?}, expected standard output alone"),
        }
    }
    ensure_eq!(at, TIMES * part.len(), "the bytes that arrived");
    ensure_eq!(end, Some(code(0)), "the end");
    ensure!(
        files.exists(&written).await?,
        "the command did not go on when it was read"
    );
    Ok(())
}

async fn stalled_reader(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut stalled = sandbox.exec(["yes"]).start().await?;
    soon("the first output", stalled.next_event()).await??;
    tokio::time::sleep(ms(100)).await;
    for n in 0..10 {
        let line = format!("echo {n}");
        let output = soon(
            "a command beside one that is not read",
            f.shell(&sandbox, &line),
        );
        ensure_eq!(
            output.await??.stdout_text(),
            format!("{n}\n"),
            "the output of `{line}`"
        );
    }
    let next = soon("more of the one that waited", stalled.next_event()).await??;
    ensure!(
        matches!(next, Some(ExecEvent::Stdout(_))),
        "the one that waited gave {next:?}, expected more output"
    );
    Ok(())
}

async fn truncated(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let part = pattern(500_000);
    let path = f.path("part");
    sandbox.files().write(&path, part.clone()).await?;
    let line = &format!("cat {path} {path}; echo small >&2; exit 3");
    for most in [1000, 0] {
        let output = sandbox.shell(line).max_output(most).output().await?;
        same_bytes(&output.stdout, &part[..most], "what is kept")?;
        let left = 1_000_000 - most as u64;
        ensure_eq!(output.stdout_truncated_bytes, left, "what was not kept");
        let err = output.stderr.len() as u64 + output.stderr_truncated_bytes;
        ensure_eq!(err, 6, "standard error, kept and not kept");
        ensure_eq!(output.status, code(3), "the end");
    }
    let output = sandbox.shell(line).max_output(1_000_000).output().await?;
    ensure_eq!(output.stdout.len(), 1_000_000, "what just fits");
    ensure_eq!(output.stdout_truncated_bytes, 0, "what was not kept then");
    Ok(())
}

async fn cancel_safe(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "echo 1; sleep 0.1; echo 2; sleep 0.1; echo 3; sleep 0.1; echo 4; exit 5";
    let mut process = sandbox.shell(line).start().await?;
    let mut seen = super::common::Seen::default();
    for _ in 0..4000 {
        match tokio::time::timeout(ms(5), process.next_event()).await {
            Ok(Ok(Some(event))) => seen.take(event),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {}
        }
    }
    ensure_eq!(seen.text(), "1\n2\n3\n4\n", "the output");
    ended(&seen, code(5), line)
}

async fn once_and_last(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let part = pattern(1_500_000);
    let path = f.path("part");
    sandbox.files().write(&path, part.clone()).await?;
    // More than a reader who has taken nothing is sent.
    let line = &format!("cat {path}; echo b >&2; exit 3");
    let mut process = sandbox.shell(line).start().await?;
    tokio::time::sleep(ms(300)).await;
    let seen = follow(&mut process).await?;
    same_bytes(&seen.out, &part, "standard output")?;
    ensure_eq!(seen.err, b"b\n", "standard error");
    ended(&seen, code(3), line)?;
    let after = process.next_event().await?;
    ensure_eq!(after, None, "what comes after the end");
    Ok(())
}

async fn ends_at_once(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    for n in 0..40 {
        let line = format!("echo out {n}; echo err {n} >&2; exit {n}");
        let output = sandbox.shell(&line).output().await?;
        let seen = (output.stdout_text(), output.stderr_text(), output.status);
        let expected = (format!("out {n}\n"), format!("err {n}\n"), code(n));
        ensure_eq!(seen, expected, "what came of `{line}`");
    }
    Ok(())
}

async fn no_mixing(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let all = (0..8).map(|n| {
        let sandbox = sandbox.clone();
        async move {
            let line = format!("echo {n}; echo {n}; sleep 0.1; echo {n} >&2; echo {n}; exit {n}");
            (n, sandbox.shell(line).output().await)
        }
    });
    for (n, output) in futures_util::future::join_all(all).await {
        let output = output?;
        let seen = (output.stdout_text(), output.stderr_text(), output.status);
        let expected = (format!("{n}\n").repeat(3), format!("{n}\n"), code(n));
        ensure_eq!(seen, expected, "what came of command {n}");
    }
    Ok(())
}

async fn server(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let begun = Instant::now();
    let output = f.shell(&sandbox, "sleep 15 & echo started").await?;
    ensure_eq!(output.stdout_text(), "started\n", "the output");
    ensure!(
        begun.elapsed() < ms(10_000),
        "the end came after {:?}, expected it with the end of the first process",
        begun.elapsed()
    );
    Ok(())
}

async fn loud_survivor(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "yes & echo started >&2; exit 6";
    let mut process = sandbox.shell(line).start().await?;
    let end = soon("the end beside a survivor that writes", process.wait()).await??;
    ensure_eq!(end, code(6), "the end of `{line}`");
    Ok(())
}

async fn closed_output(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "exec > /dev/null 2> /dev/null; sleep 0.4; exit 5";
    let begun = Instant::now();
    let output = sandbox.shell(line).output().await?;
    ensure_eq!(output.status, code(5), "the end of `{line}`");
    ensure!(
        begun.elapsed() >= ms(400),
        "the end came after {:?}, expected it with the end of the process",
        begun.elapsed()
    );
    Ok(())
}

async fn one_stream(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "echo first; exec > /dev/null; sleep 0.2; echo nowhere; echo later >&2; exit 4";
    let output = sandbox.shell(line).output().await?;
    let seen = (output.stdout_text(), output.stderr_text(), output.status);
    ensure_eq!(
        seen,
        ("first\n".to_owned(), "later\n".to_owned(), code(4)),
        "what came of `{line}`"
    );
    Ok(())
}

async fn dialogue(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut process = sandbox.exec(["cat"]).stdin_pipe().start().await?;
    for n in 0..20 {
        let line = format!("line {n}\n");
        process.write_stdin(line.clone()).await?;
        let answer = until(&mut process, "\n").await?;
        ensure_eq!(answer.text(), line, "what came back");
    }
    process.close_stdin().await?;
    ended(&follow(&mut process).await?, code(0), "cat")
}

async fn half_close(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "cat; sleep 0.1; echo after; echo err >&2; exit 7";
    let mut process = sandbox.shell(line).stdin_pipe().start().await?;
    process.write_stdin("abc\n").await?;
    until(&mut process, "abc\n").await?;
    process.close_stdin().await?;
    let seen = follow(&mut process).await?;
    ensure_eq!(seen.text(), "after\n", "what came after the end of input");
    ensure_eq!(seen.err, b"err\n", "standard error");
    ended(&seen, code(7), line)
}

async fn input_waits(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let process = sandbox.exec(["sleep", "50"]).stdin_pipe().start().await?;
    let piece = Bytes::from(vec![b'x'; 64 << 10]);
    let mut taken = 0;
    while let Ok(written) = tokio::time::timeout(ms(300), process.write_stdin(piece.clone())).await
    {
        written?;
        taken += piece.len();
        ensure!(
            taken < 32 << 20,
            "{taken} bytes of input were taken of a command that reads nothing, expected a bound"
        );
    }
    process.kill().await?;
    Ok(())
}

async fn unread_input(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let command = sandbox.shell("exit 3").stdin(vec![b'x'; 4 << 20]);
    let output = soon("the end of a command that reads no input", command.output()).await??;
    ensure_eq!(output.status, code(3), "the end");
    Ok(())
}

async fn refused_input(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let process = sandbox.exec(["sleep", "50"]).start().await?;
    refused(
        process.write_stdin("x").await,
        &[ErrorKind::InvalidArgument],
        "input that was not asked for",
    )?;
    let process = sandbox.exec(["sleep", "50"]).stdin_pipe().start().await?;
    process.close_stdin().await?;
    process.close_stdin().await?;
    refused(
        process.write_stdin("x").await,
        &[ErrorKind::Conflict],
        "input after its close",
    )?;
    let mut process = sandbox.shell("exit 0").stdin_pipe().start().await?;
    let end: ExitStatus = process.wait().await?;
    ensure_eq!(end, code(0), "the end");
    refused(
        process.write_stdin("x").await,
        &[ErrorKind::Conflict],
        "input after the end",
    )?;
    Ok(())
}

async fn stdin_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut spec = stacyvm::ExecSpec::new(["cat"]);
    spec.stdin = true;
    let call = f.provider().exec(f.context(), sandbox.id(), &spec);
    super::common::declined(f, &sandbox, "a command with input", call).await
}
