//! Judging a combination of provider, runtime and host by what happens.
//!
//! A [`Check`] tries something in a [`Place`]: what a hostile command would try
//! in a sandbox. It is run twice: in the subject, where it must stay silent, and
//! by a [`Control`] in a deliberately weak place, where it must fire. A check
//! that was silent proves something only when its control fired in the same run:
//! else nobody knows whether it can fire at all.
//!
//! [`judge`] takes any list of checks; [`probes`] are the library's own, tried
//! by a small static program that needs nothing of the image. Outsiders
//! implement [`Check`], [`Control`] and [`Place`].
//!
//! ```no_run
//! use stacyvm::certify::{HostControl, Subject, judge, probes};
//!
//! # async fn example(engine: stacyvm::Engine) -> stacyvm::Result<()> {
//! let mut subject = Subject::open(&engine, None, stacyvm::SandboxSpec::host()).await?;
//! let control = HostControl::open(subject.facts()).await?;
//! subject.tell(control.facts());
//! let report = judge(&subject, &control, &probes::all()).await;
//! subject.close().await?;
//! assert_eq!(report.summary.fired, 0);
//! # Ok(())
//! # }
//! ```

mod answer;
mod bait;
mod control;
mod flood;
mod report;
mod subject;

pub mod probes;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::provider::{Capabilities, Isolation, Level, Users};
use crate::sandbox::handle::Sandbox;

pub use answer::{Answer, AttackVerdict, Attempt};
pub use bait::Facts;
pub use control::HostControl;
pub use report::{Judged, Report, Summary, judge};
pub use subject::Subject;

/// How much it means when a check fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckLevel {
    /// Something outside the sandbox was read, changed or used up.
    Isolation,
    /// Nothing outside was touched, and a flaw in what was reached could do so.
    Hardening,
    /// A right inside the sandbox alone, that commands have none of. A sandbox with
    /// [`Privileges::NamespacedRoot`](crate::sandbox::spec::Privileges) has it on
    /// purpose, and there it counts as granted.
    Inside,
}

impl CheckLevel {
    /// The level in snake case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Isolation => "isolation",
            Self::Hardening => "hardening",
            Self::Inside => "inside",
        }
    }
}

/// What a combination must claim before a check can be run on it. Where it does
/// not claim it, its capabilities say so, and there is nothing to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// Commands have users of their own, so that the kernel keeps them from the agent.
    Users,
    /// What answers system calls is Linux, not a program that behaves as it does.
    LinuxKernel,
    /// Root inside is nobody outside.
    RootMapped,
    /// Memory is limited.
    MemoryLimit,
    /// Processors are limited.
    CpuLimit,
    /// Processes are limited.
    PidsLimit,
    /// Open files are limited.
    OpenFilesLimit,
    /// The writable disk is limited.
    DiskLimit,
}

impl Need {
    /// Whether a combination claims it.
    pub fn met(self, claims: &Capabilities) -> bool {
        let level = match self {
            Self::Users => return claims.users == Users::Many,
            Self::LinuxKernel => return claims.isolation != Isolation::UserKernel,
            Self::RootMapped => claims.root_mapped,
            Self::MemoryLimit => claims.memory_limit,
            Self::CpuLimit => claims.cpu_limit,
            Self::PidsLimit => claims.pids_limit,
            Self::OpenFilesLimit => claims.open_files_limit,
            Self::DiskLimit => claims.disk_limit,
        };
        level == Level::Enforced
    }

    /// The capability in snake case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::LinuxKernel => "linux_kernel",
            Self::RootMapped => "root_mapped",
            Self::MemoryLimit => "memory_limit",
            Self::CpuLimit => "cpu_limit",
            Self::PidsLimit => "pids_limit",
            Self::OpenFilesLimit => "open_files_limit",
            Self::DiskLimit => "disk_limit",
        }
    }
}

/// What a check saw in one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It was kept out.
    Silent,
    /// It got what it should not get.
    Fired {
        /// What it saw, escaped. The same in every run on the same host.
        evidence: String,
    },
    /// It could not be tried.
    NotRun {
        /// Why.
        reason: String,
    },
}

impl Verdict {
    /// The verdict in snake case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Fired { .. } => "fired",
            Self::NotRun { .. } => "not_run",
        }
    }

    /// What it says beside its name; nothing for `silent`.
    pub fn detail(&self) -> &str {
        match self {
            Self::Silent => "",
            Self::Fired { evidence } => evidence,
            Self::NotRun { reason } => reason,
        }
    }

    pub(crate) fn not_run(reason: impl Into<String>) -> Self {
        let reason = crate::error::escape(&reason.into());
        Self::NotRun { reason }
    }
}

/// Something that is judged.
#[async_trait]
pub trait Check: Send + Sync {
    /// Its id, `family.name`, unique in a list and for ever.
    fn id(&self) -> &str;

    /// What belongs together.
    fn family(&self) -> &str {
        self.id().split('.').next().unwrap_or_default()
    }

    /// How much it means when it fires.
    fn level(&self) -> CheckLevel;

    /// What a combination must claim before this can be run on it.
    fn needs(&self) -> &[Need];

    /// What is tried, for people.
    fn tries(&self) -> &str;

    /// What it would mean if it fired, for people.
    fn means(&self) -> &str;

    /// Tries it.
    ///
    /// # Behavior
    ///
    /// - Harmless when it succeeds, and leaves nothing behind.
    /// - Whatever the place says is hostile: bounded, and parsed strictly.
    /// - An error becomes `not_run`: what broke proves nothing.
    ///
    /// # Cancellation
    ///
    /// What was started in the place ends with the place.
    async fn run(&self, place: &dyn Place) -> Verdict;
}

/// Who an attack runs as inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum User {
    /// The user of commands that name none.
    Default,
    /// User 0 inside.
    Root,
}

impl User {
    /// The user in snake case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Root => "root",
        }
    }
}

/// Where a check is run: a sandbox, or a deliberately weak place.
#[async_trait]
pub trait Place: Send + Sync {
    /// Who attacks run as here, most harmless first.
    fn users(&self) -> &[User];

    /// Runs one attack of the library's program here.
    ///
    /// # Errors
    ///
    /// Where it could not be started, and `protocol` for an answer that is none.
    async fn attack(&self, attack: &str, user: User) -> Result<Attempt>;

    /// The sandbox, for checks that work through the API; none where this is none.
    fn sandbox(&self) -> Option<&Sandbox> {
        None
    }
}

/// Runs checks in a deliberately weak place.
#[async_trait]
pub trait Control: Send + Sync {
    /// What the weak place is.
    fn name(&self) -> &str;

    /// Runs a check there: it should fire.
    async fn run(&self, check: &dyn Check) -> Verdict;
}
