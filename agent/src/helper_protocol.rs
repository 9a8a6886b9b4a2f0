//! What a host says to the helper of an embedded sandbox.
//!
//! The host that starts a helper holds the other end of its standard input, a
//! `SOCK_SEQPACKET` pair: the *owner channel*. One packet is one [`ToHelper`]
//! or [`FromHelper`]; descriptors travel with it.
//!
//! Any host process reaches the helper later through the stream socket
//! [`SOCKET_NAME`] in the sandbox's directory. Its first eight bytes choose:
//! [`REQUEST_AGENT`] makes the rest of the stream a connection to the agent
//! inside; after [`REQUEST_MONITOR`] each side sends frames of a
//! little-endian `u32` length and a CBOR [`MonitorRequest`] or [`FromHelper`].

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::protocol::message::AgentConfig;

/// The generation of this protocol.
pub const GENERATION: u32 = 2;
/// The largest packet or frame.
pub const MAX_PACKET: usize = 192 * 1024;
/// How many files a command may open at most where the helper may raise its own
/// limit: what `fs.nr_open` is by default.
pub const MOST_OPEN_FILES: u64 = 1 << 20;
/// Whose files root inside makes in what is the host's: those of `nobody`, as
/// file servers do.
pub const NOBODY: u32 = 65_534;
/// The user and group of a sandbox that has no other.
pub const SINGLE_USER: u32 = 1000;
/// How many users and groups a range has.
pub const RANGE: u32 = 65_536;
/// The static program carries these bytes: a process is stacyvm's where its
/// executable does, whatever its title.
pub const PROGRAM_MARK: &[u8] = b"stacyvm static program 7f1c2a90-3f0e";
/// The socket in a sandbox's directory.
pub const SOCKET_NAME: &str = "helper.sock";
/// The file in a sandbox's directory that a living helper holds locked.
pub const LOCK_NAME: &str = "helper.lock";
/// Its name before it is taken.
pub const NEW_LOCK_NAME: &str = "helper.lock.new";
/// The file in a sandbox's directory that names what lies outside of it: one
/// line `KIND<tab>NAME` for each (`cgroup` and an absolute path, `loop` and a
/// device), written before it is made; one without its end names nothing that
/// was made. Killing what is in the cgroups and
/// removing them and the directory takes down any sandbox, as a runtime's own
/// state is kept in the directory.
pub const LEDGER_NAME: &str = "ledger";
/// The agent in a bundle's root.
pub const BUNDLE_AGENT: &str = "/.stacyvm/stacyvm-agent";
/// The sandbox's `/tmp` beside a bundle's root, where the runtime has a kernel
/// of its own.
pub const BUNDLE_TMP: &str = "tmp";
/// The first bytes of a stream to the agent.
pub const REQUEST_AGENT: [u8; 8] = *b"SVMagen1";
/// The first bytes of a stream of monitor requests.
pub const REQUEST_MONITOR: [u8; 8] = *b"SVMmoni1";

/// A view of the host has `/usr` and these below the host's root: links are made again, directories shown.
pub const HOST_TOP: [&str; 5] = ["bin", "sbin", "lib", "lib64", "lib32"];
/// Stores of packages that replace `/usr` on some hosts; shown where they are.
pub const HOST_STORES: [&str; 2] = ["/nix/store", "/gnu/store"];
/// Of the host's /etc: what programs need and what tells nothing of its users.
pub const HOST_ETC: [&str; 13] = [
    "alternatives",
    "ca-certificates",
    "fonts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "pki",
    "protocols",
    "services",
    "ssl/certs",
];

