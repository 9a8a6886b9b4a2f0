//! What is known of a sandbox.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::id::{SandboxId, TenantId};
use crate::provider::Level;

/// Where a sandbox stands in its life. The engine alone decides it, from the
/// record and from what the provider observes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is being made.
    Creating,
    /// Commands can run.
    Running,
    /// Its processes stand still.
    Paused,
    /// It is being taken down.
    Destroying,
    /// Nothing of it is left.
    Ended,
    /// Making it failed; nothing of it is left.
    Failed,
}

impl Phase {
    /// Every phase.
    pub const ALL: &[Self] = &[
        Self::Creating,
        Self::Running,
        Self::Paused,
        Self::Destroying,
        Self::Ended,
        Self::Failed,
    ];

    /// The phase in snake case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Destroying => "destroying",
            Self::Ended => "ended",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing of the sandbox exists any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Ended | Self::Failed)
    }

    /// Whether this phase may follow `self`.
    pub fn may_become(self, next: Self) -> bool {
        use Phase::{Creating, Destroying, Ended, Failed, Paused, Running};
        match self {
            Creating => matches!(next, Running | Destroying | Failed | Ended),
            Running => matches!(next, Paused | Destroying | Ended),
            Paused => matches!(next, Running | Destroying | Ended),
            Destroying => matches!(next, Ended | Failed),
            Ended | Failed => false,
        }
    }

    /// Checks a move.
    ///
    /// # Errors
    ///
    /// `conflict` where the move is not legal.
    pub fn check_move(self, next: Self) -> Result<()> {
        if self == next || self.may_become(next) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "a sandbox that is {} cannot become {}",
                self.name(),
                next.name()
            ),
        ))
    }
}

/// What a provider sees of a sandbox. Raw state; the engine makes a
/// [`Phase`] of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The sandbox.
    pub id: SandboxId,
    /// Its tenant, where the provider keeps it.
    pub tenant: Option<TenantId>,
    /// Whether it runs.
    pub state: ObservedState,
    /// When it came to be.
    pub created: Option<SystemTime>,
    /// When it will be ended by the binding timer.
    pub ends: Option<SystemTime>,
    /// When it will be ended unless it is used; none while it is in use, and
    /// where idleness does not end it.
    pub idle_ends: Option<SystemTime>,
    /// The process number of its first process on the host, where it has one.
    pub host_pid: Option<u32>,
    /// What is in force, by the name of the need (`memory_limit`, `seccomp`, ...).
    pub effective: BTreeMap<String, Effective>,
}

impl Observed {
    /// One that runs, of which nothing else is known.
    pub fn running(id: SandboxId) -> Self {
        Self {
            id,
            tenant: None,
            state: ObservedState::Running,
            created: None,
            ends: None,
            idle_ends: None,
            host_pid: None,
            effective: BTreeMap::new(),
        }
    }
}

/// Whether a sandbox runs, as a provider sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObservedState {
    /// It runs.
    Running,
    /// Its processes stand still.
    Paused,
    /// It ended, and something of it may be left.
    Ended,
}

/// One property in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effective {
    /// How strongly it holds.
    pub level: Level,
    /// The value, for people: `512 MiB`, `default`, ...
    pub value: String,
}

/// What a sandbox uses. A provider leaves out what it cannot see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes of memory charged now.
    pub memory_bytes: Option<u64>,
    /// The most bytes of memory charged so far.
    pub memory_peak_bytes: Option<u64>,
    /// Processor time in microseconds.
    pub cpu_us: Option<u64>,
    /// Processes now.
    pub processes: Option<u32>,
    /// Bytes of writable disk used.
    pub disk_bytes: Option<u64>,
    /// Processes killed for lack of memory.
    pub oom_kills: Option<u64>,
}

/// One process inside a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its number inside.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its user inside.
    pub uid: u32,
    /// The letter of its state, as in `/proc/PID/stat`.
    pub state: String,
    /// Its argument vector; lossy text, for people.
    pub argv: Vec<String>,
    /// Resident bytes.
    pub resident_bytes: u64,
    /// Processor time in microseconds.
    pub cpu_us: u64,
    /// The command that it belongs to.
    pub exec: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_phase_has_no_successor() {
        for last in Phase::ALL.iter().filter(|p| p.is_final()) {
            assert!(Phase::ALL.iter().all(|next| !last.may_become(*next)));
        }
        assert!(Phase::Running.check_move(Phase::Creating).is_err());
        assert!(Phase::Creating.check_move(Phase::Running).is_ok());
    }
}
