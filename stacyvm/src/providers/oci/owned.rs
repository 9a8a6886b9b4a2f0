//! The helpers that this process started: those that wait, those that watch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::directory::{PARKED, Sandboxes};
use super::helper::Helper;
use super::program::Program;
use crate::error::Result;
use crate::id::SandboxId;

/// Where private ranges of users begin: above what `useradd`, `subuid` files
/// and systemd hand out (`systemd-nspawn` ends at 0x6FFF_FFFF).
const FIRST_RANGE: u32 = 0x7000_0000;
/// The number of private ranges of 65536 users.
const RANGES: u32 = 0x1000;

/// What starts helpers and keeps them.
#[derive(Debug)]
pub(super) struct Owned {
    program: Program,
    sandboxes: Arc<Sandboxes>,
    park: usize,
    /// Whether a runtime's binary makes the containers.
    bundles: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    watching: HashMap<SandboxId, Helper>,
    parked: Vec<Helper>,
    /// Helpers that have been given up and not been reaped yet.
    ending: Vec<Helper>,
    refilling: usize,
    creates: u64,
}

impl Owned {
    pub(super) fn new(
        program: Program,
        sandboxes: Arc<Sandboxes>,
        park: usize,
        bundles: bool,
    ) -> Self {
        Self {
            program,
            sandboxes,
            park,
            bundles,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A helper for a new sandbox: one that waits, else a new one, which gets
    /// ready while its launch is on the way.
    pub(super) fn take(&self) -> Result<(Helper, bool)> {
        let parked = {
            let mut state = self.state();
            state.ending.retain(|helper| !helper.reap());
            state.creates += 1;
            state.parked.pop()
        };
        match parked {
            Some(helper) => Ok((helper, true)),
            None => Ok((self.start()?, false)),
        }
    }

    fn start(&self) -> Result<Helper> {
        let random = SandboxId::random();
        let name = format!("{PARKED}{random}");
        let range = random
            .as_str()
            .bytes()
            .fold(0_u32, |n, b| n.wrapping_mul(31).wrapping_add(b.into()))
            % RANGES;
        let first = FIRST_RANGE + range * 0x1_0000;
        Helper::start(
            &self.program,
            self.sandboxes.descriptor(),
            &name,
            first,
            self.bundles,
        )
    }

    /// Starts helpers ahead. From the second create on: a process that has
    /// made two sandboxes will likely make more.
    pub(super) fn refill(self: &Arc<Self>) {
        {
            let mut state = self.state();
            if state.creates < 2 || state.parked.len() + state.refilling >= self.park {
                return;
            }
            state.refilling += 1;
        }
        let owned = Arc::clone(self);
        tokio::spawn(async move {
            let ready = async {
                let helper = owned.start()?;
                helper.parked().await?;
                Result::<Helper>::Ok(helper)
            };
            let ready = ready.await;
            let mut state = owned.state();
            state.refilling -= 1;
            match ready {
                Ok(helper) => state.parked.push(helper),
                // The next create starts its own and tells what is wrong.
                Err(error) => tracing::debug!(%error, "no helper could be parked"),
            }
        });
    }

    /// Keeps the helper of a sandbox for as long as this process lives.
    pub(super) fn watch(&self, id: SandboxId, helper: Helper) {
        self.state().watching.insert(id, helper);
    }

    /// Lets go of a helper whose sandbox has ended.
    pub(super) fn forget(&self, id: &SandboxId) {
        let mut state = self.state();
        if let Some(helper) = state.watching.remove(id)
            && !helper.reap()
        {
            state.ending.push(helper);
        }
        state.ending.retain(|helper| !helper.reap());
    }
}
