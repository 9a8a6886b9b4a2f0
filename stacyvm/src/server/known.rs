//! Whose sandboxes are.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::route::Call;
use crate::error::Result;
use crate::id::{SandboxId, TenantId};

/// The most that are kept.
const MOST: usize = 16_384;

/// Sandboxes that were found on record as their tenant's. An id never becomes
/// another tenant's, so what is here holds; what is not is looked up.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashSet<(TenantId, SandboxId)>>);

impl Known {
    fn all(&self) -> MutexGuard<'_, HashSet<(TenantId, SandboxId)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a sandbox is this tenant's.
    pub(super) fn note(&self, tenant: &TenantId, sandbox: &SandboxId) {
        let mut all = self.all();
        if all.len() >= MOST {
            all.clear();
        }
        all.insert((tenant.clone(), sandbox.clone()));
    }

    fn has(&self, tenant: &TenantId, sandbox: &SandboxId) -> bool {
        self.all().contains(&(tenant.clone(), sandbox.clone()))
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
