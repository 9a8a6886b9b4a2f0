//! Claims that are observed one by one, and what is refused where one is not made.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use stacyvm::provider::{ClaimRequest, Isolation};
use stacyvm::sandbox::spec::{Network, Port, SandboxSpec, Source};
use stacyvm::sandbox::state::ObservedState;
use stacyvm::{ErrorKind, ExecSpec, Sandbox, SandboxId, SignalScope};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::cases;
use super::common::{GONE, declined, holds_soon, make_or_not_run, ms, soon, spec_declined};
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "honesty.idleness_ends_it" [] needs(IDLE) else idle_declined => idle;
    Must "honesty.use_is_no_idleness" [] needs(IDLE) else idle_declined => used;
    Must "honesty.an_end_is_seen_or_refused" [] needs(TTL) else ttl_declined => ttl;
    Must "honesty.another_handle_moves_no_end" [] needs(TTL) else ttl_declined => handles;
    Must "honesty.another_user_is_had_or_refused" [] needs(USERS) else users_declined => users;
    Must "honesty.any_signal_is_sent_or_refused" [] needs(SIGNALS) else signals_declined => signals;
    Must "honesty.what_does_not_wait_is_not_claimed" [] needs(CLAIM) else claim_declined => claim;
    Must "honesty.the_host_s_system_is_had_or_refused" [] needs(IMAGE_HOST) else host_declined => host;
    Must "honesty.a_root_directory_is_had_or_refused" [] needs(IMAGE_DIRECTORY, FILES) else directory_declined => directory;
    Must "honesty.a_published_port_is_reached_or_refused" [] needs(PUBLISH) else publish_declined => publish;
    Must "honesty.system_calls_are_filtered" [] needs(SYSCALL_FILTER) else strict_declined => filtered;
    Must "honesty.root_inside_is_nobody_outside" [] needs(ROOT_MAPPED) else strict_declined => mapped;
};

