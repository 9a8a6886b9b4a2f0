//! What the handles, the claims and the keeper of a pool share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::super::Engine;
use super::super::records::WorkedOn;
use super::PoolStats;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;
use crate::layer::Layered;
use crate::sandbox::handle::Sandbox;
use crate::sandbox::spec::{Mount, SandboxSpec, Source};
use crate::sandbox::state::Effective;

/// How long after a claim the next one is not made yet: the first command comes
/// at once, and a create would take processors from it.
const SETTLE: Duration = Duration::from_millis(12);
/// How long it is not tried again after a first failure, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How much a pool is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) size: usize,
    pub(super) max_age: Duration,
    pub(super) refill_at_once: usize,
}

/// One pool.
#[derive(Debug)]
pub(in super::super) struct Shared {
    /// Random; the value of the label.
    pub(super) name: String,
    pub(super) engine: Engine,
    pub(super) provider: Arc<Layered>,
    /// The tenant's, without a deadline.
    pub(super) context: Context,
    pub(super) spec: SandboxSpec,
    pub(super) bounds: Bounds,
    state: Mutex<State>,
    /// Has the keeper look.
    pub(super) wake: Notify,
    /// Has those look who wait until the pool is full.
    changed: watch::Sender<u64>,
    /// Whether the keeper is gone.
    pub(super) over: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    /// Oldest first.
    ready: VecDeque<Waiting>,
    making: usize,
    claiming: usize,
    /// What the keeper is to end.
    unwanted: Vec<Unwanted>,
    ending: usize,
    draining: bool,
    counts: Counts,
    last_error: Option<Arc<Error>>,
    failures: u32,
    /// Nothing is made before.
    not_before: Option<Instant>,
    /// Why one could not be ended.
    stays: Option<Error>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    warm: u64,
    cold: u64,
    made: u64,
    replaced: u64,
    failed: u64,
}

/// A sandbox that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: SandboxId,
    /// Says that somebody alive works on it.
    pub(super) mark: WorkedOn,
    /// Of its record.
    pub(super) version: u64,
    pub(super) since: Instant,
    pub(super) made_of: MadeOf,
    pub(super) effective: BTreeMap<String, Effective>,
}

/// What a sandbox is made of: paths with their links resolved, and what the
/// provider saw there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MadeOf {
    pub(super) source: Source,
    pub(super) mounts: Vec<Mount>,
    pub(super) origin: String,
}

/// A sandbox that is to end.
#[derive(Debug)]
pub(super) struct Unwanted {
    pub(super) sandbox: Sandbox,
    pub(super) _mark: Option<WorkedOn>,
}

/// A place for one that is being made, given back however the making ends.
#[derive(Debug)]
pub(super) struct Place(pub(super) Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.change(|state| state.making -= 1);
    }
}

/// A claim under way.
pub(super) struct Claiming(Arc<Shared>);

impl Drop for Claiming {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.claiming -= 1;
        let is_awaited = state.draining;
        drop(state);
        if is_awaited {
            self.0.wake.notify_one();
        }
    }
}

/// An end under way.
#[derive(Debug)]
pub(super) struct Ending(Arc<Shared>);

impl Ending {
    pub(super) fn note_failure(&self, error: Error) {
        self.0.change(|state| state.stays = Some(error));
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.change(|state| state.ending -= 1);
    }
}

/// A sandbox that a claim has taken: the keeper ends it unless it is given away.
pub(super) struct Taken {
    shared: Arc<Shared>,
    waiting: Option<Waiting>,
}

impl Taken {
    pub(super) fn get(&self) -> Result<&Waiting> {
        self.waiting
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "it was given away already"))
    }

    /// It is somebody's now.
    pub(super) fn given(mut self) {
        self.waiting = None;
        self.shared.state().counts.warm += 1;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.shared.replace(waiting);
        }
    }
}

/// What the keeper does next.
#[derive(Debug)]
pub(super) enum Next {
    /// Ends this one.
    End(Unwanted, Ending),
    /// Makes one.
    Make(Place),
    /// Waits until it is woken, or until then.
    Wait(Option<Instant>),
    /// Nothing is left, and nothing comes.
    Over,
}

impl Shared {
    pub(super) fn new(
        engine: Engine,
        provider: Arc<Layered>,
        context: Context,
        spec: SandboxSpec,
        bounds: Bounds,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: SandboxId::random().to_string(),
            engine,
            provider,
            context,
            spec,
            bounds,
            state: Mutex::default(),
            wake: Notify::new(),
            changed: watch::Sender::new(0),
            over: watch::Sender::new(false),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and has everybody look.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = change(&mut self.state());
        self.wake.notify_one();
        self.changed.send_modify(|count| *count += 1);
        done
    }

    pub(super) fn handle(&self, id: SandboxId) -> Sandbox {
        self.engine
            .handle(Arc::clone(&self.provider), id, self.context.clone())
    }

    pub(super) fn stats(&self) -> PoolStats {
        let state = self.state();
        PoolStats {
            size: self.bounds.size,
            ready: state.ready.len(),
            making: state.making,
            warm: state.counts.warm,
            cold: state.counts.cold,
            made: state.counts.made,
            replaced: state.counts.replaced,
            failed: state.counts.failed,
            last_error: state.last_error.as_ref().map(ToString::to_string),
            drained: state.draining,
        }
    }

