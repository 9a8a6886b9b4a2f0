//! Making, finding and ending sandboxes.

use stacyvm::{ErrorKind, Phase, SandboxId};

use super::cases;
use crate::case::{Case, Checked, Level};
use crate::fixture::{Fixture, refused};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "lifecycle.a_command_runs_when_create_returns" ["N1.1"] => a_command_runs;
    Must "lifecycle.destroy_may_be_repeated" ["N1.1"] => destroy_may_be_repeated;
    Must "lifecycle.an_unknown_id_is_not_found" [] => unknown;
    Must "lifecycle.pause_stops_and_resume_goes_on" [] needs(PAUSE) else pause_declined => pause;
};

async fn a_command_runs(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    f.shell(&sandbox, "true").await?;
    let info = sandbox.info().await?;
    ensure_eq!(info.phase, Phase::Running, "the phase");
    Ok(())
}

async fn destroy_may_be_repeated(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.kill().await?;
    sandbox.kill().await?;
    f.provider().destroy(f.context(), sandbox.id()).await?;
    let error = refused(
        sandbox.exec(["true"]).output().await,
        &[ErrorKind::SandboxGone, ErrorKind::NotFound],
        "exec after destroy",
    )?;
    ensure!(!error.to_string().is_empty(), "the error says nothing");
    Ok(())
}

async fn unknown(f: &Fixture) -> Checked {
    let id = SandboxId::random();
    let seen = f.provider().inspect(f.context(), &id).await;
    let gone = [ErrorKind::NotFound, ErrorKind::SandboxGone];
    refused(seen, &gone, "inspect of an unknown id")?;
    f.provider().destroy(f.context(), &id).await?;
    Ok(())
}

async fn pause(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    sandbox.pause().await?;
    sandbox.pause().await?;
    ensure_eq!(sandbox.info().await?.phase, Phase::Paused, "the phase");
    sandbox.resume().await?;
    sandbox.resume().await?;
    f.shell(&sandbox, "true").await?;
    Ok(())
}

async fn pause_declined(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let paused = f.provider().pause(f.context(), sandbox.id()).await;
    refused(paused, &[ErrorKind::Unsupported], "pause")?;
    f.shell(&sandbox, "true").await?;
    Ok(())
}
