//! What makes this process the owner of attached sandboxes: a connection, which ends
//! with it however it ends.

use std::fmt;

use tokio::io::AsyncReadExt as _;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

use super::transport::{Call, Transport};
use crate::error::Result;
use crate::id::OwnerId;
use crate::wire::frame::{Kind, broke_off, broken};
use crate::wire::sandbox::{EmptyBody, OwnerReply};
use crate::wire::stream::FrameReader;
use crate::wire::{UPGRADE_OWNER, reply};

/// The connection, made when it is first needed.
#[derive(Default)]
pub(super) struct Owner(Mutex<Option<Living>>);

struct Living {
    id: OwnerId,
    held: AbortHandle,
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner").finish_non_exhaustive()
    }
}

impl Owner {
    /// Its name. One whose connection was lost is another one from then on: what was
    /// its own is gone.
    pub(super) async fn id(&self, transport: &Transport) -> Result<OwnerId> {
        let mut living = self.0.lock().await;
        if let Some(living) = living.as_ref().filter(|one| !one.held.is_finished()) {
            return Ok(living.id.clone());
        }
        let call = Call::plain("/v1/owners");
        let io = transport.switch(call, &EmptyBody {}, UPGRADE_OWNER).await?;
        let mut frames = FrameReader::new(io);
        let first = frames.next().await?.ok_or_else(broke_off)?;
        if first.kind != Kind::Head {
            return Err(broken("a connection without a head"));
        }
        let told: OwnerReply = reply(&first.payload)?;
        let mut io = frames.into_inner();
        let held = tokio::spawn(async move {
            // Nothing comes: whatever does is the end.
            let _ = io.read_u8().await;
        });
        let id = told.owner;
        *living = Some(Living {
            id: id.clone(),
            held: held.abort_handle(),
        });
        Ok(id)
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        self.held.abort();
    }
}
