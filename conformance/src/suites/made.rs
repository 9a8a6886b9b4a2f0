//! What a create makes: with its secrets, for its tenant, from its source, once.

use std::collections::BTreeSet;
use std::time::Duration;

use stacyvm::provider::{CreateRequest, Leftover, Reach, Secrets};
use stacyvm::sandbox::spec::{SandboxSpec, SecretReference, Source};
use stacyvm::sandbox::state::Observed;
use stacyvm::{ErrorKind, Filter, SandboxId};

use super::cases;
use super::common::{ms, spec_declined};
use crate::case::{Case, Checked, Failure, Level};
use crate::fixture::{Fixture, is_minted};
use crate::{ensure, ensure_eq};

pub(super) const CASES: &[Case] = cases! {
    Must "honesty.secrets_reach_commands" [] needs(ENV) else env_declined => secrets_arrive;
    Must "honesty.secrets_are_told_nowhere" ["S1.7"] needs(ENV) else env_declined => secrets_untold;
    Must "honesty.a_create_makes_one_sandbox" [] => makes_one;
    Must "honesty.a_repeated_create_makes_no_second_sandbox" [] => repeated;
    Must "honesty.what_is_left_has_a_sandbox" [] => nothing_unowned;
    Must "honesty.an_origin_stays_with_its_source" [] => origin;
    Must "honesty.the_tenant_is_the_one_that_asked" [] => tenant;
    Must "honesty.a_command_has_no_variable_of_the_host_s_process" ["E1.5"] => environment;
};

/// How often a look is repeated: others may use the provider too.
const ROUNDS: usize = 5;

/// A sandbox with a secret, and its value.
async fn with_secret(f: &Fixture) -> Checked<(stacyvm::Sandbox, String)> {
    let broken = |error: std::io::Error| Failure::NotRun(format!("a file of the host: {error}"));
    let value = format!("value-{}", SandboxId::random());
    let file = tempfile::NamedTempFile::new().map_err(broken)?;
    std::fs::write(file.path(), &value).map_err(broken)?;
    let path = file.path().to_string_lossy().into_owned();
    let mut spec = f.spec();
    let reference = SecretReference::File(path);
    spec.secrets.insert("CASE_SECRET".to_owned(), reference);
    Ok((f.make(spec).await?, value))
}

async fn secrets_arrive(f: &Fixture) -> Checked {
    let (sandbox, value) = with_secret(f).await?;
    for _ in 0..2 {
        let output = f.shell(&sandbox, "echo \"$CASE_SECRET\"").await?;
        ensure!(
            output.stdout_text() == format!("{value}\n"),
            "a command does not get the value of a secret"
        );
    }
    Ok(())
}

async fn secrets_untold(f: &Fixture) -> Checked {
    let (sandbox, value) = with_secret(f).await?;
    let running = sandbox.exec(["sleep", "60"]).start().await?;
    let (provider, context, id) = (f.provider(), f.context(), sandbox.id());
    let listed = listed(f).await?;
    let told = [
        (
            "inspect",
            format!("{:?}", provider.inspect(context, id).await),
        ),
        ("list", format!("{listed:?}")),
        (
            "list_execs",
            format!("{:?}", provider.list_execs(context, id).await),
        ),
        (
            "processes",
            format!("{:?}", provider.processes(context, id).await),
        ),
        ("info", format!("{:?}", sandbox.info().await?)),
        (
            "the engine's list",
            format!("{:?}", f.engine().list(Filter::default()).await?),
        ),
        ("the sandbox", format!("{sandbox:?}")),
    ];
    drop(running);
    for (what, text) in told {
        ensure!(!text.contains(&value), "{what} tells the value of a secret");
    }
    Ok(())
}

async fn env_declined(f: &Fixture) -> Checked {
    spec_declined(f, f.spec().env("ONE", "1"), "a variable").await?;
    let mut spec = f.spec();
    let reference = SecretReference::File("/dev/null".to_owned());
    spec.secrets.insert("CASE_SECRET".to_owned(), reference);
    spec_declined(f, spec, "a secret").await
}

/// Every sandbox of the provider's instance.
async fn listed(f: &Fixture) -> Checked<Vec<Observed>> {
    let mut all: Vec<Observed> = Vec::new();
    loop {
        let after = all.last().map(|seen| seen.id.clone());
        let page = f.provider().list(f.context(), after.as_ref(), 500).await?;
        let goes_on = page
            .first()
            .is_some_and(|seen| Some(&seen.id) > after.as_ref());
        if !goes_on {
            return Ok(all);
        }
        all.extend(page);
    }
}

async fn ids(f: &Fixture) -> Checked<BTreeSet<SandboxId>> {
    Ok(listed(f).await?.into_iter().map(|seen| seen.id).collect())
}

async fn makes_one(f: &Fixture) -> Checked {
    let mut strangers = Vec::new();
    for _ in 0..ROUNDS {
        let before = ids(f).await?;
        f.sandbox().await?.kill().await?;
        let after = ids(f).await?;
        let new = after.difference(&before);
        strangers = new.filter(|id| !is_minted(id)).cloned().collect();
        if strangers.is_empty() {
            return Ok(());
        }
    }
    Err(Failure::broken(format!(
        "each of {ROUNDS} creates left {} sandboxes that nobody asked for",
        strangers.len()
    )))
}

