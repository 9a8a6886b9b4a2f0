//! Host processes that are killed: what ends with the one that made it, and what goes on.

use std::time::Duration;

use futures_util::StreamExt as _;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::sandbox::state::ObservedState;
use stacyvm::{ExecEvent, ExecSpec, ExitStatus, SandboxId};

use super::cases;
use super::common::{GONE, soon, spec_declined};
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::Fixture;
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "reattach.an_attached_one_ends_with_its_killed_host" ["N1.7"] needs(ATTACHED) else attached_declined => attached;
    Must "reattach.one_attached_later_ends_with_its_killed_host" ["N1.29"] needs(ATTACHED) => attached_later;
    Must "reattach.a_detached_one_outlives_its_killed_host" ["N1.28"] => detached;
};

/// How long what was attached may go on without its owner.
const FOLLOWS: Duration = Duration::from_secs(30);

/// When what is attached has ended where nothing attached tells.
const LONGEST_LEASE: Duration = Duration::from_secs(10);

/// How much longer a detached one is waited for than an attached one.
const AFTER: Duration = Duration::from_secs(2);

async fn attached(f: &Fixture) -> Checked {
    let (host, ids) = f.host(&[&[Lifetime::Attached]]).await?;
    let id = &ids[0];
    // It is its owner's end that ends it.
    answers(f, id, "while its host lives").await?;
    host.kill();
    ends(f, id).await
}

async fn attached_later(f: &Fixture) -> Checked {
    use Lifetime::{Attached, Detached};
    let lives: [&[Lifetime]; 2] = [&[Detached, Attached], &[Attached, Detached]];
    let (host, ids) = f.host(&lives).await?;
    for id in &ids {
        answers(f, id, "while its host lives").await?;
    }
    host.kill();
    ends(f, &ids[0]).await?;
    tokio::time::sleep(AFTER).await;
    answers(
        f,
        &ids[1],
        "after its host was killed, from which it was detached",
    )
    .await
}

async fn detached(f: &Fixture) -> Checked {
    // An attached one tells how long it takes until the end of an owner is noticed.
    let clock: Option<&[_]> = f
        .claims()
        .attached_lifetime
        .then_some(&[Lifetime::Attached]);
    let lives: Vec<&[_]> = [&[Lifetime::Detached][..]]
        .into_iter()
        .chain(clock)
        .collect();
    let (host, ids) = f.host(&lives).await?;
    answers(f, &ids[0], "while its host lives").await?;
    host.kill();
    match ids.get(1) {
        Some(clock) => ends(f, clock).await?,
        None => tokio::time::sleep(LONGEST_LEASE).await,
    }
    tokio::time::sleep(AFTER).await;
    answers(f, &ids[0], "after its host was killed").await?;
    let listed = f.provider().list(f.context(), None, 1000).await?;
    let is_listed = listed.iter().any(|one| one.id == ids[0]);
    ensure!(is_listed, "it is not listed after its host was killed");
    Ok(())
}

/// Waits until it is gone.
async fn ends(f: &Fixture, id: &SandboxId) -> Checked {
    let until = tokio::time::Instant::now() + FOLLOWS;
    loop {
        let seen = f.provider().inspect(f.context(), id).await;
        match &seen {
            Err(error) if GONE.contains(&error.kind()) => return Ok(()),
            Ok(seen) if seen.state == ObservedState::Ended => return Ok(()),
            _ => {}
        }
        ensure!(
            tokio::time::Instant::now() < until,
            "{} s after its owner was killed it is seen as {:?}",
            FOLLOWS.as_secs(),
            seen.map(|seen| seen.state)
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Expects it to run a command, by the provider: no record of this engine is asked.
async fn answers(f: &Fixture, id: &SandboxId, when: &str) -> Checked {
    let wrong = |text: String| Failure::broken(format!("{when}: {text}"));
    let seen = f.provider().inspect(f.context(), id).await;
    let seen = seen.map_err(|error| wrong(error.to_string()))?;
    ensure_eq!(seen.state, ObservedState::Running, "the state {when}");
    let spec = ExecSpec::shell("echo here");
    let session = f.provider().exec(f.context(), id, &spec).await;
    let session = session.map_err(|error| wrong(error.to_string()))?;
    let events: Vec<_> = soon("its end", session.events.collect()).await?;
    let mut out = Vec::new();
    let mut ended = None;
    for event in events {
        match event.map_err(|error| wrong(error.to_string()))? {
            ExecEvent::Stdout(bytes) => out.extend_from_slice(&bytes),
            ExecEvent::Exited(status) => ended = Some(status),
            _ => {}
        }
    }
    ensure_eq!(ended, Some(ExitStatus::Code { code: 0 }), "its end {when}");
    ensure_eq!(out, b"here\n", "what it says {when}");
    Ok(())
}

async fn attached_declined(f: &Fixture) -> Checked {
    let spec = f.spec().lifetime(Lifetime::Attached);
    spec_declined(f, spec, "an attached lifetime").await
}
