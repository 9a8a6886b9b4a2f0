//! The task that fills a pool and ends what it no longer wants.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::super::phase::Seen;
use super::state::{Ending, MadeOf, Next, Place, Shared, Unwanted, Waiting};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::provider::{CreateRequest, Level, Provider as _, Secrets};
use crate::sandbox::spec::{Profile, SandboxSpec};
use crate::sandbox::state::ObservedState;
use crate::store::Begin;

/// How often it is looked whether those that wait still run, and are made of what
/// is there.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a sandbox outlives its time in the pool, should nobody end it.
const GRACE: Duration = Duration::from_mins(1);
/// How often it is tried to end one, and how long apart.
const TRIES: u32 = 3;
const BETWEEN: Duration = Duration::from_millis(200);

/// Says that the keeper is gone, also where its runtime ended it.
struct Gone(Arc<Shared>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.over.send_replace(true);
    }
}

pub(super) fn start(shared: &Arc<Shared>) {
    let gone = Gone(Arc::clone(shared));
    let work = async move { keep(&gone.0).await };
    tokio::spawn(work.in_current_span());
}

async fn keep(shared: &Arc<Shared>) {
    let mut tasks = JoinSet::new();
    let mut look = Instant::now() + LOOK_EVERY;
    let mut looking = None;
    loop {
        let until = match shared.next() {
            Next::Over => break,
            Next::End(unwanted, ending) => {
                tasks.spawn(end(ending, unwanted).in_current_span());
                continue;
            }
            Next::Make(place) => {
                tasks.spawn(make(place).in_current_span());
                continue;
            }
            Next::Wait(until) => until,
        };
        if Instant::now() >= look {
            look = Instant::now() + LOOK_EVERY;
            // One look after the other: a provider that does not answer holds up
            // looks alone.
            if looking
                .as_ref()
                .is_none_or(tokio::task::AbortHandle::is_finished)
            {
                let shared = Arc::clone(shared);
                looking = Some(tasks.spawn(async move { look_at(&shared).await }));
            }
        }
        let until = until.map_or(look, |until| until.min(look));
        tokio::select! {
            () = shared.wake.notified() => {}
            _ = tasks.join_next(), if !tasks.is_empty() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
    // Looks may still be under way.
    tasks.shutdown().await;
}

/// Makes one that waits.
async fn make(place: Place) {
    let shared = &place.0;
    match make_ahead(shared).await {
        Ok(waiting) => {
            fault_point!("pool.refill.made");
            shared.put(waiting);
            fault_point!("pool.refill.ready");
        }
        Err(error) => {
            tracing::debug!(pool = shared.name, %error, "no sandbox could be made ahead");
            shared.note_failure(error);
        }
    }
}

/// What a sandbox of this spec is made of now, and the spec with its paths
/// resolved.
pub(super) async fn made_of(shared: &Shared, filled: SandboxSpec) -> Result<(SandboxSpec, MadeOf)> {
    let filled = shared.engine.resolved(filled).await?;
    let origin = shared.provider.origin(&shared.context, &filled).await?;
    let made_of = MadeOf {
        source: filled.source.clone(),
        mounts: filled.mounts.clone(),
        origin,
    };
    Ok((filled, made_of))
}

async fn make_ahead(shared: &Shared) -> Result<Waiting> {
    fault_point!("pool.refill.begun");
    let (engine, provider, context) = (&shared.engine, &shared.provider, &shared.context);
    let filled = engine.ahead(&shared.spec, provider)?;
    // Before it is made: what changes meanwhile is found to be another thing then.
    let (filled, made_of) = made_of(shared, filled).await?;
    let id = SandboxId::random();
    // From here on its time runs, whatever the making takes.
    let since = Instant::now();
    let bound = shared.bounds.max_age + GRACE;
    let can_end = provider.claims().ttl >= Level::BestEffort;
    let request = CreateRequest {
        id: id.clone(),
        instance: engine.0.instance.clone(),
        open_files_preferred: shared.spec.resources.open_files.is_none()
            && shared.spec.profile != Profile::Strict,
        ends: can_end.then(|| engine.0.clock.now() + bound),
        spec: filled,
        secrets: Secrets::default(),
        waits: true,
    };
    let mark = engine.work_on(&id);
    let begun = engine
        .begin_create(
            context,
            provider,
            &request,
            &shared.spec,
            None,
            Some(&shared.name),
        )
        .await?;
    let record = match begun {
        Begin::New(record) | Begin::Existing(record) => record,
    };
    fault_point!("pool.refill.intended");
    match provider.create(context, &request).await {
        Ok(observed) => Ok(Waiting {
            id,
            mark,
            version: record.version,
            since,
            made_of,
            effective: observed.effective,
        }),
        Err(error) => {
            let error = error.operation("pool");
            engine.undo_create(&record, &error).await;
            Err(error)
        }
    }
}

/// Ends one that nobody wants. What cannot be ended now stays in phase `destroying`
/// for the next reconcile.
async fn end(ending: Ending, unwanted: Unwanted) {
    fault_point!("pool.end.begun");
    let mut tries = 1;
    loop {
        match unwanted.sandbox.kill().await {
            Ok(_) => return,
            // Nobody has a record of it any more.
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) if tries >= TRIES => {
                tracing::warn!(sandbox = %unwanted.sandbox.id(), kind = error.kind().code(),
                    "a sandbox that waited could not be ended; the next reconcile tries again");
                ending.note_failure(error);
                return;
            }
            Err(_) => {
                tries += 1;
                tokio::time::sleep(BETWEEN).await;
            }
        }
    }
}

/// Takes away those that a claim would refuse, so that it need not.
async fn look_at(shared: &Arc<Shared>) {
    let all = shared.waiting();
    if all.is_empty() {
        return;
    }
    let now = async {
        let filled = shared.engine.ahead(&shared.spec, &shared.provider)?;
        Ok::<_, Error>(made_of(shared, filled).await?.1)
    };
    let now = now.await;
    if let Err(error) = &now {
        // A provider that cannot be asked says nothing of what is there.
        tracing::debug!(pool = shared.name, %error, "what sandboxes are made of cannot be seen");
    }
    for (id, made_of) in all {
        let is_stale = now.as_ref().is_ok_and(|now| *now != made_of);
        if is_stale || has_stopped(shared, &id).await {
            shared.remove(&id);
        }
    }
}

async fn has_stopped(shared: &Shared, id: &SandboxId) -> bool {
    match Seen::from_answer(shared.provider.inspect(&shared.context, id).await) {
        Seen::There(observed) => observed.state != ObservedState::Running,
        Seen::Gone => true,
        Seen::Unknown(_) => false,
    }
}
