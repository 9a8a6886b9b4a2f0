//! When a sandbox ends, whose it becomes, and what a look at it tells.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::sandbox::Sandbox;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::{ClaimRequest, Level};
use crate::sandbox::state::{Effective, Observed, ObservedState};

/// Gives a sandbox that waits away, once.
pub(super) fn claim(sandbox: &Arc<Sandbox>, request: &ClaimRequest) -> Result<()> {
    {
        let now = sandbox.now();
        let mut state = sandbox.lock();
        if state.paused || !state.waits {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the sandbox stands still or does not wait to be claimed",
            ));
        }
        state.waits = false;
        state.used = now;
        state.ends = request.ends;
        state.claimed.clone_from(request.env.expose());
    }
    watch_over(sandbox);
    Ok(())
}

/// Ends a sandbox when its time has come, without waiting for a call.
pub(super) fn watch_over(sandbox: &Arc<Sandbox>) {
    let weak: Weak<Sandbox> = Arc::downgrade(sandbox);
    tokio::spawn(async move {
        while let Some(sandbox) = weak.upgrade() {
            if sandbox.expire() {
                return;
            }
            let ends = {
                let state = sandbox.lock();
                let idle = sandbox.fixed.spec.idle_timeout;
                // While it is in use it is looked at again after as long.
                let idle =
                    idle.map(|idle| sandbox.idle_ends(&state).unwrap_or(sandbox.now() + idle));
                state.ends.into_iter().chain(idle).min()
            };
            let Some(ends) = ends else {
                return;
            };
            let left = ends.duration_since(sandbox.now()).unwrap_or_default();
            drop(sandbox);
            // A manual clock may stand still; then this looks again later.
            tokio::time::sleep(left.max(Duration::from_millis(10))).await;
        }
    });
}

/// What a look at it tells.
pub(super) fn observe(sandbox: &Sandbox) -> Observed {
    let state = sandbox.lock();
    Observed {
        id: sandbox.fixed.id.clone(),
        tenant: Some(sandbox.fixed.tenant.clone()),
        state: match (state.gone, state.paused) {
            (true, _) => ObservedState::Ended,
            (false, true) => ObservedState::Paused,
            (false, false) => ObservedState::Running,
        },
        created: Some(sandbox.fixed.created),
        ends: state.ends,
        idle_ends: sandbox.idle_ends(&state),
        host_pid: None,
        effective: BTreeMap::from([(
            "isolation".to_owned(),
            Effective {
                level: Level::Absent,
                value: "none".to_owned(),
            },
        )]),
    }
}
