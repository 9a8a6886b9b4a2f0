//! The contract that every runtime fulfils.

mod capabilities;
mod operation;
mod piped;
mod pull;
pub mod registry;
mod unsupported;
mod upkeep;

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::time::SystemTime;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

pub use capabilities::{Capabilities, Isolation, KillScope, Level, Signals, Users};
pub use operation::{Operation, OperationKind};
pub use piped::Piped;
pub use pull::{Pull, PullObserver, PullProgress, PullRequest};
pub use upkeep::{DiskUse, Leftover, NotRemoved, Reach, Tidied, TidyRequest};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::id::{ExecId, InstanceId, SandboxId, SnapshotId};
use crate::sandbox::exec::{
    AttachOptions, BoxStream, ExecEvent, ExecInfo, ExecSession, ExecSpec, LogOptions, SignalScope,
};
use crate::sandbox::files::{
    Archive, ByteStream, ExportRequest, FileEntry, FileReply, FileRequest, ImportRequest,
    ReadRequest, WatchEvent, WatchRequest, WriteRequest,
};
use crate::sandbox::spec::{Lifetime, SandboxSpec};
use crate::sandbox::state::{Observed, ProcessInfo, Usage};

/// Refuses the port that nothing can listen on.
pub(crate) fn check_dialled(port: u16) -> Result<()> {
    if port > 0 {
        return Ok(());
    }
    Err(Error::invalid(
        "port",
        port,
        "1 to 65535",
        "name the port that a program inside listens on",
    ))
}

