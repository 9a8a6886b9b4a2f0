//! Sandboxes that end with this process though it need not have made them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use stacyvm_agent::helper_protocol::{FromHelper, MonitorRequest};
use tokio::net::UnixStream;

use super::program::unexpected;
use super::{Oci, error, monitor};
use crate::error::Result;
use crate::id::SandboxId;

/// The connections with whose end the sandboxes end. They need no runtime, which may
/// end before this process does.
#[derive(Debug, Default)]
pub(super) struct Ownership(Mutex<HashMap<SandboxId, std::os::unix::net::UnixStream>>);

impl Ownership {
    fn all(&self) -> MutexGuard<'_, HashMap<SandboxId, std::os::unix::net::UnixStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, id: &SandboxId, connection: UnixStream) -> std::io::Result<()> {
        let connection = connection.into_std()?;
        let mut all = self.all();
        // Those of sandboxes that ended by themselves: nothing is sent but the end.
        all.retain(|_, one| {
            let mut byte = [0];
            let peeked = rustix::net::recv(
                &*one,
                &mut byte[..],
                rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT,
            );
            matches!(
                peeked,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR)
            )
        });
        all.insert(id.clone(), connection);
        Ok(())
    }

    /// Lets go of one that has ended, or ends with nobody.
    pub(super) fn forget(&self, id: &SandboxId) {
        self.all().remove(id);
    }
}

impl Oci {
    /// Has a sandbox end with this process, or with none.
    pub(super) async fn attach_to_this_process(
        &self,
        id: &SandboxId,
        attached: bool,
    ) -> Result<()> {
        let directory = self.sandboxes.find(id)?;
        let request = MonitorRequest::SetAttached { attached };
        let Some((reply, connection)) = monitor::ask_and_stay(&directory, request).await? else {
            return Err(monitor::unreached(&directory).await);
        };
        match reply {
            // The one that it ended with before is closed now, and means nothing any more.
            FromHelper::Done if attached => self
                .ownership
                .keep(id, connection)
                .map_err(|e| error::io("keep a connection to the helper", e)),
            FromHelper::Done => {
                self.ownership.forget(id);
                Ok(())
            }
            _ => Err(unexpected()),
        }
    }
}
