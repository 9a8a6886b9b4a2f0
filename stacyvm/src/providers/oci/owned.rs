//! The helpers that this process started: those that wait, those that watch.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stacyvm_agent::remove;
use tokio::io::Interest;
use tokio::sync::Notify;

use super::directory::{PARKED, Sandboxes};
use super::error::io;
use super::helper::{Helper, has_ended, reap_unwatched};
use super::identities::Identities;
use super::program::Program;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SandboxId;

/// How long the next helper is not started after a create: the first command
/// of a sandbox comes at once, and a start would take processors from it.
const SETTLE: Duration = Duration::from_millis(3);

/// How often the end of a helper is looked for, and how long between two looks.
const TRIES: u32 = 10_000;
const BETWEEN: Duration = Duration::from_millis(1);

/// What starts helpers and keeps them.
#[derive(Debug)]
pub(super) struct Owned {
    program: Arc<Program>,
    sandboxes: Arc<Sandboxes>,
    identities: Identities,
    park: usize,
    /// Whether a runtime's binary makes the containers.
    bundles: bool,
    state: Mutex<State>,
    /// Has helpers that are to be started ahead started now.
    idle: Notify,
}

#[derive(Debug, Default)]
struct State {
    watching: HashMap<SandboxId, Helper>,
    parked: Vec<Helper>,
    /// Helpers that have been given up and not been waited for yet.
    ending: Vec<Ending>,
    refilling: usize,
    creates: u64,
}

/// A helper that has been given up.
#[derive(Debug)]
struct Ending {
    id: SandboxId,
    /// The name of its directory, had it not been launched.
    parked: String,
    child: Child,
}

/// The helper of a sandbox that is being made. Dropped before [`keep`](Self::keep)
/// it is given up; [`Owned::ended`] waits until it has taken everything away.
#[derive(Debug)]
pub(super) struct Making {
    owned: Arc<Owned>,
    id: SandboxId,
    /// Taken when it is kept or dropped.
    helper: Option<Helper>,
}

impl Making {
    pub(super) fn helper(&self) -> Result<&Helper> {
        self.helper.as_ref().ok_or_else(super::error::helper_gone)
    }

