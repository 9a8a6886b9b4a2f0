//! Giving away a sandbox that was made ahead, and what one is made from.

use std::time::Duration;

use super::life::{Life, epoch_ms, gone};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::provider::ClaimRequest;
use crate::sandbox::spec::Lifetime;

/// How long the agent of one that waits may take: one that stands still does
/// not answer at all.
const PATIENCE: Duration = Duration::from_secs(2);

impl Life {
    /// The ticket says whether the sandbox still ends with its owner, so whether the
    /// lease is renewed; the variables and the end go to the agent.
    pub(super) async fn claim(&self, id: &SandboxId, request: &ClaimRequest) -> Result<()> {
        let client = self
            .pool
            .living(id)
            .ok_or_else(|| gone(ErrorKind::SandboxGone).context("sandbox", id))?;
        let Some(mut ticket) = self.tickets.find(id)? else {
            return Err(gone(ErrorKind::NotFound).context("sandbox", id));
        };
        if !ticket.waits {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the sandbox does not wait to be claimed",
            )
            .context("sandbox", id));
        }
        ticket.waits = false;
        ticket.ends_ms = request.ends.and_then(epoch_ms);
        ticket.attached = request.lifetime == Lifetime::Attached;
        // First, so that a renewal of the lease that comes between is corrected.
        self.tickets.keep(id, &ticket)?;
        fault_point!("docker.claim.kept");
        let told = async {
            let env = request.env.expose();
            if !env.is_empty() {
                client.set_environment(env).await?;
            }
            client.set_deadline(self.told(id, &ticket)).await
        };
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(told) => told,
            Err(late) => Err(Error::new(
                ErrorKind::Unavailable,
                "the sandbox's agent does not answer",
            )
            .context("sandbox", id)
            .source(late)),
        }
    }
}
