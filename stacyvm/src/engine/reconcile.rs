//! Finishing what others left half done.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio::task::AbortHandle;

use super::Engine;
use super::phase::Seen;
use super::records::{is_of_pool, lasting};
use crate::clock::to_ms;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::provider::Provider as _;
use crate::sandbox::state::{Observed, ObservedState, Phase};
use crate::store::{JournalStep, SandboxFilter, SandboxRecord, SandboxUpdate};

const PAGE: u32 = 256;

/// How long the record of a sandbox is kept past its end: a week.
const ENDED_KEPT: Duration = Duration::from_hours(7 * 24);

/// How long a timer that runs may take to end what stands still.
const OVERDUE: Duration = Duration::from_secs(1);

/// Why sandboxes failed whose makers died.
const UNMADE: &str = "its maker died before it was made";
const UNCLAIMED: &str = "its pool's owner died before it was claimed";

/// How many records one reconcile deletes at most.
const PRUNED_AT_ONCE: u32 = 1_000;

/// What a reconcile did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reconciled {
    /// Sandboxes that were half made or half taken down by somebody who died;
    /// nothing of them is left.
    pub finished: Vec<SandboxId>,
    /// Sandboxes that ended without their record saying so.
    pub ended: Vec<SandboxId>,
    /// Sandboxes that could not be judged or taken down now, and why.
    pub postponed: Vec<(SandboxId, String)>,
}

impl Engine {
    /// Makes the records agree with what there is.
    ///
    /// # Behavior
    ///
    /// - A sandbox whose maker died before it was done is taken down: its
    ///   caller never got it.
    /// - A sandbox whose end somebody began who died is taken down.
    /// - A sandbox that its provider no longer has is recorded as ended.
    /// - A paused sandbox whose end has passed is taken down.
    /// - What a living owner works on is left alone.
    /// - What helpers that were killed left without a record is removed where
    ///   the default provider is the embedded one.
    /// - Records of sandboxes that ended more than a week ago are deleted.
    ///
    /// # Errors
    ///
    /// What the store could not do. What a provider could not do is in
    /// [`Reconciled::postponed`].
    pub async fn reconcile(&self) -> Result<Reconciled> {
        // A provider that is opened takes away what its dead helpers left; one
        // that cannot be has nothing that could be reached.
        if let Err(error) = self.0.registry.open(&self.0.default_provider).await {
            tracing::debug!(%error, "the default provider cannot be opened");
        }
        let mut done = self.finish_interrupted().await?;
        let seen = self.record_ends().await?;
        done.ended = seen.ended;
        done.postponed.extend(seen.postponed);
        let now = to_ms(self.0.clock.now());
        let old = now.saturating_sub(to_ms(UNIX_EPOCH + ENDED_KEPT));
        self.0
            .store
            .prune_sandboxes(&self.0.context, old, now, PRUNED_AT_ONCE)
            .await?;
        Ok(done)
    }

    /// Reconciles again and again for as long as the engine lives.
    pub(super) fn reconcile_every(&self, period: Duration) -> AbortHandle {
        let engine = Arc::downgrade(&self.0);
        let work = async move {
            loop {
                tokio::time::sleep(period).await;
                let Some(engine) = engine.upgrade() else {
                    return;
                };
                if let Err(error) = Engine(engine).reconcile().await {
                    tracing::warn!(kind = error.kind().code(), "a reconcile failed");
                }
            }
        };
        tokio::spawn(work).abort_handle()
    }

    /// Finishes what owners that died left half done. Cheap where there is
    /// nothing: it reads two short lists and asks no provider.
    pub(super) async fn finish_interrupted(&self) -> Result<Reconciled> {
        let mut done = Reconciled::default();
        for record in self.all_in(&[Phase::Creating, Phase::Destroying]).await? {
            if self.is_worked_on(&record) {
                continue;
            }
            match self.finish_one(&record).await {
                Ok(true) => done.finished.push(record.id),
                // Somebody else went on with it since it was read.
                Ok(false) => {}
                Err(error) => done.note(&record, &error),
            }
        }
        Ok(done)
    }

