//! What the engine writes down, and when.
//!
//! A create costs two writes: the intent before the first effect, the outcome
//! after the last. Whatever happens between them is found again by its phase.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use super::Engine;
use crate::clock::{from_ms, to_ms};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::layer::Layered;
use crate::provider::{CreateRequest, Provider as _};
use crate::sandbox::exec::ExecSpec;
use crate::sandbox::spec::SandboxSpec;
use crate::sandbox::state::{Observed, Phase};
use crate::store::{
    Begin, ExecRecord, JournalStep, SandboxFilter, SandboxRecord, SandboxUpdate, stored_spec,
};

/// How often a change is decided anew after another call was faster.
const ATTEMPTS: u32 = 256;

impl Engine {
    pub(super) fn now_ms(&self) -> u64 {
        to_ms(self.0.clock.now())
    }

    /// Writes the intent to make a sandbox, for a pool where one is named.
    pub(super) async fn begin_create(
        &self,
        context: &Context,
        provider: &Layered,
        request: &CreateRequest,
        asked: &SandboxSpec,
        idempotency_key: Option<String>,
        pool: Option<&str>,
    ) -> Result<Begin> {
        let runtime = provider.info().runtime;
        let store = &self.0.store;
        let now = self.now_ms();
        let mut labels = request.spec.labels.clone();
        labels.extend(pool.map(|pool| (POOL.to_owned(), pool.to_owned())));
        let record = SandboxRecord {
            id: request.id.clone(),
            tenant: context.tenant.clone(),
            provider: provider.name().to_owned(),
            digest: store.meta().digest(provider.name(), &runtime, asked),
            runtime,
            phase: Phase::Creating,
            version: 1,
            spec: stored_spec(&request.spec),
            labels,
            created_ms: now,
            updated_ms: now,
            ends_ms: request.ends.map(to_ms),
            ended_ms: None,
            lifetime: request.spec.lifetime,
            outlives_host: provider.claims().outlives_host,
            idempotency_key,
            owner: self.0.owner.name().to_owned(),
            effective: BTreeMap::new(),
            failure: None,
        };
        store.begin_create(context, &record).await
    }

    /// Writes that a sandbox was made.
    pub(super) async fn finish_create(
        &self,
        context: &Context,
        record: &SandboxRecord,
        observed: Observed,
    ) -> Result<()> {
        let update = SandboxUpdate {
            at_ms: self.now_ms(),
            phase: Some(Phase::Running),
            ends_ms: observed.ends.map(|ends| Some(to_ms(ends))),
            effective: Some(observed.effective),
            step: Some((JournalStep::Created, String::new())),
            ..SandboxUpdate::default()
        };
        self.0
            .store
            .update_sandbox(context, &record.id, record.version, &update)
            .await?;
        Ok(())
    }

    /// Takes down what a failed create may have left, and writes why it
    /// failed. What cannot be done now stays in phase `destroying` for the
    /// next reconcile.
    pub(super) async fn undo_create(&self, record: &SandboxRecord, why: &Error) {
        let context = lasting(record);
        let provider = self.0.registry.open(&record.provider).await;
        let gone = match provider {
            Ok(provider) => provider.destroy(&context, &record.id).await,
            Err(error) => Err(error),
        };
        let (phase, detail) = match &gone {
            Ok(()) => (Phase::Failed, String::new()),
            Err(error) => (Phase::Destroying, error.to_string()),
        };
        let written = self
            .update(&context, &record.id, |known| {
                (!known.phase.is_final()).then(|| SandboxUpdate {
                    phase: Some(phase),
                    failure: Some(why.to_string()),
                    step: Some((JournalStep::Failed, detail.clone())),
                    ..SandboxUpdate::default()
                })
            })
            .await;
        for error in [gone.err(), written.err()].into_iter().flatten() {
            tracing::warn!(sandbox = %record.id, provider = record.provider, kind = error.kind().code(),
                "a failed create could not be taken down or recorded; the next reconcile does it");
        }
    }

