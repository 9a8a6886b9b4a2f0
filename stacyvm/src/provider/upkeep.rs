//! What lies on a host, beyond the sandboxes that somebody accounts for.

use serde::{Deserialize, Serialize};

use crate::id::{InstanceId, SandboxId};

/// How far a look goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// What belongs to this engine's state directory and instance.
    Own,
    /// Everything of stacyvm on the host that can be told to be it.
    Host,
}

/// Something of stacyvm on the host.
///
/// It was told by more than its name: by a lock, a ledger, the executable of a
/// process, the labels of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// What removal names it by: its kind and its name.
    pub id: String,
    /// `directory`, `process`, `cgroup`, `loop_device`, `mount`, `container`,
    /// `network`, `volume`, `sandbox`, `snapshot`.
    pub kind: String,
    /// A path, a process number, an id.
    pub name: String,
    /// The instance that made it, where it is known.
    pub instance: Option<InstanceId>,
    /// The state directory of that instance, where it is known.
    pub state_dir: Option<String>,
    /// Its sandbox, where it is known.
    pub sandbox: Option<SandboxId>,
    /// Whether what made it and watches it still lives.
    pub owner_lives: bool,
    /// How it was told to be stacyvm's.
    pub evidence: String,
    /// What to do about it.
    pub remedy: String,
}

/// Bytes that something takes on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    /// `sandbox`, `volume`, `cache`, `store`.
    pub kind: String,
    /// An id, a name, a path.
    pub name: String,
    /// As they lie on the disk: holes take nothing, and a file of several names
    /// counts once.
    pub bytes: u64,
    /// Whether all of it could be looked at.
    pub complete: bool,
}

/// What is tidied up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TidyRequest {
    /// What helpers that were killed have left.
    pub dead: bool,
    /// Cached programs that no process executes and no living engine would.
    pub cache: bool,
    /// Volumes that no sandbox has.
    pub volumes: bool,
    /// The volumes that may go; without it all may.
    pub only_volumes: Option<Vec<String>>,
    /// Whether it is only told what would be removed.
    pub dry_run: bool,
}

/// What was tidied up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// What was removed, and what it took.
    pub gone: Vec<DiskUse>,
    /// What could not be removed; the rest was, all the same.
    pub failed: Vec<NotRemoved>,
}

/// Something that should have been removed and is still there, in part maybe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotRemoved {
    /// As in [`DiskUse`].
    pub kind: String,
    /// As in [`DiskUse`].
    pub name: String,
    /// Why.
    pub reason: String,
}
