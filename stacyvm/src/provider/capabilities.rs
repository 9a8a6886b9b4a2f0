//! What a combination of provider, runtime and host can do.

use serde::{Deserialize, Serialize};

/// How strongly something holds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Not at all.
    #[default]
    Absent,
    /// It is done, and a hostile guest or an accident may undo it.
    BestEffort,
    /// The kernel, a hypervisor or the service holds it against a hostile guest.
    Enforced,
}

impl Level {
    /// The level in snake case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::BestEffort => "best_effort",
            Self::Enforced => "enforced",
        }
    }
}

/// What stands between a sandbox and its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Nothing.
    #[default]
    None,
    /// Namespaces and filters of a shared kernel.
    Namespaces,
    /// A kernel in user space.
    UserKernel,
    /// A virtual machine.
    VirtualMachine,
    /// Somebody else's word.
    Remote,
}

/// The processes that a kill reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KillScope {
    /// The first process.
    #[default]
    Process,
    /// Its process group.
    Group,
    /// Every descendant, double forks and new sessions included.
    Tree,
}

/// The signals that can be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signals {
    /// SIGKILL only.
    #[default]
    Kill,
    /// SIGKILL and SIGTERM.
    KillAndTerminate,
    /// Any.
    Any,
}

/// The users of a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Users {
    /// The default user alone; all commands and files are that user's.
    #[default]
    One,
    /// Root and others, whom a command can run as.
    Many,
}

/// What a combination can do, as it stands: no promise for another host.
///
/// Everything is absent by default, so that a provider written against an
/// older list claims nothing it has not heard of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    // Commands.
    /// Standard input as a stream.
    pub exec_stdin: bool,
    /// Terminals, with resize.
    pub exec_tty: bool,
    /// Which users there are inside.
    pub users: Users,
    /// Commands that outlive their caller.
    pub exec_background: bool,
    /// Output of background commands is kept and can be followed again.
    pub reattach_output: bool,
    /// What a kill reaches.
    pub kill_scope: KillScope,
    /// What can be sent.
    pub signals: Signals,
    /// `out of memory` is told apart from another SIGKILL.
    pub oom_reported: bool,

    // Files.
    /// Reading, writing, and the operations without data.
    pub files: bool,
    /// Watching.
    pub file_watch: bool,
    /// Directories as tar streams.
    pub file_tar: bool,

    // Ports.
    /// Connecting to a port inside.
    pub dial: bool,
    /// Listening on a port inside.
    pub listen: bool,
    /// Publishing a port on the host.
    pub publish_ports: bool,
    /// An address of a port for others.
    pub endpoint: bool,

    // Life.
    /// Pausing and resuming.
    pub pause: bool,
    /// Saving the disk.
    pub snapshot_disk: bool,
    /// Saving the memory too.
    pub snapshot_memory: bool,
    /// Sandboxes go on when this host loses its power.
    pub outlives_host: bool,
    /// Ending with the owner, `kill -9` included.
    pub attached_lifetime: bool,
    /// Giving a sandbox that was made ahead its variables, end and lifetime later.
    pub claim: bool,
    /// A TTL that needs no living host process.
    pub ttl: Level,
    /// An idle timeout.
    pub idle_timeout: Level,
    /// Processes can be listed.
    pub processes: bool,
    /// Usage can be read.
    pub usage: bool,

    // Sources.
    /// The image `host`.
    pub image_host: bool,
    /// A root directory of the host.
    pub image_directory: bool,
    /// A registry reference, which is pulled where it is missing.
    pub image_registry: bool,
    /// Images of the image store by their names, and archives and layouts of the
    /// host, which are imported into it.
    pub image_store: bool,

    // Mounts and privileges.
    /// Host directories.
    pub mount_host: bool,
    /// Memory file systems.
    pub mount_tmpfs: bool,
    /// Named volumes.
    pub mount_volume: bool,
    /// Sizes of volumes, on file systems that hold them; on another one create is
    /// `unsupported`.
    pub mount_volume_size: bool,
    /// `privileges: namespaced_root`.
    pub namespaced_root: bool,
    /// A root file system that cannot be written.
    pub read_only_root: Level,

    // Isolation and limits.
    /// What stands between sandbox and host.
    pub isolation: Isolation,
    /// A user namespace or a kernel of its own: root inside is nobody outside.
    pub root_mapped: Level,
    /// A filter of system calls.
    pub syscall_filter: Level,
    /// No privileges by set-id files.
    pub no_new_privileges: Level,
    /// The memory limit, swap off.
    pub memory_limit: Level,
    /// The processor limit.
    pub cpu_limit: Level,
    /// The limit of processes.
    pub pids_limit: Level,
    /// The limit of open files.
    pub open_files_limit: Level,
    /// The limit of writable disk.
    pub disk_limit: Level,
    /// Programs that ask how many processors and how much memory there are, as
    /// `nproc` and `free` do, are told the sandbox's limits. Without it they may
    /// be told the host's, and the limits hold all the same.
    pub limits_visible: bool,

    // Network.
    /// `network: none`.
    pub network_none: Level,
    /// `network: allow`.
    pub network_allow: Level,
    /// `network: full`.
    pub network_full: bool,
    /// Environment of the sandbox.
    pub env: bool,
    /// Labels are kept by the provider itself.
    pub labels: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_claimed_by_default_and_unknown_claims_are_ignored() {
        let value = serde_json::to_value(Capabilities::default()).unwrap();
        let claims = value.as_object().unwrap();
        assert!(claims.values().all(|v| {
            v == false
                || ["absent", "process", "kill", "none", "one"]
                    .iter()
                    .any(|text| v == text)
        }));
        let newer: Capabilities =
            serde_json::from_str(r#"{"teleport": true, "dial": true}"#).unwrap();
        assert!(newer.dial);
    }

    #[test]
    fn levels_are_ordered() {
        assert!(Level::Absent < Level::BestEffort && Level::BestEffort < Level::Enforced);
    }
}
