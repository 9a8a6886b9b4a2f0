//! Sandboxes that live and that no record names: their store was deleted.

use std::collections::BTreeSet;

use super::Engine;
use crate::error::Result;
use crate::id::SandboxId;
use crate::provider::Leftover;

/// What to do about a living sandbox without a record. `kill` finds sandboxes
/// by their records.
pub(super) const REMEDY: &str =
    "remove it by its id: no record names it, and its helper is told to end it";

impl Engine {
    /// Whether something is in the state directory of this engine, or was made
    /// by it.
    pub(super) fn is_own(&self, leftover: &Leftover) -> bool {
        if leftover.instance.as_ref() == Some(&self.0.instance) {
            return true;
        }
        match (&leftover.state_dir, &self.0.policy.state_dir) {
            (Some(theirs), Some(own)) => own.to_str() == Some(theirs),
            (None, _) => leftover.instance.is_none() && leftover.owner_lives,
            _ => false,
        }
    }

    /// The sandbox of a leftover that lives without a record. A record is
    /// written before anything is made, so that one without was lost.
    pub(super) async fn unrecorded(&self, leftover: &Leftover) -> Result<Option<SandboxId>> {
        let known = self.living_records().await?;
        Ok(self.lost(leftover, &known).cloned())
    }

    /// As [`unrecorded`](Self::unrecorded), with the records that were read.
    pub(super) fn lost<'a>(
        &self,
        leftover: &'a Leftover,
        known: &BTreeSet<String>,
    ) -> Option<&'a SandboxId> {
        let sandbox = leftover.sandbox.as_ref()?;
        let lives = leftover.owner_lives && leftover.kind == "directory";
        let is_lost = lives && self.is_own(leftover) && !known.contains(sandbox.as_str());
        is_lost.then_some(sandbox)
    }
}