/// From the owner to the helper.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum ToHelper {
    /// Get ready without knowing the sandbox; comes first, with the directory
    /// in which sandboxes have theirs. A second descriptor is a file whose lock
    /// gives the sandbox its range of ids: it is kept open as long as anything
    /// of the sandbox is there, has the ledger's lines as its content, and is
    /// empty when nothing is left.
    #[n(0)]
    Park(#[n(0)] Park),
    /// Make the sandbox; with the descriptors that it names, in its order.
    #[n(1)]
    Launch(#[n(0)] Box<Launch>),
    /// Watch over the sandbox.
    #[n(2)]
    Monitor(#[n(0)] MonitorRequest),
    /// The sandbox no longer ends with the owner channel. Not answered.
    #[n(3)]
    Detach,
    /// Comes first, instead of all else, with the directory; answered by
    /// [`FromHelper::Done`], after which the helper ends.
    #[n(4)]
    Remove(#[n(0)] Remove),
    /// Comes first, instead of all else, with a file of the helper's own user;
    /// answered as [`ToHelper::Remove`].
    #[n(5)]
    GiveAway(#[n(0)] GiveAway),
    /// A sandbox that waited is somebody's from here on; answered by
    /// [`FromHelper::Done`]. One that stands still is not given away.
    #[n(6)]
    Claim(#[n(0)] Claim),
    /// Comes first, instead of all else, with a lock that is kept for as long as the
    /// helper works, and three descriptors for each layer: its directory, an empty one
    /// for its copy, and its record of owners; answered as [`ToHelper::Remove`].
    #[n(7)]
    MapLayers(#[n(0)] MapLayers),
}

/// What a sandbox that waited becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Claim {
    /// Milliseconds from now until it ends; absent means no end.
    #[n(0)]
    pub ends_in_ms: Option<u64>,
    /// Whether it no longer ends with the owner channel.
    #[n(1)]
    pub detach: bool,
}

/// Makes what every sandbox needs: its directory, cgroups and namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Park {
    /// The sender's [`GENERATION`].
    #[n(0)]
    pub generation: u32,
    /// The name of the directory and of the cgroups until a launch renames them.
    #[n(1)]
    pub name: String,
    /// Who users inside are outside.
    #[n(2)]
    pub users: Users,
    /// Whether the launch will bring a [`Bundle`]: then cgroups and namespaces
    /// are its runtime's to make, and needed is a private range of ids.
    #[n(3)]
    #[cbor(default)]
    pub bundle: bool,
    /// Whether the last descriptor is the agent's program, because the helper's own
    /// file can be read by others; else that file is.
    #[n(4)]
    #[cbor(default)]
    pub program: bool,
}

/// Who the users and groups of a sandbox are on the host.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Users {
    /// A range of the sandbox's own, which needs root.
    #[n(0)]
    Private {
        /// The first uid and gid of 65536.
        #[n(0)]
        first: u32,
    },
    /// A range that the host's administrator gave the helper's user, shared by
    /// all sandboxes of that user.
    #[n(1)]
    Delegated(#[n(0)] Delegated),
    /// The helper's own user and group, as [`SINGLE_USER`] inside, and no other.
    #[n(2)]
    Single,
}

/// A range of `/etc/subuid` and one of `/etc/subgid`, of 65536 each.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Delegated {
    /// The first uid.
    #[n(0)]
    pub first_uid: u32,
    /// The first gid.
    #[n(1)]
    pub first_gid: u32,
    /// Which user and group inside is the helper's own instead of one of the
    /// range; absent keeps the helper's own out of the sandbox.
    #[n(2)]
    pub own: Option<u32>,
    /// The absolute path of `newuidmap`, which may map the range.
    #[n(3)]
    pub newuidmap: String,
    /// The same of `newgidmap`.
    #[n(4)]
    pub newgidmap: String,
}

/// Takes away what a helper that was killed left, where it has other owners
/// than the user who does it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Remove {
    /// The sender's [`GENERATION`].
    #[n(0)]
    pub generation: u32,
    /// What is removed of the directory that comes along, with all below it.
    #[n(1)]
    pub name: String,
    /// Whose files it has.
    #[n(2)]
    pub users: Users,
}

/// Makes a file the agent's program for sandboxes that have the helper's own
/// user inside. It gets an owner and a group of the range, one of which is
/// nobody inside: a sandbox where the own user is root lacks the last of the
/// range, one where it is [`SINGLE_USER`] lacks that.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GiveAway {
    /// The sender's [`GENERATION`].
    #[n(0)]
    pub generation: u32,
    /// The range.
    #[n(1)]
    pub users: Users,
}

/// Copies layers of the helper's own user, and gives the files of the copies the
/// owners, the set-id bits and the Linux capabilities that the image names.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct MapLayers {
    /// The sender's [`GENERATION`].
    #[n(0)]
    pub generation: u32,
    /// Who the users of the sandboxes are that will have the copies.
    #[n(1)]
    pub users: Users,
    /// The user and group inside whose files have no set-id bits: whoever executes
    /// one would become the agent.
    #[n(2)]
    pub reserved: u32,
}