async fn has_ended(f: &Fixture, id: &SandboxId) -> Checked<bool> {
    match f.provider().inspect(f.context(), id).await {
        Ok(seen) => Ok(seen.state == ObservedState::Ended),
        Err(error) if GONE.contains(&error.kind()) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn idles(f: &Fixture) -> SandboxSpec {
    f.spec().idle_timeout(Duration::from_secs(1))
}

async fn idle(f: &Fixture) -> Checked {
    let sandbox = f.make(idles(f)).await?;
    f.shell(&sandbox, "true").await?;
    holds_soon!(
        "a sandbox without use has ended",
        has_ended(f, sandbox.id()).await?
    );
    let ended = sandbox.exec(["true"]).output().await;
    refused(ended.map(|output| output.status), &GONE, "a command in it")?;
    Ok(())
}

async fn used(f: &Fixture) -> Checked {
    let sandbox = f.make(idles(f)).await?;
    let output = f.shell(&sandbox, "sleep 3; echo done").await?;
    ensure_eq!(output.stdout_text(), "done\n", "what a long command says");
    Ok(())
}

async fn idle_declined(f: &Fixture) -> Checked {
    spec_declined(f, idles(f), "an end by idleness").await
}

async fn ttl(f: &Fixture) -> Checked {
    let sandbox = f.make(f.spec().ttl(Duration::from_mins(2))).await?;
    let seen = f.provider().inspect(f.context(), sandbox.id()).await?;
    let left = seen.ends.map(|ends| ends.duration_since(SystemTime::now()));
    let left = left.and_then(Result::ok).unwrap_or_default();
    ensure!(
        left > Duration::from_mins(1) && left <= Duration::from_mins(2),
        "it ends in {left:?}, expected at most two minutes"
    );
    Ok(())
}

async fn handles(f: &Fixture) -> Checked {
    let sandbox = f.make(f.spec().ttl(Duration::from_mins(2))).await?;
    let ends = async || -> Checked<SystemTime> {
        let seen = f.provider().inspect(f.context(), sandbox.id()).await?;
        seen.ends.ok_or_else(|| Failure::broken("no end is seen"))
    };
    let before = ends().await?;
    let again = f.engine().get(sandbox.id()).await?;
    f.shell(&again, "true").await?;
    again.info().await?;
    let after = ends().await?;
    // It may be reckoned from what is left, anew each time.
    let moved = after.duration_since(before);
    let moved = moved.unwrap_or_else(|error| error.duration());
    ensure!(
        moved < Duration::from_secs(10),
        "a second handle moved the end by {moved:?}"
    );
    Ok(())
}

async fn ttl_declined(f: &Fixture) -> Checked {
    spec_declined(f, f.spec().ttl(Duration::from_mins(2)), "an end").await?;
    let sandbox = f.sandbox().await?;
    let ends = SystemTime::now() + Duration::from_secs(1);
    let moved = f
        .provider()
        .set_deadline(f.context(), sandbox.id(), Some(ends));
    declined(f, &sandbox, "moving an end", moved).await
}

async fn users(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    // By number, as an image need not name anybody else; its own user may be root.
    for number in ["0", "1234"] {
        let output = sandbox.exec(["id", "-u"]).user(number).output().await?;
        ensure_eq!(
            output.stdout_text(),
            format!("{number}\n"),
            "the user's number"
        );
    }
    Ok(())
}

async fn users_declined(f: &Fixture) -> Checked {
    spec_declined(f, f.spec().user("nobody"), "a user").await?;
    let sandbox = f.sandbox().await?;
    let mut spec = ExecSpec::new(["true"]);
    spec.user = Some("nobody".to_owned());
    let started = f.provider().exec(f.context(), sandbox.id(), &spec);
    declined(f, &sandbox, "a command of another user", started).await
}

const USR1: i32 = 10;

async fn signals(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut process = sandbox.exec(["sleep", "60"]).start().await?;
    sandbox
        .signal(process.id(), USR1, SignalScope::Process)
        .await?;
    let ended = soon("the end", process.wait()).await??;
    ensure_eq!(ended, super::common::signal(USR1), "how it ended");
    Ok(())
}

async fn signals_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let process = sandbox.exec(["sleep", "60"]).start().await?;
    let exec = process.id().clone();
    let sent =
        f.provider()
            .signal_exec(f.context(), sandbox.id(), &exec, USR1, SignalScope::Process);
    declined(f, &sandbox, "another signal than SIGKILL", sent).await
}

async fn claim(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let request = ClaimRequest::default();
    let claimed = f.provider().claim(f.context(), sandbox.id(), &request);
    let kinds = [ErrorKind::Conflict];
    refused(
        claimed.await,
        &kinds,
        "a claim of a sandbox that does not wait",
    )?;
    Ok(())
}

async fn claim_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let request = ClaimRequest::default();
    let claimed = f.provider().claim(f.context(), sandbox.id(), &request);
    declined(f, &sandbox, "a claim", claimed).await
}

fn of(f: &Fixture, image: &str) -> SandboxSpec {
    let mut spec = f.spec();
    spec.source = Source::Image(image.to_owned());
    spec
}

async fn host(f: &Fixture) -> Checked {
    let sandbox = f.make(of(f, "host")).await?;
    let output = f.shell(&sandbox, "echo here").await?;
    ensure_eq!(output.stdout_text(), "here\n", "what it says");
    Ok(())
}

async fn host_declined(f: &Fixture) -> Checked {
    spec_declined(f, of(f, "host"), "the host's system").await
}

/// A root directory with one file, and the text of that.
fn root() -> std::io::Result<(tempfile::TempDir, String)> {
    let text = SandboxId::random().to_string();
    let root = tempfile::tempdir()?;
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755))?;
    for name in ["etc", "tmp", "proc", "dev", "sys", "run"] {
        std::fs::create_dir(root.path().join(name))?;
    }
    std::fs::write(root.path().join("told"), &text)?;
    Ok((root, text))
}

