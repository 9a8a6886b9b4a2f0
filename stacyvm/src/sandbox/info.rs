//! What is shown of a sandbox.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::spec::{Lifetime, Mount, Network, Profile, Resources, Source};
use super::state::{Effective, Phase};
use crate::id::{SandboxId, TenantId};
use crate::units::serde_duration;

/// What is known of a sandbox. Values of variables and secrets are not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SandboxInfo {
    /// Its id.
    pub id: SandboxId,
    /// Its tenant.
    pub tenant: TenantId,
    /// Where it stands in its life.
    pub phase: Phase,
    /// The provider that made it, as configured.
    pub provider: String,
    /// The runtime below the provider.
    pub runtime: String,
    /// What its root file system was made from.
    pub source: Source,
    /// When it was asked for.
    pub created: SystemTime,
    /// When it will be ended.
    pub ends: Option<SystemTime>,
    /// How long it lives without use.
    #[serde(default, with = "serde_duration")]
    pub idle_timeout: Option<Duration>,
    /// When it will be ended unless it is used; none while it is in use.
    pub idle_ends: Option<SystemTime>,
    /// When it ended.
    pub ended: Option<SystemTime>,
    /// Whether it ends with its owner.
    pub lifetime: Lifetime,
    /// What was added to its spec.
    pub profile: Profile,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The names of its variables, secrets included.
    pub env_names: Vec<String>,
    /// The user of commands that name none.
    pub user: Option<String>,
    /// The directory of commands that name none.
    pub workdir: Option<String>,
    /// Its limits, those of the profile included, as they are in force.
    pub resources: Resources,
    /// What it reaches.
    pub network: Option<Network>,
    /// Its mounts.
    pub mounts: Vec<Mount>,
    /// What is in force, by the name of the need.
    pub effective: BTreeMap<String, Effective>,
    /// The process number of its first process on the host, where it has one.
    pub host_pid: Option<u32>,
    /// Why it failed.
    pub failure: Option<String>,
    /// Why its provider could not be asked; the phase is the recorded one then.
    pub unreachable: Option<String>,
}
