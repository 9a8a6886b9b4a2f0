//! Ports, the process table and what a sandbox uses.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

/// A TCP port inside the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PortRequest {
    /// The port; 0 with [`crate::protocol::Kind::Listen`] lets the agent choose.
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
    /// The stream of the [`crate::protocol::Kind::Listen`].
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