/// A sandbox.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Launch {
    /// Its id: the name of its directory.
    #[n(0)]
    pub id: String,
    /// Kept for whoever inspects it; not read.
    #[n(1)]
    pub record: ByteVec,
    /// Its root.
    #[n(2)]
    pub root: Root,
    /// Whether the root cannot be written; `/tmp`, `/workspace`, `/run` and
    /// `/var/tmp` still can. A view of the host never can, but for `/tmp`,
    /// `/home`, `/workspace`, `/run` and `/var`.
    #[n(3)]
    pub read_only_root: bool,
    /// In the order in which they are made.
    #[n(4)]
    pub mounts: Vec<Mount>,
    /// Limits.
    #[n(5)]
    pub limits: Limits,
    /// The name that the sandbox has for itself.
    #[n(6)]
    pub hostname: String,
    /// The content of `/etc/resolv.conf`.
    #[n(7)]
    pub resolv_conf: String,
    /// Milliseconds until it ends.
    #[n(8)]
    pub ends_in_ms: Option<u64>,
    /// What its agent is told.
    #[n(9)]
    pub agent: AgentConfig,
    /// Whether the last descriptor is a connection for the agent.
    #[n(10)]
    pub connection: bool,
    /// Has a runtime make the sandbox, from a bundle whose root is [`root`](Self::root).
    #[n(11)]
    pub bundle: Option<Bundle>,
    /// How many descriptors come behind those of the mounts that are locks of
    /// volumes and of an image. The helper keeps them open until nothing of the
    /// sandbox runs.
    #[n(12)]
    #[cbor(default)]
    pub volume_locks: u32,
    /// Whether it waits for a [`Claim`]: until then idleness does not end it.
    #[n(13)]
    #[cbor(default)]
    pub waits: bool,
    /// What is in the directory of [`Root::Layers`].
    #[n(14)]
    #[cbor(default)]
    pub layers: Layers,
}

/// The layers of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Layers {
    /// The layers, the topmost first: paths below the directory of all.
    #[n(0)]
    pub lower: Vec<String>,
    /// Directories that show the attributes of a layer which has none for them.
    #[n(1)]
    #[cbor(default)]
    pub restored: Vec<RestoredDirectory>,
    /// Whether the files belong to whoever unpacked them, whatever the image says.
    #[n(2)]
    #[cbor(default)]
    pub unowned: bool,
}

/// A directory, and the attributes that it is to have.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RestoredDirectory {
    /// Its path in the root, without a slash in front.
    #[n(0)]
    pub path: ByteVec,
    /// Permission bits.
    #[n(1)]
    pub mode: u32,
    /// Who owns it inside; absent where it stays as it is.
    #[n(2)]
    pub owner: Option<Owner>,
}

/// A user and a group, as they are inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Owner {
    /// The user.
    #[n(0)]
    pub uid: u32,
    /// The group.
    #[n(1)]
    pub gid: u32,
}

/// What an OCI runtime is told beyond a root.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Bundle {
    /// The absolute path of the runtime's binary.
    #[n(0)]
    pub runtime: String,
    /// The content of `config.json`. Its root is [`Root::in_bundle`], its process
    /// [`BUNDLE_AGENT`], its cgroups' path `/stacyvm/` and the sandbox's id.
    #[n(1)]
    pub config: String,
    /// Whether the runtime is gVisor's `runsc`: the first process that it
    /// names is a kernel of its own, and the agent runs in that.
    #[n(2)]
    #[cbor(default)]
    pub own_kernel: bool,
}

impl Launch {
    /// Whether any mount does, by [`Mount::writes_to_host`].
    pub fn writes_to_host(&self) -> bool {
        self.mounts.iter().any(Mount::writes_to_host)
    }

    /// Whether root's programs get Linux capabilities inside, and set-id programs
    /// of the root theirs. The agent is told the same.
    pub fn has_namespaced_root(&self) -> bool {
        self.agent.has_namespaced_root()
    }
}

/// What a root is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Root {
    /// A view of the host's system directories.
    #[n(0)]
    Host,
    /// The directory that is the first descriptor, with a writable layer.
    #[n(1)]
    Directory,
    /// The layers of an image below the directory that is the first descriptor,
    /// with a writable layer.
    #[n(2)]
    Layers,
}

