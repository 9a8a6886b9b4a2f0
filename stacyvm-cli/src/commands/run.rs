//! `run`: make a sandbox, run a command, throw the sandbox away.

use serde_json::json;
use stacyvm::engine::Engine;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Result, Sandbox};

use super::exec::{follow, report};
use crate::args::RunArgs;
use crate::session::Signals;
use crate::spec;

pub(crate) async fn run(engine: &Engine, args: &RunArgs, json: bool) -> Result<u8> {
    let exec = spec::run(args)?;
    let mut sandbox_spec = spec::sandbox(&args.spec)?;
    sandbox_spec.lifetime = if args.keep {
        Lifetime::Detached
    } else {
        Lifetime::Attached
    };
    let mut signals = Signals::new()?;
    let making = super::life::make(engine, &args.spec, sandbox_spec, json);
    let sandbox = signals.unless_interrupted(making).await?;
    let followed = follow(&sandbox, exec, &mut signals, json).await;
    if args.keep {
        crate::output::remark(&format!("kept sandbox {}", sandbox.id()));
    } else {
        end(&sandbox, followed.is_ok()).await?;
    }
    report(&sandbox, followed?, json!({ "kept": args.keep }))
}

/// Ends the sandbox; a failure to do so counts only if nothing failed before.
async fn end(sandbox: &Sandbox, counts: bool) -> Result<()> {
    match sandbox.kill().await {
        Err(error) if counts => Err(error),
        _ => Ok(()),
    }
}
