//! Faults of the Docker provider: whoever dies, whatever answers wrongly or fills
//! up, calls fail with a typed error in time, the next reconcile finds one sandbox
//! or none, and nothing is left behind on the engine or its host.
//!
//! Each test starts an engine of its own by `scripts/docker-host.sh`, which needs
//! root and `dockerd`; elsewhere it prints `not run`. `STACYVM_FAULT_ROUNDS` sets
//! how often each point comes (once in part where it is not set), and
//! `STACYVM_FAULT_SEED` the order and the moments.
#![cfg(all(
    target_os = "linux",
    feature = "docker",
    feature = "sqlite",
    feature = "faults"
))]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test that panics has failed, one that cannot run says why, and its settings come from the environment"
)]

mod adoption;
mod agent_killed;
mod daemon_killed;
mod decoys;
mod disk;
mod host;
mod host_killed;
mod machine;
mod misbehaving;
mod proxy;
mod residue;

use std::path::Path;
use std::time::Duration;

use stacyvm::config::Config;
use stacyvm::engine::Engine;
use stacyvm::sandbox::spec::Lifetime;
use stacyvm::{Result, Sandbox, SandboxSpec};

const IMAGE: &str = "stacyvm-test/busybox";
/// Far longer than anything here takes; only a hang gets there.
const HANGS: Duration = Duration::from_secs(50);

/// A store's engine whose default is Docker at this address.
async fn open(state: &Path, host: &str) -> Engine {
    try_open(state, host, true).await.unwrap()
}

async fn try_open(state: &Path, host: &str, direct: bool) -> Result<Engine> {
    let mut config = Config::for_state_dir(state);
    config.parked_helpers = 0;
    "docker".clone_into(&mut config.default_provider);
    let docker = config.providers.get_mut("docker").unwrap();
    docker.host = Some(host.to_owned());
    docker.direct = Some(direct);
    Engine::open(config).await
}

fn spec(lifetime: Lifetime) -> SandboxSpec {
    SandboxSpec::image(IMAGE).lifetime(lifetime)
}

async fn create(engine: &Engine, lifetime: Lifetime) -> Result<Sandbox> {
    engine.create(spec(lifetime)).await
}

/// A sandbox works if a command runs in it.
async fn works(sandbox: &Sandbox) {
    let output = soon(sandbox.exec(["echo", "well"]).output()).await.unwrap();
    assert_eq!(output.stdout_text(), "well\n");
}

/// Waits for a future that must not hang.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANGS, work).await.expect("it hangs")
}

/// Repeats a check until it holds, for at most thirty seconds: an attached
/// sandbox may outlive its owner by ten, and machines are busy.
async fn eventually(mut check: impl AsyncFnMut() -> bool) -> bool {
    let until = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        if check().await {
            return true;
        }
        if std::time::Instant::now() > until {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How often each point comes; `None` for the short form.
fn rounds() -> Option<usize> {
    let rounds = std::env::var("STACYVM_FAULT_ROUNDS").ok()?;
    Some(rounds.parse().unwrap())
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

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            let other = usize::try_from(self.below(last as u64 + 1)).unwrap();
            all.swap(last, other);
        }
    }
}
