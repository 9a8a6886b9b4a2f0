//! The kind of each error, and what it says.

use std::time::{Duration, Instant};

use stacyvm::sandbox::exec::AttachOptions;
use stacyvm::sandbox::files::{FileOperation, FileRequest, GuestPath};
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{ErrorKind, ExecId, ExecSpec, SandboxId, SignalScope};

use super::cases;
use super::common::until;
use crate::case::{Case, Checked, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

const GONE: [ErrorKind; 2] = [ErrorKind::SandboxGone, ErrorKind::NotFound];

pub(super) const CASES: &[Case] = cases! {
    Must "errors.calls_on_an_unknown_sandbox_are_not_found" [] => unknown_sandbox;
    Must "errors.calls_on_one_that_ended_are_gone" [] => ended_sandbox;
    Must "errors.an_unknown_command_is_not_found" [] => unknown_exec;
    Must "errors.a_call_past_its_deadline_is_a_timeout" [] => past_deadline;
    Must "errors.a_call_that_was_cancelled_says_so" [] => cancelled;
    Must "errors.text_of_a_sandbox_forges_no_line" [] => no_forged_line;
    Must "errors.a_name_that_is_too_long_is_the_caller_s_fault" [] => long_names;
    Must "errors.an_unknown_file_is_not_found" [] needs(FILES) else files_declined => unknown_file;
    Must "errors.a_signal_that_there_is_not_is_refused" [] => bad_signal;
    Should "errors.errors_name_the_provider" [] => provider_named;
};

/// A call by the sandbox's id, and its name.
macro_rules! calls {
    ($f:ident, $id:ident) => {{
        let (p, cx) = ($f.provider(), $f.context());
        let exec = ExecId::random();
        let spec = ExecSpec::new(["true"]);
        let stat = FileRequest {
            user: None,
            operation: FileOperation::Stat {
                path: GuestPath::new("/tmp")?,
                follow: true,
            },
        };
        [
            ("exec", p.exec(cx, $id, &spec).await.map(drop)),
            ("list_execs", p.list_execs(cx, $id).await.map(drop)),
            (
                "signal_exec",
                p.signal_exec(cx, $id, &exec, 9, SignalScope::Tree).await,
            ),
            (
                "attach",
                p.attach(cx, $id, &exec, AttachOptions::default())
                    .await
                    .map(drop),
            ),
            ("file", p.file(cx, $id, &stat).await.map(drop)),
            ("pause", p.pause(cx, $id).await),
            ("set_deadline", p.set_deadline(cx, $id, None).await),
            (
                "set_lifetime",
                p.set_lifetime(cx, $id, Lifetime::Detached).await,
            ),
            ("processes", p.processes(cx, $id).await.map(drop)),
            ("usage", p.usage(cx, $id).await.map(drop)),
            ("dial", p.dial(cx, $id, 1).await.map(drop)),
        ]
    }};
}

async fn unknown_sandbox(f: &Fixture) -> Checked {
    let id = &SandboxId::random();
    // What cannot be done at all is refused for that.
    let kinds = [GONE[0], GONE[1], ErrorKind::Unsupported];
    for (name, done) in calls!(f, id) {
        refused(done, &kinds, &format!("{name} on an unknown sandbox"))?;
    }
    Ok(())
}

async fn ended_sandbox(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.kill().await?;
    let id = sandbox.id();
    let kinds = [GONE[0], GONE[1], ErrorKind::Unsupported];
    for (name, done) in calls!(f, id) {
        refused(done, &kinds, &format!("{name} on a sandbox that ended"))?;
    }
    Ok(())
}

async fn unknown_exec(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let exec = ExecId::random();
    let kinds = [ErrorKind::NotFound, ErrorKind::Unsupported];
    let sent = sandbox.signal(&exec, 9, SignalScope::Tree).await;
    refused(sent, &kinds, "a signal to an unknown command")?;
    refused(
        sandbox.attach(&exec).await,
        &kinds,
        "attach to an unknown command",
    )?;
    Ok(())
}

async fn past_deadline(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let context = f.context().clone().with_deadline(Instant::now());
    let late = sandbox.with_context(context);
    let path = f.path("ran");
    let ended = late.shell(format!("echo x > {path}")).output().await;
    refused(ended, &[ErrorKind::Timeout], "a command past its deadline")?;
    let output = sandbox.exec(["cat", &path]).output().await?;
    ensure!(!output.status.success(), "it ran all the same");
    Ok(())
}

async fn cancelled(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let (context, canceller) = f.context().clone().cancellable();
    let called = sandbox.with_context(context);
    let mut process = called.shell("echo ready; exec sleep 60").start().await?;
    until(&mut process, "ready\n").await?;
    canceller.cancel();
    refused(
        process.wait().await,
        &[ErrorKind::Cancelled],
        "a command whose call was cancelled",
    )?;
    // It ends with its handle. Where that takes the sandbox along it needs a moment.
    drop(process);
    tokio::time::sleep(Duration::from_secs(1)).await;
    f.shell(&sandbox, "true").await?;
    Ok(())
}

async fn no_forged_line(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let ended = sandbox.exec(["no\nsuch\x1b[31mcommand"]).output().await;
    let error = refused(
        ended,
        &[ErrorKind::CommandNotFound],
        "a command that is not there",
    )?;
    let text = error.to_string();
    ensure!(
        !text.contains(['\n', '\x1b']),
        "the error has control characters: {text:?}"
    );
    Ok(())
}

async fn long_names(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let kinds = [
        ErrorKind::CommandNotExecutable,
        ErrorKind::CommandNotFound,
        ErrorKind::InvalidArgument,
    ];
    for length in [5000, 20_000, 65_536, 200_000] {
        for command in ["x".repeat(length), format!("/{}", "x/".repeat(length / 2))] {
            let ended = sandbox.exec([command]).output().await;
            let what = format!("a command whose name has {length} bytes");
            refused(ended.map(|output| output.status), &kinds, &what)?;
        }
        let path = format!("/tmp/{}", "x".repeat(length));
        let ended = sandbox.shell("true").workdir(path).output().await;
        let kinds = [ErrorKind::NotFound, ErrorKind::InvalidArgument];
        let what = format!("a command in a directory whose name has {length} bytes");
        refused(ended.map(|output| output.status), &kinds, &what)?;
    }
    f.shell(&sandbox, "true").await?;
    Ok(())
}

async fn unknown_file(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let read = sandbox.files().read("/tmp/not-there").await;
    let error = refused(read, &[ErrorKind::NotFound], "a file that is not there")?;
    let named = |text: &str| text.contains("not-there");
    ensure!(
        named(error.message()) || error.facts().iter().any(|(_, fact)| named(fact)),
        "the file is not named: {error:?}"
    );
    Ok(())
}

async fn files_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let request = FileRequest {
        user: None,
        operation: FileOperation::Stat {
            path: GuestPath::new("/tmp")?,
            follow: true,
        },
    };
    let done = f.provider().file(f.context(), sandbox.id(), &request).await;
    refused(done, &[ErrorKind::Unsupported], "a file operation")?;
    Ok(())
}

async fn bad_signal(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let process = sandbox.exec(["sleep", "60"]).start().await?;
    for signal in [-1, 0, 65, 1000] {
        let sent = sandbox
            .signal(process.id(), signal, SignalScope::Tree)
            .await;
        let kinds = [ErrorKind::InvalidArgument, ErrorKind::Unsupported];
        refused(sent, &kinds, &format!("signal {signal}"))?;
    }
    Ok(())
}

async fn provider_named(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let ended = sandbox.exec(["no-such-command-here"]).output().await;
    let error = refused(
        ended,
        &[ErrorKind::CommandNotFound],
        "a command that is not there",
    )?;
    ensure!(
        error.failed_provider().is_some(),
        "no provider is named: {error:?}"
    );
    ensure_eq!(
        error.failed_operation().is_empty(),
        false,
        "whether no operation is named"
    );
    Ok(())
}
