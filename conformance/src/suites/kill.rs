//! Deadlines, kills and signals: what ends a command, and what is told of it.

use std::time::Instant;

use stacyvm::context::Context;
use stacyvm::{Error, ErrorKind, ExecId, ExitStatus, Process, Sandbox, SignalScope};

use super::cases;
use super::common::{code, ended, follow, holds_soon, ms, signal, soon, until};
use crate::case::{Case, Checked, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "kill.a_deadline_is_told_as_such" ["E3.3" "E4.1"] => deadline;
    Must "kill.a_command_that_ends_in_time_has_not_timed_out" ["E3.3" "E4.1"] => in_time;
    Must "kill.a_deadline_ends_what_ignores_or_stands_still" ["E4.1"] => resists;
    Must "kill.a_deadline_passes_although_nobody_reads" ["E4.1" "E2.2"] => unread;
    Must "kill.a_deadline_ends_its_command_alone" ["E4.1" "E6.1"] => alone;
    Must "kill.a_deadline_takes_the_whole_tree" ["E4.1"] needs(TREE) => deadline_tree;
    Must "kill.a_deadline_takes_what_outlived_the_first_process_not" ["E4.1" "E5.1"] needs(TREE) => survivors_stay;
    Must "kill.a_kill_takes_the_whole_tree" ["E4.2"] needs(TREE) => killed_tree;
    Must "kill.a_dropped_process_takes_the_whole_tree" ["E4.2"] needs(TREE) => dropped_tree;
    Must "kill.a_dropped_output_takes_the_whole_tree" ["E4.2"] needs(TREE) => dropped_output;
    Must "kill.a_context_that_ends_takes_the_whole_tree" ["E4.2"] needs(TREE) => late_context;
    Must "kill.a_context_that_is_cancelled_takes_the_whole_tree" ["E4.2"] needs(TREE) => cancelled_context;
    Must "kill.no_process_of_it_is_left" ["E4.1" "E4.2"] needs(TREE, PROCESSES) => no_process;
    Must "kill.a_kill_by_id_takes_the_whole_tree" ["E4.2" "E5.6"] needs(TREE) => killed_by_id;
    Must "kill.a_kill_is_told_and_repeated_is_success" ["E3.3" "E4.2"] => killed;
    Must "kill.a_signal_is_told_as_a_signal" ["E3.3"] => suicides;
    Must "kill.any_signal_is_delivered" ["E7.1"] needs(SIGNALS) => delivered;
    Must "kill.a_signal_may_be_ignored_or_trapped" ["E7.1"] needs(SIGNALS) => trapped;
    Must "kill.a_signal_reaches_the_process_or_its_group" ["E7.1"] needs(SIGNALS) => scopes;
    Must "kill.a_signal_that_there_is_not_is_refused" ["E1.4"] needs(SIGNALS) => no_such_signal;
    Must "kill.a_signal_after_the_end_is_not_found" ["E7.1"] => after_the_end;
};

const TIMED_OUT: ExitStatus = ExitStatus::TimedOut {
    sandbox_ended: false,
};

/// Leaves a plain child, a double fork in a new session and one that ignores
/// signals. What lives for `LATER` says so in a file.
fn a_tree(f: &Fixture) -> String {
    let path = f.path("late");
    format!(
        "(sleep 1; echo child >> {path}) & \
         (setsid sh -c '(sleep 1; echo session >> {path}) & sleep 30' &); \
         (trap '' TERM INT HUP; sleep 1; echo deaf >> {path}) & \
         echo ready; sleep 30; echo first >> {path}"
    )
}
const LATER: u64 = 1400;

async fn tree(f: &Fixture, sandbox: &Sandbox, deadline: Option<u64>) -> Checked<Process> {
    let mut command = sandbox.shell(a_tree(f));
    if let Some(deadline) = deadline {
        command = command.timeout(ms(deadline));
    }
    let mut process = command.start().await?;
    until(&mut process, "ready\n").await?;
    Ok(process)
}

/// Expects that nothing of the tree lived on, in a sandbox that did.
async fn nothing_lives(f: &Fixture, sandbox: &Sandbox) -> Checked {
    tokio::time::sleep(ms(LATER)).await;
    let line = format!("cat {} 2> /dev/null; true", f.path("late"));
    let late = f.shell(sandbox, &line).await?;
    ensure_eq!(late.stdout_text(), "", "what lived on after the kill");
    Ok(())
}

async fn deadline(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "echo before; echo err >&2; sleep 30; echo after";
    let begun = Instant::now();
    let output = soon(
        "a command with a deadline",
        sandbox.shell(line).timeout(ms(400)).output(),
    );
    let output = output.await??;
    ensure_eq!(output.status, TIMED_OUT, "the end of `{line}`");
    ensure_eq!(
        (output.stdout_text(), output.stderr_text()),
        ("before\n".to_owned(), "err\n".to_owned()),
        "what it wrote until then"
    );
    ensure!(
        begun.elapsed() >= ms(400),
        "the deadline of 400 ms passed after {:?}",
        begun.elapsed()
    );
    Ok(())
}