    /// Takes down a sandbox that nobody works on; false, and nothing done,
    /// where its record is not any more what was read.
    pub(super) async fn finish_one(&self, record: &SandboxRecord) -> Result<bool> {
        let context = lasting(record);
        let _mark = self.work_on(&record.id);
        let owner = self.0.owner.name().to_owned();
        // Taking the record over is conditional on its version: of several who
        // find it, one goes on.
        let failure = (record.phase == Phase::Creating).then(|| {
            if is_of_pool(record) {
                UNCLAIMED
            } else {
                UNMADE
            }
            .to_owned()
        });
        let update = SandboxUpdate {
            at_ms: to_ms(self.0.clock.now()),
            phase: Some(Phase::Destroying),
            owner: Some(owner),
            failure,
            step: Some((JournalStep::DestroyIntent, "reconcile".to_owned())),
            ..SandboxUpdate::default()
        };
        let store = &self.0.store;
        let taken = store
            .update_sandbox(&context, &record.id, record.version, &update)
            .await;
        match taken {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Conflict => return Ok(false),
            Err(error) => return Err(error),
        }
        let provider = self.0.registry.open(&record.provider).await?;
        provider.destroy(&context, &record.id).await?;
        self.finish_destroy(&context, &record.id).await?;
        Ok(true)
    }

    /// Records the end of what its provider no longer has: the part of a
    /// [`reconcile`](Self::reconcile) that tells ends by TTL and idle timeout.
    ///
    /// # Errors
    ///
    /// What the store could not do. What a provider could not do is in
    /// [`Reconciled::postponed`].
    pub async fn record_ends(&self) -> Result<Reconciled> {
        let mut done = Reconciled::default();
        for record in self.all_in(&[Phase::Running, Phase::Paused]).await? {
            match self.see(&lasting(&record), &record).await {
                Seen::There(seen) if !self.is_overdue(&seen) => {}
                Seen::Unknown(error) => done.note(&record, &error),
                Seen::There(_) | Seen::Gone => match self.record_end(&record).await {
                    Ok(()) => done.ended.push(record.id),
                    Err(error) => done.note(&record, &error),
                },
            }
        }
        Ok(done)
    }

    /// Whether the end of a sandbox has passed that stands still: where the timer is
    /// the agent's, it stands still as well.
    fn is_overdue(&self, seen: &Observed) -> bool {
        let overdue = |ends| self.0.clock.now() > ends + OVERDUE;
        seen.state == ObservedState::Paused && seen.ends.is_some_and(overdue)
    }

    /// What ended by itself may have left something; `destroy` takes it away.
    async fn record_end(&self, record: &SandboxRecord) -> Result<()> {
        let context = lasting(record);
        let _mark = self.work_on(&record.id);
        self.begin_destroy(&context, &record.id).await?;
        let provider = self.0.registry.open(&record.provider).await?;
        provider.destroy(&context, &record.id).await?;
        self.finish_destroy(&context, &record.id).await?;
        Ok(())
    }

    pub(super) async fn all_in(&self, phases: &[Phase]) -> Result<Vec<SandboxRecord>> {
        let filter = SandboxFilter {
            all_tenants: true,
            phases: phases.to_vec(),
            ..SandboxFilter::default()
        };
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let store = &self.0.store;
            let page = store
                .list_sandboxes(&self.0.context, &filter, after.as_ref(), PAGE)
                .await?;
            all.extend(page.items);
            match page.next {
                Some(last) => after = Some(last),
                None => return Ok(all),
            }
        }
    }
}

impl Reconciled {
    fn note(&mut self, record: &SandboxRecord, error: &Error) {
        // Somebody else went on with it since it was read.
        if error.kind() == ErrorKind::Conflict {
            return;
        }
        tracing::warn!(sandbox = %record.id, provider = record.provider, kind = error.kind().code(),
            "a sandbox could not be reconciled now");
        self.postponed.push((record.id.clone(), error.to_string()));
    }
}
