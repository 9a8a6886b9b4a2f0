//! Commands.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

/// Where a command's standard input comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Stdin {
    /// `/dev/null`.
    #[default]
    #[n(0)]
    Null,
    /// The data frames of the stream, up to [`crate::protocol::Kind::End`].
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

/// Reads what is kept of a command's output. Nobody is disturbed: whoever
/// follows the command goes on, and a reader that stops is told what it lost.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LogRequest {
    /// The command's id.
    #[n(0)]
    pub exec: String,
    /// Whether what comes is sent too, until nothing of the command runs.
    #[n(1)]
    pub follow: bool,
    /// Leaves out what was written longer ago than this many milliseconds, by a
    /// clock that counts suspend. Output that was written within the same tenth
    /// of a second may come along, of older output more.
    #[n(2)]
    pub age_ms: Option<u64>,
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
    /// The process number of its first process, inside the sandbox; 0 where it
    /// was ended before it had one.
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

/// Output that was overwritten in the ring before this reader got it.
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
