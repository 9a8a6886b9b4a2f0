//! One live connection for each sandbox.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::client::AgentClient;
use super::error::Closed;
use crate::error::Result;
use crate::id::SandboxId;

/// Keeps one live [`AgentClient`] for each sandbox, made on first use.
///
/// A child made by `fork` starts with an empty pool: it must never write to a
/// connection of its parent.
#[derive(Debug, Default)]
pub struct AgentPool {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The process that made the connections.
    process: u32,
    slots: HashMap<SandboxId, Arc<Slot>>,
}

/// Whoever holds the lock dials; the others wait for its result.
type Slot = tokio::sync::Mutex<Option<AgentClient>>;

impl AgentPool {
    /// An empty pool.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        if state.process != process {
            // The parent's connections are its own: closing our copies here
            // would reach into a runtime that does not run in this process.
            std::mem::forget(std::mem::take(&mut state.slots));
            state.process = process;
        }
        state
    }

    /// The live connection of a sandbox; `dial` makes one where there is none.
    /// Of several callers one dials, and the others wait for it; where it
    /// fails, the next one tries.
    ///
    /// # Errors
    ///
    /// Those of `dial`.
    ///
    /// # Cancellation
    ///
    /// Dropping the future drops `dial`; the next caller dials itself.
    pub async fn get<F>(&self, id: &SandboxId, dial: impl FnOnce() -> F) -> Result<AgentClient>
    where
        F: Future<Output = Result<AgentClient>>,
    {
        let slot = {
            let mut state = self.state();
            if let Some(slot) = state.slots.get(id) {
                slot.clone()
            } else {
                state.slots.retain(|_, slot| is_in_use(slot));
                state.slots.entry(id.clone()).or_default().clone()
            }
        };
        let mut held = slot.lock().await;
        if let Some(client) = held.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        *held = None;
        let client = dial().await?;
        *held = Some(client.clone());
        Ok(client)
    }

    /// Takes a connection that was made elsewhere, as when a sandbox is made.
    pub fn put(&self, id: &SandboxId, client: AgentClient) {
        let slot = Arc::new(Slot::new(Some(client)));
        self.state().slots.insert(id.clone(), slot);
    }

    /// The connection of a sandbox, if it is there and nobody is making it anew.
    pub fn living(&self, id: &SandboxId) -> Option<AgentClient> {
        let slot = self.state().slots.get(id).cloned()?;
        let held = slot.try_lock().ok()?;
        held.as_ref().filter(|client| !client.is_closed()).cloned()
    }

    /// Closes the connection of a sandbox that has ended: who follows something inside
    /// is told at once, also where the way to it stays open.
    pub fn end(&self, id: &SandboxId) {
        let slot = self.state().slots.remove(id);
        // Whoever dials just now finds nothing there.
        if let Some(slot) = slot
            && let Ok(held) = slot.try_lock()
            && let Some(client) = held.as_ref()
        {
            let shared = &client.owner.0;
            shared.close(Closed::gone("the sandbox was ended"));
        }
    }

    /// Drops the connection of a sandbox. It closes once nobody uses it.
    pub fn remove(&self, id: &SandboxId) {
        self.state().slots.remove(id);
    }
}

fn is_in_use(slot: &Arc<Slot>) -> bool {
    match slot.try_lock() {
        Ok(held) => {
            Arc::strong_count(slot) > 1 || held.as_ref().is_some_and(|client| !client.is_closed())
        }
        Err(_) => true,
    }
}
