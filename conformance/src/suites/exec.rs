//! Running commands: the request and the end.

use futures_util::StreamExt as _;
use stacyvm::{ErrorKind, ExecEvent, ExecSpec, ExitStatus};

use super::cases;
use crate::case::{Case, Checked, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "exec.argv_arrives_as_written" ["E1.1"] => argv;
    Must "exec.bytes_that_are_no_text_arrive" ["E1.1"] => bytes;
    Must "exec.many_arguments_arrive" ["E1.1"] => many_arguments;
    Must "exec.a_long_argument_arrives" ["E1.1"] => long_argument;
    Must "exec.no_shell_reads_the_arguments" ["E1.1"] => no_shell;
    Must "exec.a_line_of_the_shell_runs" ["E1.1"] => shell_line;
    Must "exec.env_is_part_of_the_request" ["E1.2"] => env;
    Must "exec.env_of_a_command_goes_before_the_sandbox_s" ["E1.2"] needs(ENV) => env_replaces;
    Must "exec.env_of_a_command_stays_with_it" ["E1.2"] => env_stays;
    Must "exec.workdir_is_part_of_the_request" ["E1.2"] => workdir;
    Must "exec.a_workdir_that_is_not_there_never_starts" ["E3.6"] => no_workdir;
    Must "exec.user_is_part_of_the_request" ["E1.2"] needs(USERS) => user;
    Must "exec.a_user_that_is_not_there_never_starts" ["E3.6"] => no_user;
    Must "exec.stdin_not_asked_for_is_empty" ["E1.3"] => no_stdin;
    Must "exec.stdin_arrives_whole_and_ends" ["E1.3"] needs(STDIN) => stdin;
    Must "exec.stdin_that_is_empty_ends" ["E1.3"] needs(STDIN) => empty_stdin;
    Must "exec.stdin_that_nobody_reads_holds_nothing_up" ["E1.3"] needs(STDIN) => unread_stdin;
    Must "exec.bad_requests_name_their_field" ["E1.4"] => bad_requests;
    Must "exec.a_bad_request_runs_nothing" ["E1.4"] needs(FILES) => bad_runs_nothing;
    Must "exec.every_sandbox_sees_the_usual_environment" ["E1.5"] => environment;
    Must "exec.code_is_told_as_it_was" ["E3.3" "E8.1"] => code;
    Must "exec.a_code_that_is_not_zero_keeps_its_output" ["E8.1"] => code_and_output;
    Must "exec.a_signal_is_told_as_it_was" ["E3.3"] => signal;
    Must "exec.a_code_of_the_shell_is_no_signal" ["E3.3"] => code_like_signal;
    Must "exec.a_command_that_is_not_there_never_starts" ["E3.6"] => not_found;
    Must "exec.a_path_that_is_not_there_never_starts" ["E3.6"] => no_path;
    Must "exec.what_may_not_be_executed_never_starts" ["E3.6"] needs(FILES) => not_executable;
    Must "exec.a_directory_is_no_command" ["E3.6"] => directory;
    Must "exec.the_provider_s_events_end_with_one_end" ["E3.2"] => one_end;
    Should "exec.the_process_number_is_the_command_s" [] => pid;
};

async fn argv(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let words = ["a b", "*", "$HOME", "ä", "\\n", "'\""];
    let argv: Vec<&str> = ["echo"].into_iter().chain(words).collect();
    let output = sandbox.exec(argv).output().await?;
    let expected = format!("{}\n", words.join(" "));
    ensure_eq!(output.stdout_text(), expected, "what `echo` got");
    Ok(())
}

async fn bytes(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let argv = [b"echo".as_slice(), b"-n", b"\xff\xfe"];
    let output = sandbox.exec(argv).output().await?;
    ensure_eq!(output.stdout, b"\xff\xfe", "what `echo` got");
    Ok(())
}

async fn many_arguments(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let words: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    let argv = std::iter::once("echo".to_owned()).chain(words.clone());
    let output = sandbox.exec(argv).output().await?;
    let expected = format!("{}\n", words.join(" "));
    ensure!(
        output.stdout_text() == expected,
        "1000 arguments arrived as others"
    );
    Ok(())
}

async fn long_argument(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let word = "x".repeat(100_000);
    let output = sandbox.exec(["echo", "-n", &word]).output().await?;
    ensure_eq!(output.stdout.len(), word.len(), "the bytes of an argument");
    Ok(())
}

async fn no_shell(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "a; echo b && echo c > /tmp/d";
    let output = sandbox.exec(["echo", line]).output().await?;
    ensure_eq!(output.stdout_text(), format!("{line}\n"), "what `echo` got");
    Ok(())
}