    /// Writes the intent to end a sandbox.
    pub(super) async fn begin_destroy(
        &self,
        context: &Context,
        id: &SandboxId,
    ) -> Result<SandboxRecord> {
        let owner = self.0.owner.name();
        self.update(context, id, |known| {
            (!known.phase.is_final()).then(|| SandboxUpdate {
                phase: Some(Phase::Destroying),
                owner: Some(owner.to_owned()),
                step: Some((JournalStep::DestroyIntent, String::new())),
                ..SandboxUpdate::default()
            })
        })
        .await
    }

    /// Writes that nothing of a sandbox is left. One that was never made failed.
    pub(super) async fn finish_destroy(
        &self,
        context: &Context,
        id: &SandboxId,
    ) -> Result<SandboxRecord> {
        self.update(context, id, |known| {
            (!known.phase.is_final()).then(|| SandboxUpdate {
                phase: Some(last_phase(known)),
                step: Some((JournalStep::Destroyed, String::new())),
                ..SandboxUpdate::default()
            })
        })
        .await
    }

    /// Changes a record, deciding anew while other calls are faster. `None`
    /// leaves it as it is.
    pub(super) async fn update(
        &self,
        context: &Context,
        id: &SandboxId,
        decide: impl Fn(&SandboxRecord) -> Option<SandboxUpdate> + Send + Sync,
    ) -> Result<SandboxRecord> {
        self.try_update(context, id, |known| Ok(decide(known)))
            .await
    }

    /// The same, where what is decided may be that it cannot be.
    pub(super) async fn try_update(
        &self,
        context: &Context,
        id: &SandboxId,
        mut decide: impl FnMut(&SandboxRecord) -> Result<Option<SandboxUpdate>> + Send,
    ) -> Result<SandboxRecord> {
        let store = &self.0.store;
        let mut attempt = 0;
        loop {
            let known = store.get_sandbox(context, id).await?;
            let Some(mut update) = decide(&known)? else {
                return Ok(known);
            };
            update.at_ms = self.now_ms();
            // Checked here so that a conflict below is another call, not this one.
            if let Some(phase) = update.phase {
                known.phase.check_move(phase)?;
            }
            match store
                .update_sandbox(context, id, known.version, &update)
                .await
            {
                Err(error) if error.kind() == ErrorKind::Conflict && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    /// Notes a background command in a task of its own: no caller waits for
    /// the store, and one that floods it loses notes, not memory.
    pub(crate) fn record_exec(&self, context: &Context, id: &SandboxId, spec: &ExecSpec) {
        let mut notes = Context::new(context.tenant.clone());
        notes.request_id.clone_from(&context.request_id);
        let record = ExecRecord {
            exec: spec.exec.clone(),
            sandbox: id.clone(),
            program: spec
                .argv
                .first()
                .map(|program| String::from_utf8_lossy(program).into_owned())
                .unwrap_or_default(),
            arguments: u32::try_from(spec.argv.len().saturating_sub(1)).unwrap_or(u32::MAX),
            started_ms: self.now_ms(),
            background: spec.background,
            exit: None,
            ended_ms: None,
        };
        let store = std::sync::Arc::clone(&self.0.store);
        let noted = self.0.tasks.spawn(async move {
            fault_point!("exec.noting");
            if let Err(error) = store.put_exec(&notes, &record).await {
                tracing::warn!(sandbox = %record.sandbox, exec = %record.exec,
                    kind = error.kind().code(), "a background command could not be recorded");
            }
        });
        if !noted {
            tracing::warn!(sandbox = %id, exec = %spec.exec,
                "a background command was not recorded: too much is under way");
        }
    }

    /// Finds a record by id.
    pub(super) async fn load(&self, context: &Context, id: &SandboxId) -> Result<SandboxRecord> {
        self.0.store.get_sandbox(context, id).await
    }

    /// Finds the one record whose id is or begins with this.
    pub(super) async fn find(&self, context: &Context, id: &SandboxId) -> Result<SandboxRecord> {
        let missing = match self.load(context, id).await {
            Err(error) if error.kind() == ErrorKind::NotFound => error,
            other => return other,
        };
        // What begins with `id` follows directly behind it.
        let filter = SandboxFilter::default();
        let page = self
            .0
            .store
            .list_sandboxes(context, &filter, Some(id), 2)
            .await?;
        let mut alike = page
            .items
            .into_iter()
            .filter(|record| record.id.as_str().starts_with(id.as_str()));
        match (alike.next(), alike.next()) {
            (None, _) => Err(missing),
            (Some(record), None) => Ok(record),
            (Some(one), Some(two)) => Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "{id} is the beginning of several sandboxes, among them {} and {}; give more of the id",
                    one.id, two.id
                ),
            )
            .context("sandbox", id)),
        }
    }

