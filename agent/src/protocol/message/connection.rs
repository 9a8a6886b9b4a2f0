//! The connection itself: handshake, credit, failures, and what the agent is told at its start.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use super::Variable;

/// The first frame each way. On a keyed connection (Docker) both sides prove
/// that they hold the sandbox's key:
/// `HMAC-SHA256(key, role ‖ nonce of the other ‖ own nonce)` with the role
/// `b"stacyvm host"` or `b"stacyvm agent"`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    /// The oldest generation that the sender speaks.
    #[n(0)]
    pub oldest: u32,
    /// The newest generation that the sender speaks.
    #[n(1)]
    pub newest: u32,
    /// The sender's crate version, for people.
    #[n(2)]
    pub version: String,
    /// 32 random bytes; empty where the connection is not keyed.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub nonce: Vec<u8>,
    /// The host's proof; empty in the agent's hello and where not keyed.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub proof: Vec<u8>,
}

/// The agent accepts the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Welcome {
    /// The generation both sides speak from here on.
    #[n(0)]
    pub generation: u32,
    /// The agent's proof; empty where not keyed.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub proof: Vec<u8>,
    /// Whether commands can run as another user than the agent's own.
    #[n(2)]
    pub can_switch_user: bool,
    /// The kernel that the sandbox runs on; absent where the connection is not keyed.
    #[n(3)]
    pub kernel: Option<Kernel>,
}

/// A kernel, as it tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Kernel {
    /// `/proc/version`.
    #[n(0)]
    pub version: String,
    /// What each start of a kernel has of its own, and all its containers share.
    #[n(1)]
    pub boot_id: String,
    /// Whether it has what gVisor's kernel alone has.
    #[n(2)]
    pub gvisor: bool,
}

/// Moves the end of the sandbox's life.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DeadlineRequest {
    /// Milliseconds from now; absent means none.
    #[n(0)]
    pub in_ms: Option<u64>,
}

/// Adds to the environment of every later command. Granted once, and only where
/// [`AgentConfig::waits`] says that the sandbox waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EnvironmentRequest {
    /// The variables; one that the agent was started with gets this value.
    #[n(0)]
    pub env: Vec<Variable>,
}

/// The receiver took bytes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Credit {
    /// How many the sender may send on top.
    #[n(0)]
    pub bytes: u32,
}

/// Why a request failed. Numbers are never reused; what a host does not know
/// it reports as internal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum FailureKind {
    /// Anything else.
    #[n(0)]
    Internal,
    /// The request makes no sense.
    #[n(1)]
    Invalid,
    /// No such path, command id, user or port.
    #[n(2)]
    NotFound,
    /// It is there already.
    #[n(3)]
    AlreadyExists,
    /// The user may not.
    #[n(4)]
    PermissionDenied,
    /// A directory where a file is needed.
    #[n(5)]
    IsDirectory,
    /// A file where a directory is needed.
    #[n(6)]
    NotDirectory,
    /// The directory has entries.
    #[n(7)]
    NotEmpty,
    /// The disk or the disk limit is full.
    #[n(8)]
    NoSpace,
    /// Too many symbolic links.
    #[n(9)]
    LinkLoop,
    /// The command was not found.
    #[n(10)]
    CommandNotFound,
    /// The command cannot be executed.
    #[n(11)]
    CommandNotExecutable,
    /// The directory to start in is missing or closed.
    #[n(12)]
    BadWorkdir,
    /// No more processes, descriptors or memory inside.
    #[n(13)]
    Exhausted,
    /// This sandbox cannot do it.
    #[n(14)]
    Unsupported,
    /// The host gave it up.
    #[n(15)]
    Cancelled,
    /// Nothing listens on the port.
    #[n(16)]
    Refused,
    /// The file system is read-only.
    #[n(17)]
    ReadOnly,
    /// An archive was refused.
    #[n(18)]
    BadArchive,
    /// It became another one while it was worked on.
    #[n(19)]
    Changed,
}

/// A request failed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Failure {
    /// The cause.
    #[n(0)]
    pub kind: FailureKind,
    /// What failed, lowercase, without a full stop.
    #[n(1)]
    pub message: String,
    /// The path, command, user or port it is about.
    #[n(2)]
    pub subject: Option<ByteVec>,
    /// The system's error number, where there was one.
    #[n(3)]
    pub errno: Option<i32>,
}

/// What an agent is told before its first connection. It reaches the agent
/// over a channel that commands cannot see, never by argument or environment.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct AgentConfig {
    /// The user of commands that name none.
    #[n(0)]
    pub user: String,
    /// The directory of commands that name none; made if missing, owned by `user`.
    #[n(1)]
    pub workdir: ByteVec,
    /// The environment of every command.
    #[n(2)]
    pub env: Vec<Variable>,
    /// The key of keyed connections; empty where the channel itself is proof.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub key: Vec<u8>,
    /// Milliseconds until the agent ends the sandbox; absent where another timer binds.
    #[n(4)]
    pub deadline_ms: Option<u64>,
    /// Bytes of output that a background command's ring keeps for each stream.
    #[n(5)]
    pub ring_bytes: u32,
    /// The most commands that run at once.
    #[n(6)]
    pub max_execs: u32,
    /// Limits of open files of every command; absent keeps the agent's.
    #[n(7)]
    pub open_files: Option<u64>,
    /// The user that the agent and supervisors run as, which no command may use.
    #[n(8)]
    pub supervisor_uid: u32,
    /// Whether commands may be of other users than the agent, which then takes
    /// `supervisor_uid` itself before the first of them.
    #[n(9)]
    pub can_switch_user: bool,
    /// A directory owned by root for sockets of bridges; absent where connections are handed over.
    #[n(10)]
    pub socket: Option<ByteVec>,
    /// Milliseconds without use after which the helper ends the sandbox. Where
    /// it is set, the agent tells the helper whether the sandbox is in use.
    #[n(11)]
    pub idle_ms: Option<u64>,
    /// The most supervisors that wait for commands to come, each of two
    /// processes; absent is none.
    #[n(12)]
    pub spare_supervisors: Option<u32>,
    /// Whether the sandbox waits for somebody who claims it and may then bring
    /// variables; absent is no.
    #[n(13)]
    pub waits: Option<bool>,
    /// Whether root's programs, and set-id programs, get what the bounding set has.
    /// Then the agent is `supervisor_uid` from its start and leaves that set alone; absent
    /// is no.
    #[n(14)]
    pub namespaced_root: Option<bool>,
    /// Directories of the default user, made if missing and given to it where they are
    /// root's. Where they are set, a user of that number without an account is at home
    /// in the last of them; absent where somebody named a user.
    #[n(15)]
    pub places: Option<Vec<ByteVec>>,
}

impl AgentConfig {
    /// Whether [`namespaced_root`](Self::namespaced_root) says so.
    pub fn has_namespaced_root(&self) -> bool {
        self.namespaced_root == Some(true)
    }

    /// Whether the agent's files in `/proc` are its own user's. Those of a hidden process
    /// are root's, who is a command's user where the engine has no user namespace.
    pub fn owns_proc_files(&self) -> bool {
        self.can_switch_user && self.socket.is_some()
    }
}

impl std::fmt::Debug for AgentConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key is never printed.
        f.debug_struct("AgentConfig")
            .field("user", &self.user)
            .field("keyed", &!self.key.is_empty())
            .field("can_switch_user", &self.can_switch_user)
            .finish_non_exhaustive()
    }
}