async fn shell_line(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let output = f
        .shell(&sandbox, "echo a; false || echo b && echo \"c  d\"")
        .await?;
    ensure_eq!(output.stdout_text(), "a\nb\nc  d\n", "what the line wrote");
    Ok(())
}

async fn env(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let exec = sandbox.shell("echo \"[$ONE]\" \"[$TWO]\" \"[$THREE]\"");
    let exec = exec.env("ONE", "a b=c").env("TWO", "").env("THREE", "ä'\"");
    let output = exec.output().await?;
    ensure_eq!(output.stdout_text(), "[a b=c] [] [ä'\"]\n", "the variables");
    Ok(())
}

async fn env_replaces(f: &Fixture) -> Checked {
    let sandbox = f
        .make(f.spec().env("ONE", "sandbox").env("TWO", "sandbox"))
        .await?;
    let exec = sandbox.shell("echo $ONE $TWO").env("TWO", "command");
    let output = exec.output().await?;
    ensure_eq!(output.stdout_text(), "sandbox command\n", "the variables");
    Ok(())
}

async fn env_stays(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.exec(["true"]).env("ONE", "x").output().await?;
    let output = f.shell(&sandbox, "echo \"[$ONE]\"").await?;
    ensure_eq!(
        output.stdout_text(),
        "[]\n",
        "the variable of another command"
    );
    Ok(())
}

async fn workdir(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    for path in ["/tmp", "/"] {
        let output = sandbox.exec(["pwd"]).workdir(path).output().await?;
        ensure_eq!(output.stdout_text(), format!("{path}\n"), "the directory");
    }
    Ok(())
}

async fn no_workdir(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let output = sandbox
        .exec(["pwd"])
        .workdir("/tmp/not-there")
        .output()
        .await;
    let kinds = [ErrorKind::NotFound, ErrorKind::NotDirectory];
    refused(output, &kinds, "a command in a directory that is not there")?;
    Ok(())
}

async fn user(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let output = sandbox.exec(["id", "-u"]).user("root").output().await?;
    ensure_eq!(output.stdout_text(), "0\n", "root's number");
    let output = sandbox.exec(["id", "-u"]).user("nobody").output().await?;
    let nobody = output.stdout_text();
    ensure!(nobody != "0\n", "nobody is root");
    let output = sandbox.exec(["id", "-u"]).output().await?;
    ensure!(output.stdout_text() != nobody, "the default user is nobody");
    Ok(())
}

async fn no_user(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let output = sandbox.exec(["id"]).user("nosuchuser").output().await;
    // Where there is one user, nobody else is to be had.
    let kinds = [ErrorKind::NotFound, ErrorKind::Unsupported];
    refused(output, &kinds, "a command of a user that is not there")?;
    Ok(())
}

async fn no_stdin(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let output = sandbox.exec(["cat"]).output().await?;
    ensure_eq!(
        output.status,
        ExitStatus::Code { code: 0 },
        "the end of `cat`"
    );
    ensure_eq!(output.stdout, b"", "what `cat` read");
    Ok(())
}

async fn stdin(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let input: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let output = sandbox.exec(["cat"]).stdin(input.clone()).output().await?;
    ensure_eq!(output.stdout.len(), input.len(), "the bytes that came back");
    ensure!(output.stdout == input, "other bytes came back");
    Ok(())
}

async fn empty_stdin(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let output = sandbox.exec(["cat"]).stdin("").output().await?;
    ensure_eq!(output.stdout, b"", "what `cat` read");
    Ok(())
}

async fn unread_stdin(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let exec = sandbox.shell("exit 3").stdin(vec![0_u8; 1 << 20]);
    let output = exec.output().await?;
    ensure_eq!(output.status, ExitStatus::Code { code: 3 }, "the end");
    Ok(())
}

async fn bad_requests(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let nothing: [&str; 0] = [];
    let bad = [
        (ExecSpec::new(nothing), "argv"),
        (ExecSpec::new([""]), "argv[0]"),
        (ExecSpec::new(["echo", "a\0b"]), "argv[1]"),
    ];
    for (spec, field) in bad {
        let ended = sandbox.exec_spec(spec).output().await;
        let error = refused(ended, &[ErrorKind::InvalidArgument], field)?;
        ensure_eq!(error.fact("field"), Some(field), "the field that is named");
        ensure!(error.fact("remedy").is_some(), "no remedy: {error}");
    }
    let ended = sandbox.exec(["pwd"]).workdir("tmp").output().await;
    let error = refused(ended, &[ErrorKind::InvalidArgument], "a relative directory")?;
    ensure_eq!(
        error.fact("field"),
        Some("workdir"),
        "the field that is named"
    );
    Ok(())
}

