//! A host process that is killed, and what it does.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use stacyvm::engine::Engine;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Pool, Result, Sandbox, faults};

use super::{create, open, spec, try_open};

const STATE: &str = "STACYVM_DOCKER_FAULT_STATE";
const HOST: &str = "STACYVM_DOCKER_FAULT_HOST";
const DEED: &str = "STACYVM_DOCKER_FAULT_DEED";
const POINT: &str = "STACYVM_DOCKER_FAULT_POINT";
/// Ends a deed whose host reaches agents by the engine alone.
pub(super) const INDIRECTLY: &str = " indirectly";
/// What the host says when the deed is done, and how it went.
const OUTCOME: &str = "outcome: ";

fn parameter(name: &str) -> String {
    let value = std::env::var_os(name).and_then(|v| v.into_string().ok());
    value.unwrap_or_default()
}

/// Not a test of its own: the host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entry() {
    let state = parameter(STATE);
    if state.is_empty() {
        return;
    }
    let deed = parameter(DEED);
    let (deed, direct) = match deed.strip_suffix(INDIRECTLY) {
        Some(deed) => (deed, false),
        None => (deed.as_str(), true),
    };
    let engine = try_open(Path::new(&state), &parameter(HOST), direct).await;
    let done = act(&engine.unwrap(), deed).await;
    let outcome = done.map_or_else(|error| error.to_string(), |()| "done".to_owned());
    println!("{OUTCOME}{outcome}");
    std::io::stdout().flush().unwrap();
    // It is killed, whatever became of it.
    std::future::pending::<()>().await;
}

fn arm() {
    let point = parameter(POINT);
    if !point.is_empty() {
        faults::arm(&point);
    }
}

async fn act(engine: &Engine, deed: &str) -> Result<()> {
    match deed {
        "create" | "first" => {
            arm();
            create(engine, Lifetime::Detached).await.map(drop)
        }
        "create attached" => {
            arm();
            create(engine, Lifetime::Attached).await.map(drop)
        }
        "short" | "short paused" | "long" => {
            let seconds = if deed == "long" { 600 } else { 2 };
            let spec = spec(Lifetime::Detached).ttl(Duration::from_secs(seconds));
            let sandbox = engine.create(spec).await?;
            if deed == "short paused" {
                sandbox.pause().await?;
            }
            Ok(())
        }
        "refill" => {
            arm();
            pool(engine).await.map(drop)
        }
        "claim" | "drain" => {
            let pool = pool(engine).await?;
            arm();
            if deed == "claim" {
                let claim = pool.claim().env("A", "b").file("/workspace/file", "text");
                claim.lifetime(Lifetime::Detached).await.map(drop)
            } else {
                pool.drain().await
            }
        }
        _ => {
            let sandbox = create(engine, Lifetime::Detached).await?;
            let files = sandbox.files();
            files.write("/workspace/there", data()).await?;
            arm();
            work(&sandbox, deed).await
        }
    }
}

/// A pool in which one waits.
async fn pool(engine: &Engine) -> Result<Pool> {
    let pool = engine.pool(spec(Lifetime::Detached)).size(1).await?;
    pool.filled().await?;
    Ok(pool)
}

/// More than one chunk.
fn data() -> Vec<u8> {
    vec![7; 2 << 20]
}

async fn work(sandbox: &Sandbox, deed: &str) -> Result<()> {
    let files = sandbox.files();
    match deed {
        "run" => {
            let line = "setsid sleep 300 & head -c 300000 /dev/zero";
            sandbox.shell(line).output().await.map(drop)
        }
        "background" => {
            let process = sandbox.shell("sleep 300").background().start().await?;
            process.detach().map(drop)
        }
        "ticking" => {
            let line = "trap 'exit 3' TERM; echo first; while sleep 0.1; do echo tick; done";
            let process = sandbox.shell(line).background().start().await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            process.detach().map(drop)
        }
        "write" => files.write("/workspace/file", data()).await.map(drop),
        "read" => files.read("/workspace/there").await.map(drop),
        "again" => {
            // Another process of this user, which opens a bridge of its own.
            let other = open(Path::new(&parameter(STATE)), &parameter(HOST)).await;
            let same = other.get(sandbox.id()).await?;
            same.exec(["true"]).output().await.map(drop)
        }
        "destroy" => sandbox.kill().await.map(drop),
        other => panic!("no deed {other}"),
    }
}

/// Starts a host; it begins at once.
pub(super) fn start(state: &Path, host: &str, deed: &str, point: Option<&str>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["host::entry", "--exact", "--nocapture"])
        .env(STATE, state)
        .env(HOST, host)
        .env(DEED, deed)
        .env(POINT, point.unwrap_or_default())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Waits until a host has killed itself; what it said where it has not.
pub(super) fn killed(mut child: Child) -> Result<(), String> {
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let said = stdout
        .lines()
        .map_while(std::result::Result::ok)
        .find_map(|line| Some(line.split_once(OUTCOME)?.1.to_owned()));
    let mut ours = false;
    if said.is_some() {
        // What is done behind its back may come to the point yet.
        let until = std::time::Instant::now() + Duration::from_secs(2);
        while child.try_wait().unwrap().is_none() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        ours = child.try_wait().unwrap().is_none();
        let _ = child.kill();
    }
    let status = child.wait().unwrap();
    match std::os::unix::process::ExitStatusExt::signal(&status) {
        Some(9) if !ours => Ok(()),
        _ => Err(format!("it was never there: {said:?}, {status}")),
    }
}
