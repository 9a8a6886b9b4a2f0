//! Whose sandboxes are.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::route::Call;
use crate::error::Result;
use crate::id::{SandboxId, TenantId};

/// The most that are kept.
const MOST: usize = 16_384;

/// Sandboxes that were found on record, and whose each is. What is not here is
/// looked up. An id whose record was pruned may be minted again, so that the newest
/// create says whose it is.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashMap<SandboxId, TenantId>>);

impl Known {
    fn all(&self) -> MutexGuard<'_, HashMap<SandboxId, TenantId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a sandbox is this tenant's.
    pub(super) fn note(&self, tenant: &TenantId, sandbox: &SandboxId) {
        let mut all = self.all();
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(sandbox.clone(), tenant.clone());
    }

    /// Forgets a sandbox that was ended.
    pub(super) fn forget(&self, sandbox: &SandboxId) {
        self.all().remove(sandbox);
    }

    fn has(&self, tenant: &TenantId, sandbox: &SandboxId) -> bool {
        self.all().get(sandbox) == Some(tenant)
    }
}

/// Whether a sandbox is the caller's tenant's.
pub(super) async fn is_theirs(call: &Call, id: &SandboxId) -> Result<bool> {
    let (state, context) = (&call.state, &call.context);
    if state.known.has(&context.tenant, id) {
        return Ok(true);
    }
    let found = state.engine.is_served(context, &state.provider, id).await?;
    if found {
        state.known.note(&context.tenant, id);
    }
    Ok(found)
}

/// Refuses a sandbox that is not the caller's tenant's as one that is not there.
pub(super) async fn check(call: &Call, id: &SandboxId) -> Result<()> {
    if is_theirs(call, id).await? {
        return Ok(());
    }
    Err(crate::store::no_sandbox(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_the_newest_maker_s_alone() {
        let known = Known::default();
        let [first, second] = ["first", "second"].map(|id| TenantId::new(id).unwrap());
        let id = SandboxId::random();
        known.note(&first, &id);
        assert!(known.has(&first, &id) && !known.has(&second, &id));
        known.note(&second, &id);
        assert!(known.has(&second, &id) && !known.has(&first, &id));
        known.forget(&id);
        assert!(!known.has(&second, &id));
    }
}
