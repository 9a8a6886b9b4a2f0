//! `run`: make a sandbox, run a command, throw the sandbox away.

use std::ffi::OsString;

use serde_json::json;
use stacyvm::config::Config;
use stacyvm::engine::Engine;
use stacyvm::image::{Caps, Images};
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Error, ErrorKind, Result, Sandbox};

use super::exec::{follow, report};
use crate::args::RunArgs;
use crate::session::Signals;
use crate::spec;

pub(crate) async fn run(
    engine: &Engine,
    config: &Config,
    args: &RunArgs,
    json: bool,
) -> Result<u8> {
    let image = &args.spec.image;
    let given = match args.argv.is_empty() {
        false => Some(spec::run(args, &args.argv)?),
        true if image == "host" || image.starts_with('/') => return Err(no_command(image)),
        true => None,
    };
    let mut sandbox_spec = spec::sandbox(&args.spec)?;
    sandbox_spec.lifetime = if args.keep {
        Lifetime::Detached
    } else {
        Lifetime::Attached
    };
    let mut signals = Signals::new()?;
    let making = super::life::make(engine, &args.spec, sandbox_spec, json);
    let sandbox = signals.unless_interrupted(making).await?;
    let followed = async {
        let exec = match given {
            Some(given) => given,
            None => spec::run(args, &command_of(&sandbox, config, image).await?)?,
        };
        follow(&sandbox, exec, &mut signals, json).await
    };
    let followed = followed.await;
    if args.keep {
        crate::output::remark(&format!("kept sandbox {}", sandbox.id()));
    } else {
        end(&sandbox, followed.is_ok()).await?;
    }
    report(&sandbox, followed?, json!({ "kept": args.keep }))
}

/// Entrypoint and command of the image that a sandbox was made of.
async fn command_of(sandbox: &Sandbox, config: &Config, name: &str) -> Result<Vec<OsString>> {
    let info = sandbox.info().await?;
    let told = info.effective.get("image_command");
    if let Some(words) = told.and_then(|told| serde_json::from_str::<Vec<String>>(&told.value).ok())
        && !words.is_empty()
    {
        return Ok(words.into_iter().map(Into::into).collect());
    }
    // Of one that is too long to be told the store knows.
    let Some(digest) = info.effective.get("image") else {
        return Err(no_command(name));
    };
    let store = Images::open(&config.state_dir.join("images"))?;
    let store = store.with_caps(Caps::of(&config.images))?;
    let image = match store.find(&digest.value) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(no_command(name)),
        found => found?,
    };
    let command: Vec<OsString> = image.config.command().into_iter().map(Into::into).collect();
    if command.is_empty() {
        return Err(no_command(name));
    }
    Ok(command)
}

fn no_command(image: &str) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!(
            "no COMMAND was given, and none is known of the image `{}`",
            image.escape_debug()
        ),
    )
    .context("field", "command")
    .context("remedy", "give the command behind `--`")
}

/// Ends the sandbox; a failure to do so counts only if nothing failed before.
async fn end(sandbox: &Sandbox, counts: bool) -> Result<()> {
    match sandbox.kill().await {
        Err(error) if counts => Err(error),
        _ => Ok(()),
    }
}