/// Makes sandboxes on one runtime, and works inside them.
///
/// This is a contract with implementers; callers use `Engine` and `Sandbox`.
/// It is object safe, has no default bodies, and addresses a sandbox by an id
/// that the caller minted, so that any process can go on where another stopped.
///
/// # Behavior
///
/// - What a provider cannot do returns `unsupported` before any effect, and
///   its [`Capabilities`] say so.
/// - A sandbox that does not exist, or that ended, is `not_found` or
///   `sandbox_gone`; `destroy` of one is success.
/// - Nothing that a sandbox sends is believed: lengths are bounded, ids
///   checked, text escaped.
///
/// # Cancellation
///
/// Dropping a future gives the call up. A dropped `create` leaves a sandbox or
/// nothing, and `destroy` of the id afterwards leaves nothing. A dropped
/// foreground exec loses its whole tree.
#[async_trait]
pub trait Provider: Debug + Send + Sync + 'static {
    /// Names the provider and its runtime. No input or output.
    fn info(&self) -> ProviderInfo;

    /// Tells what this combination can do. No input or output; what a host
    /// decides was found out when the provider was opened.
    fn capabilities(&self) -> Capabilities;

    /// Tells whether this host can run it, and why not.
    async fn probe(&self, cx: &Context) -> Result<ProbeReport>;

    /// Brings an image to where `create` finds it. Its spec was admitted. What
    /// is no image of a registry needs nothing, and is success.
    ///
    /// # Behavior
    ///
    /// - With [`Pull::Missing`], an image that is there is used without any
    ///   network; a provider that cannot pull leaves the rest to `create`, which
    ///   fails with `not_found`. [`Pull::Never`] does nothing.
    /// - Of several calls for one missing image, one transfers it.
    ///
    /// # Errors
    ///
    /// `unsupported` for [`Pull::Always`] where the provider cannot pull, before
    /// any effect; those of the registry. What was transferred by then may stay.
    async fn pull(&self, cx: &Context, request: &PullRequest) -> Result<()>;

    /// Makes a sandbox. `spec` was admitted: every need in it is within the
    /// capabilities.
    ///
    /// # Behavior
    ///
    /// - Returns when a command can run.
    /// - A second call with the same id and request finds the first's sandbox
    ///   or fails with `conflict`; it never makes a second one.
    /// - An error leaves nothing behind.
    async fn create(&self, cx: &Context, request: &CreateRequest) -> Result<Observed>;

    /// Tells what a sandbox of this spec would be made from now: a text that
    /// changes when its image, its directories or what it sees of the host are
    /// others than before. `spec` was admitted.
    async fn origin(&self, cx: &Context, spec: &SandboxSpec) -> Result<String>;

    /// Gives a sandbox that waits (`CreateRequest::waits`) to whoever claimed it.
    ///
    /// # Behavior
    ///
    /// - The variables are those of every later command, whoever runs it; then
    ///   end and lifetime are set together.
    /// - A sandbox is claimed once, by the process that made it. One that stands
    ///   still, has ended, or does not answer is not claimed.
    ///
    /// # Errors
    ///
    /// `sandbox_gone`, `not_found` and `unavailable` for one that ended or does not
    /// answer; `conflict` for one that stands still or does not wait;
    /// `unsupported` where the agent inside is older. After an error the sandbox
    /// is fit for a destroy alone.
    async fn claim(&self, cx: &Context, id: &SandboxId, request: &ClaimRequest) -> Result<()>;

    /// Tells what is there. An id without a sandbox is `not_found` or `sandbox_gone`.
    async fn inspect(&self, cx: &Context, id: &SandboxId) -> Result<Observed>;

    /// Lists the sandboxes of this provider's instance in the order of their
    /// ids, at most `limit` after `after`.
    async fn list(
        &self,
        cx: &Context,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<Observed>>;

    /// Moves the end of a sandbox's life; `None` removes it. The timer needs
    /// no living host process where the capability `ttl` is enforced.
    async fn set_deadline(
        &self,
        cx: &Context,
        id: &SandboxId,
        ends: Option<SystemTime>,
    ) -> Result<()>;

    /// Has a sandbox end with this process, whatever ends that, or with none.
    ///
    /// # Behavior
    ///
    /// - It ends with the last process that asked for `Attached`, and with no other any
    ///   more: not with the one that made it. `Detached` leaves it to its end, which stays
    ///   where it is.
    /// - Asking again is success.
    ///
    /// # Errors
    ///
    /// `unsupported` without the capability `attached_lifetime`; `conflict` for one that
    /// waits to be claimed.
    async fn set_lifetime(&self, cx: &Context, id: &SandboxId, lifetime: Lifetime) -> Result<()>;

    /// Stops every process. Pausing a paused sandbox is success.
    async fn pause(&self, cx: &Context, id: &SandboxId) -> Result<()>;

    /// Lets the processes go on. Resuming a running sandbox is success.
    async fn resume(&self, cx: &Context, id: &SandboxId) -> Result<()>;

    /// Ends a sandbox and returns when nothing of it is left. An absent one is success.
    async fn destroy(&self, cx: &Context, id: &SandboxId) -> Result<()>;

    /// Starts a command.
    ///
    /// # Errors
    ///
    /// `command_not_found`, `command_not_executable`, `not_found` (workdir or
    /// user), `resource_exhausted`: nothing ran.
    async fn exec(&self, cx: &Context, id: &SandboxId, spec: &ExecSpec) -> Result<ExecSession>;

    /// Follows a command that runs or has ended and is remembered.
    async fn attach(
        &self,
        cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        options: AttachOptions,
    ) -> Result<ExecSession>;

    /// Reads what is kept of a command's output, while it runs or afterwards.
    ///
    /// # Behavior
    ///
    /// - Nobody is disturbed: the command waits for no such reader, and its
    ///   follower goes on.
    /// - Output comes in about the order in which it was written; what is not
    ///   kept any more is counted as [`ExecEvent::Lost`].
    /// - The last event is [`ExecEvent::Exited`]. Where the command runs and
    ///   is not followed, the stream ends without it.
    ///
    /// # Errors
    ///
    /// `not_found`; `unsupported` where the agent inside is older.
    async fn read_log(
        &self,
        cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        options: LogOptions,
    ) -> Result<BoxStream<Result<ExecEvent>>>;

    /// Lists commands: those that run, those with survivors, those remembered.
    async fn list_execs(&self, cx: &Context, id: &SandboxId) -> Result<Vec<ExecInfo>>;

    /// Sends a signal to a command that the caller need not follow.
    async fn signal_exec(
        &self,
        cx: &Context,
        id: &SandboxId,
        exec: &ExecId,
        signal: i32,
        scope: SignalScope,
    ) -> Result<()>;

    /// Does a file operation without data.
    async fn file(&self, cx: &Context, id: &SandboxId, request: &FileRequest) -> Result<FileReply>;

    /// Reads a file: what it is, and its bytes.
    async fn read_file(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &ReadRequest,
    ) -> Result<(FileEntry, ByteStream)>;

    /// Writes a file from a stream and tells what is there then. An error of
    /// `data` or a dropped future leaves the old file.
    async fn write_file(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &WriteRequest,
        data: ByteStream,
    ) -> Result<FileEntry>;

    /// Reports changes below a path; returns once every later change is seen.
    async fn watch(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &WatchRequest,
    ) -> Result<BoxStream<Result<WatchEvent>>>;

    /// Sends a path as a tar stream.
    async fn export_tar(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &ExportRequest,
    ) -> Result<Archive>;

    /// Unpacks a tar stream.
    async fn import_tar(
        &self,
        cx: &Context,
        id: &SandboxId,
        request: &ImportRequest,
        data: ByteStream,
    ) -> Result<()>;

    /// Connects to a TCP port inside, without any network of the sandbox.
    async fn dial(&self, cx: &Context, id: &SandboxId, port: u16) -> Result<Connection>;

    /// Listens on a TCP port inside; 0 lets the agent choose.
    async fn listen(&self, cx: &Context, id: &SandboxId, port: u16) -> Result<PortListener>;

    /// Tells where others reach a port of the sandbox.
    async fn endpoint(&self, cx: &Context, id: &SandboxId, port: u16) -> Result<Endpoint>;

    /// Lists the processes inside; stacyvm's own are left out.
    async fn processes(&self, cx: &Context, id: &SandboxId) -> Result<Vec<ProcessInfo>>;

    /// Tells what the sandbox uses.
    async fn usage(&self, cx: &Context, id: &SandboxId) -> Result<Usage>;

    /// Saves a sandbox under an id that the caller minted; restoring is a
    /// create from that snapshot.
    async fn snapshot(
        &self,
        cx: &Context,
        id: &SandboxId,
        snapshot: &SnapshotId,
    ) -> Result<SnapshotInfo>;

    /// Deletes a snapshot. An absent one is success.
    async fn delete_snapshot(&self, cx: &Context, snapshot: &SnapshotId) -> Result<()>;

    /// Lists what is on the host, whether somebody accounts for it or not.
    /// Changes nothing.
    async fn leftovers(&self, cx: &Context, reach: Reach) -> Result<Vec<Leftover>>;

    /// Removes one that [`leftovers`](Self::leftovers) lists, after looking
    /// again. An absent one is success.
    ///
    /// # Errors
    ///
    /// `conflict` where its owner lives; `unsupported` for a kind that only
    /// its remedy removes.
    async fn remove_leftover(&self, cx: &Context, id: &str) -> Result<()>;

    /// Tells what takes room on the disk.
    async fn disk_use(&self, cx: &Context) -> Result<Vec<DiskUse>>;

    /// Removes what nobody needs, and tells what it was and what it took. What
    /// cannot be removed keeps nothing else from being removed.
    async fn tidy(&self, cx: &Context, request: &TidyRequest) -> Result<Tidied>;
}

