//! `create`, `kill`, `extend`: the life of a sandbox.

use serde_json::json;
use stacyvm::context::Context;
use stacyvm::engine::Engine;
use stacyvm::units::parse_duration;
use stacyvm::{Result, Sandbox, SandboxSpec};

use crate::args::{CreateArgs, ExtendArgs, KillArgs, SpecArgs};
use crate::progress::Bar;
use crate::{output, session, spec};

/// Makes a sandbox as the arguments say.
pub(crate) async fn make(
    engine: &Engine,
    args: &SpecArgs,
    spec: SandboxSpec,
    json: bool,
) -> Result<Sandbox> {
    let bar = Bar::new(&args.image, json);
    let mut create = engine.create(spec).on_pull(bar.observer());
    if let Some(when) = &args.pull {
        create = create.pull(when.parse()?);
    }
    if let Some(provider) = &args.provider {
        create = create.provider(provider);
    }
    if let Some(key) = &args.idempotency_key {
        create = create.idempotency_key(key);
    }
    create.await
}

pub(crate) async fn create(engine: &Engine, args: &CreateArgs, json: bool) -> Result<u8> {
    let wanted = spec::sandbox(&args.spec)?;
    let mut context = Context::default();
    if let Some(timeout) = spec::duration("timeout", args.timeout.as_deref())? {
        context = context.with_deadline(std::time::Instant::now() + timeout);
    }
    let making = make(engine, &args.spec, wanted, json);
    let sandbox = session::unless_interrupted(context.bound(making)).await?;
    let told = super::printed(if json {
        output::json(&sandbox.info().await?)
    } else {
        output::line(sandbox.id().as_str())
    });
    if told.is_err() && args.spec.idempotency_key.is_none() {
        // Nobody knows its id, so nobody would end it.
        sandbox.kill().await?;
    }
    told.map(|()| 0)
}

pub(crate) async fn kill(engine: &Engine, args: &KillArgs, json: bool) -> Result<u8> {
    let (mut sandboxes, mut out_of_reach) = (Vec::new(), Vec::new());
    if args.all {
        for info in super::all(engine, false, &[]).await? {
            match engine.get(&info.id).await {
                Ok(sandbox) => sandboxes.push(sandbox),
                // As of a provider that the settings do not have any more: the
                // others end all the same.
                Err(error) => out_of_reach.push(error.context("sandbox", &info.id)),
            }
        }
    }
    for name in &args.sandboxes {
        sandboxes.push(engine.get(name).await?);
    }
    let mut first_error = None;
    let mut killed = Vec::new();
    for sandbox in &sandboxes {
        match sandbox.kill().await {
            Ok(_) => killed.push(sandbox.id().clone()),
            Err(error) if first_error.is_none() => first_error = Some(error),
            Err(error) => output::error(&error, json),
        }
    }
    super::printed(if json {
        output::json(&json!({ "killed": killed }))
    } else {
        killed.iter().try_for_each(|id| output::line(id.as_str()))
    })?;
    for error in out_of_reach {
        if first_error.is_none() {
            first_error = Some(error);
        } else {
            output::error(&error, json);
        }
    }
    first_error.map_or(Ok(0), Err)
}

pub(crate) async fn extend(engine: &Engine, args: &ExtendArgs, json: bool) -> Result<u8> {
    let ttl = parse_duration("ttl", &args.ttl)?;
    let sandbox = engine.get(&args.sandbox).await?;
    sandbox.set_ttl(Some(ttl)).await?;
    if json {
        super::printed(output::json(&sandbox.info().await?))?;
    }
    Ok(0)
}
