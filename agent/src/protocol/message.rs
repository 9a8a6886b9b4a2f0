//! The payloads, in CBOR maps with small integer keys.
//!
//! Unknown keys are skipped and a missing optional key takes its default, so
//! a message may grow without a new kind. `schema/generation-1.txt` holds
//! every message as it was released; a test demands that it only grows.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

/// Encodes a message.
pub fn encode<T: Encode<()>>(message: &T) -> Vec<u8> {
    // Writing into a Vec cannot fail and no message type returns an error of its own.
    minicbor::to_vec(message).unwrap_or_default()
}

/// Decodes a message.
///
/// # Errors
///
/// The bytes are not this message, or stop too early.
pub fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, minicbor::decode::Error> {
    minicbor::decode(bytes)
}

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
}

/// Where a command's standard input comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Stdin {
    /// `/dev/null`.
    #[default]
    #[n(0)]
    Null,
    /// The data frames of the stream, up to [`super::Kind::End`].
    #[n(1)]
    Stream,
}

/// The size of a terminal in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Size {
    /// Rows.
    #[n(0)]
    pub rows: u16,
    /// Columns.
    #[n(1)]
    pub columns: u16,
}

/// One environment variable.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Variable {
    /// Its name.
    #[n(0)]
    pub name: ByteVec,
    /// Its value. Never printed.
    #[n(1)]
    pub value: ByteVec,
}

impl std::fmt::Debug for Variable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=[redacted]", String::from_utf8_lossy(&self.name))
    }
}

/// Starts a command.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ExecRequest {
    /// The id that the host minted for it.
    #[n(0)]
    pub exec: String,
    /// The command and its arguments; the first is looked up in `PATH` when it has no slash.
    #[n(1)]
    pub argv: Vec<ByteVec>,
    /// Variables added to the sandbox's own.
    #[n(2)]
    pub env: Vec<Variable>,
    /// The directory to start in; the sandbox's own default when absent.
    #[n(3)]
    pub workdir: Option<ByteVec>,
    /// `name`, `uid`, `name:group` or `uid:gid`; the sandbox's own default when absent.
    #[n(4)]
    pub user: Option<String>,
    /// Standard input.
    #[n(5)]
    pub stdin: Stdin,
    /// A terminal of this size instead of pipes.
    #[n(6)]
    pub tty: Option<Size>,
    /// Milliseconds after which the whole tree is killed.
    #[n(7)]
    pub timeout_ms: Option<u64>,
    /// The command outlives the stream and the connection that started it.
    #[n(8)]
    pub background: bool,
}

/// Follows a command.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct AttachRequest {
    /// Its id.
    #[n(0)]
    pub exec: String,
    /// Whether data frames of this stream feed its standard input.
    #[n(1)]
    pub stdin: bool,
    /// Whether output kept in the ring is sent first.
    #[n(2)]
    pub replay: bool,
}

/// The processes a signal is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Scope {
    /// The first process of the command.
    #[n(0)]
    Process,
    /// Its process group; on a terminal, the foreground group.
    #[n(1)]
    Group,
    /// Every descendant, double forks and new sessions included. SIGKILL
    /// repeats until two passes find nothing.
    #[n(2)]
    Tree,
}

/// Sends a signal.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SignalRequest {
    /// The command.
    #[n(0)]
    pub exec: String,
    /// The signal's number, 1 to 64.
    #[n(1)]
    pub signal: u8,
    /// Who gets it.
    #[n(2)]
    pub scope: Scope,
}

/// Sets the size of a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ResizeRequest {
    /// The command.
    #[n(0)]
    pub exec: String,
    /// The new size.
    #[n(1)]
    pub size: Size,
}

/// A command runs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Started {
    /// The process number of its first process, inside the sandbox.
    #[n(0)]
    pub pid: u32,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum EndReason {
    /// It exited by itself; the code is in `value`.
    #[n(0)]
    Code,
    /// A signal ended it; the number is in `value`.
    #[n(1)]
    Signal,
    /// Its deadline passed; the tree was killed.
    #[n(2)]
    TimedOut,
    /// SIGKILL ended it while the sandbox's kill count for lack of memory rose.
    #[n(3)]
    OutOfMemory,
    /// The host cancelled it; the tree was killed.
    #[n(4)]
    Cancelled,
}