async fn directory(f: &Fixture) -> Checked {
    let made = root().map_err(|error| Failure::NotRun(format!("a root directory: {error}")));
    let (root, text) = made?;
    let spec = of(f, &root.path().to_string_lossy());
    let sandbox: Sandbox = match f.try_make(spec).await {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(Failure::NotRun(error.to_string()));
        }
        made => made?,
    };
    let read = sandbox.files().read("/told").await?;
    ensure_eq!(String::from_utf8_lossy(&read), text, "a file of the root");
    Ok(())
}

async fn directory_declined(f: &Fixture) -> Checked {
    spec_declined(f, of(f, "/"), "a root directory").await
}

fn publishes(f: &Fixture, host: u16) -> SandboxSpec {
    let mut spec = f.spec();
    spec.ports.push(Port { guest: 8080, host });
    // Where there are networks a port may need one.
    spec.network = f.claims().network_full.then_some(Network::Full);
    spec
}

async fn publish(f: &Fixture) -> Checked {
    let free = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await;
    let port = free.and_then(|free| free.local_addr());
    let port = port.map_err(|error| Failure::NotRun(format!("a free port: {error}")))?;
    let sandbox = make_or_not_run(f, publishes(f, port.port())).await?;
    let served = sandbox.exec(["socat", "TCP-LISTEN:8080", "EXEC:cat"]);
    let _served = match served.start().await {
        Err(error) if error.kind() == ErrorKind::CommandNotFound => {
            return Err(Failure::NotRun("there is no socat in a sandbox".to_owned()));
        }
        started => started?,
    };
    let mut told = [0; 4];
    holds_soon!("a published port gives back what it is sent", {
        let exchange = async {
            let mut stream = tokio::net::TcpStream::connect(port).await?;
            stream.write_all(b"ping").await?;
            stream.read_exact(&mut told).await
        };
        let done = tokio::time::timeout(ms(1000), exchange).await;
        done.is_ok_and(|done| done.is_ok()) && told == *b"ping"
    });
    Ok(())
}

async fn publish_declined(f: &Fixture) -> Checked {
    spec_declined(f, publishes(f, 0), "a published port").await
}

/// What `strict` demands is refused.
async fn strict_declined(f: &Fixture) -> Checked {
    let spec = f.spec().profile(stacyvm::sandbox::spec::Profile::Strict);
    spec_declined(f, spec, "the profile `strict`").await
}

/// Not run where the kernel inside is another one: it tells its own view.
fn shares_the_kernel(f: &Fixture) -> Checked {
    match f.claims().isolation {
        Isolation::None | Isolation::Namespaces => Ok(()),
        other => Err(Failure::NotRun(format!("a shared kernel, not {other:?}"))),
    }
}

async fn filtered(f: &Fixture) -> Checked {
    shares_the_kernel(f)?;
    let sandbox = f.sandbox().await?;
    let output = f.shell(&sandbox, "cat /proc/self/status").await?;
    let text = output.stdout_text();
    let line = text.lines().find(|line| line.starts_with("Seccomp:"));
    ensure_eq!(line, Some("Seccomp:\t2"), "what the kernel says");
    Ok(())
}

async fn mapped(f: &Fixture) -> Checked {
    shares_the_kernel(f)?;
    let sandbox = f.sandbox().await?;
    let output = f.shell(&sandbox, "cat /proc/self/uid_map").await?;
    let text = output.stdout_text();
    let numbers = |line: &str| -> Option<[u64; 3]> {
        let words: Vec<u64> = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        words.try_into().ok()
    };
    let ranges: Option<Vec<[u64; 3]>> = text.lines().map(numbers).collect();
    let ranges = ranges.unwrap_or_default();
    ensure!(!ranges.is_empty(), "no range is told: {text:?}");
    let root = ranges
        .iter()
        .find(|[inside, outside, _]| *inside == 0 && *outside == 0);
    ensure!(root.is_none(), "root inside is root outside: {text:?}");
    Ok(())
}