/// Of the provider itself: an engine would ask it once for one key.
async fn repeated(f: &Fixture) -> Checked {
    let mut strangers = Vec::new();
    for _ in 0..ROUNDS {
        let request = CreateRequest {
            id: f.mint(),
            instance: f.engine().instance().clone(),
            spec: f.spec(),
            open_files_preferred: false,
            ends: None,
            secrets: Secrets::default(),
            waits: false,
        };
        f.provider().create(f.context(), &request).await?;
        let before = ids(f).await?;
        match f.provider().create(f.context(), &request).await {
            Ok(found) => ensure_eq!(found.id, request.id, "the sandbox of a repeated create"),
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error.into()),
        }
        let after = ids(f).await?;
        let new = after.difference(&before);
        strangers = new.filter(|id| !is_minted(id)).cloned().collect();
        f.provider().destroy(f.context(), &request.id).await?;
        if strangers.is_empty() {
            return Ok(());
        }
    }
    Err(Failure::broken(format!(
        "each of {ROUNDS} repeated creates left {} sandboxes that nobody asked for",
        strangers.len()
    )))
}

async fn unowned(f: &Fixture) -> Checked<Vec<Leftover>> {
    let left = f.provider().leftovers(f.context(), Reach::Own).await;
    let mut left = left.map_err(|error| match error.kind() {
        ErrorKind::Unsupported => Failure::NotRun(error.to_string()),
        _ => error.into(),
    })?;
    // What waits for a sandbox has somebody who accounts for it.
    left.retain(|one| one.sandbox.is_none() && !one.owner_lives);
    Ok(left)
}

async fn nothing_unowned(f: &Fixture) -> Checked {
    let mut new = Vec::new();
    for _ in 0..ROUNDS {
        let before = unowned(f).await?;
        f.sandbox().await?.kill().await?;
        // What is taken away meanwhile, and what others are at.
        for _ in 0..10 {
            new = unowned(f).await?;
            new.retain(|one| before.iter().all(|known| known.id != one.id));
            if new.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(ms(100)).await;
        }
    }
    Err(Failure::broken(format!(
        "each of {ROUNDS} sandboxes left something without a sandbox: {:?}",
        new.first()
    )))
}

/// Of a directory of the host, where the provider takes one.
async fn origin(f: &Fixture) -> Checked {
    let (a, b) = match f.claims() {
        claims if claims.image_directory => {
            let made = (tempfile::tempdir(), tempfile::tempdir());
            let (Ok(a), Ok(b)) = made else {
                return Err(Failure::NotRun("a directory of the host".to_owned()));
            };
            (Ok(a), Ok(b))
        }
        claims if claims.image_registry || claims.image_store => (Err("a"), Err("b")),
        _ => return Err(Failure::NotRun("a second source".to_owned())),
    };
    let named = |source: &Result<tempfile::TempDir, &str>| match source {
        Ok(directory) => directory.path().to_string_lossy().into_owned(),
        Err(name) => format!("stacyvm-conformance-{name}"),
    };
    let told = async |source: &Result<tempfile::TempDir, &str>| {
        let mut spec = f.spec();
        spec.source = Source::Image(named(source));
        let told = f.provider().origin(f.context(), &spec).await;
        told.map_err(|error| match error.kind() {
            ErrorKind::Unsupported | ErrorKind::NotFound | ErrorKind::PermissionDenied => {
                Failure::NotRun(error.to_string())
            }
            _ => error.into(),
        })
    };
    let first = told(&a).await?;
    if first.is_empty() && a.is_err() {
        // It knows an image by what it has of it.
        return Err(Failure::NotRun("an image that the provider has".to_owned()));
    }
    ensure_eq!(told(&a).await?, first, "the origin of the same source");
    ensure!(told(&b).await? != first, "two sources have one origin");
    if let (Ok(a_path), Ok(b_path)) = (&a, &b) {
        let moved = std::fs::remove_dir(a_path.path())
            .and_then(|()| std::fs::rename(b_path.path(), a_path.path()));
        ensure!(moved.is_ok(), "the directory is not replaced: {moved:?}");
        ensure!(
            told(&a).await? != first,
            "a source that was replaced has the origin that it had"
        );
    }
    Ok(())
}

async fn tenant(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let mut seen = listed(f).await?;
    seen.retain(|one| one.id == *sandbox.id());
    seen.push(f.provider().inspect(f.context(), sandbox.id()).await?);
    for told in seen.into_iter().filter_map(|one| one.tenant) {
        ensure_eq!(told, f.context().tenant, "the tenant");
    }
    Ok(())
}

/// What a sandbox, its shell or its terminal has of its own.
const OWN: &[&str] = &[
    "PATH", "LANG", "HOME", "USER", "LOGNAME", "TERM", "PWD", "OLDPWD", "SHLVL", "SHELL", "_",
    "HOSTNAME",
];

async fn environment(f: &Fixture) -> Checked {
    let sandbox = f.sandbox().await?;
    let output = sandbox.exec(["env"]).timeout(Duration::from_secs(20));
    let text = output.output().await?.stdout_text();
    let inside: BTreeSet<&str> = text.lines().collect();
    let host: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, value)| !OWN.contains(&name.as_str()) && !value.is_empty())
        .collect();
    if host.is_empty() {
        return Err(Failure::NotRun("variables of this process".to_owned()));
    }
    for (name, value) in host {
        ensure!(
            !inside.contains(format!("{name}={value}").as_str()),
            "a command has the variable {name} of the host's process"
        );
    }
    if f.spec() == SandboxSpec::host().lifetime(f.spec().lifetime) {
        let own = |line: &&&str| {
            let name = line.split_once('=').map(|(name, _)| name);
            name.is_some_and(|name| !OWN.contains(&name) && !name.starts_with("STACYVM_"))
        };
        let other: Vec<_> = inside.iter().filter(own).collect();
        ensure!(
            other.is_empty(),
            "a command has variables of nobody: {other:?}"
        );
    }
    Ok(())
}