/// Names a provider and its runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderInfo {
    /// The provider's name, as configured: `oci`, `docker`, ...
    pub name: String,
    /// The runtime below it: `stacyvm`, `runc`, `runsc`, ...
    pub runtime: String,
    /// The versions that matter, by name.
    pub versions: BTreeMap<String, String>,
}

impl ProviderInfo {
    /// A provider of which no version matters.
    pub fn new(name: impl Into<String>, runtime: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            runtime: runtime.into(),
            versions: BTreeMap::new(),
        }
    }
}

/// Whether a host can run a provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Whether a create is expected to succeed.
    pub usable: bool,
    /// What was found, in the order it was looked for.
    pub findings: Vec<Finding>,
}

/// One thing found on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at: `user_namespaces`, `overlay`, `daemon`, ... A capability
    /// is named as it is, so that who is refused for it learns why.
    pub subject: String,
    /// Whether it is as needed.
    pub fine: bool,
    /// What was seen.
    pub seen: String,
    /// What to do about it; empty where nothing is to be done.
    pub remedy: String,
}

/// A sandbox to make.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    /// The id that the caller minted.
    pub id: SandboxId,
    /// The store under which it is made; part of its ownership.
    pub instance: InstanceId,
    /// What it should be, admitted and filled in.
    pub spec: SandboxSpec,
    /// Whether `spec.resources.open_files` is the profile's wish: where less can be
    /// had, less is given and told. What the caller asked for is refused then.
    pub open_files_preferred: bool,
    /// When its life ends, from the spec's TTL.
    pub ends: Option<SystemTime>,
    /// The values of the spec's secrets, by variable. Never stored.
    pub secrets: Secrets,
    /// Whether it is made ahead and waits for a [claim](Provider::claim). Idleness
    /// does not end it until then.
    pub waits: bool,
}

/// What a sandbox that waited becomes.
#[derive(Clone, Debug, Default)]
pub struct ClaimRequest {
    /// Variables of every later command, secrets among them. Never stored.
    pub env: Secrets,
    /// When its life ends; no end if none.
    pub ends: Option<SystemTime>,
    /// Whether it ends with its owner from here on.
    pub lifetime: Lifetime,
}

/// Values that cannot be printed.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<String, String>);

impl Secrets {
    /// Takes values by variable name.
    pub fn new(values: BTreeMap<String, String>) -> Self {
        Self(values)
    }

    /// Lends the values to the one who hands them to the sandbox.
    pub fn expose(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} redacted]", self.0.len())
    }
}

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

/// A connection to or from a port inside.
pub type Connection = Box<dyn Duplex>;

/// A port inside that is listened on. Dropping it closes the port.
pub struct PortListener {
    /// The port.
    pub port: u16,
    /// The connections that programs inside make to it.
    pub incoming: BoxStream<Result<Connection>>,
}

impl Debug for PortListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortListener")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// Where a port of a sandbox is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// A host name or address with a port, or a URL.
    pub address: String,
    /// Headers that a caller must send.
    pub headers: BTreeMap<String, String>,
}

impl Endpoint {
    /// The address as a URL: of HTTP, unless it says another one.
    pub fn url(&self) -> String {
        if self.address.contains("://") {
            self.address.clone()
        } else {
            format!("http://{}", self.address)
        }
    }
}

/// A saved sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its id.
    pub id: SnapshotId,
    /// Whether the memory was saved too.
    pub memory: bool,
    /// Bytes that it takes.
    pub size_bytes: Option<u64>,
}