impl Root {
    /// Whether it is made of what a descriptor names.
    pub fn is_given(self) -> bool {
        match self {
            Self::Host => false,
            Self::Directory | Self::Layers => true,
        }
    }

    /// The root in a bundle's directory.
    pub fn in_bundle(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Directory | Self::Layers => "root",
        }
    }
}

/// Something added to the root.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Mount {
    /// Where, absolute; resolved inside the root, made if missing.
    #[n(0)]
    pub target: String,
    /// What.
    #[n(1)]
    pub source: MountSource,
    /// Whether it can be written.
    #[n(2)]
    pub writable: bool,
    /// Whether others on the host use it too. Root inside is [`NOBODY`] in it, and
    /// if it can be written the whole sandbox makes no set-id bits.
    #[n(3)]
    #[cbor(default)]
    pub of_host: bool,
}

impl Mount {
    /// Whether it is a directory of the host that others use too.
    pub fn is_of_host(&self) -> bool {
        self.of_host && self.source == MountSource::Host
    }

    /// Whether what a sandbox writes there is at once the host's.
    pub fn writes_to_host(&self) -> bool {
        self.is_of_host() && self.writable
    }
}

/// What is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum MountSource {
    /// The next descriptor: a file or directory of the host.
    #[n(0)]
    Host,
    /// Memory.
    #[n(1)]
    Tmpfs {
        /// Bytes.
        #[n(0)]
        bytes: u64,
    },
}

/// Limits; what is absent is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Limits {
    /// Bytes of memory; swap is off.
    #[n(0)]
    pub memory_bytes: Option<u64>,
    /// Thousandths of a processor.
    #[n(1)]
    pub cpu_millis: Option<u64>,
    /// Processes and threads.
    #[n(2)]
    pub pids: Option<u32>,
    /// Bytes that the sandbox may write to disk.
    #[n(3)]
    pub disk_bytes: Option<u64>,
}

/// Watches over a sandbox that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum MonitorRequest {
    /// Answered by [`FromHelper::Report`].
    #[n(0)]
    Inspect,
    /// Answered by [`FromHelper::Usage`].
    #[n(1)]
    Usage,
    /// Moves the end; answered by [`FromHelper::Done`].
    #[n(2)]
    SetDeadline {
        /// Milliseconds from now; absent means none.
        #[n(0)]
        in_ms: Option<u64>,
    },
    /// Stops every process; answered by [`FromHelper::Done`].
    #[n(3)]
    Pause,
    /// Lets them go on; answered by [`FromHelper::Done`].
    #[n(4)]
    Resume,
    /// Ends it; answered by [`FromHelper::Ended`] when nothing is left.
    #[n(5)]
    Destroy,
    /// Answered by [`FromHelper::Ended`] when it has ended and nothing is left.
    #[n(6)]
    Subscribe,
    /// Whether the sandbox ends with the connection on which this comes, and with the
    /// process that made that; with no other from here on. Answered by
    /// [`FromHelper::Done`]. A sandbox that waits to be claimed stays its owner's.
    #[n(7)]
    SetAttached {
        /// Else it ends with nobody.
        #[n(0)]
        attached: bool,
    },
}