/// A command ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Exited {
    /// Why.
    #[n(0)]
    pub reason: EndReason,
    /// The exit code or signal number; 0 where the reason has none.
    #[n(1)]
    pub value: i32,
    /// Processes of the command that still run.
    #[n(2)]
    pub survivors: u32,
    /// The tree did not die within five seconds, so the sandbox is being ended.
    #[n(3)]
    pub sandbox_ended: bool,
}

/// One command, as listed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ExecInfo {
    /// Its id.
    #[n(0)]
    pub exec: String,
    /// Its argument vector.
    #[n(1)]
    pub argv: Vec<ByteVec>,
    /// The process number of its first process.
    #[n(2)]
    pub pid: u32,
    /// Milliseconds since the epoch, by the sandbox's clock.
    #[n(3)]
    pub started_ms: u64,
    /// How its first process ended, once it has.
    #[n(4)]
    pub exited: Option<Exited>,
    /// Whether it has a terminal.
    #[n(5)]
    pub tty: bool,
    /// Whether it outlives its stream.
    #[n(6)]
    pub background: bool,
    /// Processes of it that run now.
    #[n(7)]
    pub processes: u32,
}

/// The commands that run, and those that ended and are still remembered.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Execs {
    /// Oldest first.
    #[n(0)]
    pub execs: Vec<ExecInfo>,
}

/// Output that was overwritten in the ring before anybody read it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Lost {
    /// Bytes of standard output, or of the terminal.
    #[n(0)]
    pub stdout: u64,
    /// Bytes of standard error.
    #[n(1)]
    pub stderr: u64,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum FileKind {
    /// A regular file.
    #[n(0)]
    File,
    /// A directory.
    #[n(1)]
    Directory,
    /// A symbolic link.
    #[n(2)]
    Link,
    /// A socket, pipe or device.
    #[n(3)]
    Other,
}

/// A file, as `lstat` sees it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Entry {
    /// The path: as asked for in a single answer, relative to the directory
    /// in a listing, absolute in a glob.
    #[n(0)]
    pub path: ByteVec,
    /// What it is.
    #[n(1)]
    pub kind: FileKind,
    /// Bytes.
    #[n(2)]
    pub size: u64,
    /// Permission bits, set-id and sticky bits included (`0o7777`).
    #[n(3)]
    pub mode: u32,
    /// Owner.
    #[n(4)]
    pub uid: u32,
    /// Group.
    #[n(5)]
    pub gid: u32,
    /// Seconds since the epoch of the last change of the content.
    #[n(6)]
    pub modified_s: i64,
    /// Nanoseconds of that time.
    #[n(7)]
    pub modified_ns: u32,
    /// Where a symbolic link points.
    #[n(8)]
    pub target: Option<ByteVec>,
    /// The owner's name in the sandbox, where it has one.
    #[n(9)]
    pub user: Option<String>,
    /// The group's name in the sandbox, where it has one.
    #[n(10)]
    pub group: Option<String>,
}

/// Some files of a listing; more follow until [`super::Kind::Done`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Entries {
    /// In name order within one directory.
    #[n(0)]
    pub entries: Vec<Entry>,
}

/// A file operation without data. Paths are absolute; they are resolved
/// inside the sandbox with the rights of `user`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FileRequest {
    /// Who does it; the sandbox's default user when absent.
    #[n(0)]
    pub user: Option<String>,
    /// What is done.
    #[n(1)]
    pub operation: FileOperation,
}

