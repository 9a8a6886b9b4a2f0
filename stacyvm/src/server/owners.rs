//! Clients that sandboxes end with.
//!
//! A client that wants an attached sandbox keeps one connection for that. When it
//! ends, however that came, what was made for it is ended.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::State;
use super::answer::Body;
use super::guard;
use super::route::Call;
use super::session;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{OwnerId, SandboxId};
use crate::wire::UPGRADE_OWNER;
use crate::wire::frame::{Kind, encode};
use crate::wire::sandbox::{EmptyBody, OwnerReply};
use crate::wire::to_json;

/// The sandboxes of an owner, and in what context each was made.
type Owned = BTreeMap<SandboxId, Context>;

/// The owners whose connections live, and what is theirs.
#[derive(Debug, Default)]
pub(super) struct Owners(Mutex<HashMap<OwnerId, Owned>>);

/// Whose a sandbox is that was to be an owner's.
pub(super) enum Given {
    /// The owner's.
    Done,
    /// Another one's.
    Anothers,
    /// Nobody's: the owner's connection has ended.
    OwnerGone,
}

impl Owners {
    fn all(&self) -> MutexGuard<'_, HashMap<OwnerId, Owned>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses an owner whose connection does not live.
    pub(super) fn check(&self, owner: &OwnerId) -> Result<()> {
        if self.all().contains_key(owner) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NotFound,
            format!("there is no owner {owner}, expected one whose connection lives"),
        )
        .context("field", "owner"))
    }

    /// Notes that a sandbox, which was made, is this owner's, unless it is
    /// another one's.
    pub(super) fn give(&self, owner: &OwnerId, sandbox: &SandboxId, context: &Context) -> Given {
        let mut all = self.all();
        let mut others = all.iter().filter(|(id, _)| *id != owner);
        if others.any(|(_, owned)| owned.contains_key(sandbox)) {
            return Given::Anothers;
        }
        match all.get_mut(owner) {
            Some(owned) => {
                owned.insert(sandbox.clone(), context.clone());
                Given::Done
            }
            None => Given::OwnerGone,
        }
    }

    /// Forgets a sandbox that was ended.
    pub(super) fn forget(&self, sandbox: &SandboxId) {
        for owned in self.all().values_mut() {
            owned.remove(sandbox);
        }
    }
}

/// An owner as long as its connection lives. What is its own is ended after that,
/// in a task of the runtime.
struct Living {
    state: Arc<State>,
    id: OwnerId,
}

impl Living {
    fn new(state: Arc<State>) -> Self {
        let id = OwnerId::random();
        state.owners.all().insert(id.clone(), Owned::new());
        Self { state, id }
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        let owned = self.state.owners.all().remove(&self.id).unwrap_or_default();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        for (sandbox, context) in owned {
            let state = Arc::clone(&self.state);
            runtime.spawn(async move { end(&state, &context, &sandbox).await });
        }
    }
}

/// Ends a sandbox whose owner is gone.
pub(super) async fn end(state: &State, context: &Context, sandbox: &SandboxId) {
    let ended = state
        .engine
        .destroy_served(context, &state.provider, sandbox)
        .await;
    if let Err(error) = ended {
        tracing::warn!(%sandbox, %error, "a sandbox whose owner is gone could not be ended");
    }
}

/// Serves the connection of an owner.
pub(super) async fn own(mut call: Call) -> Result<Response<Body>> {
    let taken = session::take(&call.state, &mut call.request, UPGRADE_OWNER)?;
    let EmptyBody {} = guard::body(call.request).await?;
    let living = Living::new(Arc::clone(&call.state));
    let owner = living.id.clone();
    let head = encode(Kind::Head, &to_json(&OwnerReply { owner })?);
    Ok(
        taken.answer(&call.state, UPGRADE_OWNER, |mut io| async move {
            let _living = living;
            if io.write_all(&head).await.is_err() || io.flush().await.is_err() {
                return;
            }
            // Whatever comes, and any failure, is the end.
            let _ = io.read_u8().await;
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_one_living_owner_s() {
        let owners = Owners::default();
        let [first, second, gone] = [(); 3].map(|()| OwnerId::random());
        for living in [&first, &second] {
            owners.all().insert(living.clone(), Owned::new());
        }
        let (context, sandbox) = (Context::default(), SandboxId::random());
        let give = |owner| owners.give(owner, &sandbox, &context);
        assert!(matches!(give(&gone), Given::OwnerGone));
        assert!(owners.check(&gone).is_err() && owners.check(&first).is_ok());
        assert!(matches!(give(&first), Given::Done));
        // The same again is a repeated request.
        assert!(matches!(give(&first), Given::Done));
        for other in [&second, &gone] {
            assert!(matches!(give(other), Given::Anothers));
        }
        owners.forget(&sandbox);
        assert!(matches!(give(&second), Given::Done));
    }
}