    /// Begins a claim, which a drain waits for.
    pub(super) fn begin_claim(self: &Arc<Self>) -> Result<Claiming> {
        let mut state = self.state();
        if state.draining {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the pool was drained, expected one that is open; make another one",
            ));
        }
        state.claiming += 1;
        Ok(Claiming(Arc::clone(self)))
    }

    /// Takes the oldest that waits and is not too old: nobody else gets it. The
    /// keeper learns of it when it is woken: waking a thread takes time, which a
    /// claim spends when it waits itself.
    pub(super) fn take(self: &Arc<Self>) -> Option<Taken> {
        let now = Instant::now();
        let mut state = self.state();
        let state = &mut *state;
        let taken = loop {
            let waiting = state.ready.pop_front()?;
            if now.duration_since(waiting.since) < self.bounds.max_age {
                break waiting;
            }
            self.discard(state, waiting);
        };
        // One that was not over yet is not begun anew, so that claims without
        // a pause do not keep the pool empty.
        if state.not_before.is_none_or(|until| until <= now) && !state.ready.is_empty() {
            state.not_before = Some(now + SETTLE);
        }
        Some(Taken {
            shared: Arc::clone(self),
            waiting: Some(taken),
        })
    }

    pub(super) fn note_cold(&self) {
        self.change(|state| state.counts.cold += 1);
    }

    /// Has the keeper end one that waited.
    pub(super) fn replace(&self, waiting: Waiting) {
        self.change(|state| self.discard(state, waiting));
    }

    fn discard(&self, state: &mut State, waiting: Waiting) {
        state.counts.replaced += 1;
        state.unwanted.push(self.unwanted(waiting));
    }

    fn unwanted(&self, waiting: Waiting) -> Unwanted {
        Unwanted {
            sandbox: self.handle(waiting.id),
            _mark: Some(waiting.mark),
        }
    }

    /// Has the keeper end one that a claim made and gave up.
    pub(super) fn give_up(&self, sandbox: Sandbox) {
        self.change(|state| {
            state.unwanted.push(Unwanted {
                sandbox,
                _mark: None,
            });
        });
    }

    /// Keeps what was made, unless nobody wants it any more.
    pub(super) fn put(&self, waiting: Waiting) {
        self.change(|state| {
            state.counts.made += 1;
            state.failures = 0;
            state.last_error = None;
            if state.draining {
                let unwanted = self.unwanted(waiting);
                state.unwanted.push(unwanted);
            } else {
                state.ready.push_back(waiting);
            }
        });
    }

    pub(super) fn note_failure(&self, error: Error) {
        self.change(|state| {
            state.counts.failed += 1;
            state.last_error = Some(Arc::new(error));
            let pause = FIRST_PAUSE.saturating_mul(1 << state.failures.min(16));
            state.not_before = Some(Instant::now() + pause.min(LONGEST_PAUSE));
            state.failures = state.failures.saturating_add(1);
        });
    }

    /// Those that wait, with what they are made of.
    pub(super) fn waiting(&self) -> Vec<(SandboxId, MadeOf)> {
        let state = self.state();
        let all = state.ready.iter();
        all.map(|w| (w.id.clone(), w.made_of.clone())).collect()
    }

    /// Takes one that turned out to be unfit away from those that wait.
    pub(super) fn remove(&self, id: &SandboxId) {
        self.change(|state| {
            if let Some(index) = state.ready.iter().position(|w| w.id == *id)
                && let Some(waiting) = state.ready.remove(index)
            {
                self.discard(state, waiting);
            }
        });
    }

    /// What the keeper does now.
    pub(super) fn next(self: &Arc<Self>) -> Next {
        let now = Instant::now();
        let mut state = self.state();
        let state = &mut *state;
        let age = self.bounds.max_age;
        while let Some(oldest) = state.ready.front()
            && (state.draining || now.duration_since(oldest.since) >= age)
            && let Some(waiting) = state.ready.pop_front()
        {
            if state.draining {
                let unwanted = self.unwanted(waiting);
                state.unwanted.push(unwanted);
            } else {
                self.discard(state, waiting);
            }
        }
        if let Some(unwanted) = state.unwanted.pop() {
            state.ending += 1;
            return Next::End(unwanted, Ending(Arc::clone(self)));
        }
        if state.draining {
            let idle = state.making == 0 && state.claiming == 0 && state.ending == 0;
            return if idle { Next::Over } else { Next::Wait(None) };
        }
        let bounds = &self.bounds;
        let wanted =
            state.ready.len() + state.making < bounds.size && state.making < bounds.refill_at_once;
        let pause = state.not_before.filter(|until| *until > now);
        if wanted && pause.is_none() {
            state.making += 1;
            return Next::Make(Place(Arc::clone(self)));
        }
        let oldest = state.ready.front().map(|oldest| oldest.since + age);
        Next::Wait(pause.filter(|_| wanted).into_iter().chain(oldest).min())
    }

    pub(super) async fn filled(&self) -> Result<()> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            {
                let state = self.state();
                if state.draining {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        "the pool was drained, expected one that is open; make another one",
                    ));
                }
                if state.ready.len() >= self.bounds.size {
                    return Ok(());
                }
                if let Some(error) = &state.last_error {
                    let told = format!("the pool cannot be filled: {error}");
                    let mut told = Error::new(error.kind(), told).retry(error.retryable());
                    for (name, value) in error.facts() {
                        told = told.context(name, value);
                    }
                    return Err(told.source(Arc::clone(error)));
                }
            }
            // The sender is part of `self`.
            let _ = changed.changed().await;
        }
    }

    pub(super) fn begin_drain(&self) {
        self.change(|state| state.draining = true);
    }

    pub(in super::super) async fn drain(&self) -> Result<()> {
        self.begin_drain();
        // The sender is part of `self`.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
        self.state().stays.take().map_or(Ok(()), Err)
    }
}
