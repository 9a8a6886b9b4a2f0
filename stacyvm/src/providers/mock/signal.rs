//! Signals, and the kill of a whole tree.

use std::sync::Arc;
use std::time::Duration;

use super::sandbox::{Ended, Sandbox, State, gone};
use crate::error::{Error, ErrorKind, Result};
use crate::id::ExecId;
use crate::sandbox::exec::{ExitStatus, SignalScope};

/// How long a tree may resist before its sandbox is ended.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) const KILL: i32 = 9;
const STOP: i32 = 19;
const CONTINUE: i32 = 18;

const NAMES: [(&str, i32); 10] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("KILL", KILL),
    ("USR1", 10),
    ("USR2", 12),
    ("PIPE", 13),
    ("TERM", 15),
    ("CONT", CONTINUE),
    ("STOP", STOP),
];

/// The number of a signal, given by name or number.
pub(super) fn number(text: &str) -> Option<i32> {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
        .or_else(|| text.parse().ok().filter(|n| (1..=64).contains(n)))
}

impl State {
    /// Delivers a signal to a process.
    pub(super) fn deliver(&mut self, pid: u32, signal: i32) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        let trapped = match signal {
            KILL | STOP => None,
            _ => process.traps.get(&signal).copied(),
        };
        match (signal, trapped) {
            (CONTINUE, _) => process.stopped = false,
            (_, Some(Some(code))) => self.finish(pid, Ended::Code(code & 0xff)),
            // SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU.
            (19..=22, None) => process.stopped = true,
            // Ignored; and SIGCHLD, SIGURG, SIGWINCH do nothing by default.
            (_, Some(None)) | (17 | 23 | 28, None) => {}
            _ if process.hangs => {}
            _ => self.finish(pid, Ended::Signal(signal)),
        }
    }

    /// A signal that one process sends to another, or to a group if negative.
    pub(super) fn kill_from(
        &mut self,
        sender: u32,
        target: i64,
        signal: i32,
    ) -> std::result::Result<(), &'static str> {
        let Some(uid) = self.processes.get(&sender).map(|p| p.credentials.uid) else {
            return Ok(());
        };
        if target == 1 {
            return Err("operation not permitted");
        }
        let targets: Vec<u32> = self
            .processes
            .iter()
            .filter(|(pid, process)| {
                if target < 0 {
                    i64::from(process.group) == -target
                } else {
                    i64::from(**pid) == target
                }
            })
            .map(|(pid, _)| *pid)
            .collect();
        if targets.is_empty() {
            return Err("no such process");
        }
        for pid in targets {
            let owner = self.processes.get(&pid).map(|p| p.credentials.uid);
            if uid != 0 && owner != Some(uid) {
                return Err("operation not permitted");
            }
            self.deliver(pid, signal);
        }
        Ok(())
    }
}

impl Sandbox {
    /// Sends a signal to a command.
    pub(super) fn signal(&self, exec: &ExecId, signal: i32, scope: SignalScope) -> Result<()> {
        if !(1..=64).contains(&signal) {
            return Err(Error::invalid(
                "signal",
                signal,
                "1 to 64",
                "use the number of a signal, such as 15 for SIGTERM",
            ));
        }
        self.change(|state| {
            if state.gone {
                return Err(gone());
            }
            let first = state.execs.get(exec).map(|e| e.first).ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    format!("there is no command `{exec}` in the sandbox"),
                )
            })?;
            let targets: Vec<u32> = state
                .members(exec)
                .into_iter()
                .filter(|pid| match scope {
                    SignalScope::Process => *pid == first,
                    // The first process leads its group; survivors keep its number.
                    SignalScope::Group => state.processes[pid].group == first,
                    SignalScope::Tree => true,
                })
                .collect();
            if targets.is_empty() {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    "the command has ended and none of these processes run",
                )
                .context("exec", exec));
            }
            for pid in targets {
                state.deliver(pid, signal);
            }
            Ok(())
        })
    }

    /// Kills every process of a command, whatever its parent or session. What
    /// resists for five seconds takes the sandbox with it.
    pub(super) fn kill_tree(self: &Arc<Self>, exec: &ExecId, reason: ExitStatus) {
        let resists = self.change(|state| {
            if let Some(command) = state.execs.get_mut(exec)
                && command.exited.is_none()
                && command.reason.is_none()
            {
                command.reason = Some(reason);
            }
            for pid in state.members(exec) {
                state.deliver(pid, KILL);
            }
            state.settle(exec);
            !state.members(exec).is_empty()
        });
        if !resists {
            return;
        }
        let (sandbox, exec) = (Arc::clone(self), exec.clone());
        let last = async move {
            tokio::time::sleep(PATIENCE).await;
            sandbox.change(|state| {
                if state.members(&exec).is_empty() {
                    return;
                }
                if let Some(command) = state.execs.get_mut(&exec)
                    && command.exited.is_none()
                {
                    command.end(match reason {
                        ExitStatus::TimedOut { .. } => ExitStatus::TimedOut {
                            sandbox_ended: true,
                        },
                        _ => ExitStatus::Cancelled {
                            sandbox_ended: true,
                        },
                    });
                }
                state.end();
            });
        };
        // Without a runtime nothing can wait: nothing inside runs any more either.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(last)),
            Err(_) => self.end(),
        }
    }
}
