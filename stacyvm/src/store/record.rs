//! The records.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{ExecId, SandboxId, TenantId};
use crate::sandbox::exec::ExitStatus;
use crate::sandbox::spec::Lifetime;
use crate::sandbox::state::{Effective, Phase};

/// What is known of one sandbox. Times are milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Its id.
    pub id: SandboxId,
    /// Its tenant.
    pub tenant: TenantId,
    /// The provider that makes it, as configured.
    pub provider: String,
    /// The runtime below.
    pub runtime: String,
    /// Where it stands.
    pub phase: Phase,
    /// Counts changes, from 1. The store alone sets it.
    pub version: u64,
    /// What was asked for, without values that may be secret: from
    /// [`stored_spec`](super::stored_spec).
    pub spec: serde_json::Value,
    /// The keyed digest of all that was asked for, values included: from
    /// [`StoreMeta::digest`](super::StoreMeta::digest).
    pub digest: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was asked for.
    pub created_ms: u64,
    /// When it last changed.
    pub updated_ms: u64,
    /// When its life ends by its TTL.
    pub ends_ms: Option<u64>,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// Whether it ends with its owner.
    pub lifetime: Lifetime,
    /// Whether it goes on when this host loses its power, so that its record
    /// must be on the disk before anything is done.
    pub outlives_host: bool,
    /// The caller's name of this request, unique in a tenant.
    pub idempotency_key: Option<String>,
    /// The name of its owner's lock: see [`OwnerLock`](super::OwnerLock).
    pub owner: String,
    /// What is in force.
    pub effective: BTreeMap<String, Effective>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// What became of a wish to create.
#[derive(Clone, Debug, PartialEq)]
pub enum Begin {
    /// It was recorded and is the caller's to make.
    New(SandboxRecord),
    /// The same request was made before: this is its sandbox.
    Existing(SandboxRecord),
}

/// A change of a sandbox. What is `None` or empty stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SandboxUpdate {
    /// When the change happens.
    pub at_ms: u64,
    /// Its next phase. A final one sets `ended_ms`.
    pub phase: Option<Phase>,
    /// When its life ends; `Some(None)` removes the end.
    pub ends_ms: Option<Option<u64>>,
    /// What is in force.
    pub effective: Option<BTreeMap<String, Effective>>,
    /// Its labels, all of them.
    pub labels: Option<BTreeMap<String, String>>,
    /// Whether it ends with its owner, where that is changed later.
    pub lifetime: Option<Lifetime>,
    /// What was asked for, where that is settled after it was made.
    pub asked: Option<Asked>,
    /// Its new owner's lock.
    pub owner: Option<String>,
    /// Why it failed.
    pub failure: Option<String>,
    /// What the journal says of it: a step and free text.
    pub step: Option<(JournalStep, String)>,
    /// What it holds on the host from now on, or no longer.
    pub resources: Vec<Resource>,
}

/// What was asked for, as a record keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// From [`stored_spec`](super::stored_spec).
    pub spec: serde_json::Value,
    /// From [`StoreMeta::digest`](super::StoreMeta::digest).
    pub digest: String,
    /// Whether it ends with its owner.
    pub lifetime: Lifetime,
}

/// Which sandboxes to list. What is `None` or empty does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxFilter {
    /// Those of every tenant; for reconcilers and operators.
    pub all_tenants: bool,
    /// Those in one of these phases.
    pub phases: Vec<Phase>,
    /// Those with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Those of one provider.
    pub provider: Option<String>,
    /// Those of one owner.
    pub owner: Option<String>,
}

impl SandboxFilter {
    /// Whether a record is among those asked for; the tenant is not looked at.
    pub(super) fn matches(&self, record: &SandboxRecord) -> bool {
        let among = |wish: &Option<String>, is: &str| wish.as_deref().is_none_or(|w| w == is);
        (self.phases.is_empty() || self.phases.contains(&record.phase))
            && self
                .labels
                .iter()
                .all(|(k, v)| record.labels.get(k) == Some(v))
            && among(&self.provider, &record.provider)
            && among(&self.owner, &record.owner)
    }
}

/// Part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T, C> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins: give it as `after`. `None` at the end.
    pub next: Option<C>,
}

impl<T, C> Page<T, C> {
    /// Makes a page of at most `limit` of `items`, of which one more than that
    /// was looked up if there is one.
    pub(super) fn cut(mut items: Vec<T>, limit: usize, cursor: impl Fn(&T) -> C) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(cursor);
        Self { items, next }
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($(#[$each:meta])* $name:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $type { $($(#[$each])* $name,)* }

        impl $type {
            /// The word in snake case.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            #[cfg(feature = "sqlite")]
            pub(super) fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

words! {
    /// What the journal tells of.
    JournalStep {
        /// It is about to be made.
        CreateIntent = "create_intent",
        /// It was made.
        Created = "created",
        /// It is about to be ended.
        DestroyIntent = "destroy_intent",
        /// Nothing of it is left.
        Destroyed = "destroyed",
        /// Something failed; the detail says what.
        Failed = "failed",
    }
}

words! {
    /// Whether a resource exists.
    ResourceState {
        /// It is about to exist, or exists.
        Made = "made",
        /// It was seen to be gone.
        Gone = "gone",
    }
}

/// One entry of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Its number in its sandbox, from 1. The store alone sets it.
    pub seq: u64,
    /// What happened.
    pub step: JournalStep,
    /// When.
    pub at_ms: u64,
    /// More of it, for people.
    pub detail: String,
}

/// Something on the host that a sandbox made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Resource {
    /// What: `process`, `cgroup`, `mount`, `namespace`, `interface`, `file`, `container`, ...
    pub kind: String,
    /// Which: a path, a name, an id.
    pub name: String,
    /// Whether it exists.
    pub state: ResourceState,
}

/// One command that was started. Arguments may hold secrets, so that only
/// their number is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRecord {
    /// Its id, unique in its sandbox.
    pub exec: ExecId,
    /// Where it runs.
    pub sandbox: SandboxId,
    /// The program: `argv[0]`.
    pub program: String,
    /// How many arguments follow the program.
    pub arguments: u32,
    /// When it started.
    pub started_ms: u64,
    /// Whether it outlives its caller.
    pub background: bool,
    /// How it ended, once it has.
    pub exit: Option<ExitStatus>,
    /// When it ended.
    pub ended_ms: Option<u64>,
}