async fn in_time(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let begun = Instant::now();
    for expected in [code(3), signal(9)] {
        let line = match expected {
            ExitStatus::Code { code } => format!("sleep 0.1; exit {code}"),
            _ => "sleep 0.1; kill -KILL $$".to_owned(),
        };
        let output = sandbox.shell(&line).timeout(ms(30_000)).output().await?;
        ensure_eq!(output.status, expected, "the end of `{line}`");
    }
    ensure!(
        begun.elapsed() < ms(15_000),
        "they took {:?}, expected no wait for the deadline",
        begun.elapsed()
    );
    Ok(())
}

async fn resists(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    for line in [
        "trap '' HUP INT QUIT TERM USR1 USR2; sleep 30; sleep 30",
        "kill -STOP $$; sleep 30",
        "exec > /dev/null 2> /dev/null; sleep 30",
    ] {
        let command = sandbox.shell(line).timeout(ms(300));
        let output = soon(line, command.output()).await??;
        ensure_eq!(output.status, TIMED_OUT, "the end of `{line}`");
    }
    f.shell(&sandbox, "true").await?;
    Ok(())
}

async fn unread(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut process = sandbox.exec(["yes"]).timeout(ms(300)).start().await?;
    tokio::time::sleep(ms(900)).await;
    let end = soon("the end of a command that nobody read", process.wait()).await??;
    ensure_eq!(end, TIMED_OUT, "the end of `yes`");
    Ok(())
}

async fn alone(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let other = sandbox.shell("sleep 0.9; echo done; exit 4").output();
    let short = sandbox.shell("sleep 30").timeout(ms(300)).output();
    let (other, short) = tokio::join!(other, short);
    let (other, short) = (other?, short?);
    ensure_eq!(short.status, TIMED_OUT, "the one with a deadline");
    ensure_eq!(
        (other.stdout_text(), other.status),
        ("done\n".to_owned(), code(4)),
        "the one beside it"
    );
    Ok(())
}

async fn deadline_tree(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut process = tree(f, &sandbox, Some(400)).await?;
    ended(&follow(&mut process).await?, TIMED_OUT, "the tree")?;
    nothing_lives(f, &sandbox).await
}

async fn survivors_stay(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let path = f.path("alive");
    let line = format!("(sleep 0.8; echo alive > {path}) & echo started");
    let output = sandbox.shell(&line).timeout(ms(300)).output().await?;
    ensure_eq!(output.status, code(0), "the end of `{line}`");
    holds_soon!("the survivor went on past the deadline", {
        let seen = sandbox.exec(["cat", &path]).output().await?;
        seen.stdout_text()
            == "alive
"
    });
    Ok(())
}

fn is_kill(status: ExitStatus, what: &str) -> Checked {
    let cancelled = ExitStatus::Cancelled {
        sandbox_ended: false,
    };
    ensure!(
        status == signal(9) || status == cancelled,
        "{what} ended with {status}, expected signal 9 or cancelled"
    );
    Ok(())
}

async fn killed_tree(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut process = tree(f, &sandbox, None).await?;
    process.kill().await?;
    let end = soon("the end of a killed tree", process.wait()).await??;
    is_kill(end, "the tree")?;
    nothing_lives(f, &sandbox).await
}

async fn dropped_tree(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    drop(tree(f, &sandbox, None).await?);
    nothing_lives(f, &sandbox).await
}

async fn dropped_output(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let given_up = tokio::time::timeout(ms(400), sandbox.shell(a_tree(f)).output()).await;
    ensure!(
        given_up.is_err(),
        "`output` gave {given_up:?} before the end"
    );
    nothing_lives(f, &sandbox).await
}

async fn late_context(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let over = Instant::now() + ms(400);
    let late = sandbox.with_context(Context::default().with_deadline(over));
    let output = soon("a call whose context ends", late.shell(a_tree(f)).output()).await?;
    refused(output, &[ErrorKind::Timeout], "a call whose context ends")?;
    nothing_lives(f, &sandbox).await
}

async fn cancelled_context(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let (context, canceller) = Context::default().cancellable();
    let given_up = sandbox.with_context(context);
    let (output, ()) = tokio::join!(
        soon(
            "a call that is cancelled",
            given_up.shell(a_tree(f)).output()
        ),
        async {
            tokio::time::sleep(ms(300)).await;
            canceller.cancel();
        }
    );
    refused(output?, &[ErrorKind::Cancelled], "a call that is cancelled")?;
    nothing_lives(f, &sandbox).await
}

/// How many processes have this word in their command line.
async fn running(sandbox: &Sandbox, word: &str) -> Checked<usize> {
    let all = sandbox.processes().await?;
    let live = all.iter().filter(|p| p.state != "Z");
    let of_it = live.filter(|p| p.argv.join(" ").contains(word));
    Ok(of_it.count())
}