    /// Marks a sandbox as worked on by this engine until the mark is dropped.
    pub(super) fn work_on(&self, id: &SandboxId) -> WorkedOn {
        let mut active = self.0.active.lock().unwrap_or_else(PoisonError::into_inner);
        *active.entry(id.clone()).or_insert(0) += 1;
        WorkedOn {
            engine: self.clone(),
            id: id.clone(),
        }
    }

    /// Whether somebody alive works on a record.
    pub(super) fn is_worked_on(&self, record: &SandboxRecord) -> bool {
        if record.owner != self.0.owner.name() {
            return self.0.owner.is_alive(&record.owner);
        }
        let active = self.0.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.contains_key(&record.id)
    }
}

/// Says that this engine works on a sandbox, until it is dropped.
#[derive(Debug)]
pub(super) struct WorkedOn {
    engine: Engine,
    id: SandboxId,
}

impl Drop for WorkedOn {
    fn drop(&mut self) {
        let active = &self.engine.0.active;
        let mut active = active.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = active.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                active.remove(&self.id);
            }
        }
    }
}

/// The label of a sandbox that a pool made and nobody has claimed, with the
/// pool's name. It is taken off by the claim.
pub(super) const POOL: &str = "stacyvm.pool";

/// Whether a sandbox is one of a pool that nobody has claimed.
pub(super) fn is_of_pool(record: &SandboxRecord) -> bool {
    record.labels.contains_key(POOL)
}

/// Whether a sandbox waits in a pool. Until it is claimed it counts as being
/// made: whoever finds it without a living owner takes it down.
pub(super) fn waits(record: &SandboxRecord) -> bool {
    record.phase == Phase::Creating && is_of_pool(record)
}

/// The context of work that goes on when its caller has gone.
pub(super) fn lasting(record: &SandboxRecord) -> Context {
    Context::new(record.tenant.clone())
}

/// What a sandbox becomes when nothing of it is left.
pub(super) fn last_phase(record: &SandboxRecord) -> Phase {
    if record.failure.is_some() || record.phase == Phase::Creating {
        Phase::Failed
    } else {
        Phase::Ended
    }
}

/// The spec of a record; values that are not kept are missing.
pub(super) fn spec_of(record: &SandboxRecord) -> Result<(SandboxSpec, Vec<String>)> {
    let damaged = |error: serde_json::Error| {
        Error::new(
            ErrorKind::Corrupt,
            format!("the recorded spec of sandbox {} cannot be read", record.id),
        )
        .source(error)
    };
    let mut value = record.spec.clone();
    let mut names: Vec<String> = match value.as_object_mut().and_then(|o| o.remove("env_names")) {
        Some(names) => serde_json::from_value(names).map_err(damaged)?,
        None => Vec::new(),
    };
    let spec: SandboxSpec = serde_json::from_value(value).map_err(damaged)?;
    names.extend(spec.secrets.keys().cloned());
    names.sort();
    Ok((spec, names))
}

/// The times of a record.
pub(super) fn times(
    record: &SandboxRecord,
) -> (SystemTime, Option<SystemTime>, Option<SystemTime>) {
    (
        from_ms(record.created_ms),
        record.ends_ms.map(from_ms),
        record.ended_ms.map(from_ms),
    )
}

/// How long the maker of a sandbox with the same idempotency key is waited
/// for between two looks.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);