async fn bad_runs_nothing(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let path = f.path("ran");
    let line = format!("echo x > {path}");
    let exec = sandbox.shell(&line).env("A=B", "");
    refused(
        exec.output().await,
        &[ErrorKind::InvalidArgument],
        "a bad variable",
    )?;
    let exec = sandbox.shell(&line).workdir("/tmp/not-there");
    let kinds = [ErrorKind::NotFound, ErrorKind::NotDirectory];
    refused(exec.output().await, &kinds, "a directory that is not there")?;
    let seen = sandbox.files().read(&path).await;
    refused(
        seen,
        &[ErrorKind::NotFound],
        "a file of a command that never started",
    )?;
    Ok(())
}

async fn environment(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "echo \"$LANG|$TERM|$TZ\"; echo \"$HOME\"; echo \"$USER\"; echo \"$PATH\"";
    let output = f.shell(&sandbox, line).await?;
    let text = output.stdout_text();
    let lines: Vec<&str> = text.lines().collect();
    ensure_eq!(lines.len(), 4, "the lines of {text:?}");
    ensure_eq!(lines[0], "C.UTF-8||", "LANG, TERM and TZ");
    for (name, value) in ["HOME", "USER", "PATH"].iter().zip(&lines[1..]) {
        ensure!(!value.is_empty(), "{name} is not set");
    }
    Ok(())
}

async fn code(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    for code in [0, 1, 2, 42, 126, 127, 128, 255] {
        let output = sandbox.shell(format!("exit {code}")).output().await?;
        ensure_eq!(
            output.status,
            ExitStatus::Code { code },
            "the end of `exit {code}`"
        );
    }
    Ok(())
}

async fn code_and_output(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let output = sandbox.shell("echo a; echo b >&2; exit 3").output().await?;
    ensure_eq!(output.status, ExitStatus::Code { code: 3 }, "the end");
    ensure_eq!(output.stdout, b"a\n", "standard output");
    ensure_eq!(output.stderr, b"b\n", "standard error");
    Ok(())
}

async fn signal(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    for signal in [9, 15] {
        let output = sandbox
            .shell(format!("kill -{signal} $$; sleep 5"))
            .output()
            .await?;
        ensure_eq!(output.status, ExitStatus::Signal { signal }, "the end");
    }
    Ok(())
}

async fn code_like_signal(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    for code in [137, 143] {
        let output = sandbox.shell(format!("exit {code}")).output().await?;
        ensure_eq!(
            output.status,
            ExitStatus::Code { code },
            "the end of `exit {code}`"
        );
    }
    Ok(())
}

async fn not_found(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let output = sandbox.exec(["no-such-command-here"]).output().await;
    refused(
        output,
        &[ErrorKind::CommandNotFound],
        "a command that is not there",
    )?;
    f.shell(&sandbox, "true").await?;
    Ok(())
}

async fn no_path(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let output = sandbox.exec(["/tmp/no/such/command"]).output().await;
    refused(
        output,
        &[ErrorKind::CommandNotFound],
        "a path that is not there",
    )?;
    Ok(())
}

async fn not_executable(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let path = f.path("text");
    sandbox.files().write(&path, "#!/bin/sh\nexit 0\n").await?;
    let output = sandbox.exec([&path]).output().await;
    refused(
        output,
        &[ErrorKind::CommandNotExecutable],
        "a file without the right",
    )?;
    Ok(())
}

async fn directory(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let output = sandbox.exec(["/tmp"]).output().await;
    refused(output, &[ErrorKind::CommandNotExecutable], "a directory")?;
    Ok(())
}

async fn one_end(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let spec = ExecSpec::shell("echo a; echo b >&2");
    // Not through the handle, which stops at the first end.
    let session = f.provider().exec(f.context(), sandbox.id(), &spec).await?;
    let events: Vec<_> = session.events.collect().await;
    let is_end = |event: &stacyvm::Result<ExecEvent>| matches!(event, Ok(ExecEvent::Exited(_)));
    let ends = events.iter().filter(|event| is_end(event)).count();
    ensure_eq!(ends, 1, "how many ends there are in {events:?}");
    ensure!(
        events.last().is_some_and(is_end),
        "something comes after the end: {events:?}"
    );
    Ok(())
}

async fn pid(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut process = sandbox.shell("echo $$").start().await?;
    let Some(pid) = process.pid() else {
        return Ok(());
    };
    let mut said = Vec::new();
    while let Some(event) = process.next_event().await? {
        if let ExecEvent::Stdout(bytes) = event {
            said.extend_from_slice(&bytes);
        }
    }
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure_eq!(said, format!("{pid}\n"), "what the command says");
    Ok(())
}
