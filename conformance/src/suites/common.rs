//! What suites share: following a command to its end, and refusals.

use std::fmt::Debug;
use std::time::Duration;

use stacyvm::{Error, ErrorKind, ExecEvent, ExitStatus, Process, Sandbox, SandboxSpec};

use crate::case::{Checked, Failure};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

/// How long one thing may take that is a matter of moments.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// What one that ended, or never was, is told as.
pub(super) const GONE: [ErrorKind; 2] = [ErrorKind::SandboxGone, ErrorKind::NotFound];

/// What a command wrote, and how it ended.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) out: Vec<u8>,
    pub(super) err: Vec<u8>,
    pub(super) lost: u64,
    pub(super) ends: Vec<ExitStatus>,
}

impl Seen {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    pub(super) fn take(&mut self, event: ExecEvent) {
        match event {
            ExecEvent::Stdout(bytes) => self.out.extend_from_slice(&bytes),
            ExecEvent::Stderr(bytes) => self.err.extend_from_slice(&bytes),
            ExecEvent::Lost { stdout, stderr } => self.lost += stdout + stderr,
            ExecEvent::Exited(status) => self.ends.push(status),
        }
    }
}

/// Waits for something that is a matter of moments.
pub(super) async fn soon<T>(what: &str, work: impl Future<Output = T> + Send) -> Checked<T> {
    let done = tokio::time::timeout(SOON, work).await;
    done.map_err(|_| Failure::broken(format!("{what}: not within {} s", SOON.as_secs())))
}

