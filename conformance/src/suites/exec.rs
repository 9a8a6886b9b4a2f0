//! Running commands: the request and the end.

use stacyvm::{ErrorKind, ExitStatus};

use super::cases;
use crate::case::{Case, Checked, Level};
use crate::ensure_eq;
use crate::fixture::{Fixture, refused};

pub(super) const CASES: &[Case] = cases! {
    Must "exec.argv_arrives_as_written" ["E1.1"] => argv;
    Must "exec.stdin_not_asked_for_is_empty" ["E1.3"] => no_stdin;
    Must "exec.stdin_arrives_whole_and_ends" ["E1.3"] needs(STDIN) => stdin;
    Must "exec.code_is_told_as_it_was" ["E3.3" "E8.1"] => code;
    Must "exec.a_command_that_is_not_there_never_starts" ["E3.6"] => not_found;
};

async fn argv(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let words = ["a b", "*", "$HOME", "ä", "\\n", "'\""];
    let argv: Vec<&str> = ["echo"].into_iter().chain(words).collect();
    let output = sandbox.exec(argv).output().await?;
    ensure_eq!(
        output.stdout_text(),
        format!("{}\n", words.join(" ")),
        "what `echo` got"
    );
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
    ensure_eq!(output.stdout == input, true, "whether they are the same");
    Ok(())
}

async fn code(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    for code in [0, 1, 2, 42, 126, 127, 128, 255] {
        let output = sandbox.shell(format!("exit {code}")).output().await?;
        ensure_eq!(
            output.status,
            ExitStatus::Code { code: code },
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
