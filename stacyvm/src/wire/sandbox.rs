//! Providers and sandboxes.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Time;
use crate::error::{Error, Result};
use crate::id::{OwnerId, SandboxId, SnapshotId, TenantId};
use crate::provider::{Capabilities, ProviderInfo, Pull};
use crate::sandbox::spec::{SandboxSpec, Source};
use crate::sandbox::state::{Effective, Observed, ObservedState};

/// The provider behind a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProviderReply {
    /// Its name, runtime and versions.
    pub info: ProviderInfo,
    /// What it can do over the wire: [`Capabilities`], with what a newer one
    /// has more.
    pub capabilities: Value,
}

impl ProviderReply {
    /// What is claimed, as far as this build knows it. A claim that is not
    /// understood is none.
    pub fn claims(&self) -> Capabilities {
        let plain = || serde_json::to_value(Capabilities::default()).unwrap_or_default();
        let Some(said) = self.capabilities.as_object() else {
            return Capabilities::default();
        };
        let all = Value::Object(said.clone());
        if let Ok(claims) = serde_json::from_value(all) {
            return claims;
        }
        let mut claims = plain();
        for (name, claim) in said {
            let before = claims.get(name).cloned();
            if let (Some(before), Some(slot)) = (before, claims.get_mut(name)) {
                *slot = claim.clone();
                if serde_json::from_value::<Capabilities>(claims.clone()).is_err()
                    && let Some(slot) = claims.get_mut(name)
                {
                    *slot = before;
                }
            }
        }
        serde_json::from_value(claims).unwrap_or_default()
    }
}

/// A sandbox to make.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    /// The id that the caller minted.
    pub id: SandboxId,
    /// What it should be. Its `secrets` are empty: their values are below.
    pub spec: SandboxSpec,
    /// Values of secrets, by variable.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// The owner that it ends with, of a spec whose `lifetime` is `attached`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerId>,
}

/// The first frame of an owner's connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OwnerReply {
    /// What requests name the owner by.
    pub owner: OwnerId,
}

impl fmt::Debug for CreateBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateBody")
            .field("id", &self.id)
            .field("spec", &self.spec)
            .field("secrets", &self.secrets.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// An image to bring.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullBody {
    /// What a sandbox is to be made from.
    pub source: Source,
    /// When it is pulled.
    pub when: Pull,
}

/// A spec whose origin is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginBody {
    /// The spec.
    pub spec: SandboxSpec,
}

/// What a sandbox would be made from now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OriginReply {
    /// A text that changes with it.
    pub origin: String,
}

/// A new end of a sandbox's life.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadlineBody {
    /// The end; none takes it away.
    pub ends: Option<Time>,
}

/// What a sandbox ends with.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LifetimeBody {
    /// The owner, and no other from here on; none, and it ends with nobody.
    pub owner: Option<OwnerId>,
}

/// A snapshot to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotBody {
    /// The id that the caller minted.
    pub id: SnapshotId,
}

/// A request that has nothing to say.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmptyBody {}

/// A reply that has nothing to say.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct DoneReply {}

/// A sandbox as its provider sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxReply {
    /// Its id.
    pub id: SandboxId,
    /// Its tenant, where the provider keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Whether it runs.
    pub state: StateReply,
    /// When it came to be.
    #[serde(default)]
    pub created: Option<Time>,
    /// When the binding timer ends it.
    #[serde(default)]
    pub ends: Option<Time>,
    /// When it ends unless it is used.
    #[serde(default)]
    pub idle_ends: Option<Time>,
    /// The process number of its first process on the server's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_pid: Option<u32>,
    /// What is in force, by the name of the need.
    #[serde(default)]
    pub effective: BTreeMap<String, Effective>,
}

/// Whether a sandbox runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateReply {
    /// It runs.
    Running,
    /// Its processes stand still.
    Paused,
    /// It ended, and something of it may be left.
    Ended,
}

/// Sandboxes in the order of their ids.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxesReply {
    /// The sandboxes.
    pub sandboxes: Vec<SandboxReply>,
}

impl From<Observed> for SandboxReply {
    fn from(seen: Observed) -> Self {
        Self {
            id: seen.id,
            tenant: seen.tenant,
            state: match seen.state {
                ObservedState::Running => StateReply::Running,
                ObservedState::Paused => StateReply::Paused,
                ObservedState::Ended => StateReply::Ended,
            },
            created: seen.created.map(Time::from),
            ends: seen.ends.map(Time::from),
            idle_ends: seen.idle_ends.map(Time::from),
            host_pid: seen.host_pid,
            effective: seen.effective,
        }
    }
}

impl TryFrom<SandboxReply> for Observed {
    type Error = Error;

    fn try_from(reply: SandboxReply) -> Result<Self> {
        Ok(Self {
            id: reply.id,
            tenant: reply.tenant,
            state: match reply.state {
                StateReply::Running => ObservedState::Running,
                StateReply::Paused => ObservedState::Paused,
                StateReply::Ended => ObservedState::Ended,
            },
            created: moment(reply.created)?,
            ends: moment(reply.ends)?,
            idle_ends: moment(reply.idle_ends)?,
            // A process of another host, maybe.
            host_pid: None,
            effective: reply.effective,
        })
    }
}

pub(crate) fn moment(time: Option<Time>) -> Result<Option<std::time::SystemTime>> {
    let read = |time: Time| {
        let read = time.to_system();
        read.ok_or_else(|| super::frame::broken("a moment that is none"))
    };
    time.map(read).transpose()
}

/// The processes inside a sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessesReply {
    /// The processes.
    pub processes: Vec<crate::sandbox::state::ProcessInfo>,
}
