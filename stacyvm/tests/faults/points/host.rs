//! The host process of a round, and what it does.

use std::io::Write;
use std::path::Path;

use rustix::process::Signal;
use stacyvm::engine::Engine;
use stacyvm::sandbox::copy::CopyOptions;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Pool, Result, Sandbox, SandboxSpec, SignalScope, faults};

use super::super::{open, processes_of, signal};

pub(super) const STATE: &str = "STACYVM_FAULT_STATE";
pub(super) const DEED: &str = "STACYVM_FAULT_DEED";
/// A point of the host; those of helper and agent have a variable of their own.
pub(super) const POINT: &str = "STACYVM_FAULT_POINT";
/// What the host says when it is done, and how it went.
pub(super) const OUTCOME: &str = "outcome: ";

fn parameter(name: &str) -> String {
    let value = std::env::var_os(name).and_then(|v| v.into_string().ok());
    value.unwrap_or_default()
}

/// Not a test of its own: the host that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entry() {
    let state = parameter(STATE);
    if state.is_empty() {
        return;
    }
    let engine = open(Path::new(&state)).await;
    let deed = parameter(DEED);
    let place = tempfile::tempdir().unwrap();
    let done = match deed.as_str() {
        "create" | "create attached" | "life" => {
            arm();
            match deed.as_str() {
                "create" => create(&engine, Lifetime::Detached).await.map(drop),
                "life" => life(&engine, Path::new(&state)).await,
                _ => create(&engine, Lifetime::Attached).await.map(drop),
            }
        }
        "fill" => {
            arm();
            pool(&engine).await.map(drop)
        }
        "claim" | "drain" => {
            let pool = pool(&engine).await.unwrap();
            arm();
            if deed == "claim" {
                claim(&pool).await.map(drop)
            } else {
                pool.drain().await
            }
        }
        _ => {
            let sandbox = create(&engine, Lifetime::Detached).await.unwrap();
            prepare(&sandbox, place.path(), &deed).await;
            arm();
            work(&sandbox, place.path(), &deed).await
        }
    };
    let outcome = match done {
        Ok(()) => "done",
        Err(error) => error.kind().code(),
    };
    // What still happens beside the deed.
    let _ = engine.close().await;
    println!("{OUTCOME}{outcome}");
    std::io::stdout().flush().unwrap();
}

fn arm() {
    let point = parameter(POINT);
    if !point.is_empty() {
        faults::arm(&point);
    }
}

async fn create(engine: &Engine, lifetime: Lifetime) -> Result<Sandbox> {
    engine.create(SandboxSpec::host().lifetime(lifetime)).await
}

/// A pool in which one waits.
async fn pool(engine: &Engine) -> Result<Pool> {
    let pool = engine.pool(SandboxSpec::host()).size(1).await?;
    pool.filled().await?;
    Ok(pool)
}

/// A claim that brings something of all that it can.
async fn claim(pool: &Pool) -> Result<Sandbox> {
    let claim = pool.claim().env("A", "b").label("a", "b");
    let claim = claim.file("/workspace/file", "text");
    claim.lifetime(Lifetime::Detached).await
}

/// What must be there before a deed begins.
async fn prepare(sandbox: &Sandbox, place: &Path, deed: &str) {
    match deed {
        "read" | "export" | "copy out" => {
            let files = sandbox.files();
            files.write("/workspace/there", data()).await.unwrap();
        }
        "copy in" => std::fs::write(place.join("there"), data()).unwrap(),
        "sweep" => {
            let (_, helper) = processes_of(sandbox).await;
            signal(helper, Signal::KILL);
            super::super::common::eventually("the helper is gone", async || {
                !super::super::common::residue::lives(helper)
            })
            .await;
        }
        _ => {}
    }
}

/// More than one chunk of everything that moves it.
fn data() -> Vec<u8> {
    vec![7; 2 << 20]
}

async fn work(sandbox: &Sandbox, place: &Path, deed: &str) -> Result<()> {
    let files = sandbox.files();
    match deed {
        "run" => {
            let line = "setsid sleep 300 & echo out";
            sandbox.shell(line).output().await.map(drop)
        }
        "feed" => {
            let mut process = sandbox.exec(["cat"]).stdin_pipe().start().await?;
            process.write_stdin("in").await?;
            process
                .signal(Signal::CONT.as_raw(), SignalScope::Tree)
                .await?;
            process.close_stdin().await?;
            process.wait().await.map(drop)
        }
        "drop" => {
            let process = sandbox.exec(["sleep", "300"]).start().await?;
            drop(process);
            Ok(())
        }
        "background" => {
            let line = "echo out; sleep 300";
            let process = sandbox.shell(line).background().start().await?;
            let exec = process.detach()?;
            sandbox.attach(&exec).await.map(drop)
        }
        "write" => files.write("/workspace/file", data()).await.map(drop),
        "read" => files.read("/workspace/there").await.map(drop),
        "export" => {
            let archive = files.export_tar("/workspace", true).await?;
            files.import_tar("/tmp", Box::pin(archive)).await
        }
        "copy in" => {
            let from = place.join("there");
            let options = CopyOptions::default();
            files
                .copy_in(from, "/workspace/copy", options)
                .await
                .map(drop)
        }
        "copy out" => {
            let options = CopyOptions::default();
            let to = place.join("copy");
            files
                .copy_out("/workspace/there", to, options)
                .await
                .map(drop)
        }
        "destroy" | "sweep" => sandbox.kill().await.map(drop),
        other => panic!("no deed {other}"),
    }
}

/// All that a helper and an agent see in one life.
async fn life(engine: &Engine, state: &Path) -> Result<()> {
    let sandbox = create(engine, Lifetime::Detached).await?;
    sandbox.exec(["cat"]).stdin("in").output().await?;
    sandbox.info().await?;
    sandbox.files().write("/workspace/file", data()).await?;
    {
        let other = open(state).await;
        let same = other.get(sandbox.id()).await?;
        same.exec(["true"]).output().await?;
        drop(same);
        other.close().await?;
    }
    // The agent sees the end of the other connection before this.
    sandbox.exec(["true"]).output().await?;
    sandbox.kill().await?;
    let pool = pool(engine).await?;
    let claimed = claim(&pool).await?;
    claimed.exec(["true"]).output().await?;
    claimed.kill().await.map(drop)
}
