//! Moving a sandbox through its life, and ending it.

use std::future::Future;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tracing::Instrument as _;

use super::Engine;
use crate::clock::{from_ms, to_ms};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::provider::Provider as _;
use crate::sandbox::handle::Sandbox;
use crate::sandbox::spec::{Lifetime, check_life};
use crate::sandbox::state::Phase;
use crate::store::{SandboxRecord, SandboxUpdate};
use crate::units::{LONGEST, format_duration, format_time};

/// Refuses a sandbox in which nothing can be changed any more, or yet.
fn check_living(record: &SandboxRecord) -> Result<()> {
    match record.phase {
        Phase::Running | Phase::Paused => Ok(()),
        Phase::Creating => Err(Error::new(
            ErrorKind::Conflict,
            format!("sandbox {} is still being made", record.id),
        )),
        Phase::Destroying | Phase::Ended | Phase::Failed => Err(Error::new(
            ErrorKind::SandboxGone,
            format!("sandbox {} has ended", record.id),
        )),
    }
}

impl Engine {
    /// Ends a sandbox, as a task of its own: once begun it is finished, even
    /// if nobody waits any more. False where it was known to have ended.
    pub(crate) async fn destroy(&self, sandbox: &Sandbox) -> Result<bool> {
        let (engine, sandbox) = (self.clone(), sandbox.clone());
        let work = async move { engine.destroy_now(&sandbox).await };
        tokio::spawn(work.in_current_span())
            .await
            .unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::Internal,
                    "the task that ends the sandbox died",
                ))
            })
            .map_err(|error| error.operation("destroy"))
    }

    async fn destroy_now(&self, sandbox: &Sandbox) -> Result<bool> {
        let (context, id) = (sandbox.context(), sandbox.id());
        let _mark = self.work_on(id);
        fault_point!("destroy.begun");
        match self.begin_destroy(context, id).await {
            Ok(record) if record.phase.is_final() => return Ok(false),
            Ok(_) => {}
            // Ending sandboxes is how room is made. Without its intent on
            // record a destroy that dies half way is one that a reconcile
            // finds as a sandbox that ended by itself.
            Err(error) if error.kind() == ErrorKind::NoSpace => {}
            Err(error) => return Err(error),
        }
        fault_point!("destroy.intended");
        sandbox.provider_to_end()?.destroy(context, id).await?;
        fault_point!("destroy.done");
        match self.finish_destroy(context, id).await {
            // Nothing is left of it, which is what was asked for; the next
            // reconcile sees that and writes it down.
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                tracing::warn!(sandbox = %id, "a sandbox was ended, but its record has no space");
                Ok(true)
            }
            done => {
                fault_point!("destroy.recorded");
                done.map(|_| true)
            }
        }
    }

    /// The record of a sandbox in which something can still be changed.
    async fn load_living(&self, sandbox: &Sandbox) -> Result<SandboxRecord> {
        let record = self.load(sandbox.context(), sandbox.id()).await?;
        check_living(&record)?;
        Ok(record)
    }

    pub(crate) async fn extend(
        &self,
        sandbox: &Sandbox,
        by: Duration,
    ) -> Result<Option<SystemTime>> {
        check_life("ttl", by)?;
        // One without an end keeps none.
        let later = |record: &SandboxRecord| Some(Some(from_ms(record.ends_ms?) + by));
        self.set_end(sandbox, Some(by), later).await
    }

    pub(crate) async fn set_ttl(
        &self,
        sandbox: &Sandbox,
        ttl: Option<Duration>,
    ) -> Result<Option<SystemTime>> {
        ttl.map_or(Ok(()), |ttl| check_life("ttl", ttl))?;
        let ends = ttl.map(|ttl| self.0.clock.now() + ttl);
        self.set_end(sandbox, ttl, |_| Some(ends)).await
    }

    /// Moves the end to a moment that somebody else chose.
    #[cfg(feature = "server")]
    pub(crate) async fn set_end_at(
        &self,
        sandbox: &Sandbox,
        ends: Option<SystemTime>,
    ) -> Result<()> {
        let asked = ends.map(|ends| ends.duration_since(self.0.clock.now()).unwrap_or_default());
        self.set_end(sandbox, asked, |_| Some(ends)).await?;
        Ok(())
    }

    /// Checks a new end against the longest life, which counts from the
    /// creation: however often it is moved, it never lies beyond. One that is
    /// no later than the present end is allowed: where the policy has become
    /// stricter since, a life can still be made shorter.
    fn check_end(
        &self,
        record: &SandboxRecord,
        asked: Option<Duration>,
        ends: Option<SystemTime>,
    ) -> Result<()> {
        let Some(max) = self.0.policy.max_ttl else {
            return Ok(());
        };
        let latest = from_ms(record.created_ms) + max.min(LONGEST);
        let present = record.ends_ms.map(from_ms);
        let allowed = present.map_or(latest, |present| present.max(latest));
        if ends.is_some_and(|ends| to_ms(ends) <= to_ms(allowed)) {
            return Ok(());
        }
        let (latest, max) = (format_time(latest), format_duration(max));
        let asked = asked.map_or_else(|| "none".to_owned(), format_duration);
        let expected = format!("an end no later than {latest}, which is {max} after its creation");
        let remedy = "ask for less, make another sandbox, or raise `policy.max_ttl`";
        Err(super::policy::denied("ttl", &asked, &expected, remedy).context("latest", latest))
    }

    /// Moves the end to where `end_of` says from the record; `None` leaves it. `asked` is what
    /// the caller said, for errors.
    ///
    /// Calls at the same time move it one after another, by the record, and each sets the
    /// provider's timer, which binds, until it is what is on record. Where it cannot be set,
    /// the record is taken back: a call that failed has changed nothing.
    async fn set_end(
        &self,
        sandbox: &Sandbox,
        asked: Option<Duration>,
        end_of: impl Fn(&SandboxRecord) -> Option<Option<SystemTime>> + Send + Sync,
    ) -> Result<Option<SystemTime>> {
        let (context, id) = (sandbox.context(), sandbox.id());
        let provider = sandbox.provider()?;
        let Some((former, ends)) = self.record_new_end(sandbox, asked, end_of).await? else {
            return Ok(None);
        };
        let mut set = ends;
        loop {
            if let Err(error) = provider.set_deadline(context, id, set.map(from_ms)).await {
                // Nobody knows whether a call was done that was not waited for.
                if !matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Cancelled) {
                    self.take_end_back(context, id, ends, former).await;
                }
                return Err(error);
            }
            match self.load(context, id).await {
                Ok(record) if record.ends_ms != set => set = record.ends_ms,
                _ => return Ok(ends.map(from_ms)),
            }
        }
    }

    /// Writes a new end, as `end_of` has it from the record that others may be moving too.
    /// Gives the former end and the new one.
    async fn record_new_end(
        &self,
        sandbox: &Sandbox,
        asked: Option<Duration>,
        end_of: impl Fn(&SandboxRecord) -> Option<Option<SystemTime>> + Send + Sync,
    ) -> Result<Option<(Option<u64>, Option<u64>)>> {
        let mut moved = None;
        let decide = |before: &SandboxRecord| {
            check_living(before)?;
            let Some(ends) = end_of(before) else {
                moved = None;
                return Ok(None);
            };
            if let Some(ends) = ends {
                let left = ends.duration_since(self.0.clock.now()).unwrap_or_default();
                if left > LONGEST {
                    check_life("ttl", left)?;
                }
            }
            self.check_end(before, asked, ends)?;
            let ends_ms = ends.map(to_ms);
            moved = Some((before.ends_ms, ends_ms));
            Ok(Some(SandboxUpdate {
                ends_ms: Some(ends_ms),
                ..SandboxUpdate::default()
            }))
        };
        let (context, id) = (sandbox.context(), sandbox.id());
        self.try_update(context, id, decide).await?;
        Ok(moved)
    }

    /// Puts the former end back on record, unless another call has moved it since.
    async fn take_end_back(
        &self,
        context: &Context,
        id: &SandboxId,
        ends: Option<u64>,
        former: Option<u64>,
    ) {
        let back = SandboxUpdate {
            ends_ms: Some(former),
            ..SandboxUpdate::default()
        };
        let back = |record: &SandboxRecord| (record.ends_ms == ends).then(|| back.clone());
        if let Err(stays) = self.update(context, id, back).await {
            tracing::warn!(sandbox = %id, error = %stays, "an end is on record that was not set");
        }
    }

    /// Has a sandbox end with this process, or with none. As the end, the provider's
    /// part comes first, and is taken back where the record cannot follow.
    pub(crate) async fn set_lifetime(&self, sandbox: &Sandbox, lifetime: Lifetime) -> Result<()> {
        let before = self.load_living(sandbox).await?.lifetime;
        if (before, lifetime) == (Lifetime::Detached, Lifetime::Detached) {
            return Ok(());
        }
        let (context, id) = (sandbox.context(), sandbox.id());
        let provider = sandbox.provider()?;
        provider.set_lifetime(context, id, lifetime).await?;
        if before == lifetime {
            return Ok(());
        }
        let update = SandboxUpdate {
            lifetime: Some(lifetime),
            ..SandboxUpdate::default()
        };
        match self.update(context, id, |_| Some(update.clone())).await {
            Ok(_) => Ok(()),
            // Nobody knows whether a write was done that was not waited for.
            Err(error) if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Cancelled) => {
                Err(error)
            }
            Err(error) => {
                if let Err(stays) = provider.set_lifetime(context, id, before).await {
                    tracing::warn!(sandbox = %id, error = %stays, "a lifetime was changed, but not recorded");
                }
                Err(error)
            }
        }
    }

    pub(crate) async fn pause(&self, sandbox: &Sandbox) -> Result<()> {
        self.load_living(sandbox).await?;
        let (context, id) = (sandbox.context(), sandbox.id());
        sandbox.provider()?.pause(context, id).await?;
        self.move_to(sandbox, Phase::Paused).await
    }

    pub(crate) async fn resume(&self, sandbox: &Sandbox) -> Result<()> {
        self.load_living(sandbox).await?;
        let (context, id) = (sandbox.context(), sandbox.id());
        sandbox.provider()?.resume(context, id).await?;
        self.move_to(sandbox, Phase::Running).await
    }

    async fn move_to(&self, sandbox: &Sandbox, phase: Phase) -> Result<()> {
        let update = SandboxUpdate {
            phase: Some(phase),
            ..SandboxUpdate::default()
        };
        self.update(sandbox.context(), sandbox.id(), |_| Some(update.clone()))
            .await?;
        Ok(())
    }
}

impl Sandbox {
    /// Runs a function with this sandbox and ends it afterwards, also when
    /// the function fails.
    ///
    /// # Errors
    ///
    /// The function's own, and then those of [`kill`](Self::kill).
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the sandbox, in a task of the runtime.
    pub async fn scope<T, F>(self, work: impl FnOnce(Self) -> F + Send) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        // The task waits for the scope to be left; a dropped future or a panic
        // leaves it as well.
        let (inside, left) = oneshot::channel::<()>();
        let sandbox = self.clone();
        let end = async move {
            let _ = left.await;
            sandbox.kill().await
        };
        let end = tokio::spawn(end.in_current_span());
        let result = work(self).await;
        drop(inside);
        let ended = end.await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Internal,
                "the task that ends the sandbox died",
            ))
        });
        let value = result?;
        ended?;
        Ok(value)
    }
}