/// The file operations without data.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FileOperation {
    /// Describes a path; one [`super::Kind::Entry`].
    #[n(0)]
    #[cbor(map)]
    Stat {
        /// The path.
        #[n(0)]
        path: ByteVec,
        /// Whether a final symbolic link is followed.
        #[n(1)]
        follow: bool,
    },
    /// Lists a directory; [`super::Kind::Entries`], then [`super::Kind::Done`].
    #[n(1)]
    #[cbor(map)]
    List {
        /// The directory.
        #[n(0)]
        path: ByteVec,
        /// Levels below it: 1 is the directory's own entries.
        #[n(1)]
        depth: u32,
    },
    /// Makes a directory.
    #[n(2)]
    #[cbor(map)]
    MakeDir {
        /// The path.
        #[n(0)]
        path: ByteVec,
        /// Whether missing parents are made and an existing directory is success.
        #[n(1)]
        parents: bool,
        /// Permission bits of what is made.
        #[n(2)]
        mode: u32,
    },
    /// Moves a path; across file systems by copy and removal.
    #[n(3)]
    #[cbor(map)]
    Rename {
        /// What.
        #[n(0)]
        from: ByteVec,
        /// Where to, the new name included.
        #[n(1)]
        to: ByteVec,
        /// Whether an existing file there is replaced.
        #[n(2)]
        replace: bool,
    },
    /// Removes a path; symbolic links are removed, never followed.
    #[n(4)]
    #[cbor(map)]
    Remove {
        /// The path.
        #[n(0)]
        path: ByteVec,
        /// Whether a directory goes with what is in it.
        #[n(1)]
        recursive: bool,
        /// Whether a missing path is success.
        #[n(2)]
        missing_ok: bool,
    },
    /// Changes permission bits, owner, group or time.
    #[n(5)]
    #[cbor(map)]
    SetAttributes {
        /// The path.
        #[n(0)]
        path: ByteVec,
        /// Permission bits.
        #[n(1)]
        mode: Option<u32>,
        /// Owner: a name or number.
        #[n(2)]
        owner: Option<String>,
        /// Group: a name or number.
        #[n(3)]
        group: Option<String>,
        /// Seconds since the epoch of the last change.
        #[n(4)]
        modified_s: Option<i64>,
        /// Whether everything below is changed as well.
        #[n(5)]
        recursive: bool,
        /// Whether a final symbolic link is followed.
        #[n(6)]
        follow: bool,
    },
    /// Finds paths by a shell pattern (`*`, `?`, `[..]`, `**`).
    #[n(6)]
    #[cbor(map)]
    Glob {
        /// The absolute pattern.
        #[n(0)]
        pattern: ByteVec,
        /// The most paths that are answered; one more found is a failure.
        #[n(1)]
        limit: u32,
    },
    /// Makes a symbolic link.
    #[n(7)]
    #[cbor(map)]
    Link {
        /// What the link says.
        #[n(0)]
        target: ByteVec,
        /// The link.
        #[n(1)]
        path: ByteVec,
    },
}

/// Reads a file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ReadRequest {
    /// Who reads.
    #[n(0)]
    pub user: Option<String>,
    /// The file; a final symbolic link is followed.
    #[n(1)]
    pub path: ByteVec,
    /// Bytes to skip.
    #[n(2)]
    pub offset: u64,
    /// The most bytes to send.
    #[n(3)]
    pub length: Option<u64>,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum WriteMode {
    /// Replaces the file in one step when all bytes have arrived; until then
    /// readers see the old one, and a cancelled write leaves it.
    #[default]
    #[n(0)]
    Replace,
    /// Adds to its end, or creates it.
    #[n(1)]
    Append,
    /// Creates it; an existing one is a failure.
    #[n(2)]
    CreateNew,
}

/// Writes a file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct WriteRequest {
    /// Who writes, and owns what is made.
    #[n(0)]
    pub user: Option<String>,
    /// The file.
    #[n(1)]
    pub path: ByteVec,
    /// How.
    #[n(2)]
    pub how: WriteMode,
    /// Permission bits; absent keeps those of a replaced file, else `0o644`.
    #[n(3)]
    pub mode: Option<u32>,
    /// Whether missing parent directories are made.
    #[n(4)]
    pub parents: bool,
}

