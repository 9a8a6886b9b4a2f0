//! Faults of the embedded provider: whatever dies, stops or fills up, the next
//! reconcile finds one sandbox or none, and nothing is left behind.
//!
//! `STACYVM_FAULT_ROUNDS` sets how many kills each deed of a host gets, and
//! `STACYVM_FAULT_SEED` where their moments begin.
#![cfg(all(target_os = "linux", feature = "oci", feature = "sqlite"))]
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test that panics has failed, one that cannot run says why, and its settings come from the environment"
)]

#[path = "../common/mod.rs"]
mod common;

mod abuse;
mod core_dumps;
mod creates;
mod disk;
mod host_killed;
mod inside;
mod lifetimes;
#[cfg(feature = "faults")]
mod points;

use std::path::Path;

use stacyvm::config::Config;
use stacyvm::engine::Engine;
use stacyvm::provider::Level;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Sandbox, SandboxSpec};

use common::residue::Watch;

/// Tests that share a process run one by one: they count its descriptors, its
/// memory and its children.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// An engine that parks no helpers, and a watch over its state directory.
struct Ground {
    _alone: tokio::sync::MutexGuard<'static, ()>,
    engine: Engine,
    watch: Watch,
    state: tempfile::TempDir,
}

/// `None`, and a word about it, where the embedded provider cannot run.
async fn ground() -> Option<Ground> {
    let alone = ALONE.lock().await;
    let state = tempfile::tempdir().unwrap();
    let watch = Watch::begin(state.path());
    let engine = open(state.path()).await;
    Some(Ground {
        _alone: alone,
        engine,
        watch,
        state,
    })
}

/// The same, where processes can be limited and frozen.
async fn ground_with_cgroups() -> Option<Ground> {
    let ground = ground().await?;
    let all = ground.engine.providers().await;
    let embedded = all.into_iter().find(|summary| summary.name == "oci");
    if embedded.unwrap().capabilities.pids_limit != Level::Enforced {
        eprintln!("not run: no cgroup of this host is this user's to limit processes with");
        return None;
    }
    Some(ground)
}

/// An engine without parked helpers: those would look like something left.
async fn open(state: &Path) -> Engine {
    let mut config = Config::for_state_dir(state);
    config.parked_helpers = 0;
    Engine::open(config).await.unwrap()
}

impl Ground {
    async fn sandbox(&self, lifetime: Lifetime) -> Sandbox {
        let spec = SandboxSpec::host().lifetime(lifetime);
        common::soon(async { self.engine.create(spec).await })
            .await
            .unwrap()
    }
}

/// The process numbers of a sandbox's agent and helper.
async fn processes_of(sandbox: &Sandbox) -> (u32, u32) {
    let agent = sandbox.info().await.unwrap().host_pid.unwrap();
    (agent, common::residue::parent(agent))
}

/// The number on the host of a process of a sandbox.
fn outside(agent: u32, inside: u32) -> Option<u32> {
    let is_below = |pid: &str| {
        let mut at = pid.parse().ok();
        while let Some(pid) = at.filter(|pid| *pid > 1 && *pid != agent) {
            at = common::residue::parent_of(pid);
        }
        at == Some(agent)
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let found = pids.find(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("NSpid:"));
        let last = line.and_then(|line| line.split_whitespace().last());
        last == Some(inside.to_string().as_str()) && is_below(pid)
    });
    found?.parse().ok()
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A sandbox works if a command runs in it.
async fn works(sandbox: &Sandbox) {
    let output = common::soon(sandbox.exec(["echo", "well"]).output())
        .await
        .unwrap();
    assert_eq!(output.stdout_text(), "well\n");
}

/// Numbers that look random and are the same for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn seeded(salt: u64) -> Self {
        let seed = std::env::var("STACYVM_FAULT_SEED").map_or(7, |text| text.parse().unwrap());
        Self(seed ^ (salt << 32))
    }

    /// A number from 0 to one below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }
}

#[tokio::test]
async fn the_watch_sees_a_living_sandbox() {
    let Some(ground) = ground().await else { return };
    let sandbox = ground.sandbox(Lifetime::Attached).await;
    let left = ground.watch.left();
    for what in [
        "directory",
        "stacyvm-helper: open file",
        "stacyvm-agent: mount",
    ] {
        assert!(left.iter().any(|l| l.contains(what)), "{what}: {left:?}");
    }
    sandbox.kill().await.unwrap();
    let left = ground.watch.left_at_once().await;
    assert!(left.is_empty(), "{left:#?}");
}