/// Looks again until it holds, for at most ten seconds.
macro_rules! holds_soon {
    ($what:expr, $look:expr) => {
        for left in (0..500).rev() {
            if $look {
                break;
            }
            $crate::ensure!(left > 0, "after ten seconds still not: {}", $what);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
}
pub(super) use holds_soon;

/// Follows a command to its end, which must come once and last.
pub(super) async fn follow(process: &mut Process) -> Checked<Seen> {
    let mut seen = Seen::default();
    while let Some(event) = soon("the next event", process.next_event()).await?? {
        ensure!(
            seen.ends.is_empty(),
            "{event:?} came after the end, expected nothing"
        );
        seen.take(event);
    }
    ensure_eq!(seen.ends.len(), 1, "the ends that were told");
    Ok(seen)
}

/// Reads until standard output holds this text.
pub(super) async fn until(process: &mut Process, text: &str) -> Checked<Seen> {
    let mut seen = Seen::default();
    while !seen.text().contains(text) {
        match soon(&format!("`{text}` on output"), process.next_event()).await?? {
            Some(ExecEvent::Exited(status)) => {
                let told = String::from_utf8_lossy(&seen.err).into_owned();
                return Err(Failure::broken(format!(
                    "it ended with {status} before it wrote {text:?}; it wrote {:?} and {told:?}",
                    seen.text()
                )));
            }
            Some(event) => seen.take(event),
            None => return Err(Failure::broken("its events ended without an end")),
        }
    }
    Ok(seen)
}

/// Expects an end.
pub(super) fn ended(seen: &Seen, expected: ExitStatus, what: &str) -> Checked {
    ensure_eq!(
        seen.ends,
        vec![expected],
        "how `{what}` ended, with {:?} on its errors",
        String::from_utf8_lossy(&seen.err)
    );
    Ok(())
}

pub(super) const fn code(code: i32) -> ExitStatus {
    ExitStatus::Code { code }
}

pub(super) const fn signal(signal: i32) -> ExitStatus {
    ExitStatus::Signal { signal }
}

pub(super) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Expects `unsupported` of a call of the provider for what it does not claim, and
/// no effect: no command more, and a sandbox that works as before.
pub(super) async fn declined<T: Debug>(
    f: &Fixture,
    sandbox: &Sandbox,
    what: &str,
    call: impl Future<Output = stacyvm::Result<T>> + Send,
) -> Checked {
    let before = commands(f, sandbox).await;
    refused(call.await, &[ErrorKind::Unsupported], what)?;
    let after = commands(f, sandbox).await;
    ensure_eq!(after, before, "the commands after {what}");
    f.shell(sandbox, "true").await?;
    Ok(())
}

/// How many commands are listed, where they are.
async fn commands(f: &Fixture, sandbox: &Sandbox) -> Option<usize> {
    let listed = f.provider().list_execs(f.context(), sandbox.id()).await;
    listed.map(|all| all.len()).ok()
}

/// Bytes that have no short period, so that a piece in a wrong place shows.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..len).map(|_| next()).collect()
}

/// Where two texts of bytes differ first, in words.
pub(super) fn same_bytes(seen: &[u8], expected: &[u8], what: &str) -> Checked {
    ensure_eq!(seen.len(), expected.len(), "the length of {what}");
    if seen == expected {
        return Ok(());
    }
    let differs = seen.iter().zip(expected).position(|(s, e)| s != e);
    ensure_eq!(differs, None, "where {what} differs first");
    Ok(())
}

/// Expects that no sandbox of this spec is made, and gives the error.
pub(super) async fn spec_refused(
    f: &Fixture,
    spec: SandboxSpec,
    kinds: &[ErrorKind],
    what: &str,
) -> Checked<Error> {
    let id = f.mint();
    let create = f.engine().create(spec).id(id.clone());
    let made = create.provider(f.provider_name()).await;
    let error = refused(made.map(|sandbox| sandbox.id().clone()), kinds, what)?;
    let seen = f.provider().inspect(f.context(), &id).await;
    refused(
        seen,
        &GONE,
        &format!("a look for {what}, which was refused,"),
    )?;
    Ok(error)
}

/// Expects that a spec which needs more than is claimed is refused, with the need
/// named.
pub(super) async fn spec_declined(f: &Fixture, spec: SandboxSpec, what: &str) -> Checked {
    let error = spec_refused(f, spec, &[ErrorKind::Unsupported], what).await?;
    ensure!(
        error.fact("field").is_some() || error.fact("need").is_some(),
        "{what} is refused without its field or its need: {error}"
    );
    Ok(())
}

/// Makes a sandbox of a spec within the claims; not run where what lies below this
/// host or directory cannot serve it all the same and says so.
pub(super) async fn make_or_not_run(f: &Fixture, spec: SandboxSpec) -> Checked<Sandbox> {
    let made = f.try_make(spec).await;
    made.map_err(|error| match error.kind() {
        ErrorKind::Unsupported => Failure::NotRun(error.to_string()),
        _ => error.into(),
    })
}

/// The case is not run where there is no such program inside.
pub(super) async fn has(sandbox: &Sandbox, program: &str) -> Checked {
    let looked = sandbox.shell(format!("command -v {program}")).output();
    if looked.await?.status.success() {
        return Ok(());
    }
    Err(Failure::NotRun(format!(
        "there is no {program} in a sandbox"
    )))
}

/// Who commands run as: the default user, and root where there is one.
pub(super) fn users(f: &Fixture) -> &'static [Option<&'static str>] {
    match f.claims().users {
        stacyvm::provider::Users::Many => &[None, Some("root")],
        stacyvm::provider::Users::One => &[None],
    }
}

/// Runs a command line as one of [`users`].
pub(super) async fn run_as(
    sandbox: &Sandbox,
    user: Option<&str>,
    line: &str,
) -> Checked<stacyvm::Output> {
    let exec = sandbox.shell(line).timeout(SOON);
    let exec = match user {
        Some(user) => exec.user(user),
        None => exec,
    };
    Ok(exec.output().await?)
}

/// Tries an attack as one of [`users`]; it may cost its own sandbox the connection,
/// where that is told as such.
pub(super) async fn attempt_as(sandbox: &Sandbox, user: Option<&str>, line: &str) -> Checked {
    let exec = sandbox.shell(line).timeout(SOON);
    let exec = match user {
        Some(user) => exec.user(user),
        None => exec,
    };
    match soon(line, exec.output()).await? {
        Ok(_) => Ok(()),
        Err(error) if GONE.contains(&error.kind()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::Unavailable => Ok(()),
        Err(error) => Err(error.into()),
    }
}
