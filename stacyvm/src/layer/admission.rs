//! Refuses what a provider cannot do, before anything is done.

use async_trait::async_trait;

use super::{Call, Layer, Next};
use crate::error::{Error, Result};
use crate::provider::{Capabilities, OperationKind, Users};
use crate::sandbox::exec::ExecSpec;

/// Refuses a call that the provider's capabilities do not cover, with the
/// same error on every provider, before any effect.
///
/// A new sandbox is admitted by the engine, before its record is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Admission;

#[async_trait]
impl Layer for Admission {
    fn name(&self) -> &'static str {
        "admission"
    }

    async fn around(&self, call: &Call<'_>, next: Next<'_>) -> Result<()> {
        if let Some(need) = need(call.operation.kind)
            && !(need.met)(call.capabilities)
        {
            return Err(refusal(
                need.capability,
                call.operation.kind.name(),
                "asked for",
            ));
        }
        if let Some(spec) = call.exec {
            admit_exec(call.capabilities, spec)?;
        }
        next.run(call.context).await
    }
}

struct Need {
    capability: &'static str,
    met: fn(&Capabilities) -> bool,
}

/// What an operation needs. What every provider can do needs nothing.
fn need(kind: OperationKind) -> Option<Need> {
    use OperationKind as Kind;
    let need = |capability, met| Some(Need { capability, met });
    match kind {
        Kind::Probe
        | Kind::Pull
        | Kind::Create
        | Kind::Origin
        | Kind::Inspect
        | Kind::List
        | Kind::Destroy
        | Kind::Exec
        | Kind::ListExecs
        | Kind::SignalExec
        | Kind::SetDeadline
        | Kind::DeleteSnapshot
        | Kind::Leftovers
        | Kind::RemoveLeftover
        | Kind::DiskUse
        | Kind::Tidy => None,
        Kind::SetLifetime => need("attached_lifetime", |c| c.attached_lifetime),
        Kind::Claim => need("claim", |c| c.claim),
        Kind::ReadLog => need("reattach_output", |c| c.reattach_output),
        Kind::Attach => need("exec_background", |c| c.exec_background),
        Kind::Pause | Kind::Resume => need("pause", |c| c.pause),
        Kind::File | Kind::ReadFile | Kind::WriteFile => need("files", |c| c.files),
        Kind::Watch => need("file_watch", |c| c.file_watch),
        Kind::ExportTar | Kind::ImportTar => need("file_tar", |c| c.file_tar),
        Kind::Dial => need("dial", |c| c.dial),
        Kind::Listen => need("listen", |c| c.listen),
        Kind::Endpoint => need("endpoint", |c| c.endpoint),
        Kind::Processes => need("processes", |c| c.processes),
        Kind::Usage => need("usage", |c| c.usage),
        Kind::Snapshot => need("snapshot_disk", |c| c.snapshot_disk || c.snapshot_memory),
    }
}

/// Checks a command and compares it with what a provider can do.
fn admit_exec(capabilities: &Capabilities, spec: &ExecSpec) -> Result<()> {
    spec.check()?;
    // Without `..`: a new field does not compile until it is judged here.
    let ExecSpec {
        exec: _,
        argv: _,
        env: _,
        workdir: _,
        user,
        stdin,
        tty,
        timeout: _,
        background,
    } = spec;
    if *stdin && !capabilities.exec_stdin {
        return Err(refusal("exec_stdin", "stdin", "true"));
    }
    if let Some(size) = tty
        && !capabilities.exec_tty
    {
        let size = format!("{}x{}", size.columns, size.rows);
        return Err(refusal("exec_tty", "tty", &size));
    }
    if let Some(user) = user
        && capabilities.users == Users::One
    {
        return Err(refusal("users", "user", user));
    }
    if *background && !capabilities.exec_background {
        return Err(refusal("exec_background", "background", "true"));
    }
    Ok(())
}

fn refusal(need: &'static str, field: &str, value: &str) -> Error {
    Error::unsupported(format!(
        "{field} ({value}) needs `{need}`, which this provider and runtime do not have; leave it out or use another provider"
    ))
    .context("need", need)
    .context("field", field)
    .context("value", value)
}