    /// Keeps the helper for as long as this process lives.
    pub(super) fn keep(mut self) {
        if let Some(helper) = self.helper.take() {
            let watching = &mut self.owned.state().watching;
            watching.insert(self.id.clone(), helper);
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if let Some(helper) = self.helper.take() {
            self.owned.state().give_up(self.id.clone(), helper);
        }
    }
}

/// The helper of a sandbox that this process watches, lent to one call and put
/// back afterwards: taking it away would end the sandbox.
#[derive(Debug)]
pub(super) struct Lent {
    owned: Arc<Owned>,
    id: SandboxId,
    /// Taken when it is dropped.
    helper: Option<Helper>,
}

impl Lent {
    pub(super) fn helper(&self) -> Result<&Helper> {
        self.helper.as_ref().ok_or_else(super::error::helper_gone)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(helper) = self.helper.take() {
            let watching = &mut self.owned.state().watching;
            watching.insert(self.id.clone(), helper);
        }
    }
}

/// The place of a helper that is started ahead, given back also where the
/// runtime that starts it ends first.
struct Refilling(Arc<Owned>);

impl Drop for Refilling {
    fn drop(&mut self) {
        self.0.state().refilling -= 1;
    }
}

impl State {
    fn give_up(&mut self, id: SandboxId, helper: Helper) {
        if let (parked, Some(child)) = helper.give_up() {
            self.ending.push(Ending { id, parked, child });
        }
    }
}

impl Owned {
    pub(super) fn new(
        program: Arc<Program>,
        sandboxes: Arc<Sandboxes>,
        identities: Identities,
        park: usize,
        bundles: bool,
    ) -> Self {
        Self {
            program,
            sandboxes,
            identities,
            park,
            bundles,
            state: Mutex::default(),
            idle: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A helper for a new sandbox: one that waits, else a new one, which gets
    /// ready while its launch is on the way. Tells whether it waited. `own` is
    /// which user inside must be this one.
    pub(super) fn take(
        self: &Arc<Self>,
        id: &SandboxId,
        own: Option<u32>,
    ) -> Result<(Making, bool)> {
        self.reap();
        let parked = {
            let mut state = self.state();
            state.creates += 1;
            // Those that wait have this user as nobody.
            let fits = own.is_none() || !matches!(self.identities, Identities::Delegated(_));
            if fits { state.parked.pop() } else { None }
        };
        let waited = parked.is_some();
        let helper = match parked {
            Some(helper) => helper,
            None => self.start(own)?,
        };
        let making = Making {
            owned: Arc::clone(self),
            id: id.clone(),
            helper: Some(helper),
        };
        Ok((making, waited))
    }

    /// The helper of a sandbox that this process made, if nobody else has it now.
    pub(super) fn lend(self: &Arc<Self>, id: &SandboxId) -> Option<Lent> {
        let helper = self.state().watching.remove(id)?;
        Some(Lent {
            owned: Arc::clone(self),
            id: id.clone(),
            helper: Some(helper),
        })
    }

    /// Makes what helpers of such a sandbox need of the program.
    pub(super) async fn get_ready(&self, own: Option<u32>) -> Result<()> {
        match self.identities.of_own(own) {
            Some(users) => self.program.get_ready_for(&users).await,
            None => Ok(()),
        }
    }

    /// Takes the exit status of helpers that ended, whoever ended them.
    fn reap(&self) {
        reap_unwatched();
        let mut state = self.state();
        state.watching.retain(|_, helper| !helper.reap());
        for ending in &mut state.ending {
            has_ended(&mut ending.child);
        }
    }

    fn start(self: &Arc<Self>, own: Option<u32>) -> Result<Helper> {
        let random = SandboxId::random();
        let name = format!("{PARKED}{random}");
        // Anywhere: most of them are free, and then the first look finds one.
        let start = random
            .as_str()
            .bytes()
            .fold(0_u32, |n, b| n.wrapping_mul(31).wrapping_add(b.into()));
        let identity = self.identities.take(start, own)?;
        fault_point!("create.range");
        let helper = Helper::start(
            &self.program,
            self.sandboxes.descriptor(),
            &name,
            &identity,
            self.bundles,
        )?;
        // Its end may be somebody else's doing; it must not stay a zombie.
        if let Some(end) = helper.end() {
            let owned = Arc::downgrade(self);
            tokio::spawn(async move {
                if let Ok(ready) = super::sys::register(end.as_fd(), Interest::READABLE) {
                    let _ = ready.readable().await;
                }
                match owned.upgrade() {
                    Some(owned) => owned.reap(),
                    None => reap_unwatched(),
                }
            });
        }
        Ok(helper)
    }

    /// Starts helpers ahead. From the second create on: a process that has
    /// made two sandboxes will likely make more. Not before its caller had time
    /// for a first command, or ends a sandbox, which is mostly waiting.
    pub(super) fn refill(self: &Arc<Self>) {
        {
            let mut state = self.state();
            if state.creates < 2 || state.parked.len() + state.refilling >= self.park {
                return;
            }
            state.refilling += 1;
        }
        let place = Refilling(Arc::clone(self));
        tokio::spawn(async move {
            let owned = &place.0;
            // Either way it is time.
            let _ = tokio::time::timeout(SETTLE, owned.idle.notified()).await;
            let ready = async {
                let starter = Arc::clone(owned);
                // A start blocks until the helper's program runs.
                let started = tokio::task::spawn_blocking(move || starter.start(None)).await;
                let helper = started.map_err(|e| {
                    Error::new(ErrorKind::Internal, "starting a helper stopped").source(e)
                })??;
                helper.parked().await?;
                Result::<Helper>::Ok(helper)
            };
            let ready = ready.await;
            match ready {
                Ok(helper) => owned.state().parked.push(helper),
                // The next create starts its own and tells what is wrong.
                Err(error) => tracing::debug!(%error, "no helper could be parked"),
            }
        });
    }

    /// Removes a sandbox whose helper is dead; false where a living one holds it.
    pub(super) async fn sweep(&self, name: &str) -> Result<bool> {
        super::sweep::sweep(self, name).await
    }

    pub(super) fn sandboxes(&self) -> &Sandboxes {
        &self.sandboxes
    }

    /// Removes what lies in a directory under this name, files of the users of
    /// sandboxes included. What is not there is success.
    pub(super) async fn remove_in(&self, parent: BorrowedFd<'_>, name: &str) -> Result<()> {
        if let Some(users) = self.identities.of_leftovers() {
            return Helper::remove(&self.program, parent, name, users).await;
        }
        let parent = parent
            .try_clone_to_owned()
            .map_err(|e| io("open a directory again", e))?;
        let name = std::ffi::CString::new(name)
            .map_err(|e| Error::new(ErrorKind::InvalidArgument, "a name holds a nul").source(e))?;
        let removal = tokio::task::spawn_blocking(move || remove::tree(&parent, &name)).await;
        match removal {
            Ok(removed) => removed.map_err(|e| io("remove a directory", e)),
            Err(error) => {
                Err(Error::new(ErrorKind::Internal, "removing a directory stopped").source(error))
            }
        }
    }

    /// Makes what every sandbox needs and takes it away again, as a trial.
    pub(super) async fn try_out(self: &Arc<Self>) -> Result<()> {
        let helper = self.start(None)?;
        let tried = helper.parked().await;
        let id = SandboxId::random();
        self.state().give_up(id.clone(), helper);
        self.given_up_ended(&id).await?;
        tried
    }

    /// Takes away what dead helpers left of their users' ranges.
    pub(super) fn sweep_identities(&self) {
        self.identities.sweep();
    }

    /// Says that there is time to start helpers ahead.
    pub(super) fn has_time(&self) {
        self.idle.notify_waiters();
    }

    /// Waits until helpers of this sandbox that were given up have ended, and
    /// takes away what one that was killed left.
    pub(super) async fn given_up_ended(&self, id: &SandboxId) -> Result<()> {
        reap_unwatched();
        for _ in 0..TRIES {
            let (parked, waiting) = {
                let mut state = self.state();
                let (of_it, others): (Vec<_>, Vec<_>) = std::mem::take(&mut state.ending)
                    .into_iter()
                    .partition(|ending| ending.id == *id);
                state.ending = others;
                let mut parked = Vec::new();
                for mut ending in of_it {
                    if has_ended(&mut ending.child) {
                        parked.push(ending.parked);
                    } else {
                        state.ending.push(ending);
                    }
                }
                (parked, state.ending.iter().any(|ending| ending.id == *id))
            };
            for name in parked {
                self.sweep(&name).await?;
            }
            if !waiting {
                return Ok(());
            }
            tokio::time::sleep(BETWEEN).await;
        }
        Err(
            Error::new(ErrorKind::Timeout, "the sandbox's helper does not end")
                .context("sandbox", id),
        )
    }

    /// Lets go of the helper of a sandbox that has ended, and waits for it.
    pub(super) async fn ended(&self, id: &SandboxId) -> Result<()> {
        {
            let mut state = self.state();
            if let Some(helper) = state.watching.remove(id) {
                state.give_up(id.clone(), helper);
            }
        }
        self.given_up_ended(id).await
    }
}