async fn no_process(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    for (word, by_deadline) in [("4451", true), ("4452", false)] {
        let line = format!(
            "sleep {word} & (setsid sh -c 'sleep {word} & sleep {word}' &); echo ready; sleep {word}"
        );
        let mut command = sandbox.shell(&line);
        if by_deadline {
            command = command.timeout(ms(1500));
        }
        let mut process = command.start().await?;
        until(&mut process, "ready\n").await?;
        holds_soon!(
            "the whole tree is listed",
            running(&sandbox, word).await? >= 4
        );
        if !by_deadline {
            process.kill().await?;
        }
        soon("the end of the tree", process.wait()).await??;
        holds_soon!(
            "no process of the tree is listed",
            running(&sandbox, word).await? == 0
        );
    }
    Ok(())
}

async fn killed_by_id(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut process = tree(f, &sandbox, None).await?;
    sandbox.signal(process.id(), 9, SignalScope::Tree).await?;
    let end = soon("the end of a killed tree", process.wait()).await??;
    is_kill(end, "the tree")?;
    nothing_lives(f, &sandbox).await
}

async fn killed(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut process = sandbox.exec(["sleep", "30"]).start().await?;
    process.kill().await?;
    is_kill(soon("the end", process.wait()).await??, "`sleep`")?;
    process.kill().await?;
    f.shell(&sandbox, "true").await?;
    Ok(())
}

async fn suicides(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    for number in [1, 2, 9, 10, 15] {
        let line = format!("kill -{number} $$; sleep 5; exit 77");
        let output = sandbox.shell(&line).output().await?;
        ensure_eq!(output.status, signal(number), "the end of `{line}`");
    }
    // The code that a shell makes of a signal is a code.
    let output = sandbox.shell("exit 137").output().await?;
    ensure_eq!(output.status, code(137), "the end of `exit 137`");
    Ok(())
}

async fn delivered(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    for number in [1, 2, 9, 10, 12, 15] {
        let mut process = sandbox.exec(["sleep", "30"]).start().await?;
        process.signal(number, SignalScope::Process).await?;
        let end = soon("the end by a signal", process.wait()).await??;
        ensure_eq!(end, signal(number), "the end of `sleep` by signal {number}");
    }
    Ok(())
}

async fn trapped(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "trap '' TERM; echo ready; sleep 0.6; exit 6";
    let mut process = sandbox.shell(line).start().await?;
    until(&mut process, "ready\n").await?;
    process.signal(15, SignalScope::Process).await?;
    ended(&follow(&mut process).await?, code(6), line)?;
    let line = "trap 'exit 7' USR1; sleep 20 & echo ready; wait";
    let mut process = sandbox.shell(line).start().await?;
    until(&mut process, "ready\n").await?;
    process.signal(10, SignalScope::Process).await?;
    ended(&follow(&mut process).await?, code(7), line)
}

async fn scopes(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let path = f.path("child");
    for (scope, lives) in [(SignalScope::Process, true), (SignalScope::Group, false)] {
        f.shell(&sandbox, &format!("echo -n > {path}")).await?;
        let line = &format!("(sleep 0.6; echo alive > {path}) & echo ready; wait");
        let mut process = sandbox.shell(line).start().await?;
        until(&mut process, "ready\n").await?;
        process.signal(15, scope).await?;
        ended(&follow(&mut process).await?, signal(15), line)?;
        tokio::time::sleep(ms(1000)).await;
        let seen = f.shell(&sandbox, &format!("cat {path}")).await?;
        let seen = seen.stdout_text();
        let expected = if lives { "alive\n" } else { "" };
        ensure_eq!(
            seen,
            expected,
            "what the child wrote after a signal to the {scope:?}"
        );
    }
    Ok(())
}

async fn no_such_signal(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut process = sandbox.shell("sleep 0.5; exit 3").start().await?;
    for number in [0, -1, 65, 1000] {
        let sent = process.signal(number, SignalScope::Tree).await;
        let error: Error = refused(
            sent,
            &[ErrorKind::InvalidArgument, ErrorKind::Unsupported],
            &format!("signal {number}"),
        )?;
        ensure!(!error.message().is_empty(), "the error says nothing");
    }
    let end = soon("the end", process.wait()).await??;
    ensure_eq!(end, code(3), "the end of the command that got none of them");
    Ok(())
}

async fn after_the_end(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut process = sandbox.exec(["true"]).start().await?;
    process.wait().await?;
    for scope in [SignalScope::Process, SignalScope::Tree] {
        let sent = process.signal(9, scope).await;
        refused(sent, &[ErrorKind::NotFound], "a signal after the end")?;
        let sent = sandbox.signal(process.id(), 9, scope).await;
        refused(sent, &[ErrorKind::NotFound], "a signal by id after the end")?;
    }
    let sent = sandbox
        .signal(&ExecId::random(), 9, SignalScope::Tree)
        .await;
    refused(sent, &[ErrorKind::NotFound], "a signal to an unknown id")?;
    Ok(())
}
