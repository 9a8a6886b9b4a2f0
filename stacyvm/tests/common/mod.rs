//! What the tests of the embedded provider share.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "each test program uses a part of it"
)]

#[cfg(all(feature = "oci", feature = "image"))]
pub mod image;
pub mod pools;
pub mod residue;
#[cfg(feature = "oci")]
pub mod runtimes;

use std::path::PathBuf;
use std::time::Duration;

use stacyvm::Sandbox;
use stacyvm::SandboxSpec;
use stacyvm::config::Config;
use stacyvm::engine::Engine;
use stacyvm::provider::{Capabilities, Level, Users};
use stacyvm::sandbox::spec::Lifetime;

/// An engine with the embedded provider and a state directory of its own.
pub struct Host {
    pub engine: Engine,
    pub state: State,
}

/// A state directory that goes, with what an ordinary user may not remove of it:
/// copies of layers with owners of its range.
pub struct State(tempfile::TempDir);

/// A new state directory.
pub fn state() -> State {
    State(tempfile::tempdir().unwrap())
}

impl std::ops::Deref for State {
    type Target = tempfile::TempDir;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// Detached sandboxes of this state directory that live.
#[cfg(feature = "sqlite")]
fn left_detached(state: &std::path::Path) -> Vec<String> {
    let lives = |id: &String| {
        let lock = state.join("sandboxes").join(id).join("helper.lock");
        std::fs::File::open(lock).is_ok_and(|file| file.try_lock().is_err())
    };
    let Ok(store) = rusqlite::Connection::open(state.join("store.db")) else {
        return Vec::new();
    };
    let running =
        "SELECT id FROM sandboxes WHERE lifetime = 'detached' AND phase IN ('running', 'paused')";
    let Ok(mut statement) = store.prepare(running) else {
        return Vec::new();
    };
    let ids = statement.query_map([], |row| row.get(0));
    ids.map_or_else(|_| Vec::new(), |ids| ids.flatten().filter(lives).collect())
}

impl Drop for State {
    fn drop(&mut self) {
        // An attached one ends with its engine; one that is detached lives on in
        // a directory that is gone.
        #[cfg(feature = "sqlite")]
        if !std::thread::panicking() {
            let left = left_detached(self.0.path());
            assert!(left.is_empty(), "the test leaves these alive: {left:?}");
        }
        let mapped = self.0.path().join("images/mapped");
        let entries = std::fs::read_dir(&mapped);
        if entries.is_ok_and(|mut entries| entries.next().is_some()) {
            let mut command = std::process::Command::new("unshare");
            command.args(["--map-root-user", "--map-auto", "rm", "-rf"]);
            if let Err(error) = command.arg(&mapped).status() {
                eprintln!("{} stays: {error}", mapped.display());
            }
        }
    }
}

/// Whether this is root; else says that the test needs it.
pub fn is_root() -> bool {
    let is = rustix::process::geteuid().is_root();
    if !is {
        eprintln!("not run: what this test does to its host needs root");
    }
    is
}

/// Opens the embedded provider, or says why the test does not run.
pub async fn embedded() -> Option<Host> {
    if stacyvm_agent::AGENT.is_empty() {
        eprintln!("not run: this build carries no agent");
        return None;
    }
    let state = state();
    let engine = open(state.path().to_path_buf()).await;
    Some(Host { engine, state })
}

/// Opens an engine on a state directory.
pub async fn open(state: PathBuf) -> Engine {
    Engine::open(Config::for_state_dir(state)).await.unwrap()
}

impl Host {
    /// What the embedded provider can do for this user of this host.
    pub async fn can(&self) -> Capabilities {
        let all = self.engine.providers().await;
        let embedded = all.into_iter().find(|summary| summary.name == "oci");
        embedded.unwrap().capabilities
    }

    /// Whether sandboxes have more users than one; else says so.
    pub async fn has_users(&self) -> bool {
        let has = self.can().await.users == Users::Many;
        if !has {
            eprintln!("not run: this user has no range of ids in /etc/subuid");
        }
        has
    }

    /// Whether memory can be limited; else says so.
    pub async fn limits_memory(&self) -> bool {
        let limits = self.can().await.memory_limit == Level::Enforced;
        if !limits {
            eprintln!("not run: no cgroup of this host is this user's to limit memory with");
        }
        limits
    }

    /// A sandbox of the image `host` that ends with this process.
    pub async fn sandbox(&self) -> Sandbox {
        self.engine
            .create(SandboxSpec::host().lifetime(Lifetime::Attached))
            .await
            .unwrap()
    }
}

/// Repeats a check until it holds, for at most ten seconds.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..1000 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("after ten seconds still not: {what}");
}

/// Waits for a future for at most thirty seconds: a hang is a failure.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work)
        .await
        .expect("it hangs")
}
