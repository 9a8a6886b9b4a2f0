//! Who works on a record, and whether it still lives.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::id::InstanceId;
use crate::store::{OwnerLock, StateDir};

/// The owner that an engine is, and what it knows of other owners.
///
/// A record that is being made or taken down names its owner. One whose owner
/// is dead is finished by whoever reconciles next.
pub(super) trait Owner: Debug + Send + Sync + 'static {
    /// The engine's own name; unique in its store.
    fn name(&self) -> &str;

    /// Whether the owner of this name still lives. An error to find out counts
    /// as alive: what somebody may be working on is left alone.
    fn is_alive(&self, name: &str) -> bool;
}

/// The living owners of this process, for stores that end with it.
static LIVING: Mutex<Option<HashSet<String>>> = Mutex::new(None);

fn living() -> MutexGuard<'static, Option<HashSet<String>>> {
    LIVING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An owner that no other process can see. It lives until it is dropped.
#[derive(Debug)]
pub(super) struct LocalOwner(String);

impl LocalOwner {
    pub(super) fn new() -> Self {
        let name = format!("local-{}", InstanceId::random());
        living()
            .get_or_insert_with(HashSet::new)
            .insert(name.clone());
        Self(name)
    }
}

impl Drop for LocalOwner {
    fn drop(&mut self) {
        if let Some(names) = living().as_mut() {
            names.remove(&self.0);
        }
    }
}

impl Owner for LocalOwner {
    fn name(&self) -> &str {
        &self.0
    }

    fn is_alive(&self, name: &str) -> bool {
        living().as_ref().is_some_and(|names| names.contains(name))
    }
}

/// An owner that every process on the same state directory can see.
#[derive(Debug)]
pub(super) struct LockOwner {
    lock: OwnerLock,
    state: StateDir,
}

impl LockOwner {
    pub(super) fn acquire(state: &StateDir, instance: &InstanceId) -> Result<Self> {
        Ok(Self {
            lock: OwnerLock::acquire(state, instance)?,
            state: state.clone(),
        })
    }
}

impl Owner for LockOwner {
    fn name(&self) -> &str {
        self.lock.name()
    }

    fn is_alive(&self, name: &str) -> bool {
        OwnerLock::is_alive(&self.state, name).unwrap_or(true)
    }
}
