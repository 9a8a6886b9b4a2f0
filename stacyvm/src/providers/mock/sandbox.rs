//! One sandbox: its state behind one lock that is never held across a wait.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::commands::Commands;
use super::output::Exec;
use super::ports::Server;
use super::tree::{Credentials, Tree};
use super::users::{Account, Users};
use super::watch::Watcher;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ExecId, SandboxId, TenantId};
use crate::sandbox::exec::ExitStatus;

/// Finished commands that are remembered.
const MOST_FINISHED: usize = 256;
/// Processes at once, so that a scripted fork bomb cannot take the host's memory.
pub(super) const MOST_PROCESSES: usize = 4096;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Code(i32),
    Signal(i32),
    OutOfMemory,
}

impl Ended {
    /// As a shell shows it in `$?`.
    pub(super) fn shell_status(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
            Self::OutOfMemory => 137,
        }
    }

    fn status(self) -> ExitStatus {
        match self {
            Self::Code(code) => ExitStatus::Code { code },
            Self::Signal(signal) => ExitStatus::Signal { signal },
            Self::OutOfMemory => ExitStatus::OutOfMemory,
        }
    }
}

/// One line of the process table.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) parent: u32,
    pub(super) group: u32,
    pub(super) session: u32,
    pub(super) credentials: Credentials,
    pub(super) exec: ExecId,
    pub(super) argv: Vec<String>,
    pub(super) stopped: bool,
    pub(super) hangs: bool,
    /// Signals with another answer than the default: a code to end with, or nothing.
    pub(super) traps: BTreeMap<i32, Option<i32>>,
    /// Children that ended and were not waited for.
    pub(super) ended_children: BTreeMap<u32, Ended>,
    pub(super) task: Option<AbortHandle>,
}

/// What a sandbox holds.
#[derive(Debug)]
pub(super) struct State {
    pub(super) tree: Tree,
    pub(super) processes: BTreeMap<u32, Process>,
    pub(super) next_pid: u32,
    pub(super) execs: BTreeMap<ExecId, Exec>,
    /// Oldest first.
    pub(super) order: VecDeque<ExecId>,
    pub(super) ports: BTreeMap<u16, Server>,
    pub(super) watchers: BTreeMap<u64, Watcher>,
    pub(super) next_number: u64,
    pub(super) paused: bool,
    pub(super) gone: bool,
    pub(super) ends: Option<SystemTime>,
    /// When it was last in use, as far as it was looked at.
    pub(super) used: SystemTime,
    pub(super) oom_kills: u64,
    /// Whether nobody has claimed it yet.
    pub(super) waits: bool,
    /// The variables that came with its claim.
    pub(super) claimed: BTreeMap<String, String>,
}

/// What a sandbox is from its creation on.
pub(super) struct Fixed {
    pub(super) id: SandboxId,
    /// Counts the sandboxes of a mock, from 1.
    pub(super) number: u64,
    pub(super) tenant: TenantId,
    pub(super) spec: crate::sandbox::spec::SandboxSpec,
    pub(super) created: SystemTime,
    pub(super) env: BTreeMap<String, String>,
    pub(super) account: Account,
    pub(super) workdir: String,
    pub(super) users: Users,
    pub(super) commands: Arc<Commands>,
    pub(super) clock: Arc<dyn Clock>,
    /// Undelivered output that a command keeps when nobody follows it.
    pub(super) ring_bytes: usize,
}

/// One sandbox.
pub(super) struct Sandbox {
    pub(super) fixed: Fixed,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("id", &self.fixed.id)
            .finish_non_exhaustive()
    }
}

impl Sandbox {
    pub(super) fn new(fixed: Fixed, tree: Tree, ends: Option<SystemTime>, waits: bool) -> Self {
        let used = fixed.clock.now();
        Self {
            fixed,
            state: Mutex::new(State {
                tree,
                processes: BTreeMap::new(),
                next_pid: 2,
                execs: BTreeMap::new(),
                order: VecDeque::new(),
                ports: BTreeMap::new(),
                watchers: BTreeMap::new(),
                next_number: 1,
                paused: false,
                gone: false,
                ends,
                used,
                oom_kills: 0,
                waits,
                claimed: BTreeMap::new(),
            }),
            changed: watch::Sender::new(0),
        }
    }

    pub(super) fn now(&self) -> SystemTime {
        self.fixed.clock.now()
    }

