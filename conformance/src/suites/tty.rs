//! Terminals.

use stacyvm::{ErrorKind, ExecSpec, TtySize};

use super::cases;
use super::common::{code, declined, ended, follow, ms, signal, soon, until};
use crate::case::{Case, Checked, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "tty.a_command_has_a_terminal_of_the_size_that_was_asked_for" ["E7.2"] needs(TTY) else tty_declined => size;
    Must "tty.the_size_changes" ["E7.2"] needs(TTY, STDIN) else tty_declined => resize;
    Must "tty.an_interrupt_that_is_typed_reaches_the_foreground" ["E7.2"] needs(TTY, STDIN) else tty_declined => interrupt;
    Must "tty.the_end_of_input_is_the_character_of_the_terminal" ["E7.2"] needs(TTY, STDIN) else tty_declined => end_of_input;
    Must "tty.there_is_one_stream" ["E2.1" "E7.2"] needs(TTY) else tty_declined => one_stream;
    Must "tty.term_is_set_with_a_terminal_alone" ["E1.5"] needs(TTY) else no_term => term;
    Must "tty.dropping_it_takes_the_whole_tree" ["E4.2"] needs(TTY, TREE) else tty_declined => dropped;
    Must "tty.a_command_without_one_has_no_size" ["E7.2"] => no_terminal;
};

const SIZE: TtySize = TtySize {
    rows: 33,
    columns: 111,
};

async fn size(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "test -t 0 && test -t 1 && test -t 2 && stty size";
    let output = sandbox.shell(line).tty(SIZE).output().await?;
    ensure_eq!(output.stdout_text(), "33 111\r\n", "what `{line}` wrote");
    ensure_eq!(output.status, code(0), "its end");
    Ok(())
}

async fn tty_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    if !f.claims().exec_tty {
        let path = f.path("ran");
        let mut spec = ExecSpec::shell(format!("echo x > {path}"));
        spec.tty = Some(SIZE);
        let call = f.provider().exec(f.context(), sandbox.id(), &spec);
        declined(f, &sandbox, "a command with a terminal", call).await?;
        let ran = sandbox.exec(["cat", &path]).output().await?;
        ensure!(!ran.status.success(), "what was refused ran");
    }
    Ok(())
}

async fn resize(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let command = sandbox.shell("echo ready; read word; stty size");
    let mut process = command.tty(SIZE).stdin_pipe().start().await?;
    until(&mut process, "ready\r\n").await?;
    let size = TtySize {
        rows: 44,
        columns: 122,
    };
    process.resize(size).await?;
    process.write_stdin("go\n").await?;
    let seen = follow(&mut process).await?;
    ensure!(
        seen.text().ends_with("44 122\r\n"),
        "the terminal says {:?}, expected the size 44 122",
        seen.text()
    );
    ended(&seen, code(0), "stty size")
}

async fn interrupt(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    // The shell prints when it runs, and `cat` echoes when it reads.
    let command = sandbox.exec(["cat"]).tty(SIZE).stdin_pipe();
    let mut process = command.start().await?;
    process.write_stdin("word\n").await?;
    until(&mut process, "word\r\nword\r\n").await?;
    process.write_stdin("\x03").await?;
    let end = soon("the end by ^C", process.wait()).await??;
    ensure_eq!(end, signal(2), "the end of `cat`");
    Ok(())
}

async fn end_of_input(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let command = sandbox.exec(["cat"]).tty(SIZE).stdin_pipe();
    let mut process = command.start().await?;
    process.write_stdin("word\n").await?;
    until(&mut process, "word\r\nword\r\n").await?;
    process.close_stdin().await?;
    ended(&follow(&mut process).await?, code(0), "cat")
}

async fn one_stream(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let line = "echo out; echo err >&2; exit 3";
    let output = sandbox.shell(line).tty(SIZE).output().await?;
    ensure_eq!(output.stdout_text(), "out\r\nerr\r\n", "the terminal");
    ensure_eq!(output.stderr_text(), "", "standard error");
    ensure_eq!(output.status, code(3), "the end");
    Ok(())
}

async fn term(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let with = sandbox.shell("echo $TERM").tty(SIZE).output().await?;
    ensure!(
        with.stdout_text().trim().len() > 1,
        "TERM with a terminal is {:?}, expected a name",
        with.stdout_text()
    );
    no_term(f).await
}

async fn no_term(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let without = f.shell(&sandbox, "echo $TERM").await?;
    ensure_eq!(without.stdout_text(), "\n", "TERM without a terminal");
    Ok(())
}

async fn dropped(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let path = f.path("late");
    let line = format!(
        "trap '' HUP; (sleep 1; echo x >> {path}) & \
         (setsid sh -c 'sleep 1; echo x >> {path}' &); echo ready; sleep 30"
    );
    let mut process = sandbox.shell(line).tty(SIZE).start().await?;
    until(&mut process, "ready\r\n").await?;
    drop(process);
    tokio::time::sleep(ms(1400)).await;
    let late = f
        .shell(&sandbox, &format!("cat {path} 2> /dev/null; true"))
        .await?;
    ensure_eq!(late.stdout_text(), "", "what lived on");
    Ok(())
}

async fn no_terminal(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let process = sandbox.exec(["sleep", "30"]).start().await?;
    refused(
        process.resize(SIZE).await,
        &[ErrorKind::InvalidArgument, ErrorKind::Unsupported],
        "the size of a command without a terminal",
    )?;
    Ok(())
}