/// Reports changes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct WatchRequest {
    /// Who watches.
    #[n(0)]
    pub user: Option<String>,
    /// A directory or file.
    #[n(1)]
    pub path: ByteVec,
    /// Whether directories below are watched, new ones included.
    #[n(2)]
    pub recursive: bool,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum WatchKind {
    /// It came to be, or was moved here.
    #[n(0)]
    Created,
    /// Its content changed.
    #[n(1)]
    Modified,
    /// It is gone, or was moved away.
    #[n(2)]
    Removed,
    /// Its permission bits, owner or times changed.
    #[n(3)]
    Attributes,
    /// The kernel dropped events; look again.
    #[n(4)]
    Overflow,
}

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct WatchEvent {
    /// What.
    #[n(0)]
    pub kind: WatchKind,
    /// Where, relative to the watched path.
    #[n(1)]
    pub path: ByteVec,
}

/// Sends a path as a tar stream (POSIX pax).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ExportRequest {
    /// Who reads.
    #[n(0)]
    pub user: Option<String>,
    /// A file or directory. The archive's names start with its last component,
    /// or with `.` where `contents` is set.
    #[n(1)]
    pub path: ByteVec,
    /// Whether only what is in the directory is sent.
    #[n(2)]
    pub contents: bool,
    /// Whether a symbolic link given as `path` is followed.
    #[n(3)]
    pub follow: bool,
}

/// Unpacks a tar stream. Names that leave the directory, device nodes and
/// hard links that point out of it are refused. Symbolic links are made as they
/// are, wherever they point, and nothing is written through one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ImportRequest {
    /// Who writes.
    #[n(0)]
    pub user: Option<String>,
    /// The directory; it must exist unless `parents` is set.
    #[n(1)]
    pub path: ByteVec,
    /// Whether a missing directory is made.
    #[n(2)]
    pub parents: bool,
    /// Whether owners in the archive are kept (needs root); else `user` owns all.
    #[n(3)]
    pub keep_owner: bool,
}

/// A TCP port inside the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PortRequest {
    /// The port; 0 with [`super::Kind::Listen`] lets the agent choose.
    #[n(0)]
    pub port: u16,
}

/// A port is open.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Listening {
    /// Which.
    #[n(0)]
    pub port: u16,
}

/// A program inside connected to a port that the agent listens on. Data
/// follows both ways on the stream of this frame.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Accepted {
    /// The stream of the [`super::Kind::Listen`].
    #[n(0)]
    pub listener: u32,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Process {
    /// Its number inside the sandbox.
    #[n(0)]
    pub pid: u32,
    /// Its parent's.
    #[n(1)]
    pub parent: u32,
    /// Its user.
    #[n(2)]
    pub uid: u32,
    /// The letter of its state, as in `/proc/PID/stat`.
    #[n(3)]
    pub state: String,
    /// Its argument vector, or its name in brackets.
    #[n(4)]
    pub argv: Vec<ByteVec>,
    /// Resident bytes.
    #[n(5)]
    pub resident_bytes: u64,
    /// Processor time used, in microseconds.
    #[n(6)]
    pub cpu_us: u64,
    /// The command that it belongs to.
    #[n(7)]
    pub exec: Option<String>,
}

/// The processes of the sandbox; the agent's own are left out.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ProcessList {
    /// In the order of their numbers.
    #[n(0)]
    pub processes: Vec<Process>,
}

/// What the sandbox uses, as far as it can be seen from inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct UsageReport {
    /// Processes, the agent's own left out.
    #[n(0)]
    pub processes: u32,
    /// The sum of their resident bytes.
    #[n(1)]
    pub resident_bytes: u64,
    /// Processor time of everything that ran, in microseconds.
    #[n(2)]
    pub cpu_us: u64,
    /// Bytes used on the file system of `/`.
    #[n(3)]
    pub disk_used_bytes: u64,
    /// Bytes of that file system.
    #[n(4)]
    pub disk_total_bytes: u64,
}

/// Moves the end of the sandbox's life.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DeadlineRequest {
    /// Milliseconds from now; absent means none.
    #[n(0)]
    pub in_ms: Option<u64>,
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
    /// The user that supervisors run as, which no command may use.
    #[n(8)]
    pub supervisor_uid: u32,
    /// Whether the agent may take other users than its own.
    #[n(9)]
    pub can_switch_user: bool,
    /// A directory owned by root for sockets of bridges; absent where connections are handed over.
    #[n(10)]
    pub socket: Option<ByteVec>,
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