    /// The state. Whoever changes what others wait for uses [`Self::change`].
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes whoever waits for a change.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = {
            let mut state = self.lock();
            self.note_use(&mut state);
            let done = change(&mut state);
            self.note_use(&mut state);
            state.tell_watchers();
            done
        };
        // After the lock is free: the closures of those who wait take it.
        self.changed.send_modify(|count| *count += 1);
        done
    }

    /// Waits until the state gives an answer. What the closure changes is told to others.
    pub(super) async fn until<T>(&self, mut answer: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let found = answer(&mut self.lock());
            if let Some(found) = found {
                self.changed.send_modify(|count| *count += 1);
                return found;
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Notes that it is in use, if something runs in it.
    fn note_use(&self, state: &mut State) {
        if !state.paused && !state.processes.is_empty() {
            state.used = self.now();
        }
    }

    /// When it ends unless it is used; none while it is in use, and where
    /// idleness does not end it.
    pub(super) fn idle_ends(&self, state: &State) -> Option<SystemTime> {
        let idle = self.fixed.spec.idle_timeout.filter(|_| !state.waits)?;
        (state.paused || state.processes.is_empty()).then(|| state.used + idle)
    }

    /// The state of a sandbox that lives.
    pub(super) fn alive(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.lock();
        if state.gone {
            return Err(gone());
        }
        Ok(state)
    }

    /// The account that a request works with.
    pub(super) fn account(&self, user: Option<&str>) -> Result<Account> {
        match user {
            Some(user) => self.fixed.users.resolve(user),
            None => Ok(self.fixed.account.clone()),
        }
    }

    /// Ends everything in it. A second call has no effect.
    pub(super) fn end(&self) {
        self.change(State::end);
    }

    /// Ends it if its time has come; tells whether it is over.
    pub(super) fn expire(&self) -> bool {
        let over = {
            let mut state = self.lock();
            self.note_use(&mut state);
            let idle = self.idle_ends(&state);
            let ends = state.ends.into_iter().chain(idle).min();
            state.gone || ends.is_some_and(|ends| ends <= self.now())
        };
        if over {
            self.end();
        }
        over
    }
}

/// The error of an ended sandbox.
pub(super) fn gone() -> Error {
    Error::new(ErrorKind::SandboxGone, "the sandbox has ended")
}

impl State {
    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Whether a process may take its next step.
    pub(super) fn may_run(&self, pid: u32) -> bool {
        !self.paused && self.processes.get(&pid).is_some_and(|p| !p.stopped)
    }

    /// The processes of a command that run now.
    pub(super) fn members(&self, exec: &ExecId) -> Vec<u32> {
        self.processes
            .iter()
            .filter(|(_, process)| process.exec == *exec)
            .map(|(pid, _)| *pid)
            .collect()
    }

    /// Takes a process out of the table. Its children get PID 1 as parent, its ports close.
    pub(super) fn finish(&mut self, pid: u32, ended: Ended) {
        let Some(process) = self.processes.remove(&pid) else {
            return;
        };
        if let Some(task) = process.task {
            task.abort();
        }
        for other in self.processes.values_mut() {
            if other.parent == pid {
                other.parent = 1;
            }
        }
        self.ports.retain(|_, server| server.owner != Some(pid));
        if ended == Ended::OutOfMemory {
            self.oom_kills += 1;
        }
        if let Some(parent) = self.processes.get_mut(&process.parent) {
            parent.ended_children.insert(pid, ended);
        }
        if let Some(exec) = self.execs.get_mut(&process.exec)
            && exec.first == pid
        {
            exec.first_ended = Some(ended);
        }
        self.settle(&process.exec);
    }

    /// Decides how a command ended, once that is certain: by its first process,
    /// or by a kill of the whole tree when nothing of the tree is left.
    pub(super) fn settle(&mut self, id: &ExecId) {
        let left = self.members(id).len();
        let Some(exec) = self.execs.get_mut(id) else {
            return;
        };
        if exec.exited.is_some() {
            return;
        }
        let status = match (exec.reason, exec.first_ended) {
            (Some(reason), Some(_)) if left == 0 => reason,
            (None, Some(ended)) => ended.status(),
            _ => return,
        };
        exec.end(status);
        self.forget_old();
    }

    /// Forgets the oldest commands that ended and have no survivors.
    fn forget_old(&mut self) {
        let finished: Vec<ExecId> = self
            .order
            .iter()
            .filter(|id| {
                self.execs
                    .get(id)
                    .is_some_and(|e| e.exited.is_some() && e.follower.is_none())
                    && self.members(id).is_empty()
            })
            .cloned()
            .collect();
        for id in finished
            .iter()
            .take(finished.len().saturating_sub(MOST_FINISHED))
        {
            self.execs.remove(id);
            self.order.retain(|other| other != id);
        }
    }

    /// Ends everything: processes, ports, files. Followers learn that the sandbox is gone.
    pub(super) fn end(&mut self) {
        if self.gone {
            return;
        }
        self.gone = true;
        for exec in self.execs.values_mut() {
            if exec.exited.is_none() {
                exec.end(ExitStatus::SandboxGone);
            }
        }
        for process in std::mem::take(&mut self.processes).into_values() {
            if let Some(task) = process.task {
                task.abort();
            }
        }
        self.ports.clear();
        self.watchers.clear();
        self.tree = Tree::new(0, SystemTime::UNIX_EPOCH);
    }
}