/// From the helper.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FromHelper {
    /// Ready for a launch.
    #[n(0)]
    Parked,
    /// Commands can run.
    #[n(1)]
    Started(#[n(0)] Report),
    /// What is known of the sandbox.
    #[n(2)]
    Report(#[n(0)] Report),
    /// What it uses.
    #[n(3)]
    Usage(#[n(0)] Usage),
    /// Done as asked.
    #[n(4)]
    Done,
    /// The sandbox ended and nothing of it is left, except what is named.
    #[n(5)]
    Ended(#[n(0)] Ended),
    /// It could not be done.
    #[n(6)]
    Failed(#[n(0)] Failed),
}

/// What is known of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Report {
    /// The record given at launch.
    #[n(0)]
    pub record: Option<ByteVec>,
    /// The process number of its first process, on the host.
    #[n(1)]
    pub pid: u32,
    /// When it was launched, in milliseconds since the epoch.
    #[n(2)]
    pub started_ms: u64,
    /// Milliseconds until it ends.
    #[n(3)]
    pub ends_in_ms: Option<u64>,
    /// Whether its processes stand still.
    #[n(4)]
    pub paused: bool,
    /// What holds, by name, with its value. What is absent does not hold.
    #[n(5)]
    pub in_force: Vec<InForce>,
    /// The process number of the helper, on the host.
    #[n(6)]
    pub helper_pid: u32,
    /// Milliseconds until it ends unless it is used; absent while it is in use,
    /// and where idleness does not end it.
    #[n(7)]
    pub idle_ends_in_ms: Option<u64>,
}

/// Something that the kernel holds against the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct InForce {
    /// `memory_limit`, `seccomp`, ...
    #[n(0)]
    pub name: String,
    /// For people.
    #[n(1)]
    pub value: String,
}

/// What a sandbox uses; absent where the host cannot tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Usage {
    /// Bytes of memory charged.
    #[n(0)]
    pub memory_bytes: Option<u64>,
    /// The most so far.
    #[n(1)]
    pub memory_peak_bytes: Option<u64>,
    /// Processor time in microseconds.
    #[n(2)]
    pub cpu_us: Option<u64>,
    /// Processes and threads.
    #[n(3)]
    pub pids: Option<u32>,
    /// Processes killed for lack of memory.
    #[n(4)]
    pub oom_kills: Option<u64>,
}

/// Why a sandbox ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum EndCause {
    /// A host asked for it.
    #[n(0)]
    Destroyed,
    /// Its owner is gone.
    #[n(1)]
    OwnerGone,
    /// Its time is over.
    #[n(2)]
    Deadline,
    /// Its agent was killed for lack of memory.
    #[n(3)]
    OutOfMemory,
    /// Its agent ended.
    #[n(4)]
    AgentGone,
    /// Its agent asked for it.
    #[n(5)]
    AgentAsked,
    /// Its helper was told to stop by a signal.
    #[n(6)]
    HelperStopped,
    /// It was not in use for as long as it may be.
    #[n(7)]
    Idle,
}

/// A sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ended {
    /// Why.
    #[n(0)]
    pub cause: EndCause,
    /// What could not be removed, for people; empty as a rule.
    #[n(1)]
    pub left: Vec<String>,
}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum FailedKind {
    /// Anything else.
    #[n(0)]
    Internal,
    /// The request makes no sense.
    #[n(1)]
    Invalid,
    /// The id is in use.
    #[n(2)]
    Conflict,
    /// This host cannot do it.
    #[n(3)]
    Unsupported,
    /// The sandbox is ending.
    #[n(4)]
    Gone,
}

/// Something failed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Failed {
    /// What kind.
    #[n(0)]
    pub kind: FailedKind,
    /// What failed, lowercase, without a full stop.
    #[n(1)]
    pub message: String,
    /// The system's error number, where there was one.
    #[n(2)]
    pub errno: Option<i32>,
    /// What of the request its caller can change.
    #[n(3)]
    pub field: Option<Box<Field>>,
}

/// The field of a root, whose value only the host knows.
pub const FIELD_IMAGE: &str = "image";

/// A part of a spec that cannot be as it is, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Field {
    /// Its name in the spec, such as `mounts[0].target`.
    #[n(0)]
    pub name: String,
    /// What it is.
    #[n(1)]
    pub value: String,
    /// What was expected.
    #[n(2)]
    pub expected: String,
    /// What to do about it.
    #[n(3)]
    pub remedy: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::{decode, encode};

    #[test]
    fn a_packet_survives_the_round_trip_and_hostile_bytes_do_not_panic() {
        let park = ToHelper::Park(Park {
            generation: GENERATION,
            name: "parked-1".into(),
            users: Users::Private { first: 100_000 },
            bundle: true,
            program: false,
        });
        let bytes = encode(&park);
        assert_eq!(decode::<ToHelper>(&bytes).unwrap(), park);
        for cut in 0..bytes.len() {
            assert!(decode::<ToHelper>(&bytes[..cut]).is_err());
        }
        let ended = FromHelper::Ended(Ended {
            cause: EndCause::Deadline,
            left: vec!["cgroup".into()],
        });
        assert_eq!(decode::<FromHelper>(&encode(&ended)).unwrap(), ended);
    }
}
